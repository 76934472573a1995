"""Data sets of torchvision, by the names of its classes."""

from __future__ import annotations

import inspect
import os
from difflib import get_close_matches
from typing import Any

import numpy as np

from gimtune.data.dataset import DATASETS, Dataset, data_set
from gimtune.data.own import Found, in_splits
from gimtune.files import cache


@DATASETS.register
def torchvision(
    seed: int, dataset: str, root: str | None = None, download: bool = True, subset: str | None = None
) -> Dataset:
    """Any data set of images in torchvision.datasets, such as CIFAR100 or EMNIST (``subset`` is its ``split``).

    Its validation images are taken from the training images where it has none of its own.
    """
    return _made("torchvision", seed, dataset, root, download, subset)


@data_set((3, 32, 32))
def cifar10(seed: int, root: str | None = None, download: bool = True) -> Dataset:
    """60,000 photographs of ten classes, 32 x 32 pixels in colour.

    Source: Krizhevsky 2009.
    """
    return _made("cifar10", seed, "CIFAR10", root, download)


@data_set((3, 32, 32))
def svhn(seed: int, root: str | None = None, download: bool = True) -> Dataset:
    """99,289 house numbers, cut to one digit, 32 x 32 pixels in colour.

    Source: Netzer et al. 2011.
    """
    return _made("svhn", seed, "SVHN", root, download)


@data_set((1, 28, 28))
def kmnist(seed: int, root: str | None = None, download: bool = True) -> Dataset:
    """70,000 handwritten hiragana of ten classes, 28 x 28 pixels.

    Source: Clanuwat et al. 2018.
    """
    return _made("kmnist", seed, "KMNIST", root, download)


def _made(name: str, seed: int, kind: str, root: str | None, download: bool, subset: str | None = None) -> Dataset:
    from torchvision import datasets

    known = getattr(datasets, kind, None)
    if not (inspect.isclass(known) and issubclass(known, datasets.VisionDataset)):
        every = [n for n, c in vars(datasets).items() if inspect.isclass(c) and issubclass(c, datasets.VisionDataset)]
        close = get_close_matches(kind, every) or sorted(every)[:5]
        raise ValueError(f"data.dataset={kind}: torchvision has none of that name; it has {', '.join(close)}, ...")
    takes = inspect.signature(known.__init__).parameters
    options: dict[str, dict[str, Any]]
    if "train" in takes or kind == "EMNIST":
        options = {"train": {"train": True}, "test": {"train": False}}
    elif "split" in takes:
        options = {"train": {"split": "train"}, "test": {"split": "test"}}
    else:
        raise ValueError(f"data.dataset={kind}: it has no splits that are called train and test")
    if subset is not None:
        options = {split: {**given, "split": subset} for split, given in options.items()}
    place = root or os.environ.get("GIMTUNE_DATA") or str(cache())
    make: Any = known
    found = {}
    for split, given in options.items():
        try:
            made = make(place, **given, **({"download": download} if "download" in takes or kind == "EMNIST" else {}))
        except (OSError, RuntimeError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise FileNotFoundError(f"data={name}: torchvision's {kind} is not to be had in {place} ({why})") from None
        found[split] = _arrays(kind, made)
    return in_splits(name, f"data.dataset={kind}", found, seed)


def _arrays(kind: str, made: Any) -> Found:
    images, labels = [], []
    size = None
    for picture, label in (made[i] for i in range(len(made))):
        pixels = np.asarray(picture)
        size = size or pixels.shape
        if pixels.shape != size:
            raise ValueError(f"data.dataset={kind}: images of {size} and of {pixels.shape}; allowed is one size")
        if not isinstance(label, int | np.integer):
            raise ValueError(f"data.dataset={kind}: its labels are {type(label).__name__}; allowed are classes")
        images.append(pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
        labels.append(int(label))
    stacked = np.stack(images)
    return Found(stacked[:, None] if stacked.ndim == 3 else stacked, np.array(labels))
