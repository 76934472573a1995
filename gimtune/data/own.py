"""Images of one's own: a folder of image files, NumPy arrays or Parquet, in splits that are given or made."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gimtune.data.dataset import DATASETS, SPLITS, Dataset, from_splits, parted
from gimtune.files import cache, replacing

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
#: What splits are called by others.
_CALLED = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
}
_CALLED |= {"dev": "validation", "test": "test"}
#: Of all images, in each of the two splits that are not trained on, where these are made; and at most so many.
_SHARE, _MOST = 0.15, 10_000
#: Images in a split, at least: a distance between fewer says nothing.
_FEWEST = 10
_ARRAYS, _NAMES = ("images", "x", "data", "arr_0"), ("labels", "label", "y", "targets")


class Found(NamedTuple):
    """Images of a split as they were found, uint8 (n, c, h, w), with labels (n,) of any kind, or none."""

    images: NDArray[np.uint8]
    labels: NDArray[Any] | None


@DATASETS.register
def images(seed: int, path: str, size: int | list[int] | None = None) -> Dataset:
    """Images of your own: a folder of image files, or of classes with them; .npz or .npy; Parquet with an image column.

    ``size`` (one number, or height and width) resizes and crops them; without it all must be of one size. Splits are
    those of folders, files or arrays that are called train, validation and test, and what is missing is taken from the
    training images, the same share of each class. Files are decoded once, into the cache.
    """
    place = Path(path).expanduser()
    where = f"data.path={path}"
    if not place.exists():
        raise FileNotFoundError(f"{where}: there is no such file or folder")
    shape = _shape(size)
    if place.is_dir() or place.suffix == ".parquet":
        packed = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
        every = packed or [file for file in sorted(place.rglob("*")) if file.suffix.lower() in _SUFFIXES]
        if not every:
            raise ValueError(f"{where}: no images in this folder; allowed are {', '.join(sorted(_SUFFIXES))}, .parquet")
        found = _decoded(place, every, shape, _parquet if packed else _folder)
    elif place.suffix in (".npz", ".npy"):
        found = _arrays(place, shape)
    else:
        raise ValueError(f"{where}: allowed are a folder, .npz, .npy and .parquet")
    return in_splits("images", where, found, seed)


def _shape(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else []
    if len(sides) != 2 or not all(isinstance(side, int) and 4 <= side <= 1024 for side in sides):
        raise ValueError(f"data.size={size}: allowed are a whole number from 4 to 1024, or two: [height, width]")
    return sides[0], sides[1]


def in_splits(name: str, where: str, found: Mapping[str, Found], seed: int) -> Dataset:
    """A data set of what was found, by split; what is missing of the splits is taken from the training images.

    Raises:
        ValueError: no training images, too few, or labels that do not fit.
    """
    if "train" not in found:
        raise ValueError(f"{where}: no training images; there are {', '.join(found)}")
    labelled = {split: part.labels is not None for split, part in found.items()}
    if len({*labelled.values()}) > 1:
        without = next(split for split, has in labelled.items() if not has)
        raise ValueError(f"{where}: the split {without} has no labels, and others have")
    pictures = {split: part.images for split, part in found.items()}
    if labelled["train"]:
        known = np.unique(np.concatenate([np.asarray(part.labels) for part in found.values()]))
        labels = {split: np.searchsorted(known, np.asarray(part.labels)) for split, part in found.items()}
        for split, own in labels.items():
            if lost := sorted({*own.tolist()} - {*labels["train"].tolist()}):
                raise ValueError(f"{where}: the class {known[lost[0]]} is in {split} and not in train")
    else:
        labels = {split: np.zeros(len(part.images), np.int64) for split, part in found.items()}
    missing = [split for split in ("test", "validation") if split not in found]
    kept = np.arange(len(labels["train"]))
    for i, split in enumerate(missing):
        count = min(_MOST, round(_SHARE * len(labels["train"])))
        stays, out = parted(labels["train"][kept], count, seed + i)
        pictures[split], labels[split] = found["train"].images[kept[out]], labels["train"][kept[out]]
        kept = kept[stays]
    if missing:
        pictures["train"], labels["train"] = found["train"].images[kept], labels["train"][kept]
    for split in SPLITS:
        # the first of a split stand for all of it where so many are enough; files stand in the order of their names
        order = np.random.default_rng(seed).permutation(len(labels[split]))
        pictures[split], labels[split] = pictures[split][order], labels[split][order]
        if len(labels[split]) < _FEWEST:
            raise ValueError(
                f"{where}: {len(labels[split])} {split} images; {_FEWEST} or more are needed in each split"
            )
    return from_splits(name, pictures, labels, 255.0)


# Files


def _decoded(
    place: Path,
    files: Sequence[Path],
    shape: tuple[int, int] | None,
    read: Callable[[Path, Sequence[Path]], Iterator[tuple[str, str | None, Path, bytes | Path]]],
) -> dict[str, Found]:
    """Images of files, decoded into the cache at their first use and mapped into memory from there."""
    content = hashlib.sha256(json.dumps([shape, 1]).encode())
    for file in files:
        stat = file.stat()
        content.update(f"{file.relative_to(place) if file != place else file.name}\0{stat.st_size}\0".encode())
        content.update(f"{stat.st_mtime_ns}\n".encode())
    kept = cache() / "decoded" / content.hexdigest()[:16]
    index, array = kept.with_suffix(".json"), kept.with_suffix(".npy")
    if not (index.is_file() and array.is_file()):
        rows = [*read(place, files)]
        _write(rows, shape, array)
        with replacing(index) as part:
            part.write_text(json.dumps([[split, label] for split, label, *_ in rows]))
    splits = np.array([split for split, _ in json.loads(index.read_text())])
    names = [label for _, label in json.loads(index.read_text())]
    pictures = np.load(array, mmap_mode="r")
    found = {}
    for split in dict.fromkeys(splits.tolist()):
        own = np.flatnonzero(splits == split)
        labels = [names[i] for i in own]
        found[split] = Found(pictures[own], np.array(labels) if labels[0] is not None else None)
    return found


def _write(
    rows: Sequence[tuple[str, str | None, Path, bytes | Path]], shape: tuple[int, int] | None, array: Path
) -> None:
    from PIL import Image, ImageOps

    def opened(file: Path, content: bytes | Path) -> Any:
        return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)

    first: tuple[Path, tuple[int, int]] | None = None
    colour = False
    for _, _, file, content in rows:
        try:
            with opened(file, content) as image:
                colour |= image.mode not in ("L", "1", "I", "I;16", "F", "LA")
                first = first or (file, image.size)
                if shape is None and image.size != first[1]:
                    sizes = [f"{one.name} is {w} x {h}" for one, (w, h) in (first, (file, image.size))]
                    raise ValueError(f"data.size: {sizes[0]} and {sizes[1]}; data.size=N makes them one size")
        except OSError as error:
            raise ValueError(f"{file}: cannot be read as an image ({_first(error)})") from None
    assert first is not None
    height, width = shape or (first[1][1], first[1][0])
    with replacing(array) as part:
        made = np.lib.format.open_memmap(
            part, mode="w+", dtype=np.uint8, shape=(len(rows), 3 if colour else 1, height, width)
        )
        for i, (_, _, file, content) in enumerate(rows):
            try:
                with opened(file, content) as image:
                    grey = image if colour or image.mode in ("L", "1", "LA") else _eight_bits(image)
                    plain = grey.convert("RGB" if colour else "L")
            except OSError as error:
                raise ValueError(f"{file}: cannot be read as an image ({_first(error)})") from None
            fitted = plain if plain.size == (width, height) else ImageOps.fit(plain, (width, height))
            pixels = np.asarray(fitted)
            made[i] = pixels.transpose(2, 0, 1) if colour else pixels
        made.flush()
        del made


def _eight_bits(image: Any) -> Any:
    """An image of more bits as one of eight: a conversion by Pillow cuts at 255."""
    from PIL import Image

    return Image.fromarray(
        (np.asarray(image).astype(np.float64) * (255 / 65_535)).round().clip(0, 255).astype(np.uint8)
    )


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _folder(place: Path, files: Sequence[Path]) -> Iterator[tuple[str, str | None, Path, Path]]:
    """Split and class of each file: folders called as splits are splits, those below them, or else all, classes."""
    parts = [file.relative_to(place).parts for file in files]
    given = all(len(part) > 1 and part[0].lower() in _CALLED for part in parts)
    below = 1 if given else 0
    flat = [file for file, part in zip(files, parts, strict=True) if len(part) == below + 1]
    if flat and len(flat) < len(files):
        raise ValueError(f"data.path={place}: {flat[0].name} stands beside folders of classes, and in none of them")
    for folder in sorted(path for path in place.rglob("*") if path.is_dir()):
        if not any(folder in file.parents for file in files):
            raise ValueError(f"data.path={place}: the folder {folder.relative_to(place)} has no images")
    for file, part in zip(files, parts, strict=True):
        yield _CALLED[part[0].lower()] if given else "train", None if flat else part[below], file, file


def _parquet(place: Path, files: Sequence[Path]) -> Iterator[tuple[str, str | None, Path, bytes]]:
    """Rows of Parquet files as the Hugging Face hub has them: an image column of bytes, and a label column or none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{file}: cannot be read as Parquet ({_first(error)})") from None
        columns = {field.name: field.type for field in table.schema}
        kind = next((k for k, t in columns.items() if pa.types.is_struct(t) and t.get_field_index("bytes") >= 0), None)
        kind = kind or next(
            (k for k, t in columns.items() if pa.types.is_binary(t) or pa.types.is_large_binary(t)), None
        )
        if kind is None:
            raise ValueError(f"{file}: no column of images; there are {', '.join(columns)}")
        label = next((name for name in _NAMES if name in columns), None)
        words = re.findall(r"[a-z]+", file.stem.lower()) + [file.parent.name.lower()] * (file.parent != place)
        split = next((_CALLED[word] for word in words if word in _CALLED), "train")
        labels = table[label].to_pylist() if label else [None] * len(table)
        for i, (cell, own) in enumerate(zip(table[kind].to_pylist(), labels, strict=True)):
            content = cell["bytes"] if isinstance(cell, dict) else cell
            if not content or (label and own is None):
                raise ValueError(f"{file}: row {i} has no {'label' if content else 'image'}")
            yield split, None if own is None else f"{own:08d}" if isinstance(own, int) else str(own), file, content


# Arrays


def _arrays(place: Path, shape: tuple[int, int] | None) -> dict[str, Found]:
    try:
        loaded = np.load(place, allow_pickle=False)
        arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{place}: cannot be read ({_first(error)})") from None
    except Exception as error:  # zipfile raises its own
        raise ValueError(f"{place}: cannot be read ({type(error).__name__}: {_first(error)})") from None
    found: dict[str, Found] = {}
    for split in ("", *_CALLED):
        # x_train, train_images, images
        named = [(f"{name}_{split}", f"{split}_{name}") if split else (name,) for name in _ARRAYS]
        key = next((key for keys in named for key in keys if key in arrays), None)
        if key is None:
            continue
        labels = [(f"{name}_{split}", f"{split}_{name}") if split else (name,) for name in _NAMES]
        own = next((arrays[other] for keys in labels for other in keys if other in arrays), None)
        pictures = _uint8(f"{place}: {key}", arrays[key])
        if own is not None:
            own = own.reshape(len(own)) if own.ndim == 2 and own.shape[1] == 1 else own
            if own.shape != (len(pictures),) or own.dtype.kind not in "iuUSb":
                raise ValueError(
                    f"{place}: labels are {own.dtype} {own.shape}; one whole number or name for each of "
                    f"{len(pictures)} images is needed"
                )
        found[_CALLED.get(split, "train")] = Found(_fitted(pictures, shape), own)
    if not found:
        raise ValueError(
            f"{place}: no images; there are {', '.join(arrays)}, and images or x_train would be looked for"
        )
    return found


def _uint8(what: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    given = values.shape
    if values.ndim == 3:
        values = values[:, None]
    elif values.ndim == 4 and values.shape[3] in (1, 3):
        values = values.transpose(0, 3, 1, 2)
    if values.ndim != 4 or values.shape[1] not in (1, 3) or not len(values):
        raise ValueError(f"{what} is {given}; allowed are (n, h, w), (n, h, w, 1 or 3) and (n, 1 or 3, h, w)")
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values * (255 / 65_535)).round().astype(np.uint8)
    if values.dtype.kind in "fb":
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= 1:
            raise ValueError(f"{what} is {values.dtype} from {low:g} to {high:g}; numbers with a point are from 0 to 1")
        return (values.astype(np.float64) * 255).round().astype(np.uint8)
    raise ValueError(f"{what} is {values.dtype}; allowed are uint8, uint16, and numbers with a point from 0 to 1")


def _fitted(pictures: NDArray[np.uint8], shape: tuple[int, int] | None) -> NDArray[np.uint8]:
    if shape is None or pictures.shape[2:] == shape:
        return pictures
    from PIL import Image, ImageOps

    made = np.empty((*pictures.shape[:2], *shape), np.uint8)
    for i, one in enumerate(pictures):
        image = Image.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0))
        pixels = np.asarray(ImageOps.fit(image, shape[::-1]))
        made[i] = pixels if len(one) == 1 else pixels.transpose(2, 0, 1)
    return made
