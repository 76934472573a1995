"""A member's course, evaluation by evaluation: with which weights it ends, and whether it had levelled off.

Everything here is decided on the validation split, while the member is trained and again from its reports afterwards.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from gimtune.vocabulary import Direction

#: Evaluations without progress that levelling off takes at least, where a study states no patience.
WINDOW = 3


def enough(patience: int | None) -> int:
    """Evaluations that levelling off takes at least: no member of fewer is known to have."""
    return next(count for count in itertools.count(1) if count > _late(count, patience or WINDOW))


def _late(count: int, patience: int) -> int:
    return max(patience, math.ceil(2 * count / 3))


class Restore(StrEnum):
    """By what the weights are chosen that a member ends with."""

    LOSS = "loss"
    OBJECTIVES = "objectives"
    LAST = "last"


class Course:
    """What a member's evaluations were, of the metrics that are watched.

    A member ends with the weights of its last evaluation that no earlier one dominates: by the loss alone, the lowest,
    or by all that is watched, the objectives. That needs no exchange rate between them: weights are gone back to only
    where training on made nothing better. Such a choice among noisy evaluations flatters the values it is made by,
    which are those of the validation split; the test split is measured afterwards, of the chosen weights alone.

    A member has levelled off when more epochs have long changed nothing by more than the errors of two measurements.
    In the later two thirds of all evaluations, and at least the last ``patience``, no metric became better than the
    best before them (of those watched, and the loss where it is chosen by that), and the weights to end with measure no
    other than those that it would have ended with before them. Both are asked, since the best of several noisy values
    keeps falling, and a choice may trade one objective for the other; the loss alone would say too little, since a
    beta-VAE's on digits stays within its error while its Frechet distance falls by a third. Two thirds, since progress
    goes with the logarithm of the epochs: doubling them brings .63 of what tripling them brought, which leaves room for
    noise.

    The errors are combined as those of independent measurements, and two evaluations of a member are not: they share
    the real images and the codes. So this is a tolerance, what other images would have changed, and not a test that
    nothing moves.

    Args:
        watched: metrics with their directions.
        restore: the rule.
        patience: evaluations.
    """

    def __init__(self, watched: Mapping[str, str], restore: str = Restore.LAST, patience: int | None = None) -> None:
        self.restore, self._patience = Restore(restore), patience or WINDOW
        by_loss = {"loss": Direction.MIN} if self.restore is Restore.LOSS else {}
        ways = {**by_loss, **watched}
        self._signs = {metric: -1.0 if way == Direction.MAX else 1.0 for metric, way in ways.items()}
        self._chosen_by = [*by_loss] or [*watched]
        self._epochs: list[int] = []
        self._values: dict[str, list[float]] = {metric: [] for metric in ways}
        self._errors: dict[str, list[float]] = {metric: [] for metric in ways}
        # the evaluation whose weights are those to end with, as of each
        self._chosen: list[int] = []

    def take(self, epoch: int, row: Mapping[str, Any]) -> bool:
        """Enter an evaluation; returns whether its weights are those to end with, so far.

        Args:
            row: metrics by name, and their standard errors with ``_se`` behind it; what is absent or not finite is
                worse than any number.
        """
        for metric, sign in self._signs.items():
            self._values[metric].append(sign * _finite(row.get(metric), sign * math.inf))
            self._errors[metric].append(_finite(row.get(f"{metric}_se"), 0.0))
        self._epochs.append(epoch)
        self._choose()
        return self._chosen[-1] == len(self._epochs) - 1

    def _choose(self) -> None:
        new = len(self._chosen)
        kept = self.restore is not Restore.LAST and any(self._dominates(old, new) for old in range(new))
        self._chosen.append(self._chosen[-1] if kept else new)

    def _dominates(self, one: int, other: int) -> bool:
        pairs = [(values[one], values[other]) for values in map(self._values.__getitem__, self._chosen_by)]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    @property
    def best(self) -> int | None:
        """The epoch whose weights are those to end with; ``None`` before the first evaluation."""
        return self._epochs[self._chosen[-1]] if self._epochs else None

    @property
    def levelled(self) -> bool:
        """Whether it has levelled off."""
        count = len(self._epochs)
        late = _late(count, self._patience)
        if count <= late:
            return False
        known = [metric for metric, values in self._values.items() if any(map(math.isfinite, values))]
        return bool(known) and not any(self._moved(metric, count - late) for metric in known)

    def _moved(self, metric: str, since: int) -> bool:
        values = self._values[metric]
        before = min(range(since), key=values.__getitem__)
        after = min(range(since, len(values)), key=values.__getitem__)
        then, now = self._chosen[since - 1], self._chosen[-1]
        ahead, changed = values[before] - values[after], abs(values[then] - values[now])
        # where both are undefined the difference is NaN, and nothing has moved
        return ahead > self._error(metric, before, after) or changed > self._error(metric, then, now)

    def _error(self, metric: str, one: int, other: int) -> float:
        return math.hypot(self._errors[metric][one], self._errors[metric][other])

    def state(self) -> dict[str, Any]:
        """Plain values that `resumed` goes on from."""
        return {"epochs": self._epochs, "values": self._values, "errors": self._errors}

    def resumed(self, state: Mapping[str, Any]) -> Course:
        """Itself, as it was when it gave the ``state``."""
        self._epochs = [*state["epochs"]]
        self._values = {metric: [*values] for metric, values in state["values"].items()}
        self._errors = {metric: [*values] for metric, values in state["errors"].items()}
        self._chosen = []
        for _ in self._epochs:
            self._choose()
        return self


def _finite(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise
