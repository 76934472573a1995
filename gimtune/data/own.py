"""Images of one's own: a folder of image files, NumPy arrays or Parquet, in splits that are given or made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gimtune.data.arrays import listed_arrays
from gimtune.data.dataset import DATASETS, Dataset
from gimtune.data.encoded import SUFFIXES, folder_rows, listed_rows, parquet_rows
from gimtune.data.kept import Listing, keep, stamps

Shape = tuple[int, int]


@DATASETS.register
def images(seed: int, path: str, size: int | list[int] | None = None, labels: str | list[str] | None = None) -> Dataset:
    """Images of your own: a folder of image files, or of classes with them; .npz or .npy; Parquet with an image column.

    ``size`` (one number, or height and width) resizes and crops them; without it all must be of one size. ``labels``
    names the label columns of Parquet, or an array of an .npz. Splits are those of folders, files or arrays that are
    called train, validation and test, and what is missing is taken from the training images, the same share of each
    class. Files are decoded once, into the cache.
    """
    where, shape = f"data.path={path}", shape_of(size)
    named = [labels] if isinstance(labels, str) else labels
    if named is not None and not (isinstance(named, list) and named and all(isinstance(n, str) for n in named)):
        raise ValueError(f"data.labels={labels}: a name of a label column, or a list of names")
    place = Path(path).expanduser().resolve()
    if not place.exists():
        raise FileNotFoundError(f"{where}: there is no such file or folder")
    files = [place] if place.is_file() else _below(place, {".parquet"}) or _below(place, SUFFIXES)
    if not files:
        raise ValueError(f"{where}: no images in this folder; allowed are {', '.join(sorted(SUFFIXES))}, .parquet")

    def listed() -> Listing:
        if files[0].suffix in (".npz", ".npy"):
            return listed_arrays(place, shape, named)
        if files[0].suffix == ".parquet":
            return listed_rows(parquet_rows(place, files, named), shape)
        return listed_rows(folder_rows(place, files), shape)

    if place.is_file() and place.suffix not in (".npz", ".npy", ".parquet"):
        raise ValueError(f"{where}: allowed are a folder, .npz, .npy and .parquet")
    if named and files[0].suffix in SUFFIXES:
        raise ValueError(f"data.labels={labels}: of Parquet and .npz; files have the class of their folder")
    found = keep("images", where, [shape, named, stamps(files, place), _folders(place)], seed, listed)
    return replace(found, notes=(*found.notes, *_left_out(place, files)))


def shape_of(size: Any) -> Shape | None:
    """Height and width of ``data.size``."""
    if size is None:
        return None
    sides = [size, size] if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else []
    if len(sides) != 2 or not all(isinstance(side, int) and 4 <= side <= 1024 for side in sides):
        raise ValueError(f"data.size={size}: allowed are a whole number from 4 to 1024, or two: [height, width]")
    return sides[0], sides[1]


def _below(place: Path, suffixes: Collection[str]) -> list[Path]:
    """Files of a folder, in order, but for hidden ones, such as a Mac leaves in archives."""
    return [f for f in sorted(place.rglob("*")) if f.suffix.lower() in suffixes and f.is_file() and seen(f, place)]


def seen(path: Path, place: Path) -> bool:
    """Whether neither a file nor a folder above it is hidden."""
    return not any(part.startswith((".", "__MACOSX")) for part in path.relative_to(place).parts)


def _left_out(place: Path, files: Sequence[Path]) -> list[str]:
    """What is said of files of a folder of images that are none."""
    if files[0].suffix.lower() not in SUFFIXES:
        return []
    others = sorted(f for f in place.rglob("*") if f.is_file() and seen(f, place) and f.suffix.lower() not in SUFFIXES)
    if not others:
        return []
    more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
    allowed = ", ".join(sorted(SUFFIXES))
    return [f"data.path={place}: {others[0].relative_to(place)}{more} left out; images are {allowed}"]


def _folders(place: Path) -> list[str]:
    return sorted(str(one.relative_to(place)) for one in place.rglob("*") if one.is_dir())
