"""Strided convolutional encoders and decoders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from gimtune.networks.architecture import NETWORKS, Image, Networks, layers


@NETWORKS.register
def conv(image: Image, latent_dim: int, outputs: int, channels: Sequence[int], hidden: Sequence[int]) -> Networks:
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
        encoder = nn.Sequential(*down, nn.Flatten(), *layers([flat, *hidden, outputs]))
        decoder = nn.Sequential(*layers([latent_dim, *reversed(hidden), flat]), nn.Unflatten(1, small), *up)
    return Networks(encoder, decoder)
