"""Pictures and codes of a member that has ended, as files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gimtune.files import replacing


def save_grid(images: Tensor, path: Path) -> None:
    """Images (n, *image) in [0, 1] as the largest square grid of them, a PNG."""
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


def save_codes(codes: Tensor, labels: Tensor, path: Path) -> None:
    """Codes (n, d) and labels (n,), or the first column of (n, k), as an NPZ."""
    # half precision: for a map, and there may be ten thousand of them
    first = labels if labels.ndim == 1 else labels[:, 0]
    halves, classes = codes.half().cpu().numpy(), first.to(torch.int16).cpu().numpy()
    with replacing(path) as temporary:
        np.savez_compressed(temporary, codes=halves, labels=classes)
