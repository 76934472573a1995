"""The source's claims, each with a verdict, an effect size and an interval: never by eye. No plotting library.

A configuration (model, prior, weight and all else but the seed) counts once, by its means over seeds. Every effect is a
mean over *pairs* of configurations that were measured alike (same data set and FID features): Kendall's tau-b for a
rank correlation, Cliff's delta for "better than", a mean difference for matched pairs. All weights of a sweep enter.

Intervals draw configurations anew, each with all its seeds (a cluster bootstrap). Models are not drawn: a verdict is
about those of the study. Percentiles are taken further out by as much as a t interval of so few configurations is wider
(Hesterberg 2015, "expanded percentile"). A claim *holds* if its interval lies wholly on its side of zero, *does not
hold* if wholly on the other, and is *undecided* otherwise. Claims are judged one by one: where there is nothing, one in
forty "holds" at 95 %.

The test split is the default, since no search, early stopping or front has seen it. Early-stopped members enter with
their last report, as in a front. Unfinished, failed and diverged ones are left out and counted, and so are collapsed
posteriors: without an active unit a point is no trade-off, whatever its numbers. Where a search chose configurations
or a scheduler stopped some, they are no independent sample, and intervals are surer than they should be: judge a grid.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special
from threadpoolctl import threadpool_limits

from gimtune.analysis.statistics.attainment import SETTING, configuration
from gimtune.results.pareto import why_left_out
from gimtune.vocabulary import METRICS, Direction, Match

#: Configurations that an effect needs; in a comparison of two groups, each of them.
FEWEST = 5
#: More are thinned at random to this number, for an effect takes a matrix of all pairs.
MOST = 500
#: Matched pairs are this close, in standard deviations of what they are matched by (Austin 2011).
CALIPER = 0.2

_UNDEFINED = 0.05
_FOLDS = 5
_METRICS = ("fid", "fid_expost", "probe_accuracy", "mi_noised", "mi_lower", "likelihood_x")
_LABELS = ("data", "fid_features", "model", "likelihood_name", "prior", "latent_dim", "network")
#: What two configurations share, so that they differ in their restrictions (and what else the models bring) alone.
_SETTING = ("prior", "latent_dim", "network")


class Verdict(StrEnum):
    """What the interval of a claim's effect says."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    UNDECIDED = "undecided"


class Claim(NamedTuple):
    """One claim, as a study answers it.

    Attributes:
        key: letter of the claim, and the reading of it.
        statement: what is claimed.
        verdict: by the interval.
        effect: what is measured; positive where the claim holds.
        unit: of the effect.
        value, low, high: the effect and its interval; NaN where it cannot be measured.
        trials, configurations: that entered.
        note: a sentence with the numbers, or with the reason why there is no verdict.
    """

    key: str
    statement: str
    verdict: Verdict
    effect: str
    unit: str
    value: float
    low: float
    high: float
    trials: int
    configurations: int
    note: str


class Verdicts(NamedTuple):
    """All claims of a study.

    Attributes:
        claims: in the source's order.
        split: that the metrics are of.
        level: of the intervals.
        trials, configurations: considered.
        left_out: number of trials not considered, by reason.
    """

    claims: tuple[Claim, ...]
    split: str
    level: float
    trials: int
    configurations: int
    left_out: dict[str, int]

    def table(self) -> pd.DataFrame:
        """One row per claim, with the split, the level and what was left out."""
        left = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return pd.DataFrame(self.claims, columns=Claim._fields).assign(
            split=self.split, level=self.level, left_out=left
        )


def claims(
    trials: pd.DataFrame,
    generator: np.random.Generator,
    *,
    split: str = "test",
    only: Mapping[str, str] | None = None,
    draws: int = 2000,
    level: float = 0.95,
) -> Verdicts:
    """Verdicts on the source's claims. What a study is too small for is undecided, with the reason.

    Args:
        trials: rows as of `gimtune.store.Store.trials`; may be empty, and may lack metrics.
        generator: of the bootstrap's draws.
        split: ``test`` or ``validation``.
        only: column and value to choose, as of `analysis.pareto.front`. Not needed where data sets or FID features are
            mixed: configurations of different ones make no pair.
        draws: of the bootstrap.
        level: of the intervals.

    Raises:
        ValueError: another split, or a column of ``only`` that is missing.
    """
    if split not in ("test", "validation"):
        raise ValueError(f"split {split}: allowed: test, validation")
    missing = [c for c in ("status", *(only or {})) if c not in trials]
    if missing and len(trials):
        raise ValueError(f"trials lack the column {', '.join(missing)}")
    prefix = "test_" if split == "test" else ""
    kept, left = _considered(trials, only or {}, generator)
    answers = []
    # the matrices are small: more threads would only disturb a study beside
    with threadpool_limits(1, user_api="blas"), np.errstate(all="ignore"):
        study = _study(kept, prefix, draws, level, generator)
        for key, statement, measure in _CLAIMS:
            try:
                effect, used, note = measure.of(study)
            except _Unmeasured as reason:
                effect, used, note = _NOTHING, np.zeros(len(study), dtype=bool), str(reason)
            verdict = _verdict(effect)
            counts = (int(study.trials[used].sum()), int(used.sum()))
            answers.append(Claim(key, statement, verdict, measure.effect, measure.unit, *effect, *counts, note))
    return Verdicts(tuple(answers), split, level, len(kept), len(study), left)


def _considered(
    trials: pd.DataFrame, only: Mapping[str, str], generator: np.random.Generator
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Trials that count, with the number of their ``configuration``, and how many do not, by reason."""
    numbers = [*("active_units", "seed"), *(p + key for p in ("", "test_") for key in _METRICS)]
    trials = trials.reindex(columns=[*dict.fromkeys([*trials.columns, "status", *SETTING, *_LABELS, *only, *numbers])])
    why = [
        reason or ("collapsed" if units == 0 else None)
        for reason, units in zip(why_left_out(trials, [], only), trials["active_units"], strict=True)
    ]
    left = Counter(reason for reason in why if reason)
    kept = trials[np.array([reason is None for reason in why], dtype=bool)]
    kept = kept.assign(configuration=configuration(kept))
    if kept["configuration"].nunique() > MOST:
        chosen = generator.choice(kept["configuration"].unique(), MOST, replace=False)
        left[f"thinned out, leaving {MOST} configurations"] = int((~kept["configuration"].isin(chosen)).sum())
        kept = kept[kept["configuration"].isin(chosen)]
    return kept, dict(left.most_common())


def _study(trials: pd.DataFrame, prefix: str, draws: int, level: float, generator: np.random.Generator) -> _Study:
    _, first, of = np.unique(trials["configuration"].to_numpy(), return_index=True, return_inverse=True)
    size = len(first)
    sizes = np.bincount(of, minlength=size)
    columns = {p + key: trials[p + key].to_numpy(dtype=float) for p in {"", prefix} for key in _METRICS}

    def mean(column: str, rows: np.ndarray) -> np.ndarray:
        rows = rows & np.isfinite(columns[column])
        sums, counts = np.bincount(of[rows], columns[column][rows], size), np.bincount(of[rows], None, size)
        # to single precision, so that equal means are ties whatever the order of their sums
        return np.divide(sums, counts, out=np.full(size, math.nan), where=counts > 0).astype(np.float32).astype(float)

    order = np.lexsort([trials["seed"].to_numpy(dtype=float), of])
    fold = np.empty_like(of)
    fold[order] = (np.arange(len(of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)) % _FOLDS
    every = np.ones(len(of), dtype=bool)
    parts = [(fold != i, fold == i) for i in np.unique(fold)] if fold.any() else [(every, every)] if prefix else []
    keys = _Fold._fields[:2]
    drawn = generator.multinomial(size, np.full(size, 1 / size), draws) if size else np.empty((draws, 0))
    return _Study(
        prefix,
        {column: mean(column, every) for column in columns},
        {column: pd.factorize(trials[column].to_numpy()[first])[0] for column in _LABELS},
        [_restrictions(text) for text in trials["restrictions"].to_numpy()[first]],
        sizes,
        [_Fold(*(mean(k, some) for k in keys), *(mean(prefix + k, rest) for k in keys)) for some, rest in parts],
        drawn.astype(np.float32),
        level,
    )


def _restrictions(text: object) -> frozenset[str]:
    try:
        keys = json.loads(str(text))
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(map(str, keys)) if isinstance(keys, list) else frozenset()


class _Effect(NamedTuple):
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2g} [{self.low:.2g}, {self.high:.2g}]"


def _verdict(effect: _Effect) -> Verdict:
    if effect.low > 0:
        return Verdict.HOLDS
    return Verdict.DOES_NOT_HOLD if effect.high < 0 else Verdict.UNDECIDED


_NOTHING = _Effect(math.nan, math.nan, math.nan)


class _Unmeasured(ValueError):
    """Why an effect cannot be measured."""


#: From weights of configurations, (draws, configurations), to the effect of each draw.
_Statistic = Callable[[np.ndarray], np.ndarray]


class _Fold(NamedTuple):
    """Means over some seeds that choose a front, on the validation split, and those of others that are measured."""

    fid: np.ndarray
    probe_accuracy: np.ndarray
    measured_fid: np.ndarray
    measured_probe_accuracy: np.ndarray


@dataclass(frozen=True)
class _Study:
    """Configurations in a fixed order: what they are, and their means over seeds.

    Attributes:
        prefix: of the columns that are measured.
        values: of each metric's column, the means.
        labels: of each column in `_LABELS`, a number for each value.
        restrictions: ``posterior_kl`` and so on; none where they cannot be read.
        trials: number of seeds.
        folds: of the seeds; where no configuration has two, the two splits; none on a single split.
        draws: how often each configuration is in each draw of the bootstrap.
    """

    prefix: str
    values: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    restrictions: list[frozenset[str]]
    trials: np.ndarray
    folds: list[_Fold]
    draws: np.ndarray
    level: float

    def __getitem__(self, key: str) -> np.ndarray:
        return self.values[self.prefix + key]

    def __len__(self) -> int:
        return len(self.trials)

    def require(self, *keys: str) -> None:
        """Refuse metrics that no configuration has."""
        if not len(self):
            raise _Unmeasured("no trial has ended well")
        for key in keys:
            if not np.isfinite(self[key]).any():
                raise _Unmeasured(f"no trial has {self.prefix}{key}")

    def group(self, *columns: str) -> np.ndarray:
        """Number of those that agree in these columns and were measured alike."""
        labels = np.stack([self.labels[c] for c in ("data", "fid_features", *columns)])
        return np.unique(labels, axis=1, return_inverse=True)[1].ravel()

    def same(self, *columns: str) -> np.ndarray:
        """Pairs of one group."""
        group = self.group(*columns)
        return group[:, None] == group

    def freedom(self, used: np.ndarray, *within: str) -> int:
        """Configurations used, less one for each group but the first."""
        return int(used.sum()) - max(len(np.unique(self.group(*within)[used])), 1) + 1

    def effect(self, statistic: _Statistic, size: int) -> _Effect:
        """A statistic and its interval, with the uncertainty of ``size`` configurations.

        Raises:
            _Unmeasured: too few of them, or not defined.
        """
        if size < FEWEST:
            raise _Unmeasured(f"too few configurations: {size}, of {FEWEST} needed")
        value = float(statistic(np.ones((1, len(self)), dtype=np.float32))[0])
        drawn = statistic(self.draws)
        drawn = drawn[np.isfinite(drawn)]
        if not math.isfinite(value) or len(drawn) < (1 - _UNDEFINED) * len(self.draws):
            raise _Unmeasured("too few pairs that differ")
        tail = special.ndtr(-math.sqrt(size / (size - 1)) * special.stdtrit(size - 1, (1 + self.level) / 2))
        return _Effect(value, *map(float, np.quantile(drawn, [tail, 1 - tail])))


_Answer = tuple[_Effect, np.ndarray, str]


class _Measure(NamedTuple):
    """How a claim is measured: the name of the effect, its unit, and effect, configurations used and note."""

    effect: str
    unit: str
    of: Callable[[_Study], _Answer]


class _Pairs(NamedTuple):
    """An effect w'Nw / sqrt(w'Aw w'Bw) of weights w of configurations; A and B are 1 for pairs that count, else 0."""

    numerator: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def ratio(self, weights: np.ndarray) -> np.ndarray:
        return _ratio(self.sums(weights))

    def sums(self, weights: np.ndarray) -> np.ndarray:
        return np.stack([np.einsum("dc,dc->d", weights @ pairs, weights) for pairs in self])

    @property
    def both(self) -> np.ndarray:
        return (self.first > 0) & (self.second > 0)

    @property
    def used(self) -> np.ndarray:
        return np.asarray(self.both.any(0))


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[0] / np.sqrt(sums[1] * sums[2])


def _difference(values: np.ndarray) -> np.ndarray:
    return values[:, None] - values


def _kendall(x: np.ndarray, y: np.ndarray, among: np.ndarray) -> _Pairs:
    """Tau-b over pairs ``among`` those where both are known."""
    known = np.isfinite(x) & np.isfinite(y)
    signs = [np.where(among & known & known[:, None], np.sign(_difference(v)), 0).astype(np.float32) for v in (x, y)]
    return _Pairs(signs[0] * signs[1], abs(signs[0]), abs(signs[1]))


def _mean_over(pairs: np.ndarray, values: np.ndarray) -> _Pairs:
    """Mean of a pair's value, over pairs where it is known."""
    counts = (pairs & np.isfinite(values)).astype(np.float32)
    return _Pairs(np.where(counts > 0, values, 0).astype(np.float32), counts, counts)


def _agreement(pairs: _Pairs, x: str, y: str) -> str:
    """Of Goodman & Kruskal 1954: the share of concordant pairs among those that differ in both."""
    both = float(pairs.both.sum())
    share = (1 + float(pairs.numerator.sum()) / both) / 2 if both else math.nan
    return f"{x} and {y} rise together in {share:.0%} of the pairs that differ in both"


def _rank(x: str, y: str, *within: str) -> _Measure:
    def of(study: _Study) -> _Answer:
        study.require(x, y)
        pairs = _kendall(study[x], study[y], study.same(*within))
        effect = study.effect(pairs.ratio, study.freedom(pairs.used, *within))
        return effect, pairs.used, f"tau {effect}: {_agreement(pairs, x, y)}"

    return _Measure(f"Kendall's tau of {x} and {y}" + "".join(f" within a {c}" for c in within), "-1 to 1", of)


def _mismatch(*within: str) -> _Measure:
    """By how much ex-post sampling lowers the rank correlation, on configurations that have both distances."""

    def of(study: _Study) -> _Answer:
        study.require("fid", "fid_expost", "probe_accuracy")
        among = study.same(*within)
        known = np.where(
            np.isfinite(study["fid"]) & np.isfinite(study["fid_expost"]), study["probe_accuracy"], math.nan
        )
        prior, expost = (_kendall(study[x], known, among) for x in ("fid", "fid_expost"))
        used = prior.used | expost.used
        effect = study.effect(lambda w: prior.ratio(w) - expost.ratio(w), study.freedom(used, *within))
        one = np.ones((1, len(used)), dtype=np.float32)
        values = f"tau {float(prior.ratio(one)[0]):.2g} by fid, {float(expost.ratio(one)[0]):.2g} by fid_expost"
        return effect, used, f"{values}: a difference of {effect}"

    return _Measure("tau by fid less tau by fid_expost" + "".join(f" within a {c}" for c in within), "-2 to 2", of)


def _front(*within: str) -> _Measure:
    """Rank correlation along a front that other seeds have chosen, on the validation split.

    On the very numbers that chose it a front trades off by construction; so each fold of the seeds is measured on the
    front of the others. Where each configuration has one seed, that of the validation split is measured on the test
    split, which shares the trained models and so the construction with it.
    """

    def of(study: _Study) -> _Answer:
        study.require("fid", "probe_accuracy")
        if not study.folds:
            raise _Unmeasured("one seed and one split: a front trades off by construction on what chose it")
        among, parts = study.same(*within), []
        for fold in study.folds:
            no_worse = (_difference(fold.fid) <= 0) & (_difference(fold.probe_accuracy) >= 0) & among
            known = np.where(np.isfinite(fold.fid) & np.isfinite(fold.probe_accuracy), fold.measured_fid, math.nan)
            dominates = (no_worse & ~no_worse.T).astype(np.float32)
            parts.append((dominates, _kendall(known, fold.measured_probe_accuracy, among)))

        def statistic(weights: np.ndarray) -> np.ndarray:
            sums = (
                pairs.sums(((weights > 0) & (weights @ dominates == 0)).astype(np.float32))
                for dominates, pairs in parts
            )
            return _ratio(np.sum([*sums], axis=0))

        used = np.zeros(len(among), dtype=bool)
        for dominates, pairs in parts:
            on_front = ~dominates.any(0)
            used |= (pairs.both & on_front & on_front[:, None]).any(0)
        effect = study.effect(statistic, int(used.sum()))
        folds = len(study.folds)
        how = f"{folds} folds of the seeds" if folds > 1 else "one seed each, so on the trained models that chose it"
        return effect, used, f"tau {effect} on fronts of {int(used.sum())} configurations in all; {how}"

    of_each = f" of each {within[0]}" if within else ""
    return _Measure(f"Kendall's tau of fid and probe_accuracy along the front{of_each}", "-1 to 1", of)


class _Family(NamedTuple):
    """Models by their restrictions."""

    name: str
    contains: Callable[[frozenset[str]], bool]

    def among(self, study: _Study) -> np.ndarray:
        return np.array([self.contains(keys) for keys in study.restrictions], dtype=bool)


def _only(match: Match, divergence: str = "") -> Callable[[frozenset[str]], bool]:
    return lambda keys: bool(keys) and all(key.startswith(f"{match}_{divergence}") for key in keys)


_POSTERIOR, _LATENT = (_Family(str(match), _only(match)) for match in (Match.POSTERIOR, Match.LATENT))
_OTHERS = (_POSTERIOR, _LATENT)
_VAE, _WAE = _Family("VAE", _only(Match.POSTERIOR, "kl")), _Family("WAE", _only(Match.LATENT))
_GAN = _Family("GAN-side", lambda keys: any(key.startswith((f"{Match.DATA}_", f"{Match.JOINT}_")) for key in keys))


def _groups(
    study: _Study, ours: _Family, theirs: _Family, key: str, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of one of ours with one of theirs, by row and column, with those of each that are in a pair.

    Raises:
        _Unmeasured: too few of either.
    """
    known = np.isfinite(study[key])
    pairs = among & (ours.among(study) & known)[:, None] & (theirs.among(study) & known)
    rows, columns = pairs.any(1), pairs.any(0)
    if min(rows.sum(), columns.sum()) < FEWEST:
        counts = f"{rows.sum()} {ours.name}, {columns.sum()} {theirs.name}"
        raise _Unmeasured(f"too few that can be paired: {counts}, of {FEWEST} needed")
    return pairs, rows, columns


def _better(key: str, ours: _Family, *theirs: _Family, worst: bool = False) -> _Measure:
    """Cliff's delta against each of the others at equal prior, latent size and network; the least of them counts."""
    sign = (1 if METRICS[key].direction is Direction.MAX else -1) * (-1 if worst else 1)

    def of(study: _Study) -> _Answer:
        study.require(key)
        effects, notes, used = [], [], np.zeros(len(study), dtype=bool)
        for family in theirs:
            try:
                pairs, rows, columns = _groups(study, ours, family, key, study.same(*_SETTING))
                better = np.sign(sign * _difference(study[key]))
                effects.append(study.effect(_mean_over(pairs, better).ratio, int(min(rows.sum(), columns.sum()))))
            except _Unmeasured as reason:
                notes.append(str(reason))
                continue
            used |= rows | columns
            medians = f"{np.median(study[key][rows]):.4g} against {np.median(study[key][columns]):.4g}"
            notes.append(f"{ours.name} against {family.name}: delta {effects[-1]}, median {key} {medians}")
        if not effects:
            raise _Unmeasured("; ".join(notes))
        return _Effect(*map(min, zip(*effects, strict=True))), used, "; ".join(notes)

    return _Measure(f"Cliff's delta of {key}", "-1 to 1", of)


def _matched(by: str) -> _Measure:
    """Mean difference of MI over pairs of equal setting and likelihood that are alike in ``by``.

    By ``mi_noised``: ``mi`` (Gaussian, no noise) is set by the bound of sigma where a restriction is weak, and
    ``mi_lower`` ends at ln N of the split, where both kinds of models soon are. Noise of one size for all gives a
    measure without either end, though still an upper estimate; the note has ``mi_lower`` beside it.
    """

    def of(study: _Study) -> _Answer:
        study.require("mi_noised", by)
        level = np.log(study[by]) if by == "fid" else study[by]
        level = np.where(np.isfinite(level), level, math.nan)
        either = _POSTERIOR.among(study) | _LATENT.among(study)
        width = CALIPER * float(np.nanstd(level[either])) if np.isfinite(level[either]).any() else math.nan
        near = study.same(*_SETTING, "likelihood_name") & (abs(_difference(level)) <= width)
        pairs, rows, columns = _groups(study, _LATENT, _POSTERIOR, "mi_noised", near)
        size, found = int(min(rows.sum(), columns.sum())), []
        for key in ("mi_noised", "mi_lower"):
            # a lower bound below 0 says no more than 0 does
            values = np.maximum(study[key], 0) if key == "mi_lower" else study[key]
            try:
                found.append(study.effect(_mean_over(pairs, _difference(values)).ratio, size))
            except _Unmeasured:
                found.append(_NOTHING)
        if found[0] is _NOTHING:
            raise _Unmeasured("too few pairs that match")
        gap = float(_difference(level)[pairs].mean())
        unit = "log FID" if by == "fid" else METRICS[by].unit
        note = (
            f"latent keeps {found[0]} nats more of mi_noised, {found[1]} of mi_lower, over {int(pairs.sum())} pairs "
            f"within {width:.2g} {unit} (mean gap {gap:.1g})"
        )
        return found[0], rows | columns, note

    return _Measure(f"mean difference of mi_noised at equal {by}", "nats", of)


_TRADE_OFF = "better FID, lower probe accuracy"
_CLAIMS: tuple[tuple[str, str, _Measure], ...] = (
    ("a_overall", _TRADE_OFF, _rank("fid", "probe_accuracy")),
    ("a_within", f"{_TRADE_OFF}, within a model", _rank("fid", "probe_accuracy", "model")),
    ("a_front", f"{_TRADE_OFF}, on the front", _front()),
    ("a_fronts", f"{_TRADE_OFF}, on each model's front", _front("model")),
    ("b_likelihood", "latent keeps more MI than posterior at equal likelihood", _matched("likelihood_x")),
    ("b_fid", "latent keeps more MI than posterior at equal FID", _matched("fid")),
    ("c_generation", "VAE generates better than WAE", _better("fid", _VAE, _WAE)),
    ("c_representation", "WAE represents better than VAE", _better("probe_accuracy", _WAE, _VAE)),
    ("d_generation", "GAN-side models generate best", _better("fid", _GAN, *_OTHERS)),
    ("d_representation", "GAN-side models represent worst", _better("probe_accuracy", _GAN, *_OTHERS, worst=True)),
    ("e_overall", "MI ranks probe accuracy", _rank("mi_noised", "probe_accuracy")),
    ("e_within", "MI ranks probe accuracy, within a model", _rank("mi_noised", "probe_accuracy", "model")),
    ("f_remains", "(a) remains under ex-post sampling", _rank("fid_expost", "probe_accuracy")),
    ("f_remains_within", "(a) remains, within a model", _rank("fid_expost", "probe_accuracy", "model")),
    ("f_mismatch", "prior mismatch adds to (a)", _mismatch()),
    ("f_mismatch_within", "prior mismatch adds to (a), within a model", _mismatch("model")),
)
