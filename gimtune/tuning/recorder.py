"""What the driver does with every report: one transaction in the store, and the live table."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from analysis.pareto import Front, front
from gimtune.store import Store
from gimtune.vocabulary import ENDED, METRICS, Direction, Status

_LINE_EVERY = 10.0


class Halted(Exception):
    """The machine cannot go on, and no trial is to blame: a full disk, say."""


class Recorder(Callback):
    """A Tune callback. Ray pickles its callbacks at the start of a study; this one leaves everything behind then.

    Args:
        store: open for writing.
        epochs: of a member.
        objectives: of the front that is shown.
        total: members of the whole study, planned or not yet.

    Attributes:
        first_row: seconds from the start of this process to the first evaluated row, or ``None`` so far.
    """

    def __init__(self, store: Store, epochs: int, objectives: dict[str, str], total: int, console: Console) -> None:
        self.store, self.objectives, self.total, self.console = store, objectives, total, console
        self._status = store.statuses()
        frame = store.trials()
        self._ended: dict[str, Any] = {
            row["trial"]: row for row in frame[frame["status"].isin(ENDED)].to_dict("records")
        }
        self._epoch: dict[str, int] = {t: int(e) for t, e in zip(frame["trial"], frame["epoch"].fillna(0), strict=True)}
        self._epochs, self._before = epochs, sum(self._epoch.values())
        self._started = self._printed = time.monotonic()
        self._front: Front | None = None
        self.first_row: float | None = None
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def add(self, trials: Iterable[str]) -> None:
        """Members that were planned since."""
        for trial in trials:
            self._status.setdefault(trial, Status.PLANNED)
            self._epoch.setdefault(trial, 0)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __enter__(self) -> Recorder:
        if self._live:
            self._live.start()
            self._show()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._show()
            self._live.stop()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        for note in result.get("notes", ()):
            self.console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
        if reason := result.get("stop"):
            raise Halted(reason)
        rows = list(result["members"].values())
        reported = [row for row in rows if "epoch" in row]
        self.store.report(reported)
        for row in rows:
            if "epoch" not in row:
                self.store.end([row["trial"]], Status(row["status"]), row["error"])
        if self.first_row is None and reported:
            self.first_row = time.time() - psutil.Process().create_time()
        for row in rows:
            self._take(row["trial"], Status(row["status"]), row)
        self._show()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._set(trial, Status.RUNNING)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # its last rows are committed: what it would have gone on from is of no more use
        pack = trial.config["pack"]
        if all(self._status[name] in ENDED for name in pack["trials"]):
            shutil.rmtree(Path(pack["folder"]) / "packs" / pack["name"], ignore_errors=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        names = [name for name in trial.config["pack"]["trials"] if self._status[name] not in ENDED]
        self.store.end(names, Status.FAILED, "the worker died more often than it is started again")
        for name in names:
            self._take(name, Status.FAILED, {})
        self._show()

    def _set(self, trial: Any, status: Status) -> None:
        for name in trial.config["pack"]["trials"]:
            if self._status[name] not in ENDED:
                self._status[name] = status
        self._show()

    def _take(self, name: str, status: Status, row: dict[str, Any]) -> None:
        self._epoch[name] = max(self._epoch[name], int(row.get("epoch", 0)))
        if self._status[name] not in ENDED and status in ENDED:
            self._ended[name] = {**row, "trial": name, "status": status}
            self._front = None
        if self._status[name] not in ENDED:
            self._status[name] = status

    def _counts(self) -> dict[str, int]:
        counts = dict.fromkeys((str(s) for s in Status), 0)
        for status in self._status.values():
            counts[status] += 1
        return counts

    def _remaining(self) -> float | None:
        """Seconds until the end, at the rate of epochs so far."""
        done = sum(self._epoch.values()) - self._before
        left = sum(self._epochs - e for t, e in self._epoch.items() if self._status[t] not in ENDED)
        left += self._epochs * (self.total - len(self._epoch))
        return (time.monotonic() - self._started) * left / done if done else None

    def _summary(self) -> dict[str, str]:
        counts = self._counts()
        if self._front is None:
            self._front = _front(list(self._ended.values()), self.objectives)
        shown = {
            "done": f"{counts['done'] + counts['stopped']} of {self.total}",
            "running": str(counts["running"]),
            "failed": str(counts["failed"] + counts["diverged"]),
            "time left": _span(self._remaining()),
        }
        if self._front is not None and len(self._front.rows):
            shown["front"] = str(len(self._front.rows))
            shown["hypervolume"] = f"{self._front.hypervolume:.4g}"
            for metric in self.objectives:
                values = self._front.points[metric]
                best = values.min() if self.objectives[metric] == Direction.MIN else values.max()
                shown[f"best {metric}"] = f"{best:.4g}"
        return shown

    def _show(self) -> None:
        if self._live:
            table = Table(title="gimtune", title_justify="left")
            summary = self._summary()
            for name in summary:
                table.add_column(name, justify="right")
            table.add_row(*summary.values())
            self._live.update(table, refresh=True)
        elif time.monotonic() - self._printed > _LINE_EVERY:
            self._printed = time.monotonic()
            line = ", ".join(f"{name} {value}" for name, value in self._summary().items())
            self.console.print(line, highlight=False, soft_wrap=True)


def _front(rows: list[dict[str, Any]], objectives: dict[str, str]) -> Front | None:
    frame = pd.DataFrame(rows)
    for column in (*METRICS, "fid_features", "data", "reasons"):
        if column not in frame:
            frame[column] = None
    try:
        return front(frame, objectives)
    except ValueError:
        return None  # the report at the end says why; a live table has no room for it


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min"
