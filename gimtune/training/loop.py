"""A pack from its first epoch to its last: trained, measured and kept. Knows no Ray.

for rows in run(members, evaluation, folder):
    ...
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gimtune.algebra.objective import Objective, Parameters
from gimtune.training.checkpoints import keep, newest, save
from gimtune.training.device import Resident
from gimtune.training.pack import FORMAT, Pack, pack_name
from gimtune.training.samples import save_codes, save_grid
from gimtune.vocabulary import Member, Status

#: Validation images whose codes are kept, for a map of them.
_CODES = 1000
Rows = list[dict[str, Any]]


class Measurements(Protocol):
    """What measures members; `gimtune.metrics.Evaluation` does."""

    data: Resident

    def measure(
        self, objective: Objective, parameters: Parameters, member: Member, splits: tuple[str, ...]
    ) -> dict[str, Any]:
        """Metrics of a member on the splits."""
        ...

    def failed(self, member: Member, splits: tuple[str, ...], why: str) -> dict[str, Any]:
        """The same columns of a member that cannot be measured."""
        ...

    def samples(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> Tensor:
        """Images from codes of the prior, (count, *image) in [0, 1]."""
        ...

    def reconstructions(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> Tensor:
        """Test images and their reconstructions, (2, count, *image) in [0, 1]."""
        ...

    def codes(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> tuple[Tensor, Tensor]:
        """Posterior means of validation images, (n, latent_dim), and their labels, (n,)."""
        ...


def run(
    members: Sequence[Member],
    evaluation: Measurements,
    folder: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
    stopped: Callable[[], Collection[str]] = tuple,
) -> Iterator[Rows]:
    """Train a pack to its end; yields one row per member at every evaluation.

    With a ``folder`` it writes ``packs/<pack>/`` there and goes on from what it finds: the rows of the checkpoint
    first, so that a reader who died before writing them down gets them again. A member's last row has its final status
    and the metrics of the test split; its weights then stand in ``members/<trial>.pt``, its samples in
    ``samples/<trial>.png``, test images with their reconstructions in ``samples/<trial>-reconstructed.png``, and codes
    of validation images with their labels in ``samples/<trial>-latents.npz``.

    Args:
        note: is told of a checkpoint that cannot be read.
        stopped: names members that are to end where they stand; asked before every interval. They are measured on the
            test split and leave the pack.
    """
    pack = Pack(members, evaluation.data)
    last, every = members[0].epochs, members[0].evaluate_every
    checkpoints = folder / "packs" / pack_name(members) if folder else None
    rows: Rows = []
    if checkpoints and (found := newest(checkpoints, note)):
        pack.restore(found)
        rows = found["rows"]
        yield rows
    while pack.members and pack.epoch < last:
        rows = []
        names = stopped()
        if halted := [m for m in pack.members if m.trial in names]:
            rows += [_measured(pack, evaluation, m, Status.STOPPED, folder) for m in halted]
            pack.drop(halted)
        while pack.members and pack.epoch < last:
            pack.train_epoch()
            if lost := pack.diverged():
                why = f"the loss was not finite in epoch {pack.epoch}"
                rows += [
                    _row(pack, m, evaluation.failed(m, ("validation", "test"), why), Status.DIVERGED) for m in lost
                ]
                pack.drop(lost)
            if not pack.members or pack.epoch % every == 0 or pack.epoch == last:
                break
        ending = pack.epoch == last
        failed: list[Member] = []
        for member in pack.members:
            row = _measured(pack, evaluation, member, Status.DONE if ending else Status.RUNNING, folder)
            rows.append(row)
            if row["status"] == Status.FAILED:
                failed.append(member)
        if failed:
            pack.drop(failed)
        if checkpoints:
            keep({**pack.state(), "rows": rows}, checkpoints)
        yield rows


def _measured(
    pack: Pack, evaluation: Measurements, member: Member, status: Status, folder: Path | None
) -> dict[str, Any]:
    """A member's row; where its status is final, with the test split, its weights and its samples."""
    started, index = time.perf_counter(), pack.members.index(member)
    final = status in (Status.DONE, Status.STOPPED)
    try:
        splits = ("validation", "test") if final else ("validation",)
        metrics = evaluation.measure(pack.objective, pack.one(index), member, splits)
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, RuntimeError, ValueError) as error:
        # this member's numbers, not the machine: the others of its pack go on
        status = Status.FAILED
        why = f"{type(error).__name__}: {error}"
        metrics = evaluation.failed(member, ("validation", "test"), why)
    pack.seconds[member.trial] += time.perf_counter() - started
    row = _row(pack, member, metrics, status)
    if status in (Status.DONE, Status.STOPPED) and folder:
        row["checkpoint"] = _kept(pack, evaluation, index, folder)
    return row


def _row(pack: Pack, member: Member, metrics: dict[str, Any], status: Status) -> dict[str, Any]:
    """A row as the results store takes it: reasons, flags and estimators are JSON text."""
    images = len(pack.data.images["train"]) * pack.epoch
    trained = pack.trained[member.trial]
    error = next(iter(metrics["reasons"].values())) if status in (Status.DIVERGED, Status.FAILED) else None
    row = {
        "trial": member.trial,
        "epoch": pack.epoch,
        "status": str(status),
        "error": error,
        "diverged": float(status is Status.DIVERGED),
        "seconds": pack.seconds[member.trial],
        "examples_per_second": images / trained if trained else math.nan,
        **metrics,
    }
    return {key: json.dumps(v, sort_keys=True) if isinstance(v, dict) else v for key, v in row.items()}


def _kept(pack: Pack, evaluation: Measurements, index: int, folder: Path) -> str:
    """Write a member's weights, samples and codes; where its weights are, below the folder."""
    member = pack.members[index]
    parameters = pack.one(index)
    relative = Path("members") / f"{member.trial}.pt"
    # clones: a slice of a stack would be saved with the whole stack behind it
    weights = tree_map(lambda leaf: leaf.clone().cpu(), parameters)
    save({"format": FORMAT, "member": member.to_json(), "parameters": weights}, folder / relative)
    images = evaluation.samples(pack.objective, parameters, member, 64)
    save_grid(images, folder / "samples" / f"{member.trial}.png")
    # rows of images, and below each what the decoder makes of their codes
    pairs = evaluation.reconstructions(pack.objective, parameters, member, 32)
    rows = pairs.unflatten(1, (4, 8)).transpose(0, 1).flatten(0, 2)
    save_grid(rows, folder / "samples" / f"{member.trial}-reconstructed.png")
    codes, labels = evaluation.codes(pack.objective, parameters, member, _CODES)
    save_codes(codes, labels, folder / "samples" / f"{member.trial}-latents.npz")
    return str(relative)
