"""Data sets by name. NumPy only: a driver need not load torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from gimtune import parts
from gimtune.data import digits, idx, kept, own, published, tables, vision  # noqa: F401 - they register themselves
from gimtune.data.binarized import binarized as made_binary
from gimtune.data.dataset import DATASETS, SPLITS, WHERE, Dataset, from_splits, malformed, parted, stratified
from gimtune.data.idx import find

__all__ = [
    "DATASETS",
    "SPLITS",
    "WHERE",
    "Dataset",
    "content",
    "find",
    "from_splits",
    "image",
    "kept",
    "load",
    "parted",
    "stratified",
    "takes",
    "vectors",
]


def load(name: str, seed: int = 0, pair: str | None = None, binarized: str | None = None, **options: Any) -> Dataset:
    """A data set in its splits.

    Args:
        seed: of the splits.
        pair: data set of the second domain; by default this one's images, turned and inverted.
        binarized: how pixels are made black or white, in both domains (`gimtune.data.binarized`); null: they are not.
        options: those of the data set; where it does not take ``root`` or ``download``, they do no harm. ``content``
            is the digest that it should have.

    Raises:
        ValueError: no such data set or option, or files whose content is another.
        FileNotFoundError: the files are nowhere, and cannot be had.
    """
    if name not in DATASETS:
        raise ValueError(f"data.name={name!r}: {parts.allowed(name, DATASETS)}")
    if pair is not None and pair != name:
        other = load(pair, seed, binarized=binarized, **_where(options))
        own = load(name, seed, binarized=binarized, **options)
        if other.image != own.image:
            raise ValueError(f"data.pair={pair}: its images are {other.image}, those of {name} {own.image}")
        return replace(own, other=other.images, digest=f"{own.digest}-{other.digest}")
    known, content = takes(name), options.pop("content", None)
    for key, value in options.items():
        if key not in (*known, *WHERE):
            raise ValueError(f"data.{key}={value}: {name} takes {', '.join(known) or 'no options'}")
    asked = {key: value for key, value in options.items() if key in known and value is not None}
    for key, parameter in known.items():
        if key not in asked and parameter.default is parameter.empty:
            raise ValueError(f"data.{key}: missing; {name} takes {', '.join(known)}")
    try:
        made = DATASETS[name](seed=seed, **asked)
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # whatever somebody's own data set raises
        stated = "".join(f" data.{key}={value}" for key, value in asked.items())
        raise ValueError(f"data={name}{stated}: {type(error).__name__}: {error}".splitlines()[0]) from None
    if not isinstance(made, Dataset):
        raise ValueError(f"data={name}: it makes {type(made).__name__}; it should make a Dataset")
    if not DATASETS.ours(name):
        _check(name, made)
    if content is not None and content != made.digest:
        raise ValueError(f"data={name}: its content is not what it was ({made.digest} in place of {content})")
    return made if binarized is None else made_binary(made, binarized, seed)


def _check(name: str, made: Dataset) -> None:
    """Refuse a data set of somebody's own that `from_splits` would not have made: likelihoods take images in [0, 1]."""
    for split in SPLITS:
        if why := malformed(split, made.images, made.labels, made.scale):
            raise ValueError(f"data={name}: {why}")
        if made.labels[split].dtype.kind not in "iu":
            raise ValueError(f"data={name}: {split} labels are {made.labels[split].dtype}; allowed are whole numbers")


def image(name: str, seed: int, **options: Any) -> tuple[int, int, int]:
    """Colours, height and width of a data set's images: as it declares them, or else by reading it, once.

    Raises:
        ValueError, FileNotFoundError: as `load`.
    """
    declared: tuple[int, int, int] | None = getattr(DATASETS.get(name), "image", None)
    return declared or _read(json.dumps([name, seed, options], sort_keys=True, default=str))[0]


def content(name: str, seed: int, **options: Any) -> str | None:
    """The digest of a data set that may be any images; ``None`` of one that is published, and of one shape.

    Raises:
        ValueError, FileNotFoundError: as `load`.
    """
    if getattr(DATASETS.get(name), "image", None):
        return None
    return _read(json.dumps([name, seed, options], sort_keys=True, default=str))[1]


def vectors(name: str, seed: int, **options: Any) -> bool:
    """Whether a data set has vectors, and not images.

    Raises:
        ValueError, FileNotFoundError: as `load`.
    """
    if getattr(DATASETS.get(name), "image", None):
        return False
    return _read(json.dumps([name, seed, options], sort_keys=True, default=str))[2]


@cache
def _read(asked: str) -> tuple[tuple[int, int, int], str, bool]:
    name, seed, options = json.loads(asked)
    made = load(name, seed, **options)
    return made.image, made.digest, made.vectors


def takes(name: str) -> Mapping[str, Any]:
    """Options of a data set, by name."""
    return parts.signature_options(DATASETS[name].function, ("seed",))


def _where(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in WHERE}
