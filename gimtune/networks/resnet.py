"""Residual encoders and decoders, normalised by groups of channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gimtune.networks.architecture import NETWORKS, Image, Networks, activated, halved, stages

_GROUPS = 8
_SLOPE = 0.2


class Residual(nn.Module):
    """shortcut(x) + two 3x3 convolutions, each after a normalisation and an activation.

    Args:
        before, after: channels.
        stride: 2 halves height and width, of which odd ones are rounded up.
        normalised: without, for critics: they are taken apart by their slope at single images.

    Source: He et al. 2016 (with activations first, as they have it later); Wu & He 2018 (normalisation by groups).
    """

    def __init__(
        self, before: int, after: int, activation: type[nn.Module], stride: int = 1, normalised: bool = True
    ) -> None:
        super().__init__()

        def norm(channels: int) -> list[nn.Module]:
            return [groups(channels)] if normalised else []

        self.body = nn.Sequential(
            *norm(before),
            activation(),
            nn.Conv2d(before, after, 3, stride, 1),
            *norm(after),
            activation(),
            nn.Conv2d(after, after, 3, 1, 1),
        )
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.shortcut(x) + self.body(x)
        return result


class _Head(nn.Linear):
    """Starts small: what it reads is of a deviation of one, and a posterior is to start as wide as a study says."""

    start = 0.1

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(self.start)


def groups(channels: int) -> nn.GroupNorm:
    """A normalisation by eight groups of channels, or as many as they can be parted into."""
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)


def _down(
    colours: int, channels: Sequence[int], blocks: int, act: type[nn.Module], normalised: bool
) -> list[nn.Module]:
    found: list[nn.Module] = [nn.Conv2d(colours, channels[0], 3, 1, 1)]
    for before, after in zip([channels[0], *channels], channels, strict=False):
        found.append(Residual(before, after, act, 2, normalised))
        found += [Residual(after, after, act, 1, normalised) for _ in range(blocks - 1)]
    return found


@NETWORKS.register
def resnet(
    image: Image,
    latent_dim: int,
    outputs: int,
    channels: Sequence[int],
    width: int | None = None,
    depth: int | None = None,
    blocks: int = 1,
    activation: str = "relu",
) -> Networks:
    """Residual blocks with group normalisation, halved once for each of ``channels``, and the mirror; any size, colour.

    ``blocks`` of them stand at each size. ``width`` and ``depth`` say the channels in place of ``channels``: so many
    sizes, each with twice as many as the one before. A critic sees images through the same blocks, not normalised.

    Raises:
        ValueError: the image cannot be halved as often as there are channels.

    Source: He et al. 2016; Wu & He 2018.
    """
    if not isinstance(blocks, int) or not 1 <= blocks <= 100:
        raise ValueError(f"network.blocks={blocks}: a whole number from 1 to 100")
    colours, own = image[0], activated(activation)
    channels = stages(channels, width, depth, 2)
    if not channels:
        raise ValueError("network.channels=[]: one or more")
    sizes = halved(f"network.depth={depth}" if depth else f"network.channels={channels}", image, len(channels), up=True)
    small = (channels[-1], *sizes[-1])
    with torch.device("meta"):
        down = _down(colours, channels, blocks, own, True)
        up: list[nn.Module] = []
        for before, after, size in zip(
            reversed(channels), [*reversed(channels[:-1]), channels[0]], reversed(sizes[:-1]), strict=True
        ):
            up += [Residual(before, before, own) for _ in range(blocks - 1)]
            up += [nn.Upsample(size), Residual(before, after, own)]
        flat = math.prod(small)
        encoder = nn.Sequential(*down, groups(channels[-1]), own(), nn.Flatten(), _Head(flat, outputs))
        decoder = nn.Sequential(
            nn.Linear(latent_dim, flat),
            nn.Unflatten(1, small),
            *up,
            groups(channels[0]),
            own(),
            nn.Conv2d(channels[0], colours, 3, 1, 1),
        )
        seen = _down(colours, channels, blocks, _Leaky, False)
        critic = nn.Sequential(*seen, _Leaky(), nn.Flatten())
    return Networks(encoder, decoder, critic)


class _Leaky(nn.LeakyReLU):
    """As critics have it."""

    def __init__(self) -> None:
        super().__init__(_SLOPE)
