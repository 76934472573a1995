"""The results store: ``study.db``, one row per member in ``trials`` and one per evaluation in ``reports``.

SQLite in write-ahead mode, so that a notebook can read while the study writes. Metrics are REAL columns made when first
seen; NaN is stored as NULL and its reason stands in ``reasons``.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import pandas as pd

from gimtune.vocabulary import ENDED, IDENTITY, METRICS, PROGRESS, PROTOCOL, Member, Status

FORMAT = 5
#: Formats that are read and no longer written, with the columns of a member that they lack.
EARLIER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "3": ("assignment", "best_epoch", "restored_by", "levelled", "fid_reference_samples", "fid_reference"),
        "4": ("best_epoch", "restored_by", "levelled", "fid_reference_samples", "fid_reference"),
    }
)
#: Metrics of earlier formats by what is measured under another name today.
RENAMED: Mapping[str, str] = MappingProxyType({"probe_accuracy": "probe_means", "probe_knn": "knn_means"})
Value = float | int | str | bool | None
Row = Mapping[str, Value]

_TEXT = {
    *(set(IDENTITY) - {"weight", "latent_dim", "seed"}),
    *(
        "status",
        "error",
        "checkpoint",
        "restored_by",
        "eager",
        "fid_features",
        "fid_reference",
        "reasons",
        "flags",
        "estimators",
        "environment",
        "added_in",
    ),
}
#: Columns that stores of this format lack which were made before there was one; they are empty.
_LATER = ("environment", "added_in", "eager")
#: Bytes of a row.
_LONGEST = 2**26
_WHOLE = {"epoch", "best_epoch", "seed", "latent_dim"}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class Store:
    """A study's results.

    Args:
        path: the ``study.db`` file.
        create: make it if it is not there; without, a missing file is an error and the store is read-only.

    Raises:
        FileNotFoundError: there is no such file and ``create`` is false.
        ValueError: the file is no results store, or of another format.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        if not create and not path.is_file():
            raise FileNotFoundError(f"{path}: no results store there")
        self._db = _opened(path, "rwc" if create else "ro")
        try:
            check_schema(self._db)
            if create:
                self._make()
            found = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ValueError(f"{path}: not a results store ({error})") from None
        readable = [str(FORMAT)] if create else [*EARLIER, str(FORMAT)]
        if found.get("format") not in readable:
            self._db.close()
            verb = "goes on with" if create else "reads"
            known = " and ".join(filter(None, (", ".join(readable[:-1]), readable[-1])))
            raise ValueError(f"{path}: format {found.get('format')!r}; this version {verb} {known}")
        self.meta: dict[str, str] = found
        self._columns = {table: self._known(table) for table in ("trials", "reports")}

    @property
    def lacks(self) -> tuple[str, ...]:
        """Columns that a store of an earlier format does not have; they are empty."""
        return EARLIER.get(self.meta["format"], ())

    def _make(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        # FULL, not NORMAL: after a power cut a checkpoint must never be newer than the row that names it
        self._db.execute("PRAGMA synchronous=FULL")
        identity = ", ".join(self._declaration(c) for c in IDENTITY if c != "trial")
        rest = ", ".join(self._declaration(c) for c in (*PROGRESS, *PROTOCOL, *METRICS))
        report = ", ".join(self._declaration(c) for c in (*METRICS, "seconds", "reported", "reasons", "flags"))
        with self._transaction():
            self._db.execute("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT)")
            self._db.execute(f"CREATE TABLE IF NOT EXISTS trials (trial TEXT PRIMARY KEY, {identity}, {rest})")
            self._db.execute(
                f"CREATE TABLE IF NOT EXISTS reports (trial TEXT, epoch INTEGER, {report}, PRIMARY KEY (trial, epoch))"
            )
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (str(FORMAT),))

    @staticmethod
    def _declaration(column: str) -> str:
        kind = "TEXT" if column in _TEXT else "INTEGER" if column in _WHOLE else "REAL"
        return f"{_quoted(column)} {kind}"

    def _known(self, table: str) -> set[str]:
        return {str(row[1]) for row in self._db.execute(f"PRAGMA table_info({table})")}

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def _ensure(self, table: str, columns: Iterable[str]) -> None:
        for column in columns:
            if column not in self._columns[table]:
                self._db.execute(f"ALTER TABLE {table} ADD COLUMN {self._declaration(column)}")
                self._columns[table].add(column)

    def _upsert(self, table: str, key: Sequence[str], row: Row) -> None:
        self._ensure(table, row)
        names = list(row)
        kept = (*key, "reported") if table == "reports" else key
        updates = ", ".join(f"{_quoted(n)}=excluded.{_quoted(n)}" for n in names if n not in kept)
        self._db.execute(
            f"INSERT INTO {table} ({', '.join(map(_quoted, names))}) VALUES ({', '.join('?' * len(names))}) "
            f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {updates}",
            [row[n] for n in names],
        )

    def annotate(self, **meta: str) -> None:
        """Write facts about the study as a whole."""
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(meta.items()))
        self.meta.update(meta)

    def plan(self, rows: Iterable[Row], reports: Iterable[Row] = ()) -> None:
        """Write the members that are to run; those already there are left as they are.

        Args:
            reports: of members that are written with their last row, since they ended in another run: as of `whole`.
        """
        with self._transaction():
            for row in rows:
                if self._db.execute("SELECT 1 FROM trials WHERE trial=?", (row["trial"],)).fetchone() is None:
                    self._upsert("trials", ["trial"], {"status": Status.PLANNED, **row})
            for report in reports:
                self._upsert("reports", ["trial", "epoch"], report)

    def whole(self, trials: Iterable[str]) -> tuple[list[dict[str, Value]], list[dict[str, Value]]]:
        """All that stands of these members: their rows and their reports, to the bit, in the order they came in."""
        asked = json.dumps([*trials])
        found: list[list[dict[str, Value]]] = []
        for table in ("trials", "reports"):
            rows = self._db.execute(
                f"SELECT * FROM {table} WHERE trial IN (SELECT value FROM json_each(?)) ORDER BY rowid", (asked,)
            )
            names = [column[0] for column in rows.description]
            found.append([dict(zip(names, row, strict=True)) for row in rows])
        return found[0], found[1]

    def report(self, rows: Sequence[Row]) -> None:
        """Write one evaluation of one or more members in one transaction.

        Each row has ``trial``, ``epoch``, metrics, and what is known of its progress; ``reported``, the time in seconds
        since 1970, is added. A row of the same trial and epoch is replaced but for the time; a row of a member that has
        ended leaves its status alone, so a repeated report does no harm. One whose metrics are those of an earlier
        epoch's weights is no evaluation of its own: it was reported then.
        """
        progress = {*PROGRESS, *PROTOCOL} - {"epoch", "seconds", "reported", "reasons", "flags"}
        now = time.time()
        with self._transaction():
            for given in rows:
                row = {**given, "reported": now}
                done = self._db.execute("SELECT status FROM trials WHERE trial=?", (row["trial"],)).fetchone()
                if done is None:
                    raise KeyError(f"{row['trial']}: not among the planned members")
                if done[0] not in ENDED:
                    self._upsert("trials", ["trial"], {"status": Status.RUNNING, **row})
                report = {k: v for k, v in row.items() if k not in progress and not k.startswith("test_")}
                if row.get("best_epoch") in (None, row["epoch"]):
                    self._upsert("reports", ["trial", "epoch"], report)

    def add(self, trial: str, row: Mapping[str, Any]) -> None:
        """Write further metrics of a member that has ended, in one transaction.

        Args:
            row: values by column, and of ``reasons``, ``flags``, ``estimators`` and ``added_in``, which are added to
                what is there, mappings.
        """
        with self._transaction():
            texts = [key for key in ("reasons", "flags", "estimators", "added_in") if key in row]
            self._ensure("trials", texts)
            names = ", ".join(map(_quoted, texts))
            stored = self._db.execute(f"SELECT {names} FROM trials WHERE trial=?", (trial,)).fetchone()
            merged = {key: {**json.loads(text or "{}"), **row[key]} for key, text in zip(texts, stored, strict=True)}
            for name in [name for name in merged.get("reasons", ()) if name in row and name not in row["reasons"]]:
                del merged["reasons"][name]
            values = {k: v for k, v in row.items() if k not in texts}
            values |= {key: json.dumps(value, sort_keys=True) for key, value in merged.items()}
            self._ensure("trials", values)
            updates = ", ".join(f"{_quoted(name)}=?" for name in values)
            self._db.execute(f"UPDATE trials SET {updates} WHERE trial=?", [*values.values(), trial])

    def mark(self, trials: Iterable[str], status: Status, error: str | None = None) -> None:
        """Set the status of those among these members that have not ended."""
        ended = ", ".join("?" * len(ENDED))
        with self._transaction():
            for trial in trials:
                self._db.execute(
                    f"UPDATE trials SET status=?, error=? WHERE trial=? AND status NOT IN ({ended})",
                    (status, error, trial, *ENDED),
                )

    def forget(self, trials: Sequence[str]) -> None:
        """Note that these members' weights are no longer kept."""
        with self._transaction():
            self._db.executemany("UPDATE trials SET checkpoint=NULL WHERE trial=?", [(trial,) for trial in trials])

    def statuses(self) -> dict[str, Status]:
        """Status of every member, by trial."""
        return {str(t): Status(s) for t, s in self._db.execute("SELECT trial, status FROM trials ORDER BY rowid")}

    def members(self) -> list[Member]:
        """Every member, in the order they were planned.

        Raises:
            ValueError, KeyError, TypeError: a configuration that is none.
        """
        rows = self._db.execute("SELECT config, assignment FROM trials ORDER BY rowid")
        return [replace(Member.from_json(config), assignment=json.loads(chosen or "{}")) for config, chosen in rows]

    def trials(self) -> pd.DataFrame:
        """One row per member, its last report, in the order they were planned."""
        found = self._of_today(self._frame("SELECT * FROM trials ORDER BY rowid"), ("", "test_"))
        return found.assign(**dict.fromkeys([*self.lacks, *(name for name in _LATER if name not in found)]))

    def reports(self, arrival: bool = False) -> pd.DataFrame:
        """One row per evaluation, ordered by trial and epoch, or as they came in."""
        found = self._frame(f"SELECT * FROM reports ORDER BY {'rowid' if arrival else 'trial, epoch'}")
        return self._of_today(found, ("",))

    def _of_today(self, frame: pd.DataFrame, splits: Sequence[str]) -> pd.DataFrame:
        """Metrics of an earlier format by their names of today; those that it does not have are empty."""
        if self.meta["format"] not in EARLIER:
            return frame
        frame = frame.rename(columns={f"{s}{old}": f"{s}{new}" for s in splits for old, new in RENAMED.items()})
        absent = [f"{s}{key}" for s in splits for key in METRICS if f"{s}{key}" not in frame]
        return pd.concat([frame, pd.DataFrame(math.nan, frame.index, absent)], axis=1)

    def _frame(self, query: str) -> pd.DataFrame:
        frame = pd.read_sql_query(query, self._db)
        for column in frame.columns:
            if column in _TEXT:
                if pd.api.types.infer_dtype(frame[column], skipna=True) not in ("string", "empty"):
                    raise ValueError(f"{self.path}: column {column} holds numbers where text belongs")
            elif not pd.api.types.is_numeric_dtype(frame[column]):
                # a column of NULLs alone, or text that somebody put where numbers belong
                try:
                    frame[column] = pd.to_numeric(frame[column])
                except (ValueError, TypeError):
                    raise ValueError(f"{self.path}: column {column} holds text where numbers belong") from None
        return frame

    def close(self) -> None:
        """Fold the write-ahead log into the file, so that a finished study is one file that opens read-only."""
        # with a reader still open the log stays beside the file, and the next writer folds it in
        with contextlib.suppress(sqlite3.OperationalError):
            self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    def connected(options: str) -> sqlite3.Connection:
        return sqlite3.connect(f"{path.resolve().as_uri()}?{options}", uri=True, isolation_level=None, timeout=60)

    db = connected(f"mode={mode}")
    log = path.with_name(f"{path.name}-wal")
    if mode == "ro" and not (log.is_file() and log.stat().st_size):
        try:
            db.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            # in write-ahead mode a file is not opened in a folder where no log can be made; there is none to read
            db.close()
            return connected("mode=ro&immutable=1")
        except sqlite3.DatabaseError:
            pass  # it is no database, which whoever asks is told
    return db


def check_schema(db: sqlite3.Connection) -> None:
    """Refuse what this package never makes: a view or a computed column may take for ever to read, and a trigger
    changes rows behind a study's back.

    Raises:
        sqlite3.DatabaseError: naming it.
    """
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    for kind, name, text in db.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
        if kind in ("trigger", "view") or str(text).upper().startswith("CREATE VIRTUAL"):
            raise sqlite3.DatabaseError(f"it holds a {kind}, {str(name)[:80]!r}, which gimtune does not make")
    for table in ("meta", "trials", "reports"):
        for row in db.execute(f"PRAGMA table_xinfo({table})").fetchall():
            if row[6]:
                raise sqlite3.DatabaseError(f"column {str(row[1])[:80]!r} of {table} is computed")


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def reasons(row: Row) -> dict[str, str]:
    """Why metrics of a row are NaN: {metric: reason}."""
    text = row.get("reasons")
    return dict(json.loads(text)) if isinstance(text, str) and text else {}
