"""Kill workers, drivers and nodes of a study at random, and compare what comes out with an undisturbed run.

    python tests/chaos.py grid --kills 30 --seed 0

A local cluster of two nodes with one CPU each runs `study=tradeoff` on digits; the second node, the driver and trials'
workers are killed with SIGKILL as the study proceeds, drivers are resumed, nodes started anew. Then

- nothing is lost or doubled: every member of the undisturbed run has ended, once, with one report per evaluation;
- ``grid``: the final table and every report equal the undisturbed run's, bit for bit, the clock's columns apart;
- ``tpe``: what is suggested depends on which results were in when it was asked for, so the members may differ; those
  that both runs have are equal bit for bit;
- ``mo_asha``: who is stopped depends on the order of arrival. Reports that both runs have are equal bit for bit, and
  the members that were stopped are those that the rule stops in the order that this run's store holds.

Exit code 0 if all that holds.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "token"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))

import pandas as pd
import psutil
from helpers import CLOCK
from ray.util import get_node_ip_address

from gimtune import analysis
from gimtune.results.store import Store
from gimtune.study.composition import reopened
from gimtune.tuning.scheduler import make_rungs
from gimtune.vocabulary import ENDED

COMMON = (
    "space.prior=normal",
    "network.hidden=[32]",
    "space.latent_dim=4",
    "budget.epochs=12",
    "budget.evaluate_every=2",
    "resources.members=4",
    "ray.dashboard=false",
)
GRID = (
    "study=tradeoff",
    "models=[vae,wvae,wae_mmd,info_vae,aae,alice]",
    "space.weight={grid: [0.03, 0.1, 0.3, 1]}",
    "space.seed={grid: [0, 1]}",
)
STUDIES = {
    "grid": GRID,
    "mo_asha": (*GRID, "scheduler=mo_asha"),
    "tpe": ("study=search", "search=tpe", "search.trials=48", GRID[1], GRID[3]),
}
MEMBERS = 48


class Cluster:
    """A head and a second node, one CPU each, on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, (folder / "cluster.txt").open("a")
        self.address = f"{get_node_ip_address()}:{random.randint(20000, 30000)}"
        head = ("--head", f"--port={self.address.split(':')[1]}", "--include-dashboard=false")
        self.head = self._start(*head, f"--temp-dir={tempfile.mkdtemp(prefix='gimtune-')}")
        self._wait()
        self.second = self._start(f"--address={self.address}")

    def _start(self, *arguments: str) -> psutil.Popen:
        command = [str(Path(sys.executable).parent / "ray"), "start", *arguments, "--num-cpus=1", "--block"]
        return psutil.Popen(
            [*command, "--object-store-memory=200000000", "--disable-usage-stats"],
            stdout=self.log, stderr=self.log, start_new_session=True,
            # a node on a busy machine is slow to start
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "RAY_raylet_start_wait_time_s": "120"},
        )  # fmt: skip

    def _wait(self) -> None:
        for _ in range(300):
            if "Ray runtime started" in Path(self.log.name).read_text():
                return
            time.sleep(0.5)
        raise SystemExit(f"no cluster at {self.address}; see {self.log.name}")

    def kill_second(self) -> None:
        kill_all(self.second)
        self.second = self._start(f"--address={self.address}")

    def workers(self) -> list[psutil.Process]:
        found = []
        for node in (self.head, self.second):
            for process in node.children(recursive=True):
                try:
                    if process.cmdline()[0].startswith("ray::GimTrial"):
                        found.append(process)
                except (psutil.Error, IndexError):
                    continue
        return found

    def end(self) -> None:
        for node in (self.second, self.head):
            kill_all(node)
        self.log.close()


def kill_all(process: psutil.Process) -> None:
    """A node is gone at once, not process by process."""
    there = [*process.children(recursive=True), process]
    for one in there:
        one.send_signal(signal.SIGSTOP)
    for one in there:
        one.kill()
    psutil.wait_procs(there, 10)


def driver(folder: Path, *arguments: str) -> psutil.Popen:
    with (folder / "output.txt").open("a") as output:
        return psutil.Popen(
            [sys.executable, "-m", "gimtune", *arguments], cwd=folder, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip


def run_of(folder: Path) -> Path | None:
    found = list((folder / "results").glob("*/*/study.db"))
    return found[0].parent if found else None


def reports(folder: Path) -> int:
    run = run_of(folder)
    try:
        with Store(run / "study.db") as store:
            return len(store.reports())
    except (FileNotFoundError, ValueError, TypeError):
        return 0


def disturbed(folder: Path, study: tuple[str, ...], kills: int, rng: random.Random, total: int) -> Counter[str]:
    """Run a study to its end in spite of everything; returns how often what was killed."""
    cluster, done = Cluster(folder), Counter()
    process = driver(folder, *study, f"ray.address={cluster.address}")
    thresholds = sorted(rng.uniform(0, 0.9 * total) for _ in range(kills))
    try:
        for number, threshold in enumerate(thresholds):
            while reports(folder) < threshold or (threshold > 1 and not cluster.workers()):
                if process.poll() is not None:
                    raise SystemExit(f"the driver ended with {process.returncode} after {number} kills")
                time.sleep(0.2)
            time.sleep(rng.uniform(0, 3))
            kind = rng.choices(["worker", "driver", "node"], [3, 2, 1])[0]
            workers = cluster.workers()
            if kind == "worker" and workers:
                rng.choice(workers).kill()
            elif kind == "driver" and run_of(folder):
                process.kill()
                process.wait()
                # a driver's workers end by themselves; a resumed study does not wait for them
                process = driver(folder, f"resume={run_of(folder)}", f"ray.address={cluster.address}")
            else:
                kind = "node"
                cluster.kill_second()
            done[kind] += 1
            print(f"{number + 1:3d} {kind:6} after {reports(folder)} reports", flush=True)
        code = process.wait()
        if code != 0:
            raise SystemExit(f"the last driver ended with {code}; see {folder / 'output.txt'}")
    finally:
        if process.poll() is None:
            process.kill()
        cluster.end()
    return done


def compare(kind: str, quiet: Path, chaos: Path) -> None:
    """Raises AssertionError where the two runs differ in what they must not."""
    one, two = analysis.load(quiet), analysis.load(chaos)
    for study in (one, two):
        assert len(study.trials) == MEMBERS
        assert study.trials["trial"].is_unique
        assert set(study.trials["status"]) <= set(ENDED)
        assert not study.trials["status"].isin(["failed", "diverged"]).any()
        counted = study.reports.groupby("trial")["epoch"].agg(list)
        for trial, epoch in zip(study.trials["trial"], study.trials["epoch"], strict=True):
            assert sorted(counted[trial]) == list(range(2, int(epoch) + 1, 2))
    clock = [*CLOCK, "checkpoint"]
    # columns of restrictions stand in the order in which they were first reported
    tables, lines = (
        [frame.set_index(key).sort_index(axis=1).drop(columns=clock, errors="ignore") for frame in both]
        for key, both in (("trial", (one.trials, two.trials)), (["trial", "epoch"], (one.reports, two.reports)))
    )
    if kind == "grid":
        pd.testing.assert_frame_equal(*tables, check_exact=True)
        pd.testing.assert_frame_equal(*lines, check_exact=True)
        print(f"{MEMBERS} members, {len(lines[0])} reports: bit-identical")
        kept = [set(s.trials.loc[s.trials["checkpoint"].notna(), "trial"]) for s in (one, two)]
        assert kept[0] == kept[1]
        return
    common = lines[0].index.intersection(lines[1].index)
    assert len(common)
    pd.testing.assert_frame_equal(*(part.loc[common] for part in lines), check_exact=True)
    members = len(set(common.get_level_values(0)))
    print(f"{len(common)} reports of {members} members that both runs have: bit-identical")
    if kind == "tpe":
        return
    for run, study in ((quiet, one), (chaos, two)):
        rungs = make_rungs(reopened(run))
        with Store(run / "study.db") as store:
            rungs.rebuild({str(k): v for k, v in row.items()} for row in store.reports(arrival=True).to_dict("records"))
        stopped = set(study.trials.loc[study.trials["status"] == "stopped", "trial"])
        assert stopped == set(rungs.stopped), f"{run}: {stopped ^ set(rungs.stopped)}"
        print(f"{run}: {len(stopped)} stopped, each by the rule in its own order of arrival")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**16))
    parser.add_argument("--folder", type=Path, default=None, help="kept, with the undisturbed run for the next time")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="gimtune-chaos-"))
    quiet, chaos = folder / "undisturbed", folder / f"chaos-{options.seed}"
    study = (*STUDIES[options.study], *COMMON)
    print(f"seed {options.seed}, {options.kills} kills, {folder}", flush=True)
    if run_of(quiet) is None:
        quiet.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        if code := driver(quiet, *study).wait():
            raise SystemExit(f"the undisturbed run ended with {code}; see {quiet / 'output.txt'}")
        print(f"undisturbed: {time.monotonic() - started:.0f} s, {reports(quiet)} reports", flush=True)
    if (total := reports(quiet)) == 0:
        raise SystemExit(f"{run_of(quiet)} cannot be read: is the installed gimtune another than this one?")
    chaos.mkdir(parents=True)
    started = time.monotonic()
    done = disturbed(chaos, study, options.kills, random.Random(options.seed), total)
    print(f"disturbed: {time.monotonic() - started:.0f} s, killed {dict(done)}", flush=True)
    compare(options.study, run_of(quiet), run_of(chaos))
    if options.folder is None:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
