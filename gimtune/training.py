"""Training of M members in one program: train steps, checkpoints, and a row per member and evaluation. Knows no Ray.

    for rows in run(members, evaluation, folder):
        ...

A checkpoint stands at the end of an epoch and holds weights, optimisers, the epoch and the last rows; the generators
are functions of seed and epoch (`gimtune.seeds`), so nothing else is needed to go on bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map

from gimtune import data
from gimtune.adam import Adam
from gimtune.evaluation import Evaluation, summarise
from gimtune.files import replacing
from gimtune.metrics import fid
from gimtune.objective import Constants, Objective, batches, slice_noise
from gimtune.seeds import generator
from gimtune.vocabulary import Member, Status

FORMAT = 2
_KEPT = 2
#: Validation images whose codes are kept, for a map of them.
_CODES = 1000
Rows = list[dict[str, Any]]


def default_device() -> torch.device:
    """The first CUDA device that this process sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it (CUDA from Ampere on, AVX512-BF16, AMX), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


class Pack:
    """M members of one model, network and prior family, trained together on shared minibatches.

    The formula is written for one member and mapped over all. A member's numbers do not depend on its pack but for
    rounding, which an adversarial training makes as much of as of another seed: so small fully connected networks,
    where the map is kept at M = 1 too, give the same bits alone and anywhere in any pack (seen on a CPU with AVX2,
    layers in multiples of 8; others differ by 1e-8). A larger network alone does without the map, which would cost it
    a quarter of its speed. Members that end early leave the stack, and the rest goes on.

    Args:
        members: they differ in weight, prior parameters and seed alone.
        evaluation: data and measurements; its device is trained on.
    """

    def __init__(self, members: Sequence[Member], evaluation: Evaluation, dtype: torch.dtype | None = None) -> None:
        self.members = list(members)
        self.evaluation, self.device = evaluation, evaluation.device
        self.objective = Objective(members[0], evaluation.data.image, dtype or precision(self.device))
        first = members[0]
        self.mapped = len(members) > 1 or self.objective.small
        self.batch_size, self.shuffle_seed = first.batch_size, first.shuffle_seed
        self.epoch = 0
        self.seconds = dict.fromkeys((m.trial for m in members), 0.0)
        self.trained = dict.fromkeys(self.seconds, 0.0)
        self._stack(
            [self.objective.initial(m.seed, self.device) for m in members],
            [evaluation.constants(self.objective, m, "train") for m in members],
        )
        self.optimisers = self._optimisers()

    def _stack(self, parameters: Sequence[Any], constants: Sequence[Constants]) -> None:
        self.parameters: dict[str, dict[str, Tensor]] = tree_map(
            lambda *leaves: torch.stack(leaves).requires_grad_(), *parameters
        )
        self.constants: Constants = tree_map(lambda *leaves: torch.stack(leaves), *constants)

    def _owned(self, modules: Sequence[str]) -> list[Tensor]:
        return [value for module in modules for value in self.parameters[module].values()]

    def _optimisers(self, moments: Mapping[str, Any] | None = None) -> dict[str, Adam]:
        return {
            p.name: Adam(self._owned(p.modules), p.learning_rate, p.beta1, **(moments[p.name] if moments else {}))
            for p in self.objective.players
        }

    def _losses(self, player: str, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """Losses (M,) of one player."""

        def one(parameters: Any, constants: Constants, draws: dict[str, Tensor]) -> Tensor:
            return self.objective.loss(player, parameters, constants, x, draws)

        if not self.mapped:
            alone = tree_map(lambda leaf: leaf.squeeze(0), (self.parameters, self.constants, noise))
            return one(*alone)[None]
        losses: Tensor = vmap(one)(self.parameters, self.constants, noise)
        return losses

    def train_epoch(self) -> None:
        """One pass over as many images as the training split has; `diverged` then finds members that are lost."""
        started = time.perf_counter()
        images, scale = self.evaluation.training(self.objective), self.evaluation.data.scale
        # as many minibatches for every model: half a data set is gone through twice
        count = len(self.evaluation.images["train"])
        parts = batches(count, self.batch_size)
        order = torch.randperm(count, generator=generator(torch.device("cpu"), "order", self.shuffle_seed, self.epoch))
        order = order.to(self.device) % len(images)
        drawn = [
            self.objective.noise((m.seed, "train", self.epoch), count, len(parts), self.device) for m in self.members
        ]
        noise: dict[str, Tensor] = tree_map(lambda *leaves: torch.stack(leaves), *drawn)
        self._finite = torch.ones(len(self.members), dtype=torch.bool, device=self.device)
        for i in range(len(parts)):
            for player in self.objective.players:
                # a player with more steps sees the minibatches that come next
                for j in range(i, i + player.steps):
                    part = parts[j % len(parts)]
                    x, draws = images[order[part]] / scale, slice_noise(noise, part, j % len(parts))
                    losses = self._losses(player.name, x, draws)
                    self.optimisers[player.name].step(losses.sum())
                    self._finite &= losses.detach().isfinite()
        self.epoch += 1
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        share = (time.perf_counter() - started) / len(self.members)
        for member in self.members:
            self.seconds[member.trial] += share
            self.trained[member.trial] += share

    def diverged(self) -> list[Member]:
        """Members whose loss or weights were not finite in the last epoch."""
        finite = self._finite.clone()
        for leaf in self._owned(list(self.parameters)):
            finite &= leaf.detach().flatten(1).isfinite().all(1)
        return [member for member, good in zip(self.members, finite.tolist(), strict=True) if not good]

    def drop(self, gone: Sequence[Member]) -> None:
        """Take members out of the stack; the others keep their weights and moments."""
        kept = [i for i, member in enumerate(self.members) if member not in gone]
        self.members = [self.members[i] for i in kept]
        if not kept:
            return
        index = torch.tensor(kept, device=self.device)
        moments = {name: optimiser.moments(lambda leaf: leaf[index]) for name, optimiser in self.optimisers.items()}
        self.parameters = tree_map(lambda leaf: leaf.detach()[index].requires_grad_(), self.parameters)
        self.constants = tree_map(lambda leaf: leaf[index], self.constants)
        self.optimisers = self._optimisers(moments)

    def one(self, index: int) -> dict[str, dict[str, Tensor]]:
        """Parameters of one member."""
        chosen: dict[str, dict[str, Tensor]] = tree_map(lambda leaf: leaf.detach()[index], self.parameters)
        return chosen

    def measure(self, index: int, splits: tuple[str, ...]) -> dict[str, Any]:
        """A member's metrics, without its progress."""
        return self.evaluation.measure(self.objective, self.one(index), self.members[index], splits)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, as tensors and plain values."""
        return {
            "format": FORMAT,
            "members": [m.trial for m in self.members],
            "epoch": self.epoch,
            "precision": str(self.objective.precision).removeprefix("torch."),
            "parameters": tree_map(lambda leaf: leaf.detach(), self.parameters),
            "optimisers": {name: optimiser.moments() for name, optimiser in self.optimisers.items()},
            "seconds": dict(self.seconds),
            "trained": dict(self.trained),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`; members that are not in it have ended."""
        self.drop([m for m in self.members if m.trial not in state["members"]])
        self.objective.precision = getattr(torch, state["precision"])
        if self.members:
            self.parameters = tree_map(lambda leaf: leaf.to(self.device).requires_grad_(), state["parameters"])
            self.optimisers = self._optimisers(tree_map(lambda leaf: leaf.to(self.device), state["optimisers"]))
        self.epoch, self.seconds, self.trained = state["epoch"], dict(state["seconds"]), dict(state["trained"])


def run(
    members: Sequence[Member],
    evaluation: Evaluation,
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
    pack = Pack(members, evaluation)
    last, every = members[0].epochs, members[0].evaluate_every
    checkpoints = folder / "packs" / pack_name(members) if folder else None
    rows: Rows = []
    if checkpoints and (found := _newest(checkpoints, note)):
        pack.restore(found)
        rows = found["rows"]
        yield rows
    while pack.members and pack.epoch < last:
        rows = []
        names = stopped()
        if halted := [m for m in pack.members if m.trial in names]:
            rows += [_measured(pack, m, Status.STOPPED, folder) for m in halted]
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
            row = _measured(pack, member, Status.DONE if ending else Status.RUNNING, folder)
            rows.append(row)
            if row["status"] == Status.FAILED:
                failed.append(member)
        if failed:
            pack.drop(failed)
        if checkpoints:
            save({**pack.state(), "rows": rows}, checkpoints / f"epoch-{pack.epoch:06d}.pt")
            for old in sorted(checkpoints.glob("epoch-*.pt"))[:-_KEPT]:
                old.unlink()
        yield rows


def _measured(pack: Pack, member: Member, status: Status, folder: Path | None) -> dict[str, Any]:
    """A member's row; where its status is final, with the test split, its weights and its samples."""
    started, index = time.perf_counter(), pack.members.index(member)
    final = status in (Status.DONE, Status.STOPPED)
    try:
        metrics = pack.measure(index, ("validation", "test") if final else ("validation",))
    except torch.OutOfMemoryError:
        raise
    except (ArithmeticError, RuntimeError, ValueError) as error:
        # this member's numbers, not the machine: the others of its pack go on
        status = Status.FAILED
        why = f"{type(error).__name__}: {error}"
        metrics = pack.evaluation.failed(member, ("validation", "test"), why)
    pack.seconds[member.trial] += time.perf_counter() - started
    row = _row(pack, member, metrics, status)
    if status in (Status.DONE, Status.STOPPED) and folder:
        row["checkpoint"] = _keep(pack, index, folder)
    return row


def opened(folder: Path, trial: str, root: str | None = None) -> Pack:
    """An ended member of a run folder with its weights, as a pack of one, to be measured and sampled anew.

    Args:
        root: of the data's files, as `gimtune.data.load` takes it.

    Raises:
        FileNotFoundError: it has no weights there: it has not ended, or is dominated and they were dropped.
        ValueError: they are of another format.
    """
    path = folder / "members" / f"{trial}.pt"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no weights; those of members that have ended and are not dominated are kept")
    kept = torch.load(path, weights_only=True, map_location="cpu")
    if kept.get("format") != FORMAT:
        raise ValueError(f"{path}: format {kept.get('format')}; this version reads {FORMAT}")
    member, device = Member.from_json(kept["member"]), default_device()
    images = data.load(root=root, **member.data)
    network: fid.Features
    if member.metrics["fid_features"] == "inception":
        network = fid.Inception(member.metrics["inception_weights"], device)
    else:
        network = fid.classifier(images, folder / "features", device)
    pack = Pack([member], Evaluation(images, network, device))
    pack.parameters = tree_map(lambda leaf: leaf.to(device)[None].requires_grad_(), kept["parameters"])
    return pack


def pack_name(members: Sequence[Member]) -> str:
    """A pack's name in every run: that of its first member and their number."""
    return f"{members[0].trial}-{len(members)}"


def reached(checkpoints: Path) -> int:
    """The epoch of a pack's newest checkpoint by its name, readable or not; 0 without one."""
    return max((int(path.stem.removeprefix("epoch-")) for path in checkpoints.glob("epoch-*.pt")), default=0)


def save(state: dict[str, Any], path: Path) -> None:
    """`torch.save` that leaves the old file or the new one, never half of either."""
    with replacing(path) as temporary, temporary.open("wb") as handle:
        # through a handle: by a name torch reports a full disk as a RuntimeError of its zip writer
        torch.save(state, handle)


def _newest(checkpoints: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
    for path in sorted(checkpoints.glob("epoch-*.pt"), reverse=True):
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:  # torch raises a different type for every way a file can be cut
            note(f"{path}: cannot be read ({type(error).__name__}); going on from the one before")
            continue
        if state.get("format") == FORMAT:
            return state
        note(f"{path}: format {state.get('format')}; this version writes {FORMAT}")
    return None


def _row(pack: Pack, member: Member, metrics: dict[str, Any], status: Status) -> dict[str, Any]:
    images = len(pack.evaluation.images["train"]) * pack.epoch
    trained = pack.trained[member.trial]
    error = next(iter(metrics["reasons"].values())) if status in (Status.DIVERGED, Status.FAILED) else None
    return summarise(
        {
            "trial": member.trial,
            "epoch": pack.epoch,
            "status": str(status),
            "error": error,
            "diverged": float(status is Status.DIVERGED),
            "seconds": pack.seconds[member.trial],
            "examples_per_second": images / trained if trained else math.nan,
            **metrics,
        }
    )


def _keep(pack: Pack, index: int, folder: Path) -> str:
    member = pack.members[index]
    parameters = pack.one(index)
    relative = Path("members") / f"{member.trial}.pt"
    # clones: a slice of a stack would be saved with the whole stack behind it
    weights = tree_map(lambda leaf: leaf.clone().cpu(), parameters)
    save({"format": FORMAT, "member": member.to_json(), "parameters": weights}, folder / relative)
    images = pack.evaluation.samples(pack.objective, parameters, member, 64)
    _save_grid(images, folder / "samples" / f"{member.trial}.png")
    # rows of images, and below each what the decoder makes of their codes
    pairs = pack.evaluation.reconstructions(pack.objective, parameters, member, 32)
    rows = pairs.unflatten(1, (4, 8)).transpose(0, 1).flatten(0, 2)
    _save_grid(rows, folder / "samples" / f"{member.trial}-reconstructed.png")
    codes, labels = pack.evaluation.codes(pack.objective, parameters, member, _CODES)
    _save_codes(codes, labels, folder / "samples" / f"{member.trial}-latents.npz")
    return str(relative)


def _save_grid(images: Tensor, path: Path) -> None:
    from PIL import Image

    # a frame around each: digits fill their squares, and would run into each other
    images = torch.nn.functional.pad(images, (1, 1, 1, 1), value=0.3)
    count, colours, height, width = images.shape
    side = math.isqrt(count)
    grid = images[: side * side].reshape(side, side, colours, height, width).permute(0, 3, 1, 4, 2)
    pixels = (grid.reshape(side * height, side * width, colours) * 255).round().clamp(0, 255).byte().cpu().numpy()
    zoom = max(1, 448 // (side * height))
    picture = Image.fromarray(pixels[..., 0] if colours == 1 else pixels)
    with replacing(path) as temporary:
        picture.resize((side * width * zoom, side * height * zoom), Image.Resampling.NEAREST).save(temporary)


def _save_codes(codes: Tensor, labels: Tensor, path: Path) -> None:
    # half precision: for a map, and there may be ten thousand of them
    halves, classes = codes.half().cpu().numpy(), labels.to(torch.int16).cpu().numpy()
    with replacing(path) as temporary:
        np.savez_compressed(temporary, codes=halves, labels=classes)
