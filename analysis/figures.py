"""Every figure of a study, by name: `analysis.report.export` writes them all, a page or a notebook shows some.

for name, kind in FIGURES.items():
    figure = kind.static(front, study.run)  # or kind.interactive; None where there is nothing to draw
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import plotly.graph_objects as go
from matplotlib.figure import Figure

from analysis.pareto import Front
from analysis.plots import interactive_front, static_front


def _nothing(front: Front, run: Path) -> None:
    """There is no such version of a figure."""


class Kind(NamedTuple):
    """One kind of figure.

    Attributes:
        title: what it shows, in a few words.
        caption: how to read it, in one or two sentences.
        static: for paper (PNG, PDF), from the front (its ``points`` are all members considered) and the run folder.
        interactive: for the screen. Either gives ``None`` where the study has nothing to draw.
    """

    title: str
    caption: str
    static: Callable[[Front, Path], Figure | None] = _nothing
    interactive: Callable[[Front, Path], go.Figure | None] = _nothing


#: In the order in which a reader wants them. Names are those of the files under ``figures/``.
FIGURES: Mapping[str, Kind] = MappingProxyType(
    {
        "front": Kind(
            "Pareto front",
            "A point is a trial; those on the line are not dominated. Hollow: collapsed posterior, no trade-off.",
            lambda front, run: static_front(front),
            lambda front, run: interactive_front(front),
        ),
    }
)
