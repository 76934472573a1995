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
