"""Fronts over seeds: attainment surfaces, fronts of means, and the difference of two studies. No plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import moocore
import numpy as np
import pandas as pd
from scipy import special

from gimtune.analysis.statistics.configurations import average, redrawn
from gimtune.results.pareto import OBJECTIVES, Front, front, scales, unscaled, volume
from gimtune.results.varied import varied
from gimtune.vocabulary import ALIKE, IDENTITY, Direction

_APART = frozenset({"trial", "study", "seed", "pack", "config", "assignment"})
#: What says that two members are one configuration, beside what varies in the study and the whole of ``config`` without
#: its seeds and where its images lie.
SETTING = (*(column for column in IDENTITY if column not in _APART), *ALIKE)
_NOT_A_SETTING = r'"(\w+_)?seed": ?\d+|"path": ?"(?:[^"\\]|\\.)*"'
_LEVELS = {"best": 0.0, "median": 50.0, "worst": 100.0}


def configuration(trials: pd.DataFrame) -> pd.Series:
    """Number of the configuration, by row: members with the same number differ in their seeds alone."""
    parts = trials.reindex(columns=[*SETTING, *varied(trials), "config"])
    parts["config"] = parts["config"].astype(str).str.replace(_NOT_A_SETTING, "", regex=True)
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
            difference up to ``reference``, on the scales of `gimtune.results.pareto.scales`.
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
        np.mean([volume(costs[sets == s] * signs, found.objectives, found.reference) for s in set(sets)])
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
        points: one row per configuration: what it is, ``seeds`` (their number), each objective's mean (of a distance
            the mean of log(1 + distance), back on its own scale) with
            ``<key>_low`` and ``<key>_high`` (NaN where nothing says how seeds differ), ``on_front``, and
            ``front_share``: of the draws in which no other configuration is better in both.
        hypervolume: of the means' front, less its bias: noise alone pushes a front outwards.
        low, high: its interval.
        reference: the corner it is measured from.
        left_out: number of rows not considered, by reason.
        shares: ``front_share`` by the index of the trials considered.
    """

    objectives: dict[str, Direction]
    points: pd.DataFrame
    hypervolume: float
    low: float
    high: float
    reference: dict[str, float]
    left_out: dict[str, int]
    shares: pd.Series


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
    """Front of the means over seeds, with intervals from drawing the seeds anew.

    A draw adds to each configuration's mean the residuals of as many members of its model, stretched so that their
    variance is unbiased (`gimtune.analysis.statistics.configurations.redrawn`); where no configuration of any model has
    a second seed, normal noise of the metrics' own standard errors, as far as there are such columns. Residuals of
    distances are of their logarithms.

    Means have percentile intervals. The hypervolume has a normal one around its bias-corrected value (Efron &
    Tibshirani 1993, section 10.6): drawn fronts lie as much further out as the measured front does from the true one.
    Its variance is that of the corrected value, from draws of draws.

    Raises:
        ValueError: as `front`.
    """
    found = front(trials, objectives, only=only, reference=reference)
    keys, maximise = [*found.objectives], [d is Direction.MAX for d in found.objectives.values()]
    numbers = configuration(found.points)
    rows = found.points.assign(configuration=numbers).sort_values("configuration", kind="stable")
    starts = np.flatnonzero(np.diff(rows["configuration"].to_numpy(), prepend=-1))
    seeds = np.diff(starts, append=len(rows))
    points = rows.iloc[starts].reindex(columns=[*SETTING, *varied(rows)]).reset_index(drop=True).assign(seeds=seeds)
    if not len(rows):
        empty = points.reindex(columns=[*points, *keys, "on_front", "front_share"])
        none = pd.Series(dtype=float)
        return MeanFront(found.objectives, empty, 0.0, math.nan, math.nan, found.reference, found.left_out, none)
    slot = np.arange(len(rows)) - np.repeat(starts, seeds)
    of = np.repeat(np.arange(len(starts)), seeds)
    values = np.full((len(keys), len(starts), int(seeds.max())), math.nan)
    errors = np.zeros((len(starts), len(keys)))
    for i, key in enumerate(keys):
        values[i, of, slot] = rows[key].to_numpy(dtype=float)
        if f"{key}_se" in rows:
            squares = np.nan_to_num(rows[f"{key}_se"].to_numpy(dtype=float)) ** 2
            errors[:, i] = np.sqrt(np.bincount(of, squares)) / seeds
    on_scale = {key: scales(values[i, ..., None], [key])[..., 0] for i, key in enumerate(keys)}
    means = unscaled(np.stack([average(on_scale[key]) for key in keys], axis=-1), keys)
    model = pd.factorize(points["model"].astype(str))[0]
    noisy = bool((seeds > 1).any())
    known = noisy or bool(errors.any())
    moved = np.zeros((draws, *means.shape))
    for start in range(0, draws if known else 0, _AT_ONCE):
        size = min(_AT_ONCE, draws - start)
        if noisy:
            new = redrawn(on_scale, model, size, generator)
            parts = [average(new[key][1:]) - average(new[key][0]) for key in keys]
            moved[start : start + size] = np.stack(parts, axis=-1)
        else:
            more = unscaled(scales(means, keys), keys) + errors * generator.normal(size=(size, *means.shape))
            moved[start : start + size] = scales(more, keys) - scales(means, keys)
    drawn = unscaled(scales(means, keys) + moved, keys)
    share = np.mean([moocore.is_nondominated(d, maximise=maximise, keep_weakly=True) for d in drawn], axis=0)

    def volumes(shift: int) -> np.ndarray:
        twice = drawn if not shift else unscaled(scales(means, keys) + moved + np.roll(moved, shift, axis=0), keys)
        return np.array([volume(d, found.objectives, found.reference) for d in twice])

    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(drawn, tails, axis=0) if known else np.full((2, *means.shape), math.nan)
    for i, key in enumerate(keys):
        points = points.assign(**{key: means[:, i], f"{key}_low": low[:, i], f"{key}_high": high[:, i]})
    best = moocore.is_nondominated(means, maximise=maximise, keep_weakly=True)
    plain = volume(means, found.objectives, found.reference)
    corrected, half = plain, math.nan
    if known:
        first, second, third = (volumes(shift) for shift in (0, 1, 2))
        corrected = max(0.0, 2 * plain - float(first.mean()))
        # of the corrected value: draws of each draw, without the noise of having two of them only
        spread = np.cov([first, second, third])
        variance = 4 * spread[0, 0] - 2 * (spread[0, 1] + spread[0, 2]) + spread[1, 2]
        half = float(special.ndtri(tails[1])) * math.sqrt(max(variance, float(spread[0, 0])))
    share = share if known else np.full(len(means), math.nan)
    return MeanFront(
        found.objectives,
        points.assign(on_front=best, front_share=share),
        corrected,
        corrected - half,
        corrected + half,
        found.reference,
        found.left_out,
        pd.Series(share[of], rows.index, name="front_share").reindex(found.points.index),
    )


def with_shares(best: Front, generator: np.random.Generator, draws: int = 500) -> Front:
    """A front whose rows have ``front_share``: of the draws of `mean_front` in which their configuration is on it."""
    rows = best.rows.drop(columns=["front_share"], errors="ignore")
    if len(best.points) > _MOST:
        return best._replace(rows=rows.assign(front_share=math.nan))
    points = best.points.drop(columns=["on_front", "collapsed"])
    found = mean_front(points, best.objectives, generator=generator, reference=best.reference, draws=draws)
    return best._replace(rows=rows.assign(front_share=found.shares.reindex(rows.index)))


#: Draws whose seeds are held together.
_AT_ONCE = 20
#: More trials have no shares.
_MOST = 20_000
