"""What a prior is, the registry of them, and what several share.

A prior object says the family; the tensors of one member (``parameters``) are passed to every method, so that members
with different scales share one program under `torch.func.vmap`.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical as _Categorical
from torch.distributions import Distribution, Independent, MixtureSameFamily, Normal, kl_divergence

from gimtune import parts

Parameters = Mapping[str, Tensor]
#: From pseudo-inputs (n, pixels), any real values, to posterior means and standard deviations, (n, d) each. Where data
#: are images the inputs are brought to where pixels lie.
Encode = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Prior(ABC):
    """A family of priors over codes of shape (d,).

    Attributes:
        name: as in a study file.
        gaussian: it is N(0, scale^2 I).
        bounded: its support is bounded, so that the KL of a Gaussian from it is infinite.
        heavy: its tails are heavier than a Gaussian's.
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
    heavy: ClassVar[bool] = False
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
        return open_uniform((count, latent_dim), generator)

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


class GaussianMixture(Prior):
    """Equal Gaussians with diagonal covariances: tensors ``means`` and ``scale``, (k, d) each."""

    closed_kl: ClassVar[bool] = False
    components: int

    def noise(self, count: int, latent_dim: int, generator: torch.Generator) -> Tensor:
        normal = torch.randn(count, latent_dim, generator=generator, device=generator.device)
        return torch.cat([open_uniform((count, 1), generator), normal], -1)

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


def open_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    # (0, 1) without its ends, where inverse distribution functions are infinite
    tiny = 2.0**-25
    return torch.rand(shape, generator=generator, device=generator.device).clamp(tiny, 1 - 2.0**-24)


def whole(prior: Prior, *names: str) -> None:
    for name in names:
        value = getattr(prior, name)
        if value != int(value):
            raise ValueError(f"prior.{name}={value}: {prior.name} takes a whole number")


def _accept(kind: Any) -> tuple[str, type[Prior]]:
    parts.check_class(kind, Prior)
    # a subclass inherits what it was made from, and its own fields would be none
    if "__dataclass_params__" not in vars(kind):
        raise ValueError("it is no frozen dataclass, whose fields are its options")
    for field in fields(kind):
        if field.type not in ("int", "float", "str", int, float, str):
            raise ValueError(f"option {field.name} is {field.type}; an option is int, float or str")
        if field.default is dataclasses.MISSING:
            raise ValueError(f"option {field.name} has no default")
    return kind.name, kind


PRIORS: parts.Registry[str, type[Prior]] = parts.Registry(
    "prior",
    "A subclass of gimtune.algebra.priors.Prior, a frozen dataclass whose fields are its options (int, float or str, "
    "with defaults). It makes one member's constant tensors (parameters), samples codes from base noise, has marginals "
    "p(z_i) and their extent, or says that it has no density. Its methods are pure: they are mapped over members.",
    _accept,
    lambda kind: parts.Facts(
        parts.summary(kind), {f.name: f"{_type(f)} = {f.default!r}" for f in fields(kind)}, parts.source(kind)
    ),
)


def _type(field: dataclasses.Field[Any]) -> str:
    return field.type if isinstance(field.type, str) else field.type.__name__


def make_prior(name: str, **options: Any) -> Prior:
    """The prior of that name.

    Raises:
        ValueError: no such prior, an option it does not have, or a value it does not take.
    """
    if name not in PRIORS:
        raise ValueError(f"prior={name!r}: {parts.allowed(name, PRIORS)}")
    kind = PRIORS[name]
    known = {field.name: field for field in fields(kind)}
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"prior.{key}={value!r}: {name} takes {', '.join(known)}")
        wanted = _type(known[key])
        if wanted == "str":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"prior.{key}={value!r}: {name} takes a positive number")
        if wanted == "int" and not isinstance(value, int):
            raise ValueError(f"prior.{key}={value!r}: {name} takes a whole number")
        options[key] = float(value) if wanted == "float" else value
    return kind(**options)
