"""A run's copy in an object store that speaks S3's protocol, for studies on machines that may vanish.

SQLite and renames need a file system, so a study works in a folder of this machine, ``s3/`` in the cache, and what it
writes is copied while it runs. Credentials, region and endpoint are the environment's (``AWS_ACCESS_KEY_ID``,
``AWS_REGION``, ``AWS_ENDPOINT_URL``, ...), as every client of S3 reads them.
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gimtune.files import cache
from gimtune.results.store import Store

#: Seconds between two copies.
EVERY = 10.0
_ADDRESS = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9][A-Za-z0-9_.-]*)*")
#: Of Ray alone, which a resumed study does not read.
_LEFT_OUT = "ray"
_Mark = tuple[int, int] | None


def is_address(place: str) -> bool:
    """Whether a path is an address of an object store.

    Raises:
        ValueError: it is an address, and not s3://BUCKET/PREFIX.
    """
    if "://" not in place:
        return False
    if not _ADDRESS.fullmatch(place):
        raise ValueError(f"{place}: a folder, or s3://BUCKET/PREFIX")
    return True


def folder(address: str) -> Path:
    """The folder of this machine for what stands at an address."""
    return cache() / "s3" / address.removeprefix("s3://")


def check(address: str) -> None:
    """Write and delete an object.

    Raises:
        OSError: it cannot be done.
    """
    files, path = _opened(address)
    probe = f"{path}/.gimtune-{os.getpid()}"
    _write(files, probe, b"")
    files.delete_file(probe)


def fetch(address: str) -> Path:
    """The folder of a run that is at an address: this machine's where that has the last report, else a fresh copy.

    Raises:
        ValueError: there is no run, or a name in it leads out of its folder.
        OSError: it cannot be read.
    """
    run = folder(address)
    files, path = _opened(address)
    there = _listed(files, path)
    if not {"config.yaml", "study.db"} <= there.keys():
        raise ValueError(f"{address}: no run folder (it needs config.yaml and study.db)")
    run.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=run.parent) as made:
        fresh = Path(made) / run.name
        for name in ("study.db", *sorted(there.keys() - {"study.db"})):
            target = fresh / name
            if ".." in target.parts:
                raise ValueError(f"{address}: {name} leads out of the run folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with files.open_input_stream(f"{path}/{name}") as source:
                target.write_bytes(source.read())
            if name == "study.db" and run.exists() and _last_report(run) >= _last_report(fresh):
                return run
        if run.exists():
            run.rename(run.with_name(f"{run.name}.behind-{time.time_ns()}"))
        fresh.rename(run)
    return run


class Mirror:
    """What has been copied of a run, and what has not.

    Args:
        run: the run folder.
        address: where its copy stands.
    """

    def __init__(self, run: Path, address: str) -> None:
        self._run = run
        self._files, self._path = _opened(address)
        self._there: dict[str, _Mark] = {}
        self._seen = False

    def copy(self) -> None:
        """Copy what has changed, so that the copy can be resumed after any number of its files.

        The results are read first and written last: what they tell of is there then. A file that is gone is deleted
        one copy later, since results of before may still need it.

        Raises:
            OSError: the store cannot be read or written to.
        """
        if not self._seen:
            # of what an earlier driver copied, only the names are known
            self._there, self._seen = dict(_listed(self._files, self._path)), True
        before = self._marks()
        results, content = self._results()
        for name, mark in (now := self._marks()).items():
            if self._there.get(name) != mark:
                try:
                    whole = (self._run / name).read_bytes()
                except FileNotFoundError:
                    continue
                self._put(name, whole, mark)
        if content is not None:
            self._put("study.db", content, results)
        for name in self._there.keys() - before.keys() - now.keys() - {"study.db"}:
            self._files.delete_file(f"{self._path}/{name}")
            del self._there[name]

    def _put(self, name: str, content: bytes, mark: _Mark) -> None:
        _write(self._files, f"{self._path}/{name}", content)
        self._there[name] = mark

    def _results(self) -> tuple[_Mark, bytes | None]:
        """A consistent copy of the results while they are written to; ``None`` if nothing was."""
        files = [path for path in (self._run / "study.db", self._run / "study.db-wal") if path.exists()]
        stats = [path.stat() for path in files]
        mark = max(s.st_mtime_ns for s in stats), sum(s.st_size for s in stats)
        if self._there.get("study.db") == mark:
            return mark, None
        with tempfile.TemporaryDirectory() as made:
            target = Path(made) / "study.db"
            with closing(sqlite3.connect(files[0])) as source, closing(sqlite3.connect(target)) as copy:
                source.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")
            return mark, target.read_bytes()

    def _marks(self) -> dict[str, _Mark]:
        found: dict[str, _Mark] = {}
        for place, folders, names in os.walk(self._run):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if Path(place) == self._run and _LEFT_OUT in folders:
                folders.remove(_LEFT_OUT)
            for name in names:
                path = Path(place) / name
                if name.startswith((".", "study.db")) or path.is_symlink():
                    continue
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                found[path.relative_to(self._run).as_posix()] = (stat.st_mtime_ns, stat.st_size)
        return found


@contextmanager
def mirrored(run: Path, address: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Copy a run to an address every `EVERY` seconds, and at the end; what goes wrong is told and tried again."""
    mirror = Mirror(run, address)
    over = threading.Event()

    def copy() -> None:
        try:
            mirror.copy()
        # SQLite's errors and Arrow's are of many kinds, and any that is not caught would be the last copy
        except Exception as error:
            tell(f"not copied to {address}: {(str(error) or type(error).__name__).splitlines()[0]}")

    def keep() -> None:
        while not over.wait(EVERY):
            copy()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        copy()


def _opened(address: str) -> tuple[Any, str]:
    """The store, and the path of an address in it."""
    from pyarrow.fs import S3FileSystem

    # Arrow does not read this one of the variables itself
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    where = urlsplit(endpoint) if endpoint else None
    options = {"scheme": where.scheme, "endpoint_override": where.netloc + where.path} if where else {}
    return S3FileSystem(
        connect_timeout=10, request_timeout=60, allow_delayed_open=True, **options
    ), address.removeprefix("s3://")


def _listed(files: Any, path: str) -> dict[str, _Mark]:
    from pyarrow.fs import FileSelector, FileType

    found = files.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    return {info.path.removeprefix(f"{path}/"): None for info in found if info.type == FileType.File}


def _write(files: Any, path: str, content: bytes) -> None:
    with files.open_output_stream(path) as sink:
        sink.write(content)


def _last_report(run: Path) -> float:
    """When it came in, in seconds; -inf before the first one."""
    with Store(run / "study.db") as store:
        return max(store.reports()["reported"].dropna(), default=-math.inf)
