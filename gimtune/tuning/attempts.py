"""How often a pack was started without getting further: what tells a pack that kills its workers from a rough night.

Ray counts the failures of a trial over its whole life, so a pack that is preempted once a day would be given up within
a week. Here a start counts only if the one before it, by the same driver, left no new checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path

from gimtune.files import replacing
from gimtune.training import reached

#: Starts from the same checkpoint.
MOST = 4


class Attempts:
    """The starts of one pack from its present checkpoint, kept in ``packs/<pack>/starts.json``.

    Args:
        folder: of the pack.
        driver: tells one driver's starts from another's: a pack that a resumed study goes on with begins anew.
    """

    def __init__(self, folder: Path, driver: str) -> None:
        self.folder, self._path, self._driver = folder, folder / "starts.json", driver
        self._starts, self._error = 0, "its worker died"

    @property
    def exhausted(self) -> bool:
        """Whether this start is the last."""
        return self._starts >= MOST

    def count(self) -> None:
        """Count a start.

        Raises:
            RuntimeError: there were `MOST` from this checkpoint already; it says how the last one ended, where known.
        """
        halves = {place.name: reached(place) for place in sorted(self.folder.glob("*/"))}
        here = {"driver": self._driver, "epoch": reached(self.folder), "parts": halves}
        try:
            found = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            found = {}
        if {"parts": {}, **found} == {**found, **here}:
            self._starts, self._error = found["starts"], found["error"]
        if self.exhausted:
            raise RuntimeError(
                f"started {MOST} times from epoch {here['epoch']} without getting further: {self._error}"
            )
        self._starts += 1
        self._write({**here, "starts": self._starts, "error": "its worker died"})

    def blame(self, error: Exception) -> None:
        """Note how this start ends."""
        try:
            self._write({**json.loads(self._path.read_text()), "error": f"{type(error).__name__}: {error}"})
        except (OSError, ValueError):
            return  # the count stands, or the machine is worse off than this file

    def _write(self, content: dict[str, object]) -> None:
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(content))
