"""Configurations by their means over seeds, effects over pairs of them, and intervals that draw configurations anew."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from gimtune.results.varied import parameters, varied
from gimtune.vocabulary import ALIKE

#: Configurations that an effect needs; in a comparison of two groups, each of them.
FEWEST = 5
#: What is measured of a configuration, on both splits.
MEASURED = ("fid", "fid_expost", "probe_codes", "mi_noised", "mi_lower", "likelihood_x")
#: What it is: pairs are among those that agree in some of these.
LABELS = ("data", *ALIKE, "model", "likelihood_name", "prior", "latent_dim", "network")

_UNDEFINED = 0.05
_FOLDS = 5


class Effect(NamedTuple):
    """An effect and its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2g} [{self.low:.2g}, {self.high:.2g}]"


#: Of what cannot be measured.
NOTHING = Effect(math.nan, math.nan, math.nan)


class Unmeasured(ValueError):
    """Why an effect cannot be measured."""


#: From weights of configurations, (draws, configurations), to the effect of each draw.
Statistic = Callable[[np.ndarray], np.ndarray]


class Fold(NamedTuple):
    """Means over some seeds that choose a front, on the validation split, and those of others that are measured."""

    fid: np.ndarray
    probe_codes: np.ndarray
    measured_fid: np.ndarray
    measured_probe_codes: np.ndarray


@dataclass(frozen=True)
class Configurations:
    """Configurations in a fixed order: what they are, and their means over seeds.

    Attributes:
        prefix: of the columns that are measured.
        values: of each metric's column, the means.
        labels: of each column in `LABELS`, a number for each value; and of each that varies in the study, -1 for none.
        varied: those, but for parameters of single models.
        restrictions: ``posterior_kl`` and so on; none where they cannot be read.
        trials: number of seeds.
        folds: of the seeds; where no configuration has two, the two splits; none on a single split.
        draws: how often each configuration is in each draw of the bootstrap.
    """

    prefix: str
    values: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    varied: tuple[str, ...]
    restrictions: list[frozenset[str]]
    trials: np.ndarray
    folds: list[Fold]
    draws: np.ndarray
    level: float

    def __getitem__(self, key: str) -> np.ndarray:
        return self.values[self.prefix + key]

    def __len__(self) -> int:
        return len(self.trials)

    def require(self, *keys: str) -> None:
        """Refuse metrics that no configuration has."""
        if not len(self):
            raise Unmeasured("no trial has ended well")
        for key in keys:
            if not np.isfinite(self[key]).any():
                raise Unmeasured(f"no trial has {self.prefix}{key}")

    def group(self, *columns: str) -> np.ndarray:
        """Number of those that agree in these columns and were measured alike."""
        labels = np.stack([self.labels[c] for c in ("data", *ALIKE, *columns)])
        return np.unique(labels, axis=1, return_inverse=True)[1].ravel()

    def same(self, *columns: str) -> np.ndarray:
        """Pairs of one group."""
        group = self.group(*columns)
        return group[:, None] == group

    def alike(self, *columns: str) -> np.ndarray:
        """Pairs of one group that agree in all else that varies, as far as both have it (a critic's steps, say)."""
        found = self.same(*columns)
        for key in self.varied:
            label = self.labels[key]
            found &= (label[:, None] == label) | (label[:, None] < 0) | (label < 0)
        return found

    def freedom(self, used: np.ndarray, *within: str) -> int:
        """Configurations used, less one for each group but the first."""
        return int(used.sum()) - max(len(np.unique(self.group(*within)[used])), 1) + 1

    def effect(self, statistic: Statistic, size: int) -> Effect:
        """A statistic and its interval, with the uncertainty of ``size`` configurations.

        Raises:
            Unmeasured: too few of them, or not defined.
        """
        if size < FEWEST:
            raise Unmeasured(f"too few configurations: {size}, of {FEWEST} needed")
        value = float(statistic(np.ones((1, len(self)), dtype=np.float32))[0])
        drawn = statistic(self.draws)
        drawn = drawn[np.isfinite(drawn)]
        if not math.isfinite(value) or len(drawn) < (1 - _UNDEFINED) * len(self.draws):
            raise Unmeasured("too few pairs that differ")
        tail = special.ndtr(-math.sqrt(size / (size - 1)) * special.stdtrit(size - 1, (1 + self.level) / 2))
        return Effect(value, *map(float, np.quantile(drawn, [tail, 1 - tail])))


def gathered(
    trials: pd.DataFrame, prefix: str, draws: int, level: float, generator: np.random.Generator
) -> Configurations:
    """Configurations of trials that are numbered by theirs in the column ``configuration``."""
    own = parameters(trials)
    more = tuple(key for key in varied(trials) if key not in own)
    _, first, of = np.unique(trials["configuration"].to_numpy(), return_index=True, return_inverse=True)
    size = len(first)
    sizes = np.bincount(of, minlength=size)
    columns = {p + key: trials[p + key].to_numpy(dtype=float) for p in {"", prefix} for key in MEASURED}

    def mean(column: str, rows: np.ndarray) -> np.ndarray:
        rows = rows & np.isfinite(columns[column])
        sums, counts = np.bincount(of[rows], columns[column][rows], size), np.bincount(of[rows], None, size)
        # to single precision, so that equal means are ties whatever the order of their sums
        return np.divide(sums, counts, out=np.full(size, math.nan), where=counts > 0).astype(np.float32).astype(float)

    order = np.lexsort([trials["seed"].to_numpy(dtype=float), of])
    fold = np.empty_like(of)
    fold[order] = (np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)) % _FOLDS
    every = np.ones(len(of), dtype=bool)
    parts = [(fold != i, fold == i) for i in np.unique(fold)] if fold.any() else [(every, every)] if prefix else []
    keys = Fold._fields[:2]
    drawn = generator.multinomial(size, np.full(size, 1 / size), draws) if size else np.empty((draws, 0))
    return Configurations(
        prefix,
        {column: mean(column, every) for column in columns},
        {column: pd.factorize(trials[column].to_numpy()[first])[0] for column in (*LABELS, *more)},
        more,
        [_restrictions(text) for text in trials["restrictions"].to_numpy()[first]],
        sizes,
        [Fold(*(mean(k, some) for k in keys), *(mean(prefix + k, rest) for k in keys)) for some, rest in parts],
        drawn.astype(np.float32),
        level,
    )


def _restrictions(text: object) -> frozenset[str]:
    try:
        keys = json.loads(str(text))
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(map(str, keys)) if isinstance(keys, list) else frozenset()


class Pairs(NamedTuple):
    """An effect w'Nw / sqrt(w'Aw w'Bw) of weights w of configurations; A and B are 1 for pairs that count, else 0."""

    numerator: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def ratio(self, weights: np.ndarray) -> np.ndarray:
        """The effect for each draw's weights."""
        return ratio(self.sums(weights))

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """w'Nw, w'Aw and w'Bw for each draw's weights."""
        return np.stack([np.einsum("dc,dc->d", weights @ pairs, weights) for pairs in self])

    @property
    def both(self) -> np.ndarray:
        """Pairs that count in A and in B."""
        return (self.first > 0) & (self.second > 0)

    @property
    def used(self) -> np.ndarray:
        """Configurations that are in such a pair."""
        return np.asarray(self.both.any(0))


def ratio(sums: np.ndarray) -> np.ndarray:
    """The effect of the three sums that `Pairs.sums` gives, one after the other."""
    return sums[0] / np.sqrt(sums[1] * sums[2])


def difference(values: np.ndarray) -> np.ndarray:
    """Of each value less each other, by row and column."""
    return values[:, None] - values


def kendall(x: np.ndarray, y: np.ndarray, among: np.ndarray) -> Pairs:
    """Tau-b over pairs ``among`` those where both are known."""
    known = np.isfinite(x) & np.isfinite(y)
    signs = [np.where(among & known & known[:, None], np.sign(difference(v)), 0).astype(np.float32) for v in (x, y)]
    return Pairs(signs[0] * signs[1], abs(signs[0]), abs(signs[1]))


def mean_over(pairs: np.ndarray, values: np.ndarray) -> Pairs:
    """Mean of a pair's value, over pairs where it is known."""
    counts = (pairs & np.isfinite(values)).astype(np.float32)
    return Pairs(np.where(counts > 0, values, 0).astype(np.float32), counts, counts)
