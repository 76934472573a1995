"""Images that are encoded, as files or in Parquet: what there is of them, and their pixels."""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gimtune.data.arrays import LABELS, SIDE, fitted, said
from gimtune.data.kept import Batches, Listing

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
#: What splits are called by others.
CALLED = {"train": "train", "training": "train", "validation": "validation", "valid": "validation"}
CALLED |= {"val": "validation", "dev": "validation", "test": "test"}
#: Images that are decoded at a time.
_BATCH = 256
#: Pillow's modes of grey images: of eight bits and less, and of more.
_GREY, _DEEP = ("L", "1", "LA"), ("I", "I;16", "I;16B", "F")


@dataclass(frozen=True)
class Rows:
    """Encoded images.

    Attributes:
        splits, files: of each, (n,); the file is for messages.
        contents: their paths or bytes in this order, as often as it is called.
        labels: by the name of their column, (n,) each.
        box: left, upper, right and lower edge of the part that is taken of each, or all.
    """

    splits: Sequence[str]
    files: Sequence[Path]
    contents: Callable[[], Iterator[Path | bytes]]
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    box: tuple[int, int, int, int] | None = None


def folder_rows(place: Path, files: Sequence[Path]) -> Rows:
    """Files of a folder: folders called as splits are splits, those below them, or else all, classes.

    Raises:
        ValueError: a file beside folders of classes, or a folder without images.
    """
    parts = [file.relative_to(place).parts for file in files]
    given = all(len(part) > 1 and part[0].lower() in CALLED for part in parts)
    below = 1 if given else 0
    flat = [file for file, part in zip(files, parts, strict=True) if len(part) == below + 1]
    if flat and len(flat) < len(files):
        raise ValueError(f"data.path={place}: {flat[0].name} stands beside folders of classes, and in none of them")
    full = {parent for file in files for parent in file.parents}
    for folder in sorted(path for path in place.rglob("*") if path.is_dir()):
        if folder not in full and not any(p.startswith((".", "__MACOSX")) for p in folder.relative_to(place).parts):
            raise ValueError(f"data.path={place}: the folder {folder.relative_to(place)} has no images")
    splits = [CALLED[part[0].lower()] if given else "train" for part in parts]
    labels = {} if flat else {"label": np.array([part[below] for part in parts])}
    return Rows(splits, files, lambda: iter(files), labels)


# Parquet


def parquet_rows(place: Path, files: Sequence[Path], named: Sequence[str] | None) -> Rows:
    """Parquet files as the Hugging Face hub has them: an image column of bytes, label columns or none.

    Args:
        named: label columns; by default the first that is called as one.

    Raises:
        ValueError: a file that cannot be read, or lacks a column or a value.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    splits: list[str] = []
    sources: list[Path] = []
    columns: dict[str, list[Any]] = {}
    kinds: list[str] = []
    for file in files:
        with _parquet(file):
            there = {one.name: one.type for one in pq.read_schema(file)}
        wanted = list(named or [name for name in LABELS if name in there][:1])
        if absent := [name for name in wanted if name not in there]:
            raise ValueError(f"{file}: no column {absent[0]}; there are {', '.join(there)}")
        kind = next((k for k, t in there.items() if pa.types.is_struct(t) and t.get_field_index("bytes") >= 0), None)
        kind = kind or next((k for k, t in there.items() if pa.types.is_binary(t) or pa.types.is_large_binary(t)), None)
        if kind is None:
            raise ValueError(f"{file}: no column of images; there are {', '.join(there)}")
        if kinds and wanted != [*columns]:
            one, other = (", ".join(names) or "none" for names in (wanted, columns))
            raise ValueError(f"{file}: its labels are {one}, those of {files[0].name} {other}")
        with _parquet(file):
            table, count = pq.read_table(file, columns=wanted), pq.read_metadata(file).num_rows
        for name in wanted:
            values = table[name].to_pylist()
            odd = next((i for i, value in enumerate(values) if not isinstance(value, int | str)), None)
            if odd is not None:
                why = f"no {name}" if values[odd] is None else f"a {name} that is neither a whole number nor a name"
                raise ValueError(f"{file}: row {odd} has {why}")
            columns.setdefault(name, []).extend(values)
        words = re.findall(r"[a-z]+", file.stem.lower()) + [file.parent.name.lower()] * (file.parent != place)
        splits += [next((CALLED[word] for word in words if word in CALLED), "train")] * count
        sources += [file] * count
        kinds.append(kind)

    def contents() -> Iterator[bytes]:
        for file, kind in zip(files, kinds, strict=True):
            row = 0
            with _parquet(file), pq.ParquetFile(file) as opened:
                for batch in opened.iter_batches(_BATCH, columns=[kind]):
                    for cell in batch.column(0).to_pylist():
                        content = cell["bytes"] if isinstance(cell, dict) else cell
                        if not content:
                            raise ValueError(f"{file}: row {row} has no image")
                        row += 1
                        yield content

    return Rows(splits, sources, contents, {name: np.array(values) for name, values in columns.items()})


@contextmanager
def _parquet(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file}: cannot be read as Parquet ({said(error)})") from None


# Pixels


def listed_rows(rows: Rows, shape: tuple[int, int] | None) -> Listing:
    """Encoded images, all of one size, or resized and cropped to ``shape``: grey where all of them are, else in colour.

    Raises:
        ValueError: an image that cannot be read, or two sizes.
    """
    colour, first = False, None
    for file, content in zip(rows.files, rows.contents(), strict=True):
        with _decoding(file), _open(content) as image:
            colour, size = colour or not is_grey(image), image.size
        first = first or (file, size)
        if shape is None and rows.box is None and size != first[1]:
            sizes = [
                f"{one.parent.name}/{one.name} is {width} x {height}" for one, (width, height) in (first, (file, size))
            ]
            raise ValueError(f"data.size: {sizes[0]} and {sizes[1]}; data.size=N makes them one size")
    assert first is not None
    height, width = shape or (first[1][1], first[1][0])
    if max(height, width) > SIDE:
        raise ValueError(f"{first[0]}: {width} x {height} pixels; allowed are {SIDE} a side, and data.size=N resizes")

    def batches() -> Batches:
        pairs, start = zip(rows.files, rows.contents(), strict=True), 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while part := list(islice(pairs, _BATCH)):
                decoded = [*pool.map(lambda one: _pixels(one[0], one[1], colour, (width, height), rows.box), part)]
                yield np.arange(start, start + len(part)), np.stack(decoded)
                start += len(part)

    return Listing(np.array(rows.splits), rows.labels, (3 if colour else 1, height, width), batches)


def _open(content: Path | bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)


@contextmanager
def _decoding(file: Path) -> Iterator[None]:
    from PIL import Image

    try:
        yield
    # what Pillow's plug-ins raise of damaged files
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: cannot be read as an image ({said(error)})") from None


def _pixels(
    file: Path, content: Path | bytes, colour: bool, size: tuple[int, int], box: tuple[int, int, int, int] | None
) -> NDArray[np.uint8]:
    with _decoding(file), _open(content) as image:
        return pixels_of(image.crop(box) if box else image, colour, size)


def is_grey(image: Any) -> bool:
    """Whether an image of Pillow's has one channel of grey, of any depth."""
    return image.mode in (*_GREY, *_DEEP)


def pixels_of(image: Any, colour: bool, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Pixels (1 or 3, h, w) of an image of Pillow's, resized and cropped to a width and height.

    Raises:
        ValueError: grey values beyond those that its mode allows.
    """
    plain = (_eight_bits(image) if image.mode in _DEEP else image).convert("RGB" if colour else "L")
    pixels = np.asarray(fitted(plain, size))
    return pixels.transpose(2, 0, 1) if colour else pixels[None]


def _eight_bits(image: Any) -> Any:
    """An image of more bits as one of eight: a conversion by Pillow cuts at 255."""
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65_535.0
    if not 0 <= values.min() <= values.max() <= top:
        raise ValueError(f"grey values from {values.min():g} to {values.max():g}; allowed are 0 to {top:g}")
    return Image.fromarray((values * (255 / top)).round().astype(np.uint8))
