"""Values of a row as text, for a terminal, a page or a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from gimtune.results.store import Value

_LONGEST = 2000


def number(value: Value) -> str:
    """Four digits of a number, ``-`` for none, and text as it is, but for its 2,000th character and beyond.

    >>> number(0.123456), number(12345.6), number(None), number("vae")
    ('0.1235', '12346', '-', 'vae')
    """
    if pd.isna(value):
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"
    return plain(str(value)[:_LONGEST])


def rounded(error: float) -> str:
    """One digit of a standard error.

    >>> rounded(0.0143), rounded(4.7), rounded(23.1)
    ('0.01', '5', '20')
    """
    return f"{float(f'{error:.1g}'):g}"


def plain(value: object) -> str:
    """Text without what could steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in str(value))


def short(text: str, width: int) -> str:
    """Text, cut off after ``width`` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def plural(count: int, one: str) -> str:
    """A number of things.

    >>> plural(1, "model"), plural(0, "model")
    ('1 model', '0 models')
    """
    return f"{count:,} {one}" + "s" * (count != 1)


def distances(meta: Mapping[str, str], trials: pd.DataFrame) -> str:
    """By which features a study compared its images, what is known of them, and how many images: empty if not said."""
    if not (name := meta.get("fid_features")):
        return ""
    told = f"FID features: {name}"
    if accuracy := meta.get("classifier_test_accuracy"):
        told += f", of test accuracy {accuracy}"
    elif name.partition(":")[0] == "random":
        told += ", which nothing has trained: they see texture, brightness and colour, and not what is depicted"
    if many := against(trials):
        told += f"; {many}"
    floors = {float(floor) for floor in trials["fid_floor"].dropna()} if "fid_floor" in trials else set()
    return f"{told}; real training images have {number(floors.pop())}" if len(floors) == 1 else told


def against(trials: pd.DataFrame) -> str:
    """How many images were generated to be compared, and with how many; empty if not said."""
    made, held = (
        " or ".join(f"{int(count):,}" for count in sorted(trials[key].dropna().unique())) if key in trials else ""
        for key in ("fid_samples", "fid_reference_samples")
    )
    return f"{made} generated images against {held} held-out ones" if made and held else ""


def flags(row: Mapping[Any, Value]) -> dict[str, str]:
    """Why metrics of a row are not to be trusted: {metric: reason}.

    Raises:
        ValueError: the column holds something else.
    """
    text = row.get("flags")
    if not isinstance(text, str) or not text:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"trial {plain(row.get('trial'))}: column flags is no JSON object")
    return {str(key): str(why) for key, why in found.items()}
