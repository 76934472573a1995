"""How a study stands: how far, what runs, what failed, what is on the front so far, when it will end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from gimtune.results.folder import driver_at_work
from gimtune.results.load import Study, load
from gimtune.results.pareto import Front, front
from gimtune.results.tally import Tally
from gimtune.vocabulary import Status


class Standing(NamedTuple):
    """A study as it stands at one moment.

    Attributes:
        study: as it was read, without its reports.
        tally: its counts.
        driver: whether a driver is at work on it.
        best: the front so far, or ``None`` where it is refused.
        refused: why.
        left: seconds to the end at the rate since the driver started, if one is at work and has trained an epoch.
        now: when this was, in seconds since 1970.
    """

    study: Study
    tally: Tally
    driver: bool
    best: Front | None
    refused: str
    left: float | None
    now: float

    @property
    def ended(self) -> bool:
        """Whether every member has."""
        return self.tally.ended >= self.tally.total


def standing(
    run: Path | str,
    objectives: Mapping[str, str] | Iterable[str] | None = None,
    *,
    only: Mapping[str, str] | None = None,
) -> Standing:
    """How a study stands, be it running, finished, or left by a driver that died.

    Args:
        objectives: of the front; the study's own by default.
        only: as of `front`.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    driver, now = driver_at_work(Path(run)), time.time()
    study = load(run, reports=False)
    trials, meta = study.trials, study.meta
    epochs = trials["epoch"].fillna(0).astype(int)
    total = len(trials) if "exhausted" in meta else max(len(trials), int(meta.get("members", 0)))
    members = zip(trials["trial"], map(Status, trials["status"]), epochs, strict=True)
    tally = Tally(total, int(meta.get("epochs", epochs.max() if len(epochs) else 0)), members)
    left = None
    if driver and "started" in meta:
        elapsed = now - float(meta["started"])
        since = now - float(trials["reported"].max()) if trials["reported"].notna().any() else 0.0
        left = tally.seconds_left(int(meta["epochs_before"]), elapsed, min(max(0.0, since), elapsed))
    chosen = objectives or study.objectives
    best, refused = None, ""
    try:
        best = front(trials, chosen, only=only)
    except ValueError as error:
        refused = str(error)
    return Standing(study, tally, driver, best, refused, left, now)
