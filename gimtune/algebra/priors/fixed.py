"""Priors without parameters of their own: products of one-dimensional ones, and Gaussians on a ring or grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Laplace, Normal, Uniform

from gimtune.algebra.priors.base import PRIORS, GaussianMixture, Parameters, Prior, whole


@PRIORS.register
@dataclass(frozen=True)
class NormalPrior(Prior):
    """N(0, scale^2 I)."""

    name: ClassVar[str] = "normal"
    gaussian: ClassVar[bool] = True
    scale: float = 1.0

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        return {"scale": torch.full((latent_dim,), self.scale)}

    def noise(self, count: int, latent_dim: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, latent_dim, generator=generator, device=generator.device)

    def marginal(self, parameters: Parameters) -> Distribution:
        scale = parameters["scale"]
        return Normal(torch.zeros_like(scale), scale, validate_args=False)

    def sample(self, parameters: Parameters, noise: Tensor) -> Tensor:
        return parameters["scale"] * noise

    def extent(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        return -8.5 * parameters["scale"], 8.5 * parameters["scale"]

    def quantile_moment(self) -> float | None:
        return 1.0


@PRIORS.register
@dataclass(frozen=True)
class UniformPrior(Prior):
    """Uniform on [-scale, scale]^d."""

    name: ClassVar[str] = "uniform"
    bounded: ClassVar[bool] = True
    closed_kl: ClassVar[bool] = False
    scale: float = 1.0

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        return {"scale": torch.full((latent_dim,), self.scale)}

    def marginal(self, parameters: Parameters) -> Distribution:
        return Uniform(-parameters["scale"], parameters["scale"], validate_args=False)

    def extent(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        return -parameters["scale"], parameters["scale"]

    def quantile_moment(self) -> float | None:
        return 1 / math.sqrt(math.pi)


@PRIORS.register
@dataclass(frozen=True)
class LaplacePrior(Prior):
    """Product of Laplace(0, scale); its variance is 2 scale^2."""

    name: ClassVar[str] = "laplace"
    heavy: ClassVar[bool] = True
    scale: float = 1.0

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        return {"scale": torch.full((latent_dim,), self.scale)}

    def marginal(self, parameters: Parameters) -> Distribution:
        scale = parameters["scale"]
        return Laplace(torch.zeros_like(scale), scale, validate_args=False)

    def extent(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        return -36.0 * parameters["scale"], 36.0 * parameters["scale"]

    def breakpoints(self, parameters: Parameters) -> tuple[Tensor, ...]:
        return (torch.zeros_like(parameters["scale"]),)

    def quantile_moment(self) -> float | None:
        return _LAPLACE_MOMENT


@PRIORS.register
@dataclass(frozen=True)
class MixturePrior(GaussianMixture):
    """Mixture of equal Gaussians in the first two dimensions, N(0, 1) in the others.

    Centres stand on a ``ring`` of the given radius, or on a square ``grid`` of half-width radius; ``scale`` is the
    standard deviation of a component in those two dimensions.
    """

    name: ClassVar[str] = "mixture"
    nodes: ClassVar[int] = 112
    components: int = 10
    radius: float = 3.0
    scale: float = 0.5
    layout: str = "ring"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout not in ("ring", "grid"):
            raise ValueError(f"prior.layout={self.layout!r}: mixture takes ring or grid")
        whole(self, "components")

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        if latent_dim < 2:
            raise ValueError(f"latent_dim={latent_dim}: the mixture prior stands in two dimensions or more")
        if self.layout == "ring":
            angle = torch.arange(self.components) * (2 * math.pi / self.components)
            centres = self.radius * torch.stack([angle.cos(), angle.sin()], -1)
        else:
            side = math.ceil(math.sqrt(self.components))
            axis = torch.linspace(-self.radius, self.radius, side) if side > 1 else torch.zeros(1)
            centres = torch.cartesian_prod(axis, axis)[: self.components]
        means = torch.zeros(self.components, latent_dim)
        means[:, :2] = centres
        scale = torch.ones(self.components, latent_dim)
        scale[:, :2] = self.scale
        return {"means": means, "scale": scale}


def _laplace_moment() -> float:
    # E[e F^-1(Phi(e))] = 2 int_0^inf e * -log(2(1 - Phi(e))) phi(e) de; the integrand is smooth, the trapezoid exact
    grid = torch.linspace(0, 12, 24001, dtype=torch.float64)
    tail = torch.special.log_ndtr(-grid) + math.log(2)
    density = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
    return float(2 * torch.trapezoid(-grid * tail * density, grid))


_LAPLACE_MOMENT = _laplace_moment()
