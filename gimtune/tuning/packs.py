"""Which members share a Ray trial."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch

from gimtune.algebra.objective import Objective
from gimtune.algebra.priors import make_prior
from gimtune.vocabulary import Member

_AUTO = {"cpu": 8, "cuda": 16}
Pack = list[Member]


def key(member: Member) -> str:
    """What members of one pack have in common: everything but weights, seed and the prior's floating-point options."""
    shared = json.loads(member.to_json()) | {
        "restrictions": [term[:2] for term in member.restrictions],
        "prior": make_prior(**member.prior).shape_key,
    }
    return repr([shared[name] for name in sorted(shared) if name not in ("weight", "seed")])


def packs(
    members: Sequence[Member], size: int | Literal["auto"], image: tuple[int, int, int], device: str = "cpu"
) -> list[Pack]:
    """Members in packs of at most ``size``, in the order in which they stand.

    ``auto`` packs networks that leave the processor idle: 8 on a CPU, 16 on a GPU, and the others alone on a CPU.
    """
    groups: dict[str, Pack] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)
    made: list[Pack] = []
    for group in groups.values():
        count = most(group[0], size, image, device)
        made += [group[i : i + count] for i in range(0, len(group), count)]
    return made


def as_text(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Rows as a result carries them: by trial, JSON. Of every number that Ray sees it keeps a history, in memory."""
    return {row["trial"]: json.dumps(row) for row in rows}


def rows_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each member's row of a result, as callbacks get it and as searchers and schedulers do: ``members/<trial>``."""
    flat = {name[len("members/") :]: value for name, value in result.items() if name.startswith("members/")}
    return {trial: json.loads(text) for trial, text in (result.get("members") or flat).items()}


def most(member: Member, size: int | Literal["auto"], image: tuple[int, int, int], device: str = "cpu") -> int:
    """How many members may share a pack with this one."""
    return size if size != "auto" else _auto(member, image, device)


def _auto(member: Member, image: tuple[int, int, int], device: str) -> int:
    if device == "cpu" and not Objective(member, image, torch.float32).small:
        return 1
    return _AUTO[device]
