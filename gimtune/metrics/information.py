"""Mutual information of codes and images, from the moments of Gaussian posteriors. Nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, undefined
from gimtune.vocabulary import METRICS, Side

_LOG_2PI = math.log(2 * math.pi)
#: Rows at a time: their temporaries stay in the cache, which is five times faster than a few large ones.
_CHUNK = 32
#: Codes of each image, for encoders that have no density.
_CODES_EACH = 32
_NOISE = 0.1
#: An encoder that is no Gaussian has tails, of which a critic as narrow as its moments is too sure.
_WIDTHS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


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


def active(mu: Tensor, threshold: float = 0.01) -> float:
    """Latent dimensions with Var_x[mu] above the threshold; NaN of means that are not all finite.

    Source: Burda et al. 2016, section 5.
    """
    variance = mu.double().var(0, correction=0)
    return int((variance > threshold).sum()) if bool(variance.isfinite().all()) else math.nan


def _widened(mu: Tensor, sigma: Tensor, z: Tensor) -> float:
    """How much wider the bound's critic should be than the encoder's moments; chosen on codes of another draw."""
    return max(_WIDTHS, key=lambda width: index_code(mu, width * sigma, z))


@metric(METRICS["sigma_mean"])
def sigma_mean(view: View) -> float:
    """Mean standard deviation of the posteriors."""
    return float(view.posterior.sigma.double().mean())


@metric(METRICS["active_units"])
def active_units(view: View) -> float:
    """Latent dimensions whose posterior mean varies over images."""
    return active(view.posterior.mu)


@metric(METRICS["mi_q"], METRICS["mi_noised"], METRICS["mi_lower"])
def of_inference(view: View) -> dict[str, Estimate]:
    """I_q(x, z): with q(z) taken for one Gaussian, the same of noised codes, and a bound from below."""
    mu, sigma, z = view.posterior
    encoder = view.encoder
    if encoder.gaussian:
        return {
            "mi_q": Estimate(gaussian(mu, sigma)),
            "mi_noised": Estimate(gaussian(mu, sigma, noise=_NOISE)),
            "mi_lower": Estimate(index_code(mu, sigma, z)),
        }
    if encoder.no_entropy is None:
        codes = torch.stack([view.codes(view.split, 1 + i) for i in range(_CODES_EACH)])
        return {
            "mi_q": Estimate(
                of_samples(codes),
                estimator=f"Gaussians for q(z) and for q(z|x), from {_CODES_EACH} codes of each image",
            ),
            "mi_noised": Estimate(of_samples(codes, _NOISE, view.random("noised"))),
            "mi_lower": Estimate(
                index_code(mu, _widened(mu, sigma, codes[0]) * sigma, z),
                estimator="InfoNCE, its critic the Gaussian of the encoder's moments, widened as other codes want it",
            ),
        }
    if encoder.varies:
        return dict.fromkeys(("mi_q", "mi_noised", "mi_lower"), undefined(encoder.no_entropy))
    noised = mu + _NOISE * torch.randn(mu.shape, generator=view.random("noised"), device=mu.device)
    return {
        "mi_q": undefined(encoder.no_entropy),
        "mi_noised": Estimate(gaussian(mu, sigma, noise=_NOISE)),
        "mi_lower": Estimate(
            index_code(mu, torch.full_like(mu, _NOISE), noised),
            estimator="index-code information of codes with N(0, 0.1^2) added",
        ),
    }


@metric(METRICS["mi_p"])
def of_generation(view: View) -> Estimate:
    """h_p(z) and the likelihood of codes, from the prior's entropy or a mean over its codes."""
    entropy = view.prior.entropy(view.prior_tensors)
    if entropy is not None:
        value = float(entropy)
    elif view.prior.density:
        value = -float(view.prior.log_prob(view.prior_tensors, view.prior_codes).mean())
    else:
        return undefined(f"a {view.prior.name} prior has no known entropy")
    return Estimate(value + view.value("likelihood_z"))


@metric(METRICS["mi"])
def of_side(view: View) -> Estimate:
    """The one of the model's own side."""
    own = view.estimate("mi_p" if view.side is Side.P else "mi_q")
    return Estimate(own.value, reason=own.reason)


@metric(METRICS["mi_gap"])
def gap(view: View) -> Estimate:
    """What the bound by the loss falls short."""
    own = view.estimate("mi")
    return Estimate(own.value + view.value("loss"), reason=own.reason)
