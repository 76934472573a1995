"""How each claim is measured: rank correlations, fronts that other seeds chose, and families of models compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gimtune.analysis.statistics.effects import (
    FEWEST,
    NOTHING,
    Configurations,
    Effect,
    Pairs,
    Unmeasured,
    difference,
    kendall,
    mean_over,
    ratio,
)
from gimtune.vocabulary import METRICS, Direction, Match

#: Matched pairs are this close, in standard deviations of what they are matched by (Austin 2011).
CALIPER = 0.2

#: What two configurations share, beside what else varies in the study, so that they differ in their restrictions (and
#: what else the models bring) alone.
_ALIKE = ("prior", "latent_dim", "network")

#: Effect, configurations used and note.
Answer = tuple[Effect, np.ndarray, str]


class Measure(NamedTuple):
    """How a claim is measured: the name of the effect, its unit, and effect, configurations used and note."""

    effect: str
    unit: str
    of: Callable[[Configurations], Answer]


def _agreement(pairs: Pairs, x: str, y: str) -> str:
    """Of Goodman & Kruskal 1954: the share of concordant pairs among those that differ in both."""
    both = float(pairs.both.sum())
    share = (1 + float(pairs.numerator.sum()) / both) / 2 if both else math.nan
    return f"{x} and {y} rise together in {share:.0%} of the pairs that differ in both"


def rank(x: str, y: str, *within: str) -> Measure:
    """Rank correlation of two metrics."""

    def of(study: Configurations) -> Answer:
        study.require(x, y)
        pairs = kendall(study[x], study[y], study.same(*within))
        effect = study.effect(pairs.ratio, study.freedom(pairs.used, *within))
        return effect, pairs.used, f"tau {effect}: {_agreement(pairs, x, y)}"

    return Measure(f"Kendall's tau of {x} and {y}" + "".join(f" within a {c}" for c in within), "-1 to 1", of)


def mismatch(*within: str) -> Measure:
    """By how much ex-post sampling lowers the rank correlation, on configurations that have both distances."""

    def of(study: Configurations) -> Answer:
        study.require("fid", "fid_expost", "probe_codes")
        among = study.same(*within)
        known = np.where(np.isfinite(study["fid"]) & np.isfinite(study["fid_expost"]), study["probe_codes"], math.nan)
        prior, expost = (kendall(study[x], known, among) for x in ("fid", "fid_expost"))
        used = prior.used | expost.used
        effect = study.effect(lambda w: prior.ratio(w) - expost.ratio(w), study.freedom(used, *within))
        one = np.ones((1, len(used)), dtype=np.float32)
        values = f"tau {float(prior.ratio(one)[0]):.2g} by fid, {float(expost.ratio(one)[0]):.2g} by fid_expost"
        return effect, used, f"{values}: a difference of {effect}"

    return Measure("tau by fid less tau by fid_expost" + "".join(f" within a {c}" for c in within), "-2 to 2", of)


def along_front(*within: str) -> Measure:
    """Rank correlation along a front that other seeds have chosen, on the validation split.

    On the very numbers that chose it a front trades off by construction; so each fold of the seeds is measured on the
    front of the others. Where each configuration has one seed, that of the validation split is measured on the test
    split, which shares the trained models and so the construction with it.
    """

    def of(study: Configurations) -> Answer:
        study.require("fid", "probe_codes")
        if not study.folds:
            raise Unmeasured("one seed and one split: a front trades off by construction on what chose it")
        among, parts = study.same(*within), []
        for fold in study.folds:
            no_worse = (difference(fold.fid) <= 0) & (difference(fold.probe_codes) >= 0) & among
            known = np.where(np.isfinite(fold.fid) & np.isfinite(fold.probe_codes), fold.measured_fid, math.nan)
            dominates = (no_worse & ~no_worse.T).astype(np.float32)
            parts.append((dominates, kendall(known, fold.measured_probe_codes, among)))

        def statistic(weights: np.ndarray) -> np.ndarray:
            sums = (
                pairs.sums(((weights > 0) & (weights @ dominates == 0)).astype(np.float32))
                for dominates, pairs in parts
            )
            return ratio(np.sum([*sums], axis=0))

        used = np.zeros(len(among), dtype=bool)
        for dominates, pairs in parts:
            on_front = ~dominates.any(0)
            used |= (pairs.both & on_front & on_front[:, None]).any(0)
        effect = study.effect(statistic, int(used.sum()))
        folds = len(study.folds)
        how = f"{folds} folds of the seeds" if folds > 1 else "one seed each, so on the trained models that chose it"
        return effect, used, f"tau {effect} on fronts of {int(used.sum())} configurations in all; {how}"

    of_each = f" of each {within[0]}" if within else ""
    return Measure(f"Kendall's tau of fid and probe_codes along the front{of_each}", "-1 to 1", of)


class Family(NamedTuple):
    """Models by their restrictions."""

    name: str
    contains: Callable[[frozenset[str]], bool]

    def among(self, study: Configurations) -> np.ndarray:
        """Whose models are of the family."""
        return np.array([self.contains(keys) for keys in study.restrictions], dtype=bool)


def _only(match: Match, divergence: str = "") -> Callable[[frozenset[str]], bool]:
    return lambda keys: bool(keys) and all(key.startswith(f"{match}_{divergence}") for key in keys)


#: Families that the claims name.
POSTERIOR, LATENT = (Family(str(match), _only(match)) for match in (Match.POSTERIOR, Match.LATENT))
OTHERS = (POSTERIOR, LATENT)
VAE, WAE = Family("VAE", _only(Match.POSTERIOR, "kl")), Family("WAE", _only(Match.LATENT))
GAN = Family("GAN-side", lambda keys: any(key.startswith((f"{Match.DATA}_", f"{Match.JOINT}_")) for key in keys))


def _groups(
    study: Configurations, ours: Family, theirs: Family, key: str, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of one of ours with one of theirs, by row and column, with those of each that are in a pair.

    Raises:
        Unmeasured: too few of either.
    """
    known = np.isfinite(study[key])
    pairs = among & (ours.among(study) & known)[:, None] & (theirs.among(study) & known)
    rows, columns = pairs.any(1), pairs.any(0)
    if min(rows.sum(), columns.sum()) < FEWEST:
        counts = f"{rows.sum()} {ours.name}, {columns.sum()} {theirs.name}"
        raise Unmeasured(f"too few that can be paired: {counts}, of {FEWEST} needed")
    return pairs, rows, columns


def better(key: str, ours: Family, *theirs: Family, worst: bool = False) -> Measure:
    """Cliff's delta against each of the others at equal prior, latent size and network; the least of them counts."""
    sign = (1 if METRICS[key].direction is Direction.MAX else -1) * (-1 if worst else 1)

    def of(study: Configurations) -> Answer:
        study.require(key)
        effects, notes, used = [], [], np.zeros(len(study), dtype=bool)
        for family in theirs:
            try:
                pairs, rows, columns = _groups(study, ours, family, key, study.alike(*_ALIKE))
                better = np.sign(sign * difference(study[key]))
                effects.append(study.effect(mean_over(pairs, better).ratio, int(min(rows.sum(), columns.sum()))))
            except Unmeasured as reason:
                notes.append(str(reason))
                continue
            used |= rows | columns
            medians = f"{np.median(study[key][rows]):.4g} against {np.median(study[key][columns]):.4g}"
            notes.append(f"{ours.name} against {family.name}: delta {effects[-1]}, median {key} {medians}")
        if not effects:
            raise Unmeasured("; ".join(notes))
        return Effect(*map(min, zip(*effects, strict=True))), used, "; ".join(notes)

    return Measure(f"Cliff's delta of {key}", "-1 to 1", of)


def matched(by: str) -> Measure:
    """Mean difference of MI over pairs of equal setting and likelihood that are alike in ``by``.

    By ``mi_noised``: ``mi_q`` and its bounds are set by the bound of sigma where a restriction is weak. Noise of a
    tenth of the codes' own deviation, for all alike, gives a measure without that end, though still an upper estimate;
    the note has ``mi_lower`` beside it.
    """

    def of(study: Configurations) -> Answer:
        study.require("mi_noised", by)
        level = np.log(study[by]) if by == "fid" else study[by]
        level = np.where(np.isfinite(level), level, math.nan)
        either = POSTERIOR.among(study) | LATENT.among(study)
        width = CALIPER * float(np.nanstd(level[either])) if np.isfinite(level[either]).any() else math.nan
        near = study.alike(*_ALIKE, "likelihood_name") & (abs(difference(level)) <= width)
        pairs, rows, columns = _groups(study, LATENT, POSTERIOR, "mi_noised", near)
        size, found = int(min(rows.sum(), columns.sum())), []
        for key in ("mi_noised", "mi_lower"):
            # a lower bound below 0 says no more than 0 does
            values = np.maximum(study[key], 0) if key == "mi_lower" else study[key]
            try:
                found.append(study.effect(mean_over(pairs, difference(values)).ratio, size))
            except Unmeasured:
                found.append(NOTHING)
        if found[0] is NOTHING:
            raise Unmeasured("too few pairs that match")
        gap = float(difference(level)[pairs].mean())
        unit = "log FID" if by == "fid" else METRICS[by].unit
        note = (
            f"latent keeps {found[0]} nats more of mi_noised, {found[1]} of mi_lower, over {int(pairs.sum())} pairs "
            f"within {width:.2g} {unit} (mean gap {gap:.1g})"
        )
        return found[0], rows | columns, note

    return Measure(f"mean difference of mi_noised at equal {by}", "nats", of)
