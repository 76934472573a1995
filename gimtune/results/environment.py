"""What a run was made with: command, versions, machine, commit, plug-ins; whether another gives the same numbers."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

_PACKAGES = (
    "gimtune",
    "ray",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "optuna",
    "pytorch-fid",
    "moocore",
)
#: Packages whose functions round as they please in another version.
_COMPUTING = ("torch", "numpy", "scipy", "scikit-learn")
#: Code that a member's numbers come from, in the package's folder; the rest plans, stores and shows.
_OWN = ("algebra", "data", "metrics", "networks", "training", "results/course.py")


def made_by(device: str, precision: str, threads: int, instructions: str) -> dict[str, str]:
    """What a member's numbers depend on beside its configuration, in this process.

    Two of the same give the same numbers, bit for bit on a CPU.

    Args:
        device: ``cpu``, or the name of a GPU.
        precision: in which it multiplies there.
        threads: that sums are split among.
        instructions: widest of the processor that torch uses.
    """
    return {
        "device": device,
        "precision": precision,
        "threads": str(threads),
        "processor": f"{_processor()} ({instructions})",
        **{name: str(_version(name)) for name in _COMPUTING},
        "gimtune": code(),
    }


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """How two environments as of `made_by` differ, in a line; empty where numbers of one are those of the other.

    What one of them does not say, as those of earlier versions, is no difference.

    >>> differences({"precision": "float32", "threads": "1"}, {"precision": "bfloat16", "threads": "1"})
    'precision float32, not bfloat16'
    """
    return "; ".join(
        f"{key} {here[key]}, not {there[key]}" for key in here if key in there and str(here[key]) != str(there[key])
    )


def fingerprint(made: Mapping[str, str]) -> str:
    """A short name of an environment as of `made_by`."""
    return hashlib.sha256(json.dumps(dict(made), sort_keys=True).encode()).hexdigest()[:8]


def begun_in(run: Path) -> dict[str, str]:
    """What a run's numbers depended on where it was begun, as `made_by` has it; empty where its folder does not say."""
    return _noted(run, "numbers")


def changed(run: Path) -> str:
    """What else is otherwise than where a run was begun, in a line: versions that numbers do not depend on."""
    there = {name: version for name, version in _noted(run, "packages").items() if name not in (*_COMPUTING, "gimtune")}
    return differences({name: str(_version(name)) for name in there}, there)


def _noted(run: Path, key: str) -> dict[str, str]:
    try:
        found = json.loads((run / "environment.json").read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def mixed(trials: pd.DataFrame, meta: Mapping[str, str]) -> str:
    """That numbers of a table come from environments that differ, and in what, in a sentence; empty where they do not.

    Args:
        trials: rows with the columns ``environment`` and ``added_in``, where they have them.
        meta: facts about the study, or studies, which say what these names mean.
    """
    stated = trials["environment"].dropna().astype(str) if "environment" in trials else pd.Series(dtype=object)
    counts = Counter(name for row in stated for name in row.split("+"))
    usual = next((name for name, _ in counts.most_common(1)), "")
    found = []
    if others := _others(counts, usual, meta):
        told = ", ".join(f"{count} with {how}" for count, how in others)
        found.append(f"not all {len(stated)} members' numbers were made alike, and they compare but for that: {told}")
    for metric, where in _added(trials).items():
        for count, how in _others(where, usual or where.most_common(1)[0][0], meta):
            found.append(f"{metric} was added to {count} members with {how}")
    return "; ".join(found)


def _others(counts: Counter[str], usual: str, meta: Mapping[str, str]) -> list[tuple[int, str]]:
    """How many rows come from another environment than the usual one, and in what it differs."""
    like = meaning(meta, usual)
    return [(n, differences(meaning(meta, name), like) or name) for name, n in counts.most_common() if name != usual]


def _added(trials: pd.DataFrame) -> dict[str, Counter[str]]:
    """In what environments each metric was measured that was added after members had ended."""
    found: dict[str, Counter[str]] = {}
    for text in trials["added_in"].dropna() if "added_in" in trials else ():
        for metric, name in json.loads(text).items():
            found.setdefault(metric, Counter())[name] += 1
    return found


def meaning(meta: Mapping[str, str], name: str) -> dict[str, str]:
    """What an environment's short name means, as `made_by` has it; empty where a study's facts do not say."""
    try:
        found = json.loads(meta[f"environment {name}"])
    except (KeyError, ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


@cache
def code() -> str:
    """This package's version, with a hash of what computes in it: comments and docstrings do not count."""
    package, content = Path(__file__).resolve().parents[1], hashlib.sha256()
    for place in _OWN:
        for path in sorted((package / place).rglob("*.py")) or [package / place]:
            content.update(f"{path.relative_to(package)} {_said(path.read_text(encoding='utf-8'))}".encode())
    return f"{_version('gimtune')} ({content.hexdigest()[:8]})"


def _said(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def environment(plugins: Mapping[str, str], made: Mapping[str, str]) -> dict[str, Any]:
    """As ``environment.json`` holds it.

    Args:
        plugins: content hashes by module.
        made: as of `made_by`, of the workers that the driver will start.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "git_commit": _commit(),
        "plugins": dict(plugins),
        "numbers": dict(made),
    }


def _commit() -> str | None:
    """Commit of the checkout that this package is run from, ``-dirty`` with changes; ``None`` if it is not in one."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
