"""Images of black and white pixels, drawn from grey levels: what MNIST's published log-likelihoods are stated for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gimtune.data.dataset import SPLITS, Dataset

#: ``fixed``: Larochelle & Murray 2011; ``dynamic``: Salakhutdinov & Murray 2008, Burda et al. 2016.
WAYS = ("fixed", "dynamic")
_ROWS = 4096


def binarized(data: Dataset, way: str, seed: int) -> Dataset:
    """Every pixel white with its grey level for a probability, in every split: a draw that depends on the seed alone.

    Where the way is ``dynamic`` the grey training images are kept beside, for training to draw anew from.

    Raises:
        ValueError: no such way, or vectors.
    """
    if way not in WAYS:
        raise ValueError(f"data.binarized={way}: allowed are {', '.join(WAYS)}, and null")
    if data.vectors:
        raise ValueError(f"data.binarized={way}: {data.name} has vectors, and it is of images")
    images = {s: _drawn(data.images[s], data.scale, np.random.default_rng([seed, i])) for i, s in enumerate(SPLITS)}
    grey = data.images["train"] if way == "dynamic" else None
    note = f"{data.name} is binarized, for likelihoods: distances compare a decoder's means with black and white pixels"
    digest, notes = f"{data.digest}.{way}", (*data.notes, note)
    return replace(data, images=images, grey=grey, binarized=way, digest=digest, notes=notes)


def _drawn(images: NDArray[Any], scale: float, source: np.random.Generator) -> NDArray[np.uint8]:
    found = np.empty_like(images)
    for start in range(0, len(images), _ROWS):
        part = images[start : start + _ROWS]
        white = source.random(part.shape, dtype=np.float32) < part / np.float32(scale)
        found[start : start + _ROWS] = np.where(white, np.uint8(scale), np.uint8(0))
    return found
