"""What a run folder has to hold to be gone on with, and what is to be said where somebody changed it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from gimtune.results.backup import damage
from gimtune.results.store import Store
from gimtune.study.messages import ConfigError
from gimtune.study.schema import Config
from gimtune.training import pack_name
from gimtune.tuning.packs import Pack
from gimtune.vocabulary import Status

#: Sections and keys of ``config.yaml`` that no member depends on: a change of these is carried out. Images in another
#: place have to be the same.
_FREE = ("ray", "stop", "resources", "storage_path", "checkpoints", "data.root", "data.path", "data.download")
#: What belongs to a command, or is a path of this machine.
_OF_NOW = (
    *("resume", "across", "dry_run", "reuse", "search.warm_start"),
    *("metrics.inception_weights", "metrics.features_file"),
)


def check_whole(run: Path) -> None:
    """Refuse results that are damaged.

    Raises:
        ConfigError: saying what mends them.
    """
    if why := damage(run / "study.db"):
        raise ConfigError(
            f"resume={run}: study.db is damaged ({why}); python -m gimtune repair {shlex.quote(str(run))} makes it "
            "anew from its last copy, checkpoints and members/"
        )


def changes(config: Config, run: Path, digest: str) -> tuple[str, ...]:
    """What was changed in a run folder since it was begun, and is gone on with.

    Args:
        digest: of the images.

    Raises:
        ConfigError: members that were planned are no longer those that are asked for.
    """
    with Store(run / "study.db") as store:
        meta = store.meta
    begun = dict(_flat(yaml.safe_load(meta["config"]))) if "config" in meta else {}
    now = dict(_flat(config.model_dump(mode="json")))
    notes = []
    for key in sorted(begun.keys() & now.keys()):
        if begun[key] == now[key] or _under(key, _OF_NOW):
            continue
        told = f"{run / 'config.yaml'}: {key} is {now[key]}, and was {begun[key]} when the run was begun"
        if not _under(key, _FREE):
            raise ConfigError(
                f"{told}; its members are planned. Write it back, or begin another study (reuse=[{run}] takes over "
                "the members that both have)"
            )
        notes.append(told)
    if meta.get("data_digest", digest) != digest:
        raise ConfigError(f"resume={run}: the images of {config.data.name} are others than when the run was begun")
    return tuple(notes)


def missing(run: Path, packs: list[Pack]) -> tuple[str, ...]:
    """What was taken out of a run folder that members need or had."""
    with Store(run / "study.db") as store:
        trials = store.trials()
    kept = trials.loc[trials["checkpoint"].notna(), "checkpoint"]
    weights = sum(not (run / str(path)).is_file() for path in kept)
    running = set(
        trials.loc[trials["epoch"].notna() & trials["status"].isin([Status.RUNNING, Status.PLANNED]), "trial"]
    )
    begun = [pack for pack in packs if any(member.trial in running for member in pack)]
    lost = sum(not list((run / "packs" / pack_name(pack)).rglob("*.pt")) for pack in begun)
    said = []
    if weights:
        said.append(f"{run / 'members'}: weights of {weights} members are gone; their rows stay")
    if lost:
        said.append(f"{run / 'packs'}: checkpoints of {lost} packs are gone; these are trained from their beginning")
    return tuple(said)


def _under(key: str, places: tuple[str, ...]) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in places)


def _flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Keys dotted, but for a space's parts: these are values."""
    for name, value in content.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping) and not before and name != "space":
            yield from _flat(value, f"{key}.")
        else:
            yield key, value
