"""Grids of images for a page: read from a run folder without trust, made small, and gathered in strips."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

#: Kinds of pictures, and what they show. All members have the first two; members on a front have all.
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
#: Wider or higher grids lose by compression what is not seen, and show a part of their images.
_LARGE = 128
#: Of ten rows and columns: rows of reconstructions come in pairs.
_ROWS, _COLUMNS = 4, 5
_FILE = re.compile(r"[A-Za-z0-9_-]{1,64}")


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


def gathered(wanted: Iterable[tuple[str, Path, str, str]]) -> Strips:
    """Pictures in strips, until `ROOM` is used up.

    Args:
        wanted: what each is called on the page, the run folder, the trial, and the kind; those first that must not be
            missing.
    """
    strips: list[str] = []
    places: dict[str, dict[str, tuple[int, int, int, int]]] = {}
    open_strips: dict[tuple[str, tuple[int, ...]], list[tuple[str, np.ndarray]]] = {}
    used = left_out = 0

    def close(key: tuple[str, tuple[int, ...]]) -> None:
        nonlocal used, left_out
        held = open_strips.pop(key)
        if used >= ROOM:
            left_out += len(held)
            return
        height, width = key[1][:2]
        strips.append(_encoded(np.concatenate([pixels for _, pixels in held])))
        used += len(strips[-1])
        for i, (name, _) in enumerate(held):
            places.setdefault(name, {})[key[0]] = (len(strips) - 1, i * height, width, height)

    for name, run, trial, kind in wanted:
        if (pixels := _pixels(run, trial + ("" if kind == "samples" else f"-{kind}"))) is None:
            continue
        if kind in COMMON and max(pixels.shape[:2]) > _LARGE:
            pixels = pixels[: pixels.shape[0] * _ROWS // 10, : pixels.shape[1] * _COLUMNS // 10]
        key = (kind, pixels.shape)
        open_strips.setdefault(key, []).append((name, pixels))
        if len(open_strips[key]) == _STRIP:
            close(key)
    for key in [*open_strips]:
        close(key)
    return Strips(strips, places, left_out)


def _encoded(pixels: np.ndarray) -> str:
    out = io.BytesIO()
    exact = pixels.ndim == 2 and pixels.shape[1] <= _LARGE
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
