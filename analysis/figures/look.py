"""The look of every figure: a colour and marker for each model, an axis for each metric, who is drawn alike.

Hollow is where the posterior has collapsed, ringed where a number is flagged. Points that would stretch the axes for
nothing stand at their edge.
"""

from __future__ import annotations

import html
import zlib
from collections.abc import Iterator
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from gimtune.analysis.text import short
from gimtune.results.pareto import LOGARITHMIC
from gimtune.vocabulary import METRICS, Direction


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

_LABELS = {
    "fid": "FID",
    "fid_expost": "FID with ex-post codes",
    "recon_fid": "FID of reconstructions",
    "energy": "Energy distance",
    "probe_codes": "Linear-probe accuracy on codes",
    "probe_means": "Linear-probe accuracy on posterior means",
    "probe_balanced": "Linear-probe accuracy on codes, mean over classes",
    "knn_codes": "5-nearest-neighbour accuracy on codes",
    "knn_means": "5-nearest-neighbour accuracy on posterior means",
    "latent_js": "JS divergence of q(z) and p(z)",
    "data_js": "JS divergence of q(x) and p(x)",
    "mi_q": "Mutual information, Gaussian q(z)",
    "mi_noised": "Mutual information of noised codes",
    "mi_upper": "Mutual information, upper bound",
    "mi_lower": "Mutual information, from below",
    "likelihood_x": "E[log p(x|z)]",
    "restriction": "Restriction, weighted",
    "active_units": "Active units",
}

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
    # of distances a ratio means the same wherever it is
    least = 3 if key in LOGARITHMIC else 20
    logarithmic = metric is not None and metric.unit != "nats" and bool(0 < least * low < high)
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


class Series(NamedTuple):
    """Points that are drawn alike."""

    model: str
    style: Style
    on_front: bool
    collapsed: bool
    points: pd.DataFrame


def alike(points: pd.DataFrame) -> Iterator[Series]:
    """Points by how they are drawn; those on the front last, so that they lie on top."""
    points = points.assign(model=points["model"].fillna("unknown"))
    for (on_front, model, collapsed), group in points.groupby(["on_front", "model", "collapsed"]):
        yield Series(str(model), style(str(model)), bool(on_front), bool(collapsed), group)


def fewer(drawn: int, total: int) -> str:
    """What a figure that leaves points out says of it."""
    return f" ({drawn:,} of {total:,} drawn, the front whole)" if drawn < total else ""
