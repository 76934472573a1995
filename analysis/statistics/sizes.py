"""What larger codes do to a model's images, to its codes, and to what it gives up of them for its images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from gimtune.analysis.statistics.configurations import Configurations, Unmeasured, average
from gimtune.analysis.statistics.evidence import ASSOCIATION, Each, Found, Measure
from gimtune.analysis.statistics.measures import each_model, words

#: Of logarithms of distances and of accuracies: what differs by less is equal, whatever the order of sums was.
_DIGITS = 6


def sized(study: Configurations) -> bool:
    """Whether some model has codes of several sizes, all else equal."""
    return any(len({*study.size[rows]}) > 1 for rows in _places(study))


def weakest(weights: Iterable[Iterable[float]]) -> float:
    """The weakest weight that all sizes with several weights have; NaN where there is none.

    >>> weakest([[0.1, 1, 10], [1, 10], [10]])
    1
    """
    several = [found for one in weights if len(found := {*one}) > 1]
    return min(set.intersection(*several), default=math.nan) if several else math.nan


def by_size(key: str, *, lower: bool = False, given_up: bool = False) -> Measure:
    """Rank correlation of a metric with the size of the code, a number for each model.

    The metric is at the weight of best FID, chosen for each size by itself, on the validation split by some seeds, and
    measured by the others, in turn.

    Args:
        lower: the claim is that it falls.
        given_up: in its place what the weakest weight has more than that, by the same seeds. Weaker weights than the
            weakest that all sizes have do not count.
    """

    def of(study: Configurations) -> Found:
        study.require(key, "fid")
        if not study.folds:
            raise Unmeasured("one seed and one split: what chose a weight cannot measure it")
        sums = np.zeros((3, len(study.mean(key)), len(study.models)))
        for rows in _places(study):
            sizes = np.unique(study.size[rows])
            values = np.stack([_value(study, key, rows, size, given_up) for size in sizes], axis=-1).round(_DIGITS)
            differences = (-1 if lower else 1) * (values[..., :, None] - values[..., None, :])
            known = np.isfinite(differences)
            signs = [np.where(known, np.sign(v), 0) for v in (differences, sizes[:, None] - sizes)]
            for total, one in zip(sums, (signs[0] * signs[1], abs(signs[0]), abs(signs[1])), strict=True):
                total[:, study.model[rows[0]]] += one.sum((1, 2))
        with np.errstate(all="ignore"):
            found = Each(sums[0] / np.sqrt(sums[1] * sums[2]))
        nothing = f"no model's {words(key)} differs between sizes of the code"
        return Found((found,), each_model(study, found, "tau", nothing))

    what = f"{'falling ' * lower}{words(key)}"
    at = "given up from the weakest weight to that" if given_up else "at the weight"
    what = f"mean over models of Kendall's tau of the size of the code and {what} {at} of best FID"
    return Measure(what, ASSOCIATION, of)


def _places(study: Configurations) -> Iterator[np.ndarray]:
    """Configurations of each model that differ in weights and sizes alone, if their size is known."""
    for rows in study.lines(study.elsewhere):
        if len(rows := rows[np.isfinite(study.size[rows])]):
            yield rows


def _value(study: Configurations, key: str, rows: np.ndarray, size: float, given_up: bool) -> np.ndarray:
    """Of one size the metric at the weight of best FID, or what is given up, (D,)."""
    known = rows[np.isfinite(study.mean(key)[0, rows])]
    if given_up:
        least = weakest(study.weight[known[study.size[known] == other]] for other in np.unique(study.size[known]))
        known = known[study.weight[known] >= least]
    own = known[study.size[known] == size]
    if not len(own) or (given_up and len({*study.weight[own]}) < 2):
        return np.full(len(study.mean(key)), np.nan)
    first = own[study.weight[own].argmin()]
    found = []
    for fold in study.folds:
        chooses, measured = study.chosen_by("fid", fold), study.measured(key, fold)
        costs = np.where(np.isfinite(chooses[:, own] + measured[:, own]), chooses[:, own], np.inf)
        best = np.take_along_axis(measured[:, own], costs.argmin(1)[:, None], 1)[:, 0]
        best = np.where(np.isfinite(costs).any(1), best, np.nan)
        found.append(measured[:, first] - best if given_up else best)
    return average(np.stack(found, axis=-1))
