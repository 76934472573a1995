"""Which members share a Ray trial."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch

from gimtune.algebra.objective import Objective
from gimtune.algebra.priors import make_prior
from gimtune.algebra.restrictions import RESTRICTIONS
from gimtune.vocabulary import Match, Member

#: Members of one pack that a search asks for at a time: it learns nothing from members that it asks for together.
_ASKED = {"cpu": 8, "cuda": 16}
#: Bytes that a pack's training may take: of a worker on a CPU, and of a worker's share of a GPU.
_ROOM = {"cpu": 2 * 2**30, "cuda": 8 * 2**30}
#: Numbers that stand for each weight (gradient, two moments, the best so far, itself), and for each unit and example of
#: a minibatch (values, gradients and what the chain rule keeps).
_COPIES, _KEPT = 5, 12
#: What the members of a pack have each for itself, beside weights and the prior's numbers.
_OWN = frozenset({"weight", "seed", "learning_rate", "beta1"})
Pack = list[Member]


def key(member: Member) -> str:
    """What members of one pack have in common: all but weights, seed, Adam's rates and the prior's numbers."""
    shared = json.loads(member.to_json()) | {
        "restrictions": [term[:2] for term in member.restrictions],
        "prior": make_prior(**member.prior).shape_key,
    }
    return repr([shared[name] for name in sorted(shared) if name not in _OWN])


def packs(
    members: Sequence[Member],
    size: int | Literal["auto"],
    image: tuple[int, int, int],
    device: str = "cpu",
    workers: int = 1,
) -> list[Pack]:
    """Members in packs of at most ``size``, in the order in which they stand.

    ``auto`` packs all that belongs together, as far as memory reaches: more members of a pack cost less each. What has
    to be parted is parted evenly, and so far that every worker has a pack. Networks that keep a processor busy stay
    alone on a CPU.
    """
    groups: dict[str, Pack] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    made: list[Pack] = []
    for group in groups.values():
        parts = 1 if size != "auto" else -(-workers // len(groups))
        most = size if size != "auto" else _most(group[0], image, device)
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


def as_text(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Rows as a result carries them: by trial, JSON. Of every number that Ray sees it keeps a history, in memory."""
    return {row["trial"]: json.dumps(row) for row in rows}


def rows_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each member's row of a result, as callbacks get it and as searchers and schedulers do: ``members/<trial>``."""
    flat = {name[len("members/") :]: value for name, value in result.items() if name.startswith("members/")}
    return {trial: json.loads(text) for trial, text in (result.get("members") or flat).items()}


def asked(first: Member, size: int | Literal["auto"], image: tuple[int, int, int], device: str = "cpu") -> int:
    """How many members a search asks for to share a pack with the first."""
    return size if size != "auto" else min(_ASKED[device], _most(first, image, device))


def _most(member: Member, image: tuple[int, int, int], device: str) -> int:
    objective = Objective(member, image, torch.float32)
    if device == "cpu" and not objective.small:
        return 1
    units = 2 * math.prod(image) + objective.units
    bytes_each = 4 * (_COPIES * sum(p.numel() for p in objective.weights) + _KEPT * member.batch_size * units)
    return max(1, _ROOM[device] // bytes_each)
