"""Mutual information of codes and images, from the moments of Gaussian posteriors. Nats."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from gimtune.metrics.flags import negative
from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, undefined
from gimtune.vocabulary import METRICS, Side

_LOG_2PI = math.log(2 * math.pi)
#: Rows at a time: their temporaries stay in the cache, which is five times faster than a few large ones.
_CHUNK = 32
#: Codes of each image, for encoders that have no density.
CODES_EACH = 32
#: Of the noise that is added to codes, as a share of each dimension's standard deviation over all of them.
NOISE = 0.1
#: Images, and codes of the aggregated posterior, whose neighbours are looked at.
_NEAR = 1000
_NEIGHBOUR = 3


def gaussian(mu: Tensor, sigma: Tensor, noise: float = 0.0) -> float:
    """h(z) - h(z|x), with the aggregated posterior taken for one Gaussian of its mean and full covariance.

    The Gaussian has the largest entropy of its covariance, so with that of all images this is at least I_q (models.md,
    section 5.2). The logarithm of the determinant of N images' own is too small by about d (d + 1) / 2N. Codes of
    another scale, in any dimension, have the same value, with noise and without.

    Args:
        mu, sigma: posterior means and standard deviations of N images, (N, d).
        noise: standard deviation of a Gaussian added to every code, as a share of the aggregated posterior's own in
            each dimension. (Relative to the whole covariance, every deterministic encoder had d/2 ln(1 + noise^-2).)
    """
    mean, variance = mu.double(), sigma.double().square()
    covariance = torch.cov(mean.T, correction=0).reshape(mean.shape[1], mean.shape[1]) + torch.diag(variance.mean(0))
    # each dimension in units of its own deviation, so that no scale leaves a number that rounds otherwise
    own = covariance.diagonal()
    scale = own.sqrt()
    joint = torch.linalg.slogdet(covariance / scale.outer(scale) + noise**2 * torch.eye(len(own)).to(own)).logabsdet
    return float(0.5 * (joint - (variance / own + noise**2).log().sum(1).mean()))


def scales(mu: Tensor, sigma: Tensor) -> Tensor:
    """Standard deviation of the aggregated posterior in each dimension, (d,), from moments (N, d)."""
    return (mu.double().var(0, correction=0) + sigma.double().square().mean(0)).sqrt()


def of_samples(codes: Tensor, noise: float = 0.0, generator: torch.Generator | None = None) -> float:
    """The same from codes alone, (k, n, d): k of each of n images. An estimate, of which no direction is known.

    Both entropies are those of Gaussians, less what the distances between neighbours tell of the difference to them
    (`excess`). h(z|x) takes each image's own covariance where k > d + 1, less the bias of a log-determinant from k
    samples (Misra et al. 2005, eq. 2.1), and else its variances and nothing of neighbours. The noise is drawn: exact
    covariances of it would not have the bias that is taken off.
    """
    codes = codes.double()
    if noise:
        drawn = torch.randn(codes.shape, generator=generator, dtype=codes.dtype, device=codes.device)
        codes = codes + noise * codes.flatten(0, 1).std(0) * drawn
    each, dims = codes.shape[0], codes.shape[2]
    centred = codes - codes.mean(0)
    variance = centred.square().sum(0) / (each - 1)
    pooled = codes.flatten(0, 1)
    joint = torch.cov(pooled.T).reshape(dims, dims)
    free = torch.tensor(each - 1.0, dtype=codes.dtype)
    more = 0.0
    if each > dims + 1:
        covariance = torch.einsum("kni,knj->nij", centred, centred) / (each - 1)
        own = torch.linalg.slogdet(covariance).logabsdet.mean()
        bias = torch.digamma(0.5 * (free - torch.arange(dims))).sum() + dims * torch.log(2 / free)
        more = excess(codes[:, :_NEAR].transpose(0, 1)) - excess(codes[0, None, :_NEAR])
    else:
        own = variance.log().sum(1).mean()
        bias = dims * (torch.digamma(0.5 * free) + torch.log(2 / free))
    return float(0.5 * (torch.linalg.slogdet(joint).logabsdet - own + bias.to(own.device))) + more


def excess(samples: Tensor) -> float:
    """How much less the entropy of samples (g, k, d) is than their Gaussians', a mean over g groups of k; nats.

    By nearest-neighbour entropies along the principal axes of each group, of the samples and of as many normal ones:
    what is biased in one is in the other, and Gaussian groups have 0 up to sampling. What axes do not show together
    is not seen: in all dimensions at once, neighbours among 32 codes are too far apart to see anything. Source:
    Kozachenko & Leonenko 1987.
    """
    _, each, dims = samples.shape
    return dims * (_normal(each, dims) - _log_distance(samples))


@cache
def _normal(each: int, dims: int) -> float:
    groups = 40 * _NEAR // each
    source = torch.Generator().manual_seed(0)
    return _log_distance(torch.randn(groups, each, dims, generator=source, dtype=torch.float64))


def _log_distance(samples: Tensor) -> float:
    centred = samples - samples.mean(1, keepdim=True)
    variance, axes = torch.linalg.eigh(centred.mT @ centred / (samples.shape[1] - 1))
    along = (centred @ axes / variance.clamp_min(1e-300).sqrt()[:, None]).mT.sort(2).values
    # in one dimension the nearest are next in order, _NEIGHBOUR places to the left and right at most
    far = torch.full_like(along[:, :, :_NEIGHBOUR], math.inf)
    padded = torch.cat([-far, along, far], 2)
    steps = [
        padded[:, :, _NEIGHBOUR + k : padded.shape[2] - _NEIGHBOUR + k] for k in range(-_NEIGHBOUR, _NEIGHBOUR + 1)
    ]
    distances = torch.stack([(step - along).abs() for i, step in enumerate(steps) if i != _NEIGHBOUR])
    return float(distances.kthvalue(_NEIGHBOUR, 0).values.clamp_min(1e-300).log().mean())


def index_code(mu: Tensor, sigma: Tensor, z: Tensor, others: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """log q(z|x_n) - log of a mean of posteriors' densities at z: (N,), one code per image; its mean bounds I_q below.

    The mean is over all N images, I(n; z) for n uniform over them, which is at most ln N; or, where posteriors of
    ``others`` are given, over theirs and the image's own (InfoNCE with as many negatives), at most ln(M + 1). Source:
    Hoffman & Johnson 2016; the exact sum over all posteriors as in Chen et al. 2018, app. C; van den Oord et al. 2018.

    Args:
        mu, sigma, z: (N, d); row n of ``z`` is drawn from the posterior of image n.
        others: means and standard deviations of M other images, (M, d).
    """
    # float64: the quadratic form below cancels where sigma is small
    mu, sigma, z = mu.double(), sigma.double(), z.double()
    normaliser = 2 * sigma.log().sum(1) + mu.shape[1] * _LOG_2PI
    own = -0.5 * (((z - mu) / sigma).square().sum(1) + normaliser)
    centre, width = (mu, sigma) if others is None else (others[0].double(), others[1].double())
    # every log q(z|x_m) at once, as one product of [z^2, z, 1] with the coefficients of the quadratic form
    precision = width**-2
    constant = (centre.square() * precision + 2 * width.log()).sum(1, keepdim=True) + mu.shape[1] * _LOG_2PI
    form = -0.5 * torch.cat([precision, -2 * centre * precision, constant], 1).T
    marginal = torch.cat(
        [
            torch.logsumexp(torch.cat([part.square(), part, torch.ones_like(part[:, :1])], 1) @ form, 1)
            for part in z.split(_CHUNK)
        ]
    )
    if others is not None:
        return own - torch.logaddexp(marginal, own) + math.log(len(centre) + 1)
    # the sum holds its own term; rounding of the quadratic form at large means must not make it smaller
    return own - torch.maximum(marginal, own) + math.log(len(mu))


def active(mu: Tensor, threshold: float = 0.01) -> float:
    """Latent dimensions with Var_x[mu] above the threshold; NaN of means that are not all finite.

    Source: Burda et al. 2016, section 5.
    """
    variance = mu.double().var(0, correction=0)
    return int((variance > threshold).sum()) if bool(variance.isfinite().all()) else math.nan


@metric(METRICS["sigma_mean"])
def sigma_mean(view: View) -> float:
    """Mean standard deviation of the posteriors."""
    return float(view.posterior.sigma[:, : view.encoder.coded(view.latent_dim)].double().mean())


@metric(METRICS["active_units"])
def active_units(view: View) -> float:
    """Latent dimensions whose posterior mean varies over images."""
    return active(view.means(view.split))


@metric(METRICS["mi_q"], METRICS["mi_noised"])
def of_inference(view: View) -> dict[str, Estimate]:
    """I_q(x, z) with q(z) taken for one Gaussian, and the same of noised codes."""
    mu, sigma, _ = view.posterior
    encoder = view.encoder
    if encoder.gaussian:
        return {"mi_q": Estimate(gaussian(mu, sigma)), "mi_noised": Estimate(gaussian(mu, sigma, NOISE))}
    if encoder.no_entropy is None:
        codes = torch.stack([view.codes(view.split, 1 + i) for i in range(CODES_EACH)])
        what = f"neighbours' distances, from {CODES_EACH} codes of each image: no bound in any direction"
        found = {"mi_q": of_samples(codes), "mi_noised": of_samples(codes, NOISE, view.random("noised"))}
        return {key: Estimate(value, flag=negative(value), estimator=what) for key, value in found.items()}
    if encoder.varies:
        return dict.fromkeys(("mi_q", "mi_noised"), undefined(encoder.no_entropy))
    return {"mi_q": undefined(encoder.no_entropy), "mi_noised": Estimate(gaussian(mu, sigma, NOISE))}


@metric(METRICS["mi_gap"])
def gap(view: View) -> Estimate:
    """What the bound by the loss falls short."""
    if view.side is not Side.Q:
        # h_p(z) + R by definition, which says nothing of the model
        return undefined(f"of side q alone, and the model is of side {view.side}")
    own = view.estimate("mi_q")
    return Estimate(own.value + view.value("loss"), reason=own.reason)
