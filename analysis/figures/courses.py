"""How two objectives went as members were trained, a panel for each model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from plotly.subplots import make_subplots

from gimtune.analysis.figures import paper, screen
from gimtune.analysis.figures.look import Axis, axis, escaped, name, rank, style
from gimtune.analysis.figures.paper import key
from gimtune.analysis.figures.views import course, some
from gimtune.analysis.text import number, short
from gimtune.results.load import load
from gimtune.results.pareto import Front

_COLUMNS = 4


class _Courses(NamedTuple):
    models: dict[str, pd.DataFrame]
    weights: dict[float, str]
    x: Axis
    y: Axis


def _courses(front: Front, run: Path) -> _Courses | None:
    if not {"trial", "weight", "model"} <= {*front.points} or not (run / "study.db").is_file():
        return None
    x, y = [*front.objectives][:2]
    rows = course(front.points, load(run).reports, x, y)
    if rows.empty:
        return None
    ends = rows.assign(collapsed=False, on_front=False)
    axes = [axis(ends, k)._replace(label=axis(front.points, k).label) for k in (x, y)]
    weights = sorted(rows["weight"].unique())
    steps = np.linspace(0, 0.9, len(weights))
    shades = {weight: to_hex(colormaps["viridis"](step)) for weight, step in zip(weights, steps, strict=True)}
    models = {model: rows[rows["model"] == model] for model in sorted(rows["model"].unique(), key=rank)}
    return _Courses(models, shades, *axes)


def static_courses(front: Front, run: Path) -> Figure | None:
    """Two objectives from the first evaluation to the last, a line for each weight."""
    if (found := _courses(front, run)) is None:
        return None
    columns = min(_COLUMNS, len(found.models))
    rows = -(-len(found.models) // columns)
    width, height = max(4.8, 0.8 + 2.1 * columns), 1.3 + 1.6 * rows
    figure = paper.sheet(width, height, fitted=False)
    figure.subplots_adjust(0.8 / width, 0.6 / height, 1 - 0.1 / width, 1 - 0.7 / height, 0.1, 0.3)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for i, (model, table) in enumerate(found.models.items()):
        axes, looks = grid[i], style(model)
        paper.panel(axes, found.x, found.y, labels=False)
        axes.xaxis.set_major_locator(LogLocator(numticks=4)) if found.x.logarithmic else None
        for weight, line in table.groupby("weight"):
            xs, ys = found.x.clipped(line[found.x.key]), found.y.clipped(line[found.y.key])
            shade = found.weights[float(weight)]  # type: ignore[arg-type]  # pandas: a group's key
            axes.plot(xs, ys, color=shade, linewidth=1.1)
            axes.scatter(xs[:-1], ys[:-1], s=5, color=shade, zorder=3, clip_on=False)
            face = shade if line["levelled"].iloc[-1] else "none"
            end = {"marker": looks.marker, "facecolors": face, "edgecolors": shade, "linewidths": 0.9}
            axes.scatter(xs.iloc[-1:], ys.iloc[-1:], s=34, zorder=4, clip_on=False, **end)
        axes.set_title(short(model, 20), fontsize=8, parse_math=False, pad=3)
        axes.tick_params(labelsize=7, labelbottom=i + columns >= len(found.models), labelleft=i % columns == 0)
    for axes in [*grid][len(found.models) :]:
        axes.remove()
    shown = some(found.weights, 8)
    keys = [key(f"weight {number(weight)}", color=found.weights[weight], linewidth=1.1) for weight in shown]
    keys.append(key("end of training", marker="o", color="0.25", linestyle="", markersize=5))
    keys.append(key("not levelled off", marker="o", color="0.25", linestyle="", markerfacecolor="none", markersize=5))
    figure.legend(handles=keys, loc="upper center", ncols=min(len(keys), int(width // 1.3)), frameon=False, fontsize=8)
    figure.supxlabel(found.x.label, fontsize=9, parse_math=False)
    figure.supylabel(paper.fitting(found.y.label, figure), x=0.02, fontsize=9, parse_math=False)
    return figure


def interactive_courses(front: Front, run: Path) -> go.Figure | None:
    """The same for the screen."""
    if (found := _courses(front, run)) is None:
        return None
    columns = min(_COLUMNS, len(found.models))
    rows = -(-len(found.models) // columns)
    titles = [escaped(short(model, 20)) for model in found.models]
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.28 / rows)
    for i, (model, table) in enumerate(found.models.items()):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        for weight, line in table.groupby("weight"):
            shade = found.weights[float(weight)]  # type: ignore[arg-type]  # pandas: a group's key
            end = style(model).symbol + ("" if line["levelled"].iloc[-1] else "-open")
            figure.add_scatter(
                x=line[found.x.key],
                y=line[found.y.key],
                mode="lines+markers",
                showlegend=False,
                line={"color": shade, "width": 1.5},
                marker={"symbol": ["circle"] * (len(line) - 1) + [end], "size": [4] * (len(line) - 1) + [10]},
                hovertext=[_told(row, found) for row in line.to_dict("records")],
                hoverinfo="text",
                **place,
            )
        figure.update_xaxes(**{**screen.scales(found.x, narrow=True), "title_text": None}, **place)
        figure.update_yaxes(**{**screen.scales(found.y, narrow=True), "title_text": None}, **place)
    title = f"{found.y.label} against {found.x.label} as training goes on; open at the end: not levelled off"
    return screen.titled(figure, title).update_layout(height=140 + 190 * rows, title_font_size=14)


def _told(row: Mapping[Any, Any], found: _Courses) -> str:
    lines = [f"weight {number(row['weight'])}, epoch {number(row['epoch'])}, {row['members']} members"]
    lines += [f"{name(one.key)} {number(row[one.key])}" for one in (found.x, found.y)]
    return "<br>".join([f"<b>{escaped(short(str(row['model']), 20))}</b>", *map(escaped, lines)])
