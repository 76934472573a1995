"""log p(x) of images under the generative model, bounded from below by importance weighting. Nats."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gimtune.algebra.divergences import gaussian_log_prob
from gimtune.algebra.encoders import Posterior
from gimtune.metrics.measures import metric
from gimtune.metrics.view import CHUNK, Estimate, View, spaced, undefined
from gimtune.vocabulary import IMPORTANCE_CODES, METRICS

#: At most; with a hundred codes each they are a hundred thousand passes through the decoder.
IMAGES = 1000


def importance(view: View, images: Tensor, posterior: Posterior, source: torch.Generator, codes: int) -> Tensor:
    """log (1/K) sum_k p(x|z_k) p(z_k) / q(z_k|x) with z_k ~ q(z|x), of images (n, *image) and their posteriors: (n,).

    Its expectation is at most log p(x), and nears it with K. Source: Burda et al. 2016, eq. 8.
    """
    found = []
    parts = (part.split(max(1, CHUNK // codes)) for part in (images, posterior.mu, posterior.sigma))
    for x, mean, width in zip(*parts, strict=True):
        noise = torch.randn(len(x), codes, mean.shape[1], generator=source, device=mean.device)
        z = (mean[:, None] + width[:, None] * noise).flatten(0, 1)
        log_q = gaussian_log_prob(z, mean.repeat_interleave(codes, 0), width.repeat_interleave(codes, 0))
        log_p = view.objective.log_prob_x(view.parameters, x.repeat_interleave(codes, 0), z)
        ratio = log_p + view.prior.log_prob(view.prior_tensors, z) - log_q
        found.append(torch.logsumexp(ratio.double().unflatten(0, (len(x), codes)), 1) - math.log(codes))
    return torch.cat(found)


@metric(METRICS["log_px"])
def log_px(view: View) -> Estimate:
    """The bound with K = ``metrics.importance_codes``, a mean over images of the test split, evenly spaced."""
    if view.split != "test":
        return undefined("measured on the test split, when a member ends")
    if not view.encoder.gaussian:
        return undefined("no density of q(z|x)")
    if not view.prior.density:
        return undefined(f"no density of the {view.prior.name} prior")
    if view.objective.likelihood.of_critic:
        return undefined("a likelihood of a critic's features is no density of images")
    posterior = Posterior(*(spaced(part, IMAGES) for part in view.posterior))
    codes = view.member.metrics.get("importance_codes", IMPORTANCE_CODES)
    values = importance(view, spaced(view.images, IMAGES), posterior, view.random("log_px"), codes)
    density = view.objective.likelihood.density or view.data.dataset.binarized is not None
    grey = "" if density else "cross-entropy of grey values: comparable with itself alone"
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(len(values))), estimator=grey)
