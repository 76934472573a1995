"""Metrics against the weight of the restriction, a panel for each model."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from plotly.subplots import make_subplots

from gimtune.analysis.figures import paper, screen
from gimtune.analysis.figures.look import Axis, axis, escaped, name, rank, style
from gimtune.analysis.figures.paper import key
from gimtune.analysis.figures.views import sweep
from gimtune.analysis.text import number, short
from gimtune.results.pareto import Front
from gimtune.vocabulary import METRICS, Direction

_Dash = str | tuple[int, tuple[int, ...]]
#: For paper and for the screen; there are no more lines than these.
_DASHES: dict[_Dash, str] = {
    "-": "solid",
    "--": "dash",
    ":": "dot",
    "-.": "dashdot",
    (0, (8, 2)): "longdash",
    (0, (6, 1, 1, 1, 1, 1)): "longdashdot",
}
_COLUMNS = 4
_LONGEST = 48


class _Sweeps(NamedTuple):
    models: dict[str, pd.DataFrame]
    reference: pd.DataFrame
    dashes: dict[str, _Dash]
    x: Axis
    y: Axis
    left_out: str


def _sweeps(front: Front, metric: str) -> _Sweeps | None:
    rows = sweep(front.points, metric) if {"weight", metric} <= {*front.points} else pd.DataFrame()
    if rows.empty or not (rows["weight"] > 0).any():
        return None
    # of equally many members the line that comes nearest to the best value is kept
    best = rows.groupby("line")["mean"].agg("max" if METRICS[metric].direction is Direction.MAX else "min")
    order = best.sort_values(ascending=METRICS[metric].direction is not Direction.MAX).index
    counts = rows.groupby("line")["members"].sum()[order].sort_values(ascending=False, kind="stable")
    kept, missing = [*counts.index.astype(str)][: len(_DASHES)], [*counts.index][len(_DASHES) :]
    what = "priors" if not any("," in line for line in counts.index) else "lines"
    # values of a key from small to large
    dashes = dict(zip(kept if what == "priors" else sorted(kept, key=_in_order), _DASHES, strict=False))
    left = f"; {what} left out: {short(', '.join(missing) if what == 'priors' else '; '.join(missing), 160)}"
    left = left if missing else ""
    if averaged := rows.attrs["averaged"]:
        left += f"; averaged over {short(', '.join(averaged), 60)}"
    rows = rows[rows["line"].isin([*dashes])].rename(columns={"mean": metric}).assign(on_front=False)
    swept = rows[rows["weight"] > 0]
    models = {model: swept[swept["model"] == model] for model in sorted(swept["model"].unique(), key=rank)}
    y = _spread(rows, metric)._replace(label=axis(front.points, metric).label)
    x = axis(swept.assign(collapsed=False), "weight", "weight (1: the paper's own)")
    x = x._replace(logarithmic=True, low=swept["weight"].min() / 1.5, high=swept["weight"].max() * 1.5)
    return _Sweeps(models, rows[rows["weight"] == 0], dashes, x, y, left)


def _in_order(line: str) -> list[tuple[float, str]]:
    """Words by the alphabet, numbers by their size."""
    words = line.replace(",", " ").split()
    return [(float(word), "") if re.fullmatch(r"[-+.\de]*\d", word) else (math.inf, word) for word in words]


def _shades(found: _Sweeps) -> dict[str, str]:
    """A colour for each line where dashes alone would not tell them apart; empty for two lines or fewer."""
    if len(found.dashes) <= 2:
        return {}
    steps = np.linspace(0, 0.85, len(found.dashes))
    return {line: to_hex(colormaps["viridis"](step)) for line, step in zip(found.dashes, steps, strict=True)}


def _spread(table: pd.DataFrame, metric: str) -> Axis:
    """The axis that shows means and what they are between."""
    parts = [table.assign(**{metric: table[column]}) for column in (metric, "low", "high")]
    return axis(pd.concat(parts), metric)


def static_weights(front: Front, run: Path, metric: str) -> Figure | None:
    """A metric against the weight of the restriction, a panel for each model."""
    if (found := _sweeps(front, metric)) is None:
        return None
    columns = min(_COLUMNS, len(found.models))
    rows = -(-len(found.models) // columns)
    own = metric == "restriction"  # divergences of different restrictions do not compare
    width, height = max(4.8, 0.8 + 2.1 * columns), 1.2 + 1.45 * rows
    shades = _shades(found)
    figure = paper.sheet(width, height, fitted=False)  # to find the room for so many panels takes seconds
    figure.subplots_adjust(0.8 / width, 0.6 / height, 1 - 0.1 / width, 1 - 0.6 / height, 0.34 if own else 0.1, 0.34)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for i, (model, table) in enumerate(found.models.items()):
        axes, looks = grid[i], style(model)
        y = _spread(table.assign(collapsed=False), metric) if own else found.y
        paper.panel(axes, found.x, y, labels=False)
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        for named, line in table.groupby("line"):
            xs, mean = line["weight"], y.clipped(line[metric])
            low, high = y.clipped(line["low"]), y.clipped(line["high"])
            shade = shades.get(str(named))
            axes.fill_between(xs, low, high, color=shade or looks.colour, alpha=0.25, linewidth=0)
            axes.plot(xs, mean, color=shade or "0.25", linewidth=0.9, linestyle=found.dashes[str(named)])
            if len(line) == 1:
                axes.plot([*xs] * 2, [*low, *high], color="0.25", linewidth=0.9)
        own_colour = [shades.get(str(line), looks.colour) for line in table["line"]]
        faces = ["none" if hollow else c for hollow, c in zip(table["collapsed"], own_colour, strict=True)]
        looks_of = {"marker": looks.marker, "facecolors": faces, "edgecolors": "0.25", "linewidths": 0.6}
        axes.scatter(table["weight"], y.clipped(table[metric]), s=22, zorder=3, clip_on=False, **looks_of)
        ringed = table[table["flagged"]]
        ring = {"facecolors": "none", "edgecolors": "black", "linewidths": 0.8}
        axes.scatter(ringed["weight"], y.clipped(ringed[metric]), s=80, zorder=4, clip_on=False, **ring)
        if len(found.reference) and not own:
            axes.axhline(found.reference[metric].mean(), color="0.5", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axes.set_title(short(model, 20), fontsize=8, parse_math=False, pad=3)
        axes.tick_params(labelsize=7)
        _outer(axes, i, columns, len(found.models), own)
    for axes in [*grid][len(found.models) :]:
        axes.remove()
    keys = [
        key(short(line, _LONGEST), color=shades.get(line, "0.25"), linestyle=d, linewidth=0.9)
        for line, d in found.dashes.items()
    ]
    if len(found.reference) and not own:
        keys.append(key("weight 0", color="0.5", linestyle=(0, (1, 2)), linewidth=0.8))
    tables = pd.concat([*found.models.values()])
    if tables["collapsed"].any():
        keys.append(key("collapsed", marker="o", color="0.25", linestyle="", markerfacecolor="none", markersize=5))
    if tables["flagged"].any():
        keys.append(key("flagged", marker="o", color="black", linestyle="", markerfacecolor="none", markersize=9))
    # as many side by side as there is room for, at 17 letters to the inch
    room = int(17 * width / (7 + max(len(str(one.get_label())) for one in keys)))
    ncols = max(1, min(len(keys), room))
    top = 0.6 + 0.17 * (-(-len(keys) // ncols) - 1)
    below = textwrap.wrap(found.left_out.removeprefix("; "), int(16 * width))
    bottom = 0.6 + 0.15 * len(below)
    whole = height + top + bottom - 1.2
    figure.set_size_inches(width, whole)
    figure.subplots_adjust(top=1 - top / whole, bottom=bottom / whole)
    for text in figure.legend(handles=keys, loc="upper center", ncols=ncols, frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)
    figure.supxlabel("\n".join([found.x.label, *below]), fontsize=9, parse_math=False)
    figure.supylabel(paper.fitting(found.y.label, figure), x=0.02, fontsize=9, parse_math=False)
    return figure


def _outer(axes: Axes, i: int, columns: int, count: int, own: bool) -> None:
    """Tick labels of the weight under the lowest panel of a column, of the metric left, or everywhere if its own."""
    axes.tick_params(labelbottom=i + columns >= count, labelleft=own or i % columns == 0)


def interactive_weights(front: Front, run: Path, metric: str) -> go.Figure | None:
    """The same for the screen."""
    if (found := _sweeps(front, metric)) is None:
        return None
    columns = min(_COLUMNS, len(found.models))
    rows = -(-len(found.models) // columns)
    own = metric == "restriction"
    titles, shades = [escaped(short(model, 20)) for model in found.models], _shades(found)
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.28 / rows)
    for shown, dash in found.dashes.items():
        colour = shades.get(shown, "#404040")
        looks_of = {"line": {"color": colour, "dash": _DASHES[dash], "width": 1.5}, "mode": "lines"}
        figure.add_scatter(
            x=[None], y=[None], name=escaped(short(shown, _LONGEST)), legendgroup=shown, **looks_of, row=1, col=1
        )
    for i, (model, table) in enumerate(found.models.items()):
        place, looks = {"row": i // columns + 1, "col": i % columns + 1}, style(model)
        for named, line in table.groupby("line"):
            hollow = ["-open" if collapsed else "" for collapsed in line["collapsed"]]
            edges = ["black" if flag else looks.colour for flag in line["flagged"]]
            figure.add_scatter(
                x=line["weight"],
                y=line[metric],
                mode="lines+markers",
                legendgroup=str(named),
                showlegend=False,
                line={
                    "color": shades.get(str(named), looks.colour),
                    "dash": _DASHES[found.dashes[str(named)]],
                    "width": 1.5,
                },
                marker={
                    "symbol": [looks.symbol + end for end in hollow],
                    "size": [12 if flag else 8 for flag in line["flagged"]],
                    "line": {"color": edges, "width": 1.2},
                },
                error_y={
                    "array": line["high"] - line[metric],
                    "arrayminus": line[metric] - line["low"],
                    "thickness": 1,
                    "width": 2,
                },
                hovertext=[_swept(row, metric) for row in line.to_dict("records")],
                hoverinfo="text",
                **place,
            )
        figure.update_xaxes(
            **{**screen.scales(found.x, narrow=True), "title_text": None, "dtick": 2, "exponentformat": "none"}, **place
        )
        if not own:
            figure.update_yaxes(**{**screen.scales(found.y, narrow=True), "title_text": None}, **place)
            if len(found.reference):
                figure.add_hline(
                    found.reference[metric].mean(), line={"color": "gray", "width": 1, "dash": "dot"}, **place
                )
    title = f"{found.y.label} against {found.x.label}{found.left_out}"
    if len(found.reference) and not own:
        title += "; dotted: weight 0"
    return screen.titled(figure, title).update_layout(height=140 + 190 * rows, title_font_size=14)


def _swept(row: Mapping[Any, Any], metric: str) -> str:
    state = "".join(f" <b>{word}</b>" for word in ("collapsed", "flagged") if row[word])
    lines = [
        f"{row['line']}, weight {number(row['weight'])}",
        f"{name(metric)} {number(row[metric])} ({number(row['low'])} to {number(row['high'])})",
        f"{row['members']} members",
    ]
    return "<br>".join([f"<b>{escaped(short(str(row['model']), 20))}</b>{state}", *map(escaped, lines)])
