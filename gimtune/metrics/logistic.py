"""Multinomial logistic regression by Newton's method, many fits at once. float64."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import one_hot

#: Of the gradient of the mean loss, the largest component that is left.
TOLERANCE = 1e-7
_STEPS, _HALVINGS = 100, 30
_ROWS = 512
#: Coefficients from which second derivatives cost more on a CPU than the steps that they save.
_MANY = 200


class Logistic(NamedTuple):
    """Linear classifiers of B fits: logits of class c are ``codes @ slopes[..., c] + intercepts[..., c]``.

    Attributes:
        slopes: (B, d, classes).
        intercepts: (B, classes).
    """

    slopes: Tensor
    intercepts: Tensor

    @classmethod
    def zero(cls, codes: Tensor, classes: int) -> Self:
        """Where a fit to codes (B, n, d) starts that knows no better."""
        fits, _, dims = codes.shape
        return cls(codes.new_zeros(fits, dims, classes), codes.new_zeros(fits, classes))

    def logits(self, codes: Tensor) -> Tensor:
        """Of codes (B, n, d): (B, n, classes)."""
        return torch.baddbmm(self.intercepts[:, None], codes, self.slopes)

    def predicted(self, codes: Tensor) -> Tensor:
        """Most probable class of codes (B, n, d): (B, n)."""
        return self.logits(codes).argmax(-1)

    def one(self, index: int, times: int) -> Self:
        """A fit, several times over."""
        return type(self)(*(part[index].expand(times, *part[index].shape) for part in self))


def fit(codes: Tensor, labels: Tensor, strengths: Tensor, start: Logistic) -> Logistic:
    """The classifiers whose sum of losses times their strength, and half of the squared slopes, are least.

    What is minimised is scikit-learn's `LogisticRegression(C=strength)`, to a gradient of 1e-7 of the mean loss. Of few
    coefficients by Newton's method, halving steps that lead uphill; of many by scikit-learn, one after the other.

    Args:
        codes: (B, n, d).
        labels: 0 to classes - 1, (n,), the same for all.
        strengths: inverse regularisation strengths, (B,).
        start: of B fits.
    """
    if codes.device.type == "cpu" and (codes.shape[2] + 1) * start.intercepts.shape[1] > _MANY:
        return _quasi_newton(codes, labels, strengths, start)
    ridge = 1 / (strengths * codes.shape[1])
    wide = torch.cat([codes, torch.ones_like(codes[:, :, :1])], 2)
    target = one_hot(labels, start.intercepts.shape[1]).to(codes)
    found = torch.cat([start.slopes, start.intercepts[:, None]], 1)
    # those that have not come to their end
    left, solution = torch.arange(len(codes), device=codes.device), found.clone()
    value, chance = _value(wide, target, ridge, solution)
    for _ in range(_STEPS):
        gradient = wide.mT @ (chance - target) / codes.shape[1]
        gradient[:, :-1] += ridge[:, None, None] * solution[:, :-1]
        steep = gradient.abs().amax((1, 2)) >= TOLERANCE
        found[left] = solution
        if not bool(steep.all()):
            if not bool(steep.any()):
                break
            left, solution, value, chance = left[steep], solution[steep], value[steep], chance[steep]
            gradient, wide, ridge = gradient[steep], wide[steep], ridge[steep]
        step = _newton(wide, chance, ridge, gradient)
        slope = (gradient * step).sum((1, 2))
        length = torch.ones_like(value)
        for _ in range(_HALVINGS):
            tried = solution - length[:, None, None] * step
            lower, chance = _value(wide, target, ridge, tried)
            # at the optimum a step gains less than rounding
            uphill = lower > value - 1e-4 * length * slope + 1e-12
            if not bool(uphill.any()):
                break
            length = torch.where(uphill, 0.5 * length, length)
        solution, value = tried, lower
    return Logistic(found[:, :-1], found[:, -1])


def _value(wide: Tensor, target: Tensor, ridge: Tensor, solution: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss with its regularisation, (B,), and probabilities of the classes, (B, n, classes)."""
    logits = wide @ solution
    logits = logits - logits.amax(2, keepdim=True)
    chance = logits.exp()
    total = chance.sum(2, keepdim=True)
    loss = (total.log()[..., 0] - (logits * target).sum(2)).mean(1)
    return loss + 0.5 * ridge * solution[:, :-1].square().sum((1, 2)), chance / total


def _newton(wide: Tensor, chance: Tensor, ridge: Tensor, gradient: Tensor) -> Tensor:
    """The inverse of the second derivatives times the gradient, (B, d + 1, classes).

    Products are of float32: their rounding costs a step at most, since the gradient has none of it.
    """
    fits, count, dims = wide.shape
    classes = chance.shape[2]
    second = wide.new_zeros(fits, classes * dims, classes * dims)
    own = wide.new_zeros(fits, classes * dims, dims)
    # as many rows as stay in a processor's cache
    for z, share in zip(wide.float().split(_ROWS, 1), chance.float().split(_ROWS, 1), strict=True):
        weighted = share[..., None] * z[:, :, None]
        # what a class has in common with itself apart: its share is near one where the difference to it matters
        own += (weighted * (1 - share[..., None])).flatten(2).mT @ z
        second -= weighted.flatten(2).mT @ weighted.flatten(2)
    second = second.unflatten(1, (classes, dims)).unflatten(3, (classes, dims))
    index = torch.arange(classes, device=wide.device)
    second[:, index, :, index] = own.unflatten(1, (classes, dims)).transpose(0, 1)
    second = second.flatten(3).flatten(1, 2) / count
    slopes = torch.ones(classes, dims, dtype=wide.dtype, device=wide.device)
    slopes[:, -1] = 0
    second.diagonal(dim1=1, dim2=2).add_(ridge[:, None] * slopes.flatten())
    # all intercepts together may be moved without a trace
    free = (1 - slopes).flatten() / classes
    second = second + free.outer(free)
    step = torch.linalg.solve(second, gradient.mT.flatten(1))
    return step.unflatten(1, (classes, dims)).mT


def _quasi_newton(codes: Tensor, labels: Tensor, strengths: Tensor, start: Logistic) -> Logistic:
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    fits = []
    # narrow matrices: several BLAS threads only wait for each other
    with threadpool_limits(1, "blas"):
        for z, strength, slopes, intercepts in zip(codes, strengths.tolist(), *start, strict=True):
            model = LogisticRegression(C=strength, max_iter=1000, tol=TOLERANCE, warm_start=True)
            model.coef_, model.intercept_ = slopes.T.numpy().copy(), intercepts.numpy().copy()
            model.fit(z.numpy(), labels.numpy())
            fits.append((torch.from_numpy(model.coef_.T), torch.from_numpy(model.intercept_)))
    return Logistic(*map(torch.stack, zip(*fits, strict=True)))
