"""How each claim is measured, model by model: over pairs of models, within each model, and between families of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import stats

from gimtune.analysis.statistics.configurations import LOGARITHMIC, Configurations, Unmeasured, average
from gimtune.analysis.statistics.evidence import ASSOCIATION, Across, Between, Each, Family, Found, Measure
from gimtune.vocabulary import Match

#: Levels at which curves are compared.
LEVELS = 64
#: Signs of so many pairs are held at once.
_PAIRS = 1 << 23


def _only(match: Match, divergence: str = "") -> Callable[[frozenset[str]], bool]:
    return lambda keys: bool(keys) and all(key.startswith(f"{match}_{divergence}") for key in keys)


#: Families that the claims name.
POSTERIOR, LATENT = (Family(f"{match}-restricted", _only(match)) for match in (Match.POSTERIOR, Match.LATENT))
VAE, WAE = Family("VAE", _only(Match.POSTERIOR, "kl")), Family("WAE", _only(Match.LATENT))
GAN = Family("GAN-side", lambda keys: any(key.startswith((f"{Match.DATA}_", f"{Match.JOINT}_")) for key in keys))


# Rank correlations


def across(x: str, y: str) -> Measure:
    """Rank correlation over pairs of members of different models; every two models weigh the same."""

    def of(study: Configurations) -> Found:
        study.require(x, y)
        first, second = study.mean(x), study.mean(y)
        known = np.isfinite(first[0]) & np.isfinite(second[0])
        pairs = (known[:, None] & known & (study.alike[:, None] == study.alike)).astype(np.float32)
        members = (study.model[:, None] == np.arange(len(study.models))).astype(np.float32)
        counts = members.T @ pairs @ members
        sums = tuple(np.zeros((len(first), *counts.shape)) for _ in range(3))
        step = max(1, _PAIRS // max(1, pairs.size))
        for start in range(0, len(first), step):
            signs = [
                np.nan_to_num(np.sign(v[start : start + step, :, None] - v[start : start + step, None])) * pairs
                for v in (first, second)
            ]
            for total, one in zip(sums, (signs[0] * signs[1], abs(signs[0]), abs(signs[1])), strict=True):
                total[start : start + step] = members.T @ one.astype(np.float32) @ members / np.maximum(counts, 1)
        found = Across((sums[0], sums[1], sums[2]))
        if found.models().sum() < 2 or not math.isfinite(found.values()[0]):
            raise Unmeasured("too few members of different models that differ")
        both = np.triu(sums[1][0] * sums[2][0] > 0, 1)
        share = (sums[0][0][both] > 0).mean() if both.any() else math.nan
        return Found((found,), f"{words(x)} and {words(y)} rise together in {share:.0%} of the pairs of models")

    return Measure(f"Kendall's tau of {words(x)} and {words(y)}, pairs of different models", ASSOCIATION, of)


def across_at_best(x: str, y: str) -> Measure:
    """Rank correlation over pairs of models, each at the weight of its best FID, in the settings both have.

    The weight is chosen on the validation split by some seeds and measured by the others, in turn; so that nothing of
    the grid of weights is in it but how near it comes to the best.
    """

    def of(study: Configurations) -> Found:
        study.require(x, y, "fid")
        first, second = (
            v[:, :, None] - v[:, None]
            for v in (_chosen(study, x).astype(np.float32), _chosen(study, y).astype(np.float32))
        )
        known = np.isfinite(first) & np.isfinite(second)
        counts = np.maximum(known.sum(-1), 1)
        signs = [np.where(known, np.sign(v), 0.0) for v in (first, second)]
        agreeing, differ, other = (v.sum(-1) / counts for v in (signs[0] * signs[1], abs(signs[0]), abs(signs[1])))
        found = Across((agreeing, differ, other))
        if found.models().sum() < 2 or not math.isfinite(found.values()[0]):
            raise Unmeasured("too few models that differ")
        share = (agreeing[0][np.triu(differ[0] * other[0] > 0, 1)] > 0).mean()
        return Found((found,), f"{words(x)} and {words(y)} rise together in {share:.0%} of the pairs of models")

    return Measure(
        f"Kendall's tau of {words(x)} and {words(y)} over models at their weights of best FID", ASSOCIATION, of
    )


def within(x: str, y: str) -> Measure:
    """Rank correlation along the weights of a model in one setting, a number for each model."""

    def of(study: Configurations) -> Found:
        study.require(x, y)
        first, second = study.mean(x), study.mean(y)
        sums = np.zeros((3, len(first), len(study.models)))
        for line in study.lines(study.line):
            here = np.isfinite(first[:, line]) & np.isfinite(second[:, line])
            sums[:, :, study.model[line[0]]] += _agreement(first[:, line], second[:, line], here)
        with np.errstate(all="ignore"):
            found = Each(sums[0] / np.sqrt(sums[1] * sums[2]))
        return Found((found,), each_model(study, found, "tau"))

    what = f"mean over models of Kendall's tau of {words(x)} and {words(y)}, along each model's weights"
    return Measure(what, ASSOCIATION, of)


def within_arm(x: str, y: str, arm: str) -> Measure:
    """The same on one side of the weight of a line's best FID, which is of both sides.

    That weight is chosen on the validation split by some seeds, and the others are measured, in turn. Measured by those
    that chose it, it would have the lowest FID by its choice alone: a probe that falls along the weights would go with
    a FID that does not depend on them. A model's number is the mean over turns and lines. A turn in which nothing lies
    on that side counts 0: whether it is one depends on seeds that are measured in the other turns.

    Args:
        arm: ``below`` or ``above``.
    """

    def of(study: Configurations) -> Found:
        study.require(x, y, "fid")
        if not any((fold.choose & ~fold.measure).any() for fold in study.folds):
            raise Unmeasured("takes two seeds: what chose the weight of best FID cannot measure what is beside it")
        lines = study.lines(study.line)
        table = np.zeros((len(study.folds), len(study.mean(x)), len(lines)))
        there = np.zeros(len(lines), dtype=bool)
        for i, fold in enumerate(study.folds):
            costs = study.chosen_by("fid", fold)
            first, second = (study.measured(key, fold).astype(np.float32).astype(float) for key in (x, y))
            for k, line in enumerate(lines):
                known = np.isfinite(costs[:, line])
                at = np.where(known, costs[:, line], np.inf).argmin(1)[:, None]
                here = np.arange(len(line)) <= at if arm == "below" else np.arange(len(line)) >= at
                here = here & known & np.isfinite(first[:, line]) & np.isfinite(second[:, line])
                agreeing, *differ = _agreement(first[:, line], second[:, line], here)
                table[i, :, k] = agreeing / np.sqrt(np.maximum(differ[0] * differ[1], 1))
                # of as many lines in every draw: those where some turn of the first has pairs that differ
                there[k] |= differ[0][0] * differ[1][0] > 0
        own = np.array([study.model[line[0]] for line in lines])
        numbers = [average(np.where(there & (own == m), table.mean(0), np.nan)) for m in range(len(study.models))]
        found = Each(np.stack(numbers, axis=1))
        return Found((found,), each_model(study, found, "tau"))

    what = f"mean over models of Kendall's tau of {words(x)} and {words(y)}, {arm} each model's weight of best FID"
    return Measure(what, ASSOCIATION, of)


def _agreement(first: np.ndarray, second: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Over pairs of the members ``here``, (D, n) each: signs agreeing, and pairs that differ in either, (3, D)."""
    pairs = here[:, :, None] & here[:, None]
    signs = [np.nan_to_num(np.sign(v[:, :, None] - v[:, None])) * pairs for v in (first, second)]
    return np.stack([v.sum((1, 2)) for v in (signs[0] * signs[1], abs(signs[0]), abs(signs[1]))])


def mismatch() -> Measure:
    """Association of log(fid / fid_expost) with the probe at equal fid_expost, a number for each model.

    The partial rank correlation (Spearman's, ranks within each line, which are pooled over the lines of a model).
    """

    def of(study: Configurations) -> Found:
        study.require("fid", "fid_expost", "probe")
        fid, expost, probe = (study.mean(key) for key in ("fid", "fid_expost", "probe"))
        products = np.zeros((3, 3, len(fid), len(study.models)))
        sizes = np.zeros(len(study.models))
        for line in study.lines(study.line):
            rows = line[np.isfinite((fid + expost + probe)[0, line])]
            if len(rows) < 3:
                continue
            values = ((fid - expost)[:, rows], probe[:, rows], expost[:, rows])
            ranks = np.stack([stats.rankdata(v.round(6), axis=1) for v in values])
            ranks -= ranks.mean(2, keepdims=True)
            products[..., study.model[line[0]]] += np.einsum("adn,bdn->abd", ranks, ranks)
            sizes[study.model[line[0]]] += len(rows) - 1
        with np.errstate(all="ignore"):
            scale = np.sqrt(np.einsum("aadm->adm", products))
            r = products / scale[:, None] / scale[None]
            partial = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
        # with two numbers or less the correlation is 1 by construction
        found = Each(np.where((sizes > 2) & np.isfinite(partial), np.clip(partial, -1, 1), np.nan))
        return Found((found,), each_model(study, found, "partial correlation"))

    return Measure(
        "mean over models of the rank correlation of log(FID / ex-post FID) and probe accuracy at equal ex-post FID",
        ASSOCIATION,
        of,
    )


def each_model(
    study: Configurations, found: Each, what: str, nothing: str = "no model has weights enough that differ"
) -> str:
    """The range of what each model has, in words.

    Raises:
        Unmeasured: no model has a number, for the reason ``nothing``.
    """
    there = np.flatnonzero(found.models())
    if not len(there):
        raise Unmeasured(nothing)
    ends = found.numbers[0][there]
    if len(there) == 1:
        return f"{what} {ends[0]:+.2f} ({study.models[there[0]]}), the one model"
    low, high = (there[i] for i in (ends.argmin(), ends.argmax()))
    return (
        f"{what} from {ends.min():+.2f} ({study.models[low]}) to {ends.max():+.2f} ({study.models[high]}), "
        f"positive in {(ends > 0).sum()} of {len(there)} models"
    )


# Priors compared

#: The prior that others are compared with: nearly every published model has it.
REFERENCE = "normal"


def priors(study: Configurations) -> list[str]:
    """Names of the priors that some model has beside the reference, all else equal."""
    return sorted({prior for prior, _, _ in _beside(study)})


def by_prior(key: str, prior: str, *, lower: bool = False) -> Measure:
    """A metric at a model's weight of best FID, with a prior less with the reference: a number for each model.

    The weight is chosen for each prior by itself, on the validation split by some seeds, and measured by the others, in
    turn. Where a model has both in several settings, or a prior with several options, it is their mean.

    Args:
        lower: the claim is that the prior's is the smaller: the effect is that of the reference less the prior's.
    """
    sign = -1 if lower else 1

    def of(study: Configurations) -> Found:
        study.require(key, "fid")
        chosen = sign * _chosen(study, key)
        pairs = [(mine, other) for name, mine, other in _beside(study) if name == prior]
        if not pairs:
            raise Unmeasured(f"no model has the {prior} prior and the {REFERENCE} one")
        found = Each(average(np.stack([chosen[:, :, mine] - chosen[:, :, other] for mine, other in pairs], -1)))
        if not found.models().any():
            raise Unmeasured(f"no model's {words(key)} is known with both priors")
        return Found((found,), each_model(study, found, "difference"))

    unit = "log ratio" if key in LOGARITHMIC else "accuracy"
    what = f"difference in {words(key)} with the {prior} prior and the {REFERENCE} one"
    return Measure(f"{what}, each at the model's weight of best FID", unit, of)


def _beside(study: Configurations) -> set[tuple[str, int, int]]:
    """Of a prior its name, its setting, and that of the reference in which a model has all else equal."""
    settings = zip(study.model, study.apart, study.prior, study.setting, strict=True)
    own = {(int(model), int(apart), str(prior), int(setting)) for model, apart, prior, setting in settings}
    return {
        (prior, setting, other)
        for *place, prior, setting in own
        for *there, reference, other in own
        if prior != REFERENCE == reference and place == there
    }


# Families compared


def at_best(key: str, ours: Family, *theirs: Family, lower: bool = False) -> Measure:
    """A metric at each model's weight of best FID, of our models less that of theirs, in the settings both have.

    The weight is chosen on the validation split by some seeds and measured by the others, in turn. Distances are
    compared by their logarithms.

    Args:
        lower: the claim is that ours is the smaller: the effect is that of theirs less ours.
    """
    sign = -1 if lower else 1

    def of(study: Configurations) -> Found:
        study.require(key, "fid")
        return _compared(study, sign * _chosen(study, key), ours, theirs)

    unit = "log ratio" if key in LOGARITHMIC else "accuracy"
    return Measure(f"difference in {words(key)} at each model's weight of best FID", unit, of, (ours, *theirs))


def at_equal(by: str, key: str, ours: Family, theirs: Family, *more: Family, lower: bool = False) -> Measure:
    """A metric at equal values of another: curves over a model's weights, interpolated, over the range both reach.

    By all but the likelihood, of the weights up to that of the best FID: there less restriction costs FID, and the
    curve is the model's front. No weight of a grid is compared with another.

    Args:
        lower: the claim is that ours is the smaller: the effect is that of theirs less ours.
    """
    sign = -1 if lower else 1

    def of(study: Configurations) -> Found:
        study.require(key, by)
        x, y = study.mean(by), study.mean(key)
        best = average(study.values["fid"])
        settings = np.unique(np.stack([study.setting, study.likelihood]), axis=1, return_inverse=True)[1].ravel()
        curves: dict[tuple[int, int], list[np.ndarray]] = {}
        for line in study.lines(study.line):
            number = int(settings[line[0]])
            known = x[0, settings == number]
            if not np.isfinite(known).any():
                continue
            grid = np.linspace(np.nanmin(known), np.nanmax(known), LEVELS)
            last = np.argmin(np.where(np.isfinite(best[:, line]), best[:, line], np.inf), axis=1)
            found = np.full((len(x), LEVELS), np.nan)
            for d in range(len(x)):
                part = line if by == "likelihood_x" else line[: last[d] + 1]
                part = part[np.isfinite(x[d, part] + y[d, part])]
                if len(part) > 1:
                    part = part[np.argsort(x[d, part], kind="stable")]
                    found[d] = np.interp(grid, x[d, part], y[d, part], math.nan, math.nan)
            curves.setdefault((int(study.model[line[0]]), number), []).append(found)
        table = np.full((len(x), len(study.models), int(settings.max(initial=0)) + 1, LEVELS), np.nan)
        for (model, number), lines in curves.items():
            table[:, model, number] = average(np.stack(lines, -1))
        return _compared(study, sign * table.reshape(*table.shape[:2], -1), ours, (theirs, *more))

    unit = {"mi_noised": "nats", "fid": "log ratio"}[key]
    return Measure(f"difference in {words(key)} at equal {words(by)}", unit, of, (ours, theirs, *more))


def _compared(study: Configurations, values: np.ndarray, ours: Family, theirs: Sequence[Family]) -> Found:
    """Families by values of models in places where they may have one, (D, M, places)."""
    differences = np.stack([average(values[:, [m]] - values) for m in range(values.shape[1])], axis=1)
    there = np.isfinite(differences[0])
    parts, notes = [], []
    for family in theirs:
        mine, other = ours.among(study), family.among(study) & ~ours.among(study)
        there_too = there[mine][:, other]
        us, them = (_subset(mine, there_too.any(1)), _subset(other, there_too.any(0)))
        if not (us.any() and them.any()):
            which = ours.name if not mine.any() else family.name
            absent = not mine.any() or not other.any()
            if absent:
                raise Unmeasured(f"no {which} model in the study")
            raise Unmeasured(f"{ours.name} and {family.name} models share no range and no setting")
        parts.append(Between(differences, us, them))
        notes.append(f"{_named(study, us)} against {_named(study, them)}")
    return Found(parts, "; ".join(notes))


def _subset(mask: np.ndarray, kept: np.ndarray) -> np.ndarray:
    found = mask.copy()
    found[np.flatnonzero(mask)[~kept]] = False
    return found


def _named(study: Configurations, models: np.ndarray) -> str:
    return ", ".join(study.models[int(m)] for m in np.flatnonzero(models))


def _settings(study: Configurations) -> Iterator[tuple[int, int, np.ndarray]]:
    """Model, setting and configurations, weakest first."""
    for rows in study.lines(study.setting):
        yield int(study.model[rows[0]]), int(study.setting[rows[0]]), rows


def _chosen(study: Configurations, key: str) -> np.ndarray:
    """A metric at the weight of best FID, (D, M, settings)."""
    if not study.folds:
        raise Unmeasured("one seed and one split: what chose a weight cannot measure it")
    draws = len(study.mean(key))
    table = np.full((len(study.folds), draws, len(study.models), int(study.setting.max(initial=0)) + 1), np.nan)
    for i, fold in enumerate(study.folds):
        chooses, measured = study.chosen_by("fid", fold), study.measured(key, fold)
        for model, setting, rows in _settings(study):
            costs = np.where(np.isfinite(chooses[:, rows] + measured[:, rows]), chooses[:, rows], np.inf)
            best = np.take_along_axis(measured[:, rows], costs.argmin(1)[:, None], 1)[:, 0]
            table[i, :, model, setting] = np.where(np.isfinite(costs).any(1), best, np.nan)
    return average(np.moveaxis(table, 0, -1))


def words(key: str) -> str:
    """A metric's name in a sentence."""
    return {
        "fid": "FID",
        "fid_expost": "ex-post FID",
        "probe": "probe accuracy",
        "mi_noised": "mutual information",
        "likelihood_x": "likelihood",
    }[key]
