"""What happens to a study when the machine fails it. Drivers killed and resumed are in test_tuning.py."""

import errno
import json
import math
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import hypothesis.strategies as st
import pandas as pd
import psutil
import pytest
import torch
from helpers import STUDY, Driver, member, numbers, only_run, table
from hypothesis import given

from gimtune import analysis
from gimtune.results.pareto import fronts_by
from gimtune.results.store import Store
from gimtune.study.composition import load
from gimtune.tuning.attempts import MOST, Attempts
from gimtune.tuning.launch import identity
from gimtune.tuning.packs import as_text, check_share, packs, rows_of, share
from gimtune.tuning.retention import Retention
from gimtune.vocabulary import METRICS, Status

#: What a worker is told beside its members and its folder.
STARTED = {"cpu": 1, "gpu": 0, "cuda_graphs": False, "scheduled": False, "driver": "one", "plugins": {}}


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
    trial._start({**STARTED, "members": [one.to_json()], "folder": str(tmp_path)})
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


def worker(pack, folder):
    """A trainable of a fresh worker."""
    from gimtune.tuning import trainable

    trial = trainable.GimTrial.__new__(trainable.GimTrial)
    (folder / "config.yaml").touch()
    trial._data = None
    members = [one.to_json() for one in pack]
    trial._start({**STARTED, "members": members, "folder": str(folder)})
    return trial


def ended(pack, folder):
    """Results of a pack that is started again where its worker raises, as Ray does; and what was raised."""
    told, raised, trial = [], [], worker(pack, folder)
    while not told or not told[-1]["done"]:
        try:
            told.append(trial.step())
        except Exception as error:
            raised.append(error)
            assert len(raised) < 20
            trial = worker(pack, folder)
    return told, raised


def last_rows(told):
    rows = {}
    for one in told:
        rows |= {(name, row.get("epoch")): row for name, row in rows_of(one).items()}
    return rows


#: Of one model and network, with weights to go back to.
SEVERAL = [member("wae_gan", epochs=4, seed=s, restore="objectives") for s in range(4)]


@pytest.fixture(scope="module")
def with_memory(small, tmp_path_factory):
    from gimtune.tuning import trainable

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainable, "kept", lambda *arguments: small)
        told, raised = ended(SEVERAL, tmp_path_factory.mktemp("memory"))
    assert not raised
    return last_rows(told)


@pytest.mark.parametrize(("most", "epoch"), [(2, 0), (2, 2), (1, 1)])
def test_a_pack_without_memory_goes_on_by_halves_bit_for_bit(small, tmp_path, monkeypatch, with_memory, most, epoch):
    from gimtune.training import Pack
    from gimtune.tuning import trainable

    monkeypatch.setattr(trainable, "kept", lambda *arguments: small)
    roomy = Pack.train_epoch

    def train_epoch(self, *arguments):
        if len(self.members) > most and self.epoch >= epoch:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return roomy(self, *arguments)

    monkeypatch.setattr(Pack, "train_epoch", train_epoch)
    told, raised = ended(SEVERAL, tmp_path)
    # 4, then 2 and 2, then 1 and 1 and 1 and 1
    assert len(raised) == {2: 1, 1: 3}[most]
    rows = last_rows(told)
    assert rows.keys() == with_memory.keys()
    assert [numbers(rows[key]) for key in with_memory] == [numbers(row) for row in with_memory.values()]
    assert any(f"goes on with {most} at a time" in note for one in told for note in one["notes"])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), "illegal memory access"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "CUDNN_STATUS"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
    ],
)
@pytest.mark.parametrize("where", ["train_epoch", "measure"])
def test_a_device_that_fails_ends_its_worker_and_a_member_fails_after_several(
    small, tmp_path, monkeypatch, error, text, where
):
    from gimtune.training import Pack
    from gimtune.tuning import trainable

    class Broken:
        """Measurements that a device fails."""

        data = small.data

        def measure(self, *arguments, **options):
            raise error

    def train_epoch(self, *arguments):
        raise error

    monkeypatch.setattr(trainable, "kept", lambda *arguments: Broken())
    if where == "train_epoch":
        monkeypatch.setattr(Pack, "train_epoch", train_epoch)
    last = worker(SEVERAL[:1], tmp_path)
    for _ in range(MOST - 1):
        with pytest.raises(type(error)):
            last.step()
        last = worker(SEVERAL[:1], tmp_path)
    (row,) = rows_of(last.step()).values()
    assert row["status"] == Status.FAILED
    assert text in row["error"]
    # and it is given no other pack
    with pytest.raises(RuntimeError, match="in another"):
        last.reset_config({"pack": {}})


def test_shares_that_do_not_fit_are_refused_and_packs_are_made_to_fit():
    image, data = (1, 28, 28), 70_000 * 784
    many = [member("vae", seed=s, batch_size=256, network={"name": "mlp", "hidden": [512, 512]}) for s in range(64)]
    device = 8 * 2**30
    made = [packs(many, "auto", image, "cuda", 1, share(gpu, device, data)) for gpu in (1, 0.25, 0.1)]
    for gpu, those in zip((1, 0.25, 0.1), made, strict=True):
        check_share(those, image, gpu, device, data)
    assert len(made[0]) < len(made[1]) < len(made[2])
    with pytest.raises(ValueError, match=r"resources.gpu=0.1: 0.8 GiB of .* a pack of 64 of vae takes .* smaller res"):
        check_share([many], image, 0.1, device, data)
    with pytest.raises(ValueError, match=r"resources.gpu=0.05: .* or more, or a smaller network"):
        check_share([many[:1]], image, 0.05, device, data)


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


@pytest.mark.parametrize("data", [{"name": "images", "path": "/here/mine.npz"}, {"name": "mnist", "binarized": 3}])
def test_weights_that_are_dominated_go_after_a_resume_too(tmp_path, data):
    (tmp_path / "members").mkdir()
    one = replace(member("vae"), data={**data, "seed": 0})
    rows = [
        {"trial": name, "status": "done", "epoch": 1, "fid": fid, "probe_codes": 0.9, "fid_features": "a"}
        | {"checkpoint": f"members/{name}.pt"}
        for name, fid in (("before", 1.0), ("after", 9.0))
    ]
    for row in rows:
        (tmp_path / row["checkpoint"]).touch()
    config = load(["study=tradeoff"])
    with Store(tmp_path / "study.db", create=True) as store:
        store.plan({**identity(config, one), "trial": row["trial"]} for row in rows)
        store.report(rows[:1])
        retention = Retention(store, tmp_path, {"fid": "min", "probe_codes": "max"})
        store.report(rows[1:])
        trial = SimpleNamespace(config={"pack": {"members": [one.to_json()]}})
        retention.on_trial_result(0, [], trial, {"members": as_text(rows[1:])})
    assert {path.stem for path in (tmp_path / "members").iterdir()} == {"before"}


def namespace() -> bool:
    """Whether this user may mount a file system that is seen by a process and its children alone."""
    try:
        asked = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        return subprocess.run(asked, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
def test_a_study_on_a_full_disk_says_so_and_goes_on_when_there_is_room(undisturbed_study, tmp_path):
    if not namespace():
        pytest.skip("no permission to mount a small file system in a namespace (unshare -rm)")
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
    pd.testing.assert_frame_equal(table(run), table(only_run(undisturbed_study)), check_exact=True)


#: What every worker runs first, and what befalls it there in a minibatch of this model.
POISON = """
import os, signal, sys
if any("default_worker" in part for part in sys.argv) or "RAY_JOB_ID" in os.environ or "RAY_RAYLET_PID" in os.environ:
    import torch
    import gimtune.training as training
    first = training.Pack.train_epoch
    def train_epoch(self, *arguments):
        {befalls}
        return first(self, *arguments)
    training.Pack.train_epoch = train_epoch
"""
KILLED = 'if self.members[0].model == "wvae": os.kill(os.getpid(), signal.SIGKILL)'
DEVICE = """
        if self.members[0].model == "wvae":
            open("workers.txt", "a").write(f"{os.getpid()}\\n")
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        if self.epoch >= 2 and len(self.members) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
"""


def persistent(place, *arguments):
    """The exit code, and what was said; where a busy machine let no Ray start, it is gone on with."""
    for _ in range(5):
        driver = Driver(place, *arguments, path=place)
        try:
            # every fresh worker imports torch
            code = driver.process.wait(600)
            said = driver.said()
        finally:
            driver.end()
        if code != 130 or "Ray did not start" not in said:
            break
        arguments = (f"resume={only_run(place)}",)
    return code, said


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_study_outlives_a_device_that_fails_and_one_without_memory(tmp_path):
    found = {}
    for name, models, befalls in (("quiet", "[vae]", "pass"), ("broken", "[vae,wvae]", DEVICE)):
        place = tmp_path / name
        place.mkdir()
        befalls = befalls.replace("workers.txt", str(place / "workers.txt"))
        (place / "sitecustomize.py").write_text(POISON.replace("{befalls}", befalls))
        small = ("space.seed=0", "budget.epochs=4", "metrics.ruler=never", f"models={models}")
        code, said = persistent(place, *STUDY, *small)
        assert code == (name == "broken"), said
        found[name] = table(only_run(place))
    trials = found["broken"]
    failed = trials[trials["model"] == "wvae"]
    assert set(failed["status"]) == {"failed"}
    assert failed["error"].str.contains("CUDA error: unspecified launch failure").all()
    # its pack was tried in so many fresh workers
    assert len(set((tmp_path / "broken" / "workers.txt").read_text().split())) == MOST
    assert "goes on with 1 at a time" in (tmp_path / "broken" / "output.txt").read_text()
    left = trials[trials["model"] == "vae"].reset_index(drop=True)
    # a column of whole numbers has another type beside rows that lack it
    pd.testing.assert_frame_equal(left[found["quiet"].columns], found["quiet"], check_exact=True, check_dtype=False)


@pytest.mark.slow
def test_a_ray_that_gives_up_is_started_again(tmp_path):
    """As on a busy machine: a raylet waits for its agent for 30 s."""
    driver = Driver(tmp_path, *STUDY, "models=[vae]", "space.seed=0", "budget.epochs=2", "metrics.ruler=never")
    try:
        begun, agents = psutil.Process(driver.process.pid), []
        while not agents and driver.process.poll() is None:
            time.sleep(0.02)
            with suppress(psutil.Error):
                every = begun.children(recursive=True)
                agents = [one for one in every if any("dashboard/agent.py" in part for part in one.cmdline())]
        for agent in agents:
            agent.suspend()
        assert agents
        assert driver.wait() == 0, driver.said()
    finally:
        driver.end()


@pytest.mark.slow
@pytest.mark.long
def test_a_pack_that_kills_its_workers_is_given_up_and_the_others_end(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(POISON.replace("{befalls}", KILLED))
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
