"""What is kept of a member that has ended, as files: weights, pictures and codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gimtune.files import replacing
from gimtune.training.checkpoints import save
from gimtune.training.pack import FORMAT, Pack

if TYPE_CHECKING:
    from gimtune.training.loop import Measurements

#: Validation images whose codes are kept, for a map of them.
_CODES = 1000
#: Vectors that are shown with their reconstructions.
_JOINED = 200


def keep_member(
    pack: Pack, evaluation: Measurements, index: int, folder: Path, row: dict[str, Any], write: Callable[..., None]
) -> None:
    """Its weights with its last row, its samples and its codes.

    Args:
        write: is given functions that write files, and what they take.
    """
    member = pack.members[index]
    parameters = pack.one(index, best=True)
    # clones: a slice of a stack would be saved with the whole stack behind it
    weights = tree_map(lambda leaf: leaf.clone(), parameters)
    kept = {"format": FORMAT, "member": member.to_json(), "parameters": weights, "row": json.dumps(row)}
    write(save, kept, folder / row["checkpoint"])
    whose = pack.objective, parameters, member
    shown = folder / "samples" / f"{member.trial}.png", folder / "samples" / f"{member.trial}-reconstructed.png"
    if pack.data.vectors:
        write(save_cloud, pack.data.scaled("test", slice(_CODES)), evaluation.samples(*whose, _CODES), shown[0])
        real, made = evaluation.reconstructions(*whose, _CODES)
        write(save_cloud, real, made, shown[1], _JOINED)
    else:
        write(save_grid, evaluation.samples(*whose, 64).unflatten(0, (8, 8)), shown[0])
        # rows of images, and below each what the decoder makes of their codes
        pairs = evaluation.reconstructions(*whose, 32)
        wide = min(8, pairs.shape[1])  # a split may have ten images
        whole = pairs[:, : pairs.shape[1] // wide * wide].unflatten(1, (-1, wide))
        write(save_grid, whole.transpose(0, 1).flatten(0, 1), shown[1])
        for name, grid in evaluation.pictures(*whose).items():
            write(save_grid, grid, folder / "samples" / f"{member.trial}-{name}.png")
    codes, labels = evaluation.codes(*whose, _CODES)
    write(save_codes, codes, labels, folder / "samples" / f"{member.trial}-latents.npz")


def save_grid(images: Tensor, path: Path) -> None:
    """Images (rows, columns, *image) in [0, 1] as a PNG of them."""
    from PIL import Image

    # a frame around each: digits fill their squares, and would run into each other
    images = torch.nn.functional.pad(images, (1, 1, 1, 1), value=0.3)
    rows, columns, colours, height, width = images.shape
    grid = images.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, colours)
    pixels = (grid * 255).round().clamp(0, 255).byte().cpu().numpy()
    zoom = max(1, 448 // max(rows * height, columns * width))
    picture = Image.fromarray(pixels[..., 0] if colours == 1 else pixels)
    with replacing(path) as temporary:
        picture.resize((columns * width * zoom, rows * height * zoom), Image.Resampling.NEAREST).save(temporary)


def save_cloud(real: Tensor, made: Tensor, path: Path, joined: int = 0) -> None:
    """Vectors (n, 1, 1, d) and made ones, (m, 1, 1, d), along the two main axes of the real ones, as a PNG.

    Args:
        joined: each made one belongs to a real one; so many pairs are shown, with a line between them.
    """
    from matplotlib.figure import Figure

    real, made = (values.flatten(1).double().cpu() for values in (real, made))
    middle = real.mean(0)
    axes = torch.linalg.svd(real - middle, full_matrices=False).Vh[:2]
    pairs = (real[:joined], made[:joined]) if joined else (real, made)
    flat = [((values - middle) @ axes.T).numpy() for values in pairs]
    # of one value alone: the other axis is their order
    flat = [np.column_stack([v, np.linspace(-1, 1, len(v))]) if v.shape[1] == 1 else v for v in flat]
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    plane = figure.subplots()
    if joined:
        plane.plot(*np.stack(flat).transpose(2, 0, 1), color="0.7", linewidth=0.6, zorder=0)
    for values, name in zip(flat, ("data", "reconstructed" if joined else "generated"), strict=True):
        plane.scatter(values[:, 0], values[:, 1], s=6, label=name, linewidths=0)
    low, high = flat[0].min(0), flat[0].max(0)
    room = 0.3 * (high - low)
    plane.set(xlim=(low[0] - room[0], high[0] + room[0]), ylim=(low[1] - room[1], high[1] + room[1]))
    plane.set(xlabel="first main axis of the data", ylabel="second")
    plane.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def save_codes(codes: Tensor, labels: Tensor, path: Path) -> None:
    """Codes (n, d) and labels (n,), or the first column of (n, k), as an NPZ."""
    # half precision: for a map, and there may be ten thousand of them
    first = labels if labels.ndim == 1 else labels[:, 0]
    halves, classes = codes.half().cpu().numpy(), first.to(torch.int16).cpu().numpy()
    with replacing(path) as temporary:
        np.savez_compressed(temporary, codes=halves, labels=classes)
