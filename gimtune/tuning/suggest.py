"""A study's packs behind Ray's searcher: those that are planned, then Optuna's, asked for when they can start.

Planned ones come this way too, because Ray copies a grid as a whole for every trial that it makes of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from gimtune.tuning.packs import Pack, rows_of
from gimtune.tuning.search import Proposals
from gimtune.vocabulary import ENDED, Member, Status


class Suggestions(Searcher):
    """Packs that are planned first, then new ones until the study has its members.

    Args:
        waiting: planned packs, of a grid or of an earlier driver.
        begin: makes a pack a trial's configuration, and writes a new one into the store.
        proposals: whom to ask for more; ``None`` where all are planned.
        left: members still to be asked for.
        most: members that may share a pack with this one.
        stopping: whether no further pack is to start.
    """

    def __init__(
        self,
        waiting: list[Pack],
        begin: Callable[[Pack], dict[str, Any]],
        proposals: Proposals | None = None,
        left: int = 0,
        most: Callable[[Member], int] = lambda first: 1,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._waiting, self._proposals, self._left = deque(waiting), proposals, left
        self._most, self._begin, self._stopping = most, begin, stopping
        self._running: dict[str, list[str]] = {}
        self.exhausted = False

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles it to restore it, which nobody does: the store and Optuna's journal hold all there is
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing, for the same reason."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def suggest(self, trial_id: str) -> Any:
        if self._stopping():
            return None
        if self._waiting:
            pack = self._waiting.popleft()
        elif self._proposals is None or self._left <= 0:
            return Searcher.FINISHED
        else:
            pack = self._proposals.ask(lambda first: min(self._most(first), self._left))
            self.exhausted = not pack
            if not pack:
                return Searcher.FINISHED
            self._left -= len(pack)
        if self._proposals is not None:
            self._running[trial_id] = [one.trial for one in pack]
        return {"pack": self._begin(pack)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self._proposals is None:
            return
        for name, row in rows_of(result).items():
            if row["status"] in ENDED:
                self._proposals.tell(name, Status(row["status"]), row)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.on_trial_result(trial_id, result or {})
        ran = self._running.pop(trial_id, ())
        if error and self._proposals is not None:
            for name in ran:
                self._proposals.tell(name, Status.FAILED, {})
