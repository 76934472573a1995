"""What members leave behind in a run folder, carried into another: rows, reports, weights, samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from gimtune.files import replacing
from gimtune.results.store import Row, Store


def carry(taken: Iterable[tuple[Path, Iterable[str]]], folder: Path, store: Store) -> tuple[dict[str, Row], list[Row]]:
    """Copy what members left into a new run's folder; returns their rows by name, and their reports.

    Args:
        taken: runs, and the names of the members that each gives.
        store: of the new run, which is told what their environments' names mean, and which metrics were added to them.
    """
    rows: dict[str, Row] = {}
    reports: list[Row] = []
    for run, trials in taken:
        carry_features(run, folder)
        samples = _by_member(run / "samples")
        with Store(run / "study.db") as there:
            found, told = there.whole(trials)
            store.annotate(**_facts(there.meta, store.meta))
        reports += told
        for row in found:
            name, pack = str(row["trial"]), str(row["pack"])
            kept = row["checkpoint"] if _copied(run, folder, f"members/{name}.pt") else None
            # a pack is known by its first member and their number, and one of the new run may have both
            pack = pack if "@" in pack else f"{pack}@{run.name}"
            rows[name] = {**row, "checkpoint": kept, "pack": pack}
            for path in samples.get(name, ()):
                _copied(run, folder, f"samples/{path}")
    return rows, reports


def _facts(theirs: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """What a run says of its members' rows, with what is said of such rows already."""
    found = {key: text for key, text in theirs.items() if key.startswith("environment ")}
    columns = {one["key"]: one for meta in (theirs, ours) for one in json.loads(meta.get("metrics", "[]"))}
    added = json.loads(theirs.get("added", "{}")) | json.loads(ours.get("added", "{}"))
    return found | {"metrics": json.dumps([*columns.values()])} | ({"added": json.dumps(added)} if added else {})


def carry_features(run: Path, folder: Path) -> None:
    """Copy the feature networks that were trained for a run."""
    for path in sorted((run / "features").glob("*")):
        if path.is_file() and path.suffix != ".lock" and not (folder / "features" / path.name).exists():
            _copied(run, folder, f"features/{path.name}")


def _by_member(samples: Path) -> dict[str, list[str]]:
    """Names of files by the member that they begin with, as ``76e14a2b3c-latents.npz``."""
    found: dict[str, list[str]] = {}
    for path in sorted(samples.glob("[!.]*")):
        found.setdefault(path.stem.partition("-")[0], []).append(path.name)
    return found


def _copied(run: Path, folder: Path, name: str) -> bool:
    """Copy a file; whether it is there."""
    if not (run / name).is_file():
        return False
    try:
        with replacing(folder / name) as temporary:
            shutil.copyfile(run / name, temporary)
    except FileNotFoundError:
        # a run that goes on drops weights
        return False
    return True
