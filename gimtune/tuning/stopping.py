"""How a study ends early: its packs are asked to, and keep what they have within the seconds that they are given.

The driver writes into a file of the run folder that it made before any pack began, and workers read it: a network file
system shows new content of an old file to whoever opens it, and a new file when it pleases.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.console import Console

from gimtune.interruption import Interruption

_FILE = ".stop"
#: Seconds between two looks of a worker.
_EVERY = 0.3
#: Seconds that Ray has to end after the grace; and that are left to packs when it has ended before them.
_SHUTDOWN, _ORPHANED = 15.0, 5.0
_NEEDED = ("raylet", "gcs_server")


class Asked:
    """Whether the driver has asked its packs to end; asked for at every minibatch, it looks now and then.

    Args:
        run: the run folder.
        driver: whose word counts: what an earlier driver wrote is of no concern.
    """

    def __init__(self, run: Path, driver: str) -> None:
        self._path, self._driver = run / _FILE, driver
        self._looked, self._asked = 0.0, False

    def __call__(self) -> bool:
        if not self._asked and time.monotonic() - self._looked > _EVERY:
            try:
                self._asked = self._path.read_text() == self._driver
            except OSError:
                self._asked = False
            self._looked = time.monotonic()
        return self._asked


class Stopping(Callback):
    """A Tune callback that ends a study on a first signal: packs at the next minibatch, the rest after the grace.

    A thread asks the packs, and sees to it that the program ends: where Ray's own processes have ended before it,
    whoever calls them waits for a minute and is aborted. The thread ends it at once, and `last_word` says how to go on.

    Args:
        interruption: of the driver, for the time of Tune's loop.
        run: the run folder.
        driver: as of `Asked`.
        grace: seconds.
    """

    def __init__(self, interruption: Interruption, run: Path, driver: str, grace: float, console: Console) -> None:
        self._interruption, self._grace, self._console = interruption, grace, console
        self._path, self._driver = run / _FILE, driver
        self._path.write_text("")
        self._deadline = math.inf
        self._end: Callable[..., Any] | None = None
        self._over = self._finished = False

    def __getstate__(self) -> dict[str, Any]:
        return {}

    @property
    def stopping(self) -> bool:
        """Whether no further pack is to start."""
        return self._interruption.number is not None

    def setup(self, *arguments: Any, **info: Any) -> None:
        # Tune has set its own, which ends its loop after the present step
        handler = signal.getsignal(signal.SIGINT)
        self._end = handler if callable(handler) else None
        self._interruption.noted = True
        self._interruption.install()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While Tune runs: Ray's processes that end afterwards do so as they should."""
        try:
            yield
            self._finished = True
        finally:
            self._over = True

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if not self.stopping or self._end is None:
            return
        self._interruption.quiet()
        if time.monotonic() > self._deadline or not any(trial.status == Trial.RUNNING for trial in trials):
            self._end(signal.SIGINT, None)
            self._interruption.install()

    def _watch(self) -> None:
        ray = _ray()
        while (number := self._interruption.number) is None:
            if not self._interruption.noted:
                return
            if not self._over and (lost := [name for name, process in ray if not _lives(process)]):
                self._abandon(lost[0])
            time.sleep(_EVERY)
        self._path.write_text(self._driver)
        self._deadline = time.monotonic() + self._grace
        self._console.print(
            f"{signal.Signals(number).name}: packs write down where they stand, within {self._grace:g} s "
            "(stop.grace); Ctrl-C ends it now",
            soft_wrap=True,
            highlight=False,
        )
        end = self._deadline + _SHUTDOWN
        while self._interruption.noted and time.monotonic() < end:
            if any(not _lives(process) for _, process in ray):
                end = min(end, time.monotonic() + _ORPHANED)
                ray = []
            time.sleep(_EVERY)
        if self._interruption.noted:
            os._exit(self._interruption.code)

    def _abandon(self, name: str) -> None:
        """End the program: one of Ray's own processes has ended, and whoever calls it waits for minutes or for ever."""
        # workers live on where it was not the raylet
        self._path.write_text(self._driver)
        time.sleep(_ORPHANED)
        if self._interruption.noted and not self._finished:
            self._console.print(
                f"Stopped by the machine: Ray's process {name} has ended", soft_wrap=True, highlight=False
            )
            os._exit(self._interruption.code)


def _ray() -> list[tuple[str, psutil.Process]]:
    """Ray's own processes without which nothing goes on, by their names, where this one has started them."""
    found = []
    for process in psutil.Process().children():
        try:
            if (name := process.name()) in _NEEDED:
                found.append((name, process))
        except psutil.Error:
            continue
    return found


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
