"""Adam on stacked parameters, by torch's functional form.

The class `torch.optim.Adam` imports the compiler at its first use, which costs every worker three seconds; and members
that leave a stack take their moments with them, which is a line here and surgery on a state dict there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from types import EllipsisType
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
        learning_rate: of all, or of each member.
        beta1: decay of the first moment, likewise.
        stacked: along the first axis stand members, whose numbers must not depend on one another.
    """

    parameters: Sequence[Tensor]
    learning_rate: float | Sequence[float]
    beta1: float | Sequence[float] = 0.9
    stacked: bool = True
    first: list[Tensor] = field(default_factory=list)
    second: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.first:
            self.first = [torch.zeros_like(p) for p in self.parameters]
            self.second = [torch.zeros_like(p) for p in self.parameters]
            self.steps = [torch.zeros((), device=p.device) for p in self.parameters]
        self._groups = self._alike()
        # the kernel rounds otherwise where the last few of an array do not fill the processor's vectors: a member's
        # numbers would depend on where it stands in its stack
        odd = [self.stacked and p.device.type == "cpu" and p[:1].numel() % _LANES > 0 for p in self.parameters]
        self._plain = [i for i, plain in enumerate(odd) if plain]
        self._fused = [i for i, plain in enumerate(odd) if not plain]

    def step(self, loss: Tensor, scale: float = 1.0) -> None:
        """One step down the gradient of a scalar; what it does not depend on stays where it is.

        Args:
            scale: of the learning rate, for this step.
        """
        self.descend(self.gradients(loss), scale)

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Of a scalar, by each parameter."""
        found = torch.autograd.grad(loss, list(self.parameters), materialize_grads=True)
        # vmap returns transposed gradients, and the fused kernel walks both by storage order
        return tuple(gradient.contiguous() for gradient in found)

    @torch.no_grad()
    def descend(self, gradients: Sequence[Tensor], scale: float = 1.0) -> None:
        """One step down `gradients`."""
        for i, (rows, rate, beta1) in enumerate(self._groups, 1):
            # the last of them counts the step for all
            steps = self.steps if i == len(self._groups) else [count.clone() for count in self.steps]
            kinds = self.parameters, gradients, self.first, self.second
            parts = kinds if rows is ... else [[leaf[rows] for leaf in kind] for kind in kinds]
            parameters, slopes, first, second = parts
            self._step(parameters, slopes, first, second, steps, scale * rate, beta1)

    def _alike(self) -> list[tuple[slice | EllipsisType, float, float]]:
        """Neighbours in the stack that have one learning rate and one decay: they step together."""
        if not isinstance(self.learning_rate, Sequence) and not isinstance(self.beta1, Sequence):
            return [(..., self.learning_rate, self.beta1)]
        count = len(self.parameters[0]) if self.parameters else 0
        each = [v if isinstance(v, Sequence) else [v] * count for v in (self.learning_rate, self.beta1)]
        found: list[tuple[slice | EllipsisType, float, float]] = []
        start = 0
        for (rate, beta1), group in groupby(zip(*each, strict=True)):
            stop = start + len([*group])
            found.append((slice(start, stop), rate, beta1))
            start = stop
        return found if len(found) > 1 else [(..., *found[0][1:])] if found else []

    def _step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        first: Sequence[Tensor],
        second: Sequence[Tensor],
        steps: Sequence[Tensor],
        rate: float,
        beta1: float,
    ) -> None:
        for i in self._plain:
            _plain(parameters[i], gradients[i], first[i], second[i], steps[i], rate, beta1)
        fused = self._fused
        if not fused:
            return
        adam(
            [parameters[i] for i in fused],
            [gradients[i] for i in fused],
            [first[i] for i in fused],
            [second[i] for i in fused],
            [],
            [steps[i] for i in fused],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=_BETA2,
            lr=rate,
            weight_decay=0.0,
            eps=_EPSILON,
            maximize=False,
        )

    def moments(self, change: Callable[[Tensor], Tensor] = lambda leaf: leaf) -> dict[str, Any]:
        """The state beside the parameters, with ``change`` made to the moments: arguments of a new `Adam`."""
        return {
            "first": [change(m) for m in self.first],
            "second": [change(m) for m in self.second],
            "steps": list(self.steps),
        }


def _plain(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, steps: Tensor, rate: float, beta1: float
) -> None:
    """The same by operations that are rounded once each, wherever an element stands."""
    steps += 1
    count = steps.item()
    first.mul_(beta1).add_(gradient * (1 - beta1))
    second.mul_(_BETA2).add_(gradient.square() * (1 - _BETA2))
    size = (second.sqrt() / math.sqrt(1 - _BETA2**count)).add_(_EPSILON)
    parameter.sub_(first / size * (rate / (1 - beta1**count)))
