"""Checkpoints of a pack: written whole or not at all, and found again.

They stand behind evaluations, and where a pack was asked to stop, within an epoch or before an evaluation.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gimtune.files import replacing
from gimtune.training.pack import FORMAT, pack_name
from gimtune.vocabulary import Member

_KEPT = 2
#: Numbers of a member that its training may go on with others of.
_FREE = frozenset({"weight", "restrictions", "seed", "learning_rate", "beta1", "prior"})
#: Where a pack was stopped between two evaluations.
_BETWEEN = "between.pt"
#: Which members of a pack are trained at a time, where memory does not suffice for all.
_PARTS = "parts.json"


def reached(checkpoints: Path) -> int:
    """The epoch of a pack's newest checkpoint by its name, readable or not, of all its parts; 0 without one."""
    return max((int(path.stem.removeprefix("epoch-")) for path in checkpoints.rglob("epoch-*.pt")), default=0)


def save(state: dict[str, Any], path: Path) -> None:
    """`torch.save` of tensors as a CPU has them, which leaves the old file or the new one, never half of either."""
    state = tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, state)
    with replacing(path) as temporary, temporary.open("wb") as handle:
        # through a handle: by a name torch reports a full disk as a RuntimeError of its zip writer
        torch.save(state, handle)


def newest(checkpoints: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest state that can be read; ``note`` is told of each that cannot."""
    # the one between was begun from the last of the others, and goes when the next of them is there
    between = [path] if (path := checkpoints / _BETWEEN).is_file() else []
    for path in (*between, *sorted(checkpoints.glob("epoch-*.pt"), reverse=True)):
        if not path.is_file():  # a pipe would be waited for
            note(f"{path}: no file; going on from the one before")
            continue
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises a different type for every way a file can be cut
            note(f"{path}: cannot be read ({type(error).__name__}); going on from the one before")
            continue
        if state.get("format") == FORMAT:
            return state
        note(f"{path}: format {state.get('format')}; this version writes {FORMAT}")
    return None


def keep(state: dict[str, Any], checkpoints: Path) -> None:
    """Write a pack's state, and drop all but the last two."""
    save(state, checkpoints / f"epoch-{state['epoch']:06d}.pt")
    for old in sorted(checkpoints.glob("epoch-*.pt"))[:-_KEPT]:
        old.unlink()
    (checkpoints / _BETWEEN).unlink(missing_ok=True)


def keep_between(state: dict[str, Any], checkpoints: Path) -> None:
    """Write the state of a pack that stands between two evaluations, beside the others."""
    save(state, checkpoints / _BETWEEN)


def parts(members: Sequence[Member], checkpoints: Path) -> list[tuple[list[Member], Path]]:
    """A pack's members as they are trained together, one part after the other, and where each has its checkpoints."""
    named = {member.trial: member for member in members}
    try:
        found = [[named[trial] for trial in part] for part in json.loads((checkpoints / _PARTS).read_text())]
    except (FileNotFoundError, ValueError, KeyError):
        return [(list(members), checkpoints)]
    return [(part, checkpoints / pack_name(part)) for part in found]


def halve(members: Sequence[Member], checkpoints: Path, part: Sequence[Member]) -> None:
    """Part a pack's part in two, which go on from where it stands."""
    before = parts(members, checkpoints)
    there = next(place for found, place in before if found == list(part))
    middle = -(-len(part) // 2)
    halves = [list(part[:middle]), list(part[middle:])]
    if state := newest(there, lambda text: None):
        for half in halves:
            # an earlier attempt may have been cut off
            shutil.rmtree(checkpoints / pack_name(half), ignore_errors=True)
            put = keep if state.get("stands", "behind") == "behind" else keep_between
            put(_of(state, {member.trial for member in half}), checkpoints / pack_name(half))
    listed = [half for found, _ in before for half in (halves if found == list(part) else [found])]
    with replacing(checkpoints / _PARTS) as temporary:
        temporary.write_text(json.dumps([[member.trial for member in half] for half in listed]))
    for old in there.glob("*.pt"):
        old.unlink()


def _of(state: dict[str, Any], trials: set[str]) -> dict[str, Any]:
    """A pack's state without its other members."""
    index = [i for i, trial in enumerate(state["members"]) if trial in trials]

    def stack(tree: Any) -> Any:
        return None if tree is None else tree_map(lambda leaf: leaf[index], tree)

    def rows(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in batch if row["trial"] in trials]

    return {
        **state,
        "members": [state["members"][i] for i in index],
        "rows": [batch for batch in map(rows, state["rows"]) if batch],
        "pending": rows(state["pending"]),
        # steps are counted for all at once
        "optimisers": {
            player: {"first": stack(moments["first"]), "second": stack(moments["second"]), "steps": moments["steps"]}
            for player, moments in state["optimisers"].items()
        },
        **{key: stack(state[key]) for key in ("parameters", "best", "finite")},
        **{
            key: {trial: value for trial, value in state[key].items() if trial in trials}
            for key in ("seconds", "trained", "courses", "best_rows")
        },
    }


def adopt(folder: Path, before: Member, after: Member) -> None:
    """Make what a lone member has come to, in a run's folder, what another goes on from: weights, moments and course.

    Raises:
        ValueError: they differ in more than weights, seed, Adam's rates and the prior's numbers, or there is nothing.
    """
    one, other = json.loads(before.to_json()), json.loads(after.to_json())
    kinds = [(m.prior["name"], [term[:2] for term in m.restrictions]) for m in (before, after)]
    others = [key for key in sorted(one.keys() | other.keys()) if key not in _FREE and one.get(key) != other.get(key)]
    if others or kinds[0] != kinds[1]:
        key = others[0] if others else "prior"
        raise ValueError(f"a member cannot go on from the weights of one with another {key}")
    state = newest(folder / "packs" / pack_name([before]), lambda text: None)
    if state is None:
        raise ValueError(f"{before.trial}: there is no checkpoint to go on from")
    names = {before.trial: after.trial}
    state["members"] = [names[trial] for trial in state["members"]]
    for key in ("seconds", "trained", "courses", "best_rows"):
        state[key] = {names.get(trial, trial): value for trial, value in state[key].items()}
    keep(state, folder / "packs" / pack_name([after]))
