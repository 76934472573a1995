"""Priors p(z): samples, log-densities, and closed-form divergences of a diagonal Gaussian from them.

A prior object says the family; the tensors of one member (``parameters``) are passed to every method, so that members
with different scales share one program under `torch.func.vmap`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical as _Categorical
from torch.distributions import Distribution, Independent, Laplace, MixtureSameFamily, Normal, Uniform, kl_divergence

Parameters = Mapping[str, Tensor]
#: From images (n, pixels) to posterior means and standard deviations, (n, d) each.
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Prior(ABC):
    """A family of priors over codes of shape (d,).

    Attributes:
        name: as in a study file.
        gaussian: it is N(0, scale^2 I).
        bounded: its support is bounded, so that the KL of a Gaussian from it is infinite.
        closed_kl: `gaussian_kl` is defined.
        density: `log_prob` is defined.
        resolved: a Gauss-Legendre rule of ``nodes`` over the extent resolves the marginals.
        learned: it has parameters that are trained with the model.
        posteriors: it is made of posteriors, so that it needs a Gaussian encoder.
        encoder: kind of encoder that its codes need, or ``None`` for any.
        images: its codes are images of a second domain, which come with the data.
    """

    name: ClassVar[str]
    gaussian: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    closed_kl: ClassVar[bool] = True
    density: ClassVar[bool] = True
    resolved: ClassVar[bool] = True
    nodes: ClassVar[int] = 48
    learned: ClassVar[bool] = False
    posteriors: ClassVar[bool] = False
    encoder: ClassVar[str | None] = None
    images: ClassVar[bool] = False

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
        """One member's constant tensors, float32."""

    def initial(self, latent_dim: int, pixels: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Where its learned parameters start; none for most."""
        return {}

    def tensors(self, fixed: Parameters, learned: Parameters, encode: Encode) -> Parameters:
        """What the other methods take, from `parameters`, the learned ones and the encoder."""
        return fixed

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


class _GaussianMixture(Prior):
    """Equal Gaussians with diagonal covariances: tensors ``means`` and ``scale``, (k, d) each."""

    closed_kl: ClassVar[bool] = False
    components: int

    def noise(self, count: int, latent_dim: int, generator: torch.Generator) -> Tensor:
        normal = torch.randn(count, latent_dim, generator=generator, device=generator.device)
        return torch.cat([_open_uniform((count, 1), generator), normal], -1)

    def sample(self, parameters: Parameters, noise: Tensor) -> Tensor:
        index = (noise[:, 0] * self.components).long().clamp(max=self.components - 1)
        return parameters["means"][index] + parameters["scale"][index] * noise[:, 1:]

    def marginal(self, parameters: Parameters) -> Distribution:
        means, scale = parameters["means"].T, parameters["scale"].T
        return MixtureSameFamily(_equal(means), Normal(means, scale, validate_args=False), validate_args=False)

    def log_prob(self, parameters: Parameters, z: Tensor) -> Tensor:
        means, scale = parameters["means"], parameters["scale"]
        components = Independent(Normal(means, scale, validate_args=False), 1)
        mixture = MixtureSameFamily(_equal(means[:, 0]), components, validate_args=False)
        result: Tensor = mixture.log_prob(z)
        return result

    def entropy(self, parameters: Parameters) -> Tensor | None:
        return None

    def extent(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        reach = 8.5 * parameters["scale"]
        return (parameters["means"] - reach).amin(0), (parameters["means"] + reach).amax(0)


def _equal(like: Tensor) -> _Categorical:
    return _Categorical(logits=torch.zeros_like(like), validate_args=False)


def _whole(prior: Prior, *names: str) -> None:
    for name in names:
        value = getattr(prior, name)
        if value != int(value):
            raise ValueError(f"prior.{name}={value}: {prior.name} takes a whole number")


@dataclass(frozen=True)
class MixturePrior(_GaussianMixture):
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
        _whole(self, "components")

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


@dataclass(frozen=True)
class LearnedMixturePrior(_GaussianMixture):
    """Mixture of equal Gaussians whose means and scales are learned with the model; means start at N(0, spread^2)."""

    name: ClassVar[str] = "learned_mixture"
    learned: ClassVar[bool] = True
    resolved: ClassVar[bool] = False
    components: int = 10
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self, "components")

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        return {"spread": torch.tensor(self.spread)}

    def initial(self, latent_dim: int, pixels: int, generator: torch.Generator) -> dict[str, Tensor]:
        means = torch.randn(self.components, latent_dim, generator=generator, device=generator.device)
        return {"means": means, "log_scale": torch.zeros_like(means)}

    def tensors(self, fixed: Parameters, learned: Parameters, encode: Encode) -> Parameters:
        return {"means": fixed["spread"] * learned["means"], "scale": learned["log_scale"].exp()}


@dataclass(frozen=True)
class VampPrior(_GaussianMixture):
    """Mixture of the posteriors of learned pseudo-inputs u_k: p(z) = (1/K) sum q(z|u_k), pixels within [0, 1].

    Source: Tomczak & Welling 2018, eq. 9 (500 pseudo-inputs there).
    """

    name: ClassVar[str] = "vamp"
    learned: ClassVar[bool] = True
    resolved: ClassVar[bool] = False
    posteriors: ClassVar[bool] = True
    components: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self, "components")

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        return {}

    def initial(self, latent_dim: int, pixels: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"inputs": torch.randn(self.components, pixels, generator=generator, device=generator.device)}

    def tensors(self, fixed: Parameters, learned: Parameters, encode: Encode) -> Parameters:
        means, scale = encode(learned["inputs"].sigmoid())
        return {"means": means, "scale": scale}


class _NoDensity(Prior):
    """Codes that are drawn and have no density over R^d."""

    density: ClassVar[bool] = False
    closed_kl: ClassVar[bool] = False
    resolved: ClassVar[bool] = False

    def marginal(self, parameters: Parameters) -> Distribution:
        raise ValueError(f"prior {self.name}: it has no density")

    def extent(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        raise ValueError(f"prior {self.name}: it has no density")

    def log_prob(self, parameters: Parameters, z: Tensor) -> Tensor:
        raise ValueError(f"prior {self.name}: it has no density")


@dataclass(frozen=True)
class InfoganCodePrior(_NoDensity):
    """One-hot of equal ``categories``, ``continuous`` uniform codes on [-1, 1], the rest uniform noise without a code.

    Its entropy is that of the code (categorical: discrete, continuous: differential), so that ``mi_p`` bounds I_p(x, c)
    and not I_p(x, z). Source: Chen et al. 2016, section 7 (10, 2 and 62 of noise).
    """

    name: ClassVar[str] = "infogan_code"
    encoder: ClassVar[str | None] = "code"
    categories: int = 10
    continuous: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self, "categories", "continuous")

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        if latent_dim < self.categories + self.continuous:
            raise ValueError(
                f"latent_dim={latent_dim}: the code alone has {self.categories} + {self.continuous} dimensions"
            )
        variance = torch.full((latent_dim,), 1 / 3)
        variance[: self.categories] = (1 - 1 / self.categories) / self.categories
        return {"variance": variance}

    def sample(self, parameters: Parameters, noise: Tensor) -> Tensor:
        index = (noise[:, 0] * self.categories).long().clamp(max=self.categories - 1)
        choice = (index[:, None] == torch.arange(self.categories, device=noise.device)).to(noise.dtype)
        return torch.cat([choice, 2 * noise[:, self.categories :] - 1], -1)

    def entropy(self, parameters: Parameters) -> Tensor | None:
        return parameters["variance"].new_tensor(math.log(self.categories) + self.continuous * math.log(2))

    def variance(self, parameters: Parameters) -> Tensor:
        return parameters["variance"]


@dataclass(frozen=True)
class DomainPrior(_NoDensity):
    """The images of a second domain, (pixels,) in [0, 1] each, drawn with equal probability. Source: Zhu et al. 2017.

    Its images come with the data (`gimtune.data.Dataset.second`), so its tensors are made by whoever holds them.
    """

    name: ClassVar[str] = "domain"
    encoder: ClassVar[str | None] = "image"
    images: ClassVar[bool] = True

    def noise(self, count: int, latent_dim: int, generator: torch.Generator) -> Tensor:
        return _open_uniform((count, 1), generator)

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        return {"images": torch.zeros(1, latent_dim)}

    def sample(self, parameters: Parameters, noise: Tensor) -> Tensor:
        images = parameters["images"]
        return images[(noise[:, 0] * len(images)).long().clamp(max=len(images) - 1)]

    def entropy(self, parameters: Parameters) -> Tensor | None:
        return None

    def variance(self, parameters: Parameters) -> Tensor:
        return parameters["images"].var(0)


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

PRIORS: Mapping[str, type[Prior]] = {
    p.name: p
    for p in (
        *(NormalPrior, UniformPrior, LaplacePrior, MixturePrior, LearnedMixturePrior, VampPrior),
        *(InfoganCodePrior, DomainPrior),
    )
}


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
