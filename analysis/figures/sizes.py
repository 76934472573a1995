"""What the size of the code changes: two objectives at each model's best weight, and what is given up up to it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from gimtune.analysis.figures import paper, screen
from gimtune.analysis.figures.look import Axis, axis, escaped, name, rank, style
from gimtune.analysis.figures.paper import key
from gimtune.analysis.figures.views import sizes
from gimtune.analysis.text import number, short
from gimtune.results.pareto import Front

_X = "dimensions of the code"


def _panels(front: Front) -> tuple[dict[str, pd.DataFrame], Axis, list[Axis]] | None:
    """Models, the axis of sizes, and those of the panels."""
    first, second = [*front.objectives][:2]
    rows = (
        sizes(front.points, front.objectives)
        if {"weight", "model", "latent_dim"} <= {*front.points}
        else pd.DataFrame()
    )
    if rows.empty:
        return None
    ends = rows.assign(collapsed=False, on_front=False)
    x = Axis("latent_dim", _X, True, rows["latent_dim"].min() / 1.2, rows["latent_dim"].max() * 1.2)
    panels = [
        axis(ends, k)._replace(label=axis(front.points, k, direction=front.objectives[k]).label)
        for k in (first, second)
    ]
    if rows["given_up"].notna().any():
        low, high = min(0.0, float(rows["given_up"].min())), max(0.0, float(rows["given_up"].max()))
        margin = 0.04 * ((high - low) or 1.0)
        panels.append(Axis("given_up", f"{name(second)} (given up)", False, low - margin, high + margin))
    return {model: rows[rows["model"] == model] for model in sorted(rows["model"].unique(), key=rank)}, x, panels


def _ticks(models: dict[str, pd.DataFrame]) -> tuple[list[float], list[str]]:
    there = sorted({float(size) for rows in models.values() for size in rows["latent_dim"]})
    return there, [number(size) for size in there]


def static_sizes(front: Front, run: Path) -> Figure | None:
    """A panel for each objective and for what is given up, a line for each model."""
    if (found := _panels(front)) is None:
        return None
    models, x, panels = found
    figure = paper.sheet(1.4 + 2.9 * len(panels), 3.2)
    for axes, y in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        paper.panel(axes, x, y)
        axes.set_xticks(*_ticks(models))
        for model, rows in models.items():
            looks = style(model)
            line = {"color": looks.colour, "linewidth": 1, "marker": looks.marker, "markersize": 5}
            axes.plot(rows["latent_dim"], y.clipped(rows[y.key]), markeredgecolor="0.3", markeredgewidth=0.4, **line)
    keys = [
        key(short(model, 20), marker=style(model).marker, color=style(model).colour, linewidth=1) for model in models
    ]
    for text in figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)
    return figure


def interactive_sizes(front: Front, run: Path) -> go.Figure | None:
    """The same for the screen."""
    if (found := _panels(front)) is None:
        return None
    models, x, panels = found
    figure = make_subplots(1, len(panels), horizontal_spacing=0.1)
    places, texts = _ticks(models)
    for column, y in enumerate(panels, 1):
        for model, rows in models.items():
            looks = style(model)
            figure.add_scatter(
                x=rows["latent_dim"],
                y=rows[y.key],
                mode="lines+markers",
                name=escaped(short(model, 20)),
                legendgroup=model,
                showlegend=column == 1,
                line={"color": looks.colour, "width": 1.5},
                marker={"symbol": looks.symbol, "size": 8},
                hovertext=[
                    "<br>".join([f"<b>{escaped(short(model, 20))}</b>", f"{number(size)} dimensions", number(value)])
                    for size, value in zip(rows["latent_dim"], rows[y.key], strict=True)
                ],
                hoverinfo="text",
                row=1,
                col=column,
            )
        figure.update_xaxes(**screen.scales(x, narrow=True), row=1, col=column)
        figure.update_xaxes(tickvals=places, ticktext=texts, row=1, col=column)
        figure.update_yaxes(**screen.scales(y, narrow=True), row=1, col=column)
    return screen.titled(figure, "What the size of the code changes, each model at its best weight")
