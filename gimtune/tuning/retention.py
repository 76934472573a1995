"""What a run keeps: weights of finished members that no other of their model dominates, and copies of its results."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback

from gimtune.results.backup import back_up
from gimtune.results.constraints import stated, violation
from gimtune.results.store import Store
from gimtune.tuning.packs import called, rows_of
from gimtune.vocabulary import ENDED, Direction, Member

#: Seconds between two copies of the results.
_EVERY = 180.0
_GROUP = ("model", "data", "fid_features")
Point = tuple[float, ...]


class BackUp(Callback):
    """A Tune callback that copies the results every few minutes (`gimtune.results.backup`).

    Args:
        run: the run folder.
    """

    def __init__(self, run: Path) -> None:
        self._run, self._last = run, time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._last > _EVERY:
            back_up(self._run)
            self._last = time.monotonic()


class Retention(Callback):
    """A Tune callback that drops ``members/<trial>.pt`` of dominated members, so that disk does not grow with trials.

    It comes after the one that writes reports. Samples stay, and so do all numbers; a member's own line trains it anew.

    Args:
        store: open for writing; what an earlier driver left is dropped at once.
        run: the run folder.
        objectives: metrics with their directions, on the validation split.
    """

    def __init__(self, store: Store, run: Path, objectives: Mapping[str, str]) -> None:
        self._store, self._run = store, run
        self._signs = {metric: -1.0 if way == Direction.MAX else 1.0 for metric, way in objectives.items()}
        self._bounds = stated(store.meta)
        self._fronts: dict[tuple[str, ...], dict[str, Point]] = {}
        known = store.trials()
        self._drop([name for row in known[known["status"].isin(ENDED)].to_dict("records") for name in self._take(row)])

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        shared = Member.from_json(trial.config["pack"]["members"][0])
        group = {"model": shared.model, "data": called(shared.data)}
        ended = [row for row in rows_of(result).values() if row["status"] in ENDED]
        self._drop([name for row in ended for name in self._take({**group, **row})])

    def _take(self, row: Mapping[Any, Any]) -> list[str]:
        """Enter a member; returns those that are dominated now, itself perhaps."""
        name = row["trial"]
        point = tuple(sign * (math.nan if (v := row.get(m)) is None else v) for m, sign in self._signs.items())
        # an infeasible member takes no other's place
        beyond = str(violation(self._bounds, row) > 0)
        front = self._fronts.setdefault((*(str(row.get(column)) for column in _GROUP), beyond), {})
        if not all(map(math.isfinite, point)) or any(_dominates(other, point) for other in front.values()):
            return [name]
        lost = [other for other, there in front.items() if _dominates(point, there)]
        for other in lost:
            del front[other]
        front[name] = point
        return lost

    def _drop(self, names: list[str]) -> None:
        self._store.forget(names)
        for name in names:
            (self._run / "members" / f"{name}.pt").unlink(missing_ok=True)


def _dominates(one: Point, other: Point) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
