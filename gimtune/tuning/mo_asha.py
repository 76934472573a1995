"""Multi-objective asynchronous successive halving: which members go on, decided from what their rungs have seen.

A pure state machine: no Ray, no torch, no clock and no random state. Decisions are a function of the reports and their
order alone, so reading the same reports again gives the same memory.

Source: Schmucker, Donini, Zafar, Salinas, Archambeau 2021 (arXiv 2106.12639), on Li et al. 2020 (ASHA); the epsilon-net
is that of Clarkson 2005 ("Nearest-neighbor searching and metric space dimensions").
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import moocore
import numpy as np
from numpy.typing import NDArray

from gimtune.results.constraints import Bounds, violation
from gimtune.vocabulary import Direction

if TYPE_CHECKING:
    from gimtune.study.schema import Config

PRIORITIES = ("epsilon_net", "scalarisation")
#: Share of the weighted sum beside the weighted maximum; as ParEGO has it (Knowles 2006).
_AUGMENTATION = 0.05

Rows = NDArray[np.float64]


class Rungs:
    """The memory of a study's rungs, and the rule that stops a member there.

    Rungs stand at ``grace * reduction**k`` epochs, rounded up to whole ones, below ``max_epochs``. A member is recorded
    once in each, at its first report at or after it. Among the ``n`` members recorded in a rung so far, itself
    included, it goes on if it is the first, or on their non-dominated front, or its place (1 is best) is at most
    ``floor(n / reduction)``. With one objective and no ties these are ASHA's survivors: that many, or the best one.

    A report that passes several rungs at once is recorded in all of them and decided by the last, which says most; a
    lower rung needs it nonetheless, for otherwise it would rank later members among a part of those that came by. All
    members should report at the same epochs: else a rung compares values of unequal age.

    A stop is final: reports at or after the rung where it fell return ``False`` and are recorded nowhere. Reports
    before it return what they returned at first, so that a member which starts again from a checkpoint takes the same
    way. A member that reports at ``max_epochs`` is recorded and never stopped: there is nothing left to save.

    Args:
        objectives: metric and direction (``min`` or ``max``), one or more; the first starts the epsilon-net.
        max_epochs: of a member that is never stopped.
        grace: epochs of the first rung; nothing stops before it.
        reduction: factor between rungs, and the inverse of the share that goes on.
        priority: the order of members behind the front. ``epsilon_net``: by non-dominated sorting, and within a front
            by `farthest_first`. ``scalarisation``: by a weighted objective (see `scalarised_place`), with weights drawn
            evenly from the simplex for each member: a hash of ``seed`` and its name. They neither change from rung to
            rung nor depend on who came first, so a member is always judged by the trade-off it was dealt.
        seed: of the weights.
        constraints: bounds of metrics. A member beyond them stands behind all feasible ones, and among its like by how
            far beyond it is: it goes on only where its place is high enough, so that a bound which nobody keeps yet
            stops no more members than it has to.

    Attributes:
        epochs: the rungs, in epochs, ascending.

    Raises:
        ValueError: an option out of its range; the message names its key, the value and what is allowed.

    >>> rungs = Rungs({"fid": "min", "probe_codes": "max"}, max_epochs=20, grace=2)
    >>> rungs.epochs
    (2, 6, 18)
    >>> rungs.report("a", 2, {"fid": 9.0, "probe_codes": 0.8})
    True
    >>> rungs.report("b", 2, {"fid": 10.0, "probe_codes": 0.7})
    False
    >>> rungs.report("c", 2, {"fid": 11.0, "probe_codes": 0.9})
    True
    """

    def __init__(
        self,
        objectives: Mapping[str, str],
        *,
        max_epochs: int,
        grace: int = 1,
        reduction: float = 3,
        priority: str = "epsilon_net",
        seed: int = 0,
        constraints: Bounds | None = None,
    ) -> None:
        _check(len(objectives) > 0, "objectives", dict(objectives), "one metric or more")
        for metric, direction in objectives.items():
            _check(direction in ("min", "max"), f"objectives.{metric}", direction, "min, max")
        _check(_whole(max_epochs) and max_epochs >= 1, "budget.epochs", max_epochs, "whole numbers from 1")
        below = f"whole numbers from 1 and below budget.epochs={max_epochs}, so that there is a rung"
        _check(_whole(grace) and 1 <= grace < max_epochs, "scheduler.grace", grace, below)
        number = isinstance(reduction, int | float) and not isinstance(reduction, bool)
        _check(number and 1 < reduction < math.inf, "scheduler.reduction", reduction, "finite numbers above 1")
        _check(priority in PRIORITIES, "scheduler.priority", priority, ", ".join(PRIORITIES))
        _check(_whole(seed) and seed >= 0, "seed", seed, "whole numbers from 0")
        # everything is minimised inside
        self._signs = {metric: -1.0 if d == Direction.MAX else 1.0 for metric, d in objectives.items()}
        self._bounds = constraints or {}
        self._max_epochs, self._reduction, self._priority, self._seed = max_epochs, reduction, priority, seed
        self.epochs = tuple(_milestones(grace, reduction, max_epochs))
        self._clear()

    def _clear(self) -> None:
        self._rungs = {epoch: _Rung(len(self._signs) + 1) for epoch in self.epochs}
        self._stopped: dict[str, int] = {}

    def report(self, member: str, epoch: int, values: Mapping[str, float | None]) -> bool:
        """Take in a member's values; whether it goes on.

        A repeated report changes nothing and returns the same decision, whatever its values. A member with an objective
        that is not finite (``None`` and an absent one count as NaN, as the store has them) ranks behind all others and
        is never on the front: it goes on only where it is the first of a rung and there is nothing to compare it with,
        even if those before it were no better.

        Args:
            epoch: passes over the training split that the values were measured after.
            values: metrics by name, in their own units and directions; others than the objectives are ignored.
        """
        if member in self._stopped:
            return epoch < self._stopped[member]
        new = [e for e in self.epochs if e <= epoch and member not in self._rungs[e].members]
        if not new:
            return True
        row = [_minimised(values.get(metric), sign) for metric, sign in self._signs.items()]
        row.append(violation(self._bounds, values))
        for rung in new:
            self._rungs[rung].append(member, row)
        seen = self._rungs[new[-1]].rows()
        if epoch >= self._max_epochs or goes_on(seen[:, :-1], self._reduction, self._weights(member), seen[:, -1]):
            return True
        self._stopped[member] = new[-1]
        return False

    def rebuild(self, reports: Iterable[Mapping[str, Any]]) -> None:
        """Forget everything, then take in the rows of the store's table ``reports``: ``trial``, ``epoch``, metrics.

        Args:
            reports: in the order of arrival, that of ``rowid``: `gimtune.results.store.Store.reports` has it if asked.
        """
        self._clear()
        for row in reports:
            self.report(str(row["trial"]), int(row["epoch"]), row)

    @property
    def stopped(self) -> dict[str, int]:
        """Members that were told to stop, and the rung (epochs) where; in the order in which they were."""
        return dict(self._stopped)

    @property
    def recorded(self) -> dict[int, dict[str, tuple[float, ...]]]:
        """By rung (epochs) and member, the objectives' values in their own directions; in the order of arrival."""
        signs = np.array(list(self._signs.values()))
        return {
            epoch: dict(zip(rung.members, map(tuple, (rung.rows()[:, :-1] * signs).tolist()), strict=True))
            for epoch, rung in self._rungs.items()
        }

    def _weights(self, member: str) -> Rows | None:
        if self._priority == "epsilon_net":
            return None
        # exponential variates over their sum are uniform on the simplex; a hash, so that no library's version matters
        drawn = [-math.log(_uniform(f"{self._seed}/{member}/{metric}")) for metric in self._signs]
        return np.array(drawn) / sum(drawn)


def make_rungs(config: Config) -> Rungs:
    """Empty rungs as the configuration has them.

    Raises:
        ValueError: an option that does not fit the budget; the message names its key.
    """
    return Rungs(
        dict(config.objectives),
        max_epochs=config.budget.epochs,
        grace=config.scheduler.grace or config.budget.evaluate_every,
        reduction=config.scheduler.reduction,
        priority=config.scheduler.priority,
        seed=config.seed,
        constraints=config.bounds,
    )


class _Rung:
    """Members in the order of arrival, and their values: a growing buffer each objective, and one of what is violated.

    By column, because NumPy reduces over a long axis many times faster than over a short one.
    """

    def __init__(self, columns: int) -> None:
        self.members: dict[str, None] = {}
        self._columns = [array("d") for _ in range(columns)]

    def append(self, member: str, row: Iterable[float]) -> None:
        self.members[member] = None
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def rows(self) -> Rows:
        return np.array([np.frombuffer(column) for column in self._columns]).T


def goes_on(rows: Rows, reduction: float, weights: Rows | None = None, violated: Rows | None = None) -> bool:
    """Whether the last of a rung's rows goes on: it is the first, on the front or high enough.

    High enough is a place, from 1 for the best, of at most ``floor(len(rows) / reduction)``. Rows that are not finite
    count, and stand behind all others.

    The order of the other rows does not matter. Equal rows share the place of the first of them, and do not push others
    of their front back: the net is one of points.

    Args:
        rows: (members, objectives), all minimised.
        reduction: inverse of the share that goes on.
        weights: (objectives,), to go by `scalarised_place`; without, by `fronts` and `farthest_first`.
        violated: (members,), how far each is beyond the study's constraints, 0 within. Those beyond stand behind those
            within, in this order (Deb et al. 2002, definition 1).
    """
    if len(rows) == 1:
        return True
    if violated is not None and violated.any():
        if violated[-1] > 0:
            ahead = _finite(rows) & (violated < violated[-1])
            return bool(_finite(rows)[-1]) and int(ahead.sum()) < math.floor(len(rows) / reduction)
        rows = np.where(violated[:, None] > 0, math.nan, rows)
    finite = _finite(rows)
    # also in a rung where none is finite: n diverged members are no reason to spend epochs on one of them
    if not finite[-1]:
        return False
    dominating = int((finite & (rows <= rows[-1]).all(axis=1) & (rows < rows[-1]).any(axis=1)).sum())
    if dominating == 0:
        return True
    kept = math.floor(len(rows) / reduction)
    if weights is not None:
        return scalarised_place(rows, weights) <= kept
    # each of those is in a front before its own; sorting is what grows with the rung, and most members need none
    if dominating >= kept:
        return False
    ranks = fronts(rows)
    front, room = rows[ranks == ranks[-1]], kept - int((ranks < ranks[-1]).sum())
    # only the front that the threshold cuts needs an order within
    if room <= 0 or len(front) <= room:
        return room > 0
    # sorted along the first objective, then the next: neither start nor ties depend on the order of arrival
    points, index = np.unique(front, axis=0, return_inverse=True)
    return int(index.reshape(-1)[-1]) in islice(farthest_first(points), room)


def fronts(rows: Rows) -> NDArray[np.int64]:
    """Front of every row by non-dominated sorting, 0 for the non-dominated; equal rows share a front.

    Args:
        rows: (members, objectives), all minimised. Those that are not finite get their number, ``len(rows)``, which
            stands behind any front.
    """
    finite = _finite(rows)
    ranks = np.full(len(rows), len(rows), dtype=np.int64)
    if finite.any():
        ranks[finite] = moocore.pareto_rank(rows[finite])
    return ranks


def farthest_first(points: Rows) -> Iterator[int]:
    """Indices of points, well spread from the start on: an epsilon-net for every epsilon.

    The first point comes first, then always the one whose nearest predecessor is farthest, the earlier of two equals.
    Distances are Euclidean in units of each objective's range over these points, not over the rung: a dominated
    outlier elsewhere does not flatten an objective here.

    Args:
        points: (points, objectives), finite and distinct.

    Source: Clarkson 2005, p. 17, as in Schmucker et al. 2021.
    """
    half = points / 2  # the range of two halves does not overflow
    span = np.ptp(half, axis=0)
    span[span == 0] = 1.0
    nearest = np.full(len(points), np.inf)
    chosen = 0
    for _ in range(len(points)):
        yield chosen
        # differences before the division: equal gaps are then equally long, wherever they lie
        nearest = np.minimum(nearest, (((half - half[chosen]) / span) ** 2).sum(axis=1))
        nearest[chosen] = -1.0
        chosen = int(nearest.argmax())


def scalarised_place(rows: Rows, weights: Rows) -> int:
    """Place of the last row, 1 for the best, by ``max_j w_j y_j + 0.05 sum_j w_j y_j``; equal values share the best.

    ``y`` is a row in units of the range of the finite rows, 0 for the best value and 1 for the worst. The maximum
    reaches members on concave parts of a front, which a weighted sum alone never prefers.

    Args:
        rows: (members, objectives), all minimised, the last one finite.
        weights: (objectives,), adding up to 1.

    Source: Knowles 2006 (ParEGO), our choice; Schmucker et al. 2021 have random weights as the alternative to sorting.
    """
    half = np.compress(_finite(rows), rows.T, axis=1) / 2  # the range of two halves does not overflow
    low, span = half.min(axis=1, keepdims=True), np.ptp(half, axis=1, keepdims=True)
    span[span == 0] = 1.0
    weighted = weights[:, None] * ((half - low) / span)
    scores = weighted.max(axis=0) + _AUGMENTATION * weighted.sum(axis=0)
    return 1 + int((scores < scores[-1]).sum())


def _finite(rows: Rows) -> NDArray[np.bool_]:
    return np.logical_and.reduce(np.isfinite(rows), axis=1)


def _milestones(grace: int, reduction: float, max_epochs: int) -> Iterator[int]:
    last = power = 0
    # rounded first: 100 * 1.1 is 110.00000000000001, and the rung stands at 110
    while (exact := round(grace * reduction**power, 9)) <= max_epochs - 1:
        epoch = math.ceil(exact)
        if epoch > last:
            yield epoch
        last = epoch
        # powers that come to the same epoch are skipped: a factor next to 1 has millions of them
        power = max(power + 1, math.floor(math.log((epoch + 1e-9) / grace, reduction)))


def _minimised(value: float | None, sign: float) -> float:
    return math.nan if value is None else sign * float(value)


def _uniform(key: str) -> float:
    """A number in (0, 1) that is the key's."""
    return (int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") + 0.5) / 2**48


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(right: bool, key: str, value: object, allowed: str) -> None:
    if not right:
        raise ValueError(f"{key}={value}: allowed are {allowed}")
