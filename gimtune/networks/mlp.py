"""Fully connected encoders and decoders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from gimtune.networks.architecture import NETWORKS, Image, Networks, activated, layers, stages


@NETWORKS.register
def mlp(
    image: Image,
    latent_dim: int,
    outputs: int,
    hidden: Sequence[int],
    width: int | None = None,
    depth: int | None = None,
    activation: str = "relu",
) -> Networks:
    """Fully connected: image - hidden - outputs, and codes - hidden - image; no hidden layer gives linear maps.

    ``width`` and ``depth`` say the layers in place of ``hidden``: so many of one width.
    """
    pixels, between, own = math.prod(image), stages(hidden, width, depth, 1), activated(activation)
    with torch.device("meta"):
        encoder = nn.Sequential(nn.Flatten(), *layers([pixels, *between, outputs], own))
        decoder = nn.Sequential(*layers([latent_dim, *reversed(between), pixels], own), nn.Unflatten(1, image))
    return Networks(encoder, decoder)
