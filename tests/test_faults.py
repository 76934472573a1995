"""What happens to a study when the machine fails it. Drivers killed and resumed are in test_tuning.py."""

import errno
import json
import math
import shutil
import subprocess
import sys

import hypothesis.strategies as st
import pandas as pd
import pytest
from helpers import member
from hypothesis import given
from test_tuning import STUDY, Driver, only_run, table

from gimtune import analysis
from gimtune.results.pareto import fronts_by
from gimtune.results.store import Store
from gimtune.tuning.attempts import MOST, Attempts
from gimtune.tuning.packs import as_text, rows_of
from gimtune.tuning.retention import Retention
from gimtune.vocabulary import METRICS, Status


def test_a_pack_is_given_up_only_if_it_gets_nowhere(tmp_path):
    for _ in range(MOST):
        Attempts(tmp_path, "one").count()
    with pytest.raises(RuntimeError, match=rf"started {MOST} times from epoch 0 .* its worker died"):
        Attempts(tmp_path, "one").count()
    # a new checkpoint is progress, whatever it took to get there
    (tmp_path / "epoch-000005.pt").touch()
    for _ in range(MOST - 1):
        Attempts(tmp_path, "one").count()
    last = Attempts(tmp_path, "one")
    last.count()
    assert last.exhausted
    last.blame(MemoryError("no room"))
    with pytest.raises(RuntimeError, match=r"from epoch 5 .* MemoryError: no room"):
        Attempts(tmp_path, "one").count()
    # a study that is resumed starts with a clean record
    Attempts(tmp_path, "two").count()


@pytest.mark.parametrize("content", ["", "{", '{"driver": "one"}'])
def test_a_damaged_record_of_starts_is_an_empty_one(tmp_path, content):
    (tmp_path / "starts.json").write_text(content)
    attempts = Attempts(tmp_path, "one")
    attempts.count()
    assert not attempts.exhausted


def trial_of(tmp_path, monkeypatch, errors):
    """A trainable whose training raises these, one after the other."""
    from gimtune.tuning import trainable

    def begin(*arguments, **named):
        raise errors.pop(0)
        yield

    monkeypatch.setattr(trainable, "run", begin)
    monkeypatch.setattr(trainable, "kept", lambda *arguments: None)
    trial = trainable.GimTrial.__new__(trainable.GimTrial)
    one = member("vae")
    (tmp_path / "config.yaml").touch()
    trial._data = None
    trial._start(
        {"members": [one.to_json()], "folder": str(tmp_path), "cpu": 1, "gpu": 0, "driver": "one", "plugins": {}}
    )
    return trial, one


def test_a_full_disk_ends_the_study_and_no_trial(tmp_path, monkeypatch):
    trial, one = trial_of(tmp_path, monkeypatch, [OSError(errno.ENOSPC, "No space left on device")])
    said = trial.step()
    assert "No space left" in said["stop"]
    assert one.trial in said["stop"]
    assert said["members"] == {}


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError("no room")])
def test_other_troubles_of_the_machine_are_tried_again_first(tmp_path, monkeypatch, error):
    trial, one = trial_of(tmp_path, monkeypatch, [error] * MOST)
    for _ in range(MOST - 1):
        with pytest.raises(type(error)):
            trial.step()
    said = trial.step()
    if isinstance(error, OSError):
        assert "Input/output error" in said["stop"]
    else:
        assert rows_of(said)[one.trial]["status"] == Status.FAILED
        assert "no room" in rows_of(said)[one.trial]["error"]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["vae", "wvae"]),
        st.sampled_from(["done", "stopped", "diverged"]),
        st.sampled_from([0.0, 1.0, 2.0, 3.0, None]),
        st.sampled_from([0.1, 0.2, 0.3, 0.4]),
    ),
    max_size=12,
)


@given(rows=ROWS, known=st.integers(0, 12))
def test_the_weights_that_stay_are_those_of_each_models_front(rows, known, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    (run / "members").mkdir()
    objectives = {"fid": "min", "probe_codes": "max"}
    made = [
        {"trial": f"t{i}", "status": status, "epoch": 1, "fid": fid, "probe_codes": accuracy, "active_units": 1.0}
        | {"checkpoint": None if status == "diverged" else f"members/t{i}.pt", "fid_features": "classifier:a"}
        for i, (_, status, fid, accuracy) in enumerate(rows)
    ]
    for row in made:
        if row["status"] == "diverged":
            row["fid"] = row["probe_codes"] = None
        else:
            (run / row["checkpoint"]).touch()
    with Store(run / "study.db", create=True) as store:
        store.plan({"trial": f"t{i}", "model": model, "data": "digits"} for i, (model, *_) in enumerate(rows))
        store.report(made[:known])
        retention = Retention(store, run, objectives)
        for row, (model, *_) in zip(made[known:], rows[known:], strict=True):
            store.report([row])

            class Trial:
                config = {"pack": {"members": [member(model).to_json()]}}  # noqa: RUF012

            retention.on_trial_result(0, [], Trial, {"members": as_text([row])})
        trials = store.trials()
    kept = {path.stem for path in (run / "members").iterdir()}
    assert kept == set(trials.loc[trials["checkpoint"].notna(), "trial"])
    for column in METRICS:
        if column not in trials:
            trials[column] = math.nan
    expected = {t for front in fronts_by(trials, "model", objectives).values() for t in front.rows["trial"]}
    assert kept == expected
    shutil.rmtree(run)


def test_an_infeasible_member_takes_no_feasible_ones_weights(tmp_path):
    (tmp_path / "members").mkdir()
    rows = [
        {"trial": name, "status": "done", "epoch": 1, "fid": fid, "probe_codes": accuracy, "fid_features": "a"}
        | {"checkpoint": f"members/{name}.pt"}
        for name, fid, accuracy in (("worse", 9.0, 0.81), ("better", 1.0, 0.7), ("best", 0.5, 0.75), ("last", 8.0, 0.9))
    ]
    for one in rows:
        (tmp_path / one["checkpoint"]).touch()
    with Store(tmp_path / "study.db", create=True) as store:
        store.annotate(constraints=json.dumps({"probe_codes": {"min": 0.8}}))
        store.plan({"trial": one["trial"], "model": "vae", "data": "digits"} for one in rows)
        store.report(rows)
        Retention(store, tmp_path, {"fid": "min", "probe_codes": "max"})
    assert {path.stem for path in (tmp_path / "members").iterdir()} == {"best", "last"}


def namespace() -> bool:
    """Whether this user may mount a file system that is seen by a process and its children alone."""
    try:
        asked = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(asked, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
def test_a_study_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path):
    if not namespace():
        pytest.skip("no permission to mount a small file system in a namespace (unshare -rm)")
    reference = tmp_path / "reference"
    reference.mkdir()
    driver = Driver(reference, *STUDY)
    assert driver.wait() == 0, driver.said()
    driver.end()
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    start = " ".join(f"'{a}'" for a in [sys.executable, "-m", "gimtune", *STUDY, "storage_path=disk"])
    script = f"""
        mount -t tmpfs -o size=24m tmpfs disk
        ({start}; echo "exit $?") > first.txt 2>&1 &
        # nearly all room is taken once the study has begun to report
        while ! ls disk/tradeoff/*/packs/*/epoch-* > /dev/null 2>&1; do sleep 0.1; done
        dd if=/dev/zero of=disk/filler bs=64k > /dev/null 2>&1
        wait
        rm disk/filler
        {sys.executable} -m gimtune resume=$(echo disk/tradeoff/*) > second.txt 2>&1
        echo "exit $?" >> second.txt
        cp -r disk/tradeoff/* out
    """
    environment = {**Driver.environment(tmp_path), "HOME": str(tmp_path)}
    subprocess.run(["unshare", "-rm", "bash", "-c", script], cwd=tmp_path, env=environment, timeout=300, check=True)
    first, second = (tmp_path / "first.txt").read_text(), (tmp_path / "second.txt").read_text()
    assert "exit 130" in first, first
    assert "Stopped by the machine" in first, first
    assert "python -m gimtune resume=disk/tradeoff/" in first
    assert "Traceback" not in first, first
    assert "exit 0" in second, second
    (run,) = out.iterdir()
    pd.testing.assert_frame_equal(table(run), table(only_run(reference)), check_exact=True)


POISON = """
import os, signal, sys
if any("default_worker" in part for part in sys.argv) or "RAY_JOB_ID" in os.environ or "RAY_RAYLET_PID" in os.environ:
    import gimtune.training as training
    first = training.Pack.train_epoch
    def train_epoch(self, *arguments):
        if self.members[0].model == "wvae":
            os.kill(os.getpid(), signal.SIGKILL)
        return first(self, *arguments)
    training.Pack.train_epoch = train_epoch
"""


@pytest.mark.slow
def test_a_pack_that_kills_its_workers_is_given_up_and_the_others_end(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(POISON)
    driver = Driver(tmp_path, *STUDY, path=tmp_path)
    try:
        assert driver.wait() == 1, driver.said()
    finally:
        driver.end()
    trials = analysis.load(only_run(tmp_path)).trials.set_index("model")
    assert set(trials.loc["vae", "status"]) == {"done"}
    assert set(trials.loc["wvae", "status"]) == {"failed"}
    assert trials.loc["wvae", "error"].str.contains("without getting further: its worker died").all()
    (starts,) = {json.loads(p.read_text())["starts"] for p in only_run(tmp_path).glob("packs/*/starts.json")} or {MOST}
    assert starts == MOST
