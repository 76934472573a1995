"""Runs side by side: what the seeds of one attain more than those of another, in words and as areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from gimtune.analysis.statistics.attainment import AttainmentDifference, attainment_difference
from gimtune.analysis.text import number, plain
from gimtune.results.load import Study

#: Rectangles of a difference.
_AREAS = 2000


def compared(
    runs: Sequence[Study], labels: list[str], objectives: Mapping[str, str], only: Mapping[str, str] | None
) -> list[tuple[AttainmentDifference | None, str]]:
    """The attainment of the first run less that of each other, and the same in words."""
    told: list[tuple[AttainmentDifference | None, str]] = []
    for study, label in zip(runs[1:], labels[1:], strict=True):
        pair = f"{plain(labels[0])} less {plain(label)}"
        try:
            found = attainment_difference(runs[0].trials, study.trials, objectives, only=only)
        except ValueError as error:
            told.append((None, f"{pair}: {plain(error)}"))
            continue
        reference = ", ".join(f"{key} {number(value)}" for key, value in found.reference.items())
        told.append(
            (found, f"{pair}: {found.hypervolume:+.4g} of hypervolume on average over seeds, measured from {reference}")
        )
    return told


def attained(found: AttainmentDifference, layout: Any) -> go.Figure:
    """Where the seeds of the first run attain more, in blue, and where those of the second, in orange; by how much."""
    x, y = found.objectives
    figure = go.Figure(layout=layout)
    for key, areas in found.rectangles.head(_AREAS).groupby("difference"):
        share = float(str(key))
        x0, x1, y0, y1 = (
            areas[f"{key}_{end}"].replace([np.inf, -np.inf], found.reference[key]).to_numpy(dtype=float)
            for key in (x, y)
            for end in ("from", "to")
        )
        gap = np.full(len(areas), np.nan)
        figure.add_scatter(
            x=np.stack([x0, x1, x1, x0, x0, gap], 1).ravel(),
            y=np.stack([y0, y0, y1, y1, y0, gap], 1).ravel(),
            mode="lines",
            fill="toself",
            line={"width": 0},
            fillcolor=f"rgba({'0,114,178' if share > 0 else '213,94,0'},{0.15 + 0.75 * min(1.0, abs(share)):.2f})",
            name=f"{share:+.0%} of the seeds",
            hoverinfo="name",
        )
    # where the fronts are: the areas go on to the reference point
    for key, axis in ((x, figure.layout.xaxis), (y, figure.layout.yaxis)):
        ends = found.rectangles[f"{key}_from"].to_numpy(dtype=float)
        ends = np.log10(ends) if axis.type == "log" else ends
        margin = 0.15 * (np.ptp(ends) or 0.1)
        axis.range = [float(ends.min() - margin), float(ends.max() + margin)]
    return figure
