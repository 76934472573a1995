"""Members in a plane: two objectives and information against each other, rate against distortion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from gimtune.analysis.figures import paper, screen
from gimtune.analysis.figures.look import PAPER, SCREEN, Axis, axis, fewer, name
from gimtune.analysis.figures.paper import key
from gimtune.analysis.figures.screen import brief
from gimtune.analysis.figures.views import measured, rate_distortion, thinned
from gimtune.analysis.text import short
from gimtune.results.pareto import Front
from gimtune.results.varied import varied

#: Its lightness rises steadily: it reads in grey and for the colour-blind (Smith & van der Walt 2015).
_SCALE = "viridis"
_INFORMATION = ("mi_noised", "mi_upper", "mi_lower")
_RATES = {
    "prior": "rate: KL(q(z|x) || p(z)) (nats)",
    "information": "rate under the best prior: I_q (nats, Gaussian q(z))",
}


class _Panel(NamedTuple):
    points: pd.DataFrame
    x: Axis
    y: Axis


def _drawn(panels: Sequence[_Panel], most: int) -> tuple[list[_Panel], str]:
    """Panels with fewer points, and what is to be said of it."""
    fewest = [panel._replace(points=thinned(panel.points, most)) for panel in panels]
    numbers = max(zip(map(len, (p.points for p in panels)), map(len, (p.points for p in fewest)), strict=True))
    return fewest, fewer(numbers[1], numbers[0]).strip()


def _static_panels(panels: Sequence[_Panel], columns: int, width: float, height: float) -> Figure:
    """Scatters side by side, coloured by model, one legend for all."""
    panels, note = _drawn(panels, PAPER // len(panels))
    figure = paper.sheet(width, height)
    rows = -(-len(panels) // columns)
    for i, (panel, axes) in enumerate(zip(panels, figure.subplots(rows, columns, squeeze=False).flat, strict=False)):
        paper.panel(axes, panel.x, panel.y)
        paper.scatter(axes, panel.points, panel.x, panel.y, size=0.6)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(text=label.get_text().replace(" (", "\n("), size=8)
        axes.tick_params(labelsize=8)
        if rows > 1 or (i % columns and panel.y == panels[i - 1].y):
            axes.label_outer()
    paper.legend(figure, panels)
    if note:
        figure.suptitle(note, fontsize=9)
    return figure


def _interactive_panels(panels: Sequence[_Panel], columns: int, title: str, height: int) -> go.Figure:
    panels, note = _drawn(panels, SCREEN // len(panels))
    figure = make_subplots(-(-len(panels) // columns), columns, horizontal_spacing=0.1, vertical_spacing=0.16)
    named: set[str] = set()
    for i, panel in enumerate(panels):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        tell = partial(_told, keys=(panel.x.key, panel.y.key), varied=varied(panel.points))
        few = panel.points.filter([*dict.fromkeys([*screen.TOLD, *varied(panel.points), panel.x.key, panel.y.key])])
        for trace in screen.traces(few, panel.x.key, panel.y.key, tell):
            trace.showlegend = trace.legendgroup not in named
            named.add(trace.legendgroup)
            figure.add_trace(trace, **place)
        figure.update_xaxes(**screen.scales(panel.x, narrow=True), **place)
        figure.update_yaxes(**screen.scales(panel.y, narrow=True), **place)
    if any(one.beyond(panel.points[one.key]).any() for panel in panels for one in (panel.x, panel.y)):
        note += " (a double click shows points beyond the axes)"
    return screen.titled(figure, " ".join(filter(None, (title, note)))).update_layout(height=height)


def _told(row: Mapping[Any, Any], keys: Sequence[str], varied: Sequence[str]) -> str:
    return brief(row, *keys, varied=varied)


def _objectives(front: Front) -> tuple[str, str]:
    """The study's first two objectives, what is to be small on the horizontal axis."""
    one, other = sorted([*front.objectives][:2], key=lambda key: front.objectives[key] != "min")
    return one, other


# Two objectives against each other, coloured by information


class _Coloured(NamedTuple):
    points: pd.DataFrame
    x: Axis
    y: Axis
    ends: tuple[float, float]


def _coloured(front: Front) -> _Coloured | None:
    plane = _objectives(front)
    points = measured(front.points, plane)
    points = points.reindex(columns=[*dict.fromkeys([*points, "mi_noised"])])
    kept = points.loc[~points["collapsed"].astype(bool), "mi_noised"].dropna()
    if kept.empty:
        return None
    low, high = kept.quantile([0.01, 0.99])
    x, y = (axis(points, k) for k in plane)
    return _Coloured(points, x, y, (max(0.0, low), max(high, low + 1e-9)))


def static_information(front: Front, run: Path) -> Figure | None:
    """Two objectives, coloured by mutual information; marker by model."""
    if (found := _coloured(front)) is None:
        return None
    points = thinned(found.points, PAPER)
    figure = paper.sheet(7.6, 4.6)
    axes = figure.add_subplot()
    paper.panel(axes, found.x, found.y)
    normal, scale = Normalize(*found.ends, clip=True), colormaps[_SCALE].with_extremes(bad="white")

    def colour(rows: pd.DataFrame) -> Any:
        return scale(normal(np.ma.masked_invalid(rows["mi_noised"].to_numpy(dtype=float))))

    paper.scatter(axes, points, found.x, found.y, colour=colour)
    bar = figure.colorbar(ScalarMappable(normal, scale), ax=axes, pad=0.02, aspect=30)
    bar.set_label(f"{name('mi_noised')} (nats)")
    extra = [key("no estimate", marker="o", color="white", markeredgecolor="0.3", linestyle="")]
    extra = extra if points["mi_noised"].isna().any() else []
    paper.legend(figure, [(points, found.x, found.y)], extra=extra, coloured=False)
    axes.set_title(f"large: on the front {fewer(len(points), len(found.points)).strip()}", fontsize=9)
    return figure


def interactive_information(front: Front, run: Path) -> go.Figure | None:
    """The same for the screen."""
    if (found := _coloured(front)) is None:
        return None
    points = thinned(found.points, SCREEN)
    plane = found.x.key, found.y.key
    said = ", ".join([*map(name, plane), "information"])
    figure = screen.titled(go.Figure(), f"{said} {fewer(len(points), len(found.points))}")
    tell = partial(_told, keys=(*plane, *_INFORMATION), varied=varied(points))
    for trace in screen.traces(points, *plane, tell):
        if trace.hoverinfo == "text":
            rows = points.loc[[*trace.customdata]]
            trace.marker.update(color=rows["mi_noised"].fillna(found.ends[0]), coloraxis="coloraxis", opacity=0.9)
        figure.add_trace(trace)
    low, high = found.ends
    bar = {"title": {"text": "I_q of noised codes (nats)", "side": "right"}, "x": 1.0}
    figure.update_layout(coloraxis={"colorscale": _SCALE, "cmin": low, "cmax": high, "colorbar": bar})
    figure.update_layout(legend={"x": 1.14, "itemsizing": "constant"})
    return figure.update_xaxes(**screen.scales(found.x)).update_yaxes(**screen.scales(found.y))


# Information against both


def _informed(front: Front) -> list[_Panel]:
    against = [key for key in _objectives(front) if key not in _INFORMATION]
    axes = {k: axis(points, k) for k in (*_INFORMATION, *against) if len(points := measured(front.points, [k]))}
    if len(axes) < len(_INFORMATION) + len(against):
        return []
    return [_Panel(measured(front.points, [x, y]), axes[x], axes[y]) for y in against for x in _INFORMATION]


def static_mi(front: Front, run: Path) -> Figure | None:
    """Mutual information, by three estimates, against two objectives."""
    panels = _informed(front)
    return _static_panels(panels, len(_INFORMATION), 9.4, 5.4) if panels else None


def interactive_mi(front: Front, run: Path) -> go.Figure | None:
    """The same for the screen."""
    panels = _informed(front)
    title = f"Mutual information against {' and '.join(map(name, _objectives(front)))}"
    return _interactive_panels(panels, len(_INFORMATION), title, 760) if panels else None


# Rate and distortion


def _plane(front: Front) -> tuple[list[_Panel], str]:
    found = rate_distortion(front.points)
    every = pd.concat([*found.points.values()])
    if every.empty:
        return [], ""
    y = axis(every, "distortion", f"distortion: -E[log p(x|z)] ({short(found.likelihood, 20)}, nats)")
    kinds = [(points, axis(points, "rate", _RATES[kind])) for kind, points in found.points.items() if len(points)]
    panels = [_Panel(points, x, y) for points, x in kinds]
    left = ", ".join(f"{count} {why}" for why, count in found.left_out.items())
    return panels, f"left out: {short(left, 110)}" if left else ""


def static_rate_distortion(front: Front, run: Path) -> Figure | None:
    """Rate and distortion of the models of side q, by the rate that they restrict and by the least there could be."""
    panels, left = _plane(front)
    if not panels:
        return None
    figure = _static_panels(panels, len(panels), 2.2 + 3.6 * len(panels), 4.2)
    figure.supxlabel(left, fontsize=7, color="0.3")
    return figure


def interactive_rate_distortion(front: Front, run: Path) -> go.Figure | None:
    """The same for the screen."""
    panels, left = _plane(front)
    return _interactive_panels(panels, len(panels), f"Rate and distortion; {left}", 520) if panels else None
