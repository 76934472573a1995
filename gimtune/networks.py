"""Encoders and decoders: pure modules (no buffers, no batch statistics), with weights drawn from a given generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

_SLOPE = 0.2


class Networks(NamedTuple):
    """An encoder (n, *image) -> (n, outputs), and a decoder (n, d) -> (n, *image). On ``meta``."""

    encoder: nn.Module
    decoder: nn.Module


def _stack(sizes: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]


def mlp(image: tuple[int, int, int], latent_dim: int, outputs: int, hidden: Sequence[int]) -> Networks:
    """Fully connected: image - hidden - outputs, and codes - hidden - image; no hidden layer gives linear maps."""
    pixels = math.prod(image)
    with torch.device("meta"):
        encoder = nn.Sequential(nn.Flatten(), *_stack([pixels, *hidden, outputs]))
        decoder = nn.Sequential(*_stack([latent_dim, *reversed(hidden), pixels]), nn.Unflatten(1, image))
    return Networks(encoder, decoder)


def conv(
    image: tuple[int, int, int], latent_dim: int, outputs: int, channels: Sequence[int], hidden: Sequence[int]
) -> Networks:
    """Strided 4x4 convolutions, then fully connected layers, and the mirror.

    Raises:
        ValueError: the image cannot be halved as often as there are channels.
    """
    colours, height, width = image
    steps = 2 ** len(channels)
    if height % steps or width % steps:
        raise ValueError(
            f"network.channels={list(channels)}: images of {height} x {width} cannot be halved {len(channels)} times"
        )
    small = (channels[-1], height // steps, width // steps)
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    with torch.device("meta"):
        for before, after in zip([colours, *channels], channels, strict=False):
            down += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()]
        for before, after in zip(reversed(channels), [*reversed(channels[:-1]), colours], strict=True):
            up += [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
        flat = math.prod(small)
        encoder = nn.Sequential(*down, nn.Flatten(), *_stack([flat, *hidden, outputs]))
        decoder = nn.Sequential(*_stack([latent_dim, *reversed(hidden), flat]), nn.Unflatten(1, small), *up)
    return Networks(encoder, decoder)


NETWORKS: Mapping[str, Callable[..., Networks]] = {"mlp": mlp, "conv": conv}


class CriticNetwork(nn.Module):
    """From an image, a code or both, flattened and side by side (n, pixels + codes), to one logit (n,).

    Images go through the strided convolutions first, where there are channels; codes join before the dense layers. No
    batch statistics (Keras-GAN issue 35: with them a critic of codes does not learn). On ``meta``.
    """

    def __init__(
        self, image: tuple[int, int, int] | None, codes: int, hidden: Sequence[int], channels: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.pixels, width = 0, codes
        convolutions: list[nn.Module] = []
        with torch.device("meta"):
            if image:
                self.pixels = math.prod(image)
                width += self.pixels
                if channels:
                    convolutions.append(nn.Unflatten(1, image))
                    for before, after in zip([image[0], *channels], channels, strict=False):
                        convolutions += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(_SLOPE)]
                    convolutions.append(nn.Flatten())
                    width = codes + channels[-1] * self.pixels // image[0] // 4 ** len(channels)
            self.convolutions = nn.Sequential(*convolutions)
            dense: list[nn.Module] = []
            for before, after in pairwise([width, *hidden]):
                dense += [nn.Linear(before, after), nn.LeakyReLU(_SLOPE)]
            self.dense = nn.Sequential(*dense)
            self.head = nn.Linear(hidden[-1], 1)

    def forward(self, inputs: Tensor, features: bool = False) -> Tensor:
        """Logits, or the last hidden layer's values (n, hidden[-1])."""
        image, codes = inputs[:, : self.pixels], inputs[:, self.pixels :]
        values: Tensor = self.dense(torch.cat([self.convolutions(image), codes], -1))
        if features:
            return values
        # a product of a matrix and one vector rounds by where a member stands in its pack, a sum of products does not
        return (values * self.head.weight[0]).sum(-1) + self.head.bias


def normalised(parameters: Mapping[str, Tensor], iterations: int = 10) -> dict[str, Tensor]:
    """Spectral normalisation: every matrix divided by its largest singular value, by power iteration.

    It starts from the same vector each time and keeps no state, so that it can be mapped; ten iterations find the value
    to a per cent on average, and to 13 at worst of those seen (it is approached from below). Source: Miyato et al.
    2018, alg. 1.
    """
    return {name: value / _norm(value, iterations) if value.ndim > 1 else value for name, value in parameters.items()}


def _norm(weight: Tensor, iterations: int) -> Tensor:
    matrix = weight.flatten(1)
    with torch.no_grad():
        # not constant: such a vector may be orthogonal to the leading one
        right = torch.arange(1, matrix.shape[1] + 1, device=weight.device, dtype=weight.dtype).sin()
        for _ in range(iterations):
            left = torch.nn.functional.normalize(matrix @ right, dim=0)
            right = torch.nn.functional.normalize(matrix.T @ left, dim=0)
    return torch.dot(left, matrix @ right)


def initial(module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of a module as torch draws them by default (He et al. 2015, a = sqrt 5), but from ``generator``."""
    values: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        owner = module.get_submodule(name.rpartition(".")[0])
        weight = owner.weight
        assert isinstance(weight, Tensor)
        fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weight)
        bound = 1 / math.sqrt(fan_in)
        value = torch.empty(parameter.shape, device=generator.device)
        values[name] = value.uniform_(-bound, bound, generator=generator)
    return values
