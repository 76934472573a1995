"""A member's course, evaluation by evaluation: with which weights it ends, and whether it had levelled off.

Everything here is decided on the validation split, while the member is trained and again from its reports afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from gimtune.vocabulary import Direction

#: Evaluations without progress that levelling off takes at least, where a study states no patience.
WINDOW = 3


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

    A member has levelled off when neither a watched metric nor the loss, where it is chosen by that, has become better
    by more than its standard error over the last evaluations: the best value among them against the best before. The
    loss alone would say too little: a beta-VAE's on digits stays within its error while its Frechet distance falls by a
    third. These are the later half of all evaluations, since progress slows as training goes on and what the last
    doubling brought is what the next is to be judged by; and at least ``patience`` of them. Of a member that ends with
    its last weights, whatever they are, the last evaluation must not be worse than the best before by more than the
    error either: its numbers would depend on when it ends.

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
        self._best = 0

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
        new = len(self._epochs) - 1
        if self.restore is Restore.LAST or not any(self._dominates(old, new) for old in range(new)):
            self._best = new
        return self._best == new

    def _dominates(self, one: int, other: int) -> bool:
        pairs = [(values[one], values[other]) for values in map(self._values.__getitem__, self._chosen_by)]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    @property
    def best(self) -> int | None:
        """The epoch whose weights are those to end with; ``None`` before the first evaluation."""
        return self._epochs[self._best] if self._epochs else None

    @property
    def levelled(self) -> bool:
        """Whether it has levelled off."""
        count = len(self._epochs)
        late = max(self._patience, count // 2)
        if count <= late:
            return False
        known = [metric for metric, values in self._values.items() if any(map(math.isfinite, values))]
        return bool(known) and not any(self._moved(metric, count - late) for metric in known)

    def _moved(self, metric: str, since: int) -> bool:
        values, errors = self._values[metric], self._errors[metric]
        before = min(range(since), key=values.__getitem__)
        after = min(range(since, len(values)), key=values.__getitem__)
        if not math.isfinite(values[before]):
            return math.isfinite(values[after])
        ahead = [values[before] - values[after] > math.hypot(errors[before], errors[after])]
        if self.restore is Restore.LAST:
            ahead.append(values[-1] - values[before] > math.hypot(errors[before], errors[-1]))
        return any(ahead)

    def state(self) -> dict[str, Any]:
        """Plain values that `resumed` goes on from."""
        return {"epochs": self._epochs, "values": self._values, "errors": self._errors, "best": self._best}

    def resumed(self, state: Mapping[str, Any]) -> Course:
        """Itself, as it was when it gave the ``state``."""
        self._epochs, self._best = [*state["epochs"]], state["best"]
        self._values = {metric: [*values] for metric, values in state["values"].items()}
        self._errors = {metric: [*values] for metric, values in state["errors"].items()}
        return self


def _finite(value: Any, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise
