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
posteriors: without information a point is no trade-off, whatever its numbers. Where a search chose configurations
or a scheduler stopped some, they are no independent sample, and intervals are surer than they should be: judge a grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from gimtune.analysis.statistics.attainment import SETTING, configuration
from gimtune.analysis.statistics.effects import LABELS, MEASURED, NOTHING, Effect, Unmeasured, gathered
from gimtune.analysis.statistics.measures import (
    GAN,
    OTHERS,
    VAE,
    WAE,
    Measure,
    along_front,
    better,
    matched,
    mismatch,
    rank,
)
from gimtune.results.pareto import collapsed, considered, why_left_out

#: More are thinned at random to this number, for an effect takes a matrix of all pairs.
MOST = 500


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
        trials: rows as of `gimtune.results.load.load`; may be empty, and may lack metrics.
        generator: of the bootstrap's draws.
        split: ``test`` or ``validation``.
        only: column and value to choose, as of `front`. Not needed where data sets or FID features are
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
        study = gathered(kept, prefix, draws, level, generator)
        for key, statement, measure in _CLAIMS:
            try:
                effect, used, note = measure.of(study)
            except Unmeasured as reason:
                effect, used, note = NOTHING, np.zeros(len(study), dtype=bool), str(reason)
            verdict = _verdict(effect)
            counts = (int(study.trials[used].sum()), int(used.sum()))
            answers.append(Claim(key, statement, verdict, measure.effect, measure.unit, *effect, *counts, note))
    return Verdicts(tuple(answers), split, level, len(kept), len(study), left)


def _considered(
    trials: pd.DataFrame, only: Mapping[str, str], generator: np.random.Generator
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Trials that count, with the number of their ``configuration``, and how many do not, by reason."""
    numbers = [
        *("active_units", "mi_upper", "mi_q", "mi_noised", "seed"),
        *(p + key for p in ("", "test_") for key in MEASURED),
    ]
    trials = trials.reindex(columns=[*dict.fromkeys([*trials.columns, "status", *SETTING, *LABELS, *only, *numbers])])
    why = [
        reason or ("collapsed" if no_information else None)
        for reason, no_information in zip(
            why_left_out(trials, [], considered(trials, only)), collapsed(trials), strict=True
        )
    ]
    left = Counter(reason for reason in why if reason)
    kept = trials[np.array([reason is None for reason in why], dtype=bool)]
    kept = kept.assign(configuration=configuration(kept))
    if kept["configuration"].nunique() > MOST:
        chosen = generator.choice(kept["configuration"].unique(), MOST, replace=False)
        left[f"thinned out, leaving {MOST} configurations"] = int((~kept["configuration"].isin(chosen)).sum())
        kept = kept[kept["configuration"].isin(chosen)]
    return kept, dict(left.most_common())


def _verdict(effect: Effect) -> Verdict:
    if effect.low > 0:
        return Verdict.HOLDS
    return Verdict.DOES_NOT_HOLD if effect.high < 0 else Verdict.UNDECIDED


_TRADE_OFF = "better FID, lower probe accuracy"
_CLAIMS: tuple[tuple[str, str, Measure], ...] = (
    ("a_overall", _TRADE_OFF, rank("fid", "probe_codes")),
    ("a_within", f"{_TRADE_OFF}, within a model", rank("fid", "probe_codes", "model")),
    ("a_front", f"{_TRADE_OFF}, on the front", along_front()),
    ("a_fronts", f"{_TRADE_OFF}, on each model's front", along_front("model")),
    ("b_likelihood", "latent keeps more MI than posterior at equal likelihood", matched("likelihood_x")),
    ("b_fid", "latent keeps more MI than posterior at equal FID", matched("fid")),
    ("c_generation", "VAE generates better than WAE", better("fid", VAE, WAE)),
    ("c_representation", "WAE represents better than VAE", better("probe_codes", WAE, VAE)),
    ("d_generation", "GAN-side models generate best", better("fid", GAN, *OTHERS)),
    ("d_representation", "GAN-side models represent worst", better("probe_codes", GAN, *OTHERS, worst=True)),
    ("e_overall", "MI ranks probe accuracy", rank("mi_noised", "probe_codes")),
    ("e_within", "MI ranks probe accuracy, within a model", rank("mi_noised", "probe_codes", "model")),
    ("f_remains", "(a) remains under ex-post sampling", rank("fid_expost", "probe_codes")),
    ("f_remains_within", "(a) remains, within a model", rank("fid_expost", "probe_codes", "model")),
    ("f_mismatch", "prior mismatch adds to (a)", mismatch()),
    ("f_mismatch_within", "prior mismatch adds to (a), within a model", mismatch("model")),
)
