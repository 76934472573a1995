"""Adam on stacked parameters, by torch's functional form.

The class `torch.optim.Adam` imports the compiler at its first use, which costs every worker three seconds; and members
that leave a stack take their moments with them, which is a line here and surgery on a state dict there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam


@dataclass
class Adam:
    """Kingma & Ba 2015, fused; epsilon and the second moment's decay as torch has them.

    Args:
        parameters: changed in place by `step`.
    """

    parameters: Sequence[Tensor]
    learning_rate: float
    beta1: float = 0.9
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
        adam(
            list(self.parameters),
            list(gradients),
            self.first,
            self.second,
            [],
            self.steps,
            fused=True,
            amsgrad=False,
            beta1=self.beta1,
            beta2=0.999,
            lr=self.learning_rate if learning_rate is None else learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def moments(self, change: Callable[[Tensor], Tensor] = lambda leaf: leaf) -> dict[str, Any]:
        """The state beside the parameters, with ``change`` made to the moments: arguments of a new `Adam`."""
        return {
            "first": [change(m) for m in self.first],
            "second": [change(m) for m in self.second],
            "steps": list(self.steps),
        }
