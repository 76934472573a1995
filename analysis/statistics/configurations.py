"""Members as arrays: models, settings and lines of their configurations, and what each seed measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from gimtune.results.equal import curves, objective
from gimtune.results.pareto import log_distance
from gimtune.results.varied import parameters, varied
from gimtune.vocabulary import ALIKE

#: What is measured of a configuration, on both splits. ``probe`` is one of the two probes.
MEASURED = ("fid", "fid_expost", "probe", "mi_noised", "likelihood_x")
#: Distances, which enter by their logarithm: a ratio means the same for good models and for bad ones.
LOGARITHMIC = frozenset({"fid", "fid_expost"})
#: What two members must share for their numbers to be compared at all.
COMPARABLE = ("data", *ALIKE, "latent_dim")
#: With it, what they share so that they differ in their restrictions alone; and all else that varies in the study.
SETTING = (*COMPARABLE, "prior", "network")
#: What reading a configuration raises that is none.
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


class Unmeasured(ValueError):
    """Why an effect cannot be measured."""


class Fold(NamedTuple):
    """Seeds that choose a weight, on the validation split, and those that are then measured: masks of length S."""

    choose: np.ndarray
    measure: np.ndarray


@dataclass(frozen=True)
class Configurations:
    """C configurations of M models with up to S seeds each, measured once and redrawn D - 1 times.

    Attributes:
        prefix: of the columns that are measured.
        values: of each metric's column, (D, C, S): first as it was measured, then with the seeds redrawn; distances as
            logarithms, NaN where there is no number.
        models: names; of models with one objective all of them, as ``beta_vae = vae``.
        model, setting, line, alike: numbers, (C,). A setting is what models can share (prior, sizes, ...), a line the
            weights of one model in one setting with its own parameters fixed, and numbers of one ``alike`` compare.
        prior, apart: names of priors, and numbers of what else a setting is, their options left out, (C,).
        size, elsewhere: dimensions of the code, and numbers of what else a line is, (C,).
        weight: as it was asked for, (C,).
        strength: weight of the restriction, (C,): the order along a line.
        restrictions: of each model, ``posterior_kl`` and so on.
        likelihood: number of the likelihood's name, (C,).
        trials: number of seeds, (C,).
        levelled: share of a configuration's members that had levelled off, (C,); NaN where no row says so.
        folds: of the seeds.
    """

    prefix: str
    values: Mapping[str, np.ndarray]
    models: Sequence[str]
    model: np.ndarray
    setting: np.ndarray
    line: np.ndarray
    alike: np.ndarray
    prior: np.ndarray
    apart: np.ndarray
    size: np.ndarray
    elsewhere: np.ndarray
    weight: np.ndarray
    strength: np.ndarray
    restrictions: Sequence[frozenset[str]]
    likelihood: np.ndarray
    trials: np.ndarray
    levelled: np.ndarray
    folds: Sequence[Fold]

    def __len__(self) -> int:
        return len(self.trials)

    def require(self, *keys: str) -> None:
        """Refuse metrics that no configuration has."""
        if not len(self):
            raise Unmeasured("no trial has ended well")
        for key in keys:
            if not np.isfinite(self.values[self.prefix + key][0]).any():
                raise Unmeasured(f"no trial has {self.prefix}{key}")

    def mean(self, key: str) -> np.ndarray:
        """Means over seeds, (D, C), in single precision so that equal means are ties whatever the order of sums."""
        return average(self.values[self.prefix + key]).astype(np.float32).astype(float)

    def chosen_by(self, key: str, fold: Fold) -> np.ndarray:
        """Means on the validation split over the seeds that choose, (D, C)."""
        return average(self.values[key][:, :, fold.choose])

    def measured(self, key: str, fold: Fold) -> np.ndarray:
        """Means over the seeds that are measured, (D, C)."""
        return average(self.values[self.prefix + key][:, :, fold.measure])

    def lines(self, by: np.ndarray) -> list[np.ndarray]:
        """Configurations of each line (or of each number ``by`` within a model), weakest restriction first."""
        order = np.lexsort([self.strength, by, self.model])
        edges = np.flatnonzero((np.diff(by[order]) != 0) | (np.diff(self.model[order]) != 0)) + 1
        return np.split(order, edges) if len(order) else []


def average(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is finite; NaN where nothing is."""
    known = np.isfinite(values)
    counts = known.sum(-1)
    return np.divide(np.where(known, values, 0).sum(-1), counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def gathered(
    trials: pd.DataFrame, prefix: str, probe: str, redraws: int, generator: np.random.Generator
) -> Configurations:
    """Configurations of trials as `once` has them, numbered by the column ``configuration``."""
    own = parameters(trials)
    more = [key for key in varied(trials) if key not in own and key not in SETTING]
    _, first, of = np.unique(trials["configuration"].to_numpy(), return_index=True, return_inverse=True)
    size = len(first)
    sizes = np.bincount(of, minlength=size)
    slot = np.empty_like(of)
    order = np.lexsort([trials["seed"].to_numpy(dtype=float), of])
    slot[order] = np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    seeds = int(sizes.max(initial=0))

    def spread(column: str, logarithmic: bool = False) -> np.ndarray:
        values = np.full((size, seeds), np.nan)
        numbers = log_distance(trials[column]) if logarithmic else trials[column]
        values[of, slot] = numbers.to_numpy(dtype=float)
        return np.where(np.isfinite(values), values, np.nan)

    def number(*columns: str) -> np.ndarray:
        rows = trials.iloc[first][[*columns]].astype(str) if columns else trials.iloc[first][[]]
        return (
            rows.groupby([*columns], sort=False, dropna=False).ngroup().to_numpy() if size else np.empty(0, dtype=int)
        )

    values = {
        p + key: spread(p + (probe if key == "probe" else key), key in LOGARITHMIC)
        for p in {"", prefix}
        for key in MEASURED
    }
    names = [str(name) for name in pd.unique(trials["curve"])]
    model = pd.Categorical(trials["curve"].iloc[first], names).codes.astype(int)
    every = np.ones(seeds, dtype=bool)
    slots = np.arange(seeds)
    folds = [Fold(slots % 5 != i, slots % 5 == i) for i in range(min(5, seeds))] if seeds > 1 else []
    folds = folds or ([Fold(every, every)] if prefix else [])
    setting = number(*SETTING, *more)
    line = np.unique(np.stack([model, number(*SETTING, *more, *own)]), axis=1, return_inverse=True)[1].ravel()
    return Configurations(
        prefix,
        redrawn(values, model, redraws, generator),
        names,
        model,
        setting,
        line,
        number(*COMPARABLE),
        trials["prior"].iloc[first].astype(str).to_numpy(),
        number(*(key for key in (*SETTING, *more) if key.partition(".")[0] != "prior")),
        trials["latent_dim"].to_numpy(dtype=float)[first],
        number(*(key for key in (*SETTING, *more, *own) if key != "latent_dim")),
        trials["weight"].to_numpy(dtype=float)[first],
        trials["strength"].to_numpy(dtype=float)[first],
        [_restrictions(trials["restrictions"].to_numpy()[first[model == m]]) for m in range(len(names))],
        number("likelihood_name"),
        sizes,
        average(spread("levelled")),
        folds,
    )


def redrawn(
    values: Mapping[str, np.ndarray], model: np.ndarray, draws: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Values (C, S) as they are and ``draws`` times anew: means over seeds, and residuals of members of that model.

    A member's residuals in all metrics stay together. They are stretched by sqrt(k / (k - 1)) for k seeds, so that
    their variance is unbiased (Davison & Hinkley 1997, section 2.3), and pooled over the configurations of a model,
    since few seeds of one configuration say little of their spread. Without a second seed nothing is redrawn.
    """
    any_key = next(iter(values))
    size, seeds = values[any_key].shape
    there = np.any([np.isfinite(v) for v in values.values()], axis=0)
    counts = there.sum(1)
    several = there & (counts > 1)[:, None]
    if not draws or not several.any():
        return {key: v[None] for key, v in values.items()}
    stretch = np.sqrt(counts / np.maximum(counts - 1, 1))[:, None, None]
    residuals = {key: (v - average(v)[:, None]) * stretch[:, 0] for key, v in values.items()}
    pick = np.zeros((draws, size, seeds), dtype=int)
    everyone = np.flatnonzero(several.ravel())
    for m in np.unique(model):
        rows = np.flatnonzero(model == m)
        pool = np.flatnonzero((several & (model == m)[:, None]).ravel())
        pool = pool if len(pool) > 1 else everyone
        pick[:, rows] = pool[generator.integers(len(pool), size=(draws, len(rows), seeds))]
    drawn = {}
    for key, v in values.items():
        new = average(v)[:, None] + np.nan_to_num(residuals[key].ravel()[pick])
        drawn[key] = np.concatenate([v[None], np.where(np.isfinite(v), new, np.nan)])
    return drawn


def once(trials: pd.DataFrame) -> pd.DataFrame:
    """Members with the ``curve`` of each, a model or several with one objective, and its ``strength``; equal ones once.

    The strength is the sum of the restrictions' weights in the loss, which orders a curve whatever its models are
    called; where the configuration cannot be read, the member's ``weight``.
    """
    trials = trials.assign(model=trials["model"].astype(object).fillna("unknown").astype(str))
    try:
        curve = curves(trials)
    except _UNREADABLE:
        curve = trials["model"]
    told = [_objective(text) for text in trials["config"]]
    same = pd.Series([whole or str(i) for i, (whole, _) in enumerate(told)], trials.index)
    strength = np.array([s for _, s in told])
    weight = trials["weight"].to_numpy(dtype=float)
    strength = np.where(np.isfinite(strength), strength, np.nan_to_num(weight))
    trials = trials.assign(curve=curve, strength=strength)
    return trials[~same.duplicated()]


def _objective(text: object) -> tuple[str, float]:
    """What members that are equal share, and the sum of the restrictions' weights."""
    try:
        if not isinstance(text, str):
            return "", math.nan
        return objective(text), sum(float(weight) for *_, weight in json.loads(text)["restrictions"])
    except _UNREADABLE:
        return "", math.nan


def _restrictions(texts: Sequence[object]) -> frozenset[str]:
    """Those of a model, which has the same in all of its rows that can be read."""
    for text in texts:
        try:
            keys = json.loads(str(text))
        except (ValueError, RecursionError):
            continue
        if isinstance(keys, list):
            return frozenset(map(str, keys))
    return frozenset()
