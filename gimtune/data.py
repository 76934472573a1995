"""Data sets as uint8 arrays in three fixed, disjoint, stratified splits. NumPy only: a driver need not load torch."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gimtune.files import cache

SPLITS = ("train", "validation", "test")

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
DATASETS = ("digits", *_IDX)


@dataclass(frozen=True)
class Dataset:
    """Images and labels by split.

    Attributes:
        images: uint8, (n, c, h, w) each; ``scale`` is their white.
        labels: int64, (n,) each.
        digest: of the content and of the split.
        other: images of another data set that stand for the second domain; see `second`.
    """

    name: str
    images: Mapping[str, NDArray[np.uint8]]
    labels: Mapping[str, NDArray[np.int64]]
    scale: float
    digest: str
    other: Mapping[str, NDArray[np.uint8]] | None = None

    @property
    def image(self) -> tuple[int, int, int]:
        """Colours, height, width."""
        colours, height, width = self.images["train"].shape[1:]
        return colours, height, width

    @property
    def classes(self) -> int:
        """Number of labels."""
        return int(self.labels["train"].max()) + 1

    @property
    def first_half(self) -> int:
        """How many training images, from the first on, stand for the first of two domains."""
        return len(self.images["train"]) // 2

    def second(self, split: str) -> NDArray[np.uint8]:
        """Images of the second domain, uint8 (n, c, h, w): turned by a right angle and inverted, or another data set's.

        In training they come from the half that is not in the first domain, so that no pair exists; in the other splits
        from all images.
        """
        start = self.first_half if split == "train" else 0
        if self.other is not None:
            return self.other[split][start:]
        turned = np.rot90(self.images[split][start:], axes=(2, 3))
        return np.ascontiguousarray(np.uint8(self.scale) - turned)


def load(name: str, root: str | None = None, seed: int = 0, download: bool = True, pair: str | None = None) -> Dataset:
    """A data set in its splits: 60/20/20 % (digits), or 50,000/10,000 of the training file and the test file.

    Args:
        root: a folder with IDX files, packed or not; then ``$GIMTUNE_DATA``, the cache, Debian's folder and, where
            ``download`` allows it, torchvision's addresses are tried.
        seed: of the splits.
        pair: data set of the second domain; by default this one's images, turned and inverted.

    Raises:
        ValueError: no such data set, or files whose content is another.
        FileNotFoundError: the files are nowhere, and cannot be had.
    """
    if name not in DATASETS:
        raise ValueError(f"data.name={name!r}: allowed are {', '.join(DATASETS)}")
    if pair is not None and pair != name:
        other = load(pair, root, seed, download)
        dataset = load(name, root, seed, download)
        if other.image != dataset.image:
            raise ValueError(f"data.pair={pair}: its images are {other.image}, those of {name} {dataset.image}")
        return replace(dataset, other=other.images, digest=f"{dataset.digest}-{other.digest}")
    if name == "digits":
        from sklearn.datasets import load_digits

        flat, classes = load_digits(return_X_y=True)
        pictures, labels = flat.reshape(-1, 1, 8, 8).astype(np.uint8), classes.astype(np.uint8)
        rest, test = _stratified(labels, 0.2, seed)
        train, validation = (rest[part] for part in _stratified(labels[rest], 0.25, seed + 1))
        parts = {"train": train, "validation": validation, "test": test}
        return _dataset(
            name, {s: pictures[i] for s, i in parts.items()}, {s: labels[i] for s, i in parts.items()}, 16.0
        )
    files = _idx_files(name, root, download)
    images, labels = files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"]
    train, validation = _stratified(labels, 10_000, seed)
    return _dataset(
        name,
        {"train": images[train], "validation": images[validation], "test": files["t10k-images-idx3-ubyte"]},
        {"train": labels[train], "validation": labels[validation], "test": files["t10k-labels-idx1-ubyte"]},
        255.0,
    )


def _dataset(
    name: str, images: dict[str, NDArray[np.uint8]], classes: dict[str, NDArray[np.uint8]], scale: float
) -> Dataset:
    images = {s: np.ascontiguousarray(a if a.ndim == 4 else a[:, None]) for s, a in images.items()}
    labels = {s: np.ascontiguousarray(a, dtype=np.int64) for s, a in classes.items()}
    content = hashlib.sha256()
    for split in SPLITS:
        content.update(images[split].tobytes())
        content.update(labels[split].tobytes())
    return Dataset(name, images, labels, scale, content.hexdigest()[:16])


def _stratified(labels: NDArray[np.uint8], held: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.model_selection import train_test_split

    kept, out = train_test_split(np.arange(len(labels)), test_size=held, random_state=seed, stratify=labels)
    return np.sort(kept), np.sort(out)


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
