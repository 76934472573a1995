"""Run folders: made, locked by the driver that is at work on one, and named to a person."""

from __future__ import annotations

import fcntl
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path


def make(parent: Path, fill: Callable[[Path], None]) -> Path | None:
    """A new run folder, named by the time, with what ``fill`` writes into it: there whole or not at all.

    ``None`` if there are a hundred of this second.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return _placed([parent / f"{stamp}{suffix}" for suffix in ("", *(f"-{i}" for i in range(1, 100)))], fill)


def make_at(run: Path, fill: Callable[[Path], None]) -> bool:
    """The same at a path; false where something is there already."""
    return _placed([run], fill) is not None


def _placed(places: Sequence[Path], fill: Callable[[Path], None]) -> Path | None:
    parent = places[0].parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as made:
        fresh = Path(made) / "run"
        fresh.mkdir()
        fill(fresh)
        for run in places:
            # an empty folder would be replaced, and may be somebody's
            if run.exists():
                continue
            try:
                fresh.rename(run)
            except OSError:
                if run.exists():
                    continue
                raise
            return run
    return None


def absent(run: Path, needs: str = "study.db") -> str:
    """That a folder is no run, in words, and which runs are in it, the newest last."""
    inside = sorted((path.parent for depth in ("*", "*/*") for path in run.glob(f"{depth}/study.db")), key=_stamp)[-3:]
    return f"no run folder (it needs {needs})" + (f"; runs in it: {', '.join(map(str, inside))}" if inside else "")


def _stamp(run: Path) -> str:
    return run.name


@contextmanager
def held(run: Path) -> Iterator[bool]:
    """Hold a run folder against a second driver; whether it could be. The kernel lets go of it when this one dies."""
    with os.fdopen(os.open(run / ".lock", os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666), "r") as handle:
        for attempt in range(5):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                # whoever asks for the study's status holds it for a moment
                time.sleep(0.05 * attempt)
        else:
            yield False
            return
        yield True


def driver_at_work(run: Path) -> bool:
    """Whether a driver holds the run folder's lock: the kernel lets go of it when the driver dies."""
    try:
        # without waiting, should it be no file but a pipe
        with os.fdopen(os.open(run / ".lock", os.O_RDONLY | os.O_NONBLOCK)) as handle:
            # shared, and given back at once: a driver that starts meanwhile tries more than once
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def go_on(run: Path | str) -> str:
    """The line that goes on with a run, for a POSIX shell."""
    return shlex.join(["python", "-m", "gimtune", f"resume={run}"])


def relative(path: Path) -> Path:
    """A path as it is typed from where the user stands."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
