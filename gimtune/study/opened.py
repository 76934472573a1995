"""A member of a run that has ended, with its weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.utils._pytree import tree_map

from gimtune import data, parts
from gimtune.metrics import Evaluation, features
from gimtune.training import FORMAT, Pack, default_device
from gimtune.vocabulary import Member


def opened(
    folder: Path, trial: str, root: str | None = None, known: dict[str, Evaluation] | None = None
) -> tuple[Pack, Evaluation]:
    """An ended member of a run folder with its weights, as a pack of one, to be measured and sampled anew.

    Args:
        root: of the data's files, as `gimtune.data.load` takes it; in place of ``data.path``, where there is one.
        known: data and features of the run that serve for several members; filled here.

    Raises:
        FileNotFoundError: it has no weights there: it has not ended, or is dominated and they were dropped.
        ValueError: they are damaged, or of another format.
    """
    path = folder / "members" / f"{trial}.pt"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no weights; those of members that have ended and are not dominated are kept")
    try:
        kept = torch.load(path, weights_only=True, map_location="cpu")
        written = kept.get("format")
        member, parameters = Member.from_json(kept["member"]), kept["parameters"]
    except Exception as error:  # torch raises a different type for every way a file can be damaged
        raise ValueError(f"{path}: cannot be read ({type(error).__name__})") from None
    if written != FORMAT:
        raise ValueError(f"{path}: format {written}; this version reads {FORMAT}")
    device = default_device()
    parts.load(expected=member.plugins, named=member.plugins)
    known, key = {} if known is None else known, json.dumps([member.data, member.metrics], sort_keys=True)
    if key not in known:
        moved = {"path": root} if root is not None and "path" in member.data else {}
        images = data.load(root=root, **{**member.data, **moved})
        known[key] = Evaluation(images, features.load(images, member.metrics, folder, device), device)
    evaluation = known[key]
    pack = Pack([member], evaluation.data)
    try:
        pack.parameters = tree_map(
            lambda leaf, like: leaf.to(device).reshape(like.shape).requires_grad_(), parameters, pack.parameters
        )
    except (ValueError, RuntimeError, AttributeError, TypeError):
        raise ValueError(f"{path}: its weights are not those of the member that it names") from None
    return pack, evaluation
