"""Restrictions whose divergence a critic estimates: every match by every kind of critic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gimtune.algebra.critics import KINDS, Critic, Kind
from gimtune.algebra.restrictions.base import RESTRICTIONS, Restriction
from gimtune.algebra.restrictions.refusals import Check, bounded, heavy, no_density, no_gradient, same_code
from gimtune.algebra.restrictions.sample import PAIRS, pair_contrast
from gimtune.vocabulary import Match

_HABITS: Mapping[Match, dict[str, Any]] = {
    Match.POSTERIOR: {},
    Match.LATENT: {},
    # on images a critic without it leaves modes out, seen on digits and MNIST
    Match.DATA: {"gradient_penalty": 0.1},
    Match.JOINT: {"gradient_penalty": 0.1},
}
_KIND_HABITS: Mapping[str, dict[str, Any]] = {
    "wgan_gp": {"gradient_penalty": 10.0, "steps": 5},
    "lsgan": {"gradient_penalty": 1.0},
}
#: What a kind is called under a match, where its plain name says another thing: KL(p||q), or a closed form.
_NAMES: Mapping[tuple[Match, str], str] = {
    (Match.POSTERIOR, "js"): "js_critic",
    (Match.POSTERIOR, "kl"): "kl_critic",
    (Match.DATA, "kl"): "kl_reverse",
    (Match.JOINT, "kl"): "kl_reverse",
}


def _adversarial(match: Match, name: str, kind: Kind) -> Restriction:
    pair, _ = PAIRS[match]
    habits = {**_HABITS[match], **_KIND_HABITS.get(name, {})}
    if match is Match.JOINT and name == "kl":
        # codes of images far from the prior would make its log-density the whole logit, seen on digits
        habits |= {"gradient_penalty": 0.3, "log_prior": False}
    checks: tuple[Check, ...] = () if match is Match.DATA else (no_gradient,)
    if kind.log_prior and match is Match.POSTERIOR:
        checks += (same_code,)
    # the penalty at the resting side's samples is another paper's than the divergence
    penalised = habits.get("gradient_penalty") and not kind.unit_slope
    source = f"{kind.source}; R1: Mescheder et al. 2018, eq. 9" if penalised else kind.source
    return Restriction(
        match,
        _NAMES.get((match, name), name),
        kind.unit,
        kind.estimator,
        source,
        checks=checks,
        draws=("prior", "mix") if kind.unit_slope else ("prior",),
        critic=Critic(name, **habits),
        pair=pair,
    )


_CRITICS = tuple(_adversarial(match, name, kind) for match in Match for name, kind in KINDS.items())
_CONTRAST = replace(
    next(r for r in _CRITICS if r.key == "posterior_kl_critic"),
    divergence="kl_contrast",
    estimator="critic's mean logit beside the Gaussian of the encoder's moments: no bound",
    source="Mescheder et al. 2017, section 3.3 (adaptive contrast)",
    draws=("normal",),
    pair=pair_contrast,
    checks=(no_gradient, same_code, no_density, bounded, heavy),
    known=lambda s: s.log_ratio_at(s.z, held=True),
)

for _restriction in (*_CRITICS, _CONTRAST):
    RESTRICTIONS.register(_restriction)
