"""The network of a critic, and spectral normalisation of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from gimtune.networks.architecture import unweighted

_SLOPE = 0.2


class CriticNetwork(nn.Module):
    """From an image, a code or both, flattened and side by side (n, pixels + codes), to one logit (n,).

    Images go through the body of the network first, where it has one, or through strided convolutions, where there are
    channels; codes join before the dense layers. No batch statistics (Keras-GAN issue 35: with them a critic of codes
    does not learn). On ``meta``, but for a body that is not.
    """

    def __init__(
        self,
        image: tuple[int, int, int] | None,
        codes: int,
        hidden: Sequence[int],
        channels: Sequence[int] = (),
        body: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.pixels, width = 0, codes
        convolutions: list[nn.Module] = []
        with torch.device("meta"):
            if image:
                self.pixels = math.prod(image)
                width += self.pixels
                if channels and body is None:
                    body = strided(image[0], channels)
                if body is not None:
                    layers = body if isinstance(body, nn.Sequential) else [body]
                    convolutions += [nn.Unflatten(1, image), *layers]
                    width = codes + unweighted(body, image).shape[1]
            self.convolutions = nn.Sequential(*convolutions)
            dense: list[nn.Module] = []
            for before, after in pairwise([width, *hidden]):
                dense += [nn.Linear(before, after), nn.LeakyReLU(_SLOPE)]
            self.dense = nn.Sequential(*dense)
            self.head = nn.Linear(hidden[-1], 1)

    def forward(self, inputs: Tensor, features: bool = False) -> Tensor:
        """Logits, or an image's features (n, k): after the convolutions, or without them after the first layer."""
        image, codes = inputs[:, : self.pixels], inputs[:, self.pixels :]
        seen = self.convolutions(image)
        if features:
            return seen if len(self.convolutions) else self.dense[:2](seen)
        values: Tensor = self.dense(torch.cat([seen, codes], -1))
        # a product of a matrix and one vector rounds by where a member stands in its pack, a sum of products does not
        return (values * self.head.weight[0]).sum(-1) + self.head.bias


def strided(colours: int, channels: Sequence[int]) -> nn.Sequential:
    """Strided 4x4 convolutions from an image (n, *image) to features (n, k)."""
    found: list[nn.Module] = []
    for before, after in zip([colours, *channels], channels, strict=False):
        found += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*found, nn.Flatten())


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
