"""Strided convolutional encoders and decoders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from gimtune.networks.architecture import NETWORKS, Image, Networks, activated, halved, layers, stages
from gimtune.networks.critic import strided


@NETWORKS.register
def conv(
    image: Image,
    latent_dim: int,
    outputs: int,
    channels: Sequence[int],
    hidden: Sequence[int],
    width: int | None = None,
    depth: int | None = None,
    activation: str = "relu",
) -> Networks:
    """Strided 4x4 convolutions, then fully connected layers, and the mirror; images may be of odd height and width.

    ``width`` and ``depth`` say the convolutions in place of ``channels``: so many, each of twice as many as the one
    before.

    Raises:
        ValueError: the image cannot be halved as often as there are channels.
    """
    colours, own = image[0], activated(activation)
    channels = stages(channels, width, depth, 2)
    sizes = halved(f"network.depth={depth}" if depth else f"network.channels={channels}", image, len(channels))
    small = (channels[-1], *sizes[-1])
    down: list[nn.Module] = []
    up: list[nn.Module] = []
    with torch.device("meta"):
        for before, after in zip([colours, *channels], channels, strict=False):
            down += [nn.Conv2d(before, after, 4, 2, 1), own()]
        to = [*reversed(channels[:-1]), colours]
        for before, after, size in zip(reversed(channels), to, reversed(sizes[:-1]), strict=True):
            odd = (size[0] % 2, size[1] % 2)
            up += [own(), nn.ConvTranspose2d(before, after, 4, 2, 1, output_padding=odd)]
        flat = math.prod(small)
        encoder = nn.Sequential(*down, nn.Flatten(), *layers([flat, *hidden, outputs], own))
        decoder = nn.Sequential(*layers([latent_dim, *reversed(hidden), flat], own), nn.Unflatten(1, small), *up)
        critic = strided(colours, channels)
    return Networks(encoder, decoder, critic)
