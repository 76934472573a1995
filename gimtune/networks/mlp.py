"""Fully connected encoders and decoders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from gimtune.networks.architecture import NETWORKS, Image, Networks, layers


@NETWORKS.register
def mlp(image: Image, latent_dim: int, outputs: int, hidden: Sequence[int]) -> Networks:
    """Fully connected: image - hidden - outputs, and codes - hidden - image; no hidden layer gives linear maps."""
    pixels = math.prod(image)
    with torch.device("meta"):
        encoder = nn.Sequential(nn.Flatten(), *layers([pixels, *hidden, outputs]))
        decoder = nn.Sequential(*layers([latent_dim, *reversed(hidden), pixels]), nn.Unflatten(1, image))
    return Networks(encoder, decoder)
