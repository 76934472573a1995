"""Priors that are trained with the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gimtune.algebra.priors.base import PRIORS, Encode, GaussianMixture, Parameters, whole


@PRIORS.register
@dataclass(frozen=True)
class LearnedMixturePrior(GaussianMixture):
    """Mixture of equal Gaussians whose means and scales are learned with the model; means start at N(0, spread^2)."""

    name: ClassVar[str] = "learned_mixture"
    learned: ClassVar[bool] = True
    resolved: ClassVar[bool] = False
    components: int = 10
    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "components")

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        return {"spread": torch.tensor(self.spread)}

    def initial(self, latent_dim: int, pixels: int, generator: torch.Generator) -> dict[str, Tensor]:
        means = torch.randn(self.components, latent_dim, generator=generator, device=generator.device)
        return {"means": means, "log_scale": torch.zeros_like(means)}

    def tensors(self, fixed: Parameters, learned: Parameters, encode: Encode) -> Parameters:
        return {"means": fixed["spread"] * learned["means"], "scale": learned["log_scale"].exp()}


@PRIORS.register
@dataclass(frozen=True)
class VampPrior(GaussianMixture):
    """Mixture of the posteriors of learned pseudo-inputs u_k: p(z) = (1/K) sum q(z|u_k).

    Source: Tomczak & Welling 2018, eq. 9 (500 pseudo-inputs there).
    """

    name: ClassVar[str] = "vamp"
    learned: ClassVar[bool] = True
    resolved: ClassVar[bool] = False
    posteriors: ClassVar[bool] = True
    components: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "components")

    def parameters(self, latent_dim: int) -> dict[str, Tensor]:
        return {}

    def initial(self, latent_dim: int, pixels: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"inputs": torch.randn(self.components, pixels, generator=generator, device=generator.device)}

    def tensors(self, fixed: Parameters, learned: Parameters, encode: Encode) -> Parameters:
        means, scale = encode(learned["inputs"])
        return {"means": means, "scale": scale}
