"""What the driver does with every report: one transaction in the store, the live table and the gauges."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from ray.tune import Callback
from ray.tune.progress_reporter import TrialProgressCallback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from gimtune.results.constraints import Bounds, marked, stated
from gimtune.results.environment import fingerprint
from gimtune.results.pareto import Front, front, looked_at
from gimtune.results.store import Store
from gimtune.results.tally import Tally, essential, summary
from gimtune.tuning.gauges import LATEST, Gauges
from gimtune.tuning.packs import rows_of
from gimtune.vocabulary import ENDED, Status

_LINE_EVERY = 10.0
_REFRESH = 0.25
#: Of the driver's time, what is shown takes so much at most.
_SHARE = 0.03


class Halted(Exception):
    """The machine cannot go on, and no trial is to blame: a full disk, say."""


class Quiet(TrialProgressCallback):
    """In place of Ray's own lines: it has one for each trial that ends before it began, however quiet it is to be."""

    def on_trial_result(self, *arguments: Any, **info: Any) -> None:
        """Nothing."""

    on_trial_complete = on_trial_error = on_trial_result


class Recorder(Callback):
    """A Tune callback. Ray pickles its callbacks at the start of a study; this one leaves everything behind then.

    What it does for a report does not grow with the study: it counts member by member, and keeps of the members that
    have ended those that the front rests on (`gimtune.results.tally.essential`).

    Args:
        store: open for writing.
        epochs: of a member.
        objectives: of the front that is shown.
        total: members of the whole study, planned or not yet.
        gauges: to set, where Ray is running.

    Attributes:
        first_row: seconds from the start of this process to the first evaluated row, or ``None`` so far.
    """

    def __init__(
        self,
        store: Store,
        epochs: int,
        objectives: dict[str, str],
        total: int,
        console: Console,
        gauges: Gauges | None = None,
    ) -> None:
        self.store, self.objectives, self.console, self.gauges = store, objectives, console, gauges
        # what ran when an earlier driver ended waits now
        store.mark([trial for trial, status in store.statuses().items() if status is Status.RUNNING], Status.PLANNED)
        frame = store.trials()
        members = zip(frame["trial"], map(Status, frame["status"]), frame["epoch"].fillna(0).astype(int), strict=True)
        self.tally = Tally(total, epochs, members)
        self._before = self.tally.trained
        store.annotate(started=f"{time.time():.3f}", epochs_before=str(self._before))
        self._bounds = stated(store.meta)
        self._columns = [*dict.fromkeys([*looked_at(objectives), *self._bounds])]
        # reports do not name the data set, of which a run has one
        self._points = frame[frame["status"].isin(ENDED)].reindex(columns=self._columns).assign(data=math.nan)
        self._new: list[dict[str, Any]] = []
        self._front: Front | None = _front(self._points, objectives, self._bounds)
        self._latest: dict[tuple[str, str], float] = {}
        self._started = self._printed = self._told = time.monotonic()
        self._shown, self._pause = -math.inf, _REFRESH
        self.first_row: float | None = None
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def add(self, trials: Iterable[str]) -> None:
        """Members that were planned since."""
        for trial in trials:
            self.tally.take(trial, Status.PLANNED)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __enter__(self) -> Recorder:
        if self._live:
            self._live.start()
        self._show()
        return self

    def __exit__(self, *error: object) -> None:
        self._show()
        if self._live:
            self._live.stop()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        for note in result.get("notes", ()):
            self.console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
        if reason := result.get("stop"):
            raise Halted(reason)
        if made := result.get("environment"):
            self._met(json.loads(made))
        rows = list(rows_of(result).values())
        reported = [row for row in rows if "epoch" in row]
        if reported:
            self._told = time.monotonic()
        self.store.report(reported)
        for row in rows:
            if "epoch" not in row:
                self.store.mark([row["trial"]], Status(row["status"]), row["error"])
        if self.first_row is None and reported:
            self.first_row = time.time() - psutil.Process().create_time()
        for row in rows:
            self._take(row["trial"], Status(row["status"]), row)
        model = json.loads(trial.config["pack"]["members"][0])["model"]
        for metric in LATEST:
            if values := [row[metric] for row in reported if math.isfinite(row.get(metric, math.nan))]:
                self._latest[model, metric] = statistics.median(values)

    def _met(self, made: dict[str, str]) -> None:
        """Say once what a row's environment means."""
        name = f"environment {fingerprint(made)}"
        if name not in self.store.meta:
            self.store.annotate(**{name: json.dumps(made)})

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        names = self._open(trial)
        self.store.mark(names, Status.RUNNING)
        for name in names:
            self._take(name, Status.RUNNING, {})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # its last rows are committed: what it would have gone on from is of no more use
        pack = trial.config["pack"]
        if not self._open(trial):
            shutil.rmtree(Path(pack["folder"]) / "packs" / pack["name"], ignore_errors=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        names = self._open(trial)
        self.store.mark(names, Status.FAILED, "the worker died more often than it is started again")
        for name in names:
            self._take(name, Status.FAILED, {})

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        # Tune steps several times a second, with news or without
        if time.monotonic() - self._shown > self._pause:
            self._show()

    def _open(self, trial: Any) -> list[str]:
        return [name for name in trial.config["pack"]["trials"] if self.tally.status(name) not in ENDED]

    def _take(self, name: str, status: Status, row: dict[str, Any]) -> None:
        if self.tally.take(name, status, int(row.get("epoch", 0))):
            known = {column: row[column] for column in self._columns if column in row}
            self._new.append({**known, "trial": name, "status": status})

    def _best(self) -> Front | None:
        """The front so far, of what it rested on and the members that have ended since."""
        if self._new:
            new = pd.DataFrame(self._new, columns=self._columns)
            self._points = pd.concat([self._points, new], ignore_index=True)
            self._new = []
            self._front = _front(self._points, self.objectives, self._bounds)
            if self._front is not None:
                self._points = essential(self._front)
        return self._front

    def _show(self) -> None:
        self._shown, spent = time.monotonic(), time.thread_time()
        left = self.tally.seconds_left(self._before, self._shown - self._started, self._shown - self._told)
        best = self._best()
        if self.gauges:
            self.gauges.show(self.tally, best, left, self._latest)
        if self._live:
            table = Table(title="gimtune", title_justify="left")
            shown = summary(self.tally, best, left)
            for name in shown:
                table.add_column(name, justify="right")
            table.add_row(*shown.values())
            self._live.update(table, refresh=True)
        elif self._shown - self._printed > _LINE_EVERY:
            self._printed = self._shown
            line = ", ".join(f"{name} {value}" for name, value in summary(self.tally, best, left).items())
            self.console.print(line, highlight=False, soft_wrap=True)
        self._pause = max(_REFRESH, (time.thread_time() - spent) / _SHARE)


def _front(points: pd.DataFrame, objectives: dict[str, str], bounds: Bounds) -> Front | None:
    try:
        return front(marked(points, bounds), objectives)
    except ValueError:
        return None  # the report at the end says why; a live table has no room for it
