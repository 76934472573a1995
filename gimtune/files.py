"""Files that are there whole or not at all, and the folder of those that are kept for later studies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache() -> Path:
    """Where downloads, trained classifiers and runs of object stores are: ``$XDG_CACHE_HOME/gimtune``, or
    ``~/.cache/gimtune``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gimtune"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, in a folder that is made if need be: synced and renamed to it at the end.

    After an error, or a kill, ``path`` is what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone with what is made at ``path``, among all processes of a machine that ask: by a file ``.lock`` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as handle:
        # the kernel lets go of it when the process dies, so no lock is left behind
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
