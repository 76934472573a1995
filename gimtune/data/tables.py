"""Vectors of one's own: tables of numbers, in splits that are given or made."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from gimtune.data.arrays import LABELS, Stored, labels_of, names, opened, said, split_arrays
from gimtune.data.dataset import DATASETS, Dataset, Loader
from gimtune.data.kept import Batches, Listing, keep, stamps

#: What arrays of vectors are called.
_VECTORS = ("vectors", "x", "data", "features", "images", "arr_0")
#: Values of a vector, at most.
_WIDEST = 16_384
_SUFFIXES = (".npy", ".npz", ".csv", ".parquet")


def vectors(seed: int, path: str, labels: str | list[str] | None = None, standardise: bool = True) -> Dataset:
    """Vectors of your own: .npy or .npz of numbers (n, d), or a .csv or .parquet table whose columns are their values.

    ``labels`` names the label columns of a table, or arrays of an .npz; by default the first that is called as one.
    Splits are those of arrays that are called train, validation and test, or made. ``standardise`` gives every value
    mean 0 and deviation 1 over the training split.
    """
    where, file = f"data.path={path}", Path(path).expanduser().resolve()
    named = [labels] if isinstance(labels, str) else labels
    if named is not None and not (isinstance(named, list) and named and all(isinstance(n, str) for n in named)):
        raise ValueError(f"data.labels={labels}: a name of a label column, or a list of names")
    if not isinstance(standardise, bool):
        raise ValueError(f"data.standardise={standardise}: allowed are true and false")
    if not file.exists():
        raise FileNotFoundError(f"{where}: there is no such file")
    if not file.is_file() or file.suffix not in _SUFFIXES:
        raise ValueError(f"{where}: allowed are files that end in {', '.join(_SUFFIXES)}")

    def listed() -> Listing:
        read = _arrays if file.suffix in (".npy", ".npz") else _table
        return read(file, named, standardise)

    return keep("vectors", where, [named, standardise, stamps([file], file.parent)], seed, listed)


DATASETS.enter(Loader(vectors), __name__)


def _check_shape(what: str, values: NDArray[Any] | Stored) -> None:
    if len(values.shape) != 2 or not 1 <= values.shape[1] <= _WIDEST or values.dtype.kind not in "fiu":
        raise ValueError(f"{what} is {values.dtype} {values.shape}; allowed are numbers (n, d), d at most {_WIDEST}")
    _check_room(what, *values.shape)


def _check_room(what: str, rows: int, columns: int) -> None:
    """Refuse a table that is larger than what memory is left: it is read whole."""
    needed, there = 16 * rows * columns / 2**30, psutil.virtual_memory().available / 2**30
    if needed > there:
        raise ValueError(f"{what} has {rows} rows of {columns}: {needed:.2g} GiB of memory, and {there:.2g} are left")


def _listing(
    file: Path,
    found: Sequence[tuple[str, str, NDArray[Any]]],
    labels: dict[str, NDArray[Any]],
    standardise: bool,
) -> Listing:
    """Of arrays with their splits and names."""
    for _, what, values in found:
        _check_shape(f"{file}: {what}", values)
        if values.shape[1] != found[0][2].shape[1]:
            raise ValueError(f"{file}: {what} has {values.shape[1]} values, {found[0][1]} {found[0][2].shape[1]}")
        with np.errstate(over="ignore"):
            bad = np.argwhere(~np.isfinite(values.astype(np.float32)))
        if len(bad):
            raise ValueError(f"{file}: {what} has {values[tuple(bad[0])]} in row {bad[0][0]}, column {bad[0][1]}")

    def batches() -> Batches:
        row = 0
        for _, _, values in found:
            yield np.arange(row, row + len(values)), values.astype(np.float32)[:, None, None]
            row += len(values)

    splits = np.repeat([split for split, _, _ in found], [len(values) for _, _, values in found])
    image = (1, 1, found[0][2].shape[1])
    return Listing(splits, labels, image, batches, scale=1.0, dtype=np.float32, standardised=standardise)


def _arrays(file: Path, named: Sequence[str] | None, standardise: bool) -> Listing:
    entries = names(file)
    keys = {split: next(iter(found.values())) for split, found in split_arrays(file, _VECTORS).items()}
    if not keys:
        there = ", ".join(entries) or "no arrays"
        raise ValueError(f"{file}: no vectors; there are {there}, and vectors or x_train would be looked for")
    stored = {split: opened(file, key, entries[key]) for split, key in keys.items()}
    for split, one in stored.items():
        _check_shape(f"{file}: {keys[split]}", one)
    found = [(split, keys[split], one.whole()) for split, one in stored.items()]
    return _listing(file, found, labels_of(file, entries, stored, named), standardise)


def _table(file: Path, named: Sequence[str] | None, standardise: bool) -> Listing:
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            said_to_be = pq.read_metadata(file)
            _check_room(str(file), said_to_be.num_rows, said_to_be.num_columns)
        else:
            with file.open(newline="") as lines:
                columns = len(next(csv.reader(lines), []))
            if columns > 2 * _WIDEST:  # pandas would take minutes
                raise ValueError(f"it has {columns} columns; allowed are {_WIDEST} values")
        table = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    except (OSError, ValueError, KeyError, OverflowError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read ({said(error)})") from None
    wanted = list(named or [name for name in LABELS if name in table][:1])
    if absent := [name for name in wanted if name not in table]:
        raise ValueError(f"{file}: no column {absent[0]}; there are {', '.join(map(str, table.columns))}")
    rest = table.drop(columns=wanted)
    for name, column in rest.items():
        if column.dtype.kind not in "fiu":
            odd = int(np.argmax(pd.to_numeric(column, errors="coerce").isna()))
            raise ValueError(
                f"{file}: column {name} has {str(column.iloc[odd])[:20]!r} in {_row(file, odd)}; allowed are numbers, "
                "and data.labels names labels"
            )
        if column.isna().any():
            raise ValueError(f"{file}: column {name} has no value in {_row(file, int(np.argmax(column.isna())))}")
    for name in wanted:
        if table[name].isna().any() or table[name].dtype.kind == "f":
            raise ValueError(f"{file}: {name} is not a whole number or a name in every row")
    if not rest.shape[1] or not len(rest):
        raise ValueError(f"{file}: no rows of numbers")
    labels = {name: table[name].to_numpy(dtype=None if table[name].dtype.kind in "iu" else str) for name in wanted}
    return _listing(file, [("train", "the table", rest.to_numpy())], labels, standardise)


def _row(file: Path, row: int) -> str:
    """Where a row stands: of a .csv, the line as an editor shows it, below the names."""
    return f"line {row + 2}" if file.suffix == ".csv" else f"row {row}"
