"""Where weights start: drawn from a member's own generator, so that they depend on nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gimtune.networks.architecture import Networks

_NORMS = (nn.GroupNorm, nn.LayerNorm)


def initial(module: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of a module: on ``meta`` drawn from ``generator``, elsewhere as they are.

    Drawn as torch does it by default: uniform for layers with weights (He et al. 2015, a = sqrt 5), times the layer's
    ``start`` where it has one, ones and zeros for the gains and shifts of normalisations.

    Raises:
        ValueError: a parameter on ``meta`` of another kind: only the module itself knows where it starts.
    """
    values: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if not parameter.is_meta:
            values[name] = parameter.detach().clone().to(generator.device)
            continue
        owner = module.get_submodule(name.rpartition(".")[0])
        value = torch.empty(parameter.shape, device=generator.device)
        if isinstance(owner, _NORMS):
            values[name] = value.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        weight = getattr(owner, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            raise ValueError(f"{name} of {type(owner).__name__} is on meta, and it is not known where it starts")
        fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weight)
        bound = getattr(owner, "start", 1.0) / math.sqrt(fan_in)
        values[name] = value.uniform_(-bound, bound, generator=generator)
    return values


def seeded(make: Callable[[], Networks], seed: int) -> Networks:
    """Networks that draw their own weights, from a seed and without a trace in torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
