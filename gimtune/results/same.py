"""Members of several runs: which are one, and what keeps the others apart. Read from stored configurations alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gimtune.vocabulary import METRICS, Member, Status, identifying

#: Ends that follow from a member's configuration: a rung or an error is the run's, and says nothing of another.
LASTING = (Status.DONE, Status.DIVERGED)
#: Keys that say what ``model`` and ``weight`` do.
_FOLLOWS = ("restrictions", "assignment")
_SHOWN = 3


def apart(theirs: Iterable[Member], ours: Iterable[Member]) -> str:
    """Why members of two runs have no name in common, in a line: keys of which they share no value.

    Published data and own are told apart by ``data.content``, the measurements by ``metrics.*``.
    """
    there, here = values(theirs), values(ours)
    if not there:
        return "it has no members"
    told = []
    for key in sorted(there.keys() | here.keys()):
        a, b = there.get(key, {"nothing"}), here.get(key, {"nothing"})
        if not a & b:
            one = len(a) == len(b) == 1
            told.append(f"{key} is {min(a)} there and {min(b)} here" if one else f"{key} has other values there")
    more = f", and {len(told) - _SHOWN} keys more" if len(told) > _SHOWN else ""
    return ", ".join(told[:_SHOWN]) + more or "none has its combination of values"


def values(members: Iterable[Member]) -> dict[str, set[str]]:
    """The values that each key of their configurations has, as text; keys of mappings are dotted."""
    found: dict[str, set[str]] = {}
    for member in members:
        for key, value in _flat(identifying(json.loads(member.to_json()))):
            found.setdefault(key, set()).add(value if isinstance(value, str) else json.dumps(value))
    return found


def measured() -> set[str]:
    """The columns that hold what is measured of a member, on the validation split and on the test split."""
    return {f"{split}{key}" for metric in METRICS.values() for key in metric.columns for split in ("", "test_")}


def together(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a member's row becomes by another run's row of it, which may have been measured by more.

    Returns:
        Its numbers, and where added ones were measured; ``None`` where a number that both have differs.
    """
    known = measured()
    ours, theirs = ({k: v for k, v in one.items() if k in known and v is not None} for one in (row, other))
    if any(ours[key] != theirs[key] for key in ours.keys() & theirs.keys()):
        return None
    found = theirs | ours
    made = [json.loads(one.get("added_in") or "{}") for one in (other, row)]
    return found | ({"added_in": json.dumps(made[0] | made[1], sort_keys=True)} if any(made) else {})


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if not before and key in _FOLLOWS:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
