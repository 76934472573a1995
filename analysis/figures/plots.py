"""The look of every figure, and the front itself: for paper (matplotlib) and for the screen (plotly).

One colour and marker for each model, hollow where the posterior has collapsed, ringed where a number is flagged. Points
that would stretch the axes for nothing stand at their edge. Holds no logic about fronts.
"""

from __future__ import annotations

import html
import math
import textwrap
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.axis import Axis as MatplotlibAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from gimtune.analysis.figures.views import Band, flagged, thinned
from gimtune.analysis.text import flags, number, short
from gimtune.results.pareto import Front
from gimtune.results.store import Value
from gimtune.vocabulary import IDENTITY, METRICS, PROGRESS, PROTOCOL, Direction


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
    "mi_noised": "Mutual information of noised codes",
    "mi_lower": "Mutual information, lower bound",
    "likelihood_x": "E[log p(x|z)]",
    "restriction": "Restriction, weighted",
    "active_units": "Active units",
}

#: Columns that `traces` and `brief` take, beside metrics.
TOLD = ("model", "trial", "prior", "weight", "seed", "flags", "flagged", "collapsed", "on_front")

#: Most points of a figure; the front's are always drawn. The screen has them with their whole configuration.
PAPER, SCREEN = 4000, 2000


def style(model: str) -> Style:
    """The model's fixed pair; of one without, a free pair that depends on its name alone."""
    if model in STYLES:
        return STYLES[model]
    taken = set(STYLES.values())
    marks = [(s.marker, s.symbol) for s in STYLES.values()]
    colours = dict.fromkeys(s.colour for s in STYLES.values())
    free = [s for s in (Style(c, *m) for c, m in product(colours, marks)) if s not in taken]
    return free[zlib.crc32(model.encode()) % len(free)]


def escaped(text: str) -> str:
    """Text for plotly, which takes some HTML."""
    return html.escape(text, quote=False)


def rank(model: str) -> tuple[int, str]:
    """Where a model stands in a legend."""
    return ([*STYLES].index(model) if model in STYLES else len(STYLES), model)


class Axis(NamedTuple):
    """A metric as an axis.

    Attributes:
        key: column of the points.
        label: with the unit, and which way is better.
        logarithmic: the scale.
        low, high: its ends, without points that have collapsed off the front.
    """

    key: str
    label: str
    logarithmic: bool
    low: float
    high: float

    def clipped(self, values: pd.Series) -> pd.Series:
        """Values beyond the ends at the ends."""
        return values.clip(self.low, self.high)

    def beyond(self, values: pd.Series) -> pd.Series:
        """Which they are."""
        return (values < self.low) | (values > self.high)


def axis(points: pd.DataFrame, key: str, label: str = "", direction: Direction | None = None) -> Axis:
    """The axis that shows these points; information below 0 says nothing and gets no room."""
    values = points.loc[~stray(points), key] if (~stray(points)).any() else points[key]
    values = values[np.isfinite(values.astype(float))].astype(float)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    metric = METRICS.get(key)
    logarithmic = metric is not None and metric.unit != "nats" and bool(0 < 20 * low < high)
    if key.startswith("mi") and high > 0:
        low = max(low, 0.0)
    if logarithmic:
        margin = (high / low) ** 0.04
        low, high = low / margin, high * margin
    else:
        margin = 0.04 * ((high - low) or abs(high) or 1.0)
        low, high = low - margin, high + margin
    return Axis(key, label or _label(points, key, direction), logarithmic, low, high)


def _label(points: pd.DataFrame, key: str, direction: Direction | None) -> str:
    metric, unit = METRICS[key], METRICS[key].unit
    if unit == "features^2" and "fid_features" in points:
        kinds = dict.fromkeys(str(f).partition(":")[0] for f in points["fid_features"].dropna().unique())
        unit = " and ".join(f"{kind} features" for kind in kinds) or unit
    better = {"min": ", lower is better", "max": ", higher is better"}.get(direction or metric.direction, "")
    return f"{_LABELS.get(key, metric.key.replace('_', ' '))} ({short(unit, 40)}{better})"


def name(key: str) -> str:
    """A metric's name without its unit."""
    return _LABELS.get(key, key.replace("_", " "))


def stray(points: pd.DataFrame) -> pd.Series:
    """Collapsed and not on the front: such points do not stretch axes."""
    return points["collapsed"].astype(bool) & ~points["on_front"].astype(bool)


class _Series(NamedTuple):
    """Points that are drawn alike."""

    model: str
    style: Style
    on_front: bool
    collapsed: bool
    points: pd.DataFrame


def _series(points: pd.DataFrame) -> Iterator[_Series]:
    """Those on the front last, so that they lie on top."""
    points = points.assign(model=points["model"].fillna("unknown"))
    for (on_front, model, collapsed), group in points.groupby(["on_front", "model", "collapsed"]):
        yield _Series(str(model), style(str(model)), bool(on_front), bool(collapsed), group)


def _title(front: Front, drawn: int) -> str:
    def names(column: str) -> str:
        return ", ".join(front.points[column].dropna().astype(str).unique()) if column in front.points else ""

    if front.points.empty:
        return "no finished trial"
    where = " on ".join(filter(None, (names("study"), names("data"))))
    counted = f"{short(where, 40)}: {len(front.rows):,} of {len(front.points):,} trials on the front"
    return "\n".join(filter(None, (counted, fewer(drawn, len(front.points)).strip())))


def fewer(drawn: int, total: int) -> str:
    """What a figure that leaves points out says of it."""
    return f" ({drawn:,} of {total:,} drawn, the front whole)" if drawn < total else ""


# For paper


def paper(width: float, height: float, *, fitted: bool = True) -> Figure:
    """An empty figure, in inches, without pyplot; ``fitted`` finds room for labels and legends when it is drawn."""
    figure = Figure(figsize=(width, height), dpi=200, layout="constrained" if fitted else None)
    FigureCanvasAgg(figure)
    return figure


def panel(axes: Axes, x: Axis, y: Axis, *, labels: bool = True) -> None:
    """Scales, ends, labels and grid."""
    for it, of, scale in ((x, axes.xaxis, axes.set_xscale), (y, axes.yaxis, axes.set_yscale)):
        if it.logarithmic:
            scale("log")
            ticks(of, it.high / it.low)
        if labels:
            of.set_label_text(it.label)
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
    for series in sorted(_series(points), key=lambda s: s.collapsed and not s.on_front):
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
        keys.append(key("at the edge:\nbeyond it", linestyle=""))
    for text in figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)


def key(label: str, **looks: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **looks)


def static_front(front: Front, seeds: Band | None = None) -> Figure:
    """The first two objectives, the front as a step line, and what ``seeds`` of its points attain.

    Collapsed points off the front do not stretch the axes: those beyond stand at the edge.
    """
    points = thinned(front.points, PAPER)
    x, y = (axis(front.points, key, direction=way) for key, way in [*front.objectives.items()][:2])
    figure = paper(7.2, 4.6)
    axes = figure.add_subplot()
    panel(axes, x, y)
    scatter(axes, points, x, y)
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
    legend(figure, [(points, x, y)], extra=extra)
    axes.set_title(_title(front, len(points)), fontsize=10, parse_math=False)
    return figure


def _steps(found: Band, x: Axis, y: Axis, front: Front) -> tuple[np.ndarray, ...]:
    """The band's corners, on to the worse end of the first axis, and at the worse end of the second where none is."""
    ends = [(a.low if front.objectives[a.key] is Direction.MAX else a.high) for a in (x, y)]
    lines = (np.append(line, line[-1]) for line in (found.best, found.median, found.worst))
    return np.append(found.x, ends[0]), *(np.where(np.isfinite(line), line, ends[1]) for line in lines)


# For the screen


def screen(figure: go.Figure, title: str) -> go.Figure:
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
    for series in _series(points):
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


def interactive_front(front: Front, seeds: Band | None = None) -> go.Figure:
    """The same for the screen; hover shows a trial's configuration and metrics."""
    points = thinned(front.points, SCREEN)
    x, y = (axis(front.points, key, direction=way) for key, way in [*front.objectives.items()][:2])
    figure = screen(go.Figure(), "")
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
            name=f"attained by some to all of {seeds.seeds} seeds",
            **looks,
        )
        if seeds.seeds > 2:
            line = {"shape": "hv", "color": "#595959", "width": 1.2, "dash": "dash"}
            figure.add_scatter(x=xs, y=median, line=line, name="by half of them", **looks)
    figure.add_traces([*traces(points, x.key, y.key, hover)])
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
    title = f"{counted}<br><sub>hollow: collapsed posterior (no active unit) {drawn}</sub>"
    return figure.update_layout(title_text=title).update_xaxes(**scales(x)).update_yaxes(**scales(y))


def hover(row: Mapping[Any, Value]) -> str:
    """A trial's configuration and metrics as plotly's little HTML; all that comes from the study is escaped."""
    head = brief(row)
    setting = ", ".join(f"{k} {number(row[k])}" for k in _SETTING if pd.notna(row.get(k)))
    lines = textwrap.wrap(setting, 76)
    if isinstance(row.get("config"), str):
        lines += textwrap.wrap(short(str(row["config"]), 400), 76)
    skip = {*IDENTITY, *PROGRESS, *PROTOCOL, "collapsed", "on_front"}
    for key, value in row.items():
        if key not in skip and not key.startswith("test_") and pd.notna(value):
            test = row.get(f"test_{key}")
            lines.append(f"{key:<16} {number(value)}" + (f"   test {number(test)}" if pd.notna(test) else ""))
    return "<br>".join([head, *map(escaped, lines)])


def brief(row: Mapping[Any, Value], *keys: str) -> str:
    """The same in a line or two: which trial, whether it has collapsed or is flagged, and these metrics."""
    head = f"<b>{escaped(short(str(row['model']), 20))}</b> {escaped(str(row.get('trial')))}"
    if row["collapsed"]:
        head += " <b>collapsed</b>"
    lines = [f"{name(key)} {number(row[key])}" for key in keys if pd.notna(row.get(key))]
    if keys:
        lines.insert(0, ", ".join(f"{k} {number(row[k])}" for k in ("prior", "weight", "seed") if pd.notna(row.get(k))))
    lines += [f"flagged: {short(key, 40)}: {short(why, 60)}" for key, why in flags(row).items()]
    return "<br>".join([head, *map(escaped, lines)])
