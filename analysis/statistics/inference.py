"""From per-model numbers to p-values and intervals with models as the clusters: exact where they can be counted.

Every test is two-sided, as twice the smaller of its two tails, so that a verdict for a claim and one against it are
wrong with half of its level each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

#: Draws where there are too many relabellings to count, and how far they grow while a verdict hangs on them.
DRAWS, MOST_DRAWS = 20_000, 320_000
#: Up to so many are counted one by one.
_COUNTED = 1 << 17
#: Models that a jackknife needs.
FEWEST = 6
#: Sums that differ by less are equal.
_TIE = 1e-9


class Answer(NamedTuple):
    """What a test says.

    Attributes:
        value, low, high: the effect and its interval; infinite where so few models bound nothing.
        above, below: one-sided p-values of a positive and of a negative effect.
        least: smallest two-sided p-value that so many models can give.
        error: Monte Carlo standard error of the two-sided p-value; 0 where all relabellings were counted.
    """

    value: float
    low: float
    high: float
    above: float
    below: float
    least: float
    error: float = 0.0

    @property
    def p(self) -> float:
        """Two-sided."""
        return min(1.0, 2 * min(self.above, self.below))


def sign_flips(values: np.ndarray, level: float, generator: np.random.Generator) -> Answer:
    """Mean of one number for each model, under the null hypothesis that its sign is as likely to be the other.

    The interval has the means of subsets as its ends. Source: Fisher 1935, section 21; Hartigan 1969.
    """
    size = len(values)
    exact = 2**size <= _COUNTED
    draws = 2**size if exact else DRAWS
    while True:
        if exact:
            kept = (np.arange(draws)[:, None] >> np.arange(size) & 1).astype(float)
        else:
            kept = np.vstack([np.ones(size), generator.integers(0, 2, (draws - 1, size)).astype(float)])
        sums = 2 * kept @ values - values.sum()
        scale = _TIE * max(1.0, float(abs(values).sum()))
        above, below = (float(np.mean(side)) for side in (sums >= values.sum() - scale, sums <= values.sum() + scale))
        error = 0.0 if exact else _error(above, below, draws)
        if exact or draws >= MOST_DRAWS or _clear(above, below, error, level):
            break
        draws *= 2
    some = kept.sum(1) > 0
    means = np.sort(kept[some] @ values / kept[some].sum(1))
    low, high = _ends(means, int((1 - level) / 2 * draws + _TIE))
    return Answer(float(values.mean()), low, high, above, below, 2.0 * 2.0**-size, error)


def relabelled(
    differences: np.ndarray,
    pairs: np.ndarray,
    ours: np.ndarray,
    theirs: np.ndarray,
    level: float,
    generator: np.random.Generator,
) -> Answer:
    """Mean difference of models of two families, under the null hypothesis that a model could be of either.

    Args:
        differences: of each model less each other, (M, M), antisymmetric.
        pairs: which of them can be compared, (M, M).
        ours, theirs: of which family a model is, (M,).

    All ways to name as many of the models "ours" are counted (drawn, where there are too many). The interval has the
    shifts of our models that are not refused. Source: Pitman 1937; Garthwaite 1996 for the interval.
    """
    there = ours | theirs
    ours, pairs = ours[there], pairs[np.ix_(there, there)]
    differences = np.where(pairs, differences[np.ix_(there, there)], 0.0)
    size, number = len(ours), int(ours.sum())
    counts = math.comb(size, number)
    exact = counts <= _COUNTED
    draws = counts if exact else DRAWS
    apart = np.where(pairs, ours[:, None].astype(float) - ours, 0.0)
    while True:
        labels = np.zeros((draws, size))
        if exact:
            chosen = np.array([*itertools.combinations(range(size), number)])
        else:
            chosen = np.argsort(generator.random((draws, size)), axis=1)[:, :number]
            chosen[0] = np.flatnonzero(ours)
        labels[np.arange(draws)[:, None], chosen] = 1.0

        def means(of: np.ndarray, labels: np.ndarray = labels) -> np.ndarray:
            weights = np.einsum("rm,rm->r", labels @ pairs, 1 - labels)
            with np.errstate(all="ignore"):
                return np.asarray(np.einsum("rm,rm->r", labels @ of, 1 - labels) / weights)

        found, shares = means(differences), means(apart)
        value = float(differences[ours][:, ~ours].sum() / pairs[ours][:, ~ours].sum())
        known = np.isfinite(found)
        found, shares = found[known], shares[known]
        scale = _TIE * max(1.0, float(abs(differences).max()))
        above, below = (float(np.mean(side)) for side in (found >= value - scale, found <= value + scale))
        error = 0.0 if exact else _error(above, below, draws)
        if exact or draws >= MOST_DRAWS or _clear(above, below, error, level):
            break
        draws *= 2
    moved = shares < 1 - _TIE
    shifts = np.sort((value - found[moved]) / (1 - shares[moved]))
    low, high = _ends(shifts, int((1 - level) / 2 * len(found) + _TIE))
    return Answer(value, low, high, above, below, 2 / counts, error)


def _ends(values: np.ndarray, rank: int) -> tuple[float, float]:
    """The values of a rank from either end, of which the identity is the first and lies outside."""
    return (float(values[rank - 1]), float(values[-rank])) if 0 < rank <= len(values) else (-math.inf, math.inf)


def _error(above: float, below: float, draws: int) -> float:
    p = min(above, below)
    return 2 * math.sqrt(max(p * (1 - p), 1 / draws) / draws)


def _clear(above: float, below: float, error: float, level: float) -> bool:
    """Whether the Monte Carlo error is below a tenth of the distance from the level."""
    return error <= abs(2 * min(above, below) - (1 - level)) / 10


def jackknifed(sums: Sequence[np.ndarray], level: float) -> Answer:
    """Tau-b over pairs of different models, with the t interval of leaving models out one by one.

    Args:
        sums: over pairs of members of two models, (M, M) each: signs agreeing less differing, pairs that differ in the
            one, and in the other.

    No pair is of a model with its own copy, as it would be under a bootstrap of models. Source: Arvesen 1969.

    Where all pairs agree, leaving models out moves nothing. If the two numbers had nothing to do with each other, this
    would be one of the M! orders of M models, which is the p-value; the interval is as wide as if one pair did not
    agree.
    """
    off = [np.where(np.eye(len(s), dtype=bool), 0.0, s) for s in sums]
    whole, rows = [s.sum() for s in off], [s.sum(0) + s.sum(1) for s in off]
    used = rows[1] + rows[2] > 0
    size = int(used.sum())
    value = whole[0] / math.sqrt(whole[1] * whole[2])
    less = [w - r[used] for w, r in zip(whole, rows, strict=True)]
    left = less[0] / np.sqrt(less[1] * less[2])
    pseudo = size * value - (size - 1) * left
    spread = float(np.std(pseudo, ddof=1) / math.sqrt(size)) if size > 1 else math.nan
    least = 0.0 if size >= FEWEST else 1.0
    if least == 0 and abs(value) > 1 - _TIE:
        almost = np.ones((size, size))
        almost[0, 1] = almost[1, 0] = -1
        width = jackknifed([almost, abs(almost), abs(almost)], level)
        half, chance = width.value - width.low, 1 / math.factorial(size)
        ends = (1 - half, 1.0) if value > 0 else (-1.0, half - 1)
        return Answer(value, *ends, *((chance, 1.0) if value > 0 else (1.0, chance)), least)
    if not spread > _TIE:
        return Answer(value, -math.inf, math.inf, 1.0, 1.0, 1.0)
    half = special.stdtrit(size - 1, (1 + level) / 2) * spread
    below = float(special.stdtr(size - 1, value / spread))
    return Answer(value, max(-1.0, value - half), min(1.0, value + half), 1 - below, below, least)


def least_of(answers: Sequence[Answer]) -> Answer:
    """Better than each of several: the claim needs them all, and one that is better refutes it.

    For the claim the largest p-value counts (Berger 1982), against it the smallest, times their number.
    """
    weakest = min(answers, key=lambda a: a.value)
    above, below = max(a.above for a in answers), min(1.0, len(answers) * min(a.below for a in answers))
    least = min(max(a.least for a in answers), len(answers) * min(a.least for a in answers))
    return Answer(*weakest[:3], above, below, least, max(a.error for a in answers))


def decidable(least: Sequence[float], alpha: float) -> list[bool]:
    """Which of several tests can be decided at all when they share ``alpha``.

    As many models as there are bound the p-value from below, whatever was measured, so a test that cannot pass takes
    nothing from the others. Source: Tarone 1990.
    """
    for count in range(1, len(least) + 1):
        able = [p <= alpha / count for p in least]
        if sum(able) <= count:
            return able
    return [False] * len(least)


def enough(least: Sequence[float], at: int, alpha: float) -> float:
    """The largest p-value that a test would have to be able to give for it to be decidable among the others."""
    shares = [alpha / count for count in range(1, len(least) + 1)]
    return next(p for p in shares if decidable([*least[:at], p, *least[at + 1 :]], alpha)[at])


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: any of them below a level is wrong in at most that share of studies. Source: Holm 1979."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[order] * np.arange(len(p), 0, -1)))
    return [float(x) for x in adjusted]


def models_needed(ours: int, theirs: int, alpha: float) -> tuple[int, int]:
    """The fewest models of two families, the smaller growing first, whose relabellings can give ``alpha``."""
    while 2 / math.comb(ours + theirs, ours) > alpha:
        ours, theirs = (ours + 1, theirs) if ours <= theirs else (ours, theirs + 1)
    return ours, theirs
