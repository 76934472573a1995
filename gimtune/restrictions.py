"""Restrictions: a match by a divergence, with the critic that it may own.

`RESTRICTIONS` is the algebra: every pair that a model or a study file may name. A restriction sees one batch of one
member and returns a scalar. Where the paper's gradient is not that of the reported value, the scalar has the value of
the one and the gradient of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gimtune import divergences as div
from gimtune.critics import KINDS, Critic, Kind, Logits
from gimtune.encoders import Encoder, Gaussian, Posterior
from gimtune.priors import Parameters, Prior
from gimtune.vocabulary import Match, Side

#: Two samples that a critic tells apart, (n, k) each: of q and of p.
Pair = tuple[Tensor, Tensor]
_GAUSSIAN = Gaussian()


class Sample:
    """One batch of one member: what a restriction may look at, made when it is first looked at.

    Attributes:
        x: images, (n, *image).
        noise: draws by name.
        prior, parameters: the prior and this member's tensors.
        posterior: q(z|x) and a code for each image.
        prior_z: codes drawn from the prior, (n, d).
        generated: the decoder's means of them, (n, *image).
        inferred: q(z|generated).
    """

    def __init__(
        self,
        x: Tensor,
        noise: Mapping[str, Tensor],
        encode: Callable[[Tensor, Tensor], Posterior],
        decode: Callable[[Tensor], Tensor],
        prior: Prior,
        parameters: Parameters,
    ) -> None:
        self.x, self.noise, self.prior, self.parameters = x, noise, prior, parameters
        self._encode, self._decode = encode, decode

    @cached_property
    def posterior(self) -> Posterior:
        return self._encode(self.x, self.noise["posterior"])

    @property
    def mu(self) -> Tensor:
        return self.posterior.mu

    @property
    def sigma(self) -> Tensor:
        return self.posterior.sigma

    @property
    def z(self) -> Tensor:
        return self.posterior.z

    @cached_property
    def prior_z(self) -> Tensor:
        return self.prior.sample(self.parameters, self.noise["prior"])

    @cached_property
    def generated(self) -> Tensor:
        return self._decode(self.prior_z)

    @cached_property
    def inferred(self) -> Posterior:
        return self._encode(self.generated, self.noise["posterior"])

    @cached_property
    def log_ratio(self) -> Tensor:
        """log q(z|x) - log p(z) at the codes, with the posterior taken for the Gaussian of its moments: (n,)."""
        return self.log_ratio_at(self.z)

    def log_ratio_at(self, z: Tensor, held: bool = False) -> Tensor:
        """The same at other codes (n, d); ``held``: the moments are constants."""
        mu, sigma = (self.mu.detach(), self.sigma.detach()) if held else (self.mu, self.sigma)
        return div.gaussian_log_prob(z, mu, sigma) - self.prior.log_prob(self.parameters, z)


def _pair_posterior(s: Sample) -> Pair:
    x = s.x.flatten(1)
    return torch.cat([x, s.z], -1), torch.cat([x, s.prior_z], -1)


def _pair_contrast(s: Sample) -> Pair:
    x = s.x.flatten(1)
    standard = (s.z - s.mu.detach()) / s.sigma.detach()
    return torch.cat([x, standard], -1), torch.cat([x, s.noise["normal"]], -1)


def _pair_latent(s: Sample) -> Pair:
    return s.z, s.prior_z


def _pair_data(s: Sample) -> Pair:
    return s.x.flatten(1), s.generated.flatten(1)


def _pair_joint(s: Sample) -> Pair:
    return torch.cat([s.x.flatten(1), s.z], -1), torch.cat([s.generated.flatten(1), s.prior_z], -1)


#: How each match's two samples are made, and which of them the model moves.
_PAIRS: Mapping[Match, tuple[Callable[[Sample], Pair], str]] = {
    Match.POSTERIOR: (_pair_posterior, "q"),
    Match.LATENT: (_pair_latent, "q"),
    Match.DATA: (_pair_data, "p"),
    Match.JOINT: (_pair_joint, "qp"),
}

Check = Callable[[Prior, Encoder], str | None]


@dataclass(frozen=True)
class Restriction:
    """A match by a divergence.

    Attributes:
        closed: scalar of a sample, for those without a critic.
        unit: nats, or that of a distance.
        estimator: how the value comes about, given the prior.
        source: authors and year.
        checks: why it makes no sense with a prior and an encoder, each ``None`` where it does.
        draws: noise that it needs beside the posterior's: ``prior``, ``directions``, ``normal``, ``mix``.
        critic: the player it owns.
        pair: the samples that the critic tells apart.
        known: what is added to the critic's logit under q outside the critic, (n,).
    """

    match: Match
    divergence: str
    unit: str
    estimator: Callable[[Prior], str]
    source: str
    closed: Callable[[Sample], Tensor] | None = None
    checks: tuple[Check, ...] = ()
    draws: tuple[str, ...] = ()
    critic: Critic | None = None
    pair: Callable[[Sample], Pair] | None = None
    known: Callable[[Sample], Tensor] | None = None

    @property
    def key(self) -> str:
        """Name of its column, ``posterior_kl``."""
        return f"{self.match}_{self.divergence}"

    def refuses(self, prior: Prior, encoder: Encoder = _GAUSSIAN) -> str | None:
        """Why it makes no sense with a prior and an encoder, or ``None``."""
        checks = (*self.checks, _no_density, _bounded) if self._with_prior else self.checks
        return next((why for check in checks if (why := check(prior, encoder))), None)

    def set(self, settings: Mapping[str, Any]) -> Restriction:
        """The same with settings of its critic replaced."""
        if self.critic is None or not settings:
            return self
        return replace(self, critic=replace(self.critic, **settings))

    def moves(self, prior: Prior) -> str:
        """Which side's samples the model moves: ``q``, ``p`` or both; a learned prior moves those of p."""
        sides = _PAIRS[self.match][1]
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
            self.critic and self.critic.knows_prior and self.match is not Match.DATA and self.pair is not _pair_contrast
        )

    def value(self, sample: Sample, logits: Logits) -> Tensor:
        """The divergence of a sample, (); with a critic, its estimate."""
        if self.critic is None:
            assert self.closed is not None
            return self.closed(sample)
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


# Why a combination makes no sense


def _bounded(prior: Prior, encoder: Encoder) -> str | None:
    if prior.bounded:
        return f"a Gaussian posterior has mass outside the {prior.name} prior's support, so the KL is infinite"
    return None


def _no_density(prior: Prior, encoder: Encoder) -> str | None:
    return None if prior.density else f"a {prior.name} prior has no density, which the divergence needs"


def _not_gaussian(prior: Prior, encoder: Encoder) -> str | None:
    return None if encoder.gaussian else f"q(z|x) of an encoder that is {encoder.name} has no density in closed form"


def _same_code(prior: Prior, encoder: Encoder) -> str | None:
    return None if encoder.varies else f"the KL of an encoder that is {encoder.name} is infinite"


def _no_w2(prior: Prior, encoder: Encoder) -> str | None:
    if prior.quantile_moment() is None:
        return f"W2 from a {prior.name} prior has no closed form; latent/sliced_wasserstein has"
    return None


def _unresolved(prior: Prior, encoder: Encoder) -> str | None:
    if not prior.resolved:
        return f"no fixed rule resolves the marginals of a {prior.name} prior; posterior/js_joint takes samples"
    return None


def _no_closed_geometric(prior: Prior, encoder: Encoder) -> str | None:
    if not prior.gaussian:
        return f"the geometric JS is in closed form between Gaussians only, not for {prior.name}"
    return None


def _no_gradient(prior: Prior, encoder: Encoder) -> str | None:
    if encoder.name == "code":
        return "the one-hot part of an infogan_code has no gradient to the encoder; restrict data, on side p"
    return None


def refuses(side: Side, prior: Prior, encoder: Encoder, restricted: bool) -> str | None:
    """Why a side, a prior and an encoder make no sense together, whatever is restricted if anything; or ``None``."""
    if prior.learned and not restricted:
        return "without a restriction nothing looks at the prior, and a learned one would stay where it starts"
    if prior.learned and side is not Side.Q:
        return f"on side {side} the entropy of p(z) belongs to what is maximised, and a learned prior would change it"
    if prior.encoder == "code" and side is not Side.P:
        return f"a code that is partly discrete has no gradient to the encoder, which side {side} needs"
    if prior.posteriors and not encoder.gaussian:
        return f"it is made of posteriors, and q(z|x) of an encoder that is {encoder.name} has no density"
    return None


# Without a critic


def _posterior_kl(s: Sample) -> Tensor:
    if s.prior.closed_kl:
        return s.prior.gaussian_kl(s.parameters, s.mu, s.sigma).mean()
    return s.log_ratio.mean()


def _kl_estimator(prior: Prior) -> str:
    return "closed form" if prior.closed_kl else "Monte Carlo, one code per image"


def _posterior_w2(s: Sample) -> Tensor:
    return div.wasserstein2_squared(s.mu, s.sigma, s.prior, s.parameters).mean()


def _posterior_js(s: Sample) -> Tensor:
    return div.js_per_dimension(s.mu, s.sigma, s.prior, s.parameters).mean()


def _posterior_js_joint(s: Sample) -> Tensor:
    return div.js_from_log_ratio(s.log_ratio, s.log_ratio_at(s.prior_z)).mean()


def _posterior_js_geometric(s: Sample) -> Tensor:
    return div.js_geometric(s.mu, s.sigma, s.parameters["scale"]).mean()


def _latent_mmd(kernel: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Sample], Tensor]:
    def value(s: Sample) -> Tensor:
        # a learned prior must not widen the kernel by which it is judged
        return div.mmd(s.z, s.prior_z, 2 * s.prior.variance(s.parameters).sum().detach(), kernel)

    return value


def _latent_sliced(s: Sample) -> Tensor:
    return div.sliced_wasserstein(s.z, s.prior_z, s.noise["directions"])


def _fixed(text: str) -> Callable[[Prior], str]:
    return lambda prior: text


_CLOSED = (_not_gaussian, _no_density)
_ALL = (
    Restriction(
        Match.POSTERIOR,
        "kl",
        "nats",
        _kl_estimator,
        "Kingma & Welling 2014, app. B",
        _posterior_kl,
        (*_CLOSED, _bounded),
    ),
    Restriction(
        Match.POSTERIOR,
        "w2",
        "code units^2",
        _fixed("closed form"),
        "our reading of the source's WVAE: squared 2-Wasserstein distance",
        _posterior_w2,
        (*_CLOSED, _no_w2),
    ),
    Restriction(
        Match.POSTERIOR,
        "js",
        "nats",
        _fixed("quadrature per dimension"),
        "our reading of the source's JS-VAE: Lin 1991, summed over dimensions",
        _posterior_js,
        (*_CLOSED, _unresolved),
    ),
    Restriction(
        Match.POSTERIOR,
        "js_joint",
        "nats",
        _fixed("Monte Carlo, one code per image"),
        "Lin 1991, eq. 3.1; at most ln 2",
        _posterior_js_joint,
        _CLOSED,
        ("prior",),
    ),
    Restriction(
        Match.POSTERIOR,
        "js_geometric",
        "nats",
        _fixed("closed form"),
        "Deasy et al. 2020, eq. 12, skew 1/2",
        _posterior_js_geometric,
        (*_CLOSED, _no_closed_geometric),
    ),
    Restriction(
        Match.LATENT,
        "mmd",
        "squared distance",
        _fixed("unbiased, on minibatches"),
        "Tolstikhin et al. 2018, alg. 2; kernels of its code",
        _latent_mmd(div.imq),
        (_no_gradient,),
        ("prior",),
    ),
    Restriction(
        Match.LATENT,
        "mmd_rbf",
        "squared distance",
        _fixed("unbiased, on minibatches"),
        "Gretton et al. 2012, eq. 3",
        _latent_mmd(div.rbf),
        (_no_gradient,),
        ("prior",),
    ),
    Restriction(
        Match.LATENT,
        "sliced_wasserstein",
        "code units^2",
        _fixed("50 random directions, on minibatches"),
        "Kolouri et al. 2018, eq. 15",
        _latent_sliced,
        (_no_gradient,),
        ("prior", "directions"),
    ),
)


# With a critic: every match by every kind

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
    pair, _ = _PAIRS[match]
    habits = {**_HABITS[match], **_KIND_HABITS.get(name, {})}
    if match is Match.JOINT and name == "kl":
        # codes of images far from the prior would make its log-density the whole logit, seen on digits
        habits |= {"gradient_penalty": 0.3, "log_prior": False}
    checks: tuple[Check, ...] = () if match is Match.DATA else (_no_gradient,)
    if kind.log_prior and match is Match.POSTERIOR:
        checks += (_same_code,)
    return Restriction(
        match,
        _NAMES.get((match, name), name),
        kind.unit,
        _fixed(kind.estimator),
        kind.source,
        checks=checks,
        draws=("prior", "mix") if kind.unit_slope else ("prior",),
        critic=Critic(name, **habits),
        pair=pair,
    )


_CRITICS = tuple(_adversarial(match, name, kind) for match in Match for name, kind in KINDS.items())
_CONTRAST = replace(
    next(r for r in _CRITICS if r.key == "posterior_kl_critic"),
    divergence="kl_contrast",
    estimator=_fixed("critic's mean logit beside the Gaussian of the encoder's moments: no bound"),
    source="Mescheder et al. 2017, section 3.3 (adaptive contrast)",
    draws=("normal",),
    pair=_pair_contrast,
    checks=(_no_gradient, _same_code, _no_density, _bounded),
    known=lambda s: s.log_ratio_at(s.z, held=True),
)

RESTRICTIONS: Mapping[tuple[Match, str], Restriction] = {
    (r.match, r.divergence): r for r in (*_ALL, *_CRITICS, _CONTRAST)
}
