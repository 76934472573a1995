"""Priors p(z): samples, log-densities, and closed-form divergences of a diagonal Gaussian from them.

A prior object says the family; the tensors of one member (``parameters``) are passed to every method, so that members
with different scales share one program under `torch.func.vmap`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical as _Categorical
from torch.distributions import Distribution, Independent, Laplace, MixtureSameFamily, Normal, Uniform, kl_divergence

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Prior(ABC):
    """A family of priors over codes of shape (d,).

    Attributes:
        name: as in a study file.
        gaussian: it is N(0, scale^2 I).
        bounded: its support is bounded, so that the KL of a Gaussian from it is infinite.
        closed_kl: `gaussian_kl` is defined.
        nodes: of a Gauss-Legendre rule over the extent that resolves the marginals.
    """

    name: ClassVar[str]
    gaussian: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    closed_kl: ClassVar[bool] = True
    nodes: ClassVar[int] = 48

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"prior.{field.name}={value}: {self.name} takes a positive number")

    @property
    def shape_key(self) -> tuple[object, ...]:
        """What members of one pack must share: everything but the floating-point options."""
        return (self.name, *((k, v) for k, v in asdict(self).items() if not isinstance(v, float)))

    def noise(self, count: int, latent_dim: int, generator: torch.Generator) -> Tensor:
        """Base noise (count, latent_dim) that `sample` turns into codes: uniform on (0, 1)."""
        return _open_uniform((count, latent_dim), generator)

    @abstractmethod
    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        """One member's tensors, float32."""

    @abstractmethod
    def marginal(self, parameters: Parameters) -> Distribution:
        """The one-dimensional marginals p(z_i), batch shape (d,)."""

    def sample(self, parameters: Parameters, noise: Tensor) -> Tensor:
        """Codes (n, d) from base noise."""
        return self.marginal(parameters).icdf(noise)

    @abstractmethod
    def extent(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Bounds (d,), (d,) outside which each marginal holds less than 1e-15 of its mass."""

    def breakpoints(self, parameters: Parameters) -> tuple[Tensor, ...]:
        """Points (d,) where the marginal density is not smooth."""
        return ()

    def log_prob(self, parameters: Parameters, z: Tensor) -> Tensor:
        """log p(z) of codes (n, d): (n,), nats."""
        return self.marginal(parameters).log_prob(z).sum(-1)

    def entropy(self, parameters: Parameters) -> Tensor | None:
        """h(z) in nats, or ``None`` where there is no closed form."""
        return self.marginal(parameters).entropy().sum()

    def variance(self, parameters: Parameters) -> Tensor:
        """Variance of each dimension, (d,)."""
        return self.marginal(parameters).variance

    def gaussian_kl(self, parameters: Parameters, mu: Tensor, sigma: Tensor) -> Tensor:
        """KL(N(mu, diag sigma^2) || p) in closed form: (n, d) to (n,), nats. Only where ``closed_kl``."""
        posterior = Normal(mu, sigma, validate_args=False)
        return kl_divergence(posterior, self.marginal(parameters)).sum(-1)

    def quantile_moment(self) -> float | None:
        """E[e F^-1(Phi(e))] / scale for e ~ N(0, 1): the cross term of W2 in one dimension; ``None``: no product."""
        return None


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


@dataclass(frozen=True)
class LaplacePrior(Prior):
    """Product of Laplace(0, scale); its variance is 2 scale^2."""

    name: ClassVar[str] = "laplace"
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


@dataclass(frozen=True)
class MixturePrior(Prior):
    """Mixture of equal Gaussians in the first two dimensions, N(0, 1) in the others.

    Centres stand on a ``ring`` of the given radius, or on a square ``grid`` of half-width radius; ``scale`` is the
    standard deviation of a component in those two dimensions.
    """

    name: ClassVar[str] = "mixture"
    closed_kl: ClassVar[bool] = False
    nodes: ClassVar[int] = 112
    components: int = 10
    radius: float = 3.0
    scale: float = 0.5
    layout: str = "ring"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout not in ("ring", "grid"):
            raise ValueError(f"prior.layout={self.layout!r}: mixture takes ring or grid")
        if self.components != int(self.components):
            raise ValueError(f"prior.components={self.components}: mixture takes a whole number")

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
        scale = torch.ones(latent_dim)
        scale[:2] = self.scale
        return {"means": means, "scale": scale}

    def noise(self, count: int, latent_dim: int, generator: torch.Generator) -> Tensor:
        normal = torch.randn(count, latent_dim, generator=generator, device=generator.device)
        return torch.cat([_open_uniform((count, 1), generator), normal], -1)

    def sample(self, parameters: Parameters, noise: Tensor) -> Tensor:
        index = (noise[:, 0] * self.components).long().clamp(max=self.components - 1)
        return parameters["means"][index] + parameters["scale"] * noise[:, 1:]

    def marginal(self, parameters: Parameters) -> Distribution:
        means = parameters["means"].T
        components = Normal(means, parameters["scale"][:, None].expand_as(means), validate_args=False)
        return MixtureSameFamily(self._equal(means), components, validate_args=False)

    def _equal(self, like: Tensor) -> _Categorical:
        return _Categorical(logits=torch.zeros_like(like), validate_args=False)

    def log_prob(self, parameters: Parameters, z: Tensor) -> Tensor:
        means = parameters["means"]
        components = Independent(Normal(means, parameters["scale"].expand_as(means), validate_args=False), 1)
        mixture = MixtureSameFamily(self._equal(means[:, 0]), components, validate_args=False)
        result: Tensor = mixture.log_prob(z)
        return result

    def entropy(self, parameters: Parameters) -> Tensor | None:
        return None

    def extent(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        reach = 8.5 * parameters["scale"]
        return parameters["means"].amin(0) - reach, parameters["means"].amax(0) + reach


def _open_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    # (0, 1) without its ends, where inverse distribution functions are infinite
    tiny = 2.0**-25
    return torch.rand(shape, generator=generator, device=generator.device).clamp(tiny, 1 - 2.0**-24)


def _laplace_moment() -> float:
    # E[e F^-1(Phi(e))] = 2 int_0^inf e * -log(2(1 - Phi(e))) phi(e) de; the integrand is smooth, the trapezoid exact
    grid = torch.linspace(0, 12, 24001, dtype=torch.float64)
    tail = torch.special.log_ndtr(-grid) + math.log(2)
    density = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
    return float(2 * torch.trapezoid(-grid * tail * density, grid))


_LAPLACE_MOMENT = _laplace_moment()

PRIORS: Mapping[str, type[Prior]] = {p.name: p for p in (NormalPrior, UniformPrior, LaplacePrior, MixturePrior)}


def make_prior(name: str, **options: Any) -> Prior:
    """The prior of that name.

    Raises:
        ValueError: no such prior, an option it does not have, or a value it does not take.
    """
    if name not in PRIORS:
        raise ValueError(f"prior={name!r}: allowed are {', '.join(PRIORS)}")
    kind = PRIORS[name]
    known = {field.name: field for field in fields(kind)}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"prior.{key}={value!r}: {name} takes {', '.join(known)}")
        wanted = known[key].type
        if wanted == "str":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"prior.{key}={value!r}: {name} takes a positive number")
        if wanted == "int" and not isinstance(value, int):
            raise ValueError(f"prior.{key}={value!r}: {name} takes a whole number")
        options[key] = float(value) if wanted == "float" else value
    return kind(**options)
