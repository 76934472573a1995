"""The examples in docstrings of what reads a study hold."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join((room, *path.relative_to(folder).with_suffix("").parts))
    for room, folder in (("gimtune.results", ROOT / "gimtune" / "results"), ("gimtune.analysis", ROOT / "analysis"))
    for path in sorted(folder.rglob("*.py"))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    assert not doctest.testmod(importlib.import_module(name.removesuffix(".__init__"))).failed


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(name.removesuffix(".__init__")) for name in MODULES]
    assert sum(bool(test.examples) for module in modules for test in finder.find(module)) > 5
