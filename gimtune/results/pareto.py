"""Pareto fronts and hypervolumes: computed here, drawn elsewhere. Imports no plotting library."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import moocore
import numpy as np
import pandas as pd

from gimtune.results.constraints import INFEASIBLE
from gimtune.results.store import reasons
from gimtune.vocabulary import ALIKE, METRICS, Direction, Status

#: Nats of I(x; z) that are no representation: Fano's bound leaves an accuracy of .5 among ten classes.
COLLAPSED = 0.5
OBJECTIVES: Mapping[str, str] = MappingProxyType({"fid": "min", "probe_codes": "max"})

#: Columns that must agree on a front, and the options that choose among their values.
_AGREE = {
    "data": "--data",
    "fid_features": "--features",
    "fid_samples": "--samples",
    "fid_reference_samples": "--reference-samples",
    "fid_reference": "--reference",
}
#: Of ``only``, for members of every size of codes.
ALL = "all"
#: Distances, which count in hypervolumes as log(1 + distance): a ratio means the same for good and for bad models, and
#: no single bad point decides of the volume.
LOGARITHMIC = frozenset({"fid", "fid_expost", "recon_fid"})
#: For a distance that is not positive, where its logarithm is taken.
_SMALLEST = 1e-6
#: Columns that say where the scale of a metric ends: what is reached without a model.
ENDS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(sorted(LOGARITHMIC), "fid_worst"),
        **dict.fromkeys(("probe_codes", "probe_means", "knn_codes", "knn_means"), "probe_chance"),
        "probe_balanced": "balanced_chance",
    }
)
#: Columns by which a posterior is found to be collapsed.
_INFORMATION = ("mi_upper", "mi_q", "mi_noised", "active_units")
#: Products of numbers beyond it would be infinite.
_LARGEST = 1e100
_LEFT_OUT = {
    Status.PLANNED: "unfinished",
    Status.RUNNING: "unfinished",
    Status.FAILED: "failed",
    Status.DIVERGED: "diverged",
}


class Front(NamedTuple):
    """The non-dominated members of a study, chosen on the validation split.

    Attributes:
        objectives: metric and direction.
        points: every member considered, with two columns more: ``on_front`` and ``collapsed`` (less than
            `COLLAPSED` nats: the restriction has pressed all information out, so the point is no trade-off).
        rows: those on the front, best first along the first objective; equal points are all kept.
        hypervolume: of the front, as `volume` has it; 0 without a point.
        reference: the corner it is measured from, by objective; NaN where no point says where it should be.
        left_out: number of rows not considered, by reason.
    """

    objectives: dict[str, Direction]
    points: pd.DataFrame
    rows: pd.DataFrame
    hypervolume: float
    reference: dict[str, float]
    left_out: dict[str, int]


def directions(objectives: Mapping[str, str] | Iterable[str]) -> dict[str, Direction]:
    """Objectives with their directions; the metric's own where none is given.

    Raises:
        ValueError: fewer than two, an unknown metric, or a direction that is missing or not the metric's own.

    >>> directions(["fid", "mi_q"])
    {'fid': <Direction.MIN: 'min'>, 'mi_q': <Direction.MAX: 'max'>}
    """
    given = dict(objectives) if isinstance(objectives, Mapping) else dict.fromkeys(objectives, "")
    chosen: dict[str, Direction] = {}
    for key, direction in given.items():
        if key.removeprefix("test_") != key:
            raise ValueError(f"objective {key}: a front is chosen on the validation split; use {key[5:]}")
        if key not in METRICS:
            raise ValueError(f"objective {key}: no such metric; there are {', '.join(METRICS)}")
        own = METRICS[key].direction
        if not direction and own is Direction.NONE:
            raise ValueError(f"objective {key}: it only describes; say {key}=min or {key}=max")
        if direction not in ("", "min", "max") or (direction and own not in (Direction.NONE, direction)):
            raise ValueError(
                f"objective {key}: direction {direction!r}; allowed: {own if own != 'none' else 'min, max'}"
            )
        chosen[key] = Direction(direction or own)
    if len(chosen) < 2:
        raise ValueError(f"objectives: {', '.join(chosen) or 'none'}; a front takes two or more metrics")
    return chosen


def front(
    trials: pd.DataFrame,
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    only: Mapping[str, str] | None = None,
    reference: Mapping[str, float] | None = None,
) -> Front:
    """Pareto front of the finished members; early-stopped ones are finished, infeasible ones are on none.

    Args:
        trials: rows as of `gimtune.results.load.load`; may be empty.
        objectives: metrics, with or without directions.
        only: column and value to choose where a study mixes data sets or FID features, e.g. ``{"data": "digits"}``. Of
            codes those count that have a size that the study asks for, and where it does not say, the size of most:
            other codes are images, CycleGAN's, and a probe of pixels says nothing of a representation.
            ``{"latent_dim": "64"}`` chooses a size, ``{"latent_dim": "all"}`` takes every one.
        reference: corner of the hypervolume, by objective. Left open it is what is reached without a model (`ENDS`),
            the same for every study of a data set. Where no row says that, it is 0 (or 1) for a fraction, and for
            others the worst value considered, a tenth of the range further out, which moves as members end. Points
            beyond it add nothing.

    Raises:
        ValueError: an objective that is none, a column that is missing, a value of ``only`` that no row has, or
            members of several data sets, FID features, sample sizes or references, whose numbers do not compare.
    """
    chosen = directions(objectives)
    needed = ["status", "data", *(["fid_features"] if of_features(chosen) else []), *chosen, *(only or {})]
    missing = [c for c in dict.fromkeys(needed) if c not in trials]
    if trials.empty:
        trials = trials.reindex(columns=[*trials.columns, *missing])
    elif missing:
        raise ValueError(f"trials lack the column {', '.join(missing)}")
    for column, value in (only or {}).items():
        there = sorted({_text(v) for v in trials[column].dropna()})
        if there and value not in there and (column, value) != ("latent_dim", ALL):
            raise ValueError(f"{column}={value}: no trial has it; there are {', '.join(there)}")
    found = _front(trials, chosen, considered(trials, only or {}), reference or {})
    for column in ("data", *(ALIKE if of_features(chosen) else ())):
        option = _AGREE[column]
        # runs of earlier formats, and tables that somebody made, do not say all of it
        stated = found.points[column] if column in trials else pd.Series(dtype=object)
        counts = Counter("unknown" if pd.isna(value) else _text(value) for value in stated)
        if len(counts) > 1:
            mixed = ", ".join(f"{value} ({count} trials)" for value, count in counts.items())
            raise ValueError(f"{column} is mixed: {mixed}; their numbers do not compare. Choose one with {option}")
    return found


def looked_at(objectives: Iterable[str]) -> list[str]:
    """Columns of trials that their front rests on, constraints apart: others may be left out."""
    objectives = [*objectives]
    ends = [ENDS[key] for key in objectives if key in ENDS]
    told = ["trial", "status", "data", "latent_dim", "assignment", "reasons"]
    return [*dict.fromkeys([*told, *ALIKE, *objectives, *ends, *_INFORMATION])]


def fronts_by(
    trials: pd.DataFrame,
    by: str,
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    only: Mapping[str, str] | None = None,
    reference: Mapping[str, float] | None = None,
) -> dict[str, Front]:
    """A front for each value of a column, all from one reference point, so that their hypervolumes compare.

    Raises:
        ValueError: as `front` of all rows, or there is no such column.
    """
    if by == "latent_dim" in trials:
        only = {by: ALL, **(only or {})}
    whole = front(trials, objectives, only=only, reference=reference)
    if trials.empty:
        return {}
    if by not in trials:
        raise ValueError(f"trials lack the column {by}")
    groups, kept = trials.groupby(trials[by].fillna("unknown")), considered(trials, only or {})
    return {str(name): _front(group, whole.objectives, kept, whole.reference) for name, group in groups}


def volume(values: np.ndarray, objectives: Mapping[str, Direction], reference: Mapping[str, float]) -> float:
    """Hypervolume between points (n, objectives) and a corner, on the scales of `scales`; 0 without a point."""
    if not len(values):
        return 0.0
    corner = scales(np.array([[*reference.values()]]), objectives)[0]
    return float(moocore.hypervolume(scales(values, objectives), ref=corner, maximise=_maximised(objectives)))


def scales(values: np.ndarray, objectives: Iterable[str]) -> np.ndarray:
    """Values (n, objectives) as they count in a hypervolume: distances by log(1 + distance), others as they are."""
    logarithmic = [key in LOGARITHMIC for key in objectives]
    return np.where(logarithmic, np.log1p(np.maximum(np.where(logarithmic, values, 0), 0)), values)


def unscaled(values: np.ndarray, objectives: Iterable[str]) -> np.ndarray:
    """The inverse of `scales`."""
    logarithmic = [key in LOGARITHMIC for key in objectives]
    return np.where(logarithmic, np.expm1(np.where(logarithmic, values, 0)), values)


def dominance_rank(front: Front) -> pd.Series:
    """Rank of every point by non-dominated sorting: 0 on the front, 1 on the front of the others, and so on.

    Equal points have equal ranks. Source: Deb et al. 2002, section III.A.
    """
    ranks = moocore.pareto_rank(_values(front.points, front), maximise=_maximised(front.objectives))
    return pd.Series(ranks, index=front.points.index, name="dominance_rank", dtype=int)


def contributions(front: Front) -> pd.DataFrame:
    """Who would be missed: what the front loses with each of its rows, and which row is the knee.

    Returns:
        By the index of ``front.rows``, the columns

        - ``hypervolume``: of the front less that of the front without the row; 0 for one of equal rows, and for a row
          beyond the reference point.
        - ``epsilon``: by how much, as a share of the front's range in every objective, the nearest other row would have
          to be better to replace it (additive epsilon of the front without it; Zitzler et al. 2003); infinite for the
          only row.
        - ``knee``: the row furthest from the plane through the corners of the front's range, on the side of the ideal
          point (Das 1999); the first of equals, and none where no row lies on that side.

    >>> trials = pd.DataFrame({"fid": [1.0, 2.0, 9.0], "probe_codes": [0.1, 0.8, 0.9]})
    >>> contributions(front(trials.assign(status="done", data="digits", fid_features="classifier")))["knee"].tolist()
    [False, True, False]
    """
    values, maximise = _values(front.rows, front), _maximised(front.objectives)
    index = front.rows.index
    if not len(values):
        return pd.DataFrame({"hypervolume": [], "epsilon": [], "knee": np.array([], dtype=bool)}, index=index)
    corner = scales(np.array([[*front.reference.values()]]), front.objectives)[0]
    volumes = moocore.hv_contributions(scales(values, front.objectives), ref=corner, maximise=maximise)
    scaled = _scaled(values, maximise)
    knee = np.zeros(len(values), dtype=bool)
    # of points on the plane through the unit intercepts the coordinates sum to 1; in two dimensions these are the ends
    knee[scaled.sum(1).argmin()] = scaled.sum(1).min() < 1 - 1e-9
    epsilon = [
        max(0.0, float((np.delete(scaled, i, 0) - scaled[i]).max(1).min(initial=math.inf))) for i in range(len(scaled))
    ]
    return pd.DataFrame({"hypervolume": volumes, "epsilon": epsilon, "knee": knee}, index=index)


def _values(rows: pd.DataFrame, front: Front) -> np.ndarray:
    return rows[list(front.objectives)].to_numpy(dtype=float)


def _maximised(objectives: Mapping[str, Direction]) -> list[bool]:
    return [d is Direction.MAX for d in objectives.values()]


def _scaled(values: np.ndarray, maximise: list[bool]) -> np.ndarray:
    """To minimise, with the front's best at 0 and worst at 1."""
    costs = np.where(maximise, -values, values)
    return (costs - costs.min(0)) / np.where(np.ptp(costs, 0) > 0, np.ptp(costs, 0), 1)


def of_features(objectives: Iterable[str]) -> bool:
    """Whether one of these metrics is measured by features of images."""
    return any(METRICS[key].unit.startswith("features") or key in ("precision", "recall") for key in objectives)


def sizes(trials: pd.DataFrame) -> frozenset[str]:
    """Sizes of codes that the study asks for, as text; where its rows do not say, or none has one, that of most."""
    there = trials["latent_dim"].dropna().map(_text)
    if there.nunique() < 2:
        return frozenset(there)
    stated: Iterable[str] = trials["assignment"].dropna().unique() if "assignment" in trials else []
    asked = frozenset(_text(given["latent_dim"]) for given in map(json.loads, stated) if "latent_dim" in given)
    return asked & frozenset(there) or frozenset(there.mode().head(1))


def considered(trials: pd.DataFrame, only: Mapping[str, str]) -> dict[str, str | frozenset[str]]:
    """What rows to consider have: what is chosen, and the study's own sizes of codes."""
    kept: dict[str, str | frozenset[str]] = dict(only)
    if kept.get("latent_dim") == ALL:
        del kept["latent_dim"]
    elif "latent_dim" in trials and "latent_dim" not in kept and len(trials):
        kept["latent_dim"] = sizes(trials)
    return kept


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


def _front(
    trials: pd.DataFrame,
    objectives: dict[str, Direction],
    only: Mapping[str, str | frozenset[str]],
    reference: Mapping[str, float],
) -> Front:
    why = why_left_out(trials, list(objectives), only)
    if INFEASIBLE in trials:
        beyond = (reason if isinstance(reason, str) else None for reason in trials[INFEASIBLE])
        why = [w or reason for w, reason in zip(why, beyond, strict=True)]
    points = trials[np.array([w is None for w in why], dtype=bool)]
    values = points[list(objectives)].to_numpy(dtype=float)
    maximise = _maximised(objectives)
    best = moocore.is_nondominated(values, maximise=maximise, keep_weakly=True)
    # a copy is of one piece: columns that came one by one make every further one slow, and pandas say so
    points = points.copy().assign(collapsed=collapsed(points), on_front=best)
    rows = points[best].drop(columns="on_front")
    rows = rows.sort_values(list(objectives), ascending=[not m for m in maximise], kind="stable")
    corner = {
        key: _corner(key, direction, values[:, i], reference.get(key, math.nan), points)
        for i, (key, direction) in enumerate(objectives.items())
    }
    area = volume(values, objectives, corner)
    return Front(objectives, points, rows, area, corner, dict(Counter(w for w in why if w).most_common()))


def collapsed(trials: pd.DataFrame) -> pd.Series:
    """Whether the codes of each row hold next to nothing: an upper estimate of I(x; z) is below `COLLAPSED`.

    The smaller of ``mi_upper`` and ``mi_q``, both at least I_q; ``mi_noised`` of deterministic encoders, whose I_q is
    infinite, and where ``mi_q`` is below zero by more than `COLLAPSED`: that estimate from samples has failed. Where
    none is known, in runs of earlier formats or of encoders without an entropy, no active unit. Active units are told
    by the scale of codes, and rows with some had less than .5 nats.

    >>> collapsed(pd.DataFrame({"mi_q": [0.4, 3.0, math.nan, -105], "mi_noised": [0.3, 2.0, 18.0, 1.7]})).tolist()
    [True, False, False, False]
    """
    known = trials.reindex(columns=[*_INFORMATION]).astype(float)
    bounds = known[["mi_upper", "mi_q"]]
    above = bounds.where(bounds >= -COLLAPSED).min(axis=1).fillna(known["mi_noised"])
    return above.lt(COLLAPSED) | (above.isna() & known["active_units"].eq(0))


def log_distance(distances: pd.Series) -> pd.Series:
    """Logarithms of distances, by whose means over seeds a model's best weight is chosen: a ratio means the same."""
    return pd.Series(np.log(distances.astype(float).clip(lower=_SMALLEST)))


def why_left_out(
    trials: pd.DataFrame, objectives: list[str], only: Mapping[str, str | frozenset[str]]
) -> list[str | None]:
    """Reason by row; ``None`` for rows to consider: ended well, as ``only`` chooses, with objectives up to 1e100."""
    why: list[str | None] = [_LEFT_OUT.get(status) for status in trials["status"]]
    for column, value in only.items():
        texts = trials[column].map(_text, na_action="ignore")
        if isinstance(value, str):
            why = [w or (None if v == value else f"{column} not {value}") for w, v in zip(why, texts, strict=True)]
            continue
        own = " or ".join(sorted(value, key=float))
        # a row that does not say is considered, as it is where none does
        fine = [pd.isna(v) or v in value for v in texts]
        why = [
            w or (None if ok else f"codes of {v} dimensions, not {own}")
            for w, ok, v in zip(why, fine, texts, strict=True)
        ]
    for key in objectives:
        values = trials[key].to_numpy(dtype=float)
        for i in np.flatnonzero(~(abs(values) <= _LARGEST)):
            why[i] = why[i] or f"no {key}: {_absurd(values[i]) or _reason(trials, int(i), key)}"
    return why


def _absurd(value: float) -> str:
    return "infinite" if math.isinf(value) else f"beyond {_LARGEST:g}" if abs(value) > _LARGEST else ""


def _reason(trials: pd.DataFrame, i: int, key: str) -> str:
    text = trials["reasons"].iloc[i] if "reasons" in trials else None
    try:
        return str(reasons({"reasons": text}).get(key, "NaN, no reason recorded"))
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"trial {trials['trial'].iloc[i]}: column reasons is no JSON object") from None


def _corner(key: str, direction: Direction, values: np.ndarray, given: float, points: pd.DataFrame) -> float:
    maximise = direction is Direction.MAX
    if math.isfinite(given):
        return given
    if (end := ENDS.get(key)) in points and direction is METRICS[key].direction:
        stated = points[end].to_numpy(dtype=float)
        if np.isfinite(stated).any():
            return float(np.nanmax(stated))
    if METRICS[key].unit == "fraction":
        return 0.0 if maximise else 1.0
    if not len(values):
        return math.nan
    low, high = float(values.min()), float(values.max())
    margin = 0.1 * ((high - low) or abs(high) or 1.0)
    return low - margin if maximise else high + margin
