"""I_q(x, z) between an estimate from below and a bound from above that is not capped by the number of images. Nats.

No estimate from N images that holds for every distribution exceeds ln N by much with confidence (McAllester & Stratos
2020): q(x) may be N images and no more. So what lies above ln N rests on a density of codes that is fitted:

- above, E[log q(z|x)] - E[log r(z)] = I_q + KL(q(z) || r), which is at least I_q in expectation, whatever r is: r is
  fitted to codes of training images, and the expectation is over the split's;
- below, the same with r fitted to the split's own codes, twice as fine. What it over-fits is at least what it misses
  wherever the class is as fine as the codes need, and then it is at most I_q. In place of it, where larger: the
  information that a code has of its image's index among training images, a bound that needs no fit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gimtune.algebra.seeds import generator
from gimtune.metrics import density
from gimtune.metrics.information import NOISE, index_code, scales
from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, spaced, undefined
from gimtune.vocabulary import METRICS

#: Codes that the density is fitted to, codes that both expectations are over, and those that are told from all training
#: images, at most: the mixtures stay whole, and what is left out of an expectation shows in its standard error.
_FITTED, _SCORED, _INDEXED = 8_000, 5_000, 2_000
_LOG_2PI = math.log(2 * math.pi)
#: An encoder that is no Gaussian has tails, of which a critic as narrow as its moments is too sure.
_WIDTHS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


def pair(own: Tensor, codes: Tensor, fitted: density.Density, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Terms of the bound above and of the estimate below, (n,) each; their means are what is meant.

    Args:
        own: log q(z|x) of the codes, (n,).
        codes: (n, d), one of each image.
        fitted: to codes of other images.
        source: of what breaks the symmetry between components, on the CPU.
    """
    return own - fitted.log_prob(codes.double()), own - fitted.resubstituted(codes, source)


def _mean(terms: Tensor) -> tuple[float, float]:
    return float(terms.mean()), float(terms.std() / math.sqrt(len(terms)))


@metric(METRICS["mi_upper"], METRICS["mi_lower"])
def of_inference(view: View) -> dict[str, Estimate]:
    """Both, of the split's codes; of a deterministic encoder the lower one of noised codes."""
    encoder = view.encoder
    mu, sigma, z = (spaced(part, _SCORED) for part in view.posterior)
    others = view.training.mu, view.training.sigma
    if encoder.no_entropy is not None and encoder.varies:
        return dict.fromkeys(("mi_upper", "mi_lower"), undefined(encoder.no_entropy))
    if encoder.no_entropy is None and not encoder.gaussian:
        drawn = spaced(view.codes(view.split, 1), _SCORED)
        mu, sigma, z, drawn = (spaced(part, _INDEXED) for part in (mu, sigma, z, drawn))
        # chosen on codes of another draw
        wide = max(_WIDTHS, key=lambda w: float(index_code(mu, w * sigma, drawn, (others[0], w * others[1])).mean()))
        value, error = _mean(index_code(mu, wide * sigma, z, (others[0], wide * others[1])))
        how = "InfoNCE, its critic the Gaussian of the encoder's moments, widened as other codes want it"
        none = undefined("no density of q(z|x)")
        return {"mi_upper": none, "mi_lower": Estimate(value, error, estimator=how)}
    trained, noise = view.training.z[:_FITTED], 0.0
    if not encoder.varies:
        # the noised code is a function of the code and of noise: it knows no more of the image
        noise = NOISE
        width = (noise * scales(*others)).to(mu.dtype)
        sigma, others = width.expand_as(mu), (others[0], width.expand_as(others[0]))
        z = mu + width * torch.randn(mu.shape, generator=view.random("noised"), device=mu.device)
        source = generator(view.data.device, view.member.seed, "noised", "train")
        trained = trained + width * torch.randn(trained.shape, generator=source, device=mu.device)
    own = -0.5 * (((z - mu) / sigma).double().square() + 2 * sigma.double().log() + _LOG_2PI).sum(1)
    try:
        fitted = view.once(("density", noise), lambda: density.fit(trained, _cpu()))
        above, below = map(_mean, pair(own, z, fitted, _cpu()))
    except ValueError as error:
        return dict.fromkeys(("mi_upper", "mi_lower"), undefined(str(error).splitlines()[0]))
    mu, sigma, z = (spaced(part, _INDEXED) for part in (mu, sigma, z))
    index = _mean(index_code(mu, sigma, z, others))
    lower, how = (below, "a density fitted to the codes") if below > index else (index, "index code")
    how += f", codes with noise of {noise:g} deviations" if noise else ""
    upper = undefined(str(encoder.no_entropy)) if noise else Estimate(*above)
    return {"mi_upper": upper, "mi_lower": Estimate(*lower, estimator=how)}


def _cpu() -> torch.Generator:
    return torch.Generator().manual_seed(0)
