"""What an architecture is: a function that makes an encoder and a decoder, and the registry of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gimtune import parts

Image = tuple[int, int, int]
#: Layers whose output depends on more than their input and parameters.
_STATEFUL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU, nn.RNNBase)


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


def check(name: str, image: Image, latent_dim: int, outputs: int, given: Mapping[str, Any]) -> None:
    """Refuse an architecture, options or sizes that do not go together, by making the networks without their weights.

    Raises:
        ValueError: one line that names the option, or what is wrong with the networks.
    """
    known = parts.signature_options(NETWORKS[name], 3)
    for key, value in given.items():
        if key not in known:
            raise ValueError(f"network.{key}={value}: {name} takes {', '.join(known) or 'no options'}")
    for key, parameter in known.items():
        if key not in given and parameter.default is parameter.empty:
            raise ValueError(f"network.{key}: missing; {name} takes {', '.join(known)}")
    try:
        made = NETWORKS[name](image, latent_dim, outputs, **given)
    except MemoryError:
        raise
    except Exception as error:  # whatever somebody's own architecture raises
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if text.startswith("network."):
            raise ValueError(text) from None
        stated = "".join(f" network.{key}={value}" for key, value in given.items())
        raise ValueError(f"network={name}{stated}: {text}") from None
    if not isinstance(made, Networks):
        raise ValueError(f"network={name}: it makes {type(made).__name__}; it should make Networks(encoder, decoder)")
    for role, module, takes, gives in (
        ("encoder", made.encoder, image, (outputs,)),
        ("decoder", made.decoder, (latent_dim,), image),
    ):
        refusal = _refusal(module) or _misshapen(module, takes, gives)
        if refusal:
            raise ValueError(f"network={name}: its {role} {refusal}")


def _refusal(module: nn.Module) -> str | None:
    for path, layer in module.named_modules():
        if isinstance(layer, _STATEFUL) or list(layer.buffers(recurse=False)):
            where = f" ({path})" if path else ""
            return (
                f"has a {type(layer).__name__}{where}: a network that is mapped over members keeps no state between "
                "batches and does the same in training and evaluation; GroupNorm and LayerNorm do"
            )
    return None


def _misshapen(module: nn.Module, takes: tuple[int, ...], gives: tuple[int, ...]) -> str | None:
    # zeros that take no memory; on meta, layers would be taken apart by the compiler, whose import takes a second
    values = {name: torch.zeros((), dtype=p.dtype).expand(p.shape) for name, p in module.named_parameters()}
    try:
        with torch.no_grad():
            output: Tensor = functional_call(module, values, (torch.zeros(2, *takes),))
    except MemoryError:
        raise
    except Exception as error:  # the same
        return f"does not take {takes}: {type(error).__name__}: {error}".splitlines()[0]
    if not isinstance(output, Tensor):
        return f"makes {type(output).__name__}; it should make a tensor {gives}"
    if tuple(output.shape) != (2, *gives):
        return f"makes {tuple(output.shape[1:])} of {takes}; it should make {gives} ({math.prod(gives)} values)"
    return None
