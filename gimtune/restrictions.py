"""Restrictions: a match by a divergence, with the player (critic) it may own.

`RESTRICTIONS` is the algebra: every pair that a model or a study file may name. A restriction sees one batch of one
member and returns a scalar. Where the paper's gradient is not that of the reported value, the scalar has the value of
the one and the gradient of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gimtune import divergences as div
from gimtune.priors import Parameters, Prior
from gimtune.vocabulary import Match

Logits = Callable[[Tensor], Tensor]


class Sample(NamedTuple):
    """One batch of one member: what a restriction may look at.

    Attributes:
        mu, sigma, z: posterior means, standard deviations and codes, (n, d).
        prior_z: codes drawn from the prior, (n, d).
        directions: random directions for slicing, (k, d).
        prior, parameters: the prior and this member's tensors.
    """

    mu: Tensor
    sigma: Tensor
    z: Tensor
    prior_z: Tensor
    directions: Tensor
    prior: Prior
    parameters: Parameters


@dataclass(frozen=True)
class Critic:
    """A player that its restriction owns: a network, its loss and its optimiser.

    Attributes:
        hidden: widths of its layers.
        loss: of its logits on the sample, by (sample, logits).
        learning_rate: as a multiple of the model's (WAE: 0.5).
        beta1: Adam's first moment decay.
        steps: of the critic for one of the model.
    """

    hidden: Sequence[int]
    loss: Callable[[Sample, Logits], Tensor]
    learning_rate: float = 0.5
    beta1: float = 0.5
    steps: int = 1

    def network(self, latent_dim: int) -> nn.Module:
        """(n, d) to logits (n,), on the ``meta`` device."""
        layers: list[nn.Module] = []
        width = latent_dim
        with torch.device("meta"):
            for after in self.hidden:
                layers += [nn.Linear(width, after), nn.ReLU()]
                width = after
            return nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0))


def _never(prior: Prior) -> str | None:
    return None


@dataclass(frozen=True)
class Restriction:
    """A match by a divergence.

    Attributes:
        value: scalar of a sample; with a critic, also of its logits.
        unit: nats, or that of a distance.
        estimator: how the value comes about, given the prior.
        source: authors and year.
        refuses: why it makes no sense with a prior, or ``None``.
        critic: the player it owns.
        uses_prior, uses_directions: which draws it needs.
    """

    match: Match
    divergence: str
    value: Callable[[Sample, Logits], Tensor]
    unit: str
    estimator: Callable[[Prior], str]
    source: str
    refuses: Callable[[Prior], str | None] = _never
    critic: Critic | None = None
    uses_prior: bool = False
    uses_directions: bool = False

    @property
    def key(self) -> str:
        """Name of its column, ``posterior_kl``."""
        return f"{self.match}_{self.divergence}"


def _log_ratio(s: Sample, z: Tensor) -> Tensor:
    return div.gaussian_log_prob(z, s.mu, s.sigma) - s.prior.log_prob(s.parameters, z)


def _posterior_kl(s: Sample, _: Logits) -> Tensor:
    if s.prior.closed_kl:
        return s.prior.gaussian_kl(s.parameters, s.mu, s.sigma).mean()
    return _log_ratio(s, s.z).mean()


def _kl_estimator(prior: Prior) -> str:
    return "closed form" if prior.closed_kl else "Monte Carlo, one code per image"


def _kl_refuses(prior: Prior) -> str | None:
    if prior.bounded:
        return f"a Gaussian posterior has mass outside the {prior.name} prior's support, so the KL is infinite"
    return None


def _posterior_w2(s: Sample, _: Logits) -> Tensor:
    return div.wasserstein2_squared(s.mu, s.sigma, s.prior, s.parameters).mean()


def _w2_refuses(prior: Prior) -> str | None:
    if prior.quantile_moment() is None:
        return f"W2 from a {prior.name} prior has no closed form; latent/sliced_wasserstein has"
    return None


def _posterior_js(s: Sample, _: Logits) -> Tensor:
    return div.js_per_dimension(s.mu, s.sigma, s.prior, s.parameters).mean()


def _posterior_js_joint(s: Sample, _: Logits) -> Tensor:
    return div.js_from_log_ratio(_log_ratio(s, s.z), _log_ratio(s, s.prior_z)).mean()


def _posterior_js_geometric(s: Sample, _: Logits) -> Tensor:
    return div.js_geometric(s.mu, s.sigma, s.parameters["scale"]).mean()


def _geometric_refuses(prior: Prior) -> str | None:
    return (
        None if prior.gaussian else f"the geometric JS is in closed form between Gaussians only, not for {prior.name}"
    )


def _latent_mmd(kernel: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Sample, Logits], Tensor]:
    def value(s: Sample, _: Logits) -> Tensor:
        return div.mmd(s.z, s.prior_z, 2 * s.prior.variance(s.parameters).sum(), kernel)

    return value


def _latent_sliced(s: Sample, _: Logits) -> Tensor:
    return div.sliced_wasserstein(s.z, s.prior_z, s.directions)


def _js_critic_loss(s: Sample, logits: Logits) -> Tensor:
    # label 1 for codes of the prior (models.md, section 7)
    return softplus(-logits(s.prior_z)).mean() + softplus(logits(s.z)).mean()


def _latent_js(s: Sample, logits: Logits) -> Tensor:
    fake = logits(s.z)
    estimate = div.js_from_log_ratio(-fake, -logits(s.prior_z)).mean().detach()
    surrogate = softplus(-fake).mean()
    return estimate + surrogate - surrogate.detach()


def _fixed(text: str) -> Callable[[Prior], str]:
    return lambda prior: text


_ALL = (
    Restriction(
        Match.POSTERIOR,
        "kl",
        _posterior_kl,
        "nats",
        _kl_estimator,
        "Kingma & Welling 2014, app. B",
        refuses=_kl_refuses,
    ),
    Restriction(
        Match.POSTERIOR,
        "w2",
        _posterior_w2,
        "code units^2",
        _fixed("closed form"),
        "our reading of the source's WVAE: squared 2-Wasserstein distance",
        refuses=_w2_refuses,
    ),
    Restriction(
        Match.POSTERIOR,
        "js",
        _posterior_js,
        "nats",
        _fixed("quadrature per dimension"),
        "our reading of the source's JS-VAE: Lin 1991, summed over dimensions",
    ),
    Restriction(
        Match.POSTERIOR,
        "js_joint",
        _posterior_js_joint,
        "nats",
        _fixed("Monte Carlo, one code per image"),
        "Lin 1991, eq. 3.1; at most ln 2",
        uses_prior=True,
    ),
    Restriction(
        Match.POSTERIOR,
        "js_geometric",
        _posterior_js_geometric,
        "nats",
        _fixed("closed form"),
        "Deasy et al. 2020, eq. 12, skew 1/2",
        refuses=_geometric_refuses,
    ),
    Restriction(
        Match.LATENT,
        "mmd",
        _latent_mmd(div.imq),
        "squared distance",
        _fixed("unbiased, on minibatches"),
        "Tolstikhin et al. 2018, alg. 2; kernels of its code",
        uses_prior=True,
    ),
    Restriction(
        Match.LATENT,
        "mmd_rbf",
        _latent_mmd(div.rbf),
        "squared distance",
        _fixed("unbiased, on minibatches"),
        "Gretton et al. 2012, eq. 3",
        uses_prior=True,
    ),
    Restriction(
        Match.LATENT,
        "sliced_wasserstein",
        _latent_sliced,
        "code units^2",
        _fixed("50 random directions, on minibatches"),
        "Kolouri et al. 2018, eq. 15",
        uses_prior=True,
        uses_directions=True,
    ),
    Restriction(
        Match.LATENT,
        "js",
        _latent_js,
        "nats",
        _fixed("critic, a lower bound; non-saturating gradient"),
        "Makhzani et al. 2016; Goodfellow et al. 2014",
        critic=Critic(hidden=(512, 512, 512), loss=_js_critic_loss),
        uses_prior=True,
    ),
)

RESTRICTIONS: Mapping[tuple[Match, str], Restriction] = {(r.match, r.divergence): r for r in _ALL}
