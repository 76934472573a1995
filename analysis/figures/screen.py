"""Figures for the screen: points with what hover tells of them, axes and titles (plotly)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from gimtune.analysis.figures.look import Axis, alike, escaped, name, rank
from gimtune.analysis.figures.views import flagged
from gimtune.analysis.text import flags, number, short
from gimtune.results.store import Value
from gimtune.vocabulary import IDENTITY, PROGRESS, PROTOCOL

#: Beside the metrics and the whole configuration, what hover tells of a trial.
_SETTING = ("prior", "weight", "latent_dim", "seed", "network", "data", "status", "epoch", "fid_features")

#: Columns that `traces` and `brief` take, beside metrics.
TOLD = ("model", "trial", "prior", "weight", "seed", "flags", "flagged", "collapsed", "on_front")


def titled(figure: go.Figure, title: str) -> go.Figure:
    """The look of a figure, and its title, which is escaped."""
    return figure.update_layout(
        template="plotly_white",
        title={"text": escaped(title)},
        legend={"itemsizing": "constant"},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": "black", "family": "monospace", "size": 11}},
    )


def traces(
    points: pd.DataFrame, x: str, y: str, hover: Callable[[Mapping[Any, Value]], str], *, named: bool = True
) -> Iterator[go.Scatter]:
    """Points of a panel, one trace for those that are drawn alike, and a ring around flagged ones."""
    seen: set[str] = set()
    told = pd.Series([hover(row) for row in points.to_dict("records")], points.index, dtype=object)
    for series in alike(points):
        colour = series.style.colour
        yield go.Scatter(
            x=series.points[x],
            y=series.points[y],
            mode="markers",
            name=escaped(short(series.model, 20)),
            legendgroup=series.model,
            legendrank=rank(series.model)[0] + 1,
            showlegend=named and series.model not in seen,
            marker={
                "symbol": series.style.symbol + ("-open" if series.collapsed else ""),
                "color": colour,
                "size": 13 if series.on_front else 8,
                "opacity": 1 if series.on_front else 0.6,
                "line": {
                    "width": 1.3 if series.on_front or series.collapsed else 0.5,
                    "color": colour if series.collapsed else "black" if series.on_front else "#4d4d4d",
                },
            },
            customdata=[*series.points.index],
            hovertext=[*told[series.points.index]],
            hoverinfo="text",
        )
        seen.add(series.model)
    doubted = points[flagged(points, x, y)]
    if len(doubted):
        yield go.Scatter(
            x=doubted[x],
            y=doubted[y],
            mode="markers",
            name="flagged: not to be trusted",
            legendgroup="flagged",
            legendrank=2000,
            showlegend=named,
            marker={"symbol": "circle-open", "size": 17, "color": "black", "line": {"width": 1}},
            customdata=[*doubted.index],
            hoverinfo="skip",
        )


def scales(axis: Axis, *, narrow: bool = False) -> dict[str, Any]:
    """What plotly is told of an axis; a narrow one has its unit below its name, and shows no more than its ends."""
    told: dict[str, Any] = {"title_text": escaped(axis.label)}
    if axis.logarithmic:
        told |= {"type": "log", "dtick": "D2" if axis.high < 300 * axis.low else 1}
    if narrow:
        ends = (axis.low, axis.high)
        told |= {"title_text": told["title_text"].replace(" (", "<br>("), "title_font_size": 12}
        told["range"] = [math.log10(end) for end in ends] if axis.logarithmic else [*ends]
    return told


def hover(row: Mapping[Any, Value], varied: Sequence[str] = ()) -> str:
    """A trial's configuration and metrics as plotly's little HTML; all that comes from the study is escaped."""
    head = brief(row)
    setting = ", ".join(f"{k} {number(row[k])}" for k in (*_SETTING, *varied) if pd.notna(row.get(k)))
    lines = textwrap.wrap(setting, 76)
    if isinstance(row.get("config"), str):
        lines += textwrap.wrap(short(str(row["config"]), 400), 76)
    skip = {*IDENTITY, *PROGRESS, *PROTOCOL, *varied, "collapsed", "on_front"}
    for key, value in row.items():
        if key not in skip and not key.startswith("test_") and pd.notna(value):
            test = row.get(f"test_{key}")
            lines.append(f"{key:<16} {number(value)}" + (f"   test {number(test)}" if pd.notna(test) else ""))
    return "<br>".join([head, *map(escaped, lines)])


def brief(row: Mapping[Any, Value], *keys: str, varied: Sequence[str] = ()) -> str:
    """The same in a line or two: which trial, whether it has collapsed or is flagged, and these metrics."""
    head = f"<b>{escaped(short(str(row['model']), 20))}</b> {escaped(str(row.get('trial')))}"
    if row["collapsed"]:
        head += " <b>collapsed</b>"
    lines = [f"{name(key)} {number(row[key])}" for key in keys if pd.notna(row.get(key))]
    if keys:
        setting = [key for key in ("prior", "weight", *varied, "seed") if pd.notna(row.get(key))]
        lines.insert(0, ", ".join(f"{key} {number(row[key])}" for key in setting))
    lines += [f"flagged: {short(key, 40)}: {short(why, 60)}" for key, why in flags(row).items()]
    return "<br>".join([head, *map(escaped, lines)])
