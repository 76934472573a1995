"""MNIST and Fashion-MNIST from their IDX files, packed or not, checked by the published content."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gimtune.data.dataset import Dataset, data_set, from_splits, stratified
from gimtune.files import cache

_IDX = {
    "mnist": (
        "MNIST",
        {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    ),
    "fashion_mnist": (
        "FashionMNIST",
        {
            "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
            "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
            "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ),
}
_DEBIAN = {"fashion_mnist": Path("/usr/share/dataset-fashion-mnist")}


@data_set((1, 28, 28))
def mnist(seed: int, root: str | None = None, download: bool = True) -> Dataset:
    """70,000 handwritten digits of 28 x 28 pixels: 50,000 and 10,000 of the training file, and the test file.

    Source: LeCun et al. 1998.
    """
    return _of_files("mnist", seed, root, download)


@data_set((1, 28, 28))
def fashion_mnist(seed: int, root: str | None = None, download: bool = True) -> Dataset:
    """70,000 pictures of clothes in ten classes, 28 x 28 pixels, split as MNIST is.

    Source: Xiao et al. 2017.
    """
    return _of_files("fashion_mnist", seed, root, download)


def _of_files(name: str, seed: int, root: str | None, download: bool) -> Dataset:
    """From a folder with IDX files; then ``$GIMTUNE_DATA``, the cache, Debian's folder and torchvision are tried."""
    files = _idx_files(name, root, download)
    images, labels = files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"]
    train, validation = stratified(labels, 10_000, seed)
    return from_splits(
        name,
        {"train": images[train], "validation": images[validation], "test": files["t10k-images-idx3-ubyte"]},
        {"train": labels[train], "validation": labels[validation], "test": files["t10k-labels-idx1-ubyte"]},
        255.0,
    )


def find(name: str, root: str | None) -> Path | None:
    """The folder that holds a data set's IDX files, or ``None``."""
    folder, sums = _IDX[name]
    places = [Path(p) for p in (root, os.environ.get("GIMTUNE_DATA")) if p]
    for place in [*places, cache()]:
        for candidate in (place, place / folder / "raw", place / folder, place / "raw"):
            # MNIST and Fashion-MNIST share their file names: a folder that names the other one is not it
            if all(_present(candidate, file) for file in sums) and _is_for(candidate, folder):
                return candidate
    debian = _DEBIAN.get(name)
    return debian if debian and all(_present(debian, file) for file in sums) else None


def _is_for(candidate: Path, folder: str) -> bool:
    others = {f for f, _ in _IDX.values()} - {folder}
    # its own name and its parent's: what stands further up may be called anything
    return not others & set(candidate.parts[-2:])


def _present(folder: Path, file: str) -> bool:
    return (folder / file).is_file() or (folder / f"{file}.gz").is_file()


def _idx_files(name: str, root: str | None, download: bool) -> dict[str, NDArray[np.uint8]]:
    folder, sums = _IDX[name]
    place = find(name, root)
    if place is None:
        if not download:
            raise FileNotFoundError(
                f"data={name}: no IDX files in data.root={root}, $GIMTUNE_DATA or {cache()}, and data.download=false"
            )
        place = _download(folder, root)
    return {file: _read(place, file, digest) for file, digest in sums.items()}


def _download(folder: str, root: str | None) -> Path:
    from torchvision import datasets

    try:
        getattr(datasets, folder)(str(cache()), download=True)
    except (OSError, RuntimeError) as error:
        name = next(n for n, (f, _) in _IDX.items() if f == folder)
        raise FileNotFoundError(
            f"data={name}: no IDX files in data.root={root}, $GIMTUNE_DATA or {cache()}, and they cannot be downloaded "
            f"({error})"
        ) from None
    return cache() / folder / "raw"


def _read(folder: Path, file: str, digest: str) -> NDArray[np.uint8]:
    plain = folder / file
    try:
        raw = plain.read_bytes() if plain.is_file() else gzip.decompress((folder / f"{file}.gz").read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{folder / file}.gz: cannot be unpacked ({error})") from None
    if hashlib.md5(raw, usedforsecurity=False).hexdigest() != digest:
        raise ValueError(f"{folder / file}: its content is not the published one (MD5 of the unpacked bytes differs)")
    rank = raw[3]
    shape = np.frombuffer(raw, ">u4", rank, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)
