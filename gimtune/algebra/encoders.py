"""Kinds of encoder q(z|x): what the network puts out, how a code is drawn from it, and its log-density.

The network is the study's; a kind says how many outputs it has and what they mean.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gimtune import parts
from gimtune.algebra.divergences import gaussian_log_prob

#: From base noise to the values of an implicit encoder's basis.
Basis = Callable[[Tensor], Tensor]


class Spread(NamedTuple):
    """What a study says of the posterior's standard deviation: where training starts, and its lower bound.

    Numbers, or tensors () where the members of a pack have their own, which an encoder of ours is given.
    """

    start: float | Tensor
    least: float | Tensor


class Posterior(NamedTuple):
    """Means and standard deviations of q(z|x), and one code each, (n, d)."""

    mu: Tensor
    sigma: Tensor
    z: Tensor


class Encoder(ABC):
    """A kind of encoder.

    Attributes:
        name: as in a study file.
        gaussian: q(z|x) is N(mu, diag sigma^2), as the closed-form restrictions need it.
        varies: a code of an image is drawn, and not always the same.
        differentiable: a code has a gradient to the network.
        estimator: how `likelihood_z` comes about.
        no_entropy: why its codes have no h(z|x), or ``None``.
        chosen: a study may ask for it; others come with a prior.
        of_prior: options of its prior that it is made with.
    """

    name: ClassVar[str]
    gaussian: ClassVar[bool] = False
    varies: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    estimator: ClassVar[str] = "density"
    no_entropy: ClassVar[str | None] = None
    chosen: ClassVar[bool] = True
    of_prior: ClassVar[tuple[str, ...]] = ()

    def outputs(self, latent_dim: int) -> int:
        """Width of the network's output."""
        return 2 * latent_dim

    def noise(self, latent_dim: int) -> int:
        """Width of the base noise that `code` takes, N(0, 1)."""
        return latent_dim

    def coded(self, latent_dim: int) -> int:
        """How many dimensions, the first ones, are what the model calls its code; no loss trains the others."""
        return latent_dim

    def basis(self, latent_dim: int) -> nn.Module | None:
        """A second network that the noise goes through, on ``meta``."""
        return None

    @abstractmethod
    def moments(self, output: Tensor, spread: Spread, basis: Basis) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the code, (n, d) each."""

    def code(self, output: Tensor, mu: Tensor, sigma: Tensor, noise: Tensor, basis: Basis) -> Tensor:
        """One code for each image, (n, d)."""
        return mu + sigma * noise

    def log_prob(self, z: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
        """log q(z|x), nats: (n,)."""
        return gaussian_log_prob(z, mu, sigma)


def _accept(kind: Any) -> tuple[str, type[Encoder]]:
    parts.check_class(kind, Encoder)
    if kind.gaussian and kind.no_entropy:
        raise ValueError("a Gaussian q(z|x) has an entropy, and no_entropy says that it has none")
    return kind.name, kind


def _facts(kind: type[Encoder]) -> parts.Facts:
    comes = "" if kind.chosen else " Comes with its prior."
    return parts.Facts(parts.summary(kind) + comes, {}, parts.source(kind))


ENCODERS: parts.Registry[str, type[Encoder]] = parts.Registry(
    "encoder",
    "A subclass of gimtune.algebra.encoders.Encoder: how many outputs the network has (outputs), which posterior means "
    "and deviations they are (moments), how a code is drawn from base noise (code), and its log-density (log_prob). "
    "Its methods are pure: they are mapped over members.",
    _accept,
    _facts,
)


@ENCODERS.register
@dataclass(frozen=True)
class Gaussian(Encoder):
    """N(mu, diag sigma^2) with sigma^2 = sigma_start^2 exp(s) + sigma_min^2, a bound that keeps a gradient everywhere.

    The network's s is near 0 when training starts, whatever the network. A posterior that starts as wide as the prior
    carries nothing, and a restriction of the codes alone holds it there: the WAE collapses at weights where the one
    that starts narrow does not.
    """

    name: ClassVar[str] = "gaussian"
    gaussian: ClassVar[bool] = True

    def moments(self, output: Tensor, spread: Spread, basis: Basis) -> tuple[Tensor, Tensor]:
        mu, log_ratio = output.chunk(2, -1)
        return mu, torch.sqrt(spread.start**2 * log_ratio.exp() + spread.least**2)


@ENCODERS.register
@dataclass(frozen=True)
class Deterministic(Encoder):
    """z = mu(x). As a likelihood of codes it is N(mu, I): squared error (VEEGAN's d, up to its factor 1/2)."""

    name: ClassVar[str] = "deterministic"
    varies: ClassVar[bool] = False
    estimator: ClassVar[str] = "unit variance"
    no_entropy: ClassVar[str | None] = "a deterministic encoder: h(z|x) is minus infinity"

    def outputs(self, latent_dim: int) -> int:
        return latent_dim

    def moments(self, output: Tensor, spread: Spread, basis: Basis) -> tuple[Tensor, Tensor]:
        return output, torch.zeros_like(output)

    def log_prob(self, z: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
        return gaussian_log_prob(z, mu, torch.ones_like(mu))


@ENCODERS.register
@dataclass(frozen=True)
class Implicit(Encoder):
    """z = z0(x) + sum_i a_i(x) v_i(e_i), with noise e_i and small networks v_i: no density, but known moments.

    The moments of v_i are taken over a fixed bank of noise. `log_prob` is that of the Gaussian with these moments: as a
    variational distribution it still bounds I_p from below. Source: Mescheder et al. 2017, section 3.3 and code
    (`avb/inputs`, adaptive contrast): 16 or 32 deeper ones, a_i = elu(. - 5) + 1 there; 8 here, softplus.
    """

    name: ClassVar[str] = "implicit"
    estimator: ClassVar[str] = "Gaussian with the encoder's moments"
    count: int = 8
    width: int = 4
    hidden: int = 16
    bank: int = 128

    def outputs(self, latent_dim: int) -> int:
        return latent_dim * (1 + self.count)

    def noise(self, latent_dim: int) -> int:
        return self.count * self.width

    def basis(self, latent_dim: int) -> nn.Module:
        count, hidden = self.count, self.hidden
        with torch.device("meta"):
            # groups: each basis network sees its own noise alone
            return nn.Sequential(
                nn.Unflatten(1, (count * self.width, 1)),
                nn.Conv1d(count * self.width, count * hidden, 1, groups=count),
                nn.ReLU(),
                nn.Conv1d(count * hidden, count * latent_dim, 1, groups=count),
                nn.Flatten(),
            )

    def _parts(self, output: Tensor) -> tuple[Tensor, Tensor]:
        parts = output.unflatten(-1, (1 + self.count, -1))
        return parts[:, 0], torch.nn.functional.softplus(parts[:, 1:] - 2)

    def moments(self, output: Tensor, spread: Spread, basis: Basis) -> tuple[Tensor, Tensor]:
        centre, scales = self._parts(output)
        values = basis(_bank(self.bank, self.count * self.width, output)).unflatten(-1, (self.count, -1))
        mu = centre + (scales * values.mean(0)).sum(1)
        variance = (scales.square() * values.var(0, correction=0)).sum(1)
        return mu, torch.sqrt(variance + spread.least**2)

    def code(self, output: Tensor, mu: Tensor, sigma: Tensor, noise: Tensor, basis: Basis) -> Tensor:
        centre, scales = self._parts(output)
        return centre + (scales * basis(noise).unflatten(-1, (self.count, -1))).sum(1)


@ENCODERS.register
@dataclass(frozen=True)
class Code(Encoder):
    """Posterior of `infogan_code`: logits of the category, unit-variance means of the continuous codes, free noise.

    Source: Chen et al. 2016, app. C; openai/InfoGAN fixes the standard deviation at 1.
    """

    name: ClassVar[str] = "code"
    differentiable: ClassVar[bool] = False
    chosen: ClassVar[bool] = False
    of_prior: ClassVar[tuple[str, ...]] = ("categories", "continuous")
    estimator: ClassVar[str] = "density of the code alone"
    no_entropy: ClassVar[str | None] = "the code is partly discrete"
    categories: int = 10
    continuous: int = 2

    def outputs(self, latent_dim: int) -> int:
        return latent_dim

    def coded(self, latent_dim: int) -> int:
        return min(self.categories + self.continuous, latent_dim)

    def moments(self, output: Tensor, spread: Spread, basis: Basis) -> tuple[Tensor, Tensor]:
        return output, torch.ones_like(output)

    def code(self, output: Tensor, mu: Tensor, sigma: Tensor, noise: Tensor, basis: Basis) -> Tensor:
        first, last = self.categories, self.categories + self.continuous
        best = mu[:, :first].argmax(-1, keepdim=True)
        choice = (best == torch.arange(first, device=mu.device)).to(mu.dtype)
        # the noise has no posterior: it is drawn anew, uniform as its prior is
        free = 2 * torch.special.ndtr(noise[:, last:]) - 1
        return torch.cat([choice, mu[:, first:last], free], -1)

    def log_prob(self, z: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
        first, last = self.categories, self.categories + self.continuous
        category = (z[:, :first] * mu[:, :first].log_softmax(-1)).sum(-1)
        return category + gaussian_log_prob(z[:, first:last], mu[:, first:last], sigma[:, first:last])


@ENCODERS.register
@dataclass(frozen=True)
class Image(Encoder):
    """A deterministic image of a second domain, in [0, 1]; as a likelihood Laplace with scale 1: the L1 cycle.

    Source: Zhu et al. 2017, eq. 2.
    """

    name: ClassVar[str] = "image"
    chosen: ClassVar[bool] = False
    varies: ClassVar[bool] = False
    estimator: ClassVar[str] = "Laplace, scale 1"
    no_entropy: ClassVar[str | None] = "a deterministic encoder: h(z|x) is minus infinity"

    def outputs(self, latent_dim: int) -> int:
        return latent_dim

    def moments(self, output: Tensor, spread: Spread, basis: Basis) -> tuple[Tensor, Tensor]:
        return output.sigmoid(), torch.zeros_like(output)

    def log_prob(self, z: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
        return -((z - mu).abs() + math.log(2)).sum(-1)


def choices() -> list[str]:
    """Those that a study may ask for."""
    return [name for name, kind in ENCODERS.items() if kind.chosen]


def make_encoder(name: str, prior: Mapping[str, Any]) -> Encoder:
    """The encoder of that name for a prior's options."""
    kind = ENCODERS[name]
    return kind(**{key: prior[key] for key in kind.of_prior})


@cache
def _bank_of(count: int, width: int) -> Any:
    # NumPy's: torch refuses to draw inside a map, where this is first asked for
    return np.random.default_rng(0).standard_normal((count, width), np.float32)


def _bank(count: int, width: int, like: Tensor) -> Tensor:
    return torch.as_tensor(_bank_of(count, width), dtype=like.dtype, device=like.device)
