"""A data set: uint8 images with labels, in three fixed, disjoint splits. NumPy only: a driver need not load torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gimtune import parts

SPLITS = ("train", "validation", "test")
#: Options that say where a data set is and not what it is: they are no part of a member's identity.
WHERE = ("root", "download")


class Mapped(Mapping[str, NDArray[Any]]):
    """Arrays by split in a folder of the cache, read-only, and read from the disk where they are looked at.

    Pickled it is the folder's path, so that all processes of a machine share one copy in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, NDArray[Any]] = {}

    def __getitem__(self, split: str) -> NDArray[Any]:
        if split not in SPLITS:
            raise KeyError(split)
        if split not in self._open:
            # a plain array: a memmap's own class would be copied where it is sent
            self._open[split] = np.asarray(np.load(self.folder / f"{split}.npy", mmap_mode="r"))
        return self._open[split]

    def __iter__(self) -> Iterator[str]:
        return iter(SPLITS)

    def __len__(self) -> int:
        return len(SPLITS)

    def __reduce__(self) -> tuple[type[Mapped], tuple[Path]]:
        return Mapped, (self.folder,)


@dataclass(frozen=True)
class Dataset:
    """Images and labels by split; or vectors, which are images of one row and any real values.

    Attributes:
        images: uint8, (n, c, h, w) each, ``scale`` being their white; of vectors float32, (n, 1, 1, d), at scale 1.
        labels: int64, (n,) each, or (n, k) for k columns of attributes or factors; all zero where there are none.
        digest: of the content and of the split.
        other: images of another data set that stand for the second domain; see `second`.
        targets: names of the columns of labels.
        binarized: how pixels were made black or white, where they were (`gimtune.data.binarized`).
        grey: training images before they were, where a training draws its own from them.
        notes: what a user should know of how it was read.
    """

    name: str
    images: Mapping[str, NDArray[Any]]
    labels: Mapping[str, NDArray[np.int64]]
    scale: float
    digest: str
    other: Mapping[str, NDArray[np.uint8]] | None = None
    targets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    binarized: str | None = None
    grey: NDArray[np.uint8] | None = None

    @property
    def image(self) -> tuple[int, int, int]:
        """Colours, height, width."""
        colours, height, width = self.images["train"].shape[1:]
        return colours, height, width

    @property
    def vectors(self) -> bool:
        """Whether they are vectors of real values, and not images in [0, 1]."""
        return bool(self.images["train"].dtype == np.float32)

    @property
    def classes(self) -> int:
        """Number of classes, of the column with most; one where the images have no labels."""
        return int(self.labels["train"].max()) + 1

    @property
    def described(self) -> str:
        """Name, number and shape of the images, classes and splits, in a line."""
        counts = {split: len(images) for split, images in self.images.items()}
        colours, height, width = self.image
        if self.vectors:
            content = f"vectors of {width} values"
        else:
            kind = "grey" if colours == 1 else "in colour" if colours == 3 else f"in {colours} channels"
            content = f"images of {height} x {width}, {kind}"
        several = len(self.targets) > 1
        labels = (
            f"{len(self.targets)} labels" if several else f"{self.classes} classes" if self.classes > 1 else "no labels"
        )
        parts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
        return f"{self.name}: {sum(counts.values()):,} {content}, {labels}: {parts}"

    @cached_property
    def reference(self) -> str:
        """A hash of the images that generated ones are compared with: those of the validation and the test split."""
        content = hashlib.sha256()
        for split in ("validation", "test"):
            content.update(np.ascontiguousarray(self.images[split]).data)
        return content.hexdigest()[:8]

    @property
    def mapped(self) -> bool:
        """Whether its images are files of this machine, and take no memory that is a process' own."""
        return isinstance(self.images, Mapped)

    @property
    def nbytes(self) -> int:
        """Bytes of all of its images: those of a second domain and those that training draws from too."""
        sets = [self.images, self.other or {}]
        return sum(array.nbytes for own in sets for array in own.values()) + (
            0 if self.grey is None else self.grey.nbytes
        )

    def carried(self) -> Dataset:
        """The same with arrays in place of files, to be sent to machines that do not have them."""
        other = None if self.other is None else dict(self.other)
        return replace(self, images=dict(self.images), other=other)

    @property
    def first_half(self) -> int:
        """How many training images, from the first on, stand for the first of two domains."""
        return len(self.images["train"]) // 2

    def second(self, split: str) -> NDArray[np.uint8]:
        """Images of the second domain, uint8 (n, c, h, w): turned by a right angle and inverted, or another data set's.

        In training they come from the half that is not in the first domain, so that no pair exists; in the other splits
        from all images.
        """
        return self._second(split, slice(self.first_half if split == "train" else 0, None))

    def sources(self, split: str) -> NDArray[np.uint8]:
        """Images of the second domain that are translated to be compared with a split's, uint8 (n, c, h, w).

        Never those images turned, which a perfect translator turns back: for the test split those of the validation
        split, for that one those training images whose turned ones no member is trained on.
        """
        return self.second("validation") if split == "test" else self._second("train", slice(self.first_half))

    def _second(self, split: str, part: slice) -> NDArray[np.uint8]:
        if self.other is not None:
            return self.other[split][part]
        turned = np.rot90(self.images[split][part], axes=(2, 3))
        return np.ascontiguousarray(np.uint8(self.scale) - turned)


def from_splits(
    name: str,
    images: Mapping[str, NDArray[Any]],
    classes: Mapping[str, NDArray[np.integer[Any]]],
    scale: float = 1.0,
    targets: tuple[str, ...] = (),
) -> Dataset:
    """A data set of its splits: images uint8 (n, h, w) or (n, c, h, w), ``scale`` being white, and labels (n,).

    Labels are whole numbers or names, and are kept as 0 to k - 1 in their order. They may have several columns (n, k),
    whose names are ``targets``. In place of images it may be vectors, float32 (n, d), which are taken as they are.

    A split in the order of its classes is shuffled.

    Raises:
        ValueError: a split that is missing or empty, or arrays of another kind, shape or range.
    """
    given = {split: (images.get(split), classes.get(split)) for split in SPLITS}
    if missing := [split for split, (pictures, own) in given.items() if pictures is None or own is None]:
        raise ValueError(f"data={name}: the split {missing[0]} is missing; there are {', '.join(images)}")
    shape = {2: (slice(None), None, None), 3: (slice(None), None)}
    images = {s: np.ascontiguousarray(a[shape[a.ndim]] if a.ndim in shape else a) for s, a in images.items()}
    labels = {s: np.ascontiguousarray(a) for s, a in classes.items()}
    for split in SPLITS:
        if why := malformed(split, images, labels, scale):
            raise ValueError(f"data={name}: {why}")
    labels = _coded(labels)
    for split in SPLITS:
        first = labels[split] if labels[split].ndim == 1 else labels[split][:, 0]
        if first[0] < first[-1] and bool((np.diff(first) >= 0).all()):
            order = np.random.default_rng(0).permutation(len(labels[split]))
            images[split], labels[split] = images[split][order], labels[split][order]
    content = hashlib.sha256()
    for split in SPLITS:
        content.update(images[split].tobytes())
        content.update(labels[split].tobytes())
    if labels["train"].ndim == 2 and not targets:
        targets = tuple(f"label{k}" for k in range(labels["train"].shape[1]))
    return Dataset(name, images, labels, scale, content.hexdigest()[:16], targets=targets)


def _coded(labels: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.int64]]:
    """Labels as 0 to k - 1, column by column: those that are already are what they were."""
    whole = np.concatenate([labels[split] for split in SPLITS])
    columns = whole if whole.ndim == 2 else whole[:, None]
    codes = np.stack([np.unique(own, return_inverse=True)[1] for own in columns.T], 1).reshape(whole.shape)
    ends = np.cumsum([len(labels[split]) for split in SPLITS])[:-1]
    parts_of = (np.ascontiguousarray(part, dtype=np.int64) for part in np.split(codes, ends))
    return dict(zip(SPLITS, parts_of, strict=True))


def malformed(
    split: str, images: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[Any]], scale: float
) -> str | None:
    """What is wrong with a split, in words; ``None`` where nothing is."""
    pictures, own = images[split], labels[split]
    vectors = pictures.dtype == np.float32 and pictures.ndim == 4 and pictures.shape[1:3] == (1, 1)
    if not vectors and (pictures.dtype != np.uint8 or pictures.ndim != 4):
        return (
            f"{split} images are {pictures.dtype} {pictures.shape}; allowed are uint8 (n, h, w) or (n, c, h, w), and "
            "of vectors float32 (n, d)"
        )
    if not len(pictures):
        return f"the split {split} is empty"
    if pictures.shape[1:] != images["train"].shape[1:]:
        return f"{split} images are {pictures.shape[1:]}, those of train {images['train'].shape[1:]}"
    if own.ndim not in (1, 2) or len(own) != len(pictures):
        return f"{len(own)} labels of {len(pictures)} {split} images"
    if own.shape[1:] != labels["train"].shape[1:]:
        return f"{split} labels have {own.shape[1:]} columns, those of train {labels['train'].shape[1:]}"
    if own.dtype.kind not in "iuUSb":
        return f"{split} labels are {own.dtype}; allowed are whole numbers and names"
    if own.dtype.kind == "i" and own.min() < 0:
        return f"{split} labels begin at {own.min()}; allowed are whole numbers from 0"
    if vectors:
        return None if np.isfinite(pictures).all() else f"{split} vectors have values that are not finite"
    if pictures.max() > scale:
        return f"{split} images have pixels of {pictures.max()}, and white is {scale:g}"
    return None


def stratified(labels: NDArray[np.integer[Any]], held: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the labels (n,) that are kept and held out: a share or a number, as many of each class as there are.

    Raises:
        ValueError: a class of one image, of which no share can be taken (`parted` keeps it), or fewer held out than
            classes.
    """
    from sklearn.model_selection import train_test_split

    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(
            f"class {classes[counts.argmin()]} has one image, and a split in shares needs two or more of each; "
            "gimtune.data.parted keeps it in training"
        )
    try:
        kept, out = train_test_split(np.arange(len(labels)), test_size=held, random_state=seed, stratify=labels)
    except ValueError:
        raise ValueError(
            f"{held:g} of {len(labels)} images cannot be a share of each of {len(classes)} classes"
        ) from None
    return np.sort(kept), np.sort(out)


def parted(labels: NDArray[np.integer[Any]], held: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the labels (n,) that are kept, and of about as many as ``held`` that are not: a share of each class.

    Shares are rounded so that they add up, even where no class has a whole one. A class of one or two stays whole in
    what is kept, where `stratified` would refuse it.
    """
    source, out = np.random.default_rng(seed), np.zeros(len(labels), bool)
    classes, counts = np.unique(labels, return_counts=True)
    shares = np.where(counts > 2, counts * held / len(labels), 0.0)
    whole = np.floor(shares).astype(int)
    # the largest remainders are rounded up; of equal ones, which is left to chance
    left = round(shares.sum()) - whole.sum()
    order = source.permutation(len(classes))
    whole[order[np.argsort(-(shares - whole)[order], kind="stable")][:left]] += 1
    for one, count in zip(classes, whole, strict=True):
        out[source.permutation(np.flatnonzero(labels == one))[:count]] = True
    return np.flatnonzero(~out), np.flatnonzero(out)


@dataclass(frozen=True)
class Loader:
    """A registered data set: how it is loaded, and the images' shape where that is known before."""

    function: Callable[..., Dataset]
    image: tuple[int, int, int] | None = None

    def __call__(self, **options: Any) -> Dataset:
        return self.function(**options)


def _accept(part: Any) -> tuple[str, Loader]:
    loader = part if isinstance(part, Loader) else Loader(part)
    if "seed" not in parts.signature_options(loader.function, 0):
        raise ValueError("it takes the seed of its splits, as seed")
    parts.summary(loader.function)
    return loader.function.__name__, loader


DATASETS: parts.Registry[str, Loader] = parts.Registry(
    "data",
    "A function (seed, options by name) -> Dataset: images and labels in the splits train, validation and test, which "
    "depend on the seed and the options alone. A missing file is a FileNotFoundError, a wrong one a ValueError.",
    _accept,
    lambda loader: parts.Facts(
        parts.summary(loader.function),
        parts.as_text(parts.signature_options(loader.function, ("seed",))),
        parts.source(loader.function),
    ),
)


def data_set(image: tuple[int, int, int]) -> Callable[[Callable[..., Dataset]], Callable[..., Dataset]]:
    """Register a data set whose images' shape (colours, height, width) is known before they are read."""
    origin = parts.caller(2)

    def register(function: Callable[..., Dataset]) -> Callable[..., Dataset]:
        DATASETS.enter(Loader(function, image), origin)
        return function

    return register
