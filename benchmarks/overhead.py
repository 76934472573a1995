"""The driver's cost of a member, from a hundred to ten thousand: real Ray, real store and packs, members without work.

    python -m benchmarks.overhead --members 100 1000 10000

A study of `gimtune.tuning.launch.launch` as the command line starts it, one member in a pack, its live table drawn as
in a terminal; in the workers, `Idle` stands in for `GimTrial` and returns a ready-made row of every metric at once.
Each size is a process of its own. Times are the driver's from its first to its last member, so that neither the start
of Ray nor the report at the end is in them: ``first tenth`` and ``last tenth`` are its CPU per member among the first
and the last of them, which are equal where nothing grows with the study. ``plan`` is what comes before Ray starts;
``end`` what comes after the last member (Ray's own end, figures and report). Sizes are of the run folder.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from gimtune import tuning  # noqa: F401 - sets Ray's switches before Ray reads them
from gimtune.metrics import lenet

# isort: split
from gimtune import analysis, data
from gimtune.analysis.export.report import conclude
from gimtune.files import cache
from gimtune.study.composition import load
from gimtune.tuning import launch, recorder, trainable
from gimtune.tuning.plan import preflight
from gimtune.vocabulary import METRICS, Status

COLUMNS = {
    "members": "members",
    "wall": "wall ms/member",
    "cpu": "driver CPU ms/member",
    "first": "first tenth",
    "last": "last tenth",
    "plan": "plan s",
    "end": "end s",
    "load": "load s",
    "front": "front s",
    "memory": "driver MiB",
    "store": "study.db MB",
    "ray": "ray/ MB",
    "files": "files",
}


class Idle(trainable.GimTrial):
    """A pack that has nothing to do."""

    def step(self) -> dict[str, Any]:
        return trainable.result([ended(member.trial, member.epochs) for member in self._members])


Idle.__qualname__ = Idle.__name__ = "GimTrial"


def ended(trial: str, epoch: int) -> dict[str, Any]:
    """A last row as `gimtune.training.run` gives it, with numbers that are the member's own."""
    random = np.random.default_rng(int(hashlib.sha256(trial.encode()).hexdigest()[:12], 16))
    values = {key: float(random.random()) for split in ("", "test_") for key in (split + name for name in METRICS)}
    progress = {"seconds": 1.0, "examples_per_second": 1e4, "checkpoint": f"members/{trial}.pt", "diverged": False}
    protocol = {"fid_features": "classifier:0", "fid_samples": 360, "mi_images": 360, "reasons": "{}", "flags": "{}"}
    return {"trial": trial, "epoch": epoch, "status": str(Status.DONE), **values, **progress, **protocol}


def measure(members: int, folder: Path) -> dict[str, float]:
    """One study in this process."""
    times: list[tuple[float, float]] = []

    class Timed(recorder.Recorder):
        def on_trial_complete(self, *given: Any, **info: Any) -> None:
            super().on_trial_complete(*given, **info)
            times.append((time.perf_counter(), time.process_time()))

    recorder.Recorder, trainable.GimTrial = Timed, Idle  # type: ignore[misc]
    stated = ["study=search", "models=[wae_mmd]", "resources.members=1", "ray.dashboard=false"]
    config = load([*stated, f"search.trials={members}", f"storage_path={folder}"])
    lenet.provide(data.load("digits"), cache(), folder / "features")
    marks: dict[str, float] = {}
    connect = launch._run_and_annotate

    def started(*given: Any) -> Any:
        marks["planned"] = time.perf_counter()
        return connect(*given)

    launch._run_and_annotate = started
    begun = time.perf_counter()
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=120)
    code = launch.launch(preflight(config), console, lambda run: conclude(run, config.objectives, console))
    over = time.perf_counter()
    assert code == 0, told.getvalue()
    (run,) = (folder / config.name).iterdir()
    wall, cpu = np.array(times).T
    tenth = max(1, members // 10)
    loading = time.perf_counter()
    loaded = analysis.load(run)
    fronting = time.perf_counter()
    analysis.front(loaded.trials)
    last = time.perf_counter()
    assert len(loaded.trials) == len(times) == members
    inside = [path for path in (run / "ray").rglob("*") if path.is_file()]
    return {
        "members": members,
        "wall": 1e3 * (wall[-1] - wall[0]) / (members - 1),
        "cpu": 1e3 * (cpu[-1] - cpu[0]) / (members - 1),
        "first": 1e3 * (cpu[tenth] - cpu[0]) / tenth,
        "last": 1e3 * (cpu[-1] - cpu[-1 - tenth]) / tenth,
        "plan": marks["planned"] - begun,
        "end": over - wall[-1],
        "load": fronting - loading,
        "front": last - fronting,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "store": (run / "study.db").stat().st_size / 1e6,
        "ray": sum(path.stat().st_size for path in inside) / 1e6,
        "files": sum(path.is_file() for path in run.rglob("*")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        found = measure(arguments.members[0], arguments.alone)
        (arguments.alone / "found.json").write_text(json.dumps(found))
        return
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("ray", "pandas", "moocore"))
    memory = psutil.virtual_memory().total / 2**30
    print(f"{os.cpu_count()} CPUs, {memory:.0f} GiB, Python {platform.python_version()}, {versions}")
    rows = []
    for members in arguments.members:
        with tempfile.TemporaryDirectory(prefix="gimtune-overhead-") as name:
            again = [sys.executable, "-m", "benchmarks.overhead", "--members", str(members), "--alone", name]
            subprocess.run(again, check=True)
            rows.append(json.loads((Path(name) / "found.json").read_text()))
        print("; ".join(f"{title} {rows[-1][key]:.4g}" for key, title in COLUMNS.items()), flush=True)
    print()
    for key, title in COLUMNS.items():
        print(f"{title:22}" + "".join(f"{row[key]:>12.4g}" for row in rows))


if __name__ == "__main__":
    main()
