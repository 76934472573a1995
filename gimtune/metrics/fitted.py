"""Small networks that are fitted to samples of many members at once, each by a fixed architecture and budget.

Weights stand along a first axis of members. Minibatches are the same rows for all, and what ends one member's fit is
its own score, so that a member's network does not depend on which others it was fitted with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, pad

from gimtune.algebra.seeds import generator
from gimtune.metrics.view import View
from gimtune.training import Adam, Step

_SLOPE = 0.2
#: Widths and numbers of examples are multiples of it: the last few of an array would be rounded otherwise, and so
#: depend on where a member stands.
LANES = 16
#: Numbers of samples that are worked on at a time: 256 MB.
_NUMBERS = 2**26
S = TypeVar("S", bound=tuple[Tensor, ...])
T = TypeVar("T")


@dataclass(frozen=True)
class Budget:
    """How a network is fitted.

    Attributes:
        hidden: widths of its hidden layers.
        steps: of Adam, at most; the learning rate falls to nothing over them, by half a cosine.
        batch: examples in a minibatch.
        every: steps between two looks at the held-out examples.
        patience: looks without a better one that end a fit.
    """

    hidden: tuple[int, ...]
    steps: int
    batch: int = 64
    learning_rate: float = 5e-3
    every: int = 25
    patience: int = 4


class Stack(NamedTuple):
    """Networks of M members: a matrix (M, k, h) and a bias (M, 1, h) for each layer, and a matrix around all layers."""

    matrices: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    around: Tensor

    @classmethod
    def start(cls, inputs: int, outputs: int, budget: Budget, sources: Sequence[torch.Generator]) -> Self:
        """One network for each generator, as torch's linear layers start, but with outputs that are zero."""
        matrices, biases = [], []
        for before, after in pairwise([inputs, *budget.hidden]):
            drawn = [torch.rand(before + 1, after, generator=s, device=s.device) for s in sources]
            both = (2 * torch.stack(drawn) - 1) / math.sqrt(before)
            matrices.append(both[:, :before].contiguous())
            biases.append(both[:, before:].contiguous())
        zeros = matrices[0].new_zeros(len(sources), budget.hidden[-1], outputs)
        around = matrices[0].new_zeros(len(sources), inputs, outputs)
        return cls((*matrices, zeros), (*biases, zeros[:, :1].clone()), around)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Of inputs (M, n, k): (M, n, outputs)."""
        values = inputs
        for matrix, bias in zip(self.matrices[:-1], self.biases[:-1], strict=True):
            values = leaky_relu(values @ matrix + bias, _SLOPE)
        return _product(values, self.matrices[-1]) + _product(inputs, self.around) + self.biases[-1]

    def leaves(self) -> list[Tensor]:
        """Its tensors, in the order that `of` takes."""
        return [*self.matrices, *self.biases, self.around]

    @classmethod
    def of(cls, leaves: Sequence[Tensor]) -> Self:
        """The inverse of `leaves`."""
        layers = len(leaves) // 2
        return cls(tuple(leaves[:layers]), tuple(leaves[layers:-1]), leaves[-1])

    def one(self, index: int) -> Self:
        """The network of one member, still with a first axis."""
        return self.of([leaf[index : index + 1].clone() for leaf in self.leaves()])


def _product(values: Tensor, matrix: Tensor) -> Tensor:
    # a product of a matrix and one vector rounds by where a member stands in its pack, a sum of products does not
    return (values * matrix.mT).sum(-1, keepdim=True) if matrix.shape[-1] == 1 else values @ matrix


def fit(
    stack: Stack,
    loss: Callable[..., Tensor],
    examples: Callable[[int], tuple[Tensor, ...]],
    score: Callable[[Stack], Tensor],
    budget: Budget,
    recorded: Step,
) -> tuple[Stack, Tensor]:
    """Each member's network that scores lowest, out of those at the start and at every look; and its score, (M,).

    Args:
        loss: of the networks on what ``examples`` gives, (M,); it reads no other tensor.
        examples: the minibatch of a step.
        score: of the networks on held-out examples, (M,).
        recorded: steps down this loss, for all fits of a process: from the second on, most are replays alone.
    """
    moving = [leaf.clone().requires_grad_() for leaf in stack.leaves()]

    def slopes() -> tuple[Tensor, ...]:
        with torch.enable_grad():
            total = loss(Stack.of(moving), *given).sum()
        return optimiser.gradients(total)

    optimiser = Adam(moving, budget.learning_rate)
    best, lowest = stack.leaves(), score(stack)
    waited = torch.zeros_like(lowest)
    for step in range(budget.steps):
        scale = 0.5 * (1 + math.cos(math.pi * step / budget.steps))
        given = examples(step)
        optimiser.descend(recorded(slopes, [*given, *moving]), scale)
        if (step + 1) % budget.every:
            continue
        leaves = [leaf.detach() for leaf in moving]
        value = score(Stack.of(leaves))
        better = (value < lowest) & (waited < budget.patience)
        lowest = torch.where(better, value, lowest)
        best = [torch.where(better[:, None, None], new, old) for new, old in zip(leaves, best, strict=True)]
        waited = torch.where(better, torch.zeros_like(waited), waited + 1)
        if bool((waited >= budget.patience).all()):
            break
    return Stack.of(best), lowest


def in_parts(
    views: Sequence[View],
    sampled: Callable[[View], S],
    fitted: Callable[[Sequence[View], Sequence[S]], Sequence[T]],
) -> list[T | str]:
    """What is fitted to samples of each member, to as many at a time as memory holds; or why it is not."""
    found: list[T | str] = ["samples are not finite"] * len(views)
    rest = list(enumerate(views))
    while rest:
        some: list[tuple[int, S]] = []
        numbers = 0
        while rest and numbers < _NUMBERS:
            i, view = rest.pop(0)
            samples = sampled(view)
            if finite(*samples):
                some.append((i, samples))
                numbers += sum(part.numel() for part in samples)
        if some:
            made = fitted([views[i] for i, _ in some], [samples for _, samples in some])
            for (i, _), one in zip(some, made, strict=True):
                found[i] = one
    return found


def minibatches(count: int, budget: Budget, key: str, device: torch.device) -> list[Tensor]:
    """The rows of each step's minibatch out of so many examples, (batch,) each: the same for every member."""
    source = generator(torch.device("cpu"), "fitted", key)
    rows: list[Tensor] = []
    while len(rows) < budget.steps:
        order = torch.randperm(count, generator=source).repeat(-(-budget.batch // count))
        rows += order[: len(order) - len(order) % budget.batch].split(budget.batch)
    return [part.to(device) for part in rows[: budget.steps]]


def widened(inputs: Tensor) -> Tensor:
    """Inputs (..., k) with zeros up to a multiple of `LANES`."""
    return pad(inputs, (0, -inputs.shape[-1] % LANES))


def whole(samples: Tensor) -> Tensor:
    """The first of samples (n, k), a multiple of `LANES` where there are as many."""
    return samples[: len(samples) - len(samples) % LANES] if len(samples) >= LANES else samples


def finite(*samples: Tensor) -> bool:
    """Whether all of them are, and small enough for their squares to be."""
    return all(bool((s.abs() < 1e15).all()) for s in samples)
