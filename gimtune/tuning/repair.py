"""``python -m gimtune repair RUN``: damaged or lost results, made anew from what else a run folder holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gimtune.results import folder
from gimtune.results.backup import KEPT, back_up, damage
from gimtune.results.store import Store
from gimtune.study.composition import reopened
from gimtune.study.messages import ConfigError
from gimtune.tuning.launch import fill, identity
from gimtune.tuning.plan import preflight
from gimtune.vocabulary import ENDED, Member


def repair(run: Path) -> list[str]:
    """Make ``study.db`` anew where it is damaged or gone: from its last copy that is whole, or from the run's
    configuration, and with the reports that checkpoints and weights hold; returns what was done, in lines.

    Raises:
        ConfigError: no run folder, a driver is at work on it, or it has neither a copy nor a configuration.
    """
    path = run / "study.db"
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"repair {run}: {folder.absent(run, 'config.yaml')}")
    with folder.held(run) as alone:
        if not alone:
            raise ConfigError(f"repair {run}: a driver is at work on this run folder")
        if path.is_file() and not (why := damage(path)):
            return [f"{path} is whole; there is nothing to repair"]
        said = [f"{path} is damaged: {why}" if path.is_file() else f"{path} is gone"]
        aside = f"damaged-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        for name in ("study.db", "study.db-wal", "study.db-shm"):
            if (run / name).exists():
                (run / name).rename(run / f"{name}.{aside}")
        copy = next((run / name for name in KEPT if (run / name).is_file() and not damage(run / name)), None)
        if copy is not None:
            shutil.copyfile(copy, path)
            when = datetime.fromtimestamp(copy.stat().st_mtime).strftime("%Y-%m-%d %H:%M:%S")
            said.append(f"taken from {copy.name}, of {when}")
        else:
            said += _planned_anew(run)
        with Store(path, create=True) as store:
            said += _reported_anew(run, store)
        back_up(run)
    return said


def _planned_anew(run: Path) -> list[str]:
    """Members as the configuration plans them; of a search, those whose weights are there."""
    config = reopened(run, results=False)
    plan = preflight(config.model_copy(update={"resume": None, "reuse": []}))
    fill(plan, run)
    if not plan.sequential:
        return ["no copy is whole: members are planned as config.yaml has them, without a report"]
    with Store(run / "study.db", create=True) as store:
        store.plan({**identity(config, one), "pack": f"{one.trial}-1"} for one, _ in _ended(run))
    return ["no copy is whole: members are those that have weights; others are suggested anew"]


def _reported_anew(run: Path, store: Store) -> list[str]:
    """Reports that are newer than the copy, and what could not be found."""
    before, known = len(store.reports()), store.statuses()
    for batch in (*_last(run), *([row] for _, row in _ended(run) if row)):
        store.report([row for row in batch if row["trial"] in known and "epoch" in row])
    trials = store.trials()
    said = [f"{len(store.reports()) - before} reports more from checkpoints and members/"]
    ended = trials["status"].isin(ENDED)
    said.append(f"{int(ended.sum())} of {len(trials)} members have ended; resume={run} trains the others")
    written = {path.stem for path in (run / "samples").glob("*.png")}
    lost = sorted(set(trials.loc[~ended, "trial"]) & written)
    if lost:
        said.append(f"not found: the rows of {', '.join(lost)}, which had ended; they are trained again, to the same")
    return said


def _last(run: Path) -> Iterator[list[dict[str, Any]]]:
    """The last reports of packs that have not ended."""
    for path in sorted((run / "packs").rglob("*.pt")):
        state = _read(path)
        yield from (batch for batch in state.get("rows", []) if isinstance(batch, list))


def _ended(run: Path) -> Iterator[tuple[Member, dict[str, Any] | None]]:
    """Members that have weights, with their last rows where their files hold them."""
    for path in sorted((run / "members").glob("*.pt")):
        state = _read(path)
        if "member" in state:
            yield Member.from_json(state["member"]), json.loads(state["row"]) if "row" in state else None


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():  # a pipe would be waited for
            return {}
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # torch raises a different type for every way a file can be damaged
        return {}
    return state if isinstance(state, dict) else {}
