"""Which members share a Ray trial."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch

from gimtune.algebra.encoders import ENCODERS
from gimtune.algebra.objective import Objective
from gimtune.algebra.priors import make_prior
from gimtune.algebra.restrictions import RESTRICTIONS
from gimtune.vocabulary import METRICS, Direction, Match, Member

#: Members of one pack that a search asks for at a time: it learns nothing from members that it asks for together.
_ASKED = {"cpu": 8, "cuda": 16}
#: Bytes that a pack's training may take: of a worker on a CPU, and of a worker's share of a GPU.
_ROOM = {"cpu": 2 * 2**30, "cuda": 8 * 2**30}
#: Bytes of a GPU that each process on it takes beside what it allocates.
_CONTEXT = 2**29
#: Numbers that stand for each weight: gradient, two moments, the best so far and itself, and on a GPU once more what is
#: being written while training goes on.
_COPIES = {"cpu": 5, "cuda": 9}
#: The same for each unit and example of a minibatch: values, gradients and what the chain rule keeps.
_KEPT = 12
#: What the members of a pack have each for itself, beside weights and the prior's numbers.
_OWN = frozenset({"weight", "seed", "learning_rate", "beta1", "sigma_min", "sigma_start"})
#: Of these, what an encoder that others wrote is given as numbers.
_NUMBERS = frozenset({"sigma_min", "sigma_start"})
#: Metrics that Ray sees. It keeps a history of each, which costs the driver 3 kB and .1 ms a trial.
SEEN = ("likelihood", "restriction", "mi_q", "mi_p", "mi_noised", "fid", "probe_codes")
Pack = list[Member]


def key(member: Member) -> str:
    """What members of one pack have in common: all but weights, seed, Adam's rates, the prior's numbers, and the bound
    and start of the posterior's standard deviation."""
    shared = json.loads(member.to_json()) | {
        "restrictions": [term[:2] for term in member.restrictions],
        "prior": make_prior(**member.prior).shape_key,
    }
    own = _OWN if ENCODERS.ours(member.encoder) else _OWN - _NUMBERS
    return repr([shared[name] for name in sorted(shared) if name not in own])


def packs(
    members: Sequence[Member],
    size: int | Literal["auto"],
    image: tuple[int, int, int],
    device: str = "cpu",
    workers: int = 1,
    room: int | None = None,
) -> list[Pack]:
    """Members in packs of at most ``size``, in the order in which they stand.

    ``auto`` packs all that belongs together, as far as memory reaches: more members of a pack cost less each. What has
    to be parted is parted evenly, and so far that every worker has a pack. Networks that keep a processor busy stay
    alone on a CPU.

    Args:
        room: bytes of a worker's share of a GPU, where they are known.
    """
    groups: dict[str, Pack] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    made: list[Pack] = []
    for group in groups.values():
        parts = 1 if size != "auto" else -(-workers // len(groups))
        most = size if size != "auto" else _most(group[0], image, device, room)
        made += _parted(group, max(-(-len(group) // most), min(parts, len(group))), size)
    return made


def _parted(group: Pack, count: int, size: int | Literal["auto"]) -> list[Pack]:
    if size != "auto":
        return [group[i : i + size] for i in range(0, len(group), size)]
    ends = [round(i * len(group) / count) for i in range(count + 1)]
    return [group[start:end] for start, end in pairwise(ends)]


def longest_first(made: Iterable[Pack]) -> list[Pack]:
    """Packs as they are started, by an estimate of how long they take: a study ends with short ones.

    A critic is trained as the networks are, by as many steps.
    """

    def work(pack: Pack) -> int:
        critics = sum(RESTRICTIONS[Match(match), name].critic is not None for match, name, _ in pack[0].restrictions)
        return len(pack) * pack[0].epochs * (1 + critics)

    return sorted(made, key=work, reverse=True)


def best_of(rows: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> dict[str, float]:
    """A lone member's metrics, or the best of several members, NaN where there is none."""
    best = {}
    for key in keys:
        values = [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]
        if len(rows) == 1 or METRICS[key].direction is not Direction.NONE:
            choose = min if METRICS[key].direction is Direction.MIN else max
            best[key] = choose(values, default=math.nan)
    return best


def as_text(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Rows as a result carries them: by trial, JSON."""
    return {row["trial"]: json.dumps(row) for row in rows}


def rows_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each member's row of a result, as callbacks get it and as searchers and schedulers do: ``members/<trial>``."""
    flat = {name[len("members/") :]: value for name, value in result.items() if name.startswith("members/")}
    return {trial: json.loads(text) for trial, text in (result.get("members") or flat).items()}


def asked(
    first: Member,
    size: int | Literal["auto"],
    image: tuple[int, int, int],
    device: str = "cpu",
    room: int | None = None,
) -> int:
    """How many members a search asks for to share a pack with the first."""
    return size if size != "auto" else min(_ASKED[device], _most(first, image, device, room))


def share(gpu: float, total: int, data: int) -> int:
    """Bytes that the members of a worker may take of a GPU's ``total``, beside its context and the data's bytes."""
    return int(min(gpu, 1) * total) - _CONTEXT - data


def check_share(made: Iterable[Pack], image: tuple[int, int, int], gpu: float, total: int, data: int) -> None:
    """Refuse packs that would run out of memory on their share of a GPU.

    Args:
        total: bytes of the GPU.
        data: bytes of the images, which every worker has there.

    Raises:
        ValueError: naming the pack that takes most.
    """
    needed, size, model = max(
        (
            (
                len(pack) * _bytes(Objective(pack[0], image, torch.float32), pack[0], image, "cuda"),
                len(pack),
                pack[0].model,
            )
        )
        for pack in made
    )
    if needed > share(gpu, total, data):
        gib = 2**30
        least = (needed + data + _CONTEXT) / total
        raise ValueError(
            f"resources.gpu={gpu:g}: {gpu * total / gib:.1f} GiB of the device's {total / gib:.1f} GiB, and a pack of "
            f"{size} of {model} takes about {(needed + data + _CONTEXT) / gib:.1f} GiB with its data; allowed is "
            + (f"{math.ceil(100 * least) / 100:g} or more, or " if least <= 1 else "")
            + ("a smaller resources.members" if size > 1 else "a smaller network or training.batch_size")
        )


def _most(member: Member, image: tuple[int, int, int], device: str, room: int | None) -> int:
    objective = Objective(member, image, torch.float32)
    if device == "cpu" and not objective.small:
        return 1
    left = _ROOM[device] if room is None else min(room, _ROOM[device])
    return max(1, left // _bytes(objective, member, image, device))


def _bytes(objective: Objective, member: Member, image: tuple[int, int, int], device: str) -> int:
    """Of memory that a member's training takes, about."""
    units = 2 * math.prod(image) + objective.units
    return 4 * (_COPIES[device] * sum(p.numel() for p in objective.weights) + _KEPT * member.batch_size * units)


def called(data: Mapping[str, Any]) -> str:
    """A data set's name, with what tells it from others that are read in the same way."""
    one = data.get("dataset") or (Path(data["path"]).name if data.get("path") else "")
    binary = ["binarized"] if data.get("binarized") else []
    return ":".join(filter(None, [str(data["name"]), one, *binary]))
