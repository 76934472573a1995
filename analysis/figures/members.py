"""Members one by one: parallel coordinates of all, samples and codes of chosen ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from PIL import Image
from plotly.subplots import make_subplots

from gimtune.analysis.figures import paper, screen
from gimtune.analysis.figures.look import SCREEN, escaped, fewer, name, rank, stray, style
from gimtune.analysis.figures.paper import key
from gimtune.analysis.figures.views import LatentMap, chosen, flagged, latent_map, sample, thinned
from gimtune.analysis.text import number, short
from gimtune.results.pareto import Front
from gimtune.results.varied import varied

#: What a member's line passes through, and the axis' name.
_PARALLEL = {
    "weight": "weight",
    "restriction": "restriction\n(weighted)",
    "likelihood_x": "E[log p(x|z)]\nof pixels",
    "mi_noised": "information,\nnoised codes",
    "mi_lower": "information,\nfrom below",
    "active_units": "active\nunits",
    "fid": "FID",
    "probe_codes": "probe\naccuracy",
}
# Tol 2021, "muted" and a grey
_CLASSES = (
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499"),
    "#666666",
)


# Parallel coordinates


class _Coordinate(NamedTuple):
    """One axis: places in 0 to 1, with ticks; what is not defined lies below."""

    key: str
    label: str
    places: np.ndarray
    ticks: list[float]
    words: list[str]


_ZERO, _UNDEFINED = -0.05, -0.1


def _coordinates(points: pd.DataFrame) -> Iterator[_Coordinate]:
    if {"likelihood_name", "likelihood_x"} <= {*points}:  # of a critic's features: not of pixels
        points = points.assign(likelihood_x=points["likelihood_x"].mask(points["likelihood_name"] == "features"))
    kept = points[~stray(points)] if (~stray(points)).any() else points
    for metric, label in _PARALLEL.items():
        values = points.get(metric, pd.Series(np.nan, points.index)).to_numpy(dtype=float)
        ends = kept.get(metric, pd.Series(dtype=float)).to_numpy(dtype=float)
        ends = ends[np.isfinite(ends)]
        low, high = np.quantile(ends, [0.02, 0.98]) if len(ends) else (0.0, 0.0)
        best = kept.loc[kept["on_front"], metric].dropna() if metric in kept else ends
        low, high = (
            float(min(low, best.min())) if len(best) else low,
            float(max(high, best.max())) if len(best) else high,
        )
        if metric.startswith("mi"):
            low = max(low, 0.0)
        logarithmic = metric == "weight" or (metric == "fid" and high > 20 * low > 0)
        if logarithmic and low <= 0:
            low = float(ends[ends > 0].min(initial=high))
        if low >= high:
            continue
        marks = np.geomspace(low, high, 4) if logarithmic else np.linspace(low, high, 5)
        words = [f"{mark:.0f}" if abs(mark) >= 100 else f"{mark:.3g}" for mark in marks]
        if (values < low).any() and metric != "weight":
            words[0] = "≤ " + words[0]
        if (values > high).any():
            words[-1] = "≥ " + words[-1]
        ticks = [*_scaled(marks, low, high, logarithmic)]
        if logarithmic and (values == 0).any():
            ticks, words = [_ZERO, *ticks], ["0", *words]
        if not np.isfinite(values).all():
            ticks, words = [_UNDEFINED, *ticks], ["none", *words]
        scaled = _scaled(values, low, high, logarithmic)
        yield _Coordinate(metric, label, scaled, [float(tick) for tick in ticks], words)


def _scaled(values: np.ndarray, low: float, high: float, logarithmic: bool) -> np.ndarray:
    zero, known = logarithmic & (values == 0), np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        if logarithmic:
            values, low, high = np.log(values), np.log(low), np.log(high)
        share = np.clip((values - low) / (high - low), 0, 1)
    return np.select([zero, known], [_ZERO, share], _UNDEFINED)


def static_parallel(front: Front, run: Path) -> Figure | None:
    """Metrics of every member as a line; those on the front in their models' colours."""
    points = thinned(front.points, 1000)
    coordinates = [*_coordinates(points)]
    if len(coordinates) < 3:
        return None
    lines = np.column_stack([c.places for c in coordinates])
    figure = paper.sheet(9.4, 4.2)
    axes = figure.add_subplot()
    places = np.arange(len(coordinates))
    best, states = points["on_front"].to_numpy(dtype=bool), points["collapsed"].to_numpy(dtype=bool)
    axes.plot(places, lines[~best].T, color="0.75", linewidth=0.4, alpha=0.5, zorder=1)
    models = points["model"].fillna("unknown").astype(str).to_numpy()
    for i in np.flatnonzero(best):
        looks = style(models[i])
        dash = "--" if states[i] else "-"
        face = {"markerfacecolor": "none"} if states[i] else {"markeredgecolor": "black", "markeredgewidth": 0.5}
        axes.plot(places, lines[i], color="0.2", linewidth=2.2, linestyle=dash, zorder=2)
        axes.plot(places, lines[i], color=looks.colour, linewidth=1.4, linestyle=dash, marker=looks.marker, **face)
    for place, one in enumerate(coordinates):
        axes.axvline(place, color="black", linewidth=0.8, zorder=1.5)
        ring = np.flatnonzero(best & flagged(points, one.key).to_numpy())
        axes.scatter(np.full(len(ring), place), lines[ring, place], s=130, facecolors="none", edgecolors="black")
        for tick, word in zip(one.ticks, one.words, strict=True):
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
            axes.text(place + 0.03, tick, word, fontsize=7, va="center", zorder=5, bbox=box)
    axes.set(xlim=(-0.1, len(coordinates) - 0.6), ylim=(-0.14, 1.05), yticks=[])
    axes.set_xticks(
        places, [one.label.replace(" of ", " of\n").replace(", ", ",\n") for one in coordinates], fontsize=8
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    note = fewer(len(points), len(front.points))
    axes.set_title(f"lines in colour: on the front{note}", fontsize=9)
    keys = [key(short(m, 20), color=style(m).colour, marker=style(m).marker) for m in sorted({*models[best]}, key=rank)]
    keys.append(key("other trials", color="0.75", linewidth=1))
    for text in figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)
    return figure


def interactive_parallel(front: Front, run: Path) -> go.Figure | None:
    """The same for the screen; ranges are chosen by dragging along an axis."""
    points = thinned(front.points, SCREEN)
    coordinates = [*_coordinates(points)]
    if len(coordinates) < 3:
        return None
    models = points["model"].fillna("unknown").astype(str)
    names = sorted(models.unique(), key=rank)
    numbers = models.map({model: i for i, model in enumerate(names)}).astype(float)
    colours = [style(model).colour for model in names]
    steps = [(edge / len(names), colour) for i, colour in enumerate(colours) for edge in (i, i + 1)]
    state = np.where(points["collapsed"], 2, np.where(flagged(points, "restriction"), 1, 0))
    dimensions = [
        {"label": "model", "values": numbers, "tickvals": [*range(len(names))], "ticktext": [*map(escaped, names)]},
        *(
            {
                "label": c.label.replace("\n", " "),
                "values": c.places,
                "tickvals": c.ticks,
                "ticktext": c.words,
                "range": [-0.12, 1],
            }
            for c in coordinates
        ),
        {"label": "state", "values": state, "tickvals": [0, 1, 2], "ticktext": ["good", "flagged", "collapsed"]},
        {
            "label": "front",
            "values": points["on_front"].astype(int),
            "tickvals": [0, 1],
            "ticktext": ["dominated", "on front"],
        },
    ]
    line = {"color": numbers, "colorscale": steps, "cmin": -0.5, "cmax": len(names) - 0.5}
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line, labelfont={"size": 11}, labelangle=-20))
    note = fewer(len(points), len(front.points))
    screen.titled(figure, f"Drag along an axis to choose; click there to let go{note}")
    return figure.update_layout(height=560, margin={"t": 150, "r": 110})


# Samples and codes of chosen points


#: Pictures of a member by what they show, with the ends of their files' names.
SAMPLES: Mapping[str, str] = {"samples": "", "images, reconstructions": "-reconstructed"}
CODES: Mapping[str, str] = {"single codes": "-traversals", "between": "-interpolations"}
NEIGHBOURS: Mapping[str, str] = {"samples, nearest": "-neighbours"}


def _pictures(
    rows: pd.DataFrame, run: Path, kinds: Mapping[str, str]
) -> list[tuple[dict[Any, Any], list[Image.Image | None]]]:
    found = []
    for row in rows.to_dict("records"):
        pictures = [_picture(sample(run, str(row.get("trial")), f"{end}.png")) for end in kinds.values()]
        if any(pictures):
            found.append((row, pictures))
    return found


def _picture(path: Path | None) -> Image.Image | None:
    try:
        return Image.open(path, formats=["PNG"]).convert("RGB") if path else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _headline(row: Mapping[Any, Any], front: Front) -> str:
    setting = f"weight {number(row['weight'])}, seed {row['seed']}" if pd.notna(row.get("weight")) else ""
    more = ", ".join(f"{key} {number(row[key])}" for key in varied(front.points) if pd.notna(row.get(key)))
    setting = "\n".join(filter(None, (setting, short(more, 40))))
    values = ", ".join(f"{_SHORT.get(k, name(k))} {row[k]:.3g}" for k in front.objectives)
    marks = "".join(f", {word}" for word in ("knee", "collapsed") if row[word])
    return f"{short(str(row['model']), 16)}, {short(str(row.get('prior')), 12)}{marks}\n{setting}\n{short(values, 34)}"


_SHORT = {"probe_codes": "probe", "fid": "FID", "mi_noised": "MI"}


def static_pictures(
    front: Front, run: Path, rows: pd.DataFrame | None = None, kinds: Mapping[str, str] = SAMPLES
) -> Figure | None:
    """Pictures of chosen members of the front, the best of the first objective left.

    Args:
        rows: which, as `gimtune.analysis.figures.views.chosen` gives them; it chooses where there are none.
        kinds: `SAMPLES`, `CODES` or `NEIGHBOURS`.
    """
    found = _pictures(chosen(front) if rows is None else rows, run, kinds)
    if not found:
        return None
    lines = [i for i in range(len(kinds)) if any(pictures[i] for _, pictures in found)]
    # as high as the pictures are, beside their width
    tall = [max(p[i].height / p[i].width for _, p in found if p[i]) for i in lines]  # type: ignore[union-attr]
    figure = paper.sheet(0.3 + 1.75 * len(found), 0.8 + 1.75 * sum(tall))
    grid = figure.subplots(len(lines), len(found), squeeze=False, height_ratios=tall)
    for column, (row, pictures) in enumerate(found):
        for line, i in enumerate(lines):
            axes = grid[line, column]
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if picture := pictures[i]:
                axes.imshow(picture, interpolation="nearest")
            if not column:
                axes.set_ylabel([*kinds][i], fontsize=7)
        grid[0, column].set_title(_headline(row, front), fontsize=7, parse_math=False)
    return figure


def _maps(front: Front, run: Path) -> Iterator[tuple[dict[Any, Any], LatentMap]]:
    for row in chosen(front).to_dict("records"):
        if (found := latent_map(run, str(row.get("trial")))) is not None:
            yield row, found


def static_latents(front: Front, run: Path) -> Figure | None:
    """Posterior means of validation images of chosen members of the front, each image as its class."""
    found = [*_maps(front, run)]
    if not found:
        return None
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = paper.sheet(2.5 * columns, 2.75 * rows)
    grid = [*figure.subplots(rows, columns, squeeze=False).flat]
    for axes, (row, codes) in zip(grid, found, strict=False):
        for label in np.unique(codes.labels):
            at = codes.codes[codes.labels == label]
            paint = _CLASSES[label % len(_CLASSES)]
            axes.scatter(*at.T, s=16, marker=f"${label}$", color=paint, linewidths=0.2)
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(_headline(row, front), fontsize=7, parse_math=False)
        axes.set_xlabel(_projection(codes), fontsize=7)
    for axes in grid[len(found) :]:
        axes.remove()
    return figure


def _projection(codes: LatentMap) -> str:
    if codes.latent_dim <= 2:
        return "the codes themselves"
    return f"2 principal components of {codes.latent_dim}: {codes.explained:.0%} of the variance"


def interactive_latents(front: Front, run: Path) -> go.Figure | None:
    """The same for the screen."""
    found = [*_maps(front, run)]
    if not found:
        return None
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    titles = [escaped(_headline(row, front)).replace("\n", "<br>") for row, _ in found]
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.3 / rows)
    named = set()
    for i, (_, codes) in enumerate(found):
        for label in np.unique(codes.labels):
            at = codes.codes[codes.labels == label]
            figure.add_scatter(
                x=at[:, 0],
                y=at[:, 1],
                mode="markers",
                name=str(label),
                legendgroup=str(label),
                showlegend=label not in named,
                marker={"color": _CLASSES[label % len(_CLASSES)], "size": 5},
                hovertext=f"class {label}",
                hoverinfo="text",
                row=i // columns + 1,
                col=i % columns + 1,
            )
            named.add(label)
    figure.update_xaxes(showticklabels=False).update_yaxes(showticklabels=False).update_annotations(font_size=11)
    return screen.titled(figure, "").update_layout(height=120 + 330 * rows)


_COURSE = {
    "likelihood and restriction (nats)": ("likelihood", "restriction"),
    "information (nats)": ("mi_q", "mi_noised", "mi_upper", "mi_lower"),
    "FID": ("fid", "fid_expost", "fid_floor"),
    "probe accuracy": ("probe_codes", "probe_means", "knn_codes", "knn_means"),
}


def static_course(reports: pd.DataFrame, trial: str) -> Figure:
    """How a member's metrics went, evaluation by evaluation, on the validation split."""
    rows = reports[reports["trial"] == trial].sort_values("epoch")
    figure = paper.sheet(9.4, 2.6)
    grid = figure.subplots(1, len(_COURSE))
    for axes, (title, keys) in zip(grid, _COURSE.items(), strict=True):
        marks = zip(keys, ("o", "s", "^"), ("-", "--", ":"), strict=False)
        for metric, marker, dash in marks:
            if metric in rows and rows[metric].notna().any():
                axes.plot(rows["epoch"], rows[metric], marker=marker, linestyle=dash, color="0.2", label=metric)
        if axes.lines:
            axes.legend(fontsize=7, frameon=False)
        axes.set_xlabel("epoch", fontsize=8)
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
