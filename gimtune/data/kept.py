"""Data sets in the cache: decoded once, in their splits, and mapped into memory by all who use them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from gimtune.data.dataset import SPLITS, Dataset, Mapped, parted
from gimtune.files import cache, locked

#: Of all images, in each of the two splits that are not trained on, where these are made; and at most so many.
_SHARE, _MOST = 0.15, 10_000
#: Images in a split, at least: a distance between fewer says nothing.
_FEWEST = 10
#: Of the way in which files become arrays; another one is another file in the cache.
_RECIPE = 2
#: Of classes that a note names, at most.
_NAMED = 5
#: Images whose bytes are hashed at a time.
_CHUNK = 1000

#: Rows of a listing and their pixels, (m, c, h, w).
Batches = Iterator[tuple[NDArray[np.int64], NDArray[Any]]]


@dataclass(frozen=True)
class Listing:
    """What there is, before any of it is decoded.

    Attributes:
        splits: of each image, (n,), in the words of `SPLITS`; those that are not there are made.
        labels: whole numbers or names, (n,), by what their column is called; none without labels.
        image: colours, height and width that all images will have.
        batches: decodes every image once, in any order, as ``dtype`` up to ``scale``.
        standardised: values are shifted and scaled so that each has mean 0 and deviation 1 over the training split.
    """

    splits: NDArray[np.str_]
    labels: Mapping[str, NDArray[Any]]
    image: tuple[int, int, int]
    batches: Callable[[], Batches]
    scale: float = 255.0
    dtype: type[np.generic] = np.uint8
    standardised: bool = False


def keep(name: str, where: str, source: Any, seed: int, listed: Callable[[], Listing]) -> Dataset:
    """A data set in the cache, decoded at its first use, once for all who ask at a time.

    Args:
        where: the key and value that name it, for messages.
        source: plain values that change where the content does, names, sizes and times of files, say.
        seed: of the splits that are made, and of the order of images.
        listed: what there is to decode.

    Raises:
        ValueError: no training images, too few of a split, labels that do not fit, or no room in the cache.
    """
    key = hashlib.sha256(json.dumps([name, source, seed, _RECIPE], default=str).encode()).hexdigest()[:16]
    folder = cache() / "data" / f"{name}-{key}"
    known = _opened(name, folder)
    if known is None:
        with locked(folder):
            known = _opened(name, folder)
            if known is None:
                _make(where, folder, seed, listed())
                known = _opened(name, folder)
    assert known is not None
    return known


def stamps(files: Sequence[Path], below: Path) -> str:
    """A hash of names, sizes and times of files: what tells that one of them is another, without reading it."""
    content = hashlib.sha256()
    for file in files:
        stat = file.stat()
        content.update(f"{file.relative_to(below)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return content.hexdigest()


def _opened(name: str, folder: Path) -> Dataset | None:
    """A data set of the cache, or ``None`` where it is not there or damaged."""
    try:
        said = json.loads((folder / "set.json").read_text())
        with np.load(folder / "labels.npz") as arrays:
            labels = {split: arrays[split] for split in SPLITS}
        images = Mapped(folder)
        if any(len(images[split]) != len(labels[split]) for split in SPLITS):
            return None
        targets, notes = tuple(said["targets"]), tuple(said["notes"])
        return Dataset(name, images, labels, said["scale"], said["digest"], targets=targets, notes=notes)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _make(where: str, folder: Path, seed: int, listing: Listing) -> None:
    codes, targets, notes = _coded(where, listing)
    rows = _parts(where, listing, codes, seed)
    labels = {split: np.zeros(len(own), np.int64) if codes is None else codes[own] for split, own in rows.items()}
    for left in folder.parent.glob(f".{folder.name}.*"):  # of who was killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        arrays = _written(temporary, rows, listing)
        if listing.standardised:
            _standardise(where, arrays)
        content = hashlib.sha256()
        for split in SPLITS:
            for start in range(0, len(arrays[split]), _CHUNK):
                content.update(arrays[split][start : start + _CHUNK].data)
            content.update(labels[split].tobytes())
        np.savez(temporary / "labels.npz", **labels)  # type: ignore[arg-type]  # by split
        said = {"digest": content.hexdigest()[:16], "scale": listing.scale, "targets": targets, "notes": notes}
        (temporary / "set.json").write_text(json.dumps(said))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _written(folder: Path, rows: Mapping[str, NDArray[np.int64]], listing: Listing) -> dict[str, NDArray[Any]]:
    """Files of the splits' images, in the order of ``rows``."""
    count, arrays = len(listing.splits), dict[str, NDArray[Any]]()
    split_of, place = np.empty(count, np.int8), np.empty(count, np.int64)
    for i, split in enumerate(SPLITS):
        file, shape = folder / f"{split}.npy", (len(rows[split]), *listing.image)
        try:
            arrays[split] = open_memmap(file, mode="w+", dtype=listing.dtype, shape=shape)
            with file.open("r+b") as handle:
                # a full disk would otherwise end the process, at the page that finds no room
                os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
        except OSError as error:
            size = count * np.prod(listing.image) / 2**30
            raise ValueError(
                f"{folder.parent}: no room for {size:.2g} GiB of decoded images ({error.strerror}); $XDG_CACHE_HOME "
                "says where the cache is"
            ) from None
        split_of[rows[split]], place[rows[split]] = i, np.arange(len(rows[split]))
    done = 0
    for index, pixels in listing.batches():
        for i, split in enumerate(SPLITS):
            own = split_of[index] == i
            if own.any():
                arrays[split][place[index[own]]] = pixels[own]
        done += len(index)
    assert done == count, f"{done} of {count} images were decoded"
    return arrays


def _standardise(where: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Shift and scale the splits' values, in place, by moments of the training split.

    Raises:
        ValueError: a value that is the same in all of that split.
    """
    train = arrays["train"]
    mean, deviation = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    if len(same := np.flatnonzero(deviation.ravel() <= 1e-12 * (1 + np.abs(mean.ravel())))):
        raise ValueError(f"{where}: value {same[0]} is the same in all training vectors; leave it out")
    for values in arrays.values():
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK]
            part[...] = (part - mean) / deviation


def _coded(where: str, listing: Listing) -> tuple[NDArray[np.int64] | None, tuple[str, ...], list[str]]:
    """Labels as whole numbers from 0, (n,) or (n, k), with the names of the columns, and notes on them."""
    training, several = listing.splits == "train", len(listing.labels) > 1
    kept: dict[str, NDArray[np.int64]] = {}
    constant, notes = [], []
    for name, values in listing.labels.items():
        known, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
        lost = np.setdiff1d(codes, codes[training])
        if training.any() and len(lost):
            split = listing.splits[np.flatnonzero(codes == lost[0])[0]]
            raise ValueError(
                f"{where}: the class {known[lost[0]]}{f' of {name}' if several else ''} is in {split} and not in train"
            )
        if several and len(known) < 2:
            constant.append(name)
            continue
        kept[name] = codes.astype(np.int64)
        if not several and {*SPLITS} - {*listing.splits.tolist()} and len(few := known[counts < 3]):
            more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
            said = f"{', '.join(map(str, few[:_NAMED]))}{more}"
            notes.append(f"classes of one or two images are in the training split alone: {said}")
    if constant:
        notes.append(f"no label is {', '.join(constant)}: the same of all images")
    if not kept:
        return None, (), notes
    columns = [*kept.values()]
    return columns[0] if len(columns) == 1 else np.stack(columns, 1), tuple(kept), notes


def _parts(where: str, listing: Listing, codes: NDArray[np.int64] | None, seed: int) -> dict[str, NDArray[np.int64]]:
    """Rows of each split in the order in which they are kept; a split that is missing is taken from the training rows.

    The first of a split stand for all of it where so many are enough, and files stand in the order of their names: so
    each is shuffled.
    """
    splits, what = listing.splits, "images" if listing.dtype is np.uint8 else "vectors"
    rows = {split: np.flatnonzero(splits == split) for split in SPLITS}
    if not len(rows["train"]):
        raise ValueError(f"{where}: no training {what}; there are {', '.join(dict.fromkeys(splits.tolist()))}")
    # by the classes, where there is one label; no share of every combination of several could be taken
    classes = codes if codes is not None and codes.ndim == 1 else np.zeros(len(splits), np.int64)
    whole, missing = len(rows["train"]), [split for split in ("test", "validation") if not len(rows[split])]
    for i, split in enumerate(missing):
        count = min(_MOST, round(_SHARE * whole))
        stays, out = parted(classes[rows["train"]], count, seed + i)
        rows[split], rows["train"] = rows["train"][out], rows["train"][stays]
    for split in SPLITS:
        if len(rows[split]) < _FEWEST:
            raise ValueError(f"{where}: {len(rows[split])} {split} {what}; {_FEWEST} or more are needed in each split")
        rows[split] = rows[split][np.random.default_rng(seed).permutation(len(rows[split]))]
    return rows
