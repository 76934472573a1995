"""Draws a `analysis.pareto.Front`: one figure for paper, one for the screen. Holds no logic about fronts."""

from __future__ import annotations

import html
import textwrap
import zlib
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, Literal, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from analysis.pareto import Front
from gimtune.store import Value
from gimtune.vocabulary import IDENTITY, METRICS, PROGRESS, PROTOCOL


class Style(NamedTuple):
    """Colour and marker of a model, the marker in matplotlib's and in plotly's words."""

    colour: str
    marker: str | tuple[int, Literal[1], int]
    symbol: str


# Okabe & Ito 2008
_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _RED, _PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"

#: No two share a marker, so that a figure can be read in grey.
STYLES = {
    "ae": Style(_BLACK, "X", "x"),
    "vae": Style(_BLUE, "o", "circle"),
    "beta_vae": Style(_SKY, "^", "triangle-up"),
    "wae_mmd": Style(_RED, "s", "square"),
    "info_vae": Style(_GREEN, "D", "diamond"),
    "wvae": Style(_PURPLE, "P", "cross"),
    "js_vae": Style(_ORANGE, "v", "triangle-down"),
    "avb": Style(_YELLOW, "p", "pentagon"),
    "aae": Style(_RED, "*", "star"),
    "wae_gan": Style(_ORANGE, "<", "triangle-left"),
    "vae_gan": Style(_GREEN, ">", "triangle-right"),
    "alice": Style(_PURPLE, "d", "diamond-tall"),
    "infogan": Style(_BLUE, (6, 1, 0), "hexagram"),
    "veegan": Style(_SKY, (4, 1, 0), "star-diamond"),
    "aim": Style(_BLACK, "h", "hexagon"),
    "cyclegan": Style(_YELLOW, "8", "octagon"),
}

#: Beside the metrics and the whole configuration, what hover tells of a trial.
_SETTING = ("prior", "weight", "latent_dim", "seed", "network", "data", "status", "epoch", "fid_features")

_LABELS = {
    "fid": "FID",
    "fid_expost": "FID with ex-post codes",
    "recon_fid": "FID of reconstructions",
    "probe_accuracy": "Linear-probe accuracy",
    "probe_knn": "5-nearest-neighbour probe accuracy",
    "mi": "Mutual information",
    "mi_lower": "Mutual information, lower bound",
}


def style(model: str) -> Style:
    """The model's fixed pair; of one without, a free pair that depends on its name alone."""
    if model in STYLES:
        return STYLES[model]
    taken = set(STYLES.values())
    marks = [(s.marker, s.symbol) for s in STYLES.values()]
    colours = dict.fromkeys(s.colour for s in STYLES.values())
    free = [s for s in (Style(c, *m) for c, m in product(colours, marks)) if s not in taken]
    return free[zlib.crc32(model.encode()) % len(free)]


class _Series(NamedTuple):
    """Points that are drawn alike."""

    model: str
    style: Style
    on_front: bool
    collapsed: bool
    points: pd.DataFrame

    @property
    def stray(self) -> bool:
        return self.collapsed and not self.on_front


def _series(front: Front) -> Iterator[_Series]:
    """Those on the front last, so that they lie on top."""
    points = front.points.assign(model=front.points["model"].fillna("unknown"))
    for (on_front, model, collapsed), group in points.groupby(["on_front", "model", "collapsed"]):
        yield _Series(str(model), style(str(model)), bool(on_front), bool(collapsed), group)


def _escape(text: str) -> str:
    return html.escape(text, quote=False)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _rank(model: str) -> tuple[int, str]:
    return ([*STYLES].index(model) if model in STYLES else len(STYLES), model)


def _label(front: Front, key: str) -> str:
    metric, unit = METRICS[key], METRICS[key].unit
    if unit == "features^2" and "fid_features" in front.points:
        unit = " and ".join(f"{f} features" for f in front.points["fid_features"].dropna().unique()) or unit
    better = "lower" if front.objectives[key] == "min" else "higher"
    return f"{_LABELS.get(key, metric.key.replace('_', ' '))} ({unit}, {better} is better)"


def _logarithmic(front: Front, key: str) -> bool:
    kept = front.points.loc[~front.points["collapsed"], key]
    return bool(0 < 20 * kept.min() < kept.max())


def _title(front: Front) -> str:
    def names(column: str) -> str:
        return ", ".join(front.points[column].dropna().astype(str).unique()) if column in front.points else ""

    if front.points.empty:
        return "no finished trial"
    where = " on ".join(filter(None, (names("study"), names("data"))))
    return f"{_short(where, 40)}: {len(front.rows)} of {len(front.points)} trials on the front"


def static_front(front: Front) -> Figure:
    """The first two objectives, the front as a step line, for PNG and PDF.

    Collapsed points off the front do not stretch the axes: those beyond stand at the edge.
    """
    x, y = [*front.objectives][:2]
    figure = Figure(figsize=(7.2, 4.6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel=_label(front, x), ylabel=_label(front, y))
    for key, axis, scale in ((x, axes.xaxis, axes.set_xscale), (y, axes.yaxis, axes.set_yscale)):
        axis.label.set_parse_math(False)
        if _logarithmic(front, key):
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_locator(NullLocator())
    handles = {}
    everything = sorted(_series(front), key=lambda s: s.stray)
    for series in everything:
        xs, ys = series.points[x], series.points[y]
        if series.stray and not everything[0].stray:
            axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # once set they no longer follow the points
            xs, ys = xs.clip(*axes.get_xlim()), ys.clip(*axes.get_ylim())
        marker, colour = series.style.marker, series.style.colour
        axes.scatter(
            xs,
            ys,
            s=70 if series.on_front else 28,
            marker=marker,
            facecolors="none" if series.collapsed else colour,
            edgecolors=colour if series.collapsed else "black" if series.on_front else "0.3",
            linewidths=1.1 if series.on_front or series.collapsed else 0.4,
            alpha=1 if series.on_front else 0.65,
            zorder=3 if series.on_front else 2,
            clip_on=not series.stray,
        )
        handles[series.model] = _key(_short(series.model, 20), marker=marker, color=colour, linestyle="")
    if len(front.objectives) == 2 and len(front.rows):
        axes.plot(front.rows[x], front.rows[y], drawstyle="steps-post", color="black", linewidth=1, zorder=2.5)
    keys = [handles[model] for model in sorted(handles, key=_rank)]
    keys.append(_key("front", marker="o", color="black", linewidth=1, markerfacecolor="white"))
    if front.points["collapsed"].any():
        label = "collapsed\n(at the edge:\nbeyond it)"
        keys.append(_key(label, marker="o", color="0.4", linestyle="", markerfacecolor="none"))
    for text in figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=9).get_texts():
        text.set_parse_math(False)
    axes.set_title(_title(front), fontsize=10, parse_math=False)
    axes.grid(True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _key(label: str, **looks: Any) -> Line2D:
    return Line2D([], [], label=label, **looks)


def interactive_front(front: Front) -> go.Figure:
    """The same for the screen; hover shows a trial's configuration and metrics."""
    x, y = [*front.objectives][:2]
    figure = go.Figure()
    shown: set[str] = set()
    for series in _series(front):
        colour = series.style.colour
        figure.add_scatter(
            x=series.points[x],
            y=series.points[y],
            mode="markers",
            name=_escape(_short(series.model, 20)),
            legendgroup=series.model,
            legendrank=_rank(series.model)[0] + 1,
            showlegend=series.model not in shown,
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
            hovertext=[_hover(row) for row in series.points.to_dict("records")],
            hoverinfo="text",
        )
        shown.add(series.model)
    if len(front.objectives) == 2 and len(front.rows):
        figure.add_scatter(
            x=front.rows[x],
            y=front.rows[y],
            mode="lines",
            line={"shape": "hv", "color": "black", "width": 1.2},
            name="front",
            hoverinfo="skip",
        )
    figure.update_layout(
        template="plotly_white",
        title={"text": _escape(_title(front)) + "<br><sub>hollow: collapsed posterior (no active unit)</sub>"},
        legend={"itemsizing": "constant"},
        hoverlabel={"align": "left", "bgcolor": "white", "font": {"color": "black", "family": "monospace", "size": 11}},
    )
    for key, update in ((x, figure.update_xaxes), (y, figure.update_yaxes)):
        update(
            title_text=_escape(_label(front, key)),
            **({"type": "log", "dtick": "D2"} if _logarithmic(front, key) else {}),
        )
    return figure


def _hover(row: Mapping[Any, Value]) -> str:
    """A trial's configuration and metrics as plotly's little HTML; all that comes from the study is escaped."""
    head = f"<b>{_escape(str(row['model']))}</b> {_escape(str(row.get('trial')))}"
    if row["collapsed"]:
        head += " <b>collapsed</b>"
    setting = ", ".join(f"{k} {_number(row[k])}" for k in _SETTING if pd.notna(row.get(k)))
    lines = textwrap.wrap(setting, 76)
    if isinstance(row.get("config"), str):
        lines += textwrap.wrap(_short(str(row["config"]), 400), 76)
    skip = {*IDENTITY, *PROGRESS, *PROTOCOL, "collapsed", "on_front"}
    for key, value in row.items():
        if key not in skip and not key.startswith("test_") and pd.notna(value):
            test = row.get(f"test_{key}")
            lines.append(f"{key:<16} {_number(value)}" + (f"   test {_number(test)}" if pd.notna(test) else ""))
    return "<br>".join([head, *map(_escape, lines)])


def _number(value: Value) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
