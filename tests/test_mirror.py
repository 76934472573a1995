"""Copies of runs in an object store: a real server of S3's protocol on the loopback address."""

import os
import shutil
import sqlite3
import time

import pytest
from pyarrow import ArrowInvalid

from gimtune.results import mirror
from gimtune.results.store import Store

ADDRESS = "s3://bucket/gimtune/tradeoff/20260101-000000"


@pytest.fixture
def bucket(store_server, tmp_path, monkeypatch):
    """An empty bucket, whose objects it lists; this machine's copies are under ``tmp_path``."""
    import boto3

    for key, value in store_server.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")

    def names():
        found = client.list_objects_v2(Bucket="bucket").get("Contents", [])
        # a name that ends in a slash is an empty folder, which Arrow leaves
        keys = (one["Key"].removeprefix(ADDRESS.removeprefix("s3://bucket/") + "/") for one in found)
        return {key for key in keys if not key.endswith("/")}

    yield names
    for name in client.list_objects_v2(Bucket="bucket").get("Contents", []):
        client.delete_object(Bucket="bucket", Key=name["Key"])
    client.delete_bucket(Bucket="bucket")


@pytest.fixture
def run():
    """A run folder of one member with one report, where a study puts it."""
    run = mirror.folder(ADDRESS)
    for name, text in {
        "config.yaml": "name: tradeoff",
        "packs/a/epoch-000010.pt": "ten",
        ".lock": "",
        "ray/state.json": "{}",
        "packs/a/.epoch-20.12.pt": "half written",
    }.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    with Store(run / "study.db", create=True) as store:
        store.plan([{"trial": "a", "config": "{}", "pack": "a"}])
        store.report([{"trial": "a", "epoch": 10, "fid": 3.5, "status": "running"}])
    return run


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """From here on, this is another machine."""

    def move():
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))

    return move


def test_a_copy_is_the_run_on_another_machine(bucket, run, elsewhere):
    mirror.Mirror(run, ADDRESS).copy()
    assert bucket() == {"config.yaml", "packs/a/epoch-000010.pt", "study.db"}
    elsewhere()
    there = mirror.fetch(ADDRESS)
    assert there != run
    assert (there / "packs/a/epoch-000010.pt").read_text() == "ten"
    with Store(there / "study.db") as one, Store(run / "study.db") as other:
        assert one.reports().equals(other.reports())
        assert one.trials().equals(other.trials())


def test_results_are_copied_while_they_are_written(bucket, run, elsewhere):
    copies = mirror.Mirror(run, ADDRESS)
    with Store(run / "study.db", create=True) as store:
        store.report([{"trial": "a", "epoch": 20, "fid": 2.5, "status": "running"}])
        # the last report is in SQLite's log alone
        assert (run / "study.db-wal").stat().st_size
        copies.copy()
        elsewhere()
        with Store(mirror.fetch(ADDRESS) / "study.db") as there:
            assert there.reports()["fid"].tolist() == [3.5, 2.5]


def test_what_has_not_changed_is_not_copied_again(bucket, run, monkeypatch):
    copies = mirror.Mirror(run, ADDRESS)
    copies.copy()
    written = []
    monkeypatch.setattr(mirror, "_write", lambda files, path, content: written.append(path.rsplit("/", 1)[1]))
    copies.copy()
    assert written == []
    (run / "config.yaml").write_text("name: another")
    copies.copy()
    assert written == ["config.yaml"]


def test_what_results_may_still_need_goes_one_copy_later(bucket, run):
    copies = mirror.Mirror(run, ADDRESS)
    copies.copy()
    old, new = run / "packs/a/epoch-000010.pt", run / "packs/a/epoch-000020.pt"
    marks = copies._marks
    # the checkpoint gives way to the next one after the files were listed, before they are copied
    listed = iter([marks(), None])

    def race():
        first = next(listed)
        if first is None:
            old.unlink()
            new.write_text("twenty")
        return first or marks()

    copies._marks = race
    copies.copy()
    assert {old.name, new.name} < {name.rsplit("/", 1)[-1] for name in bucket()}
    copies._marks = marks
    copies.copy()
    assert bucket() == {"config.yaml", "packs/a/epoch-000020.pt", "study.db"}


def test_another_driver_clears_what_the_one_before_left(bucket, run):
    mirror.Mirror(run, ADDRESS).copy()
    shutil.rmtree(run / "packs")
    mirror.Mirror(run, ADDRESS).copy()
    assert bucket() == {"config.yaml", "study.db"}


def test_the_copy_that_has_the_last_report_is_taken(bucket, run, elsewhere, monkeypatch, tmp_path):
    mirror.Mirror(run, ADDRESS).copy()
    assert mirror.fetch(ADDRESS) == run
    with Store(run / "study.db", create=True) as store:
        store.report([{"trial": "a", "epoch": 20, "fid": 2.5, "status": "running"}])
    # ahead of its copy
    assert mirror.fetch(ADDRESS) == run
    with Store(run / "study.db") as store:
        assert len(store.reports()) == 2
    # behind it: another machine went on
    elsewhere()
    there = mirror.fetch(ADDRESS)
    with Store(there / "study.db", create=True) as store:
        store.report([{"trial": "a", "epoch": epoch, "fid": 1.0, "status": "running"} for epoch in (20, 30)])
    mirror.Mirror(there, ADDRESS).copy()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    assert mirror.fetch(ADDRESS) == run
    with Store(run / "study.db") as store:
        assert len(store.reports()) == 3
    # and nothing is lost
    (kept,) = run.parent.glob(f"{run.name}.behind-*")
    assert sqlite3.connect(kept / "study.db").execute("SELECT count(*) FROM reports").fetchone() == (2,)


def test_a_store_that_is_away_is_told_and_waited_for(bucket, run, monkeypatch):
    told = []
    address = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with mirror.mirrored(run, ADDRESS, told.append):
        pass
    assert len(told) == 1
    assert told[0].startswith(f"not copied to {ADDRESS}: ")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    with mirror.mirrored(run, ADDRESS, told.append):
        pass
    assert len(told) == 1
    assert "study.db" in bucket()


def test_names_in_a_bucket_do_not_lead_out_of_the_folder(bucket, run, elsewhere, tmp_path):
    import boto3

    mirror.Mirror(run, ADDRESS).copy()
    key = ADDRESS.removeprefix("s3://bucket/") + "/../../../../../../escaped"
    boto3.client("s3").put_object(Bucket="bucket", Key=key, Body=b"out")
    elsewhere()
    with pytest.raises(ValueError, match="leads out"):
        mirror.fetch(ADDRESS)
    assert not list(tmp_path.rglob("escaped"))


def test_wrong_addresses_are_refused(bucket):
    for wrong in ("s3://bucket/../x", "gs://bucket/x", "s3://", "s3://Bucket", "s3://bucket//x", "s3://bucket/.x"):
        with pytest.raises(ValueError, match="s3://BUCKET/PREFIX"):
            mirror.is_address(wrong)
    with pytest.raises(ValueError, match="no run folder"):
        mirror.fetch(ADDRESS)
    with pytest.raises(OSError, match="nowhere"):
        mirror.check("s3://nowhere/x")


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), ArrowInvalid("?"), OSError()])
def test_a_copy_that_fails_is_tried_again(tmp_path, monkeypatch, error):
    copies, told = [], []

    class Failing:
        def __init__(self, run, address):
            pass

        def copy(self):
            copies.append(1)
            if len(copies) == 1:
                raise error

    monkeypatch.setattr(mirror, "Mirror", Failing)
    monkeypatch.setattr(mirror, "EVERY", 0.01)
    with mirror.mirrored(tmp_path, ADDRESS, told.append):
        until = time.monotonic() + 60
        while len(copies) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(copies) >= 3
    assert told == [f"not copied to {ADDRESS}: {str(error) or 'OSError'}"]
