"""Checkpoints of a pack: written whole or not at all, and found again.

They stand behind evaluations, and where a pack was asked to stop, within an epoch or before an evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gimtune.files import replacing
from gimtune.training.pack import FORMAT, pack_name
from gimtune.vocabulary import Member

_KEPT = 2
#: Numbers of a member that its training may go on with others of.
_FREE = frozenset({"weight", "restrictions", "seed", "learning_rate", "beta1", "prior"})
#: Where a pack was stopped between two evaluations.
_BETWEEN = "between.pt"


def reached(checkpoints: Path) -> int:
    """The epoch of a pack's newest checkpoint by its name, readable or not; 0 without one."""
    return max((int(path.stem.removeprefix("epoch-")) for path in checkpoints.glob("epoch-*.pt")), default=0)


def save(state: dict[str, Any], path: Path) -> None:
    """`torch.save` that leaves the old file or the new one, never half of either."""
    with replacing(path) as temporary, temporary.open("wb") as handle:
        # through a handle: by a name torch reports a full disk as a RuntimeError of its zip writer
        torch.save(state, handle)


def newest(checkpoints: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest state that can be read; ``note`` is told of each that cannot."""
    # the one between was begun from the last of the others, and goes when the next of them is there
    between = [path] if (path := checkpoints / _BETWEEN).is_file() else []
    for path in (*between, *sorted(checkpoints.glob("epoch-*.pt"), reverse=True)):
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
