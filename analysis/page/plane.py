"""The page's picture as data: members in columns, the means of configurations, axes, looks, and what it shows in words.

The page's script draws it: members or means, those that the filters leave, in the plane of any two metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gimtune.analysis.figures.look import axis, name, rank, style
from gimtune.analysis.figures.views import Band, flagged
from gimtune.analysis.statistics.attainment import MeanFront, configuration, mean_front
from gimtune.analysis.text import number, plain, short
from gimtune.results.pareto import LOGARITHMIC, Front
from gimtune.results.varied import varied
from gimtune.vocabulary import METRICS, Direction

#: Metrics that planes offer beside the objectives.
PLANES = (
    *("fid", "probe_codes", "mi_noised", "fid_expost", "recon_fid", "probe_means", "knn_codes", "mi_lower", "mi_upper"),
    *("latent_js", "data_js", "likelihood_x", "restriction", "active_units", "classes_covered", "seconds"),
)
#: Pairs that are shown at first, as far as they are measured.
_SHOWN = (("mi_noised", "probe_codes"), ("fid", "mi_noised"), ("recon_fid", "probe_codes"), ("latent_js", "fid"))
_COUNTS = ("", "", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
#: What the best of an objective does, in words.
_BEST = {"fid": "which generates best", "probe_codes": "whose codes say most"}
#: More trials are not drawn anew to say how means differ.
_MOST = 20_000


class Means(NamedTuple):
    """Configurations by their means over seeds.

    Attributes:
        of: number of the configuration, by the index of the points.
        fronts: of the numbers from 0 on, in turn: one of each run.
        table: their points one below the other.
    """

    of: pd.Series
    fronts: list[MeanFront]
    table: pd.DataFrame


def means_of(best: Front) -> Means | None:
    """The means of a front's points, run by run; ``None`` where there are too many trials, or none."""
    if not 0 < len(best.points) <= _MOST:
        return None
    points = best.points.drop(columns=["on_front", "collapsed"])
    numbers = pd.Series(-1, points.index)
    fronts: list[MeanFront] = []
    tables: list[pd.DataFrame] = []
    runs = points["run"] if "run" in points else pd.Series("", points.index)
    for _, rows in points.groupby(runs, sort=False):
        rows = rows.copy()
        rows.attrs |= points.attrs
        numbers[rows.index] = configuration(rows) + sum(len(table) for table in tables)
        fronts.append(mean_front(rows, best.objectives, generator=np.random.default_rng(0), reference=best.reference))
        tables.append(fronts[-1].points)
    table = pd.concat(tables, ignore_index=True)
    table.attrs |= tables[0].attrs
    # the draws of a mean know nothing of the ends of its scale
    ends = [f"{key}_{end}" for key in best.objectives if METRICS[key].unit == "fraction" for end in ("low", "high")]
    return Means(numbers, fronts, table.assign(**{end: table[end].clip(0, 1) for end in ends}))


def with_shares(best: Front, means: Means | None) -> Front:
    """A front whose rows have ``front_share``, of one run alone."""
    if means is None or len(means.fronts) > 1:
        return best
    return best._replace(rows=best.rows.assign(front_share=means.fronts[0].shares.reindex(best.rows.index)))


def sentence(means: Means | None, objectives: Mapping[str, Direction]) -> str:
    """What the picture shows, in words; empty for several runs, which are compared elsewhere."""
    if means is None or len(means.fronts) > 1 or len(objectives) != 2:
        return ""
    table = means.table
    first = next(iter(objectives))
    rows = table[table["on_front"]].sort_values(first, ascending=objectives[first] is Direction.MIN, kind="stable")
    repeated = bool((table["seeds"] > 1).any())
    among = f"all {len(table):,} configurations" + (", each the mean of its seeds," if repeated else "")

    def told(row: Mapping[Any, Any]) -> str:
        own = [f"{number(row['prior'])} prior", f"weight {number(row['weight'])}"]
        own += [f"{key} {number(row[key])}" for key in varied(table) if pd.notna(row[key])]
        reached = " and ".join(_valued(row, key) for key in objectives)
        return f"{short(number(row['model']), 40)} ({', '.join(own)}) with {reached}"

    ends = rows.to_dict("records")
    bounded = any(math.isfinite(row[f"{key}_low"]) for row in ends for key in objectives)
    brackets = " Brackets: 95 % intervals." if bounded else ""
    if len(ends) == 1:
        return plain(f"One of {among} is the whole front, for no other is better at either: {told(ends[0])}.{brackets}")
    count = _COUNTS[len(ends)] if len(ends) < len(_COUNTS) else f"{len(ends):,}"
    whose = [_BEST.get(key, f"which is best at {name(key)}") for key in objectives]
    return plain(
        f"{count} of {among} are on the front: no other is better at both. Its ends: {told(ends[0])}, {whose[0]}, "
        f"and {told(ends[-1])}, {whose[1]}.{brackets}"
    )


def _valued(row: Mapping[Any, Any], key: str) -> str:
    value, low, high = (float(row[k]) for k in (key, f"{key}_low", f"{key}_high"))
    interval = f" [{low:.3g}, {high:.3g}]" if math.isfinite(low) and high > low else ""
    label = name(key)
    return f"{label if label.isupper() else label[:1].lower() + label[1:]} {value:.3g}{interval}"


def picture(best: Front, drawn: pd.DataFrame, means: Means | None, seeds: Band | None) -> dict[str, Any]:
    """All that the page's script draws from, as JSON has it.

    Args:
        drawn: the points that are, with a column ``run``.
    """
    keys = [key for key in dict.fromkeys((*best.objectives, *PLANES)) if key in drawn and key in METRICS]
    keys = [key for key in keys if np.isfinite(drawn[key].to_numpy(dtype=float)).any()]
    models = [str(model) for model in drawn["model"].fillna("unknown").unique()]
    numbers = drawn.index.to_series() if means is None else means.of.reindex(drawn.index)
    settings = ["prior", "weight", "latent_dim", *varied(drawn)]
    settings = [key for key in settings if key in ("prior", "weight") or len(drawn[key].dropna().unique()) > 1]
    objectives = [*best.objectives][:2]
    return {
        "objectives": [[key, best.objectives[key]] for key in objectives],
        "fronts": len(best.objectives) == 2,
        "axes": {key: _axis(best, key, means) for key in keys},
        "planes": _planes(keys, objectives),
        "looks": {model: _look(model) for model in models},
        "indices": [int(i) for i in drawn.index],
        "trial": [short(number(value), 80) for value in drawn["trial"]],
        "model": _coded(drawn["model"].fillna("unknown").astype(str)),
        "prior": _coded(drawn["prior"].map(_label)),
        "run": _coded(drawn["run"].astype(str)),
        "seed": _coded(drawn["seed"].map(_label)),
        "weight": _numbers(drawn["weight"]),
        "front": drawn["on_front"].astype(int).tolist(),
        "collapsed": drawn["collapsed"].astype(int).tolist(),
        "flagged": flagged(drawn, *objectives).astype(int).tolist(),
        "setting": _coded(drawn[settings].apply(_setting, axis=1) if len(drawn) else pd.Series(dtype=str)),
        "settings": {key: _coded(drawn[key].map(_label)) for key in settings if key not in ("prior", "weight")},
        "values": {key: _numbers(drawn[key]) for key in keys},
        "errors": {key: _numbers(drawn[f"{key}_se"]) for key in objectives if f"{key}_se" in drawn},
        "configuration": [int(i) for i in numbers],
        "intervals": _intervals(means, objectives),
        "band": _steps(seeds),
    }


def _planes(keys: Sequence[str], objectives: Sequence[str]) -> list[tuple[str, str]]:
    """Those that are shown at first; where few of them are measured, others against the second objective."""
    more = [(key, objectives[1]) for key in keys if key not in objectives]
    return [*dict.fromkeys([*(pair for pair in _SHOWN if {*pair} <= {*keys}), *more])][: len(_SHOWN)]


def _axis(best: Front, key: str, means: Means | None) -> dict[str, Any]:
    found = axis(best.points, key, direction=best.objectives.get(key))
    ends = [found.low, found.high]
    if means is not None and key in best.objectives:
        # the bars of the front are seen whole
        bars = means.table.loc[means.table["on_front"].astype(bool), [f"{key}_low", f"{key}_high"]].to_numpy(
            dtype=float
        )
        bars = bars[np.isfinite(bars) & (bars > 0)] if found.logarithmic else bars[np.isfinite(bars)]
        ends = [min(found.low, *bars), max(found.high, *bars)] if len(bars) else ends
    return {
        "label": found.label,
        "name": name(key),
        "log": found.logarithmic,
        "range": ends,
        "distance": key in LOGARITHMIC,
    }


def _look(model: str) -> list[Any]:
    look = style(model)
    return [look.colour, look.symbol, rank(model)[0]]


def _label(value: Any) -> str:
    return short(number(value), 80)


def _setting(row: pd.Series) -> str:
    return ", ".join(f"{key} {_label(value)}" for key, value in row.items() if pd.notna(value))


def _coded(values: pd.Series) -> dict[str, Any]:
    codes, names = pd.factorize(values)
    return {"names": [short(plain(text), 200) for text in names], "codes": codes.tolist()}


def _numbers(values: pd.Series | np.ndarray) -> list[float | None]:
    """Five digits are more than a picture shows."""
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=float).tolist()]


def _intervals(means: Means | None, keys: Sequence[str]) -> dict[str, Any]:
    if means is None:
        return {}
    return {key: [_numbers(means.table[f"{key}_{end}"]) for end in ("low", "high")] for key in keys}


def _steps(found: Band | None) -> dict[str, Any] | None:
    if found is None:
        return None
    lines = {key: _numbers(getattr(found, key)) for key in ("x", "best", "median", "worst")}
    return {**lines, "seeds": found.seeds}
