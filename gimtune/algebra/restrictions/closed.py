"""Restrictions that are computed from a sample, without a critic."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gimtune.algebra import divergences as div
from gimtune.algebra.priors import Prior
from gimtune.algebra.restrictions.base import RESTRICTIONS, Restriction
from gimtune.algebra.restrictions.refusals import (
    bounded,
    no_closed_geometric,
    no_density,
    no_gradient,
    no_w2,
    not_gaussian,
    unresolved,
)
from gimtune.algebra.restrictions.sample import Sample
from gimtune.vocabulary import Match


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


def _variance(s: Sample) -> Tensor:
    # a learned prior must not widen the kernel by which it is judged
    return s.prior.variance(s.parameters).sum().detach()


def _latent_mmd(kernel: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Sample], Tensor]:
    # C is the expected squared distance of two draws of the prior
    return lambda s: div.mmd(s.z, s.prior_z, 2 * _variance(s), kernel)


def _latent_mmd_wide(s: Sample) -> Tensor:
    # C is d^2 for N(0, I), as the authors' code has it: a mean over dimensions, divided by their number
    return div.mmd(s.z, s.prior_z, s.z.shape[-1] * _variance(s), div.rbf)


def _latent_sliced(s: Sample) -> Tensor:
    return div.sliced_wasserstein(s.z, s.prior_z, s.noise["directions"])


_CLOSED = (not_gaussian, no_density)
_ALL = (
    Restriction(
        Match.POSTERIOR,
        "kl",
        "nats",
        _kl_estimator,
        "Kingma & Welling 2014, app. B",
        _posterior_kl,
        (*_CLOSED, bounded),
        # it finds the deviation from any start, and needs many epochs from far below the prior's
        sigma_start=0.3,
    ),
    Restriction(
        Match.POSTERIOR,
        "w2",
        "code units^2",
        "closed form",
        "our reading of Astorga 2022's WVAE: squared 2-Wasserstein distance",
        _posterior_w2,
        (*_CLOSED, no_w2),
    ),
    Restriction(
        Match.POSTERIOR,
        "js",
        "nats",
        "quadrature per dimension",
        "our reading of Astorga 2022's JS-VAE: Lin 1991, summed over dimensions",
        _posterior_js,
        (*_CLOSED, unresolved),
    ),
    Restriction(
        Match.POSTERIOR,
        "js_joint",
        "nats",
        "Monte Carlo, one code per image",
        "Lin 1991, eq. 3.1; at most ln 2",
        _posterior_js_joint,
        _CLOSED,
        ("prior",),
    ),
    Restriction(
        Match.POSTERIOR,
        "js_geometric",
        "nats",
        "closed form",
        "Deasy et al. 2020, eq. 12, skew 1/2",
        _posterior_js_geometric,
        (*_CLOSED, no_closed_geometric),
    ),
    Restriction(
        Match.LATENT,
        "mmd",
        "squared distance",
        "unbiased, on minibatches",
        "Tolstikhin et al. 2018, alg. 2; kernels of its code",
        _latent_mmd(div.imq),
        (no_gradient,),
        ("prior",),
    ),
    Restriction(
        Match.LATENT,
        "mmd_rbf",
        "squared distance",
        "unbiased, on minibatches",
        "Gretton et al. 2012, eq. 3",
        _latent_mmd(div.rbf),
        (no_gradient,),
        ("prior",),
    ),
    Restriction(
        Match.LATENT,
        "mmd_wide",
        "squared distance",
        "unbiased, on minibatches; kernel exp(-r^2 / d^2)",
        "Zhao et al. 2017, code",
        _latent_mmd_wide,
        (no_gradient,),
        ("prior",),
    ),
    Restriction(
        Match.LATENT,
        "sliced_wasserstein",
        "code units^2",
        "50 random directions, on minibatches",
        "Kolouri et al. 2018, eq. 15",
        _latent_sliced,
        (no_gradient,),
        ("prior", "directions"),
    ),
)

for _restriction in _ALL:
    RESTRICTIONS.register(_restriction)
