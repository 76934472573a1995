"""What a study leaves behind: tables and figures in its folder, and a summary on the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.claims import Claim, Verdict, Verdicts, claims
from analysis.figures import FIGURES
from analysis.load import Study, load
from analysis.pareto import OBJECTIVES, Front, front, fronts_by
from gimtune.store import Value
from gimtune.vocabulary import Status

#: Metrics shown beside the objectives where the terminal has this many columns; pareto.csv has them all.
_WIDE = 110
_CONTEXT = ("fid_floor", "fid_expost", "mi", "mi_lower", "restriction")
_FAILURES = 20
_COLOURS = {Verdict.HOLDS: "green", Verdict.DOES_NOT_HOLD: "red", Verdict.UNDECIDED: "dim"}


def export(
    run: Study | Path | str,
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    only: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Write a study's tables and figures into its folder, each whole or not at all; return their paths.

    ``trials.parquet`` is written even if the front is refused, and ``claims.csv`` has the verdicts' numbers in words.

    Raises:
        ValueError, OSError: as `load` and `front`, or the folder cannot be written.
    """
    study = run if isinstance(run, Study) else load(run)
    paths = {name: study.run / name for name in ("trials.parquet", "pareto.csv", "claims.csv")}
    table, csv, answers = paths.values()
    _write(table, lambda part: study.trials.to_parquet(part, index=False))
    best = front(study.trials, objectives, only=only)
    _write(csv, lambda part: best.rows.to_csv(part, index=False))
    verdicts = _verdicts(study, only)
    _write(answers, lambda part: verdicts.table().to_csv(part, index=False))
    paths |= _export_figures(best, study.run)
    return paths


def _export_figures(best: Front, run: Path) -> dict[str, Path]:
    """Each of `FIGURES` that the study has, as PNG and PDF, and as a page beside plotly's script."""
    paths = {}

    def written(name: str, write: Callable[[Path], object]) -> None:
        paths[f"figures/{name}"] = run / "figures" / name
        _write(run / "figures" / name, write)

    for name, kind in FIGURES.items():
        if (figure := kind.static(best, run)) is not None:
            for suffix in ("png", "pdf"):
                written(f"{name}.{suffix}", figure.savefig)
        if (drawn := kind.interactive(best, run)) is not None:
            page = drawn.to_html(
                include_plotlyjs="directory",
                include_mathjax=False,
                config={"displaylogo": False, "showSendToCloud": False},
            )
            written(f"{name}.html", partial(Path.write_text, data=page, encoding="utf-8"))
    script = get_plotlyjs()
    written("plotly.min.js", partial(Path.write_text, data=script, encoding="utf-8"))
    return paths


def _write(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def print_front(
    study: Study,
    console: Console,
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    only: Mapping[str, str] | None = None,
    paths: Mapping[str, Path] | None = None,
) -> None:
    """Print the front, its hypervolume, those by model and by prior, what was left out, the verdicts and `paths`."""
    best = front(study.trials, objectives, only=only)
    console.print(_front_table(best, _CONTEXT if console.width >= _WIDE else ()))
    reference = ", ".join(f"{key} {_number(value)}" for key, value in best.reference.items())
    console.print(f"hypervolume {_number(best.hypervolume)} from the reference point {reference}", highlight=False)
    for by in ("model", "prior"):
        groups = fronts_by(study.trials, by, best.objectives, only=only)
        if len(groups) > 1:
            console.print(_group_table(by, groups, best))
    if accuracy := study.meta.get("classifier_test_accuracy"):
        console.print(f"FID features: {study.meta.get('fid_features')}, of test accuracy {accuracy}", highlight=False)
    left = ", ".join(f"{count} {_plain(reason)}" for reason, count in best.left_out.items()) or "none"
    console.print(Text(f"{len(best.points)} of {len(study.trials)} trials considered; left out: {left}"))
    failures = study.trials[study.trials["status"].isin([Status.FAILED, Status.DIVERGED])]
    if len(failures):
        console.print(_failure_table(failures))
    print_verdicts(_verdicts(study, only), console)
    for path in dict.fromkeys(p.parent if p.parent.name == "figures" else p for p in (paths or {}).values()):
        console.print(Text(str(path)), soft_wrap=True)


def print_verdicts(verdicts: Verdicts, console: Console) -> None:
    """Print the claims with their effects and intervals, or why there are none."""
    table = _table(f"Claims, on the {verdicts.split} split")
    table.add_column("")
    table.add_column("claim")
    table.add_column("verdict", no_wrap=True)
    for column in ("effect", f"{verdicts.level:.0%} interval", "configu-\nrations"):
        table.add_column(column, justify="right", no_wrap=True, overflow="fold")
    for claim in verdicts.claims:
        statement = Text(claim.statement)
        if pd.isna(claim.value):
            statement.append(f"\n{_plain(claim.note)}", style="dim")
        verdict = Text(claim.verdict, style=_COLOURS[claim.verdict])
        table.add_row(f"({claim.key[0]})", statement, verdict, *_interval(claim), str(claim.configurations))
    console.print(table)
    left = ", ".join(f"{count} {_plain(reason)}" for reason, count in verdicts.left_out.items()) or "none"
    total = f"{verdicts.trials} trials of {verdicts.configurations} configurations"
    console.print(Text(f"from {total}; left out: {left}"))


def _interval(claim: Claim) -> tuple[str, str]:
    if pd.isna(claim.value):
        return "-", "-"
    unit = " nats" if claim.unit == "nats" else ""
    return f"{claim.value:+.2f}{unit}", f"{claim.low:+.2f} to {claim.high:+.2f}"


def _verdicts(study: Study, only: Mapping[str, str] | None) -> Verdicts:
    """The same in every reading of the same study."""
    return claims(study.trials, np.random.default_rng(0), only=only)


def _front_table(best: Front, context: tuple[str, ...]) -> Table:
    title = f"Pareto front on the validation split: {len(best.rows)} of {len(best.points)} trials"
    table = _table(title + " (test: the same trials on the test split)")
    metrics = list(dict.fromkeys([*best.objectives, *context]))
    tests = [f"test_{key}" for key in best.objectives]
    rows = best.rows.reindex(
        columns=["trial", "model", "prior", "weight", "latent_dim", "seed", *metrics, *tests, "collapsed"]
    )
    for column in rows.columns[:-1]:
        text = column in ("trial", "model", "prior")
        table.add_column(column.replace("_", "\n"), justify="left" if text else "right", overflow="fold")
    for *cells, collapsed in rows.itertuples(index=False):
        shown = [Text(_number(cell)) for cell in cells]
        if collapsed:
            shown[1].append("\ncollapsed", style="bold red")
        table.add_row(*shown)
    return table


def _group_table(by: str, groups: Mapping[str, Front], best: Front) -> Table:
    table = _table(f"By {by}, from the same reference point")
    for column in (by, "trials", "own front", "of the common front", "collapsed", "hypervolume"):
        table.add_column(column, justify="left" if column == by else "right", overflow="fold")
    common = best.rows[by].fillna("unknown").value_counts()
    for name, own in sorted(groups.items(), key=lambda item: -item[1].hypervolume):
        collapsed = int(own.points["collapsed"].sum())
        counts = (len(own.points), len(own.rows), int(common.get(name, 0)), collapsed)
        table.add_row(Text(_plain(name)), *map(str, counts), _number(own.hypervolume))
    return table


def _failure_table(failures: pd.DataFrame) -> Table:
    more = f", the first {_FAILURES}" if len(failures) > _FAILURES else ""
    table = _table(f"Failed or diverged: {len(failures)}{more}")
    columns = ["trial", "model", "prior", "weight", "seed", "epoch", "status", "error"]
    for column in columns:
        table.add_column(column, overflow="fold")
    for cells in failures[columns].head(_FAILURES).itertuples(index=False):
        table.add_row(*(Text(_number(cell)) for cell in cells))
    return table


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), header_style="bold"
    )


def _number(value: Value) -> str:
    """Four digits of a number, ``-`` for none, and text as it is."""
    if pd.isna(value):
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"
    return _plain(value)


def _plain(value: object) -> str:
    """Text without what could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in str(value))
