"""Studies that are killed again and again at random moments, and end as if they had not been.

    GIMTUNE_KILLS=200 GIMTUNE_SEED=1 pytest -m chaos tests/test_chaos.py

A grid, a search by tpe and a grid under mo_asha on digits run on a Ray of their own. Its driver, a worker, the raylet,
the GCS or all processes at once get a SIGKILL or a SIGTERM, while Ray starts, while members train or while the report
is written; what has ended is gone on with at once, and where all have ended before all kills are done, another study
begins. Every kill is printed with its moment and what came of it, and the seed with them.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from helpers import CLOCK, Driver

from gimtune import analysis
from gimtune.results.store import Store
from gimtune.study.composition import reopened
from gimtune.tuning.mo_asha import make_rungs
from gimtune.vocabulary import ENDED

pytestmark = pytest.mark.chaos

KILLS = int(os.environ.get("GIMTUNE_KILLS", "200"))
SEED = int(os.environ.get("GIMTUNE_SEED") or secrets.randbelow(2**16))
WHOM = ("driver", "worker", "raylet", "gcs", "node")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
#: Names of Ray's processes, as they begin.
NAMES = {"worker": "ray::GimTrial", "raylet": "raylet", "gcs": "gcs_server"}
#: Seconds within which a driver without its Ray has ended, and within which nothing of a driver is left.
ENDS, GONE = 300.0, 120.0
#: Seconds within which the last word on a driver is there.
SAID = 5.0
_MARK = "GIMTUNE_CHAOS"

COMMON = (
    "space.prior=normal",
    "space.latent_dim=4",
    "space.seed=0",
    "network.hidden=[16]",
    "budget.epochs=10",
    "budget.evaluate_every=2",
    "resources.members=2",
    "metrics.ruler=never",
    "metrics.fid_samples=500",
    "ray.dashboard=false",
)
GRID = ("study=tradeoff", "models=[vae,wvae,wae_mmd,beta_vae]", "space.weight={grid: [0.1, 1]}")
STUDIES = {
    "grid": (*GRID, *COMMON),
    "tpe": ("study=search", "search=tpe", "search.trials=8", "models=[vae,wvae]", *COMMON),
    "mo_asha": (*GRID, *COMMON, "scheduler=mo_asha", "scheduler.reduction=2"),
}
MEMBERS = 8


#: What Python's clock says in all processes of a study: every five seconds another hour, up to a day off.
JUMPS = """
import random, time
true, steady = time.time, time.monotonic
def jumped():
    return true() + random.Random(int(steady() / 5)).choice([0, 0, -86400, -3600, -60, 60, 3600, 86400])
time.time = jumped
time.time_ns = lambda: int(jumped() * 1e9)
"""
#: Every file that is synced, by Python, SQLite or Ray, is late.
SLOW = (
    *("strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"),
    *("-e", "inject=fsync,fdatasync:delay_exit=300ms"),
)


@dataclass
class Study:
    """A study in its folder, with all drivers that it has had."""

    folder: Path
    arguments: tuple[str, ...]
    path: Path | None = None
    under: tuple[str, ...] = ()
    drivers: list[tuple[psutil.Popen, str]] = field(default_factory=list)
    begun: float = 0.0

    @property
    def run(self) -> Path | None:
        """The run folder, once it is there."""
        found = list((self.folder / "results").glob("*/[0-9]*/study.db"))
        return found[0].parent if found else None

    @property
    def place(self) -> Path | None:
        """The same, as a user types it."""
        return self.run and self.run.relative_to(self.folder)

    def go_on(self) -> None:
        mark = secrets.token_hex(8)
        arguments = self.arguments if self.run is None else (f"resume={self.place}",)
        with self._output(len(self.drivers)).open("w") as output:
            process = psutil.Popen(
                [*self.under, sys.executable, "-m", "gimtune", *arguments],
                cwd=self.folder,
                env={**Driver.environment(self.folder, self.path), _MARK: mark},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.drivers.append((process, mark))
        self.begun = time.monotonic()

    def _output(self, number: int) -> Path:
        return self.folder / f"output-{number}.txt"

    @property
    def driver(self) -> psutil.Popen:
        return self.drivers[-1][0]

    def said(self) -> str:
        """What the last driver printed."""
        return self._output(len(self.drivers) - 1).read_text()

    def told(self) -> bool:
        """Whether the last line of the last driver, which has ended, says how to go on."""
        allowed = ["Interrupted.", f"  python -m gimtune resume={self.place}"] if self.run else ["Interrupted."]
        end = time.monotonic() + SAID
        while not (told := self.said().strip().splitlines()[-1:]) or told[0] not in allowed:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def at_work(self) -> bool:
        """Whether there are members to go, and the last driver had begun with them."""
        if "run folder" not in self.said():
            return False
        with Store(self.run / "study.db") as store:
            return not ENDED.issuperset(store.statuses().values())

    def unstarted(self) -> bool:
        """Whether the last driver has ended because a busy machine let no Ray start; it is told."""
        if self.driver.poll() != 130 or "Ray did not start" not in self.said():
            return False
        print(f"{self.folder.name}: driver {len(self.drivers) - 1} found no Ray by itself", flush=True)
        return True

    def reports(self) -> int:
        try:
            with Store(self.run / "study.db") as store:
                return len(store.reports())
        except (FileNotFoundError, ValueError, TypeError):
            return 0

    def targets(self, whom: str) -> list[psutil.Process]:
        """Processes of the last driver: itself, all, or those of a kind."""
        if whom == "driver":
            return [self.driver]
        every = marked(self.drivers[-1][1])
        return every if whom == "node" else [p for p in every if named(p, NAMES[whom])]

    def end(self) -> None:
        for _, mark in self.drivers:
            kill_all(marked(mark))


def marked(mark: str) -> list[psutil.Process]:
    """Processes that a driver has started, itself with them, wherever they are in the tree by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def named(process: psutil.Process, name: str) -> bool:
    try:
        return Path(process.cmdline()[0]).name.startswith(name)
    except (psutil.Error, IndexError):
        return False


def kill_all(processes: list[psutil.Process]) -> None:
    """A machine is gone at once, not process by process."""
    for sign in (signal.SIGSTOP, signal.SIGKILL):
        send(processes, sign)


def send(processes: list[psutil.Process], sign: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(sign)
        except psutil.NoSuchProcess:
            continue


def moment(study: Study, whom: str, rng: random.Random, deadline: float) -> list[psutil.Process]:
    """Wait for a random moment at which there is somebody to kill; nobody, if the driver has ended before."""
    if rng.random() < 0.4:  # from the first import to the first reports
        start = time.monotonic() + rng.uniform(0.2, 15)
    else:
        before, start = study.reports(), None
        while study.reports() == before and study.driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.3)
        start = time.monotonic() + rng.uniform(0, 3)
    while study.driver.poll() is None and time.monotonic() < deadline:
        if time.monotonic() >= start and (found := study.targets(whom)):
            return [rng.choice(found)] if whom == "worker" else found
        time.sleep(0.1)
    return []


def ended(study: Study) -> int:
    """The exit code of a driver that is let be, or of the one that goes on where Ray did not start."""
    code = study.driver.wait(900)
    while study.unstarted():
        study.go_on()
        code = study.driver.wait(900)
    return code


def strike(study: Study, whom: str, sign: signal.Signals, rng: random.Random) -> tuple[str, list[str]] | None:
    """Kill once; returns a line on what came of it, and what broke. ``None`` where the study ended before."""
    found = moment(study, whom, rng, time.monotonic() + 300)
    if not found:
        return None
    before, begun, printed = study.reports(), study.run is not None, len(study.said())
    if whom == "node" and sign == signal.SIGKILL:
        kill_all(found)
    else:
        send(found, sign)
    started = time.monotonic()
    since = (
        f"{started - study.begun:.1f} s, {before} reports" if begun else f"{started - study.begun:.1f} s, no run yet"
    )
    line = f"{whom:6} {sign.name} of driver {len(study.drivers) - 1} after {since}"
    if whom == "worker" or (whom in NAMES and sign == signal.SIGTERM):
        # Ray's own processes pass over what `kill` and systemd send to all of a group
        return f"{line}: the study goes on", []
    try:
        while study.driver.poll() is None and time.monotonic() < started + ENDS:
            if whom in NAMES and any(p.pid not in {one.pid for one in found} for p in study.targets(whom)):
                return f"{line}: Ray is started again", []
            time.sleep(0.1)
        code = study.driver.wait(0)
    except psutil.TimeoutExpired:
        study.driver.kill()
        study.driver.wait()
        return f"{line}: no end", [f"{line}: the driver had not ended after {ENDS:g} s: {study.said()[-1000:]}"]
    line += f": exit code {code} after {time.monotonic() - started:.1f} s"
    if sign == signal.SIGTERM or whom in NAMES:
        # a driver that was not killed itself says how to go on, if there is anything to go on with;
        # Ray's C++ ends one that is just joining it with 1, and holds Python still until then: docs/howto/resume.md
        expected = (143,) if sign == signal.SIGTERM else (130, 1)
        # a signal that comes before the program has read its imports ends it as any program
        early = whom not in NAMES and code == -sign and not study.said().strip()
        # Ray prints one of its own for each worker that dies
        trace = whom not in NAMES and "Traceback" in study.said()[printed:]
        if code != 0 and not early and (trace or code not in expected or not study.told()):
            return line, [f"{line}: {study.said()[-1000:]}"]
    elif whom == "driver" and study.at_work() and not study.told():
        return line, [f"{line}: {study.said()[-1000:]}"]
    return line, []


def disturbed(
    folder: Path, kind: str, kills: list[tuple[str, signal.Signals]], rng: random.Random, **how: Any
) -> list[Path]:
    """Studies of one kind, killed so often in all; returns the folders of their runs."""
    left, runs, broken, done = list(kills), [], [], Counter[str]()
    while left or not runs:
        study = Study(folder / f"{kind}-{len(runs)}", STUDIES[kind], **how)
        study.folder.mkdir()
        try:
            study.go_on()
            held = 0
            while left and study.driver.poll() is None:
                struck = strike(study, *left[0], rng)
                if struck is None:
                    if study.unstarted():
                        study.go_on()
                        continue
                    break
                done[f"{left[0][0]} {left[0][1].name}"] += 1
                print(f"{kind:8} {len(kills) - len(left) + 1:3d} {struck[0]}", flush=True)
                broken += [f"{study.folder.name}, driver {len(study.drivers) - 1}: {text}" for text in struck[1]]
                left.pop(0)
                if study.reports() < held:
                    broken.append(f"{study.folder.name}: {held} reports, and {study.reports()} after {struck[0]}")
                held = study.reports()
                if study.driver.poll() is not None:
                    study.go_on()
            code = ended(study)
            print(f"{kind:8} driver {len(study.drivers) - 1} ends: {code}, {study.reports()} reports", flush=True)
            if code != 0:
                broken.append(f"{study.folder.name}: exit code {code}: {study.said()[-2000:]}")
                break
            broken += orphans(study)
            if study.run is None:
                raise AssertionError(f"{study.folder}: no run folder")
            runs.append(study.run)
        finally:
            study.end()
    print(f"{kind}: {len(runs)} studies, {dict(done)}", flush=True)
    assert not broken, "\n".join(broken)
    return runs


def orphans(study: Study) -> list[str]:
    """What is left of a study's drivers."""
    deadline = time.monotonic() + GONE
    while found := [p for _, mark in study.drivers for p in marked(mark)]:
        if time.monotonic() > deadline:
            return [f"{study.folder.name}: {[' '.join(p.cmdline())[:100] for p in found]} are left"]
        time.sleep(0.5)
    return []


def check_whole(run: Path) -> analysis.Study:
    """Every member there once, ended, with all of its reports and files, and nothing half-made."""
    study = analysis.load(run)
    assert len(study.trials) == MEMBERS
    assert study.trials["trial"].is_unique
    assert set(study.trials["status"]) <= {"done", "stopped"}, study.trials[["status", "error"]]
    assert study.trials[["fid", "probe_codes", "test_fid", "test_probe_codes"]].notna().all(axis=None)
    epochs = study.reports.groupby("trial")["epoch"].agg(sorted)
    for _, row in study.trials.iterrows():
        assert epochs[row["trial"]] == list(range(2, int(row["epoch"]) + 1, 2))
        assert (run / "samples" / f"{row['trial']}.png").is_file()
    kept = set(study.trials.loc[study.trials["checkpoint"].notna(), "trial"])
    assert {path.stem for path in (run / "members").iterdir()} == kept
    assert not list((run / "packs").iterdir())
    for name in ("trials.parquet", "pareto.csv", "report.html"):
        assert (run / name).is_file(), name
    return study


def comparable(study: analysis.Study) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Members and reports without the clock's columns, in an order that the order of arrival does not change."""
    keys = ("trial", ["trial", "epoch"])
    return tuple(
        frame.drop(columns=list(CLOCK), errors="ignore").set_index(key).sort_index().sort_index(axis=1)
        for key, frame in zip(keys, (study.trials, study.reports), strict=True)
    )


def sequence(kind: str) -> tuple[list[tuple[str, signal.Signals]], random.Random]:
    """A kind of study's share of the kills: of ten in a row, each of another process or by the other signal."""
    rng, every = random.Random(SEED), []
    while len(every) < KILLS:
        deck = [(whom, sign) for whom in WHOM for sign in SIGNALS]
        every += rng.sample(deck, len(deck))
    number = list(STUDIES).index(kind)
    print(f"\n{kind}: GIMTUNE_KILLS={KILLS} GIMTUNE_SEED={SEED}", flush=True)
    return every[:KILLS][number :: len(STUDIES)], random.Random(SEED + number)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (run,) = disturbed(tmp_path_factory.mktemp("undisturbed"), "grid", [], random.Random(SEED))
    return run


@pytest.mark.timeout(36000)
def test_a_grid_ends_bit_for_bit_as_one_that_was_never_disturbed(undisturbed, tmp_path):
    whole = comparable(check_whole(undisturbed))
    for run in disturbed(tmp_path, "grid", *sequence("grid")):
        for mine, other in zip(comparable(check_whole(run)), whole, strict=True):
            pd.testing.assert_frame_equal(mine, other, check_exact=True)


FEW = [("driver", signal.SIGKILL), ("worker", signal.SIGKILL), ("node", signal.SIGTERM)]


@pytest.mark.timeout(1800)
def test_a_clock_that_jumps_changes_no_number(undisturbed, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(JUMPS)
    (run,) = disturbed(tmp_path, "grid", FEW if KILLS > 10 else [], random.Random(SEED), path=tmp_path)
    for mine, other in zip(comparable(check_whole(run)), comparable(check_whole(undisturbed)), strict=True):
        pd.testing.assert_frame_equal(mine, other, check_exact=True)


@pytest.mark.timeout(1800)
def test_a_slow_disk_changes_no_number(undisturbed, tmp_path):
    if not shutil.which("strace") or subprocess.run([*SLOW, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no strace here that may delay system calls")
    (run,) = disturbed(tmp_path, "grid", FEW if KILLS > 10 else [], random.Random(SEED), under=SLOW)
    for mine, other in zip(comparable(check_whole(run)), comparable(check_whole(undisturbed)), strict=True):
        pd.testing.assert_frame_equal(mine, other, check_exact=True)


@pytest.mark.timeout(36000)
def test_a_search_ends_with_the_planned_members_and_asks_for_none_twice(tmp_path):
    import optuna

    for run in disturbed(tmp_path, "tpe", *sequence("tpe")):
        trials = check_whole(run).trials
        backend = optuna.storages.journal.JournalFileBackend(str(run / "optuna.log"))
        (asked,) = optuna.study.get_all_study_summaries(optuna.storages.JournalStorage(backend))
        found = optuna.load_study(
            study_name=asked.study_name, storage=optuna.storages.JournalStorage(backend)
        ).get_trials()
        assert optuna.trial.TrialState.RUNNING not in {trial.state for trial in found}
        told = Counter(t.user_attrs["member"] for t in found if t.state.name == "COMPLETE" and "member" in t.user_attrs)
        assert told == dict.fromkeys(trials["trial"], 1)


@pytest.mark.timeout(36000)
def test_mo_asha_stops_by_its_rule_in_the_order_of_arrival(undisturbed, tmp_path):
    _, whole = comparable(analysis.load(undisturbed))
    for run in disturbed(tmp_path, "mo_asha", *sequence("mo_asha")):
        study = check_whole(run)
        rungs = make_rungs(reopened(run))
        with Store(run / "study.db") as store:
            rungs.rebuild({str(k): v for k, v in row.items()} for row in store.reports(arrival=True).to_dict("records"))
        assert set(study.trials.loc[study.trials["status"] == "stopped", "trial"]) == set(rungs.stopped)
        assert set(study.trials["status"]) <= set(ENDED)
        _, reports = comparable(study)
        # where a member was stopped, it was measured as at its end
        ends = study.trials.loc[study.trials["status"] == "stopped", ["trial", "epoch"]].itertuples(index=False)
        reports = reports.drop(index=[(trial, int(epoch)) for trial, epoch in ends])
        pd.testing.assert_frame_equal(reports, whole.loc[reports.index, reports.columns], check_exact=True)
