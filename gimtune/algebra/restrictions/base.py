"""What a restriction is, a match by a divergence with the critic that it may own, and the registry of them.

A restriction sees one batch of one member and returns a scalar. Where the paper's gradient is not that of the reported
value, the scalar has the value of the one and the gradient of the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gimtune import parts
from gimtune.algebra.critics import Critic, Logits
from gimtune.algebra.encoders import Encoder, Gaussian
from gimtune.algebra.priors import Prior, make_prior
from gimtune.algebra.restrictions.refusals import Check, bounded, no_density
from gimtune.algebra.restrictions.sample import PAIRS, Pair, Sample, pair_contrast
from gimtune.vocabulary import Match, Side

#: Noise that a restriction may ask for, beside the posterior's.
DRAWS = ("prior", "directions", "normal", "mix")
#: Where a Gaussian posterior starts. A restriction of the codes alone holds a wide one where it starts, at weights
#: where a narrow one keeps its information (`docs/reference/models.md` has the sweeps).
NARROW = 0.03
_GAUSSIAN = Gaussian()


@dataclass(frozen=True)
class Restriction:
    """A match by a divergence.

    Attributes:
        closed: scalar of a sample, for those without a critic.
        unit: nats, or that of a distance.
        estimator: how the value comes about, in words; a function of the prior where it depends on it.
        source: authors and year.
        checks: why it makes no sense with a prior and an encoder, each ``None`` where it does.
        draws: noise that it needs beside the posterior's, of `DRAWS`.
        critic: the player it owns.
        pair: the samples that the critic tells apart.
        known: what is added to the critic's logit under q outside the critic, (n,).
        sigma_start: where a Gaussian posterior's deviation starts by default, in the prior's deviations.
    """

    match: Match
    divergence: str
    unit: str
    estimator: Callable[[Prior], str] | str
    source: str
    closed: Callable[[Sample], Tensor] | None = None
    checks: tuple[Check, ...] = ()
    draws: tuple[str, ...] = ()
    critic: Critic | None = None
    pair: Callable[[Sample], Pair] | None = None
    known: Callable[[Sample], Tensor] | None = None
    sigma_start: float = NARROW

    def __post_init__(self) -> None:
        object.__setattr__(self, "match", Match(self.match))

    @property
    def key(self) -> str:
        """Name of its column, ``posterior_kl``."""
        return f"{self.match}_{self.divergence}"

    def estimated(self, prior: Prior) -> str:
        """How the value comes about with a prior."""
        return self.estimator if isinstance(self.estimator, str) else self.estimator(prior)

    def refuses(self, prior: Prior, encoder: Encoder = _GAUSSIAN) -> str | None:
        """Why it makes no sense with a prior and an encoder, or ``None``."""
        checks = (*self.checks, no_density, bounded) if self._with_prior else self.checks
        why = next((why for check in checks if (why := check(prior, encoder))), None)
        return why or self._unreached(prior) or self._steep() or None

    def _unreached(self, prior: Prior) -> str:
        held = self.known is not None or self._with_prior or "p" in PAIRS[self.match][1]
        if not (prior.learned and self.critic and self.critic.kind == "kl") or held:
            return ""
        return (
            f"a critic whose mean logit under q is the divergence trains a {prior.name} prior through log p(z) alone, "
            "which critic.log_prior=false takes out of it"
        )

    def _steep(self) -> str:
        if not (self.critic and self.critic.divergence.unit_slope and self._with_prior):
            return ""
        return "its critic's slope is near 1 by a penalty, which log p(z) outside of it would escape"

    def set(self, settings: Mapping[str, Any]) -> Restriction:
        """The same with settings of its critic replaced."""
        if self.critic is None or not settings:
            return self
        return replace(self, critic=replace(self.critic, **settings))

    def moves(self, prior: Prior) -> str:
        """Which side's samples the model moves: ``q``, ``p`` or both; a learned prior moves those of p."""
        sides = PAIRS[self.match][1]
        # the mean logit of q holds -log p(z), through which a learned prior is reached already
        return "qp" if prior.learned and self.critic and self.critic.kind != "kl" else sides

    def logits(self, sample: Sample, logits: Logits) -> Pair:
        """The critic's logits T = log q/p under q and under p, (n,) each."""
        assert self.pair is not None
        under_q, under_p = self.pair(sample)
        if not self._with_prior:
            return logits(under_q), logits(under_p)
        prior, parameters = sample.prior, sample.parameters
        return (
            logits(under_q) - prior.log_prob(parameters, sample.z),
            logits(under_p) - prior.log_prob(parameters, sample.prior_z),
        )

    @property
    def _with_prior(self) -> bool:
        # a critic of images alone, or one of standardised codes, has no prior to know of
        return bool(
            self.critic and self.critic.knows_prior and self.match is not Match.DATA and self.pair is not pair_contrast
        )

    def value(self, sample: Sample, logits: Logits) -> Tensor:
        """The divergence of a sample, (); with a critic, its estimate."""
        if self.critic is None:
            assert self.closed is not None
            value = self.closed(sample)
            if not isinstance(value, Tensor) or value.ndim:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"restriction {self.match}/{self.divergence}: it gives {shape}, and no scalar tensor")
            return value
        value = self.critic.divergence.value(*self.logits(sample, logits), self.moves(sample.prior))
        return value if self.known is None else value + self.known(sample).mean()

    def accuracy(self, sample: Sample, logits: Logits) -> Tensor | None:
        """Share of a sample that the critic takes for what it is, (); ``None`` where it is no classifier."""
        threshold = self.critic.divergence.threshold if self.critic else None
        if threshold is None:
            return None
        under_q, under_p = self.logits(sample, logits)
        return 0.5 * ((under_q > threshold).double().mean() + (under_p <= threshold).double().mean())

    def loss(self, sample: Sample, logits: Logits) -> Tensor:
        """What the critic minimises, (); the model is a constant to it."""
        critic = self.critic
        assert critic is not None
        assert self.pair is not None
        with torch.no_grad():
            under_q, under_p = self.pair(sample)
            # a sample that was looked at before holds the model's gradient
            pair = under_q.detach(), under_p.detach()
            # the difference is the part of the logits that is no critic's
            offsets = self.logits(sample, lambda inputs: inputs.new_zeros(len(inputs))) if self._with_prior else (0, 0)
            if critic.instance_noise:
                extra = sample.noise[f"instance_{self.key}"] * critic.instance_noise
                pair = (pair[0] + extra[..., 0], pair[1] + extra[..., 1])
        loss = critic.divergence.loss(logits(pair[0]) + offsets[0], logits(pair[1]) + offsets[1])
        if critic.gradient_penalty:
            mix = sample.noise["mix"] if critic.divergence.unit_slope else pair[0]
            loss = loss + critic.penalty(logits, *pair, self.moves(sample.prior), mix)
        return loss


def sigma_start(side: Side, restrictions: Iterable[Restriction]) -> float:
    """Where a member's posterior starts, if its study does not say.

    As wide as the prior on side p, where the posterior is a likelihood of the prior's codes: a narrow one would have
    the generator chase an encoder that knows nothing yet.
    """
    return 1.0 if side is Side.P else max((r.sigma_start for r in restrictions), default=NARROW)


def _accept(restriction: Any) -> tuple[tuple[Match, str], Restriction]:
    if not isinstance(restriction, Restriction):
        raise ValueError("it is no Restriction")
    if (restriction.closed is None) == (restriction.critic is None):
        raise ValueError("it is either computed from a sample (closed) or estimated by a critic (critic, pair)")
    if restriction.critic is not None and restriction.pair is None:
        raise ValueError("its critic tells two samples apart, which pair makes")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", restriction.divergence):
        raise ValueError("its divergence is named by small letters, digits and _")
    if not restriction.unit or not restriction.source:
        raise ValueError("it says its unit and its source")
    if unknown := set(restriction.draws) - set(DRAWS):
        raise ValueError(f"draws={sorted(unknown)[0]}: allowed are {', '.join(DRAWS)}")
    return (Match(restriction.match), restriction.divergence), restriction


def _facts(restriction: Restriction) -> parts.Facts:
    critic = restriction.critic
    options = {} if critic is None else {f"critic.{k}": repr(v) for k, v in vars(critic).items() if k != "kind"}
    return parts.Facts(
        f"{restriction.unit}; {restriction.estimated(make_prior('normal'))}", options, restriction.source
    )


RESTRICTIONS: parts.Registry[tuple[Match, str], Restriction] = parts.Registry(
    "restriction",
    "A gimtune.algebra.restrictions.Restriction: match, divergence, unit, estimator, source, and either a function of "
    "a Sample that returns a scalar (closed) or a critic with the two samples that it tells apart (pair). The function "
    "is pure and finite, and its gradient reaches the side that the match restricts.",
    _accept,
    _facts,
    lambda key: "/".join(key),
)
