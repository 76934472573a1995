"""Studies that are asked to end: by signals, within an epoch, within an evaluation; and that they go on as if not."""

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import CPU
from helpers import CLOCK, STUDY, Driver, check_same, finished, member, only_run, reports_of

from gimtune import analysis
from gimtune.data.binarized import binarized
from gimtune.interruption import Interrupted, Interruption
from gimtune.metrics import Evaluation
from gimtune.results.store import Store
from gimtune.training import run
from gimtune.vocabulary import Status

# several models' worth of state: a critic with steps of its own, and weights to go back to
PACK = [member(m, epochs=4, evaluate_every=2, seed=s, restore="objectives") for m in ("wae_gan",) for s in (0, 1)]
STEPS = 4


def numbers(rows):
    return [{key: value for key, value in row.items() if key not in CLOCK} for batch in rows for row in batch]


def told(rows):
    """What a store would hold: a row that is told again replaces itself."""
    kept = {(row["trial"], row["epoch"]): row for row in numbers(rows)}
    return json.dumps(list(kept.values()), sort_keys=True)


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
    return told(run(PACK, small, tmp_path_factory.mktemp("undisturbed")))


def test_pixels_drawn_in_training_are_drawn_again_where_a_pack_was_stopped(small, tmp_path):
    drawn = Evaluation(binarized(small.data.dataset, "dynamic", 0), small.network, CPU)
    whole, rows = told(run(PACK, drawn, tmp_path / "whole")), []
    while not rows or any(row["status"] != "done" for row in rows[-1]):
        count = itertools.count(1)
        rows += run(PACK, drawn, tmp_path / "stopped", stopping=lambda count=count: next(count) > 3)
    assert told(rows) == whole


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_a_pack_that_is_stopped_at_a_minibatch_goes_on_bit_for_bit(small, tmp_path, undisturbed, every):
    rows, stops = [], 0
    for _ in range(200):
        count = itertools.count(1)
        found = list(run(PACK, small, tmp_path, stopping=lambda count=count: next(count) > every))
        rows += found
        if found and all(row["status"] == "done" for row in found[-1]):
            break
        stops += 1
    assert stops >= STEPS / every
    assert told(rows) == undisturbed
    # nothing but the last evaluations' own checkpoints is left
    assert all(path.name.startswith("epoch-") for path in (tmp_path / "packs").glob("*/*.pt"))


class Slow:
    """An evaluation that takes longer than there is time, and whose worker dies in it."""

    def __init__(self, evaluation, calls):
        self._evaluation, self._calls = evaluation, calls

    def __getattr__(self, name):
        return getattr(self._evaluation, name)

    def measure(self, *arguments, **options):
        self._calls -= 1
        if self._calls < 0:
            time.sleep(1.2)
            raise SystemExit
        return self._evaluation.measure(*arguments, **options)


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_training_is_not_lost_with_a_measurement_that_is_cut_off(small, tmp_path, undisturbed, calls):
    rows, slow = [], Slow(small, calls)
    with pytest.raises(SystemExit):
        rows.extend(run(PACK, slow, tmp_path, stopping=lambda: slow._calls < 0))
    (kept,) = tmp_path.glob("packs/*/between.pt")
    state = torch.load(kept, weights_only=True)
    assert state["stands"] == "before"
    assert state["epoch"] == (2 if calls < 2 else 4)
    rows += run(PACK, small, tmp_path)
    assert told(rows) == undisturbed


@pytest.fixture
def foreground():
    """Signals as a terminal leaves them: whoever runs the tests may ignore some."""
    ours = {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_a_first_signal_is_a_first_interrupt(number, foreground):
    with pytest.raises(Interrupted) as raised, Interruption():
        signal.raise_signal(number)
    assert raised.value.code == 128 + number


def test_signals_are_noted_while_somebody_looks_and_ctrl_c_ends_it_the_second_time(foreground):
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        interruption.noted = True
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)
        assert interruption.code == 143
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_a_thread_takes_while_ray_starts_is_a_first_interrupt(foreground):
    @contextmanager
    def begun():
        # as ray.init does
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        yield

    over = threading.Event()
    threading.Thread(target=over.wait, daemon=True).start()
    try:
        with pytest.raises(Interrupted) as raised, Interruption() as interruption, interruption.shielded(begun()):
            pass
    finally:
        over.set()
    assert (raised.value.code, interruption.code) == (143, 143)
    with pytest.raises(SystemExit), Interruption() as interruption, interruption.shielded(leaving()):
        pass


@contextmanager
def leaving():
    sys.exit("another reason")
    yield


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("os._exit(1)", "begun\nGo on\n  so\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "begun\nGo on\n  so\n"),
        ("os.killpg(0, signal.SIGTERM)", "begun\nGo on\n  so\n"),
        ("os.kill(witness, signal.SIGTERM); os._exit(1)", "begun\nGo on\n  so\n"),
        ("os.kill(witness, signal.SIGKILL)", "begun\nended\n"),
        ("pass", "begun\nended\n"),
        ("raise SystemExit", "begun\n"),
    ],
)
def test_the_last_word_is_said_where_a_program_cannot_say_it(end, said):
    program = f"""
import os, signal, psutil
from gimtune.interruption import last_word
with last_word("Go on\\n  so"):
    print("begun", flush=True)
    witness = psutil.Process().children()[0].pid
    {end}
print("ended")
"""
    # what is said is read to its end, so nobody is left who could write
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, start_new_session=True, timeout=60).stdout == said


#: One interval, and one evaluation: whatever is lost between them is seen. All members train when the signal comes, and
#: are far from their end.
LONG = [
    *(word for word in STUDY if not word.startswith("space.seed")),
    *("space.seed=0", "ray.dashboard=false", "metrics.ruler=never"),
    *("budget.epochs=700", "budget.evaluate_every=700"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("whole"), *LONG)


def running(folder):
    try:
        with Store(only_run(folder) / "study.db") as store:
            return "running" in [str(status) for status in store.statuses().values()]
    except (FileNotFoundError, ValueError):
        return False


@pytest.mark.slow
@pytest.mark.long  # the first goes to a whole group below, a terminal that is closed sends the second, Slurm the third
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_ends_a_study_within_an_epoch_and_nothing_is_lost(drive, whole, tmp_path, number):
    driver = drive(tmp_path, *LONG)
    deadline = time.monotonic() + 100
    while not running(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(4)
    driver.process.send_signal(number)
    started = time.monotonic()
    assert driver.wait() == 128 + number, driver.said()
    assert time.monotonic() - started < 30
    run_folder = only_run(tmp_path)
    said = driver.said()
    assert said.strip().splitlines()[-1].strip() == f"python -m gimtune resume={run_folder.relative_to(tmp_path)}"
    assert "Traceback" not in said
    kept = [torch.load(path, weights_only=True) for path in run_folder.glob("packs/*/between.pt")]
    assert sum(state["epoch"] for state in kept) > 0
    assert not reports_of(tmp_path)
    again = drive(tmp_path, f"resume={run_folder}")
    assert again.wait() == 0, again.said()
    check_same(run_folder, only_run(whole))
    assert analysis.load(run_folder).trials["environment"].nunique() == 1


@pytest.mark.slow
def test_a_signal_to_the_whole_group_spares_ray_and_nothing_is_lost(drive, whole, tmp_path):
    driver = drive(tmp_path, *LONG)
    deadline = time.monotonic() + 100
    while not running(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(4)
    os.killpg(driver.process.pid, signal.SIGTERM)
    started = time.monotonic()
    assert driver.wait() == 143, driver.said()
    assert time.monotonic() - started < 30
    run_folder = only_run(tmp_path)
    assert (
        driver.said().strip().splitlines()[-1].strip() == f"python -m gimtune resume={run_folder.relative_to(tmp_path)}"
    )
    assert list(run_folder.glob("packs/*/between.pt"))
    again = drive(tmp_path, f"resume={run_folder}")
    assert again.wait() == 0, again.said()
    check_same(run_folder, only_run(whole))


@pytest.mark.slow
@pytest.mark.parametrize("search", ["grid", pytest.param("tpe", marks=pytest.mark.long)])
def test_no_pack_begins_once_a_study_is_told_to_end(drive, tmp_path, search):
    """Ray's controller starts what waits for a worker, also where no trial is chosen."""
    seeds = ["space.seed={grid: [" + ", ".join(map(str, range(60))) + "]}"] if search == "grid" else []
    found = ["search=tpe", "search.trials=60", "space.weight={loguniform: [0.1, 1]}"] if search == "tpe" else []
    few = [word for word in LONG if not word.startswith(("models", "space.", "resources"))]
    driver = drive(tmp_path, *few, "models=[vae]", "space.prior=normal", "resources.members=1", *seeds, *found)
    deadline = time.monotonic() + 100
    while not running(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(4)
    driver.process.send_signal(signal.SIGINT)
    started = time.monotonic()
    assert driver.wait() == 130, driver.said()
    assert time.monotonic() - started < 30
    run_folder = only_run(tmp_path)
    begun = sorted(path.parent.name for path in run_folder.glob("packs/*/starts.json"))
    assert 1 <= len(begun) <= 2
    with Store(run_folder / "study.db") as store:
        statuses = store.statuses()
    # Optuna is asked for one ahead, which is planned then
    assert len(statuses) == 60 if search == "grid" else len(begun) <= len(statuses) <= len(begun) + 1
    assert {*statuses.values()} <= {Status.PLANNED, Status.RUNNING}
    assert [*statuses.values()].count(Status.RUNNING) == len(begun)
    said = driver.said()
    assert max(int(number) for number in re.findall(r"running (\d+)", said)) <= 2
    assert "Trial " not in said


#: A signal that comes when this process has left Ray, whose processes are then waited for.
LEAVING = """
import os, signal, sys
if sys.orig_argv[1:3] == ["-m", "gimtune"]:
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from ray._private.node import Node
    kill_all = Node.kill_all_processes
    def kill_all_processes(self, *arguments, **options):
        open("sent", "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
        return kill_all(self, *arguments, **options)
    Node.kill_all_processes = kill_all_processes
"""


@pytest.mark.slow
def test_a_signal_while_ray_ends_is_one_that_came_too_late(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(LEAVING)
    driver = Driver(tmp_path, *STUDY, "budget.epochs=2", "ray.dashboard=false", path=tmp_path)
    try:
        assert driver.wait() == 0, driver.said()
    finally:
        driver.end()
    assert (tmp_path / "sent").exists()
    assert (only_run(tmp_path) / "report.html").is_file()


@pytest.mark.slow
def test_a_signal_while_the_report_is_written_says_how_it_is_written(drive, tmp_path):
    driver = drive(tmp_path, *STUDY, "budget.epochs=2", "ray.dashboard=false")
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("results/*/*/trials.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    # Ray has ended, and has taken its handler away
    driver.process.send_signal(signal.SIGTERM)
    assert driver.wait() == 143, driver.said()
    run_folder = only_run(tmp_path)
    *_, told, last = driver.said().strip().splitlines()
    assert told == "Interrupted with its report to write. Go on with:"
    assert last.strip() == f"python -m gimtune resume={run_folder.relative_to(tmp_path)}"
    assert not (run_folder / "report.html").exists()
    again = drive(tmp_path, f"resume={run_folder}")
    assert again.wait() == 0, again.said()
    assert (run_folder / "report.html").is_file()


@pytest.mark.slow
def test_a_terminal_that_is_closed_is_a_first_interrupt(whole, tmp_path):
    # a session of its own, as sshd makes one: its end sends SIGHUP to all processes in the foreground
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        arguments = ["python", "-m", "gimtune", *LONG]
        os.execvpe("python", arguments, Driver.environment(tmp_path))
    os.set_blocking(terminal, False)
    deadline = time.monotonic() + 100
    while not running(tmp_path) and time.monotonic() < deadline:
        try:
            os.read(terminal, 65536)
        except BlockingIOError:
            time.sleep(0.1)
    time.sleep(3)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert list(only_run(tmp_path).glob("packs/*/between.pt"))
    driver = Driver(tmp_path, f"resume={only_run(tmp_path)}")
    try:
        assert driver.wait() == 0, driver.said()
    finally:
        driver.end()
    check_same(only_run(tmp_path), only_run(whole))


@pytest.mark.slow
def test_a_slurm_job_queues_itself_again_until_its_study_has_ended(tmp_path):
    """Slurm's part is played by this test: it runs the script, sends its signal, and runs it again when asked to."""
    (tmp_path / "scontrol").write_text('#!/bin/bash\necho "$@" >> "$(dirname "$0")/asked"\n')
    (tmp_path / "scontrol").chmod(0o755)
    storage = tmp_path / "the results = (all)"
    environment = {
        **Driver.environment(tmp_path),
        "PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]]),
        "SLURM_JOB_ID": "42",
        "GIMTUNE_STORAGE": str(storage),
    }
    script = Path(__file__).parents[1] / "docs" / "howto" / "cluster" / "slurm.sh"

    def job():
        with (tmp_path / "output.txt").open("a") as output:
            return subprocess.Popen([script, *LONG], cwd=tmp_path, env=environment, stdout=output, stderr=output)

    first = job()
    deadline = time.monotonic() + 100
    while not list(storage.glob("slurm-42/*/packs/*/starts.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    first.send_signal(signal.SIGUSR1)
    assert first.wait(60) == 138, (tmp_path / "output.txt").read_text()
    assert (tmp_path / "asked").read_text() == "requeue 42\n"
    assert job().wait(240) == 0, (tmp_path / "output.txt").read_text()
    (run_folder,) = (storage / "slurm-42").iterdir()
    assert set(analysis.load(run_folder).trials["status"]) == {"done"}
