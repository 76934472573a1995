"""What the page tells of its points: which are drawn, and each one's settings, metrics and the line that trains it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gimtune.analysis.export.reproduce import command
from gimtune.analysis.page.pictures import COMMON, KINDS, Strips, gathered
from gimtune.analysis.tables import marks
from gimtune.analysis.text import flags, number, plain, short
from gimtune.results.load import Study, settings
from gimtune.results.pareto import Front
from gimtune.results.store import Value, reasons
from gimtune.results.varied import varied
from gimtune.vocabulary import IDENTITY, PROGRESS, PROTOCOL, Status

#: Points that are drawn, and so can be hovered over and pinned.
POINTS = 10_000
#: Points whose details are unpacked together, when one of them is looked at.
CHUNK = 100
#: Of a text, in characters.
LONGEST = 300
_SETTING = ("prior", "weight", "latent_dim", "seed", "network", "data", "encoder", "likelihood_name", "restrictions")
_PROGRESS = ("status", "epoch", "seconds", "fid_features")


def thinned(best: Front, models: Mapping[str, Front]) -> pd.DataFrame:
    """`POINTS` of the points: the front first, then those of single models, then others at random, in a fixed draw."""
    points = best.points
    own = [best.rows.index, *(pd.Index(group.rows.index) for group in models.values())]
    wanted = pd.Index(np.concatenate(own)).unique()[:POINTS]
    rest = points.index.difference(wanted, sort=False)
    if len(points) > POINTS:
        rest = rest[np.random.default_rng(0).permutation(len(rest))[: POINTS - len(wanted)]]
    return points.loc[[*wanted, *rest]]


def drawn_of(best: Front, drawn: pd.DataFrame) -> str:
    """How many of the points are drawn, and which, in words."""
    if len(drawn) == len(best.points):
        return f"All {len(drawn):,} trials are drawn."
    whole = int(drawn["on_front"].sum())
    front_part = "the front" if whole == len(best.rows) else f"the best {whole:,} of the front"
    return (
        f"{len(drawn):,} of {len(best.points):,} trials are drawn: {front_part}, as many as there is room for of the "
        "fronts of single models, and others at random. Tables and verdicts count all of them."
    )


def pictured(drawn: pd.DataFrame, models: Mapping[str, Front], runs: Mapping[str, Path]) -> Strips:
    """Pictures of the points, called by their position: all kinds of those on the front and of each model's first."""
    first = {group.rows.index[0] for group in models.values() if len(group.rows)}
    whole = [*(drawn["on_front"].to_numpy(dtype=bool) | drawn.index.isin(first))]
    rows = [*zip(range(len(drawn)), drawn["run"], drawn["trial"], whole, strict=True)]
    rows.sort(key=lambda row: not row[3])
    return gathered(
        (str(i), runs[run], str(trial), kind) for i, run, trial, every in rows for kind in (KINDS if every else COMMON)
    )


def told(drawn: pd.DataFrame, runs: Mapping[str, Study]) -> Iterator[list[dict[str, Any]]]:
    """What is told of each point, `CHUNK` of them at a time.

    Args:
        runs: by their names in the column ``run``.
    """
    more = varied(drawn)
    metrics = [
        str(key)
        for key in drawn
        if key not in {*IDENTITY, *PROGRESS, *PROTOCOL, *more, "run", "collapsed", "on_front"}
        and not str(key).startswith("test_")
        and drawn[key].notna().any()
    ]
    stated = {label: settings(study.run) for label, study in runs.items()}
    shown = [*(("run",) if len(runs) > 1 else ()), *_SETTING, *more, *_PROGRESS]
    for start in range(0, len(drawn), CHUNK):
        rows = drawn.iloc[start : start + CHUNK].to_dict("records")
        yield [_point(row, metrics, shown, stated[row["run"]]) for row in rows]


def _point(row: Mapping[Any, Value], metrics: list[str], shown: list[str], stated: Mapping[str, Any]) -> dict[str, Any]:
    doubts, missing = flags(row), _reasons(row)
    values = []
    for key in metrics:
        value, test = row[key], row.get(f"test_{key}")
        if pd.notna(value) or pd.notna(test):
            notes = {doubts[k] for k in (key, f"test_{key}") if k in doubts}
            values.append([key, number(value), number(test), short("; ".join(sorted(notes)), LONGEST)])
    try:
        line = {"line": command(str(row["trial"]), str(row["config"]), row.get("assignment"), stated)}
    except ValueError as error:
        line = {"line": "", "why": f"no line: {error}"}
    if row["status"] == Status.STOPPED:
        line["why"] = f"The scheduler stopped it at epoch {number(row['epoch'])}; this line trains it to the end."
    return {
        "trial": short(number(row["trial"]), 80),
        "model": short(number(row["model"]), 80),
        "marks": [mark.word for mark in marks(row)],
        "setting": [[key, short(number(row[key]), LONGEST)] for key in shown if pd.notna(row.get(key))],
        "metrics": values,
        "undefined": [[key, short(why, LONGEST)] for key, why in [*missing.items()][:60]],
        "config": short(str(row["config"]), 4000) if pd.notna(row["config"]) else "",
        **line,
    }


def _reasons(row: Mapping[Any, Value]) -> dict[str, str]:
    try:
        return {str(key): str(why) for key, why in reasons(row).items()}
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"trial {plain(row['trial'])}: column reasons is no JSON object") from None
