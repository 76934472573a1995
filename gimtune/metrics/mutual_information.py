"""Mutual information of codes and images, from the moments of Gaussian posteriors. Nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)
#: Rows at a time: their temporaries stay in the cache, which is five times faster than a few large ones.
_CHUNK = 32


def gaussian(mu: Tensor, sigma: Tensor, noise: float = 0.0) -> float:
    """h(z) - h(z|x), with the aggregated posterior taken for one Gaussian of its mean and full covariance.

    The Gaussian has the largest entropy of its covariance, so this is at least I_q (models.md, section 5.2).

    Args:
        mu, sigma: posterior means and standard deviations of N images, (N, d).
        noise: standard deviation of a Gaussian added to every code.
    """
    mean, variance = mu.double(), sigma.double().square() + noise**2
    covariance = torch.cov(mean.T, correction=0).reshape(mean.shape[1], mean.shape[1]) + torch.diag(variance.mean(0))
    joint = torch.linalg.slogdet(covariance).logabsdet
    return float(0.5 * (joint - variance.log().sum(1).mean()))


def of_samples(codes: Tensor, noise: float = 0.0, generator: torch.Generator | None = None) -> float:
    """The same from codes alone, (k, n, d): k of each of n images; both entropies are those of Gaussians.

    h(z|x) takes each image's own covariance where k > d + 1, less the bias of a log-determinant from k samples (Misra
    et al. 2005, eq. 2.1), and else its variances. Of a Gaussian encoder it is `gaussian`, up to sampling. The noise is
    drawn: an exact noise^2 in the covariances would not have the bias that is taken off.
    """
    codes = codes.double()
    if noise:
        codes = codes + noise * torch.randn(codes.shape, generator=generator, dtype=codes.dtype, device=codes.device)
    each, dims = codes.shape[0], codes.shape[2]
    centred = codes - codes.mean(0)
    variance = centred.square().sum(0) / (each - 1)
    pooled = codes.flatten(0, 1)
    joint = torch.cov(pooled.T).reshape(dims, dims)
    free = torch.tensor(each - 1.0, dtype=codes.dtype)
    if each > dims + 1:
        covariance = torch.einsum("kni,knj->nij", centred, centred) / (each - 1)
        own = torch.linalg.slogdet(covariance).logabsdet.mean()
        bias = torch.digamma(0.5 * (free - torch.arange(dims))).sum() + dims * torch.log(2 / free)
    else:
        own = variance.log().sum(1).mean()
        bias = dims * (torch.digamma(0.5 * free) + torch.log(2 / free))
    return float(0.5 * (torch.linalg.slogdet(joint).logabsdet - own + bias.to(own.device)))


def index_code(mu: Tensor, sigma: Tensor, z: Tensor) -> float:
    """I(n; z) for n uniform over N images: E[log q(z|x_n) - log (1/N) sum_m q(z|x_m)], one code per image.

    At most ln N, and in expectation at most I_q. Source: Hoffman & Johnson 2016; the exact sum over all posteriors as
    in Chen et al. 2018, app. C.

    Args:
        mu, sigma, z: (N, d); row n of ``z`` is drawn from the posterior of image n.
    """
    # float64: the quadratic form below cancels where sigma is small
    mu, sigma, z = mu.double(), sigma.double(), z.double()
    precision = sigma**-2
    normaliser = 2 * sigma.log().sum(1, keepdim=True) + mu.shape[1] * _LOG_2PI
    own = -0.5 * (((z - mu) / sigma).square().sum(1, keepdim=True) + normaliser).squeeze(1)
    # every log q(z|x_m) at once, as one product of [z^2, z, 1] with the coefficients of the quadratic form
    constant = (mu.square() * precision).sum(1, keepdim=True) + normaliser
    form = -0.5 * torch.cat([precision, -2 * mu * precision, constant], 1).T
    marginal = [
        torch.logsumexp(torch.cat([part.square(), part, torch.ones_like(part[:, :1])], 1) @ form, 1)
        for part in z.split(_CHUNK)
    ]
    # the sum holds its own term; rounding of the quadratic form at large means must not make it smaller
    ratio = own - torch.maximum(torch.cat(marginal), own)
    return float(ratio.mean() + math.log(len(mu)))


def active_units(mu: Tensor, threshold: float = 0.01) -> float:
    """Latent dimensions with Var_x[mu] above the threshold; NaN of means that are not all finite.

    Source: Burda et al. 2016, section 5.
    """
    variance = mu.double().var(0, correction=0)
    return int((variance > threshold).sum()) if bool(variance.isfinite().all()) else math.nan
