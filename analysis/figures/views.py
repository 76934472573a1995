"""What figures show, as data: who is drawn, sweeps, rates and distortions, chosen points. No plotting library."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gimtune.analysis.statistics.attainment import Attainment, attainment
from gimtune.analysis.statistics.sizes import weakest
from gimtune.analysis.text import flags, number
from gimtune.results.pareto import LOGARITHMIC, Front, contributions, log_distance
from gimtune.results.store import Value
from gimtune.results.varied import varied
from gimtune.vocabulary import METRICS, Direction, Match, Side

#: More different weights than these are gathered in bins.
_WEIGHTS = 12
_BINS = 10
#: Beside what varies in a study, what tells lines of a sweep apart.
_LINES = ("latent_dim", "likelihood_name", "encoder")
#: Of one key, that get a line each.
_VALUES = 6
_RATES = (f"restriction/{Match.POSTERIOR}_kl", f"restriction/{Match.POSTERIOR}_kl_contrast")
_PLANE = ("rate", "distortion")


def thinned(points: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most so many points, the same ones every time: all on the front, and of the others as many of each model.

    Nothing is taken from a model with few points before every model has as few. More than ``most`` are left where the
    front alone has more.
    """
    if len(points) <= most:
        return points
    shuffled = points.iloc[np.random.default_rng(0).permutation(len(points))]
    turn = shuffled.groupby(shuffled["model"].fillna("unknown")).cumcount().where(~shuffled["on_front"], -1)
    kept = turn.sort_values(kind="stable").index[: max(most, int(points["on_front"].sum()))]
    return points.loc[points.index.isin(kept)]


def flagged(points: pd.DataFrame, *keys: str) -> pd.Series:
    """Whether one of the columns is not to be trusted, by row; a sum of restrictions is not if one of them is not.

    A view whose columns are others says it in a column ``flagged``.

    Raises:
        ValueError: as `gimtune.analysis.text.flags`.
    """
    if "flagged" in points:
        return points["flagged"]
    found = [
        any(name in keys or ("restriction" in keys and name.startswith("restriction/")) for name in flags(row))
        for row in points.filter(["trial", "flags"]).to_dict("records")
    ]
    return pd.Series(found, points.index, dtype=bool)


def measured(points: pd.DataFrame, keys: Iterable[str]) -> pd.DataFrame:
    """Rows that are finite in all of these metrics; where a distance is among them, those of one kind of features."""
    keys = [*keys]
    points = points.reindex(columns=[*dict.fromkeys([*points, *keys])])
    points = points[np.isfinite(points[keys].to_numpy(dtype=float)).all(1)]
    if "fid_features" in points and any(METRICS[key].unit == "features^2" for key in keys if key in METRICS):
        kinds = points["fid_features"].mode()
        points = points[points["fid_features"].isna() | points["fid_features"].isin(kinds.head(1))]
    return points


class Band(NamedTuple):
    """Attainment surfaces of two objectives on one grid, to draw as steps: a value holds from its x to the next.

    Attributes:
        x: corners of all surfaces, best first.
        best, median, worst: second objective; NaN where a surface does not reach.
        seeds: their number.
    """

    x: np.ndarray
    best: np.ndarray
    median: np.ndarray
    worst: np.ndarray
    seeds: int


def band(front: Front) -> Band | None:
    """Attainment over seeds, or ``None`` where seeds are no repetitions: one alone, or some with a part of the rest.

    That part is less than half of the points of the seed that has most.
    """
    if len(front.objectives) != 2 or "seed" not in front.points or not len(front.points):
        return None
    found: Attainment = attainment(front.points, front.objectives)
    counts = [*found.sets.values()]
    if len(counts) < 2 or 2 * min(counts) < max(counts) or max(counts) < 2:
        return None
    (x, first), (y, second) = front.objectives.items()
    sign, better = (-1.0 if d is Direction.MAX else 1.0 for d in (first, second))
    grid = np.unique(sign * found.surfaces[x])
    lines = {}
    for name in ("best", "median", "worst"):
        part = found.surfaces[found.surfaces["surface"] == name]
        order = np.argsort(sign * part[x].to_numpy(), kind="stable")
        values = np.minimum.accumulate(better * part[y].to_numpy(dtype=float)[order])
        at = np.searchsorted(sign * part[x].to_numpy()[order], grid, side="right") - 1
        lines[name] = better * np.where(at >= 0, values[at], np.nan) if len(values) else np.full(len(grid), np.nan)
    return Band(sign * grid, lines["best"], lines["median"], lines["worst"], len(counts))


def sweep(points: pd.DataFrame, key: str) -> pd.DataFrame:
    """A metric against the weight: one row per model, line and weight (or bin of weights, where there are many).

    A line is a prior and what else varies for it, as ``normal, learning_rate 0.001``; what has more than `_VALUES`
    values is no line's, and is named in the table's ``attrs["averaged"]``.

    Returns:
        ``model``, ``line``, ``weight`` (geometric mean of a bin), ``mean``, ``low`` and ``high`` (10th and 90th
        percentile over seeds and all else), ``members``, ``collapsed`` and ``flagged`` (whether any member is).
    """
    rows = measured(points, [key, "weight"])
    rows = rows.assign(flagged=flagged(rows, key), model=rows["model"].fillna("unknown"))
    rows = rows.assign(prior=rows["prior"].fillna("unknown"), bin=rows["weight"])
    rows, averaged = _lines(rows)
    for _, group in rows[rows["weight"] > 0].groupby("model"):
        if group["weight"].nunique() > _WEIGHTS:
            log = np.log(group["weight"])
            edges = np.linspace(log.min(), log.max(), _BINS + 1)[1:-1]
            which = np.digitize(log, edges)
            rows.loc[group.index, "bin"] = np.exp(log.groupby(which).transform("mean"))
    table = rows.groupby(["model", "line", "bin"])
    found = table[key].agg(["mean", "size"]).rename(columns={"size": "members"})
    found = found.assign(low=table[key].quantile(0.1), high=table[key].quantile(0.9))
    found = found.assign(collapsed=table["collapsed"].any(), flagged=table["flagged"].any())
    found = found.reset_index().rename(columns={"bin": "weight"})
    found.attrs["averaged"] = averaged
    return found


def _lines(rows: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rows with the name of their ``line``, and over what a line is an average."""
    groups = rows.groupby(["model", "prior"])
    line, averaged = [*rows["prior"].astype(str)], []
    for key in (*_LINES, *varied(rows)):
        if key in rows:
            different = groups[key].transform("nunique")
            apart = different.between(2, _VALUES) & rows[key].notna()
            told = zip(line, apart, rows[key], strict=True)
            line = [f"{name}, {key} {number(value)}" if own else name for name, own, value in told]
            averaged += [key] if (different > _VALUES).any() else []
    return rows.assign(line=line), tuple(averaged)


def sizes(points: pd.DataFrame, objectives: Mapping[str, Direction]) -> pd.DataFrame:
    """Two objectives by the size of the code, of each model at the weight where the first is best.

    The weight is chosen on the validation split for each size and all else that varies, and measured on the test split,
    where there is one. Sizes are compared in what else is equal; where a model was trained in several such settings, it
    is their mean. Collapsed members are left out.

    Returns:
        ``model``, ``latent_dim``, both objectives, and ``given_up``, by how much the second is better at the weakest of
        several weights that all sizes have; no row where no model has codes of two sizes.
    """
    (x, way), (y, better) = [*objectives.items()][:2]
    best = pd.Series.idxmin if way == Direction.MIN else pd.Series.idxmax
    shown = {key: f"test_{key}" if f"test_{key}" in points else key for key in (x, y)}
    apart = [key for key in ("prior", "network", *_LINES, *varied(points)) if key in points and key != "latent_dim"]
    rows = measured(points[~points["collapsed"].astype(bool)], [x, y, *shown.values(), "weight", "latent_dim"])
    # as claims choose it
    rows = rows.assign(chosen_by=log_distance(rows[x]) if x in LOGARITHMIC else rows[x])
    keys = ["chosen_by", *dict.fromkeys([x, y, *shown.values()])]
    found = []
    for (model, *_), group in rows.groupby(["model", *apart], dropna=False, observed=True):
        means = group.groupby(["latent_dim", "weight"])[keys].mean().reset_index()
        lines = dict([*means.groupby("latent_dim")])
        if len(lines) < 2:
            continue
        least = weakest(line["weight"] for line in lines.values())
        for size, line in lines.items():
            place = best(line["chosen_by"])
            told = {"model": model, "latent_dim": size, **{key: line.loc[place, of] for key, of in shown.items()}}
            line = line[line["weight"] >= least]
            if len(line) > 1:
                given = line.loc[line["weight"].idxmin(), shown[y]] - line.loc[best(line["chosen_by"]), shown[y]]
                told["given_up"] = given if better == Direction.MAX else -given
            found.append(told)
    table = pd.DataFrame(found, columns=["model", "latent_dim", x, y, "given_up"])
    return table.groupby(["model", "latent_dim"])[[x, y, "given_up"]].mean().reset_index()


def some(weights: Iterable[float], most: int = _WEIGHTS) -> list[float]:
    """At most so many different weights, from the smallest to the largest."""
    different = sorted({*weights})
    places = np.linspace(0, len(different) - 1, min(most, len(different))).round().astype(int)
    return [different[place] for place in places]


def course(points: pd.DataFrame, reports: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Two metrics as training went on: one row per model, weight and epoch, a mean over members.

    A member that ended before others of its line stays in their mean as it last was, so that a line does not turn where
    one leaves.

    Returns:
        ``model``, ``weight``, ``epoch``, both metrics, ``members``, and ``levelled``, whether all of them had at their
        end; lines with one evaluation are left out.
    """
    who = points.reindex(columns=["trial", "model", "weight", "levelled"]).rename(columns={"levelled": "flat"})
    rows = reports.reindex(columns=["trial", "epoch", x, y]).merge(who, on="trial")
    rows = rows[np.isfinite(rows[[x, y]].to_numpy(dtype=float)).all(1)]
    found = []
    for (model, weight), line in rows.groupby(["model", "weight"]):
        if weight not in some(rows.loc[rows["model"] == model, "weight"]):
            continue
        wide = line.pivot_table([x, y], "epoch", "trial").ffill().dropna()
        if len(wide) > 1:
            means = pd.DataFrame({metric: wide[metric].mean(axis=1) for metric in (x, y)}).reset_index()
            flat = line.groupby("trial")["flat"].first().fillna(0)
            told = {"model": model, "weight": weight, "members": len(flat), "levelled": bool((flat == 1).all())}
            found.append(means.assign(**told))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


class RateDistortion(NamedTuple):
    """Members of side q on the rate-distortion plane.

    Attributes:
        points: rows with ``distortion`` = -E_q[log p(x|z)], ``rate`` in nats, and ``flagged``, for each of two rates:
            ``prior``, KL(q(z|x) || p(z)), which the model restricts; ``information``, the estimate of I_q with a
            Gaussian q(z): the rate under the best prior there could be.
        likelihood: the one whose distortions are shown; those of two likelihoods do not compare.
        left_out: number of members by reason.

    Source: Alemi et al. 2018, eq. 1-4.
    """

    points: dict[str, pd.DataFrame]
    likelihood: str
    left_out: dict[str, int]


def rate_distortion(points: pd.DataFrame) -> RateDistortion:
    """Rates and distortions of the members that have them."""
    columns = ("side", "likelihood_name", "likelihood_x", "mi_q", *_RATES)
    points = points.reindex(columns=[*dict.fromkeys([*points, *columns])])
    left = {}

    def keep(rows: pd.DataFrame, kept: pd.Series, why: str) -> pd.DataFrame:
        if not kept.all():
            left[why] = int((~kept).sum())
        return rows[kept]

    rows = keep(points, points["side"] == Side.Q, "not of side q")
    of_critic = rows["likelihood_name"] == "features"
    rows = keep(rows, ~of_critic, "likelihood of a critic's features")
    likelihood = str(next(iter(rows["likelihood_name"].mode()), ""))
    rows = keep(rows, rows["likelihood_name"] == likelihood, f"likelihood not {likelihood}")
    rows = rows.assign(distortion=-rows["likelihood_x"])
    closed, contrast = _RATES
    ours = rows[closed].notna() | rows[contrast].notna()
    by_prior = rows.assign(rate=rows[closed].fillna(rows[contrast]), flagged=flagged(rows, *_RATES))[ours]
    rows = keep(rows, rows["mi_q"].notna() | ours, "no rate: no density of q(z|x)")
    by_information = rows.assign(rate=rows["mi_q"], flagged=flagged(rows, "mi_q"))
    found = {"prior": measured(by_prior, _PLANE), "information": measured(by_information, _PLANE)}
    return RateDistortion(found, likelihood, left)


def chosen(front: Front, most: int = 6) -> pd.DataFrame:
    """Rows of the front to look at closely, with a column ``knee``: its ends, its knee, and evenly from between."""
    rows = front.rows.assign(knee=contributions(front)["knee"])
    if len(rows) <= most:
        return rows
    places = {*np.linspace(0, len(rows) - 1, most).round().astype(int)}
    knee = np.flatnonzero(rows["knee"])
    if len(knee) and knee[0] not in places:
        inner = sorted(places)[1:-1]
        places -= {min(inner, key=lambda place: abs(place - knee[0]))}
        places |= {knee[0]}
    return rows.iloc[sorted(places)]


class LatentMap(NamedTuple):
    """Codes of validation images in the plane.

    Attributes:
        codes: (n, 2), posterior means: the two dimensions themselves, or the first two principal components.
        labels: (n,).
        explained: share of the codes' variance that the plane shows.
        latent_dim: dimensions that there are.
    """

    codes: np.ndarray
    labels: np.ndarray
    explained: float
    latent_dim: int


def latent_map(run: Path, trial: str) -> LatentMap | None:
    """The map of an ended member, or ``None`` where its file is missing or unreadable, or its codes are constant."""
    path = sample(run, trial, "-latents.npz")
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            codes, labels = stored["codes"].astype(float), stored["labels"].astype(int)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if codes.ndim != 2 or labels.shape != codes.shape[:1] or not np.isfinite(codes).all() or codes.std() == 0:
        return None
    if codes.shape[1] <= 2:
        plane = np.column_stack([codes, np.zeros((len(codes), 2 - codes.shape[1]))])
        return LatentMap(plane, labels, 1.0, codes.shape[1])
    from sklearn.decomposition import PCA

    projection = PCA(2, svd_solver="full").fit(codes)
    share = float(projection.explained_variance_ratio_.sum())
    return LatentMap(projection.transform(codes), labels, share, codes.shape[1])


def sample(run: Path, trial: str, suffix: str) -> Path | None:
    """A file of a member's samples, if it is there; names that lead out of the folder have none."""
    path = run / "samples" / f"{trial}{suffix}"
    return path if Path(trial).name == trial and path.is_file() and not path.is_symlink() else None


def terms(trial: Mapping[str, Value]) -> pd.DataFrame:
    """The restrictions of a trial: divergence on both splits, weight in the loss, how estimated, whether to be trusted.

    Args:
        trial: a row of the table of trials.
    """
    weights = {
        f"{match}_{divergence}": weight for match, divergence, weight in _parsed(trial, "config", "restrictions")
    }
    estimators, doubts = dict(_parsed(trial, "estimators")), flags(trial)
    rows = [
        {
            "restriction": name,
            "weight": weights.get(name, np.nan),
            "divergence": trial.get(f"restriction/{name}"),
            "test": trial.get(f"test_restriction/{name}"),
            "critic accuracy": trial.get(f"critic_accuracy/{name}"),
            "estimator": estimators.get(f"restriction/{name}", ""),
            "flag": doubts.get(f"restriction/{name}", ""),
        }
        for name in _parsed(trial, "restrictions")
    ]
    return pd.DataFrame(rows, columns=_TERMS).dropna(axis=1, how="all")


_TERMS = ("restriction", "weight", "divergence", "test", "critic accuracy", "estimator", "flag")


def _parsed(trial: Mapping[str, Value], column: str, key: str = "") -> Any:
    try:
        found = json.loads(str(trial.get(column) or "{}"))
        return found.get(key, []) if key else found
    except (ValueError, AttributeError):
        raise ValueError(f"trial {trial.get('trial')}: column {column} is no JSON") from None


_BRACKET = ("mi_lower", "mi_noised", "mi_upper", "mi_q")


def bracket(trial: Mapping[str, Value]) -> pd.DataFrame:
    """Estimates of I_q of a trial on both splits, from below to the Gaussian above, and ln N."""
    rows = [
        {"estimate": METRICS[key].meaning, "validation": trial.get(key), "test": trial.get(f"test_{key}")}
        for key in _BRACKET
    ]
    images = trial.get("mi_images")
    most = math.log(float(images)) if images else math.nan
    rows.append(
        {
            "estimate": "ln N: the most that a bound without a fitted density tells of N images",
            "validation": most,
            "test": math.nan,
        }
    )
    return pd.DataFrame(rows, index=[*_BRACKET, "ln N"])
