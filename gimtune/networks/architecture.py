"""What an architecture is: a function that makes an encoder and a decoder, and the registry of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from torch import nn

from gimtune import parts

Image = tuple[int, int, int]


class Networks(NamedTuple):
    """An encoder (n, *image) -> (n, outputs), and a decoder (n, d) -> (n, *image).

    On ``meta`` their weights are drawn by `initial`; elsewhere they start as they are made, under a seed.
    """

    encoder: nn.Module
    decoder: nn.Module


def layers(sizes: Sequence[int]) -> list[nn.Module]:
    """Fully connected layers of these widths, with ReLUs between them."""
    found: list[nn.Module] = []
    for before, after in pairwise(sizes):
        found += [nn.Linear(before, after), nn.ReLU()]
    return found[:-1]


def _accept(function: Any) -> tuple[str, Callable[..., Networks]]:
    parts.signature_options(function, 3)
    first = [*parts.signature(function)][:3]
    if first != ["image", "latent_dim", "outputs"]:
        raise ValueError(f"it takes image, latent_dim and outputs first, and then its options; not {', '.join(first)}")
    return function.__name__, function


NETWORKS: parts.Registry[str, Callable[..., Networks]] = parts.Registry(
    "network",
    "A function (image, latent_dim, outputs, options by name) -> Networks: an encoder (n, *image) -> (n, outputs) and "
    "a decoder (n, latent_dim) -> (n, *image). Both are mapped over members, so they have no buffers and no batch "
    "statistics, and do in training what they do in evaluation.",
    _accept,
    lambda function: parts.Facts(
        parts.summary(function), parts.as_text(parts.signature_options(function, 3)), parts.source(function)
    ),
)
