"""Data sets of torchvision, by the names of its classes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gimtune.data.arrays import said
from gimtune.data.dataset import DATASETS, Dataset, data_set
from gimtune.data.encoded import is_grey, pixels_of
from gimtune.data.kept import Batches, Listing, keep
from gimtune.data.own import shape_of
from gimtune.files import cache

#: What splits are called by torchvision.
_CALLED = {"train": ("train", "trainval"), "validation": ("val", "valid"), "test": ("test",)}
_BATCH = 500


@DATASETS.register
def torchvision(
    seed: int,
    dataset: str,
    root: str | None = None,
    download: bool = False,
    size: int | list[int] | None = None,
    subset: str | None = None,
) -> Dataset:
    """Any data set of images in torchvision.datasets, such as CIFAR100 or EMNIST (``subset`` is the latter's split).

    Splits that it does not have are taken from the training images, or from all. ``size`` is as that of images.
    """
    return _kept("torchvision", seed, dataset, root, download, shape_of(size), subset)


@data_set((3, 32, 32))
def cifar10(seed: int, root: str | None = None, download: bool = False) -> Dataset:
    """60,000 photographs of ten classes, 32 x 32 pixels in colour.

    Source: Krizhevsky 2009.
    """
    return _kept("cifar10", seed, "CIFAR10", root, download)


@data_set((3, 32, 32))
def svhn(seed: int, root: str | None = None, download: bool = False) -> Dataset:
    """99,289 house numbers, cut to one digit, 32 x 32 pixels in colour.

    Source: Netzer et al. 2011.
    """
    return _kept("svhn", seed, "SVHN", root, download)


@data_set((1, 28, 28))
def kmnist(seed: int, root: str | None = None, download: bool = False) -> Dataset:
    """70,000 handwritten hiragana of ten classes, 28 x 28 pixels.

    Source: Clanuwat et al. 2018.
    """
    return _kept("kmnist", seed, "KMNIST", root, download)


def places(root: str | None) -> list[Path]:
    """Folders in which the files of data sets are looked for."""
    return [Path(place) for place in (root, os.environ.get("GIMTUNE_DATA"), cache()) if place]


def _kept(
    name: str,
    seed: int,
    kind: str,
    root: str | None,
    download: bool,
    shape: tuple[int, int] | None = None,
    subset: str | None = None,
) -> Dataset:
    where = f"data.dataset={kind}"
    source = [kind, shape, subset, [str(place.resolve()) for place in places(root)]]
    return keep(name, where, source, seed, lambda: _listed(_made(name, kind, root, download, subset), where, shape))


def _made(name: str, kind: str, root: str | None, download: bool, subset: str | None) -> dict[str, Any]:
    """torchvision's own data sets by split; where it has one alone, under ``train``."""
    from torchvision import datasets

    known = getattr(datasets, kind, None)
    if not (inspect.isclass(known) and issubclass(known, datasets.VisionDataset)):
        every = [n for n, c in vars(datasets).items() if inspect.isclass(c) and issubclass(c, datasets.VisionDataset)]
        close = get_close_matches(kind, every) or sorted(every)[:5]
        raise ValueError(f"data.dataset={kind}: torchvision has none of that name; it has {', '.join(close)}, ...")
    takes = inspect.signature(known.__init__).parameters
    why = ""
    for place in places(root):
        try:
            return _splits(known, kind, takes, subset, place, False)
        except (OSError, RuntimeError) as error:
            why = why or said(error).partition(" You can use")[0]
    if not download:
        told = ", ".join(map(str, places(root)))
        raise FileNotFoundError(f"data={name}: no {kind} in {told} ({why}); data.download=true fetches it")
    try:
        return _splits(known, kind, takes, subset, Path(root) if root else cache(), True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"data={name}: torchvision's {kind} cannot be downloaded ({said(error)})") from None


def _splits(
    known: Any, kind: str, takes: Mapping[str, Any], subset: str | None, place: Path, download: bool
) -> dict[str, Any]:
    options: dict[str, Any] = {} if subset is None else {"split": subset}
    if download and ("download" in takes or kind == "EMNIST"):
        options["download"] = True
    if "train" in takes or kind == "EMNIST":
        return {split: known(str(place), train=split == "train", **options) for split in ("train", "test")}
    if "split" not in takes or subset is not None:
        return {"train": known(str(place), **options)}
    found: dict[str, Any] = {}
    for split, words in _CALLED.items():
        for word in words:
            if split not in found:
                try:
                    found[split] = known(str(place), split=word, **options)
                except ValueError:  # it knows no split of that name
                    continue
    if "train" not in found:
        raise ValueError(f"data.dataset={kind}: it has no split that is called train; data.subset names another")
    return found


def _listed(made: Mapping[str, Any], where: str, shape: tuple[int, int] | None) -> Listing:
    sizes: dict[tuple[int, int], None] = {}
    labels: list[tuple[Any, ...]] = []
    grey = True
    for picture, label in _every(made):
        if not hasattr(picture, "mode"):
            raise ValueError(f"{where}: its first is {type(picture).__name__}; allowed are data sets of images")
        grey = grey and is_grey(picture)
        sizes[picture.size] = None
        if shape is None and len(sizes) > 1:
            told = " and ".join(f"{w} x {h}" for w, h in sizes)
            raise ValueError(f"{where}: images of {told}; data.size=N makes them one size")
        labels.append(_label(where, label))
    if not sizes:
        raise ValueError(f"{where}: it has no images")
    height, width = shape or next(iter(sizes))[::-1]

    def batches() -> Batches:
        pixels: list[NDArray[np.uint8]] = []
        for i, (picture, _) in enumerate(_every(made), 1):
            pixels.append(pixels_of(picture, not grey, (width, height)))
            if len(pixels) == _BATCH or i == len(labels):
                yield np.arange(i - len(pixels), i), np.stack(pixels)
                pixels.clear()

    first = next(iter(made.values()))
    names = [name for name in getattr(first, "attr_names", ()) if name] or [f"label{k}" for k in range(len(labels[0]))]
    columns = dict(zip(names, (np.array(values) for values in zip(*labels, strict=True)), strict=True))
    splits = np.repeat([*made], [len(one) for one in made.values()])
    return Listing(splits, columns, (1 if grey else 3, height, width), batches)


def _every(made: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    return (one[i] for one in made.values() for i in range(len(one)))


def _label(where: str, label: Any) -> tuple[Any, ...]:
    """A label, or one of several columns, as plain values."""
    plain = label.tolist() if hasattr(label, "tolist") else label
    values = tuple(plain) if isinstance(plain, list | tuple) else (plain,)
    if not all(isinstance(value, int | str) for value in values):
        raise ValueError(f"{where}: its labels are {type(label).__name__}; allowed are classes")
    return values
