"""Fronts over seeds: attainment surfaces, fronts of means, and the difference of two studies. No plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import moocore
import numpy as np
import pandas as pd

from gimtune.results.pareto import OBJECTIVES, Front, front
from gimtune.results.varied import varied
from gimtune.vocabulary import ALIKE, IDENTITY, Direction

_APART = frozenset({"trial", "study", "seed", "pack", "config", "assignment"})
#: What says that two members are one configuration, beside what varies in the study and the whole of ``config`` without
#: its seeds.
SETTING = (*(column for column in IDENTITY if column not in _APART), *ALIKE)
_LEVELS = {"best": 0.0, "median": 50.0, "worst": 100.0}


def configuration(trials: pd.DataFrame) -> pd.Series:
    """Number of the configuration, by row: members with the same number differ in their seeds alone."""
    parts = trials.reindex(columns=[*SETTING, *varied(trials), "config"])
    parts["config"] = parts["config"].astype(str).str.replace(r'"(\w+_)?seed": ?\d+', "", regex=True)
    return parts.groupby([*parts], dropna=False, sort=False).ngroup().rename("configuration")


class Attainment(NamedTuple):
    """Empirical attainment surfaces over seeds.

    Attributes:
        objectives: metric and direction.
        surfaces: the corners of each surface, best first along the first objective: ``surface`` (best, median, worst)
            and the objectives. What lies at or behind the best surface is attained by some seed, behind the median
            surface by half of them or more, behind the worst by all. With two seeds best and median are one.
        sets: number of points of each seed.
        left_out: number of rows not considered, by reason.

    Source: Grunert da Fonseca et al. 2001.
    """

    objectives: dict[str, Direction]
    surfaces: pd.DataFrame
    sets: dict[str, int]
    left_out: dict[str, int]


def attainment(
    trials: pd.DataFrame,
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    over: str = "seed",
    only: Mapping[str, str] | None = None,
) -> Attainment:
    """Attainment surfaces of two or three objectives over the values of a column.

    Raises:
        ValueError: as `front`, more than three objectives, or there is no such column.
    """
    found, signs = _considered(trials, objectives, only)
    if len(signs) > 3:
        raise ValueError(f"objectives: {', '.join(found.objectives)}; attainment surfaces take two or three")
    costs, sets, names = _sets(found, over, signs)
    corners = moocore.eaf(costs, sets, percentiles=[*_LEVELS.values()]) if len(costs) else np.empty((0, len(signs) + 1))
    surfaces = pd.DataFrame(corners[:, :-1] * signs, columns=[*found.objectives])
    levels = {level: name for name, level in _LEVELS.items()}
    surfaces.insert(0, "surface", [levels[level] for level in corners[:, -1]])
    order = np.lexsort([*corners[:, -2::-1].T, corners[:, -1]])
    counts = dict(zip(names, np.bincount(sets, minlength=len(names)).tolist(), strict=True))
    return Attainment(found.objectives, surfaces.iloc[order].reset_index(drop=True), counts, found.left_out)


class AttainmentDifference(NamedTuple):
    """Where one study attains more than another.

    Attributes:
        objectives: two metrics and their directions.
        rectangles: where the difference is not zero: ``<key>_from`` (the better side, which belongs to it) and
            ``<key>_to`` (may be infinite) for each objective, and ``difference``: the share of the first study's seeds
            that attain a point of it, less that of the second's.
        hypervolume: mean over the first study's seeds less that of the second's, which is the integral of the
            difference up to ``reference``.
        reference: worst corner of both studies together, by objective, as `front` has it.
        left_out: number of rows not considered, by reason.
    """

    objectives: dict[str, Direction]
    rectangles: pd.DataFrame
    hypervolume: float
    reference: dict[str, float]
    left_out: dict[str, int]


def attainment_difference(
    first: pd.DataFrame,
    second: pd.DataFrame,
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    over: str = "seed",
    only: Mapping[str, str] | None = None,
) -> AttainmentDifference:
    """Difference of two studies' empirical attainment functions. Source: López-Ibáñez et al. 2010.

    Raises:
        ValueError: as `front` of both together, other than two objectives, or a study without a point.
    """
    both = pd.concat([first, second], keys=[0, 1])
    found, signs = _considered(both, objectives, only)
    if len(signs) != 2:
        raise ValueError(f"objectives: {', '.join(found.objectives)}; a difference takes two")
    halves = []
    for study, name in enumerate(("first", "second")):
        part = found.points.index.get_level_values(0) == study
        if not part.any():
            raise ValueError(f"the {name} study has no finished trial with these objectives")
        halves.append(_sets(found._replace(points=found.points[part]), over, signs))
    volumes = [
        np.mean([moocore.hypervolume(costs[sets == s], ref=signs * [*found.reference.values()]) for s in set(sets)])
        for costs, sets, _ in halves
    ]
    # moocore rounds the difference to as many steps as there are sets in one study: give both the same number
    numbers = [len(names) for *_, names in halves]
    common = math.lcm(*numbers)
    tables = [
        np.vstack([np.column_stack([costs, sets + copy * number]) for copy in range(common // number)])
        for (costs, sets, _), number in zip(halves, numbers, strict=True)
    ]
    try:
        found_at = moocore.eafdiff(*tables, rectangles=True)
    except ValueError:  # moocore 0.3 cannot reshape the rectangles of two equal studies, which are none
        found_at = np.empty((0, 5))
    x, y = found.objectives
    rectangles = pd.DataFrame(
        found_at * [*signs, *signs, 1 / common], columns=[f"{x}_from", f"{y}_from", f"{x}_to", f"{y}_to", "difference"]
    )
    rectangles = rectangles[rectangles["difference"] != 0].reset_index(drop=True)
    return AttainmentDifference(
        found.objectives, rectangles, float(volumes[0] - volumes[1]), found.reference, found.left_out
    )


def _considered(
    trials: pd.DataFrame, objectives: Mapping[str, str] | Iterable[str], only: Mapping[str, str] | None
) -> tuple[Front, np.ndarray]:
    found = front(trials, objectives, only=only)
    return found, np.array([-1.0 if d is Direction.MAX else 1.0 for d in found.objectives.values()])


def _sets(found: Front, over: str, signs: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Points to minimise, the number of the set of each, in order as moocore wants them, and the sets' names."""
    if over not in found.points and len(found.points):
        raise ValueError(f"trials lack the column {over}")
    labels = found.points.get(over, pd.Series(dtype=float)).fillna("unknown").astype(str)
    numbers, names = pd.factorize(labels, sort=True)
    order = np.argsort(numbers, kind="stable")
    return found.points[[*found.objectives]].to_numpy(dtype=float)[order] * signs, numbers[order], [*names]


class MeanFront(NamedTuple):
    """The front of configurations, each by its mean over seeds.

    Attributes:
        objectives: metric and direction.
        points: one row per configuration: what it is, ``seeds`` (their number), each objective's mean with
            ``<key>_low`` and ``<key>_high`` (NaN for a single seed), ``on_front``, and ``on_front_share`` of the
            bootstrap's draws.
        hypervolume, low, high: of the means' front, with its interval.
        reference: the corner it is measured from.
        left_out: number of rows not considered, by reason.
    """

    objectives: dict[str, Direction]
    points: pd.DataFrame
    hypervolume: float
    low: float
    high: float
    reference: dict[str, float]
    left_out: dict[str, int]


def mean_front(
    trials: pd.DataFrame,
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    generator: np.random.Generator,
    only: Mapping[str, str] | None = None,
    reference: Mapping[str, float] | None = None,
    draws: int = 500,
    level: float = 0.95,
) -> MeanFront:
    """Front of the means over seeds, with percentile intervals from drawing each configuration's seeds anew.

    A draw's distance from the mean is stretched by sqrt(k / (k - 1)) for k seeds, so that its variance is unbiased
    (Davison & Hinkley 1997, section 2.3). Few seeds give few distinct draws: of intervals at 95 %, those of 2, 3, 5 and
    10 normal seeds cover their mean in 61, 81, 87 and 92 % of cases.

    Raises:
        ValueError: as `front`.
    """
    found = front(trials, objectives, only=only, reference=reference)
    keys, maximise = [*found.objectives], [d is Direction.MAX for d in found.objectives.values()]
    rows = found.points.assign(configuration=configuration(found.points)).sort_values("configuration", kind="stable")
    values, numbers = rows[keys].to_numpy(dtype=float), rows["configuration"].to_numpy()
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    seeds = np.diff(starts, append=len(rows))
    means = np.add.reduceat(values, starts) / seeds[:, None] if len(rows) else values
    points = rows.iloc[starts].reindex(columns=[*SETTING, *varied(rows)]).reset_index(drop=True).assign(seeds=seeds)

    def measured(at: np.ndarray) -> tuple[np.ndarray, float]:
        best = moocore.is_nondominated(at, maximise=maximise, keep_weakly=True)
        return best, float(moocore.hypervolume(at, ref=[*found.reference.values()], maximise=maximise))

    if not len(rows):
        empty = points.reindex(columns=[*points, *keys, "on_front", "on_front_share"])
        return MeanFront(found.objectives, empty, 0.0, math.nan, math.nan, found.reference, found.left_out)
    first, size = np.repeat(starts, seeds), np.repeat(seeds, seeds)
    stretch = np.sqrt(seeds / np.maximum(seeds - 1, 1))[:, None]
    drawn, share, volumes = np.empty((draws, *means.shape)), np.zeros(len(means)), np.empty(draws)
    for i in range(draws):
        again = np.add.reduceat(values[first + (generator.random(len(rows)) * size).astype(int)], starts)
        drawn[i] = means + stretch * (again / seeds[:, None] - means)
        best, volumes[i] = measured(drawn[i])
        share += best / draws
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.where(seeds[:, None] > 1, np.quantile(drawn, tails, axis=0), math.nan)
    for i, key in enumerate(keys):
        points = points.assign(**{key: means[:, i], f"{key}_low": low[:, i], f"{key}_high": high[:, i]})
    best, volume = measured(means)
    edges = np.quantile(volumes, tails) if (seeds > 1).any() else [math.nan, math.nan]
    return MeanFront(
        found.objectives,
        points.assign(on_front=best, on_front_share=share),
        volume,
        float(edges[0]),
        float(edges[1]),
        found.reference,
        found.left_out,
    )
