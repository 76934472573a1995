"""Grids of images for a page: read from a run folder without trust, made small, and gathered in strips."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

#: Kinds of pictures, and what they show, the most wanted first. All members have two; members on a front have all.
KINDS: Mapping[str, str] = {
    "samples": "samples from the prior",
    "reconstructed": "test images, each above its reconstruction",
    "traversals": "single codes, the most active first, varied along a row",
    "interpolations": "from one test image to another, by their codes",
    "neighbours": "samples, each above its nearest training image",
}
#: Of those that all members have.
COMMON = ("samples", "reconstructed")
#: Of pictures in one page, in bytes of text.
ROOM = 2_200_000
#: Grey levels of small images. Digits have seventeen; a page with all 256 is twice as large, and looks the same.
_GREYS = 16
#: Of a strip: more pictures are no smaller, and take longer to unpack when one of them is looked at.
_STRIP = 32
#: Wider or higher grids lose by compression what is not seen.
_LARGE = 128
#: Shares of the rows and columns of a grid that all members have, where whole ones find no room.
_PARTS = ((1, 1), (0.75, 1), (0.5, 1), (0.5, 0.75), (0.5, 0.5), (0.5, 0.375), (0.25, 0.5), (0.25, 0.25))
_FILE = re.compile(r"[A-Za-z0-9_-]{1,64}")


#: What it is called on the page, the run folder, the trial, and the kind.
Wanted = tuple[str, Path, str, str]


class _Shown(NamedTuple):
    name: str
    pixels: np.ndarray
    exact: bool


class Strips(NamedTuple):
    """Pictures of one kind and size, one below the other.

    Attributes:
        strips: base64 of WebP images.
        places: of each name and kind, the number of the strip, the first row in it, width and height in pixels.
        left_out: pictures for which there was no room.
    """

    strips: list[str]
    places: dict[str, dict[str, tuple[int, int, int, int]]]
    left_out: int


def gathered(wanted: Iterable[Wanted]) -> Strips:
    """Pictures in strips: kind by kind, whole while there is room for all, and until `ROOM` is used up.

    Where there is not, grids of the kinds that all members have show a part of their images; kinds that few have take
    up to half of the room.

    Args:
        wanted: pictures, those of a kind that must not be missing before its others.
    """
    kinds: dict[str, list[Wanted]] = {kind: [] for kind in KINDS}
    for one in wanted:
        kinds[one[3]].append(one)
    part = _fitting(kinds)
    strips: list[str] = []
    places: dict[str, dict[str, tuple[int, int, int, int]]] = {}
    used = left_out = 0
    for kind, of in kinds.items():
        for held in _stacked(of, part if kind in COMMON else (1, 1)):
            if used >= ROOM:
                left_out += len(held)
                continue
            height, width = held[0].pixels.shape[:2]
            strips.append(_encoded([shown.pixels for shown in held], held[0].exact))
            used += len(strips[-1])
            for i, shown in enumerate(held):
                places.setdefault(shown.name, {})[kind] = (len(strips) - 1, i * height, width, height)
    return Strips(strips, places, left_out)


def _fitting(kinds: Mapping[str, Sequence[Wanted]]) -> tuple[float, float]:
    """The largest part of the grids that finds room, by what some of them take as a whole."""
    common = few = 0.0
    for kind, wanted in kinds.items():
        some = wanted[:: max(1, math.ceil(len(wanted) / _STRIP))]
        taken = sum(len(_encoded([one.pixels for one in held], held[0].exact)) for held in _stacked(some, (1, 1)))
        total = taken * len(wanted) / max(1, len(some))
        common, few = (common + total, few) if kind in COMMON else (common, few + total)
    room = 0.95 * ROOM - min(few, ROOM / 2)
    return next((part for part in _PARTS if common * math.prod(part) <= room), _PARTS[-1])


def _stacked(wanted: Iterable[Wanted], part: tuple[float, float]) -> Iterator[list[_Shown]]:
    """Pictures of one size, up to `_STRIP` at a time."""
    open_strips: dict[tuple[int, ...], list[_Shown]] = {}
    for name, run, trial, kind in wanted:
        if (pixels := _pixels(run, trial + ("" if kind == "samples" else f"-{kind}"))) is None:
            continue
        exact = pixels.ndim == 2 and max(pixels.shape) <= _LARGE
        pixels = _cut(pixels, part)
        held = open_strips.setdefault(pixels.shape, [])
        held.append(_Shown(name, pixels, exact))
        if len(held) == _STRIP:
            yield open_strips.pop(pixels.shape)
    yield from open_strips.values()


def _cut(pixels: np.ndarray, part: tuple[float, float]) -> np.ndarray:
    """A part of a grid: whole images, in an even number of rows, for test images stand above their reconstructions."""
    if part == (1, 1):
        return pixels
    height, width = (_pitch(lines) for lines in (pixels, pixels.swapaxes(0, 1)))
    rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
    if rows * columns == 1:  # a plot, no grid
        size = [max(1, round(length * math.sqrt(math.prod(part)))) for length in pixels.shape[1::-1]]
        return np.asarray(Image.fromarray(pixels).resize((size[0], size[1]), Image.Resampling.LANCZOS))
    rows, columns = min(rows, max(2, int(rows * part[0]) // 2 * 2)), max(1, int(columns * part[1]))
    return pixels[: rows * height, : columns * width]


def _pitch(lines: np.ndarray) -> int:
    """How many lines an image of a grid takes with its frame: the fewest with nothing but frame at both of its ends."""
    total = len(lines)
    framed = (lines == lines[0, 0]).reshape(total, -1).all(1)
    for pitch in range(3, total):
        if not total % pitch and framed[::pitch].all() and framed[pitch - 1 :: pitch].all():
            return pitch
    return total


def _encoded(pictures: Sequence[np.ndarray], exact: bool) -> str:
    out, pixels = io.BytesIO(), np.concatenate(pictures)
    if exact:
        steps = np.rint(pixels.astype(float) * (_GREYS - 1) / 255)
        pixels = np.rint(steps * 255 / (_GREYS - 1)).astype(np.uint8)
    Image.fromarray(pixels).save(out, "WEBP", lossless=exact, quality=70, method=4)
    return base64.b64encode(out.getvalue()).decode()


def _pixels(run: Path, name: str) -> np.ndarray | None:
    """A grid of images, (height, width) or with three colours; ``None`` where there is none that can be read."""
    path = run / "samples" / f"{name}.png"
    if not _FILE.fullmatch(name) or path.is_symlink() or not path.is_file() or path.stat().st_size > 4 << 20:
        return None
    if not path.resolve().is_relative_to(run.resolve()):
        return None
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if max(picture.size) > 4096:
                return None
            pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L", "I", "I;16") else "RGB"))
    except Exception:  # a broken PNG raises whatever its decoder meets; the page does without
        return None
    return _unzoomed(pixels)


def _unzoomed(pixels: np.ndarray) -> np.ndarray:
    """Without the repetition of pixels that makes small images large."""
    for zoom in range(8, 1, -1):
        if not (pixels.shape[0] % zoom or pixels.shape[1] % zoom):
            small = pixels[::zoom, ::zoom]
            if np.array_equal(small.repeat(zoom, 0).repeat(zoom, 1), pixels):
                return small
    return pixels
