"""The source's claims, each with a verdict, an effect size and two intervals: never by eye. No plotting library.

Two questions are told apart. *Of these models*: what if the same configurations were trained again with other seeds?
*Of such models*: what if other models like these were tried? A verdict answers the second; there a model is one
observation, however many weights, priors and seeds it was trained with, and models whose objectives are equal are one.

- A claim about models one by one takes a number for each of them, and flips signs. On one side of a model's weight of
  best FID, the number is of other seeds than chose the weight.
- A claim about pairs of members of different models takes Kendall's tau, and leaves models out one by one.
- A claim that compares families takes each model at the weight of its best FID, chosen on the validation split by some
  seeds and measured on the test split by the others, or its curve where both reach, and names families in all ways.
- A claim about a prior takes each model with it and with the normal one, each at its weight of best FID, and flips
  signs. There are two of them for each further prior of a study.
- A claim about the size of the code takes its rank correlation for each model, each size at its weight of best FID, and
  flips signs. There are three of them where a study has several sizes.

`inference` has the tests. A claim *holds*, or *does not hold* (the opposite does), if its p-value passes Holm's
correction over all claims that so many models can decide; one that they cannot reads so, with how many it takes.
Otherwise it is *undecided*.

The test split is the default, since no search, early stopping or front has seen it. Unfinished, failed and diverged
members are left out and counted, and so are collapsed posteriors, for they are no trade-off, whatever their numbers;
the verdict with them stands beside. Where a search chose configurations by their results or a scheduler stopped some,
they are no sample of anything, and there is no verdict.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import special
from threadpoolctl import threadpool_limits

from gimtune.analysis.statistics.attainment import SETTING as IDENTIFIES
from gimtune.analysis.statistics.attainment import configuration
from gimtune.analysis.statistics.configurations import (
    COMPARABLE,
    MEASURED,
    SETTING,
    Configurations,
    Unmeasured,
    average,
    gathered,
    once,
)
from gimtune.analysis.statistics.evidence import ASSOCIATION, Between, Each, Found, Measure
from gimtune.analysis.statistics.inference import FEWEST, Answer, decidable, enough, holm, models_needed
from gimtune.analysis.statistics.measures import (
    GAN,
    LATENT,
    POSTERIOR,
    REFERENCE,
    VAE,
    WAE,
    across,
    across_at_best,
    at_best,
    at_equal,
    by_prior,
    mismatch,
    priors,
    within,
    within_arm,
)
from gimtune.analysis.statistics.sizes import by_size, sized
from gimtune.analysis.statistics.verdicts import Claim, Verdict, Verdicts
from gimtune.results.pareto import collapsed, considered, why_left_out
from gimtune.vocabulary import Status

#: More configurations are thinned at random to this number, for a rank correlation takes a matrix of all pairs.
MOST = 500
#: What the claims are about first, and what stands beside it.
PROBES = ("probe_codes", "probe_means")
#: Of a model's members, that have to have levelled off before it is spoken of.
LEVELLED = 0.9
#: In place of a verdict beside another.
UNMEASURED = "not measured"


def claims(
    trials: pd.DataFrame,
    generator: np.random.Generator,
    *,
    split: str = "test",
    probe: str = PROBES[0],
    only: Mapping[str, str] | None = None,
    level: float = 0.95,
    redraws: int = 200,
    beside: bool = True,
    adaptive: str = "",
) -> Verdicts:
    """Verdicts on the source's claims. What a study is too small for is undecided, with the reason.

    Args:
        trials: rows as of `gimtune.results.load.load`; may be empty, and may lack metrics.
        generator: of the seeds that are redrawn, and of relabellings where there are too many to count.
        split: ``test`` or ``validation``.
        probe: ``probe_codes`` or ``probe_means``.
        only: column and value to choose, as of `front`. Not needed where data sets or FID features are
            mixed: configurations of different ones make no pair.
        level: of the intervals.
        redraws: of the seeds, for the intervals of these models.
        beside: find the verdicts by the other probe, and with what was left out, too.
        adaptive: how the study chose its members by their results, in a few words; there are no verdicts then.

    Raises:
        ValueError: another split or probe, or a column of ``only`` that is missing.
    """
    if split not in ("test", "validation"):
        raise ValueError(f"split {split}: allowed: test, validation")
    if probe not in PROBES:
        raise ValueError(f"probe {probe}: allowed: {', '.join(PROBES)}")
    missing = [c for c in ("status", *(only or {})) if c not in trials]
    if missing and len(trials):
        raise ValueError(f"trials lack the column {', '.join(missing)}")
    prefix = "test_" if split == "test" else ""
    kept, left = _considered(trials, only or {}, generator)
    refused = f"members were chosen by their results ({adaptive}): no sample to judge by" if adaptive else ""
    budget = _budget(kept)

    def judged(rows: pd.DataFrame, by: str, draws: int) -> tuple[list[Claim], Configurations, int]:
        return _judged(rows, prefix, by, level, draws, generator, budget, bool(adaptive))

    # the matrices are small: more threads would only disturb a study beside
    with threadpool_limits(1, user_api="blas"), np.errstate(all="ignore"):
        answers, study, tests = judged(kept, probe, redraws)
        if beside and not adaptive:
            other = next(p for p in PROBES if p != probe)
            everyone, _ = _considered(trials, only or {}, generator, everyone=True)
            means = _by_key(judged(kept, other, 0)[0])
            more = _by_key(judged(everyone, probe, 0)[0]) if len(everyone) > len(kept) else {}
            answers = [
                claim._replace(with_means=means[claim.key], with_left_out=more.get(claim.key, "")) for claim in answers
            ]
    counts = (len(study.models), int(study.trials.sum()), len(study))
    return Verdicts(tuple(answers), split, probe, level, tests, *counts, budget, left, refused)


def at_budgets(
    verdicts: Verdicts, half: pd.DataFrame, whole: pd.DataFrame, only: Mapping[str, str] | None = None
) -> Verdicts:
    """Verdicts with those at half of the budget and at all of it beside them, on the validation split.

    Args:
        half, whole: the trials at either budget, as of `gimtune.results.budget.at_budget`.
        only: as of `claims`.
    """

    def told(trials: pd.DataFrame) -> dict[str, str]:
        # the same draws for both, and not those of the verdicts that they stand beside
        source = np.random.default_rng(1)
        found = claims(
            trials,
            source,
            split="validation",
            probe=verdicts.probe,
            only=only,
            level=verdicts.level,
            redraws=0,
            beside=False,
        )
        return _by_key(found.claims)

    first, last = told(half), told(whole)
    return verdicts._replace(
        claims=tuple(
            c._replace(at_half=first.get(c.key, UNMEASURED), at_whole=last.get(c.key, UNMEASURED))
            for c in verdicts.claims
        )
    )


def _by_key(found: Iterable[Claim]) -> dict[str, str]:
    """Verdicts as they are told beside others."""
    return {claim.key: UNMEASURED if math.isnan(claim.value) else str(claim.verdict) for claim in found}


def _judged(
    rows: pd.DataFrame,
    prefix: str,
    probe: str,
    level: float,
    redraws: int,
    generator: np.random.Generator,
    budget: str,
    refused: bool,
) -> tuple[list[Claim], Configurations, int]:
    """Claims, what they were judged on, and the number of those that share the error rate."""
    study = gathered(rows, prefix, probe, redraws, generator)
    early = _early(study)
    settled = study
    if early and len(study.models) - len(early) >= FEWEST:
        settled = gathered(rows[~rows["curve"].isin(early)], prefix, probe, redraws, generator)
    stated = (*_CLAIMS, *_of_priors(study), *(_OF_SIZES if sized(study) else ()))
    measured: list[tuple[Configurations, Found, Answer] | str] = []
    for *_, measure in stated:
        on = study if measure.families else settled
        try:
            found = measure.of(on)
            measured.append((on, found, found.answer(level, generator)))
        except Unmeasured as reason:
            measured.append(str(reason))
    least = [1.0 if isinstance(m, str) else m[2].least for m in measured]
    able = decidable(least, 1 - level)
    tests = sum(able)
    adjusted = iter(holm([m[2].p for m, can in zip(measured, able, strict=True) if can and not isinstance(m, str)]))
    answers, nowhere = [], ("",) * 4
    for at, ((key, statement, measure), can, one) in enumerate(zip(stated, able, measured, strict=True)):
        if isinstance(one, str):
            nothing = (math.nan,) * 7
            unknown = (key, statement, Verdict.UNDECIDED, measure.effect, measure.unit)
            answers.append(Claim(*unknown, *nothing, 0, 0, 0, *nowhere, one))
            continue
        on, found, answer = one
        here = found.models()
        late = [name for name, used in zip(on.models, here, strict=True) if used and name in early]
        p = (answer.p, next(adjusted) if can else math.nan)
        why = ""
        if not can:
            verdict, why = Verdict.TOO_FEW, _needed(found, enough(least, at, 1 - level))
        elif late:
            verdict, why = Verdict.UNDECIDED, f"had not levelled off at {budget}: {', '.join(late)}"
        else:
            verdict = _verdict(answer, p[1], tests, level)
        if early and on is settled is not study:
            why = f"without those that had not levelled off at {budget}: {', '.join(early)}"
        rows_used = here[on.model]
        counts = (int(here.sum()), int(on.trials[rows_used].sum()), int(rows_used.sum()))
        note = "; ".join(filter(None, (why, found.note)))
        verdict = Verdict.UNDECIDED if refused else verdict
        seeds = _of_seeds(found.values(), level)
        shown = (math.nan, math.nan) if refused else p
        ends = (answer.low, answer.high, *seeds)
        if measure.unit == ASSOCIATION:
            # nothing is beyond them, whatever a symmetric interval says; what is unbounded stays so
            low, high, seeds_low, seeds_high = (float(np.clip(e, -1, 1)) if math.isfinite(e) else e for e in ends)
            ends = (low, high, seeds_low, seeds_high)
        effect = (answer.value, *ends, *shown)
        answers.append(Claim(key, statement, verdict, measure.effect, measure.unit, *effect, *counts, *nowhere, note))
    return answers, study, tests


def _verdict(answer: Answer, adjusted: float, tests: int, level: float) -> Verdict:
    """Undecided too where the Monte Carlo error of a p-value leaves it open."""
    if not adjusted + 2 * tests * answer.error <= 1 - level:
        return Verdict.UNDECIDED
    return Verdict.HOLDS if answer.above < answer.below else Verdict.DOES_NOT_HOLD


def _needed(found: Found, alpha: float) -> str:
    """How many models a claim takes that so few cannot decide."""
    there: dict[str, list[str]] = {}
    for part in found.parts:
        if isinstance(part, Between):
            ours, theirs = int(part.ours.sum()), int(part.theirs.sum())
            more = models_needed(ours, theirs, alpha)
            if more != (ours, theirs):
                there.setdefault(f"{more[0]} against {more[1]}", []).append(f"{ours} against {theirs}")
        else:
            most = math.ceil(math.log2(2 / alpha)) if isinstance(part, Each) else FEWEST
            there.setdefault(str(most), []).append(str(int(part.models().sum())))
    told = [f"it takes {takes}, and has {' and '.join(dict.fromkeys(has))}" for takes, has in there.items()]
    return "cannot be decided with so few models: " + "; ".join(told)


def _of_seeds(values: np.ndarray, level: float) -> tuple[float, float]:
    """The effect and its normal interval over the redrawn seeds."""
    if len(values) < 2:
        return math.nan, math.nan
    half = special.ndtri((1 + level) / 2) * float(np.nanstd(values[1:]))
    return float(values[0] - half), float(values[0] + half)


def _early(study: Configurations) -> list[str]:
    """Models of which too many members had not levelled off when their budget ended."""
    shares = [float(average(study.levelled[study.model == m])) for m in range(len(study.models))]
    return [name for name, share in zip(study.models, shares, strict=True) if share < LEVELLED]


def _budget(trials: pd.DataFrame) -> str:
    epochs = trials["epoch"].to_numpy(dtype=float)
    epochs = epochs[np.isfinite(epochs)]
    if not len(epochs):
        return "a budget that no row names"
    low, high = int(epochs.min()), int(epochs.max())
    return f"{high} epochs" if low == high else f"{low} to {high} epochs"


def _considered(
    trials: pd.DataFrame, only: Mapping[str, str], generator: np.random.Generator, *, everyone: bool = False
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Trials that count, with the number of their ``configuration``, and how many do not, by reason.

    Args:
        everyone: collapsed and diverged ones count too, as far as they have numbers.
    """
    metrics = [p + k for p in ("", "test_") for k in (*MEASURED, *PROBES)]
    numbers = ["active_units", "mi_upper", "mi_q", "mi_noised", "seed", "weight", "epoch", "levelled", *metrics]
    columns = [*trials.columns, "status", "model", "config", "restrictions", *IDENTIFIES, *SETTING, *COMPARABLE]
    trials = trials.reindex(columns=[*dict.fromkeys([*columns, "likelihood_name", *only, *numbers])])
    why = why_left_out(trials, [], considered(trials, only))
    if everyone:
        why = [None if reason == Status.DIVERGED else reason for reason in why]
    else:
        flat = collapsed(trials)
        why = [reason or ("collapsed" if without else None) for reason, without in zip(why, flat, strict=True)]
    left = Counter(reason for reason in why if reason)
    kept = trials[np.array([reason is None for reason in why], dtype=bool)]
    kept = kept.assign(configuration=configuration(kept))
    if kept["configuration"].nunique() > MOST:
        chosen = generator.choice(kept["configuration"].unique(), MOST, replace=False)
        left[f"thinned out, leaving {MOST} configurations"] = int((~kept["configuration"].isin(chosen)).sum())
        kept = kept[kept["configuration"].isin(chosen)]
    different = once(kept)
    if len(different) < len(kept):
        left["that repeat another model's objective"] = len(kept) - len(different)
    return different, dict(left.most_common())


def _of_priors(study: Configurations) -> Iterable[tuple[str, str, Measure]]:
    for prior in priors(study):
        named = f"{prior.replace('_', ' ')} prior"
        yield (
            f"g_{prior}_generation",
            f"{named}: better images than the {REFERENCE} one",
            by_prior("fid", prior, lower=True),
        )
        yield f"g_{prior}_representation", f"{named}: better codes than the {REFERENCE} one", by_prior("probe", prior)


_CLAIMS: tuple[tuple[str, str, Measure], ...] = (
    ("a_models", "trade-off, across models at their best", across_at_best("fid", "probe")),
    ("a_below", "trade-off, below a model's best weight", within_arm("fid", "probe", "below")),
    ("a_above", "trade-off, above a model's best weight", within_arm("fid", "probe", "above")),
    (
        "b_likelihood",
        "latent keeps more MI at equal likelihood",
        at_equal("likelihood_x", "mi_noised", LATENT, POSTERIOR),
    ),
    ("b_fid", "latent keeps more MI at equal FID", at_equal("fid", "mi_noised", LATENT, POSTERIOR)),
    ("c_generation", "VAE generates better than WAE", at_best("fid", VAE, WAE, lower=True)),
    ("c_representation", "WAE represents better than VAE", at_best("probe", WAE, VAE)),
    ("c_front", "WAE is ahead of VAE at equal probe", at_equal("probe", "fid", WAE, VAE, lower=True)),
    ("d_generation", "GAN-side models generate best", at_best("fid", GAN, POSTERIOR, LATENT, lower=True)),
    ("d_representation", "GAN-side models represent worst", at_best("probe", GAN, POSTERIOR, LATENT, lower=True)),
    ("d_front", "GAN-side leads at equal probe", at_equal("probe", "fid", GAN, POSTERIOR, LATENT, lower=True)),
    ("e_overall", "MI ranks probe accuracy, across models", across("mi_noised", "probe")),
    ("e_within", "MI ranks probe accuracy, within a model", within("mi_noised", "probe")),
    ("f_remains", "(a, below) remains under ex-post codes", within_arm("fid_expost", "probe", "below")),
    ("f_mismatch", "prior mismatch goes with better probes", mismatch()),
)

_OF_SIZES: tuple[tuple[str, str, Measure], ...] = (
    ("h_generation", "larger codes: better images", by_size("fid", lower=True)),
    ("h_representation", "larger codes: better codes", by_size("probe")),
    ("h_trade_off", "larger codes: more given up for images", by_size("probe", given_up=True)),
)
