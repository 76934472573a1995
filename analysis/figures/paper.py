"""Figures for paper: an empty sheet, panels, scatters and legends (matplotlib)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis as MatplotlibAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from gimtune.analysis.figures.look import Axis, alike, rank, style
from gimtune.analysis.figures.views import flagged
from gimtune.analysis.text import short


def sheet(width: float, height: float, *, fitted: bool = True) -> Figure:
    """An empty figure, in inches, without pyplot; ``fitted`` finds room for labels and legends when it is drawn."""
    figure = Figure(figsize=(width, height), dpi=200, layout="constrained" if fitted else None)
    FigureCanvasAgg(figure)
    return figure


def fitting(label: str, figure: Figure) -> str:
    """An axis' label in lines that a figure is high enough for."""
    return textwrap.fill(label, max(12, int(12 * figure.get_size_inches()[1])))


def panel(axes: Axes, x: Axis, y: Axis, *, labels: bool = True) -> None:
    """Scales, ends, labels and grid."""
    for it, of, scale in ((x, axes.xaxis, axes.set_xscale), (y, axes.yaxis, axes.set_yscale)):
        if it.logarithmic:
            scale("log")
            ticks(of, it.high / it.low)
        if labels:
            # in two lines along the height, where there is less room
            of.set_label_text(it.label.replace(" (", "\n(", 1) if of is axes.yaxis else it.label)
        of.label.set_parse_math(False)
    axes.set(xlim=(x.low, x.high), ylim=(y.low, y.high))
    axes.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def ticks(of: MatplotlibAxis, ratio: float) -> None:
    """Ticks of a logarithmic axis, as plain numbers."""
    of.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 300 else (1,)))
    of.set_major_formatter(StrMethodFormatter("{x:g}"))
    of.set_minor_locator(NullLocator())


def scatter(
    axes: Axes, points: pd.DataFrame, x: Axis, y: Axis, *, size: float = 1, colour: Callable[[Any], Any] | None = None
) -> None:
    """Points of a panel, those beyond its ends at its edge.

    Args:
        colour: of each, from its series' points; the model's without.
    """
    crowded = min(1.0, math.sqrt(800 / max(1, len(points))))
    for series in sorted(alike(points), key=lambda s: s.collapsed and not s.on_front):
        paint = series.style.colour if colour is None else colour(series.points)
        axes.scatter(
            x.clipped(series.points[x.key]),
            y.clipped(series.points[y.key]),
            s=size * (70 if series.on_front else 28 * crowded),
            marker=series.style.marker,
            facecolors="none" if series.collapsed else paint,
            edgecolors=paint if series.collapsed else "black" if series.on_front else "0.3",
            linewidths=1.1 if series.on_front or series.collapsed else 0.4,
            alpha=1 if series.on_front or colour else 0.65,
            zorder=3 if series.on_front else 2,
            clip_on=False,
        )
    doubted = points[flagged(points, x.key, y.key)]
    if len(doubted):
        xs, ys = x.clipped(doubted[x.key]), y.clipped(doubted[y.key])
        axes.scatter(xs, ys, s=size * 150, facecolors="none", edgecolors="black", linewidths=0.8, zorder=4)


def legend(
    figure: Figure,
    panels: Iterable[tuple[pd.DataFrame, Axis, Axis]],
    *,
    extra: Iterable[Line2D] = (),
    coloured: bool = True,
) -> None:
    """Models, then what else there is in the panels: the front, collapsed and flagged points, and some at the edge."""
    panels = [*panels]
    points = pd.concat([part for part, *_ in panels])
    keys = []
    for model in sorted(points["model"].fillna("unknown").astype(str).unique(), key=rank):
        looks = style(model)
        colour = looks.colour if coloured else "0.6"
        keys.append(key(short(model, 20), marker=looks.marker, color=colour, linestyle="", markeredgecolor="0.3"))
        keys[-1].set_markeredgewidth(0.4)
    keys += extra
    if points["collapsed"].any():
        keys.append(key("collapsed", marker="o", color="0.4", linestyle="", markerfacecolor="none"))
    if any(flagged(part, x.key, y.key).any() for part, x, y in panels):
        ring = {"markerfacecolor": "none", "markersize": 10, "markeredgewidth": 0.8}
        keys.append(key("flagged: not\nto be trusted", marker="o", color="black", linestyle="", **ring))
    if any(one.beyond(part[one.key]).any() for part, *both in panels for one in both):
        keys.append(key("points at the edge\nlie beyond it", linestyle=""))
    for text in figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)


def key(label: str, **looks: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **looks)
