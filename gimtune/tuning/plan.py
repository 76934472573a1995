"""A study checked as a whole before anything starts: what will run, on which data, where."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gimtune import parts
from gimtune.data import Dataset
from gimtune.metrics import FEATURES, features
from gimtune.results import mirror
from gimtune.results.course import enough
from gimtune.results.environment import begun_in, changed, differences
from gimtune.results.store import Store
from gimtune.study.data import check_data, load_data
from gimtune.study.machine import check_machine, check_temporary, cluster_address, processors
from gimtune.study.messages import ConfigError
from gimtune.study.resolve import members
from gimtune.study.schema import SECTIONS, SEQUENTIAL, Config
from gimtune.training import default_device, made_by
from gimtune.tuning.intact import changes, check_whole, missing
from gimtune.tuning.mo_asha import make_rungs
from gimtune.tuning.packs import Pack, check_share, packs, share
from gimtune.tuning.reuse import Taken, check_start, taken_over
from gimtune.vocabulary import ENDED, Member

#: Workers that a cluster is taken to have when packs are made.
_CLUSTER = 32


@dataclass(frozen=True)
class Plan:
    """A study that can start, or go on.

    Attributes:
        config: as it was asked for.
        data: read and split.
        listed: packs that a dry run shows; of a search, random ones that stand for those that it will suggest.
        address: of the cluster to join; ``None`` for a Ray of its own.
        run: folder of the run to go on with; ``None`` for a new one.
        made: what members' numbers depend on beside their configuration, of workers like this machine's
            (`gimtune.results.environment.made_by`).
        notes: what is to be said before it starts.
        planned: members of a new run, in the order of its rows.
        taken: those among them that earlier runs have, and that are in no pack.
    """

    config: Config
    data: Dataset
    listed: list[Pack]
    address: str | None
    run: Path | None
    made: Mapping[str, str]
    notes: tuple[str, ...] = ()
    planned: tuple[Member, ...] = ()
    taken: tuple[Taken, ...] = ()

    @property
    def sequential(self) -> bool:
        """Whether members are suggested as results come in."""
        return self.config.search.sampler in SEQUENTIAL

    @property
    def packs(self) -> list[Pack]:
        """Packs that are known before the study starts."""
        return [] if self.sequential and self.run is None else self.listed

    @property
    def total(self) -> int:
        """Members of the whole study."""
        if self.sequential:
            return self.config.search.trials or 0
        return sum(map(len, self.listed)) + sum(len(taken.trials) for taken in self.taken)

    @property
    def room(self) -> int | None:
        """Bytes that a worker's members may take of a GPU, where it is one of this machine's."""
        total = _memory(self.config, self.address)
        return share(self.config.resources.gpu, total, self.data.nbytes) if total else None

    @property
    def device(self) -> str:
        """Kind of device that packs are trained on."""
        return "cuda" if self.config.resources.gpu else "cpu"


def preflight(config: Config) -> Plan:
    """Check everything that can be checked without Ray, and read the data.

    Raises:
        ConfigError: bad input; nothing was started.
    """
    run = Path(config.resume).resolve() if config.resume else None
    if run:
        check_whole(run)
    else:
        check_start(config.search.warm_start)
    planned = _planned(run) if run else members(config)
    address = cluster_address(config)
    device = default_device() if config.resources.gpu else torch.device("cpu")
    made = made_by(device, max(1, int(config.resources.cpu)))
    notes = _moved(config, run, made, address) if run else ()
    if address and mirror.is_address(config.storage_path):
        raise ConfigError(f"storage_path={config.storage_path}: on a cluster, a folder that its nodes share")
    check_temporary(config)
    if address is None:
        gpus = torch.cuda.device_count() if config.resources.gpu else 0
        check_machine(config, [(processors(), gpus)])
    try:
        if config.scheduler.name == "mo_asha":
            make_rungs(config)
        if not (kept := run is not None and features.keeps(run)):
            FEATURES[config.metrics.fid_features].check(config.metrics.model_dump())
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if config.ray.trackers:
        from gimtune.tuning.trackers import check

        check(config)
    data = load_data(config)
    check_data(config, data, planned, kept)
    memory = _memory(config, address)
    room = share(config.resources.gpu, memory, data.nbytes) if memory else None
    if run:
        listed = _packs_of(run, planned)
        notes = (*notes, *changes(config, run, data.digest), *missing(run, listed))
        return Plan(config, data, listed, address, run, made, notes)
    kind, workers = "cuda" if config.resources.gpu else "cpu", _workers(config, address)

    def packed(those: list[Member]) -> list[Pack]:
        return packs(those, config.resources.members, data.image, kind, workers, room)

    listed = packed(planned)
    if memory:
        try:
            check_share(listed, data.image, config.resources.gpu, memory, data.nbytes)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    ordered = tuple(member for pack in listed for member in pack)
    taken, notes = taken_over(config, planned, data, _known(made, address))
    if known := {trial for earlier in taken for trial in earlier.trials}:
        listed = packed([member for member in planned if member.trial not in known])
    return Plan(config, data, listed, address, run, made, (*notes, *_seldom(config)), ordered, taken)


def _seldom(config: Config) -> Iterator[str]:
    """A budget by which nothing can be decided."""
    budget, needed = config.budget, enough(config.budget.patience)
    if math.ceil(budget.epochs / budget.evaluate_every) < needed:
        yield (
            f"with budget.epochs={budget.epochs} and budget.evaluate_every={budget.evaluate_every} no member can be "
            f"seen to level off, which takes {needed} evaluations, and without that no claim is decided"
        )


def _memory(config: Config, address: str | None) -> int:
    """Bytes of this machine's smallest GPU; 0 where none is used, or those of a cluster are."""
    if not config.resources.gpu or address is not None:
        return 0
    return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def to_go(config: Config, run: Path) -> int:
    """How many of a run's members have not ended."""
    with Store(run / "study.db") as store:
        statuses = store.statuses()
        left = sum(status not in ENDED for status in statuses.values())
        if config.search.sampler in SEQUENTIAL and "exhausted" not in store.meta:
            left += (config.search.trials or 0) - len(statuses)
    return left


def _moved(config: Config, run: Path, made: Mapping[str, str], address: str | None) -> tuple[str, ...]:
    """What differs here from where a run was begun.

    Raises:
        ConfigError: numbers would differ, and nobody said that they may.
    """
    if not to_go(config, run):
        return ()
    harmless = changed(run)
    notes = (f"not as where the run was begun, which no number depends on: {harmless}",) if harmless else ()
    there = begun_in(run)
    if not (different := differences(_known(made, address), there)):
        return notes
    if config.across:
        return (
            *notes,
            f"members may come out otherwise than where the run was begun: {different}",
        )
    raise ConfigError(
        f"resume={run}: numbers would come out otherwise here: {different}. resume.across=true goes on all the same, "
        "and rows say what they were made by"
    )


def _known(made: Mapping[str, str], address: str | None) -> dict[str, str]:
    """What numbers depend on, but for what only a cluster's workers know; rows say what they were made by."""
    return {k: v for k, v in made.items() if address is None or k not in ("device", "precision", "processor")}


def _workers(config: Config, address: str | None) -> int:
    """How many packs are trained at a time on this machine; of a cluster that is not joined yet, as many as may be."""
    wanted = config.resources
    if address is not None:
        return _CLUSTER
    slots = [processors() / wanted.cpu] if wanted.cpu else []
    if wanted.gpu:
        slots.append(torch.cuda.device_count() / wanted.gpu)
    return max(1, int(min(slots, default=1)))


def _planned(run: Path) -> list[Member]:
    try:
        with Store(run / "study.db") as store:
            found = store.members()
        plugins = {module: digest for member in found for module, digest in member.plugins.items()}
        parts.load(plugins, expected=plugins)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"resume={run}: {str(error).splitlines()[0]}") from None
    return found


def _packs_of(run: Path, planned: list[Member]) -> list[Pack]:
    """The packs that the run's members were planned in."""
    with Store(run / "study.db") as store:
        names = store.trials()["pack"]
    groups: dict[str, Pack] = {}
    for name, member in zip(names, planned, strict=True):
        groups.setdefault(str(name), []).append(member)
    return list(groups.values())


def show(plan: Plan, console: Console) -> None:
    """Print what would run."""
    config, made = plan.config, plan.listed
    table = Table(title=f"{config.name}: {sum(map(len, made))} members in {len(made)} packs")
    further = _further(made)
    for column in ("model", "prior", "weights", "latent_dim", "seeds", *further, "members", "packs"):
        table.add_column(column, justify="left" if column in ("model", "prior") else "right")
    groups: dict[tuple[str, str], list[Pack]] = {}
    for pack in made:
        groups.setdefault((pack[0].model, pack[0].prior["name"]), []).append(pack)
    for (model, prior), found in groups.items():
        inside = [member for pack in found for member in pack]
        listed = [_several(getattr(m, key) for m in inside) for key in ("weight", "latent_dim", "seed")]
        chosen = [_chosen(member) for member in inside]
        more = [_values(values[key] for values in chosen if key in values) for key in further]
        table.add_row(model, prior, *listed, *more, str(len(inside)), str(len(found)))
    if made:
        console.print(table)
    first = made[0][0] if made else plan.planned[0]
    sizes = {member.batch_size for pack in made for member in pack} or {first.batch_size}
    steps = " or ".join(f"{math.ceil(len(plan.data.images['train']) / size):,}" for size in sorted(sizes, reverse=True))
    budget = f"{first.epochs} epochs of {steps} steps each, evaluated every {first.evaluate_every}, on "
    budget += first.data["name"]
    if first.patience is not None:
        budget = f"at most {budget}, each ending when it has levelled off"
    if plan.sequential:
        budget = f"members drawn at random stand for those that {config.search.sampler} will suggest; {budget}"
    plain: Any = {"soft_wrap": True, "highlight": False, "markup": False}
    console.print(f"{budget}; nothing was started", **plain)
    for line in (plan.data.described, *(f"note: {note}" for note in (*plan.notes, *plan.data.notes))):
        console.print(line, **plain)


def _further(made: list[Pack]) -> list[str]:
    """What else was swept: keys of which some member has another value than some other."""
    listed = {"model", "prior", "weight", "latent_dim", "seed"}
    values: dict[str, set[str]] = {}
    for member in (member for pack in made for member in pack):
        for key, value in _chosen(member).items():
            values.setdefault(key, set()).add(json.dumps(value))
    return [key for key, seen in values.items() if key not in listed and len(seen) > 1]


def _chosen(member: Member) -> dict[str, Any]:
    """What a member's space gave it, options of a section by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in member.assignment.items():
        options = value.items() if isinstance(value, Mapping) and key in SECTIONS else None
        flat |= {key: value} if options is None else {f"{key}.{name}": one for name, one in options}
    return {key: json.dumps(value) if isinstance(value, list) else value for key, value in flat.items()}


def _values(values: Iterable[Any]) -> str:
    found = list(dict.fromkeys(values))
    return _several(found) if all(isinstance(value, int | float) for value in found) else " ".join(map(str, found))


def _several(values: Iterable[float]) -> str:
    distinct = sorted(set(values))
    if len(distinct) <= 6:
        return " ".join(f"{value:g}" for value in distinct)
    return f"{distinct[0]:.3g} .. {distinct[-1]:.3g}"
