"""A study as it stood at a smaller budget, from the reports of its evaluations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from gimtune.results.course import Course, Restore
from gimtune.results.load import Study
from gimtune.vocabulary import Status

#: Columns of a report that are none of its metrics.
_OTHERS = ("trial", "epoch", "seconds", "reported")


def at_budget(study: Study, share: float) -> Study:
    """The study that would have been, had each member's budget of epochs been a share of what it was.

    A member's row has the metrics of the weights that it would then have ended with, by its own rule, on the validation
    split alone: the test split is measured once, at the end, so that its columns are empty at any share. Studies at two
    shares, 1 among them, hence stand on one footing. ``epoch`` is that of the last evaluation within the budget, and
    ``levelled`` is as it was then. Members without an evaluation by then are left out.

    Args:
        study: read with its reports.
        share: above 0, and at most 1.

    Raises:
        ValueError: a share that is none.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share:g}: above 0 and at most 1")
    evaluations = {str(trial): rows for trial, rows in study.reports.sort_values("epoch").groupby("trial", sort=False)}
    found = [
        row
        for trial in study.trials.to_dict("records")
        if (row := _row(trial, evaluations.get(str(trial["trial"])), share)) is not None
    ]
    # in one piece: converted column by column it stays in as many
    trials = pd.DataFrame(found, columns=study.trials.columns).astype(_kinds(study.trials)).copy()
    trials.attrs = dict(study.trials.attrs)
    epochs = float(study.meta.get("epochs", "nan"))
    meta = study.meta if math.isnan(epochs) else {**study.meta, "epochs": f"{int(share * epochs)}"}
    return study._replace(trials=trials, meta=meta)


def _kinds(frame: pd.DataFrame) -> dict[str, Any]:
    """Numbers as numbers, where rows were put together again."""
    return {str(name): "float64" for name in frame.select_dtypes(np.number).columns}


def _settings(text: Any) -> dict[str, Any]:
    """A member's configuration; empty where a run folder holds none that can be read."""
    try:
        found = json.loads(text) if isinstance(text, str) else {}
        return {**found, "epochs": float(found["epochs"])} if isinstance(found, dict) and "epochs" in found else {}
    except (ValueError, TypeError, RecursionError):
        return {}


def _row(trial: Mapping[Any, Any], reports: pd.DataFrame | None, share: float) -> dict[str, Any] | None:
    settings = _settings(trial["config"])
    limit = share * settings.get("epochs", math.inf if share == 1 else math.nan)
    within = None if reports is None else reports[reports["epoch"] <= limit]
    if within is None or within.empty:
        return None
    course = Course(settings.get("watched", {}), settings.get("restore", Restore.LAST), settings.get("patience"))
    rows = [{str(key): value for key, value in row.items()} for row in within.to_dict("records")]
    for row in rows:
        course.take(int(row["epoch"]), row)
    best = next(row for row in rows if row["epoch"] == course.best)
    metrics = {key: value for key, value in best.items() if key not in _OTHERS}
    tested = {key: math.nan for key in trial if str(key).startswith("test_")}
    later = float(trial["epoch"]) > limit
    return {
        **trial,
        **metrics,
        **tested,
        "epoch": rows[-1]["epoch"],
        "seconds": rows[-1].get("seconds"),
        "best_epoch": course.best,
        "levelled": float(course.levelled),
        **({"status": str(Status.DONE), "error": None, "checkpoint": None, "diverged": 0.0} if later else {}),
    }
