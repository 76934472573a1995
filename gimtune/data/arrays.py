"""NumPy's files, read a part at a time: a data set may be larger than memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from gimtune.data.kept import Batches, Listing

#: What arrays and columns are called.
IMAGES, LABELS = ("images", "x", "data", "arr_0", "imgs"), ("labels", "label", "y", "targets")
#: What splits are called by others in the names of arrays; none is training.
_CALLED = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
#: Pixels of an image's side, and columns of labels, at most.
SIDE, _COLUMNS = 8192, 1000
#: Bytes of an array that are read at a time.
_PART = 2**25


class Stored:
    """An array in a ``.npy`` file, or in a ``.npz``, of which only shape and kind were read."""

    def __init__(self, file: Path, entry: str | None) -> None:
        self.file, self.entry = file, entry
        with self._opened() as stream:
            self.shape, self.dtype = _header(stream)
            begins = stream.tell()
        # what a header promises is found missing before memory or room on the disk is asked for
        size, there = prod(self.shape[1:]) * self.dtype.itemsize, self._bytes() - begins
        if self.shape[0] * size > there:
            raise ValueError(f"it ends after {there // size} of {self.shape[0]} rows")

    def _bytes(self) -> int:
        if self.entry is None:
            return self.file.stat().st_size
        with zipfile.ZipFile(self.file) as archive:
            return archive.getinfo(self.entry).file_size

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self.entry is None:
            with self.file.open("rb") as stream:
                yield stream
        else:
            with zipfile.ZipFile(self.file) as archive, archive.open(self.entry) as inner:
                yield inner

    def whole(self) -> NDArray[Any]:
        """All of it."""
        found = [part for _, part in self.parts()]
        return np.concatenate(found) if found else np.empty(self.shape, self.dtype)

    def parts(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Where a part begins, and its rows.

        Raises:
            ValueError: naming the file, which is damaged, or ends before the array does.
        """
        size = prod(self.shape[1:]) * self.dtype.itemsize
        rows = max(1, _PART // max(size, 1))
        with reading(self.file), self._opened() as stream:
            _header(stream)
            for start in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - start)
                content = stream.read(count * size)
                if len(content) < count * size:
                    raise ValueError(f"it ends after {start + len(content) // max(size, 1)} of {self.shape[0]} rows")
                yield start, np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(stream)
    read: Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]] = (
        npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    )
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    if fortran and len(shape) > 1:
        raise ValueError("its columns come first; np.ascontiguousarray(array) puts its rows first")
    if not shape:
        raise ValueError("an array has a number of rows, and this is one number")
    return shape, dtype


def names(file: Path) -> dict[str, str | None]:
    """Arrays of a file by name, and the entries that hold them; that of a ``.npy`` file is called ``images``.

    Raises:
        ValueError: naming the file, which is damaged.
    """
    with reading(file):
        if file.suffix == ".npy":
            return {"images": None}
        with zipfile.ZipFile(file) as archive:
            return {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """What is wrong with a file becomes a `ValueError` of one line that names it."""
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{file}: cannot be read ({said(error)})") from None


def split_arrays(file: Path, wanted: Sequence[str]) -> dict[str, dict[str, str]]:
    """Names of the arrays that are called as ``wanted``, by split: ``x``, ``x_train`` or ``train_x``.

    Raises:
        ValueError: as `names`.
    """
    there = names(file)
    found: dict[str, dict[str, str]] = {}
    for word in ("", *_CALLED):
        for one in wanted:
            keys = (f"{one}_{word}", f"{word}_{one}") if word else (one,)
            for key in keys:
                if key in there:
                    found.setdefault(_CALLED.get(word, "train"), {}).setdefault(one, key)
    return found


def listed_arrays(file: Path, shape: tuple[int, int] | None, named: Sequence[str] | None) -> Listing:
    """Images (n, h, w), (n, h, w, c) or (n, c, h, w) of a file, with labels (n,) or (n, k) or none.

    Args:
        shape: height and width to resize and crop to.
        named: what its labels are called, instead of `LABELS`.

    Raises:
        ValueError: no images, arrays of another shape or kind, labels that do not fit, or a file that is damaged.
    """
    entries = names(file)
    pictures = {split: next(iter(keys.values())) for split, keys in split_arrays(file, IMAGES).items()}
    if not pictures:
        there = ", ".join(entries) or "no arrays"
        raise ValueError(f"{file}: no images; there are {there}, and images or x_train would be looked for")
    found = {split: opened(file, key, entries[key]) for split, key in pictures.items()}
    images = {split: _image(f"{file}: {pictures[split]}", one) for split, one in found.items()}
    if len({*images.values()}) > 1:
        told = ", ".join(f"{pictures[split]} {image}" for split, image in images.items())
        raise ValueError(f"{file}: images of two shapes: {told}")
    splits = np.repeat([*found], [one.shape[0] for one in found.values()])
    image = images["train"] if "train" in images else next(iter(images.values()))
    if shape is not None:
        image = (image[0], *shape)

    def batches() -> Batches:
        row = 0
        for split, one in found.items():
            for start, part in one.parts():
                pixels = _uint8(f"{file}: {pictures[split]}", part)
                yield np.arange(row + start, row + start + len(part)), _resized(pixels, image)
            row += one.shape[0]

    return Listing(splits, labels_of(file, entries, found, named), image, batches)


def opened(file: Path, key: str, entry: str | None) -> Stored:
    try:
        return Stored(file, entry)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{file}: {key} cannot be read ({said(error)})") from None


def labels_of(
    file: Path, entries: Mapping[str, str | None], images: Mapping[str, Stored], named: Sequence[str] | None
) -> dict[str, NDArray[Any]]:
    """Label columns by name, of the splits one after the other."""
    there = split_arrays(file, named or LABELS)
    if named and not there:
        raise ValueError(f"data.labels={named}: {file.name} has {', '.join(entries)}")
    if not there:
        return {}
    if without := [split for split in images if split not in there]:
        raise ValueError(f"{file}: the split {without[0]} has no labels, and others have")
    columns: dict[str, list[NDArray[Any]]] = {}
    for split, one in images.items():
        keys = there[split] if named else dict([next(iter(there[split].items()))])
        for name, key in keys.items():
            array = opened(file, key, entries[key])
            fits = len(array.shape) <= 2 and array.shape[0] == one.shape[0] and array.dtype.kind in "iuUSb"
            if not fits or prod(array.shape[1:]) > _COLUMNS:
                raise ValueError(
                    f"{file}: {key} is {array.dtype} {array.shape}; one whole number or name for each of "
                    f"{one.shape[0]} images is needed, or several, (n, k), {_COLUMNS} at most"
                )
            values = array.whole()
            wide = values if values.ndim == 2 else values[:, None]
            for k in range(wide.shape[1]):
                columns.setdefault(name if wide.shape[1] == 1 else f"{name}{k}", []).append(wide[:, k])
    if len({len(parts) for parts in columns.values()}) > 1:
        raise ValueError(f"{file}: splits of another number of label columns")
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _image(what: str, array: Stored) -> tuple[int, int, int]:
    """Colours, height and width of an array of images."""
    kind, shape = array.dtype, array.shape
    if kind not in (np.uint8, np.uint16) and kind.kind not in "fb":
        raise ValueError(f"{what} is {kind}; allowed are uint8, uint16, and numbers with a point from 0 to 1")
    if max(shape[1:], default=0) > SIDE:
        raise ValueError(f"{what} is {shape}; allowed are images of {SIDE} pixels a side at most")
    if len(shape) == 3 and min(shape) > 0:
        return 1, shape[1], shape[2]
    if len(shape) == 4 and min(shape) > 0 and shape[3] in (1, 3):
        return shape[3], shape[1], shape[2]
    if len(shape) == 4 and min(shape) > 0 and shape[1] in (1, 3):
        return shape[1], shape[2], shape[3]
    raise ValueError(f"{what} is {shape}; allowed are (n, h, w), (n, h, w, 1 or 3) and (n, 1 or 3, h, w)")


def _uint8(what: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.ndim == 3:
        values = values[:, None]
    elif values.shape[3] in (1, 3):
        values = values.transpose(0, 3, 1, 2)
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values * (255 / 65_535)).round().astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{what} is {values.dtype} from {low:g} to {high:g}; numbers with a point are from 0 to 1")
    return (values.astype(np.float64) * 255).round().astype(np.uint8)


def _resized(pictures: NDArray[np.uint8], image: tuple[int, int, int]) -> NDArray[np.uint8]:
    if pictures.shape[1:] == image:
        return pictures
    from PIL import Image

    made = np.empty((len(pictures), *image), np.uint8)
    for i, one in enumerate(pictures):
        picture = Image.fromarray(one[0] if len(one) == 1 else np.ascontiguousarray(one.transpose(1, 2, 0)))
        pixels = np.asarray(fitted(picture, (image[2], image[1])))
        made[i] = pixels if len(one) == 1 else pixels.transpose(2, 0, 1)
    return made


def fitted(image: Any, size: tuple[int, int]) -> Any:
    """An image of Pillow's, scaled until it covers a width and height, and cropped around its middle."""
    from PIL import ImageOps

    return image if image.size == size else ImageOps.fit(image, size)


def said(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
