"""What a study says of the claims, and how that is told."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

import pandas as pd

from gimtune.results.load import Study, settings


class Verdict(StrEnum):
    """What a study says of a claim."""

    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    UNDECIDED = "undecided"
    TOO_FEW = "too few models"


class Claim(NamedTuple):
    """One claim, as a study answers it.

    Attributes:
        key: letter of the claim, and the reading of it.
        statement: what is claimed, in a few words.
        verdict: after the correction.
        effect: what is measured; positive where the claim holds.
        unit: of the effect.
        value: the effect; NaN where it cannot be measured.
        low, high: its interval, of such models.
        seeds_low, seeds_high: its interval, of these models; NaN where no configuration has a second seed.
        p, p_adjusted: two-sided, before and after the correction; NaN after it where so few models cannot decide it.
        models, trials, configurations: that entered.
        with_means: the verdict by the probe on posterior means.
        with_left_out: the verdict with collapsed, stopped and diverged members that have numbers.
        at_half, at_whole: the verdicts on the validation split at half of the budget and at all of it, by the members'
            evaluations on their way; empty where there are none.
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
    seeds_low: float
    seeds_high: float
    p: float
    p_adjusted: float
    models: int
    trials: int
    configurations: int
    with_means: str
    with_left_out: str
    at_half: str
    at_whole: str
    note: str


class Verdicts(NamedTuple):
    """All claims of a study.

    Attributes:
        claims: in the source's order.
        split: that the metrics are of.
        probe: that represents.
        level: of the intervals, and 1 less the error rate of all verdicts together.
        tests: claims that share it.
        models, trials, configurations: considered.
        budget: how long members were trained, in words.
        left_out: number of trials not considered, by reason.
        refused: why there are no verdicts, effects or not; empty where there are.
    """

    claims: tuple[Claim, ...]
    split: str
    probe: str
    level: float
    tests: int
    models: int
    trials: int
    configurations: int
    budget: str
    left_out: dict[str, int]
    refused: str

    def table(self) -> pd.DataFrame:
        """One row per claim, with the split, the probe, the level, the correction and what was left out."""
        left = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return pd.DataFrame(self.claims, columns=Claim._fields).assign(
            split=self.split,
            probe=self.probe,
            level=self.level,
            tests=self.tests,
            budget=self.budget,
            left_out=left,
            refused=self.refused,
        )


def chosen_by_results(study: Study) -> str:
    """How a study chose its members by their results, in a few words; empty where it did not."""
    stated = settings(study.run)
    found = []
    for section, key, plain in (("search", "sampler", ("grid", "random")), ("scheduler", "name", ("fifo",))):
        part = stated.get(section)
        name = part.get(key) if isinstance(part, dict) else None
        if isinstance(name, str) and name not in plain:
            found.append(f"{section}={name}")
    return ", ".join(found)


def between(low: float, high: float) -> str:
    """An interval as text; so few models may bound nothing.

    >>> between(-0.123, 0.5), between(-math.inf, math.inf), between(math.nan, math.nan)
    ('-0.12 to +0.50', 'unbounded', '-')
    """
    if math.isnan(low) or math.isnan(high):
        return "-"
    return f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) and math.isfinite(high) else "unbounded"


def corrected(verdicts: Verdicts) -> str:
    """What the verdicts share, in a sentence."""
    few = sum(claim.verdict is Verdict.TOO_FEW for claim in verdicts.claims)
    text = (
        f"{len(verdicts.claims)} claims; p is corrected by Holm's method over the {verdicts.tests} that so many models "
        f"can decide: at most {1 - verdicts.level:.0%} of studies have a wrong verdict"
    )
    return text + (f"; {few} would take more models" if few else "")
