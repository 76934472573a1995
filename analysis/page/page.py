"""A study, or several side by side, as one HTML page that needs nothing but itself: no network, no other file.

All that comes from a run folder is text: the template escapes it, the script sets it as text, and the page's content
security policy lets no script run but its own two and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from gimtune.analysis.export.reproduce import command
from gimtune.analysis.figures.plots import interactive_front
from gimtune.analysis.figures.views import Band, band
from gimtune.analysis.statistics.attainment import AttainmentDifference, attainment_difference
from gimtune.analysis.statistics.claims import Claim, Verdicts
from gimtune.analysis.text import flags, number, plain, short
from gimtune.results.load import Study, pooled, settings, text_file
from gimtune.results.pareto import OBJECTIVES, Front, contributions, front, fronts_by
from gimtune.results.store import Value, reasons
from gimtune.vocabulary import IDENTITY, PROGRESS, PROTOCOL, Status

#: Points that are drawn, and so can be hovered over and pinned.
POINTS = 500
#: Rows of a table.
ROWS = 500
_FAILURES = 200
#: Rectangles of a difference.
_AREAS = 2000
#: More rows than these have no contributions: they take a comparison of each with each.
_CONTRIBUTIONS = 2000
#: Of pictures in one page, in characters.
_PICTURES = 6 << 20
_LONGEST = 300
_FILE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SETTING = ("prior", "weight", "latent_dim", "seed", "network", "data", "encoder", "likelihood_name", "restrictions")
_PROGRESS = ("status", "epoch", "seconds", "fid_features")
_CONTEXT = ("fid_floor", "fid_expost", "mi", "mi_lower", "restriction")
_ASSETS = Path(__file__).parent


class Cell(NamedTuple):
    """A table's cell.

    Attributes:
        text: as shown.
        key: number to sort by; text is sorted by itself.
        marks: words beside it, each with what it means.
        point: that a click pins.
    """

    text: str
    key: float | None = None
    marks: tuple[tuple[str, str], ...] = ()
    point: int | None = None


class Table(NamedTuple):
    """A table whose columns sort.

    Attributes:
        caption: what it shows.
        columns: heads, each with whether it holds numbers.
        rows: of cells.
    """

    caption: str
    columns: list[tuple[str, bool]]
    rows: list[list[Cell]]


def page(
    runs: Sequence[Study],
    verdicts: Sequence[Verdicts],
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    only: Mapping[str, str] | None = None,
) -> str:
    """The report of one run, or of several on one front.

    Args:
        runs: one or more.
        verdicts: on the claims, of each run.
        objectives, only: as of `analysis.pareto.front`, over the members of all runs.

    Raises:
        ValueError: as `front`; in particular, runs on different data sets or FID features do not compare.
    """
    labels, trials = pooled(runs)
    best = front(trials, objectives, only=only)
    several = len(runs) > 1
    models = fronts_by(trials, "model", best.objectives, only=only)
    drawn = _thinned(best, models)
    groups = [("model", models), ("prior", fronts_by(trials, "prior", best.objectives, only=only))]
    if several:
        groups.insert(0, ("run", fronts_by(trials, "run", best.objectives, only=only)))
    seeds = None if several else band(best)
    chart = _chart(best._replace(points=drawn), groups[0][1] if several else {}, seeds)
    data = {
        "front": _figure(chart),
        "difference": None,
        "points": _points(drawn, dict(zip(labels, runs, strict=True))),
    }
    differences: list[tuple[AttainmentDifference | None, str]] = []
    if several:
        differences = compared(runs, labels, best.objectives, only)
        shown = next((found for found, _ in differences if found is not None and len(found.rectangles)), None)
        data["difference"] = None if shown is None else _figure(_attained(shown, chart.layout))
    failures = trials[trials["status"].isin([Status.FAILED, Status.DIVERGED])]
    scripts = [Markup(get_plotlyjs()), Markup((_ASSETS / "page.js").read_text(encoding="utf-8"))]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((_ASSETS / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=" and ".join(labels) if several else _name(runs[0], trials),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((_ASSETS / "page.css").read_text(encoding="utf-8")),
        scripts=scripts,
        policy=" ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts),
        data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),
        facts=_facts(best, trials, runs),
        verdicts=[
            (label, found, [_answer(claim, found) for claim in found.claims])
            for label, found in zip(labels, verdicts, strict=True)
        ],
        several=several,
        has_areas=data["difference"] is not None,
        drawn=_drawn(best, drawn),
        front_table=_front_table(best, several),
        groups=[_group_table(by, found, best) for by, found in groups if len(found) > 1],
        differences=[told for _, told in differences],
        failures=_failure_table(failures, several) if len(failures) else None,
        environments=[(label, *_environment(study)) for label, study in zip(labels, runs, strict=True)],
    )


def _name(study: Study, trials: pd.DataFrame) -> str:
    name = study.meta.get("name") or next(iter(trials["study"].dropna()), "a study")
    data = ", ".join(sorted({str(d) for d in trials["data"].dropna().unique()[:5]}))
    return short(plain(f"{name} on {data}" if data else name), 80)


def _facts(best: Front, trials: pd.DataFrame, runs: Sequence[Study]) -> list[str]:
    left = ", ".join(f"{count} {short(reason, 80)}" for reason, count in best.left_out.items())
    reference = ", ".join(f"{key} {number(value)}" for key, value in best.reference.items())
    facts = [
        f"{len(best.points):,} of {len(trials):,} trials considered" + (f"; left out: {left}" if left else ""),
        f"{len(best.rows):,} on the front, chosen on the validation split by "
        + " and ".join(f"{key} ({way})" for key, way in best.objectives.items()),
        f"hypervolume {number(best.hypervolume)} from the reference point {reference}",
    ]
    if collapsed := int(best.points["collapsed"].sum()):
        facts.append(f"{collapsed:,} with a collapsed posterior (no active unit): no trade-off, whatever the numbers")
    for study in runs:
        if accuracy := study.meta.get("classifier_test_accuracy"):
            facts.append(f"FID features: {study.meta.get('fid_features')}, of test accuracy {accuracy}")
    return [plain(fact) for fact in dict.fromkeys(facts)]


# The chart and what it tells of a point


def _thinned(best: Front, models: Mapping[str, Front]) -> pd.DataFrame:
    """`POINTS` of the points: the front first, then those of single models, then others at random, in a fixed draw."""
    points = best.points
    if len(points) <= POINTS:
        return points
    own = [best.rows.index, *(pd.Index(group.rows.index) for group in models.values())]
    wanted = pd.Index(np.concatenate(own)).unique()[:POINTS]
    rest = points.index.difference(wanted, sort=False)
    others = np.random.default_rng(0).choice(rest, min(POINTS - len(wanted), len(rest)), replace=False)
    return points.loc[points.index.isin([*wanted, *others])]


def _drawn(best: Front, drawn: pd.DataFrame) -> str:
    if len(drawn) == len(best.points):
        return f"All {len(drawn):,} trials are drawn."
    whole = int(drawn["on_front"].sum())
    front_part = "the front" if whole == len(best.rows) else f"the best {whole:,} of the front"
    return (
        f"{len(drawn):,} of {len(best.points):,} trials are drawn: {front_part}, as many as there is room for of the "
        "fronts of single models, and others at random. Tables and verdicts count all of them."
    )


def _chart(drawn: Front, runs: Mapping[str, Front], seeds: Band | None) -> go.Figure:
    figure = interactive_front(drawn, seeds)
    figure.update_traces(hovertext=None, hoverinfo="none", selector={"mode": "markers"})
    x, y = [*drawn.objectives][:2]
    if runs and len(drawn.objectives) == 2:
        figure.update_traces(name="common front", selector={"mode": "lines"})
        for dash, (name, own) in zip(("dash", "dot", "dashdot", "longdash") * len(runs), runs.items(), strict=False):
            line = {"shape": "hv", "color": "#555", "width": 1.2, "dash": dash}
            label = f"front of {short(name, 20)}".replace("<", "&lt;")
            rows = own.rows.head(ROWS)
            figure.add_scatter(x=rows[x], y=rows[y], mode="lines", line=line, name=label, hoverinfo="skip")
    figure.update_layout(title=None, margin={"l": 60, "r": 10, "t": 10, "b": 50}, hovermode="closest")
    return figure


def _figure(figure: go.Figure) -> Any:
    return json.loads(figure.to_json())


def _points(drawn: pd.DataFrame, runs: Mapping[str, Study]) -> dict[str, dict[str, Any]]:
    metrics = [
        str(key)
        for key in drawn
        if key not in {*IDENTITY, *PROGRESS, *PROTOCOL, "run", "collapsed", "on_front"}
        and not str(key).startswith("test_")
        and drawn[key].notna().any()
    ]
    spaces = {label: settings(study.run).get("space") for label, study in runs.items()}
    found, room = {}, _PICTURES
    # pictures of the front first, should there be too many
    for i, row in zip(*_ordered(drawn), strict=True):
        pictures = [
            _picture(runs[row["run"]].run, str(row["trial"]) + suffix) if room > 0 else None
            for suffix in ("", "-reconstructed")
        ]
        room -= sum(map(len, filter(None, pictures)))
        found[str(i)] = _point(row, metrics, spaces[row["run"]], pictures, len(runs) > 1)
    return found


def _ordered(drawn: pd.DataFrame) -> tuple[list[Any], list[dict[Any, Any]]]:
    ordered = drawn.sort_values("on_front", ascending=False, kind="stable")
    return [*ordered.index], ordered.to_dict("records")


def _point(
    row: Mapping[Any, Value], metrics: list[str], swept: Any, pictures: list[str | None], several: bool
) -> dict[str, Any]:
    doubts, missing = flags(row), _reasons(row)
    values = []
    for key in metrics:
        value, test = row[key], row.get(f"test_{key}")
        if pd.notna(value) or pd.notna(test):
            notes = {doubts[k] for k in (key, f"test_{key}") if k in doubts}
            values.append([key, number(value), number(test), short("; ".join(sorted(notes)), _LONGEST)])
    shown = [*(("run",) if several else ()), *_SETTING, *_PROGRESS]
    try:
        line = {"line": command(str(row["trial"]), str(row["config"]), swept if isinstance(swept, dict) else None)}
    except ValueError as error:
        line = {"line": "", "why": f"no line: {error}"}
    if row["status"] == Status.STOPPED:
        line["why"] = f"The scheduler stopped it at epoch {number(row['epoch'])}; this line trains it to the end."
    return {
        "trial": short(number(row["trial"]), 80),
        "model": short(number(row["model"]), 80),
        "marks": [word for word, _ in _marks(row)],
        "setting": [[key, short(number(row[key]), _LONGEST)] for key in shown if pd.notna(row.get(key))],
        "metrics": values,
        "undefined": [[key, short(why, _LONGEST)] for key, why in [*missing.items()][:60]],
        "config": short(str(row["config"]), 4000) if pd.notna(row["config"]) else "",
        "samples": pictures[0],
        "reconstructed": pictures[1],
        **line,
    }


def _reasons(row: Mapping[Any, Value]) -> dict[str, str]:
    try:
        return {str(key): str(why) for key, why in reasons(row).items()}
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"trial {plain(row['trial'])}: column reasons is no JSON object") from None


def _marks(row: Mapping[Any, Value]) -> tuple[tuple[str, str], ...]:
    doubts = "; ".join(f"{key}: {why}" for key, why in flags(row).items())
    collapsed = ("collapsed", "no active latent unit: the restriction has pressed all information out")
    return (*((collapsed,) if row["collapsed"] else ()), *((("flagged", short(doubts, _LONGEST)),) if doubts else ()))


def _picture(run: Path, name: str) -> str | None:
    """A grid of images as a data URL, decoded and encoded anew; ``None`` where there is none that can be read."""
    path = run / "samples" / f"{name}.png"
    if not _FILE.fullmatch(name) or path.is_symlink() or not path.is_file() or path.stat().st_size > 4 << 20:
        return None
    if not path.resolve().is_relative_to(run.resolve()):
        return None
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if max(picture.size) > 4096:
                return None
            pixels = np.asarray(picture.convert("L" if picture.mode in ("1", "L", "I", "I;16") else "RGB"))
    except Exception:  # a broken PNG raises whatever its decoder meets; the page does without
        return None
    pixels = _unzoomed(pixels)
    if large := max(pixels.shape[:2]) > 100:  # a quarter of the images is enough for a glance
        pixels = pixels[: -(-pixels.shape[0] // 2), : -(-pixels.shape[1] // 2)]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", lossless=not large, quality=75)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def _unzoomed(pixels: np.ndarray) -> np.ndarray:
    """Without the repetition of pixels that makes small images large."""
    for zoom in range(8, 1, -1):
        if not (pixels.shape[0] % zoom or pixels.shape[1] % zoom):
            small = pixels[::zoom, ::zoom]
            if np.array_equal(small.repeat(zoom, 0).repeat(zoom, 1), pixels):
                return small
    return pixels


# Tables


def _cell(value: Value, marks: tuple[tuple[str, str], ...] = (), point: int | None = None) -> Cell:
    key = float(np.clip(value, -1e308, 1e308)) if isinstance(value, int | float) and not pd.isna(value) else None
    return Cell(short(number(value), _LONGEST), key, marks, point)


def _front_table(best: Front, several: bool) -> Table:
    metrics = [*dict.fromkeys([*best.objectives, *_CONTEXT])]
    tests = [f"test_{key}" for key in best.objectives]
    setting = ["trial", *(["run"] if several else []), "model", "prior", "weight", "latent_dim", "seed"]
    rows, extra = best.rows, []
    if 0 < len(rows) <= _CONTRIBUTIONS:
        rows, extra = rows.assign(**contributions(best)[["hypervolume", "knee"]].add_prefix("_")), ["_hypervolume"]
    columns = [*setting, *metrics, *tests, *extra]
    cells = []
    for i, row in zip(rows.index[:ROWS], rows.head(ROWS).to_dict("records"), strict=True):
        marks = _marks(row)
        if row.get("_knee"):
            marks = (*marks, ("knee", "furthest from the line through the ends of the front"))
        line = [_cell(row.get(column)) for column in columns]
        line[0] = _cell(row["trial"], point=int(i))
        line[setting.index("model")] = _cell(row["model"], marks)
        cells.append(line)
    more = f", the first {ROWS}" if len(best.rows) > ROWS else ""
    words = {"trial", "run", "model", "prior"}
    heads = [("contribution" if c == "_hypervolume" else c.replace("_", " "), c not in words) for c in columns]
    return Table(f"Front: {len(best.rows):,} of {len(best.points):,} trials{more}", heads, cells)


def _group_table(by: str, groups: Mapping[str, Front], best: Front) -> Table:
    common = best.rows[by].fillna("unknown").value_counts()
    ordered = sorted(groups.items(), key=lambda item: -item[1].hypervolume)
    cells = []
    for name, own in ordered[:ROWS]:
        counts = (len(own.points), len(own.rows), int(common.get(name, 0)), int(own.points["collapsed"].sum()))
        cells.append([_cell(name), *map(_cell, counts), _cell(own.hypervolume)])
    more = f", the best {ROWS} of {len(groups):,}" if len(groups) > ROWS else ""
    columns = ("trials", "own front", "of the common front", "collapsed", "hypervolume")
    return Table(f"By {by}, from the same reference point{more}", [(by, False), *((c, True) for c in columns)], cells)


def _failure_table(failures: pd.DataFrame, several: bool) -> Table:
    columns = [*(["run"] if several else []), "trial", "model", "prior", "weight", "seed", "epoch", "status", "error"]
    cells = [[*map(_cell, row)] for row in failures[columns].head(_FAILURES).itertuples(index=False)]
    more = f", the first {_FAILURES}" if len(failures) > _FAILURES else ""
    heads = [(c, c in ("weight", "seed", "epoch")) for c in columns]
    return Table(f"Failed or diverged: {len(failures):,}{more}", heads, cells)


# Verdicts, comparison, environment


def _answer(claim: Claim, verdicts: Verdicts) -> dict[str, Any]:
    """A claim with its effect as text, and as a bar from 0 to 100 with nothing at 50."""
    known = not pd.isna(claim.value)
    unit = " nats" if claim.unit == "nats" else ""
    ends = [abs(end) for c in verdicts.claims if c.unit == "nats" for end in (c.low, c.high) if not pd.isna(end)]
    scale = max(ends, default=1.0) if unit else 1.0

    def at(value: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, value / (scale or 1.0))), 2)

    return {
        "claim": claim,
        "effect": f"{claim.value:+.2f}{unit}" if known else "",
        "interval": f"{claim.low:+.2f} to {claim.high:+.2f}" if known else "",
        "bar": (at(claim.low), at(claim.value), at(claim.high)) if known else None,
        "note": short(plain(claim.note), 600),
        "look": claim.verdict.replace(" ", "-"),
    }


def compared(
    runs: Sequence[Study], labels: list[str], objectives: Mapping[str, str], only: Mapping[str, str] | None
) -> list[tuple[AttainmentDifference | None, str]]:
    """The attainment of the first run less that of each other, and the same in words."""
    told: list[tuple[AttainmentDifference | None, str]] = []
    for study, label in zip(runs[1:], labels[1:], strict=True):
        pair = f"{plain(labels[0])} less {plain(label)}"
        try:
            found = attainment_difference(runs[0].trials, study.trials, objectives, only=only)
        except ValueError as error:
            told.append((None, f"{pair}: {plain(error)}"))
            continue
        reference = ", ".join(f"{key} {number(value)}" for key, value in found.reference.items())
        told.append(
            (found, f"{pair}: {found.hypervolume:+.4g} of hypervolume on average over seeds, measured from {reference}")
        )
    return told


def _attained(found: AttainmentDifference, layout: Any) -> go.Figure:
    """Where the seeds of the first run attain more, in blue, and where those of the second, in orange; by how much."""
    x, y = found.objectives
    figure = go.Figure(layout=layout)
    for key, areas in found.rectangles.head(_AREAS).groupby("difference"):
        share = float(str(key))
        x0, x1, y0, y1 = (
            areas[f"{key}_{end}"].replace([np.inf, -np.inf], found.reference[key]).to_numpy(dtype=float)
            for key in (x, y)
            for end in ("from", "to")
        )
        gap = np.full(len(areas), np.nan)
        figure.add_scatter(
            x=np.stack([x0, x1, x1, x0, x0, gap], 1).ravel(),
            y=np.stack([y0, y0, y1, y1, y0, gap], 1).ravel(),
            mode="lines",
            fill="toself",
            line={"width": 0},
            fillcolor=f"rgba({'0,114,178' if share > 0 else '213,94,0'},{0.15 + 0.75 * min(1.0, abs(share)):.2f})",
            name=f"{share:+.0%} of the seeds",
            hoverinfo="name",
        )
    # where the fronts are: the areas go on to the reference point
    for key, axis in ((x, figure.layout.xaxis), (y, figure.layout.yaxis)):
        ends = found.rectangles[f"{key}_from"].to_numpy(dtype=float)
        ends = np.log10(ends) if axis.type == "log" else ends
        margin = 0.15 * (np.ptp(ends) or 0.1)
        axis.range = [float(ends.min() - margin), float(ends.max() + margin)]
    return figure


def _environment(study: Study) -> tuple[list[tuple[str, str]], str]:
    """Rows of ``environment.json``, or why there are none."""
    text = text_file(study.run, "environment.json")
    if text is None:
        return [], "The run folder has no environment.json."
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return [], "environment.json cannot be read: it is no JSON object."
    rows: list[tuple[str, str]] = []
    for key, value in [*found.items()][:50]:
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in [*value.items()][:50])
        elif isinstance(value, list):
            value = " ".join(map(str, value[:100]))
        rows.append((short(plain(key), 80), short(plain("-" if value is None else value), 1000)))
    return rows, ""
