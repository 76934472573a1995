"""Divergences between distributions, as pure functions of samples, moments and densities. Nats, unless a distance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gimtune.algebra.priors import Parameters, Prior

LN2 = math.log(2)
#: Relative kernel scales of Tolstikhin et al. 2018 (code, `models.py`).
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def gaussian_log_prob(z: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """log N(z; mu, diag sigma^2), summed over the last axis: (n, d) to (n,)."""
    return Normal(mu, sigma, validate_args=False).log_prob(z).sum(-1)


def wasserstein2_squared(mu: Tensor, sigma: Tensor, prior: Prior, parameters: Parameters) -> Tensor:
    """Squared 2-Wasserstein distance of N(mu, diag sigma^2) from a product prior, in closed form: (n, d) to (n,).

    In one dimension W2^2 = int (F^-1 - G^-1)^2; between products it adds up over dimensions. For the normal prior this
    is mu^2 + (sigma - scale)^2.

    Raises:
        ValueError: the prior is no product of one-dimensional ones.
    """
    moment = prior.quantile_moment()
    if moment is None:
        raise ValueError(f"prior {prior.name}: no closed form")
    cross = 2 * moment * sigma * parameters["scale"]
    return (mu.square() + sigma.square() + prior.variance(parameters) - cross).sum(-1)


def softplus(values: Tensor) -> Tensor:
    """log(1 + e^t).

    torch's own rounds otherwise where the last few of an array do not fill the processor's vectors: a member's numbers
    would depend on where it stands in its pack.
    """
    # of equal values `maximum` gives each half the gradient, as it should be at 0
    return torch.maximum(values, torch.zeros_like(values)) + (-values.abs()).exp().log1p()


def js_from_log_ratio(log_ratio_under_q: Tensor, log_ratio_under_p: Tensor) -> Tensor:
    """JS(q || p) = ln 2 - (E_q[softplus(log p/q)] + E_p[softplus(log q/p)]) / 2; both arguments are log q/p."""
    return LN2 - 0.5 * (softplus(-log_ratio_under_q) + softplus(log_ratio_under_p))


def js_per_dimension(mu: Tensor, sigma: Tensor, prior: Prior, parameters: Parameters) -> Tensor:
    """Sum over dimensions of JS(N(mu_i, sigma_i^2) || p(z_i)), by quadrature to 1e-6 each: (n, d) to (n,).

    Gauss-Legendre on the overlap of both distributions' mass, cut where the prior's density is not smooth: outside the
    overlap the integrand q log(1 + p/q) + p log(1 + q/p) is below the smaller of the two densities. A mixture whose
    components are narrower than an eighth of its radius is resolved to 1e-5 only.
    """
    low, high = prior.extent(parameters)
    lower = torch.maximum(mu - 8.5 * sigma, low)
    upper = torch.maximum(torch.minimum(mu + 8.5 * sigma, high), lower)
    inner = [torch.minimum(torch.maximum(b.expand_as(mu), lower), upper) for b in prior.breakpoints(parameters)]
    edges = [lower, *inner, upper]
    nodes, weights = (torch.as_tensor(a, dtype=mu.dtype, device=mu.device) for a in _legendre(prior.nodes))
    posterior, marginal = Normal(mu, sigma, validate_args=False), prior.marginal(parameters)

    total = torch.zeros_like(mu)
    for left, right in pairwise(edges):
        half = 0.5 * (right - left)
        # (nodes, n, d): the event axis last, as the marginals have it
        points = left + half * (1 + nodes[:, None, None])
        # finite: where the overlap is empty, the log-density of a bounded prior would make 0 x infinity
        log_q, log_p = posterior.log_prob(points), marginal.log_prob(points).clamp_min(-1e4)
        integrand = log_q.exp() * softplus(log_p - log_q) + log_p.exp() * softplus(log_q - log_p)
        total = total + half * torch.einsum("k,knd->nd", weights, integrand)
    return (LN2 - 0.5 * total).sum(-1)


def js_geometric(mu: Tensor, sigma: Tensor, scale: Tensor) -> Tensor:
    """Geometric JS of N(mu, diag sigma^2) and N(0, scale^2) at skew 1/2, in closed form: (n, d) to (n,).

    (KL(q || G) + KL(p || G)) / 2 with G the normalised sqrt(q p). Source: Deasy et al. 2020, eq. 12.
    """
    precision = 0.5 * (sigma**-2 + scale**-2)
    middle = Normal(0.5 * mu * sigma**-2 / precision, precision**-0.5, validate_args=False)
    posterior = Normal(mu, sigma, validate_args=False)
    prior = Normal(torch.zeros_like(mu), scale.expand_as(mu), validate_args=False)
    return 0.5 * (kl_divergence(posterior, middle) + kl_divergence(prior, middle)).sum(-1)


def imq(squared: Tensor, scale: Tensor) -> Tensor:
    """Inverse multiquadratic kernels C/(C + r^2), summed over seven scales. Source: Tolstikhin et al. 2018, code."""
    total = torch.zeros_like(squared)
    for factor in SCALES:
        total = total + factor * scale / (factor * scale + squared)
    return total


def rbf(squared: Tensor, scale: Tensor) -> Tensor:
    """exp(-r^2 / C)."""
    return torch.exp(-squared / scale)


def mmd(x: Tensor, y: Tensor, scale: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Squared maximum mean discrepancy of samples (n, d) and (m, d): unbiased, so it may be negative.

    Args:
        scale: C of the kernel, a squared length.

    Source: Gretton et al. 2012, eq. 3 (the terms within a sample leave out the diagonal).
    """
    n, m = x.shape[0], y.shape[0]
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    diagonal = kernel(zero, scale)
    within_x = (kernel(_squared(x, x), scale).sum() - n * diagonal) / (n * (n - 1))
    within_y = (kernel(_squared(y, y), scale).sum() - m * diagonal) / (m * (m - 1))
    return within_x + within_y - 2 * kernel(_squared(x, y), scale).mean()


def sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """Mean over unit directions (k, d) of the squared 2-Wasserstein distance of the projected samples (n, d), (n, d).

    Source: Kolouri et al. 2018 (sliced-Wasserstein auto-encoder), eq. 15.
    """
    unit = directions / directions.norm(dim=-1, keepdim=True)
    return ((x @ unit.T).sort(0).values - (y @ unit.T).sort(0).values).square().mean()


def _squared(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(-1)[:, None] + y.square().sum(-1)[None, :]
    result = (squares - 2 * x @ y.T).clamp_min(0)
    if x is y:
        # the difference of squares leaves rounding on the diagonal, where the distance is zero
        result = result * (1 - torch.eye(x.shape[0], dtype=x.dtype, device=x.device))
    return result


@cache
def _legendre(count: int) -> Sequence[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes, weights
