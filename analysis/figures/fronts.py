"""The front itself, for paper and for the screen, with what seeds attain. Holds no logic about fronts."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure

from gimtune.analysis.figures import paper, screen
from gimtune.analysis.figures.look import PAPER, SCREEN, Axis, axis, escaped, fewer
from gimtune.analysis.figures.paper import key
from gimtune.analysis.figures.screen import hover
from gimtune.analysis.figures.views import Band, thinned
from gimtune.analysis.text import short
from gimtune.results.pareto import Front
from gimtune.results.varied import varied
from gimtune.vocabulary import Direction


def static_front(front: Front, seeds: Band | None = None) -> Figure:
    """The first two objectives, the front as a step line, and what ``seeds`` of its points attain.

    Collapsed points off the front do not stretch the axes: those beyond stand at the edge.
    """
    points = thinned(front.points, PAPER)
    x, y = (axis(front.points, key, direction=way) for key, way in [*front.objectives.items()][:2])
    figure = paper.sheet(7.2, 4.6)
    axes = figure.add_subplot()
    paper.panel(axes, x, y)
    paper.scatter(axes, points, x, y)
    extra = [key("front", marker="o", color="black", linewidth=1, markerfacecolor="white")]
    if seeds:
        xs, best, median, worst = _steps(seeds, x, y, front)
        axes.fill_between(xs, worst, best, step="post", color="0.85", linewidth=0, zorder=1)
        extra.append(key(f"attained by some\nto all of {seeds.seeds} seeds", color="0.85", linewidth=6))
        if seeds.seeds > 2:
            axes.plot(xs, median, drawstyle="steps-post", color="0.35", linewidth=1, linestyle="--", zorder=1.5)
            extra.append(key("by half of them", color="0.35", linewidth=1, linestyle="--"))
    if len(front.objectives) == 2 and len(front.rows):
        axes.plot(front.rows[x.key], front.rows[y.key], drawstyle="steps-post", color="black", linewidth=1, zorder=2.5)
    paper.legend(figure, [(points, x, y)], extra=extra)
    axes.set_title(_title(front, len(points)), fontsize=10, parse_math=False)
    return figure


def _steps(found: Band, x: Axis, y: Axis, front: Front) -> tuple[np.ndarray, ...]:
    """The band's corners, on to the worse end of the first axis, and at the worse end of the second where none is."""
    ends = [(a.low if front.objectives[a.key] is Direction.MAX else a.high) for a in (x, y)]
    lines = (np.append(line, line[-1]) for line in (found.best, found.median, found.worst))
    return np.append(found.x, ends[0]), *(np.where(np.isfinite(line), line, ends[1]) for line in lines)


def interactive_front(front: Front, seeds: Band | None = None) -> go.Figure:
    """The same for the screen; hover shows a trial's configuration and metrics."""
    points = thinned(front.points, SCREEN)
    x, y = (axis(front.points, key, direction=way) for key, way in [*front.objectives.items()][:2])
    figure = screen.titled(go.Figure(), "")
    if seeds:
        xs, best, median, worst = _steps(seeds, x, y, front)
        looks = {"mode": "lines", "hoverinfo": "skip", "legendrank": 1500}
        edge = {"shape": "hv", "width": 0}
        figure.add_scatter(x=xs, y=worst, line=edge, legendgroup="band", showlegend=False, **looks)
        figure.add_scatter(
            x=xs,
            y=best,
            line=edge,
            fill="tonexty",
            fillcolor="rgba(0, 0, 0, 0.12)",
            legendgroup="band",
            name=f"attained by<br>some to all<br>of {seeds.seeds} seeds",
            **looks,
        )
        if seeds.seeds > 2:
            line = {"shape": "hv", "color": "#595959", "width": 1.2, "dash": "dash"}
            figure.add_scatter(x=xs, y=median, line=line, name="by half<br>of them", **looks)
    figure.add_traces([*screen.traces(points, x.key, y.key, partial(hover, varied=varied(points)))])
    if len(front.objectives) == 2 and len(front.rows):
        figure.add_scatter(
            x=front.rows[x.key],
            y=front.rows[y.key],
            mode="lines",
            line={"shape": "hv", "color": "black", "width": 1.2},
            name="front",
            hoverinfo="skip",
        )
    counted, _, drawn = escaped(_title(front, len(points))).partition("\n")
    title = f"{counted}<br><sub>hollow: collapsed posterior (I below .5 nats) {drawn}</sub>"
    return figure.update_layout(title_text=title).update_xaxes(**screen.scales(x)).update_yaxes(**screen.scales(y))


def _title(front: Front, drawn: int) -> str:
    def names(column: str) -> str:
        return ", ".join(front.points[column].dropna().astype(str).unique()) if column in front.points else ""

    if front.points.empty:
        return "no finished trial"
    where = " on ".join(filter(None, (names("study"), names("data"))))
    counted = f"{short(where, 40)}: {len(front.rows):,} of {len(front.points):,} trials on the front"
    return "\n".join(filter(None, (counted, fewer(drawn, len(front.points)).strip())))
