"""Adam on stacked parameters, by torch's functional form.

The class `torch.optim.Adam` imports the compiler at its first use, which costs every worker three seconds; and members
that leave a stack take their moments with them, which is a line here and surgery on a state dict there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

_BETA2, _EPSILON = 0.999, 1e-8
#: Numbers in the widest vector of a processor (AVX-512).
_LANES = 16


@dataclass
class Adam:
    """Kingma & Ba 2015, fused; epsilon and the second moment's decay as torch has them.

    Args:
        parameters: changed in place by `step`.
        stacked: along the first axis stand members, whose numbers must not depend on one another.
    """

    parameters: Sequence[Tensor]
    learning_rate: float
    beta1: float = 0.9
    stacked: bool = True
    first: list[Tensor] = field(default_factory=list)
    second: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.first:
            self.first = [torch.zeros_like(p) for p in self.parameters]
            self.second = [torch.zeros_like(p) for p in self.parameters]
            self.steps = [torch.zeros((), device=p.device) for p in self.parameters]

    @torch.no_grad()
    def step(self, loss: Tensor, learning_rate: float | None = None) -> None:
        """One step down the gradient of a scalar; what it does not depend on stays where it is."""
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss, list(self.parameters), materialize_grads=True)
        # vmap returns transposed gradients, and the fused kernel walks both by storage order
        gradients = tuple(gradient.contiguous() for gradient in gradients)
        rate = self.learning_rate if learning_rate is None else learning_rate
        # the kernel rounds otherwise where the last few of an array do not fill the processor's vectors: a member's
        # numbers would depend on where it stands in its stack
        odd = [self.stacked and p.device.type == "cpu" and p[:1].numel() % _LANES > 0 for p in self.parameters]
        for i in (i for i, plain in enumerate(odd) if plain):
            self._plain(i, gradients[i], rate)
        fused = [i for i, plain in enumerate(odd) if not plain]
        if not fused:
            return
        adam(
            [self.parameters[i] for i in fused],
            [gradients[i] for i in fused],
            [self.first[i] for i in fused],
            [self.second[i] for i in fused],
            [],
            [self.steps[i] for i in fused],
            fused=True,
            amsgrad=False,
            beta1=self.beta1,
            beta2=_BETA2,
            lr=rate,
            weight_decay=0.0,
            eps=_EPSILON,
            maximize=False,
        )

    def _plain(self, i: int, gradient: Tensor, rate: float) -> None:
        """The same by operations that are rounded once each, wherever an element stands."""
        first, second = self.first[i], self.second[i]
        self.steps[i] += 1
        count = self.steps[i].item()
        first.mul_(self.beta1).add_(gradient * (1 - self.beta1))
        second.mul_(_BETA2).add_(gradient.square() * (1 - _BETA2))
        size = (second.sqrt() / math.sqrt(1 - _BETA2**count)).add_(_EPSILON)
        self.parameters[i].sub_(first / size * (rate / (1 - self.beta1**count)))

    def moments(self, change: Callable[[Tensor], Tensor] = lambda leaf: leaf) -> dict[str, Any]:
        """The state beside the parameters, with ``change`` made to the moments: arguments of a new `Adam`."""
        return {
            "first": [change(m) for m in self.first],
            "second": [change(m) for m in self.second],
            "steps": list(self.steps),
        }
