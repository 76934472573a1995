"""Bad input, in words for the person who gave it: one or two lines that name the key, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """Bad input, in words for the person who gave it."""


def close(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Those of the known names that a mistyped one may have meant."""
    return difflib.get_close_matches(name, list(known), most, 0.5)


def allowed(name: str, known: Iterable[str], most: int = 3) -> str:
    """What is allowed in a mistyped name's place: those that come near it, or all."""
    known = list(known)
    return f"allowed are {', '.join(close(name, known, most) or known)}"


def of_yaml(value: object, rule: str) -> str:
    """Why a word of a file came in as true or false; empty where that is not what is wrong."""
    if not isinstance(value, bool) or "bool" in rule:
        return ""
    words = "on and yes" if value else "off and no"
    return f"; {words} are {str(value).lower()} in YAML, and words between quotation marks"
