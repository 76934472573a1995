"""A feature network that nothing has trained: random convolutions, the same for every data set of so many colours.

It needs no labels and no download. What it sees are local statistics of texture, brightness and colour: enough to tell
noise, blur and missing modes from real images, and no judge of what is depicted. Source: Naeem et al. 2020 (random
embeddings of images beside trained ones).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from gimtune.algebra.seeds import generator
from gimtune.data import Dataset
from gimtune.metrics.features import BATCH, FEATURES, FeatureSource, digest

_SIZE = (32, 32)
_WIDTHS = (32, 64, 96)
#: Training images by which features are scaled.
_SCALED_BY = 2000


class RandomNetwork(nn.Module):
    """Three strided convolutions; features are means of the last maps, each in units of its deviation over images."""

    def __init__(self, colours: int) -> None:
        super().__init__()
        source, layers, before = generator(torch.device("cpu"), "random features", colours), list[nn.Module](), colours
        for width in _WIDTHS:
            layer = nn.Conv2d(before, width, 3, stride=2, padding=1)
            with torch.no_grad():
                layer.weight.normal_(0, math.sqrt(2 / (9 * before)), generator=source)
                layer.bias.normal_(0, 0.1, generator=source)  # type: ignore[union-attr]
            layers += [layer, nn.ReLU()]
            before = width
        self.body = nn.Sequential(*layers)
        self.register_buffer("scale", torch.ones(before))
        self.name = ""

    def forward(self, images: Tensor) -> Tensor:
        resized = interpolate(
            images, _SIZE, mode="bilinear", align_corners=False, antialias=images.shape[-1] > _SIZE[1]
        )
        features: Tensor = self.body(2 * resized - 1).mean((2, 3)) / self.scale
        return features

    @torch.no_grad()
    def fitted(self, images: Tensor) -> RandomNetwork:
        """With features scaled by those of images (n, c, h, w) in [0, 1], and named after its weights."""
        features = torch.cat([self(part) for part in images.split(BATCH)])
        deviation = features.std(0)
        self.scale = torch.where(deviation > 0, deviation, 1.0)
        self.name = f"random:{digest(self.state_dict())}"
        return self.eval().requires_grad_(False)


@FEATURES.register
class RandomSource(FeatureSource):
    """Random convolutions: means of 96 maps, in units of their deviation over training images. No labels are needed.

    Source: Naeem et al. 2020.
    """

    name: ClassVar[str] = "random"

    def state(self, network: RandomNetwork) -> dict[str, Tensor]:
        return network.state_dict()

    def made(self, data: Dataset, state: Mapping[str, Tensor], device: torch.device) -> RandomNetwork:
        network = RandomNetwork(data.image[0])
        network.load_state_dict(state)
        network.name = f"random:{digest(network.state_dict())}"
        return network.eval().requires_grad_(False).to(device)

    def load(self, data: Dataset, settings: Mapping[str, Any], folder: Path, device: torch.device) -> RandomNetwork:
        images = torch.from_numpy(data.images["train"][:_SCALED_BY].copy()) / data.scale
        return RandomNetwork(data.image[0]).fitted(images).to(device)
