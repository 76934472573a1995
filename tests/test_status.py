"""How a study stands: counts and fronts kept up member by member against those of the whole, drivers alive and dead."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_analysis import member, write

from gimtune.analysis import front
from gimtune.analysis.__main__ import main
from gimtune.analysis.status import standing
from gimtune.results.folder import driver_at_work, held
from gimtune.results.store import Store
from gimtune.results.tally import Tally, essential, span, summary
from gimtune.tuning.packs import as_text
from gimtune.vocabulary import ENDED, Status

ROOT = Path(__file__).parents[1]
OBJECTIVES = {"fid": "min", "probe_codes": "max"}


def study(run: Path, members: list[dict], **meta: str) -> Path:
    with write(run, members) as store:
        store.annotate(name="tradeoff", epochs="8", members=str(len(members)), **meta)
    return run


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


RUNNING = [
    member(0),
    member(1, fid=40.0, probe_codes=0.8),
    member(2, Status.RUNNING, epoch=6),
    member(3, Status.PLANNED),
    member(4, Status.FAILED, "ValueError: no such thing", pack="t04-1"),
    member(5, Status.DIVERGED, "the loss was not finite in epoch 3"),
]

# Counting

EVENTS = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(list(Status)), st.integers(0, 10)), max_size=40)


@given(EVENTS)
def test_a_tally_is_the_count_of_what_members_are(events):
    tally, stands = Tally(10, 10), {}
    for trial, status, epoch in events:
        before, reached = stands.get(trial, (None, 0))
        ends = tally.take(trial, status, epoch)
        assert ends == (before not in ENDED and status in ENDED)
        if before not in ENDED:
            stands[trial] = status, max(epoch, reached)
    statuses = [status for status, _ in stands.values()]
    planned = statuses.count(Status.PLANNED) + 10 - len(stands)
    assert tally.counts == {s: statuses.count(s) for s in Status} | {Status.PLANNED: planned}
    assert tally.trained == sum(epoch for _, epoch in stands.values())
    assert tally.ended == sum(status in ENDED for status in statuses)
    assert 0 <= tally.left <= 10 * (10 - tally.ended)


def test_time_left_is_at_the_rate_of_epochs():
    members = [("a", Status.DONE, 10), ("b", Status.RUNNING, 4), ("c", Status.PLANNED, 0)]
    tally = Tally(5, 10, members)
    # 6 of the running one, and three that are planned or not yet suggested
    assert tally.left == 6 + 3 * 10
    # 12 epochs in 6 seconds
    assert tally.seconds_left(2, 6.0) == 36 / 2
    assert tally.seconds_left(14, 6.0) is None
    # between reports it goes down as the clock goes, until what runs could have ended: 3 epochs, 6 at the most
    assert tally.seconds_left(2, 7.5, since=1.5) == 18 - 1.5
    assert tally.seconds_left(2, 9.0, since=3.0) == 18 - 3.0
    assert tally.seconds_left(2, 18.0, since=12.0) == 18.0 * 30 / 18
    tally.take("b", Status.STOPPED, 4)
    # two ended after 10 and 4 epochs: those to come count 7
    assert tally.left == 3 * 7


def test_what_is_still_measured_is_not_said_to_be_over():
    tally = Tally(1, 10, [("a", Status.RUNNING, 9)])
    assert [summary(tally, None, left)["time left"] for left in (None, 75, 0.2, 0)] == ["?", "1:15 min", "soon", "soon"]


def test_durations_are_read_at_a_glance():
    assert [span(s) for s in (0, 75, 3599.6, 10_859, 200_000)] == [
        *("0 s", "1:15 min", "1 h 00 min", "3 h 00 min", "2 d 7 h")
    ]


VALUES = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, 3.0, 20.0, np.nan])


@settings(max_examples=20)
@given(st.lists(st.lists(st.tuples(VALUES, VALUES, st.sampled_from(list(Status))), max_size=6), max_size=6))
def test_the_essential_points_stand_for_all(batches):
    kept, everything = pd.DataFrame(), []
    for batch in batches:
        rows = [
            {
                "fid": f,
                "probe_codes": min(p, 1.0),
                "status": s,
                "data": "digits",
                "fid_features": "c",
                "reasons": None,
            }
            for f, p, s in batch
        ]
        everything += rows
        kept = pd.concat([kept, pd.DataFrame(rows)], ignore_index=True)
        best, whole = front(kept, OBJECTIVES), front(pd.DataFrame(everything), OBJECTIVES)
        columns = ["fid", "probe_codes"]
        np.testing.assert_array_equal(*(f.rows.reindex(columns=columns).to_numpy() for f in (best, whole)))
        np.testing.assert_equal(best.reference, whole.reference)
        assert best.hypervolume == pytest.approx(whole.hypervolume, rel=1e-12)
        kept = essential(best)
        assert len(kept) <= len(best.rows) + 2


# Driver

HOLD = """
import fcntl, sys, time
handle = open(sys.argv[1], "w")
fcntl.flock(handle, fcntl.LOCK_EX)
print(flush=True)
time.sleep(99)
"""


@pytest.fixture
def driver(tmp_path):
    """A process that holds the lock of a run folder as a driver does."""
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / ".lock"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_driver_is_alive_as_long_as_its_process(tmp_path, driver):
    assert driver_at_work(tmp_path)
    driver.kill()
    driver.wait()
    assert not driver_at_work(tmp_path)
    assert not driver_at_work(tmp_path / "nowhere")


ASK = """
import fcntl, sys, time
handle = open(sys.argv[1])
fcntl.flock(handle, fcntl.LOCK_SH)
print(flush=True)
time.sleep(0.1)
"""


def test_asking_does_not_keep_a_driver_out(tmp_path):
    (tmp_path / ".lock").touch()
    with subprocess.Popen([sys.executable, "-c", ASK, tmp_path / ".lock"], stdout=subprocess.PIPE) as asking:
        asking.stdout.readline()
        assert not driver_at_work(tmp_path)
        with held(tmp_path) as got:
            assert got
            assert driver_at_work(tmp_path)


# Status


def test_status_of_a_running_study(tmp_path, driver, capsys):
    run = study(tmp_path, RUNNING, started=str(time.time() - 60), epochs_before="0")
    (run / "errors").mkdir()
    (run / "errors" / "t04-1.txt").write_text("Traceback ...")
    with Store(run / "study.db", create=True) as writer:
        said = output(capsys, str(run), "--status")
        writer.annotate(still="open")
    assert "6: 1 planned, 1 running, 2 done, 1 diverged, 1 failed" in said
    assert "at work since" in said
    assert "left, until" in said
    assert "resume=" not in said
    assert "ValueError: no such thing" in said
    assert "errors/t04-1.txt" in said
    assert "6 of 8" in said
    assert "2 of 2 trials" in said


def test_status_of_a_study_whose_driver_died(tmp_path, capsys):
    run = study(tmp_path, RUNNING, started=str(time.time() - 60), epochs_before="0")
    said = output(capsys, str(run), "--status")
    assert f"python -m gimtune resume={run}" in said
    assert "left, until" not in said
    assert "Begun when the driver ended: 1" in said


def test_status_of_a_finished_study(tmp_path, capsys):
    said = output(capsys, str(study(tmp_path, [member(i, fid=40.0 + i) for i in range(3)])), "--status")
    assert "3: 3 done" in said
    assert "all results are in" in said
    assert "resume=" not in said
    assert not list(tmp_path.glob("*.csv")), "asking writes nothing"


def test_status_before_the_first_report(tmp_path, driver, capsys):
    said = output(capsys, str(study(tmp_path, [member(i, Status.PLANNED) for i in range(3)])), "--status")
    assert "Ray is starting" in said
    assert "no member has ended yet" in said


def test_a_search_counts_members_that_are_not_yet_suggested(tmp_path):
    run = study(tmp_path, RUNNING)
    with Store(run / "study.db", create=True) as store:
        store.annotate(members="20")
    assert standing(run).tally.counts[Status.PLANNED] == 15
    assert not standing(run).ended
    with Store(run / "study.db", create=True) as store:
        store.annotate(exhausted="no more members")
    assert standing(run).tally.counts[Status.PLANNED] == 1


def test_a_search_that_has_suggested_nothing_has_not_ended(tmp_path, capsys):
    run = study(tmp_path, [])
    with Store(run / "study.db", create=True) as store:
        store.annotate(members="20")
    said = output(capsys, str(run), "--status")
    assert "20: 20 planned" in said
    assert "resume=" in said
    assert "all results" not in said


def test_status_of_what_is_no_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path), "--status"]) == 2
    assert "no run folder" in capsys.readouterr().err


def test_nothing_heavy_is_imported(tmp_path):
    run = study(tmp_path, RUNNING)
    code = (
        "import sys; from analysis.__main__ import main; code = main(sys.argv[1:]); "
        "print(sorted({'torch', 'ray', 'optuna'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run), "--status"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr


# Watching


def test_watching_ends_with_the_study_and_leaves_its_tables(tmp_path, capsys):
    run = study(tmp_path, [member(i, fid=40.0 + i, probe_codes=0.5 + i / 10) for i in range(3)])
    said = output(capsys, str(run), "--watch")
    assert "all results are in" in said
    assert len(pd.read_csv(run / "pareto.csv")) == 3


def test_ctrl_c_ends_watching_cleanly(tmp_path, driver):
    run = study(tmp_path, RUNNING)
    watcher = subprocess.Popen(
        [sys.executable, "-m", "analysis", str(run), "--watch"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # a shell's background jobs ignore it, and so would all that they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    # members have ended, so the first look writes the tables
    while not (run / "figures" / "front.html").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    watcher.send_signal(signal.SIGINT)
    said, error = watcher.communicate(timeout=30)
    assert watcher.returncode == 0, error.decode()
    assert "Traceback" not in error.decode()
    assert "at work" in said.decode()


# The driver's own


class Trial:
    """What the recorder reads of a Ray trial."""

    def __init__(self, *names: str, folder: str = ".") -> None:
        members = [json.dumps({"model": "vae"}) for _ in names]
        self.config = {"pack": {"trials": list(names), "members": members, "name": names[0], "folder": folder}}


def reported(name: str, epoch: int, status: Status, fid: float, accuracy: float) -> dict:
    row = {"trial": name, "epoch": epoch, "status": str(status), "fid": fid, "probe_codes": accuracy, "mi_q": 1.0}
    return {**row, "restriction": 0.5, "fid_features": "classifier", "error": None, "seconds": 1.0}


def test_the_recorder_and_the_status_say_the_same(tmp_path):
    from gimtune.tuning.recorder import Recorder

    run = study(tmp_path, [member(i, Status.PLANNED) for i in range(24)])
    random = np.random.default_rng(0)
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with Store(run / "study.db", create=True) as store, Recorder(store, 8, OBJECTIVES, 24, console) as recorder:
        for i in range(20):
            trial = Trial(f"t{i:02d}")
            recorder.on_trial_start(0, [], trial)
            for epoch in (4, 8):
                status = Status.RUNNING if epoch == 4 else Status.DONE
                row = reported(f"t{i:02d}", epoch, status, *random.random(2))
                recorder.on_trial_result(0, [], trial, {"members": as_text([row]), "epoch": epoch})
                recorder.on_step_end(0, [])
            recorder.on_trial_complete(0, [], trial)
        recorder.on_trial_start(0, [], Trial("t20", "t21"))
        assert standing(run).tally.counts[Status.RUNNING] == 2
        recorder.on_trial_error(0, [], Trial("t20"))
        recorder.__exit__()
        now = standing(run)
        assert recorder.tally.counts == now.tally.counts
        assert recorder.tally.counts[Status.FAILED] == 1
        best = recorder._best()
        assert best.rows["trial"].tolist() == now.best.rows["trial"].tolist()
        assert (best.hypervolume, best.reference) == (pytest.approx(now.best.hypervolume), now.best.reference)
        assert len(recorder._points) <= len(best.rows) + 2
        assert f"{now.best.hypervolume:.4g}" in console.file.getvalue()
    # whoever goes on finds nobody running
    with Store(run / "study.db", create=True) as store, Recorder(store, 8, OBJECTIVES, 24, console) as again:
        assert again.tally.counts[Status.RUNNING] == 0
        assert again.tally.counts[Status.DONE] == 20
        assert again._best().rows["trial"].tolist() == now.best.rows["trial"].tolist()
        row = reported("t22", 8, Status.DONE, 0.0, 1.0)
        again.on_trial_result(0, [], Trial("t22"), {"members": as_text([row])})
        assert again._best().rows["trial"].tolist() == ["t22"]


def test_a_report_costs_as_much_late_as_early(tmp_path, monkeypatch):
    """Counted in points that the front is taken of: clocks of a busy machine say little."""
    from gimtune.tuning import recorder as module

    seen = []

    def counted(points, objectives):
        seen.append(len(points))
        return front(points, objectives)

    monkeypatch.setattr(module, "front", counted)
    run = study(tmp_path, [member(i, Status.PLANNED) for i in range(100)])
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with Store(run / "study.db", create=True) as store, module.Recorder(store, 8, OBJECTIVES, 100, console) as recorder:
        for i in range(100):
            row = reported(f"t{i:02d}", 8, Status.DONE, 1.0 + i % 7, 0.5)
            recorder.on_trial_result(0, [], Trial(f"t{i:02d}"), {"members": as_text([row])})
            recorder._show()
    # equal points are all on the front: a seventh of the members here, in place of all
    assert max(seen) <= 100 / 7 + 3


WRITE = """
import sys, time
from pathlib import Path
from gimtune.results.store import Store
store = Store(Path(sys.argv[1]) / "study.db", create=True)
store.annotate(name="held")
print(flush=True)
time.sleep(99)
"""


def test_a_store_whose_writer_was_killed_is_read(tmp_path):
    run = study(tmp_path, RUNNING)
    with subprocess.Popen([sys.executable, "-c", WRITE, run], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        writer.kill()
    assert standing(run).study.meta["name"] == "held"
