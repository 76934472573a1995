"""Keep of a run what its page of results needs: ``python docs/keep.py RUN NAME`` fills docs/results/NAME.

``python docs/results.py`` then writes the pages.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
# the package that stands beside this script, not an installed copy
sys.path.insert(0, str(ROOT))

from gimtune.analysis.figures.gallery import figures_of
from gimtune.analysis.figures.views import sample
from gimtune.analysis.text import number
from gimtune.results.load import Study, load
from gimtune.results.pareto import Front, front
from gimtune.results.store import Store

FOLDER = ROOT / "docs" / "results"
#: Columns that say how a row came about at length, and which the run folder keeps.
_LONG = ("reasons", "estimators", "checkpoint", "pack")
#: Seconds of a member on average from which on its rows are kept, to be taken over in another sitting.
_DEAR = 60
#: Figures that are kept, where a study has them.
_FIGURES = (
    "front",
    "sizes",
    "courses",
    "weights_fid",
    "weights_probe_codes",
    "information",
    "rate_distortion",
)


def keep(run: Path, name: str) -> Path:
    """Keep what a page needs of a run: a few hundred kilobytes; return the page's folder.

    Raises:
        FileNotFoundError, ValueError: as `load` and `front`; the report must have been written.
    """
    study, folder = load(run), FOLDER / name
    # what is kept of an earlier sitting is told of before it is written over
    best, facts = front(study.trials, study.objectives), _facts(study)
    folder.mkdir(parents=True, exist_ok=True)
    trials = study.trials.drop(columns=[*_LONG], errors="ignore")
    trials["config"] = trials["config"].map(_elsewhere)
    trials.to_parquet(folder / "trials.parquet", index=False)
    # images of one's own lie elsewhere for another sitting
    if trials["seconds"].mean() > _DEAR and (trials["config"] == study.trials["config"]).all():
        keep_rows(run, best, folder / "run")
    shutil.copy(run / "claims.csv", folder)
    (folder / "run.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for key, kind in figures_of(best.objectives).items():
        if key in _FIGURES and (figure := kind.static(best, study.run)) is not None:
            _drawn(figure, folder / f"{key}.png")
    _drawn(samples(best, study.run), folder / "samples.png")
    return folder


def keep_rows(run: Path, best: Front, folder: Path) -> None:
    """Keep what `reuse` takes members over from, so that another sitting need not train them again: no weights.

    Where the run lay is left out.
    """
    folder.mkdir(exist_ok=True)
    place = re.compile(r"^storage_path: .*$", re.MULTILINE)
    told = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    earlier = [*_taken_over(run, told)]
    told |= {"earlier": earlier} if earlier else {}
    told["command"] = [word for word in told["command"] if not _of_a_place(word)]
    merged = {Path(place).name: made for place, made in told.pop("merged", {}).items()}
    told |= {"merged": merged} if merged else {}
    (folder / "environment.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    config = place.sub("storage_path: results", (run / "config.yaml").read_text(encoding="utf-8"))
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    shutil.copy(run / "study.db", folder)
    with Store(folder / "study.db", create=True) as store:
        store.annotate(config=place.sub("storage_path: results", store.meta["config"]))
        store.annotate(**{"merged": json.dumps([*merged])} if merged else {})
    # those of an earlier sitting are not all of the best any more
    shutil.rmtree(folder / "samples", ignore_errors=True)
    for trial in best.points.loc[best.points.groupby("model")["fid"].idxmin(), "trial"]:
        if (path := sample(run, trial, ".png")) is not None:
            (folder / "samples").mkdir(exist_ok=True)
            shutil.copy(path, folder / "samples")


def samples(best: Front, run: Path) -> Figure:
    """Generated images of every model at the weight of its best FID, with the prior and the seed where it is best."""
    chosen = best.points.loc[best.points.groupby("model")["fid"].idxmin()].sort_values("fid")
    shown = [
        (row, path) for row in chosen.to_dict("records") if (path := sample(run, row["trial"], ".png")) is not None
    ]
    columns = max(1, min(4, len(shown)))
    figure = Figure(figsize=(2.25 * columns, 2.8 * math.ceil(len(shown) / columns)), layout="constrained")
    for i, (row, path) in enumerate(shown):
        axes = figure.add_subplot(math.ceil(len(shown) / columns), columns, i + 1)
        with Image.open(path) as picture:
            axes.imshow(np.asarray(picture), cmap="gray", interpolation="nearest")
        axes.set_title(f"{row['model']} {row['prior']} {row['weight']:g}\nFID {number(float(row['fid']))}", fontsize=8)
        axes.axis("off")
    return figure


def _elsewhere(config: str) -> str:
    """A member's configuration without the place where images of one's own lay."""
    told = json.loads(config)
    if not told["data"].get("path"):
        return config
    told["data"]["path"] = Path(told["data"]["path"]).name
    return json.dumps(told, separators=(",", ":"))


def _facts(study: Study) -> dict[str, Any]:
    told = json.loads((study.run / "environment.json").read_text(encoding="utf-8"))
    # sittings one after the other: those that a merged run was made of, or whose members were taken over
    runs = [*told["merged"].values()] if "merged" in told else [*_taken_over(study.run, told), told]
    runs, seconds = sorted(runs, key=_began), 0.0
    for run, end in zip(runs, [*map(_began, runs[1:]), math.inf], strict=True):
        rows = study.trials["reported"]
        seconds += rows[(rows >= _began(run)) & (rows < end)].max() - _began(run)
    commands = [shlex.join(w for w in run["command"] if "=" in w and not _of_a_place(w)) for run in runs]
    told = runs[-1] | {"created": runs[0]["created"]}
    return {
        "command": "\n".join(f"python -m gimtune {words}" for words in dict.fromkeys(commands)),
        "objectives": {key: str(way) for key, way in study.objectives.items()},
        "seconds": round(seconds),
        "members": len(study.trials),
        "status": study.trials["status"].value_counts().to_dict(),
        "created": told["created"],
        "git_commit": told.get("git_commit"),
        "python": told["python"],
        "packages": told["packages"],
        "cpus": told["cpus"],
        "numbers": told["numbers"],
    }


def _taken_over(run: Path, told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Environments of the runs that a run took members from: of kept ones, or of runs beside it."""
    for word in told["command"]:
        key, _, named = word.partition("=")
        if key == "reuse":
            kept = ROOT / named
            path = (kept if kept.is_dir() else run.parent / Path(named).name) / "environment.json"
            found = json.loads(path.read_text(encoding="utf-8"))
            yield from found.pop("earlier", [])
            # a run that is kept once more finds itself where it found the one before
            if found["created"] != told["created"]:
                yield found


def _began(told: Mapping[str, Any]) -> float:
    return pd.Timestamp(told["created"]).timestamp()


def _of_a_place(word: str) -> bool:
    # where a run lies and how it was watched changes no number
    return word.partition("=")[0] in ("storage_path", "ray.dashboard", "ray.address", "resume", "reuse", "reuse.across")


def _drawn(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(128)
    small.save(path, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(keep(Path(sys.argv[1]), sys.argv[2]))
