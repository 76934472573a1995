"""What a claim's measure found: over pairs of models, for each model, or between families of them; and its test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gimtune.analysis.statistics.configurations import Configurations, average
from gimtune.analysis.statistics.inference import Answer, jackknifed, least_of, relabelled, sign_flips

#: The unit of correlations: they have no other values.
ASSOCIATION = "-1 to 1"


@dataclass(frozen=True)
class Across:
    """Sums over pairs of members of two models, (D, M, M) each: signs agreeing, pairs that differ in either."""

    sums: tuple[np.ndarray, np.ndarray, np.ndarray]

    def values(self) -> np.ndarray:
        """Of each draw, (D,)."""
        off = ~np.eye(self.sums[0].shape[1], dtype=bool)
        agreeing, first, second = (np.where(off, s, 0).sum((1, 2)) for s in self.sums)
        return np.asarray(agreeing / np.sqrt(first * second))

    def answer(self, level: float, generator: np.random.Generator) -> Answer:
        """Of the first draw."""
        return jackknifed([s[0] for s in self.sums], level)

    def models(self) -> np.ndarray:
        """Which of them count, (M,)."""
        return np.asarray((self.sums[1][0] + self.sums[2][0]).sum(0) > 0)


@dataclass(frozen=True)
class Each:
    """A number for each model, (D, M), NaN where it has none."""

    numbers: np.ndarray

    def values(self) -> np.ndarray:
        """Of each draw, (D,)."""
        return average(self.numbers[:, self.models()])

    def answer(self, level: float, generator: np.random.Generator) -> Answer:
        """Of the first draw."""
        return sign_flips(self.numbers[0][self.models()], level, generator)

    def models(self) -> np.ndarray:
        """Which of them count, (M,)."""
        return np.isfinite(self.numbers[0])


@dataclass(frozen=True)
class Between:
    """Of each model less each other, (D, M, M), NaN where two cannot be compared; and two families, (M,) each."""

    differences: np.ndarray
    ours: np.ndarray
    theirs: np.ndarray

    def values(self) -> np.ndarray:
        """Of each draw, (D,)."""
        found = self.differences[:, self.ours][:, :, self.theirs]
        return average(found.reshape(len(found), -1))

    def answer(self, level: float, generator: np.random.Generator) -> Answer:
        """Of the first draw."""
        first = self.differences[0]
        return relabelled(first, np.isfinite(first), self.ours, self.theirs, level, generator)

    def models(self) -> np.ndarray:
        """Which of them count, (M,)."""
        return self.ours | self.theirs


class Found(NamedTuple):
    """What a measure found: one part, or several families to be better than; and the numbers in a sentence."""

    parts: Sequence[Across | Each | Between]
    note: str

    def values(self) -> np.ndarray:
        """Of each draw, (D,): of several parts the least."""
        return np.asarray(np.min([part.values() for part in self.parts], axis=0))

    def answer(self, level: float, generator: np.random.Generator) -> Answer:
        """With all parts."""
        return least_of([part.answer(level, generator) for part in self.parts])

    def models(self) -> np.ndarray:
        """Which of them count, (M,)."""
        return np.asarray(np.any([part.models() for part in self.parts], axis=0))


class Measure(NamedTuple):
    """How a claim is measured: the name of the effect in words, its unit, the function, and the families it names."""

    effect: str
    unit: str
    of: Callable[[Configurations], Found]
    families: tuple[Family, ...] = ()


class Family(NamedTuple):
    """Models by their restrictions."""

    name: str
    contains: Callable[[frozenset[str]], bool]

    def among(self, study: Configurations) -> np.ndarray:
        """Which models are of the family, (M,)."""
        return np.array([self.contains(keys) for keys in study.restrictions], dtype=bool)
