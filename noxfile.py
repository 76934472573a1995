"""CI's commands by name, in the environment that is active: ``nox -l``, ``nox -s lint``, ``nox -s tests -- FILE``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "none"
nox.options.sessions = ("lint", "types", "dry_run", "tests")
# without bytecode every worker would compile torch anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent
STUDY = ("python", "-m", "gimtune", "study=tradeoff")
# what a small study is about does not rest on how exactly it is measured
FEWER = ("metrics.fid_samples=1000", "space.prior=normal")


@nox.session
def lint(session: nox.Session) -> None:
    """Rules and layout of the code."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of gimtune and the analysis."""
    session.run("mypy")


@nox.session
def dry_run(session: nox.Session) -> None:
    """The main job's plan, from an empty folder."""
    with tempfile.TemporaryDirectory() as folder, session.chdir(folder):
        session.run(*STUDY, "dry_run=true")


@nox.session
def docs(session: nox.Session) -> None:
    """The site of docs/, into ``.site``: no warning, no broken link, and nothing that is fetched elsewhere."""
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})
    fetched = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=.?https?:|<link\b[^>]*\bhref=.?https?:")
    for page in (ROOT / ".site").rglob("*.html"):
        if found := fetched.search(page.read_text()):
            session.error(f"{page}: {found[0]}")


@nox.session
def wheel(session: nox.Session) -> None:
    """The same by the wheel, which is not the checkout: studies, analysis and weights must be found in it."""
    with tempfile.TemporaryDirectory() as folder:
        installed = Path(folder) / "installed"
        session.run(
            *("python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"),
            *("--target", str(installed), str(ROOT)),
        )
        # before the checkout, which the environment knows of
        env = {"PYTHONPATH": str(installed)}
        command = str(installed / "bin" / "gimtune")
        with session.chdir(folder):
            where = session.run("python", "-c", "import gimtune; print(gimtune.__file__)", env=env, silent=True)
            if Path(str(where).strip()).parent != installed / "gimtune":
                session.error(f"the wheel is at {installed}, and Python takes {where}")
            weights = {file.name for file in (ROOT / "gimtune" / "metrics" / "weights").iterdir()}
            if weights != {file.name for file in (installed / "gimtune" / "metrics" / "weights").iterdir()}:
                session.error("the wheel lacks the weights of feature networks")
            session.run(command, "study=tradeoff", "dry_run=true", env=env, external=True)
            session.run(command, "analysis", "--help", env=env, external=True)


@nox.session
def releases(session: nox.Session) -> None:
    """Wheel and sdist as they are released, and a study by the wheel with the oldest libraries that are allowed.

    torch and torchvision are those of the active environment: an environment of their own takes 6 GB.
    """
    with tempfile.TemporaryDirectory() as folder:
        dist, again = Path(folder) / "dist", Path(folder) / "again"
        session.run("python", "-m", "hatchling", "build", "-d", str(dist))
        (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
        offline = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
        session.run("python", "-m", "pip", "wheel", *offline, "-w", str(again), str(sdist))
        (rebuilt,) = again.glob("*.whl")
        if _content(wheel) != _content(rebuilt):
            session.error("the wheel that is built from the sdist is another one")
        oldest, venv = Path(folder) / "oldest.txt", Path(folder) / "venv"
        session.run(
            *("uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--no-header", "--no-annotate"),
            *("--output-file", str(oldest), str(ROOT / "pyproject.toml")),
        )
        heavy = re.compile(r"torch|torchvision|triton|nvidia-|cuda-")
        kept = [line for line in oldest.read_text().splitlines() if not heavy.match(line)]
        oldest.write_text("\n".join(kept))
        session.run("uv", "venv", "--quiet", "--python", sys.executable, str(venv))
        into = ("--quiet", "--no-deps", "--python", str(venv / "bin" / "python"))
        session.run("uv", "pip", "install", *into, "-r", str(oldest), str(wheel))
        (packages,) = venv.glob("lib/python*/site-packages")
        # behind its own: torch and what it needs
        (packages / "outer.pth").write_text(sysconfig.get_path("purelib"))
        command, env = str(venv / "bin" / "gimtune"), {"PYTHONPATH": "", "VIRTUAL_ENV": str(venv)}
        tiny = ("models=[vae,aae]", "space.weight=1", "space.seed=0", "budget.epochs=2", "budget.evaluate_every=1")
        with session.chdir(folder):
            session.run(command, "study=tradeoff", *tiny, *FEWER, env=env, external=True)
            if len([*Path(folder).glob("results/tradeoff/*/report.html")]) != 1:
                session.error("the study left no report")


def _content(wheel: Path) -> dict[str, int]:
    """Names and checksums of a wheel's files."""
    with zipfile.ZipFile(wheel) as packed:
        return {one.filename: one.CRC for one in packed.infolist()}


@nox.session
def study(session: nox.Session) -> None:
    """A small study, and the notebooks on it."""
    with tempfile.TemporaryDirectory() as folder:
        with session.chdir(folder):
            session.run(
                *STUDY, "models=[ae,vae,beta_vae,wae_mmd]", "budget.epochs=6", "budget.evaluate_every=3", *FEWER
            )
        (run,) = Path(folder).glob("results/tradeoff/*")
        session.run("python", "docs/notebooks.py", str(run), str(Path(folder) / "notebooks"))


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Every script of benchmarks/ in a small form: what it prints means nothing, but that it still runs."""
    small = {
        "analysis_at_scale": "--rows 200",
        "budget_on_digits": "--models vae:1 --epochs 4 --every 2",
        "mutual_information": "--training 300 --images 200 --dims 4 --nats 1 5",
        "overhead": "--members 20",
        "replay_against_eager": "--models vae aae --members 2 --epochs 3",
        "ruler": "--models beta_vae:1 --epochs 2 --members 2",
        "search_on_zdt": "--samplers random --problems zdt1 --trials 6 --seeds 1",
        "verdicts": "--studies 1 --worlds null coverage",
    }
    if os.environ.get("GIMTUNE_DATA"):
        small["epoch_against_pythae"] = "--epochs 1 --images 2000"
        small["gpu_study"] = "--members 2 --trials 1 --epochs 1 metrics.ruler=never metrics.fid_samples=1000"
        small["trial_against_handwritten"] = "--epochs 1 --repeats 1 --images 1000 --loaders tensor"
    with tempfile.TemporaryDirectory() as folder:
        grid = ("models=[beta_vae]", "budget.epochs=6", "budget.evaluate_every=3", "budget.patience=null", *FEWER)
        session.run(*STUDY, *grid, f"storage_path={folder}")
        (run,) = Path(folder).glob("tradeoff/*")
        small["search_on_study"] = f"{run} --samplers random --trials 3 --seeds 1"
        # two at a time, since most of each is starting Ray and torch; what fails is printed
        with ThreadPoolExecutor(2) as pool:
            ended = [
                pool.submit(session.run, "python", "-m", f"benchmarks.{name}", *options.split(), silent=True)
                for name, options in small.items()
            ]
        for one in ended:
            one.result()


@nox.session
def audit(session: nox.Session) -> None:
    """What is installed, as pip tells of it (bill-of-materials.json), and weaknesses that are known of what is pinned.

    Where pip-audit is not installed, or cannot reach the service that knows them, it is said, and nothing was checked.
    """
    bill = session.run("python", "-m", "pip", "inspect", silent=True, stderr=subprocess.DEVNULL)
    (ROOT / "bill-of-materials.json").write_text(str(bill))
    session.log(f"bill-of-materials.json: {len(json.loads(str(bill))['installed'])} packages")
    if shutil.which("pip-audit") is None:
        session.warn("NOT AUDITED: pip-audit is not installed; .ci/run says how it is")
        return
    # a version whose weaknesses are public: a service that does not know of them has not been reached
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "known.txt"
        known.write_text("jinja2==2.10\n")
        reached = any(one.get("vulns") for one in _audited(session, known))
    packages = _audited(session, ROOT / "constraints.txt") if reached else []
    left_out = [one["name"] for one in packages if "vulns" not in one]
    if not packages or left_out:
        session.warn(f"NOT AUDITED: {', '.join(left_out) or 'the service that knows of weaknesses was not reached'}")
    weak = [
        f"{one['name']} {one['version']}: {[v['id'] for v in one['vulns']]}" for one in packages if one.get("vulns")
    ]
    if weak:
        session.error("; ".join(weak))
    if packages:
        session.log(f"{len(packages) - len(left_out)} pinned packages, of which no weakness is known")


def _audited(session: nox.Session, pinned: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each package; nothing where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        asked = ("--requirement", str(pinned), "--no-deps", "--disable-pip", "--timeout", "20", "--format", "json")
        session.run("pip-audit", *asked, "--output", str(found), success_codes=range(256), silent=True)
        return json.loads(found.read_text())["dependencies"] if found.is_file() and found.stat().st_size else []


@nox.session
def tests(session: nox.Session) -> None:
    """The tests but for the slow ones, two at a time; arguments go to pytest instead."""
    session.run("pytest", *(session.posargs or ("-n", "2")))


@nox.session
def slow(session: nox.Session) -> None:
    """The slow tests but for the long ones, which are for a release (``-- -m long``); arguments go to pytest."""
    session.run("pytest", "-n", "2", "-m", "slow and not long", "--durations=25", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Ten kills of studies at random moments; GIMTUNE_KILLS and GIMTUNE_SEED set others, and arguments go to pytest."""
    kills = {key: os.environ.get(key, value) for key, value in (("GIMTUNE_KILLS", "10"), ("GIMTUNE_SEED", "1"))}
    # the clock and the slow disk are for a longer run
    chosen = session.posargs or ["tests/test_chaos.py", "-k", "not clock and not slow_disk"]
    session.run("pytest", "-s", "-m", "chaos", *chosen, env=kills)


@nox.session
def coverage(session: nox.Session) -> None:
    """How much of the code the tests without processes of their own reach: counting lines costs them up to a half."""
    apart = [
        "tuning",
        "cluster",
        "faults",
        "status",
        "commands",
        "notebooks",
        "extending",
        "monitoring",
        "mirror",
        "page",
        "serve",
        "tune",
    ]
    # whether they pass is said by `tests`; under the tracer a limit on time may be missed
    ignored = (f"--ignore=tests/test_{name}.py" for name in apart)
    session.run("pytest", "-n", "2", "--cov", *ignored, success_codes=[0, 1])
