"""Likelihoods p(x|z) of images in [0, 1] and of vectors, summed over values, in nats, with every constant kept."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from gimtune import parts


class Likelihood(ABC):
    """p(x|z) given the decoder's output.

    Attributes:
        of_critic: it compares features of a critic and not pixels.
        density: it integrates to 1 over images.
        bounded: its means lie in [0, 1], where images are; else it is a likelihood of vectors.
        cost: nats that it takes for a unit of squared error at least: the largest c such that
            log p(x|x) - log p(x|g) >= c (x - g)^2 for all grey values x and means g. It converts weights that a paper
            gives beside the squared error.
    """

    name: ClassVar[str]
    of_critic: ClassVar[bool] = False
    density: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    cost: ClassVar[float] = 1.0

    @abstractmethod
    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """log p(x|z) of images (n, *image) given the decoder's output of the same shape: (n,), nats."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """E[x|z], the image that is shown and scored."""

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        """Images drawn from p(x|z), of the shape of the decoder's output; not every likelihood draws them.

        Raises:
            NotImplementedError: this one does not.
        """
        raise NotImplementedError(f"likelihood {self.name} draws no images")


def _accept(kind: Any) -> tuple[str, Likelihood]:
    parts.check_class(kind, Likelihood)
    return kind.name, kind()


LIKELIHOODS: parts.Registry[str, Likelihood] = parts.Registry(
    "likelihood",
    "A subclass of gimtune.algebra.likelihoods.Likelihood that is made without arguments: log p(x|z) of images in "
    "[0, 1] given the decoder's output, summed over pixels, in nats with every constant, and the mean image. Its "
    "methods are pure: they are mapped over members.",
    _accept,
    lambda likelihood: parts.Facts(parts.summary(likelihood), {}, parts.source(likelihood)),
)


@LIKELIHOODS.register
@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Cross-entropy on grey values; a density only for binary images. Source: Kingma & Welling 2014, app. C.1."""

    name: ClassVar[str] = "bernoulli"
    density: ClassVar[bool] = False
    # Pinsker's inequality: the curvature over the mean is 1 / variance, and a variance of at most 1/4
    cost: ClassVar[float] = 2.0

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        return -binary_cross_entropy_with_logits(output, x, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        return (_uniform(output, generator) < output.sigmoid()).to(output.dtype)


@LIKELIHOODS.register
@dataclass(frozen=True)
class ContinuousBernoulliLikelihood(Likelihood):
    """The Bernoulli normalised over [0, 1], from its logit a: p(x) = a exp(a x) / (exp(a) - 1).

    torch's class goes by the probability, which in float32 is 1 from a = 16 on: background pixels are beyond that, and
    their densities would be wrong by a nat each. Source: Loaiza-Ganem & Cunningham 2019, eq. 6-8.
    """

    name: ClassVar[str] = "continuous_bernoulli"
    # the same with a variance of at most 1/12, the uniform's
    cost: ClassVar[float] = 6.0

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        cross_entropy = binary_cross_entropy_with_logits(output, x, reduction="none")
        return (_log_normaliser(output) - cross_entropy).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        small = output.abs() < 0.5
        safe = torch.where(small, 1.0, output)
        square = output.square()
        series = output * (1 / 12 - square * (1 / 720 - square * (1 / 30240 - square / 1209600)))
        return 0.5 + torch.where(small, series, 0.5 / torch.tanh(0.5 * safe) - 1 / safe)

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        # the inverse of its distribution function, (e^(a x) - 1) / (e^a - 1), from the side that does not overflow
        u, size = _uniform(output, generator), output.abs()
        safe = torch.where(size < 1e-3, 1.0, size)
        x = torch.where(size < 1e-3, u, 1 + torch.log(u + (1 - u) * torch.exp(-safe)) / safe)
        return torch.where(output < 0, 1 - x, x)


def _log_normaliser(logit: Tensor) -> Tensor:
    # log(a / tanh(a / 2)); both factors vanish at 0, where a series stands in
    small = logit.abs() < 0.1
    safe = torch.where(small, 1.0, logit.abs())
    square = logit.square()
    series = math.log(2) + square * (1 / 12 - square * (7 / 1440 - square * (31 / 90720)))
    return torch.where(small, series, safe.log() - torch.tanh(0.5 * safe).log())


def _as_it_is(output: Tensor) -> Tensor:
    return output


@LIKELIHOODS.register
@dataclass(frozen=True)
class Gaussian(Likelihood):
    """N(link(output), variance); at variance 1/2, -log p is the summed squared error plus a constant.

    Attributes:
        link: from the decoder's output to the mean; the sigmoid keeps images in [0, 1].
    """

    name: ClassVar[str] = "gaussian"
    variance: float = 0.5
    link: Callable[[Tensor], Tensor] = torch.sigmoid

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        error = (x - self.link(output)).square() / self.variance + math.log(2 * math.pi * self.variance)
        return -0.5 * error.flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return self.link(output)

    @property
    def cost(self) -> float:  # type: ignore[override]
        """1 / (2 variance): the squared error itself at 1/2."""
        return 0.5 / self.variance

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(output.shape, generator=generator, device=output.device, dtype=output.dtype)
        return self.link(output) + math.sqrt(self.variance) * noise


@LIKELIHOODS.register
@dataclass(frozen=True)
class RealGaussian(Gaussian):
    """N(output, 1/2) of vectors of real values: -log p is the summed squared error plus a constant."""

    name: ClassVar[str] = "real_gaussian"
    bounded: ClassVar[bool] = False
    link: Callable[[Tensor], Tensor] = _as_it_is


@LIKELIHOODS.register
@dataclass(frozen=True)
class Laplace(Likelihood):
    """Laplace(sigmoid(output), 1): summed absolute error plus a constant. Source: Zhu et al. 2017, eq. 2 (L1 cycle)."""

    name: ClassVar[str] = "laplace"
    # |d| >= d^2 between grey values
    cost: ClassVar[float] = 1.0

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        return -((x - output.sigmoid()).abs() + math.log(2)).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def sample(self, output: Tensor, generator: torch.Generator) -> Tensor:
        u = _uniform(output, generator) - 0.5
        return output.sigmoid() - u.sign() * torch.log1p(-2 * u.abs())


@LIKELIHOODS.register
@dataclass(frozen=True)
class Features(Likelihood):
    """N(f(mean), I) of a critic's early features f, in place of pixels: `log_prob` takes f(x) and f(mean).

    The unit of all features is their root mean square deviation over the minibatch's images, as the paper's critic has
    it by batch normalisation: the scale of a critic's weights is arbitrary, and at a unit variance all that they do not
    amplify would be noise.

    Attributes:
        standardised: ``False`` takes the features as they are.

    Source: Larsen et al. 2016, eq. 8; its code (`model/aegan.py`: after the third convolution).
    """

    name: ClassVar[str] = "features"
    of_critic: ClassVar[bool] = True
    standardised: bool = True

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        x, output = x.flatten(1), output.flatten(1)
        error = (x - output).square()
        if self.standardised:
            error = error / x.var(0, correction=0).mean().detach().clamp_min(1e-12)
        return -0.5 * (error + math.log(2 * math.pi)).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid()


@LIKELIHOODS.register
@dataclass(frozen=True)
class RealFeatures(Features):
    """The same of vectors of real values: the mean is the decoder's output as it is."""

    name: ClassVar[str] = "real_features"
    bounded: ClassVar[bool] = False

    def mean(self, output: Tensor) -> Tensor:
        return output


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    # neither 0 nor 1, where quantiles are infinite
    drawn = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return drawn.clamp(torch.finfo(like.dtype).eps, 1 - torch.finfo(like.dtype).eps)
