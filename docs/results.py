"""Pages of the results: ``python docs/results.py`` makes claims and pages anew from what docs/keep.py kept of runs.

No number on them is typed. Tests hold pages, claims and rows equal.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
# the package that stands beside this script, not an installed copy
sys.path.insert(0, str(ROOT))

from gimtune.analysis.statistics.attainment import with_shares
from gimtune.analysis.statistics.claims import claims
from gimtune.analysis.statistics.verdicts import between
from gimtune.analysis.tables import CONTEXT, Table, front_table
from gimtune.analysis.text import number, rounded
from gimtune.results.pareto import front, log_distance
from gimtune.results.tally import edges, levelling, unlevelled

FOLDER = ROOT / "docs" / "results"
_ROWS = 40
#: Of what each has a weight of its own.
_APART = ["model", "prior", "latent_dim"]
_TITLES = {
    "digits_plateau": "Digits, at most 480 epochs",
    "digits_long": "Digits, at most 1,920 epochs",
    "cifar10": "CIFAR10, an exploration",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "latent_size": "Size of the code",
    "elbo_paper": "Rate and distortion on binarised MNIST",
    "iwae_paper": "A VAE of 50 codes on binarised MNIST",
    "infogan_paper": "InfoGAN's categories on MNIST",
}
#: What the pages say of a model at a weight, on the test split.
_SHOWN = {
    "test_fid": "FID",
    "test_fid_expost": "ex-post FID",
    "test_probe_codes": "probe on codes",
    "test_probe_means": "probe on means",
    "test_mi_noised": "mi noised, nats",
    "test_latent_js": "latent JS, nats",
    "test_data_js": "data JS, nats",
}
#: What pages of few configurations say besides, where it is known.
_BESIDES = {
    "test_restriction/posterior_kl": "rate, nats",
    "test_likelihood_x": "E[log p(x|z)], nats",
    "test_log_px": "log p(x), nats",
    "test_active_units": "active units",
    "test_code_accuracy": "categories' accuracy",
}
_FEW = 12


#: Figures that a page shows, with the sentence below each.
_FIGURES = {
    "front": "Members, and the front of all: up and to the left is better.",
    "sizes": "Each model by the size of its codes, at the weight of its best FID for each.",
    "courses": "The same two numbers while the members trained.",
    "weights_fid": "The FID along each model's weights.",
    "weights_probe_codes": "The probe's accuracy along each model's weights.",
    "information": "What the codes know of the images, against what a linear probe reads from them.",
    "rate_distortion": "Rate and distortion of the models whose rate is known.",
}


def configurations(points: pd.DataFrame) -> pd.DataFrame:
    """Of each model, prior, size of the code and weight the means over seeds, their errors (``..._se``), and ``seeds``.

    Seeds differ by what is measured with an error too, so that the error is at least that of the measurement, if it is
    known: two seeds may agree by chance. Where a configuration has one seed, it is that.
    """
    wanted = ["fid", *_SHOWN, *_BESIDES]
    measured = [key for key in wanted if key in points]
    errors = {f"{key}_se": points[f"{key}_se"] ** 2 for key in measured if f"{key}_se" in points}
    squared = points.assign(log_fid=log_distance(points["fid"]), **errors)
    groups = squared.groupby([*_APART, "weight"], observed=True)
    means = groups[[*measured, "log_fid"]].mean()
    means["seeds"] = groups.size()
    for key in measured:
        error, count = groups[key].std(), groups[key].count()
        if f"{key}_se" in errors:
            error = np.fmax(error, np.sqrt(groups[f"{key}_se"].mean()))
        means[f"{key}_se"] = error / np.sqrt(count)
    return means.reset_index()


def best_weights(means: pd.DataFrame) -> pd.DataFrame:
    """Of each model, prior and size of the code the weight of the best FID on the validation split, as claims do."""
    return means.loc[means.groupby(_APART)["log_fid"].idxmin()].sort_values("test_fid", ignore_index=True)


def judge(folder: Path) -> None:
    """Write a kept run's claims anew, from its rows: what they say at half of the budget needs reports, and stays.

    Where a search chose the members, which rows do not say, there are none to write.
    """
    path = folder / "claims.csv"
    before = pd.read_csv(path).set_index("key")
    if before["refused"].notna().any():
        return
    found = claims(pd.read_parquet(folder / "trials.parquet"), np.random.default_rng(0)).table()
    for column in ("at_half", "at_whole"):
        found[column] = [before[column].get(key) for key in found["key"]]
        found.loc[found["value"].isna() & found[column].notna(), column] = "not measured"
    found.to_csv(path, index=False)


class Kept:
    """A run of which the tables were kept."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.title = _TITLES.get(folder.name, folder.name.replace("_", " ").capitalize())
        self.trials = pd.read_parquet(folder / "trials.parquet")
        self.claims = pd.read_csv(folder / "claims.csv").set_index("key")
        self.facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        self.front = with_shares(front(self.trials, self.facts["objectives"]), np.random.default_rng(0))
        drawn = {path.stem for path in folder.glob("*.png")} - {"samples"}
        if unknown := sorted(drawn - {*_FIGURES}):
            raise ValueError(f"{self.name}: no sentence for {', '.join(unknown)}")
        self.pictures = {key: text for key, text in _FIGURES.items() if key in drawn}
        self.data = ", ".join(sorted(self.front.points["data"].unique()))
        points = self.front.points
        told = [levelling(self.trials), edges(points), starts(points), other_sizes(self.trials, points)]
        self.notes = [note for note in told if note]
        means = configurations(self.front.points)
        few = len(means) <= _FEW
        self.every = means if few else means.iloc[:0]
        known = [key for key in _BESIDES if key in self.every and self.every[key].notna().any()]
        self.shown = _SHOWN | {key: _BESIDES[key] for key in known}
        self.seeded = bool((means["seeds"] > 1).any())
        self.best = best_weights(means)
        self.sized = len({*means["latent_dim"]}) > 1
        self.published = means[means["weight"] == 1].sort_values("test_fid", ignore_index=True)

    def minutes(self) -> str:
        """From the start to the last report."""
        return f"{self.facts['seconds'] / 60:.0f} minutes"

    def seeds(self) -> int:
        """How many seeds a configuration has at most."""
        return int(self.best["seeds"].max())

    def claim(self, key: str) -> str:
        """A claim's verdict with its effect and interval, linked to its row; that says why there is none."""
        row = self.claims.loc[key]
        told = f"{row['verdict']} ({row['value']:+.2f}, {between(row['low'], row['high'])})"
        return f"[{'not measured' if pd.isna(row['value']) else told}]({self.name}/index.md#{anchor(key)})"

    def effect(self, key: str) -> str:
        """A claim's effect, linked to its row."""
        return f"[{self.claims.loc[key, 'value']:+.2f}]({self.name}/index.md#{anchor(key)})"

    def chance(self, key: str) -> str:
        """A claim's p-value after the correction."""
        return f"{self.claims.loc[key, 'p_adjusted']:.2g}"

    def positive(self, key: str) -> str:
        """In how many models a claim's effect is positive, and of how many, linked to its row."""
        (found,) = re.findall(r"positive in (\d+ of \d+) models", self.claims.loc[key, "note"])
        return f"[{found}]({self.name}/index.md#{anchor(key)})"

    def images(self, column: str) -> str:
        """A number that is the same in every row of the front's points."""
        (value,) = self.front.points[column].unique()
        return f"{value:,.0f}"

    def of(self, column: str, model: str, prior: str = "normal", digits: int = 3, size: int = 0) -> str:
        """A mean over seeds at the weight of the best FID, with its error, linked to its row.

        Args:
            size: of the code, where there are several.
        """
        row = self._best_of(model, prior, size)
        place = anchor(model, prior, *([str(size)] if size else []))
        return f"[{error_of(row, column, digits)}]({self.name}/index.md#{place})"

    def value(self, column: str, model: str, prior: str = "normal") -> float:
        """The same mean, bare."""
        return float(self._best_of(model, prior)[column])

    def ratio_of(self, above: str, below: str, model: str, prior: str = "normal") -> float:
        """Of two such means."""
        return self.value(above, model, prior) / self.value(below, model, prior)

    def ratio(self, above: str, below: str, model: str, prior: str = "normal") -> str:
        """The same with its error, as if those of the two were independent."""
        row = self._best_of(model, prior)
        share = self.ratio_of(above, below, model, prior)
        error = share * math.hypot(*(float(row[f"{key}_se"]) / float(row[key]) for key in (above, below)))
        return f"{share:.{max(0, -math.floor(math.log10(error)))}f} ± {rounded(error)}"

    def _best_of(self, model: str, prior: str, size: int = 0) -> pd.Series:
        if self.sized and not size:
            raise ValueError(f"{self.name} has codes of several sizes: say which")
        rows = self.best[(self.best["model"] == model) & (self.best["prior"] == prior)]
        return (rows[rows["latent_dim"] == size] if size else rows).iloc[0]

    def late(self) -> str:
        """How many models had a member that had not levelled off, and of how many."""
        return f"{len(unlevelled(self.trials))} of {self.trials['model'].nunique()}"

    def epochs(self) -> str:
        """How many its members were trained for."""
        low, high = (int(edge) for edge in (self.trials["epoch"].min(), self.trials["epoch"].max()))
        return f"{low}" if low == high else f"{low} to {high}"

    def curve(self, model: str, size: int, prior: str = "normal") -> list[dict[str, Any]]:
        """Along a model's weights the rate, the distortion and their sum, in nats, and the slope from the last weight.

        The slope is by how much the distortion rises for each nat of rate that is lost.

        Source: Alemi et al. 2018.
        """
        rows = self.every[(self.every["model"] == model) & (self.every["prior"] == prior)]
        rows = rows[rows["latent_dim"] == size].sort_values("weight")
        rate, distortion = rows["test_restriction/posterior_kl"], -rows["test_likelihood_x"]
        slope = distortion.diff() / -rate.diff()
        table = {"weight": rows["weight"], "rate": rate, "distortion": distortion, "slope": slope}
        return pd.DataFrame(table).assign(loss=rate + distortion).to_dict("records")

    def slopes(self, model: str, sizes: Sequence[int]) -> tuple[int, int]:
        """How many slopes of curves lie between the two weights, and of how many."""
        found = []
        for size in sizes:
            curve = self.curve(model, size)
            found += [b["weight"] >= b["slope"] >= a["weight"] for a, b in itertools.pairwise(curve)]
        return sum(found), len(found)

    def front_markdown(self) -> str:
        """The front's table."""
        return markdown(front_table(self.front, CONTEXT, most=_ROWS, shares=True))

    def verdict_rows(self) -> Iterator[Mapping[str, Any]]:
        """Of each claim what the page shows."""
        for key, row in self.claims.iterrows():
            known = not pd.isna(row["value"])
            yield {
                "anchor": anchor(str(key)),
                "statement": row["statement"],
                "verdict": row["verdict"],
                "effect": f"{row['value']:+.2f} ({row['unit']})" if known else "-",
                "such": between(row["low"], row["high"]) if known else "-",
                "these": between(row["seeds_low"], row["seeds_high"]) if known else "-",
                "p": number(row["p_adjusted"]),
                "models": row["models"],
                "note": row["note"],
            }

    def cells(self, rows: pd.DataFrame, *, weights: bool = False) -> Iterator[Mapping[str, Any]]:
        """Of each model, prior, size and weight its numbers as they are shown.

        Args:
            weights: a model has several rows, so that the weight is in their names.
        """
        for row in rows.to_dict("records"):
            cells = {key: error_of(row, key) if key in row else "-" for key in self.shown}
            apart = [str(row["latent_dim"])] * self.sized + [f"{row['weight']:g}"] * weights
            yield {**row, **cells, "anchor": anchor(row["model"], row["prior"], *apart)}

    def at(self, column: str, model: str, weight: float, prior: str = "normal", size: int = 0, digits: int = 3) -> str:
        """A mean over seeds at a weight, with its error, linked to its row: where all are on the page."""
        rows = self.every[(self.every["model"] == model) & (self.every["prior"] == prior)]
        rows = rows[(rows["weight"] == weight) & (rows["latent_dim"] == (size or rows["latent_dim"]))]
        if len(rows) != 1:
            raise ValueError(f"{self.name} has {len(rows)} configurations of {model} at {weight:g}")
        row, place = rows.iloc[0], anchor(model, prior, *([str(size)] if size else []), f"{weight:g}")
        return f"[{error_of(row, column, digits)}]({self.name}/index.md#{place})"


def starts(points: pd.DataFrame) -> str:
    """Where the models' Gaussian posteriors started: the default was not always what it is."""
    own = points[points["encoder"] == "gaussian"]
    found = pd.DataFrame({"model": own["model"], "start": [json.loads(text)["sigma_start"] for text in own["config"]]})
    by_start = found.groupby("start")["model"].unique()
    if by_start.empty:
        return ""
    listed = "; ".join(f"{start:g} for {', '.join(sorted(models))}" for start, models in by_start.items())
    return f"Gaussian posteriors started at a deviation of {listed}"


def other_sizes(trials: pd.DataFrame, points: pd.DataFrame) -> str:
    """Which models have codes of a size of their own, so that no front, table and claim has them."""
    apart = trials[~trials["latent_dim"].isin(points["latent_dim"]) & trials["latent_dim"].notna()]
    told = [
        f"{model}, {len(rows)} members with codes of {rows['latent_dim'].iloc[0]:g} dimensions"
        for model, rows in apart.groupby("model")
    ]
    head = "Not on the front, in the tables or in the claims below, which compare codes of one size"
    return f"{head}: {'; '.join(told)}" if told else ""


def anchor(*words: str) -> str:
    """What a row is called in its page."""
    return "-".join(("row", *words)).replace("_", "-").replace(" ", "-")


def error_of(row: Mapping[str, Any] | pd.Series, key: str, digits: int = 3) -> str:
    """A value with the standard error over seeds, where there is one."""
    value, error = float(row[key]), float(row[f"{key}_se"])
    if math.isnan(value):
        return "-"
    text = f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"
    return text if math.isnan(error) else f"{text} ± {rounded(error)}"


def markdown(table: Table) -> str:
    """A table as Markdown, with a mark's word beside its cell."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rows = [[" ".join((cell.text, *(f"*{mark.word}*" for mark in cell.marks))) for cell in row] for row in table.rows]
    rule = ["---:" if column.numeric else "---" for column in table.columns]
    return "\n".join([line([column.head for column in table.columns]), line(rule), *map(line, rows)])


def pages() -> dict[Path, str]:
    """The pages' texts, by path: one for each run that is kept, and what all of them say."""
    kept = {path.parent.name: Kept(path.parent) for path in sorted(FOLDER.glob("*/run.json"))}
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found = {
        FOLDER / name / "index.md": made.get_template("run.md.jinja").render(run=run) for name, run in kept.items()
    }
    for name in ("index", "published"):
        found[FOLDER / f"{name}.md"] = made.get_template(f"{name}.md.jinja").render(runs=kept)
    return {path: text.rstrip() + "\n" for path, text in found.items()}


def main() -> int:
    """Judge what is kept, and write all pages."""
    for path in FOLDER.glob("*/claims.csv"):
        judge(path.parent)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main() if len(sys.argv) == 1 else __doc__)
