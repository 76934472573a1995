"""The results store."""

import contextlib
import math
import sqlite3

import pytest

from gimtune.results.load import load
from gimtune.results.store import EARLIER, Store
from gimtune.vocabulary import Status


def planned(*trials):
    return [{"trial": t, "study": "s", "model": "vae", "seed": 0, "weight": 1.0} for t in trials]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "study.db", create=True) as opened:
        opened.plan(planned("a", "b"))
        yield opened


def test_a_report_is_seen_in_both_tables(store):
    store.report([{"trial": "a", "epoch": 2, "status": "running", "fid": 3.0, "restriction/posterior_kl": 1.5}])
    store.report([{"trial": "a", "epoch": 4, "status": "done", "fid": 2.0, "test_fid": 2.5, "reasons": "{}"}])
    (row,) = store.trials().query("trial == 'a'").to_dict("records")
    assert (row["status"], row["epoch"], row["fid"], row["test_fid"]) == ("done", 4, 2.0, 2.5)
    assert row["restriction/posterior_kl"] == 1.5
    assert store.reports()["fid"].tolist() == [3.0, 2.0]
    assert "test_fid" not in store.reports()


def test_a_repeated_report_changes_nothing(store):
    rows = [{"trial": "a", "epoch": 4, "status": "done", "fid": 2.0}]
    store.report(rows)
    before = store.trials()
    store.report(rows)
    assert store.trials().equals(before)
    assert len(store.reports()) == 1


def test_an_ended_member_stays_as_it_ended(store):
    store.report([{"trial": "a", "epoch": 4, "status": "done", "fid": 2.0}])
    store.mark(["a", "b"], Status.FAILED, "killed")
    store.report([{"trial": "a", "epoch": 2, "status": "running", "fid": 9.0}])
    assert store.statuses() == {"a": Status.DONE, "b": Status.FAILED}
    assert store.trials()["fid"].tolist()[0] == 2.0
    assert store.trials()["error"].tolist()[1] == "killed"


def test_a_report_is_all_or_nothing(store):
    good = {"trial": "a", "epoch": 1, "status": "running", "fid": 1.0}
    with pytest.raises(KeyError, match="not among the planned"):
        store.report([good, {**good, "trial": "unknown"}])
    assert store.statuses()["a"] is Status.PLANNED
    assert store.reports().empty


def test_nan_is_kept_as_missing(store):
    store.report([{"trial": "a", "epoch": 1, "status": "running", "fid": math.nan, "reasons": '{"fid": "why"}'}])
    assert math.isnan(store.trials()["fid"].iloc[0])
    assert store.reports()["reasons"].iloc[0] == '{"fid": "why"}'


def test_planning_again_leaves_what_is_there(store):
    store.report([{"trial": "a", "epoch": 1, "status": "running", "fid": 1.0}])
    store.plan(planned("a", "c"))
    assert list(store.statuses().items()) == [("a", "running"), ("b", "planned"), ("c", "planned")]


def test_files_that_are_no_store_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results store"):
        Store(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to be read as a header of one" * 3)
    with pytest.raises(ValueError, match="not a results store"):
        Store(tmp_path / "text.db")
    with Store(tmp_path / "old.db", create=True) as old:
        old.annotate(format="0")
    with pytest.raises(ValueError, match="format '0'"):
        Store(tmp_path / "old.db")


def test_a_reader_cannot_write(store, tmp_path):
    with Store(tmp_path / "study.db") as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.plan(planned("z"))


def test_a_closed_store_is_one_file(tmp_path):
    with Store(tmp_path / "study.db", create=True) as store:
        store.plan(planned("a"))
    assert [p.name for p in tmp_path.iterdir()] == ["study.db"]


def test_a_store_of_an_earlier_format_is_read_and_not_written(tmp_path):
    path = tmp_path / "study.db"
    with Store(path, create=True) as store:
        store.plan([{"trial": "a", "model": "vae", "status": "planned"}])
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for column in EARLIER["3"]:
            db.execute(f"ALTER TABLE trials DROP COLUMN {column}")
        db.execute("ALTER TABLE trials DROP COLUMN probe_codes")
        db.execute("ALTER TABLE trials RENAME COLUMN probe_means TO probe_accuracy")
        db.execute("UPDATE trials SET probe_accuracy=0.5")
        db.execute("UPDATE meta SET value='3' WHERE key='format'")
        db.execute("""INSERT INTO meta VALUES ('objectives', '{"fid": "min", "probe_accuracy": "max"}')""")
    study = load(tmp_path)
    assert study.trials["assignment"].tolist() == [None]
    assert study.trials["levelled"].isna().all()
    assert study.trials["probe_means"].tolist() == [0.5]
    assert study.trials["probe_codes"].isna().all()
    assert study.objectives == {"fid": "min", "probe_means": "max"}
    assert study.older.startswith(f"made by an earlier version (format 3): it lacks {', '.join(EARLIER['3'])}, and of")
    assert "probe_codes" in study.older
    assert "probe_accuracy is probe_means" in study.older
    with pytest.raises(ValueError, match="format '3'; this version goes on with 5"):
        Store(path, create=True)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE meta SET value='2' WHERE key='format'")
    with pytest.raises(ValueError, match="format '2'; this version reads 3, 4 and 5"):
        load(tmp_path)
