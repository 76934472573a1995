"""A run folder as data frames. Nothing in the folder is unpickled or executed."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from gimtune.results.constraints import marked, stated
from gimtune.results.folder import absent
from gimtune.results.pareto import OBJECTIVES
from gimtune.results.same import measured
from gimtune.results.store import EARLIER, RENAMED, Store
from gimtune.results.varied import varied, with_varied
from gimtune.vocabulary import ALIKE, IDENTITY, METRICS, PROGRESS, PROTOCOL, Metric, Status, declare


class Study(NamedTuple):
    """A study as it stood when it was read.

    Attributes:
        run: its folder.
        meta: facts about the study as a whole.
        trials: one row per member, its last report, in the order they were planned; with columns for what varies.
        reports: one row per evaluation, by trial and epoch.
        varied: those columns, as ``learning_rate`` and ``prior.scale``.
    """

    run: Path
    meta: dict[str, str]
    trials: pd.DataFrame
    reports: pd.DataFrame
    varied: tuple[str, ...] = ()

    @property
    def older(self) -> str:
        """What a run of an earlier format lacks, in a sentence; empty for one of today's."""
        lacks = EARLIER.get(self.meta.get("format", ""), ())
        if not lacks:
            return ""
        empty = [key for key in METRICS if key not in self.trials or self.trials[key].isna().all()]
        names = ", ".join(f"{old} is {new}" for old, new in RENAMED.items())
        without = f", and of the metrics {', '.join(empty)}" if empty else ""
        return (
            f"made by an earlier version (format {self.meta['format']}): it lacks {', '.join(lacks)}{without}. "
            f"Its {names} today; what else is defined anew since, CHANGELOG.md says"
        )

    @property
    def objectives(self) -> Mapping[str, str]:
        """Of its front, with directions.

        Raises:
            ValueError: the store says something else.
        """
        stated = self.meta.get("objectives") or ""
        try:
            found = json.loads(stated) if stated else OBJECTIVES
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, Mapping) or not all(isinstance(way, str) for way in found.values()):
            path = self.run / "study.db"
            raise ValueError(f"{path}: objectives {stated[:80]!r} are no mapping of a metric to min or max")
        if self.meta.get("format") in EARLIER:
            found = {RENAMED.get(key, key): way for key, way in found.items()}
        return found


def newest(results: Path | str = "results") -> Path:
    """The run folder that ``$GIMTUNE_RUN`` names; without it the newest under ``results``, here or in a folder above.

    Raises:
        FileNotFoundError: there is none.
    """
    if named := os.environ.get("GIMTUNE_RUN"):
        return Path(named)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if runs := [path.parent for path in (folder / results).glob("*/*/study.db")]:
            return max(runs, key=lambda run: run.name)
    raise FileNotFoundError(f"no run folder under {results} here or above; name one in $GIMTUNE_RUN")


def load(run: Path | str, *, reports: bool = True) -> Study:
    """Read a finished or running study; a writer may hold it open.

    Args:
        reports: read these too, which in a large study are most of it; without, the frame is empty.

    Raises:
        FileNotFoundError: there is no such folder, or no ``study.db`` in it.
        ValueError: ``study.db`` is broken, of another format, lacks columns, or holds text where numbers belong.
    """
    run = Path(run)
    path = run / "study.db"
    if not path.is_file():
        raise FileNotFoundError(f"{run}: {absent(run)}")
    try:
        with Store(path) as store:
            trials, meta = store.trials(), {str(key): str(value) for key, value in store.meta.items()}
            evaluations = store.reports() if reports else pd.DataFrame(columns=["trial", "epoch"])
    except (sqlite3.Error, pd.errors.DatabaseError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    _declare(path, meta.get("metrics", ""))
    _require(path, "trials", trials, (*IDENTITY, *PROGRESS, *PROTOCOL))
    _require(path, "reports", evaluations, ("trial", "epoch"))
    unknown = sorted({str(s) for s in trials["status"]} - set(Status))
    if unknown:
        raise ValueError(f"{path}: status {unknown[0]!r} is none of {', '.join(Status)}")
    try:
        trials = marked(with_varied(trials), stated(meta))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Study(run, meta, trials, evaluations, varied(trials))


def pooled(studies: Sequence[Study]) -> tuple[list[str], pd.DataFrame]:
    """Short and distinct names of the run folders, and the trials of all with the column ``run`` more.

    Their columns for what varies are those of all together: a key that differs between runs alone is one.
    """
    folders = [study.run.resolve() for study in studies]
    labels = [f"{i}: {folder.name}" for i, folder in enumerate(folders, 1)]
    for depth in (2, 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        labels = names if len(set(names)) == len(names) else labels
    trials = [
        study.trials.drop(columns=[*varied(study.trials)]).assign(run=label)
        for study, label in zip(studies, labels, strict=True)
    ]
    return labels, with_varied(pd.concat(trials, ignore_index=True))


def once(trials: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Pooled trials without the members that stand there twice, and what is to be said of it.

    A member that several runs have, with the same numbers, is one member: its row is that of the first of them, with
    what was measured in another alone. With other numbers, as of another machine, each has its own.
    """
    columns = sorted(measured() & {*trials})
    numbers = trials[columns].astype(float).to_numpy(copy=True)
    again: list[int] = []
    alike = [column for column in ("data", *ALIKE) if column in trials]
    groups = trials.groupby(["trial", "status", *alike], dropna=False, sort=False).indices
    for places in (places for places in groups.values() if len(places) > 1):
        kept: list[int] = []
        for place in map(int, places):
            one = next((one for one in kept if _agree(numbers[one], numbers[place])), None)
            if one is None:
                kept.append(place)
            else:
                numbers[one] = np.where(np.isnan(numbers[one]), numbers[place], numbers[one])
                again.append(place)
    if not again:
        return trials, ""
    filled = trials.assign(**dict(zip(columns, numbers.T, strict=True)))
    stand = "member of several runs stands" if len(again) == 1 else "members of several runs stand"
    told = f"{len(again):,} {stand} once, under the first"
    return filled.drop(index=filled.index[again]).reset_index(drop=True), told


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two rows have the same numbers, as far as both have them."""
    return bool((np.isnan(one) | np.isnan(other) | (one == other)).all())


def text_file(run: Path, name: str) -> str | None:
    """Content of a small file of the run folder; ``None`` if it is absent, no UTF-8 or larger than a mebibyte."""
    path = run / name
    try:
        if not path.is_file() or path.stat().st_size > 1 << 20:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def settings(run: Path) -> dict[str, Any]:
    """What a run's ``config.yaml`` says; empty where there is none that can be read."""
    try:
        stated = yaml.safe_load(text_file(run, "config.yaml") or "")
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    return stated if isinstance(stated, dict) else {}


def _declare(path: Path, stated: str) -> None:
    """Make the metrics of plug-ins known that a run was measured with."""
    try:
        declare(Metric(**column) for column in json.loads(stated or "[]"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its metrics cannot be taken in ({str(error).splitlines()[0]})") from None


def _require(path: Path, table: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [c for c in columns if c not in frame]
    if missing:
        raise ValueError(f"{path}: table {table} lacks {', '.join(missing)}")
