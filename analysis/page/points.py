"""What the page tells of its points: which are drawn, settings, metrics, pictures, and the line that trains each."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from gimtune.analysis.export.reproduce import command
from gimtune.analysis.tables import marks
from gimtune.analysis.text import flags, number, plain, short
from gimtune.results.load import Study, settings
from gimtune.results.pareto import Front
from gimtune.results.store import Value, reasons
from gimtune.results.varied import varied
from gimtune.vocabulary import IDENTITY, PROGRESS, PROTOCOL, Status

#: Points that are drawn, and so can be hovered over and pinned.
POINTS = 500
#: Of a text, in characters.
LONGEST = 300
#: Pictures of a point, the last three of those on the front alone.
PICTURES = ("samples", "reconstructed", "neighbours", "traversals", "interpolations")
#: Of pictures in one page, in characters.
_PICTURES = 6 << 20
_FILE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SETTING = ("prior", "weight", "latent_dim", "seed", "network", "data", "encoder", "likelihood_name", "restrictions")
_PROGRESS = ("status", "epoch", "seconds", "fid_features")


def thinned(best: Front, models: Mapping[str, Front]) -> pd.DataFrame:
    """`POINTS` of the points: the front first, then those of single models, then others at random, in a fixed draw."""
    points = best.points
    if len(points) <= POINTS:
        return points
    own = [best.rows.index, *(pd.Index(group.rows.index) for group in models.values())]
    wanted = pd.Index(np.concatenate(own)).unique()[:POINTS]
    rest = points.index.difference(wanted, sort=False)
    others = np.random.default_rng(0).choice(rest, min(POINTS - len(wanted), len(rest)), replace=False)
    return points.loc[points.index.isin([*wanted, *others])]


def drawn_of(best: Front, drawn: pd.DataFrame) -> str:
    """How many of the points are drawn, and which, in words."""
    if len(drawn) == len(best.points):
        return f"All {len(drawn):,} trials are drawn."
    whole = int(drawn["on_front"].sum())
    front_part = "the front" if whole == len(best.rows) else f"the best {whole:,} of the front"
    return (
        f"{len(drawn):,} of {len(best.points):,} trials are drawn: {front_part}, as many as there is room for of the "
        "fronts of single models, and others at random. Tables and verdicts count all of them."
    )


def told(drawn: pd.DataFrame, runs: Mapping[str, Study]) -> dict[str, dict[str, Any]]:
    """What is told of each point, by its index.

    Args:
        runs: by their names in the column ``run``.
    """
    more = varied(drawn)
    metrics = [
        str(key)
        for key in drawn
        if key not in {*IDENTITY, *PROGRESS, *PROTOCOL, *more, "run", "collapsed", "on_front"}
        and not str(key).startswith("test_")
        and drawn[key].notna().any()
    ]
    stated = {label: settings(study.run) for label, study in runs.items()}
    shown = [*(("run",) if len(runs) > 1 else ()), *_SETTING, *more, *_PROGRESS]
    found, room = {}, _PICTURES
    # pictures of the front first, should there be too many
    for i, row in zip(*_ordered(drawn), strict=True):
        kinds = PICTURES if row["on_front"] else PICTURES[:2]
        pictures = {
            key: _picture(runs[row["run"]].run, str(row["trial"]) + ("" if key == "samples" else f"-{key}"))
            for key in kinds
            if room > 0
        }
        room -= sum(map(len, filter(None, pictures.values())))
        found[str(i)] = _point(row, metrics, shown, stated[row["run"]], pictures)
    return found


def _ordered(drawn: pd.DataFrame) -> tuple[list[Any], list[dict[Any, Any]]]:
    ordered = drawn.sort_values("on_front", ascending=False, kind="stable")
    return [*ordered.index], ordered.to_dict("records")


def _point(
    row: Mapping[Any, Value],
    metrics: list[str],
    shown: list[str],
    stated: Mapping[str, Any],
    pictures: Mapping[str, str | None],
) -> dict[str, Any]:
    doubts, missing = flags(row), _reasons(row)
    values = []
    for key in metrics:
        value, test = row[key], row.get(f"test_{key}")
        if pd.notna(value) or pd.notna(test):
            notes = {doubts[k] for k in (key, f"test_{key}") if k in doubts}
            values.append([key, number(value), number(test), short("; ".join(sorted(notes)), LONGEST)])
    try:
        line = {"line": command(str(row["trial"]), str(row["config"]), row.get("assignment"), stated)}
    except ValueError as error:
        line = {"line": "", "why": f"no line: {error}"}
    if row["status"] == Status.STOPPED:
        line["why"] = f"The scheduler stopped it at epoch {number(row['epoch'])}; this line trains it to the end."
    return {
        "trial": short(number(row["trial"]), 80),
        "model": short(number(row["model"]), 80),
        "marks": [mark.word for mark in marks(row)],
        "setting": [[key, short(number(row[key]), LONGEST)] for key in shown if pd.notna(row.get(key))],
        "metrics": values,
        "undefined": [[key, short(why, LONGEST)] for key, why in [*missing.items()][:60]],
        "config": short(str(row["config"]), 4000) if pd.notna(row["config"]) else "",
        **{key: pictures.get(key) for key in PICTURES},
        "on_front": bool(row["on_front"]),
        **line,
    }


def _reasons(row: Mapping[Any, Value]) -> dict[str, str]:
    try:
        return {str(key): str(why) for key, why in reasons(row).items()}
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"trial {plain(row['trial'])}: column reasons is no JSON object") from None


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
