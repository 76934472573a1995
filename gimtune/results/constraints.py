"""Bounds that a study sets on metrics of members: those beyond them are infeasible, and on no front."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: By metric, ``min``, ``max`` or both.
Bounds = Mapping[str, Mapping[str, float]]
#: Column of the trials of a study with constraints: why a member is infeasible.
INFEASIBLE = "infeasible"


def stated(meta: Mapping[Any, Any]) -> Bounds:
    """The constraints of a run, from the facts of its store; none of a run that has none.

    Raises:
        ValueError: they say something else.
    """
    try:
        found = json.loads(meta.get("constraints") or "{}")
        return {
            str(metric): {way: float(bounds[way]) for way in ("min", "max") if bounds.get(way) is not None}
            for metric, bounds in found.items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ValueError("constraints are no mapping of a metric to {min, max}") from None


def violations(bounds: Bounds, row: Mapping[str, Any]) -> dict[str, float]:
    """How far a member is beyond each bound, by ``METRIC min`` and ``METRIC max``, in the metric's unit.

    At or below 0 it keeps it; infinite of a metric that is NaN or not there.

    >>> violations({"probe_codes": {"min": 0.75}, "fid": {"max": 10.0}}, {"probe_codes": 0.5, "fid": 4.0})
    {'probe_codes min': 0.25, 'fid max': -6.0}
    """
    found = {}
    for metric, own in bounds.items():
        given = row.get(metric)
        value = math.nan if given is None else float(given)
        for way, bound in own.items():
            beyond = bound - value if way == "min" else value - bound
            found[f"{metric} {way}"] = math.inf if math.isnan(beyond) else beyond
    return found


def violation(bounds: Bounds, row: Mapping[str, Any]) -> float:
    """The same in one number, 0 of a feasible member: a sum of what is beyond bounds, each as a share of its bound."""
    beyond = violations(bounds, row)
    return sum(
        max(0.0, beyond[f"{m} {way}"]) / (abs(bound) or 1.0) for m, own in bounds.items() for way, bound in own.items()
    )


def marked(trials: pd.DataFrame, bounds: Bounds) -> pd.DataFrame:
    """Trials with the column `INFEASIBLE`, where there are constraints: what bounds a member breaks, or ``None``."""
    if not bounds:
        return trials
    import pandas as pd  # rungs, which need the rest, do without

    known = trials.reindex(columns=[*bounds]).astype(float)
    why = [_why(bounds, row) for row in known.to_dict("records")]
    # a copy is of one piece: columns that came one by one make every further one slow, and pandas say so
    return trials.copy().assign(**{INFEASIBLE: pd.Series(why, trials.index, object)})


def _why(bounds: Bounds, row: Mapping[Any, Any]) -> str | None:
    words = {"min": "below", "max": "above"}
    broken = [key.split(" ") for key, beyond in violations(bounds, row).items() if beyond > 0]
    told = " and ".join(f"{metric} {words[way]} {bounds[metric][way]:g}" for metric, way in broken)
    return f"infeasible ({told})" if told else None
