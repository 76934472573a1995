"""Bad input, in words for the person who gave it: one or two lines that name the key, the value and what is allowed."""

from __future__ import annotations

import re
from typing import Any

#: What pydantic finds, by its type of error, with what its context has filled in.
_RULES = {
    "bool_type": "allowed are true and false",
    "dict_type": "allowed is a mapping of keys",
    "finite_number": "allowed are finite numbers",
    "float_type": "allowed are numbers",
    "greater_than": "allowed are numbers greater than {gt}",
    "greater_than_equal": "allowed are numbers from {ge}",
    "int_type": "allowed are whole numbers",
    "less_than": "allowed are numbers less than {lt}",
    "less_than_equal": "allowed are numbers up to {le}",
    "list_type": "allowed is a list",
    "literal_error": "allowed are {expected}",
    "model_type": "allowed is a mapping of keys",
    "string_pattern_mismatch": "allowed are letters, digits, '_', '.' and '-', 64 at most",
    "string_type": "allowed is text",
    "too_short": "allowed are lists of at least {min_length}",
}


class ConfigError(ValueError):
    """Bad input, in words for the person who gave it."""


def first_line(error: BaseException) -> str:
    """What an error says, or that which it came from, or its kind.

    >>> first_line(ValueError("one\\ntwo"))
    'one'

    Raises:
        KeyboardInterrupt: it came from the program being asked to end.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        if isinstance(cause, KeyboardInterrupt):
            raise cause
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return next((str(one).strip().splitlines()[0] for one in chain if str(one).strip()), type(error).__name__)


def rule(error: Any) -> str:
    """What is allowed where pydantic found an error.

    >>> rule({"type": "greater_than", "ctx": {"gt": 0}, "msg": "Input should be greater than 0"})
    'allowed are numbers greater than 0'
    >>> rule({"type": "literal_error", "ctx": {"expected": "'end', 'always' or 'never'"}, "msg": ""})
    'allowed are end, always, never'
    """
    if error["type"] not in _RULES:
        return error["msg"].removeprefix("Value error, ").removeprefix("Input ") + _of_yaml(error.get("input"))
    if error["type"] == "bool_type":
        return _RULES["bool_type"]
    filled = {
        key: ", ".join(re.findall(r"'([^']*)'", value)) if key == "expected" else f"{value:g}"
        for key, value in error.get("ctx", {}).items()
        if key == "expected" or isinstance(value, int | float)
    }
    return _RULES[error["type"]].format(**filled) + _of_yaml(error.get("input"))


def _of_yaml(value: object) -> str:
    """Why a word of a file came in as true or false; empty where it did not."""
    if not isinstance(value, bool):
        return ""
    words = "on and yes" if value else "off and no"
    return f"; {words} are {str(value).lower()} in YAML, and words between quotation marks"
