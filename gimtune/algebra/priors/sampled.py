"""Priors without a density: InfoGAN's code and the images of a second domain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from gimtune.algebra.priors.base import PRIORS, Parameters, Prior, open_uniform, whole


class NoDensity(Prior):
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


@PRIORS.register
@dataclass(frozen=True)
class InfoganCodePrior(NoDensity):
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
        whole(self, "categories", "continuous")

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


@PRIORS.register
@dataclass(frozen=True)
class DomainPrior(NoDensity):
    """The images of a second domain, (pixels,) in [0, 1] each, drawn with equal probability. Source: Zhu et al. 2017.

    Its images come with the data (`gimtune.data.Dataset.second`), so its tensors are made by whoever holds them.
    """

    name: ClassVar[str] = "domain"
    encoder: ClassVar[str | None] = "image"
    images: ClassVar[bool] = True

    def noise(self, count: int, latent_dim: int, generator: torch.Generator) -> Tensor:
        return open_uniform((count, 1), generator)

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        return {"images": torch.zeros(1, latent_dim)}

    def sample(self, parameters: Parameters, noise: Tensor) -> Tensor:
        images = parameters["images"]
        return images[(noise[:, 0] * len(images)).long().clamp(max=len(images) - 1)]

    def entropy(self, parameters: Parameters) -> Tensor | None:
        return None

    def variance(self, parameters: Parameters) -> Tensor:
        return parameters["images"].var(0)
