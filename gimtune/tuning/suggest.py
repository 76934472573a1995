"""Optuna's suggestions behind Ray's searcher: a trial is a pack, and a pack asks for its members when it can start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from gimtune.tuning.packs import Pack, rows_of
from gimtune.tuning.search import Proposals
from gimtune.vocabulary import ENDED, Member, Status


class Suggestions(Searcher):
    """Packs that an earlier driver left open first, then new ones until the study has its members.

    Args:
        waiting: packs to go on with.
        left: members still to be asked for.
        most: members that may share a pack with this one.
        begin: writes a new pack into the store, and makes it a trial's configuration.
    """

    def __init__(
        self,
        proposals: Proposals,
        waiting: list[Pack],
        left: int,
        most: Callable[[Member], int],
        begin: Callable[[Pack], dict[str, Any]],
    ) -> None:
        super().__init__()
        self._proposals, self._waiting, self._left = proposals, list(waiting), left
        self._most, self._begin = most, begin
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
        if self._waiting:
            pack = self._waiting.pop(0)
        else:
            pack = self._proposals.ask(lambda first: min(self._most(first), self._left)) if self._left > 0 else []
            self.exhausted = not pack and self._left > 0
            if not pack:
                return Searcher.FINISHED
            self._left -= len(pack)
        self._running[trial_id] = [one.trial for one in pack]
        return {"pack": self._begin(pack)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        for name, row in rows_of(result).items():
            if row["status"] in ENDED:
                self._proposals.tell(name, Status(row["status"]), row)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.on_trial_result(trial_id, result or {})
        if error:
            for name in self._running.get(trial_id, ()):
                self._proposals.tell(name, Status.FAILED, {})
