"""Encoders and decoders: pure modules (no buffers, no batch statistics), with weights drawn from a given generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Networks(NamedTuple):
    """An encoder (n, *image) -> (n, 2d), means and log-variances, and a decoder (n, d) -> (n, *image). On ``meta``."""

    encoder: nn.Module
    decoder: nn.Module


def _stack(sizes: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return layers[:-1]


def mlp(image: tuple[int, int, int], latent_dim: int, hidden: Sequence[int]) -> Networks:
    """Fully connected: image - hidden - 2d, and the mirror; no hidden layer gives linear maps."""
    pixels = math.prod(image)
    with torch.device("meta"):
        encoder = nn.Sequential(nn.Flatten(), *_stack([pixels, *hidden, 2 * latent_dim]))
        decoder = nn.Sequential(*_stack([latent_dim, *reversed(hidden), pixels]), nn.Unflatten(1, image))
    return Networks(encoder, decoder)


def conv(image: tuple[int, int, int], latent_dim: int, channels: Sequence[int], hidden: Sequence[int]) -> Networks:
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
        encoder = nn.Sequential(*down, nn.Flatten(), *_stack([flat, *hidden, 2 * latent_dim]))
        decoder = nn.Sequential(*_stack([latent_dim, *reversed(hidden), flat]), nn.Unflatten(1, small), *up)
    return Networks(encoder, decoder)


NETWORKS: Mapping[str, Callable[..., Networks]] = {"mlp": mlp, "conv": conv}


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
