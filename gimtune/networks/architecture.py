"""What an architecture is: a function that makes an encoder and a decoder, and the registry of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call

from gimtune import parts

Image = tuple[int, int, int]


#: By name; none has parameters.
ACTIVATIONS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "silu": nn.SiLU,
        "softplus": nn.Softplus,
        "tanh": nn.Tanh,
    }
)


class Networks(NamedTuple):
    """An encoder (n, *image) -> (n, outputs), and a decoder (n, d) -> (n, *image).

    On ``meta`` their weights are drawn by `initial`; elsewhere they start as they are made, under a seed.

    Attributes:
        critic: what a critic sees an image through, (n, *image) -> (n, k), before its dense layers; ``None`` for
            strided convolutions where the network has an option ``channels``, and else for the pixels themselves.
    """

    encoder: nn.Module
    decoder: nn.Module
    critic: nn.Module | None = None


def layers(sizes: Sequence[int], activation: type[nn.Module] = nn.ReLU) -> list[nn.Module]:
    """Fully connected layers of these widths, with activations between them."""
    found: list[nn.Module] = []
    for before, after in pairwise(sizes):
        found += [nn.Linear(before, after), activation()]
    return found[:-1]


def unweighted(module: nn.Module, takes: tuple[int, ...], count: int = 1) -> Any:
    """What a module makes of zeros, all its weights being zero, whether they are there or on ``meta``."""
    # zeros that take no memory; on meta, layers would be taken apart by the compiler, whose import takes a second
    values = {name: torch.zeros((), dtype=p.dtype).expand(p.shape) for name, p in module.named_parameters()}
    with torch.no_grad():
        return functional_call(module, values, (torch.zeros(count, *takes),))


def activated(name: str) -> type[nn.Module]:
    """An activation by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"network.activation={name}: {parts.allowed(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def stages(listed: Sequence[int], width: int | None, depth: int | None, growth: int) -> list[int]:
    """Widths of layers as ``width`` and ``depth`` say them, or else as they are listed.

    Args:
        width: of the first; by default as listed.
        depth: how many; by default as many as are listed.
        growth: factor from one to the next.

    Raises:
        ValueError: neither says it.
    """
    if width is None and depth is None:
        return list(listed)
    if not listed and (width is None or depth is None):
        missing = "width" if width is None else "depth"
        raise ValueError(f"network.{missing}: missing; without layers that are listed, both width and depth say them")
    first, count = width or listed[0], depth or len(listed)
    return [first * growth**i for i in range(count)]


def halved(key: str, image: Image, count: int, *, up: bool = False) -> list[tuple[int, int]]:
    """Heights and widths from an image's to the smallest, halved so often; an odd number is rounded.

    Raises:
        ValueError: it cannot be halved as often.
    """
    sizes = [image[1:]]
    for _ in range(count):
        if min(sizes[-1]) < 2:
            raise ValueError(f"{key}: images of {image[1]} x {image[2]} cannot be halved {count} times")
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)) if up else (sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


def _accept(function: Any) -> tuple[str, Callable[..., Networks]]:
    parts.signature_options(function, 3)
    first = [*parts.signature(function)][:3]
    if first != ["image", "latent_dim", "outputs"]:
        raise ValueError(f"it takes image, latent_dim and outputs first, and then its options; not {', '.join(first)}")
    return function.__name__, function


NETWORKS: parts.Registry[str, Callable[..., Networks]] = parts.Registry(
    "network",
    "A function (image, latent_dim, outputs, options by name) -> Networks: an encoder (n, *image) -> (n, outputs) and "
    "a decoder (n, latent_dim) -> (n, *image), and what a critic sees an image through, if it is to be told. All are "
    "mapped over members, so they have no buffers and no batch statistics, and do in training what they do in "
    "evaluation.",
    _accept,
    lambda function: parts.Facts(
        parts.summary(function), parts.as_text(parts.signature_options(function, 3)), parts.source(function)
    ),
)
