"""How much representation does a generative model give up for generation, and which restriction gives up least?

``python -m gimtune study=tradeoff`` runs a study, and `gimtune.run` does it in Python; `gimtune.open` gives a run with
its members; `gimtune.register` takes in parts of one's own, and `gimtune.testing` checks them; `gimtune.analysis` reads
what a study left behind; `gimtune.tune` has members for a Tuner of one's own. Nothing is imported before it is asked
for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gimtune import analysis, register, testing, tune
    from gimtune.api import ConfigError, Run, Trained, merge, open, run  # noqa: A004

__all__ = ["ConfigError", "Run", "Trained", "analysis", "merge", "open", "register", "run", "testing", "tune"]
_OF_API = ("ConfigError", "Run", "Trained", "merge", "open", "run")


def __getattr__(name: str) -> Any:
    if name in _OF_API:
        return getattr(import_module("gimtune.api"), name)
    if name in __all__:
        return import_module(f"gimtune.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
