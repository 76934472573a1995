"""Copies of ``study.db`` beside it, by SQLite's own backup, and whether such a file is whole."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from gimtune.files import replacing
from gimtune.results.store import check_schema

#: Names of the copies, the newest first.
KEPT = ("study.db.1", "study.db.2")


def back_up(run: Path) -> None:
    """Copy a run's results as they stand, while they are written to; of the copies before, the last is kept."""
    newest, older = (run / name for name in KEPT)
    with replacing(newest) as temporary:
        with closing(sqlite3.connect(run / "study.db")) as source, closing(sqlite3.connect(temporary)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
        if newest.exists():
            newest.replace(older)


def damage(path: Path) -> str:
    """What is wrong with a database, as SQLite finds it; empty where it is whole."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            check_schema(db)
            found = [str(row[0]) for row in db.execute("PRAGMA integrity_check(1)")]
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == ["ok"] else " ".join(" ".join(found).split())
