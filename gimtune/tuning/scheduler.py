"""In which order Ray starts trials, and successive halving, by which members of a pack are judged one by one.

Ray's schedulers stop whole trials; here a pack goes on until all its members have ended. The decision stands in
``packs/<pack>/stop.json`` before Ray asks the worker for its next interval, which begins by reading it. Ray forgets a
scheduler's memory when a study is resumed, so it is rebuilt from the store's reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from gimtune.files import replacing
from gimtune.results.store import Store
from gimtune.study.schema import Config
from gimtune.training import pack_name
from gimtune.tuning.mo_asha import Rungs, make_rungs
from gimtune.tuning.packs import Pack, rows_of
from gimtune.vocabulary import Status

_FILE = "stop.json"


def scheduler(config: Config, store: Store, todo: Iterable[Pack], run: Path, stopping: Callable[[], bool]) -> InOrder:
    """The study's scheduler, with its memory as the store has it.

    Args:
        stopping: whether no further trial is to start.
    """
    if config.scheduler.name == "fifo":
        return InOrder(stopping)
    rungs = make_rungs(config)
    rungs.rebuild({str(k): v for k, v in row.items()} for row in store.reports(arrival=True).to_dict("records"))
    for pack in todo:
        # a driver that died after a report was stored and before its decision was
        _tell(run / "packs" / pack_name(pack), [m.trial for m in pack if m.trial in rungs.stopped])
    return Halving(rungs, stopping)


class InOrder(FIFOScheduler):
    """Trials in the order in which they were made. Ray's own looks through all that ever were, in every step."""

    def __init__(self, stopping: Callable[[], bool] = lambda: False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stopping = stopping
        self._open: dict[Any, None] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles it at the start of a study, to restore what we rebuild
        return {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._open[trial] = None

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._open.pop(trial, None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        # it is added again where it is tried again
        self._open.pop(trial, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._open.pop(trial, None)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if self._stopping():
            # Tune starts what waits whether it is chosen or not
            waiting = [trial for trial in self._open if trial.status == Trial.PENDING]
            for trial in waiting:
                if trial.temporary_state.ray_actor is None:
                    tune_controller.stop_trial(trial)
            return None
        return next((trial for trial in self._open if trial.status == Trial.PENDING), None)


class Halving(InOrder):
    """`Rungs` behind Ray's interface. Trials are never stopped by it: packs end by themselves."""

    def __init__(self, rungs: Rungs, stopping: Callable[[], bool] = lambda: False) -> None:
        super().__init__(stopping)
        self.rungs = rungs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        rows = rows_of(result)
        halted = [
            name
            for name, row in rows.items()
            # those that have ended are recorded as well: they are in the reports that a resumed study reads
            if "epoch" in row and not self.rungs.report(name, row["epoch"], row) and row["status"] == Status.RUNNING
        ]
        pack = trial.config["pack"]
        _tell(Path(pack["folder"]) / "packs" / pack["name"], halted)
        decision: str = TrialScheduler.CONTINUE
        return decision


def _tell(folder: Path, halted: list[str]) -> None:
    if not halted:
        return
    with replacing(folder / _FILE) as temporary:
        temporary.write_text(json.dumps(sorted({*halted, *halted_in(folder)})))


def halted_in(folder: Path) -> list[str]:
    """Members of a pack that are to end where they stand."""
    try:
        found: list[str] = json.loads((folder / _FILE).read_text())
    except FileNotFoundError:
        return []
    return found
