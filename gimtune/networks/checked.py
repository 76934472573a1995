"""What is refused of an architecture, its options and sizes before anything starts, and in which words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gimtune import parts
from gimtune.networks.architecture import NETWORKS, Image, Networks, unweighted
from gimtune.networks.initialisation import initial, seeded

#: Layers whose output depends on more than their input and parameters.
_STATEFUL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU, nn.RNNBase)
_COUNT = 4
#: Outputs of the same rows among others, in float32: batch statistics change them by a tenth and more.
_ROUNDING = 1e-3


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
        made = seeded(partial(NETWORKS[name], image, latent_dim, outputs, **given), 0)
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
    roles: list[tuple[str, nn.Module, tuple[int, ...], tuple[int, ...] | None]] = [
        ("encoder", made.encoder, image, (outputs,)),
        ("decoder", made.decoder, (latent_dim,), image),
    ]
    if made.critic is not None:
        roles.append(("critic", made.critic, image, None))
    for role, module, takes, gives in roles:
        with torch.random.fork_rng(devices=[]):
            refusal = _refusal(module) or _misshapen(module, takes, gives) or _impure(module, takes)
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


def _misshapen(module: nn.Module, takes: tuple[int, ...], gives: tuple[int, ...] | None) -> str | None:
    try:
        output = unweighted(module, takes, 2)
    except MemoryError:
        raise
    except Exception as error:  # the same
        return f"does not take {takes}: {type(error).__name__}: {error}".splitlines()[0]
    if not isinstance(output, Tensor):
        return f"makes {type(output).__name__}; it should make a tensor {gives}"
    if gives is None:
        return (
            None if output.ndim == 2 and len(output) == 2 else f"makes {tuple(output.shape[1:])}; it should make (k,)"
        )
    if tuple(output.shape) != (2, *gives):
        return f"makes {tuple(output.shape[1:])} of {takes}; it should make {gives} ({math.prod(gives)} values)"
    return None


def _impure(module: nn.Module, takes: tuple[int, ...]) -> str | None:
    """What layers do not say of themselves: functions called in ``forward``, and what it remembers."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(_COUNT, *takes, generator=source)
    try:
        values = initial(module, source)
    except ValueError as error:
        return f"cannot be started: {error}"
    half = _COUNT // 2

    def output(rows: int, training: bool = True) -> Tensor:
        result: Tensor = functional_call(module.train(training), values, (x[:rows],))
        return result[:half].nan_to_num()

    try:
        with torch.no_grad():
            first, again, evaluated, alone = output(_COUNT), output(_COUNT), output(_COUNT, False), output(half)
    finally:
        module.train()
    advice = "a network that is mapped over members does the same to each image whenever it is asked"
    if not first.equal(again):
        return f"gives other numbers the second time, by dropout, noise or what it remembers; {advice}"
    if not first.equal(evaluated):
        return f"does something else in evaluation than in training; {advice}"
    if not torch.allclose(first, alone, rtol=_ROUNDING, atol=_ROUNDING * float(first.abs().max())):
        return f"gives an image other numbers among other images, by batch statistics; {advice}; GroupNorm does"
    return None
