"""Kernel distance between features of images (KID)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gimtune.metrics import flags
from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, spaced
from gimtune.vocabulary import METRICS

#: Images of each kind: the estimate is unbiased whatever their number, and a matrix of all pairs grows with its square.
_IMAGES = 2000


def kernel_distance(one: Tensor, other: Tensor, within: Tensor | None = None) -> tuple[float, float]:
    """Squared maximum mean discrepancy of features (n, k) and (m, k), unbiased, and its standard error.

    Args:
        within: `row_sums` of the other features, where they are known.

    The kernel is (x.y / k + 1)^3; a pair of the same image is left out, so that the estimate of equal distributions is
    negative as often as positive. The error is the jackknife's over both samples, by sums of the kernel's rows.
    Source: Binkowski et al. 2018, section 4; Efron & Stein 1981.
    """
    x, y = one.double(), other.double()
    return jackknifed(row_sums(x), row_sums(y) if within is None else within, _cubic(x, y))


def jackknifed(within_x: Tensor, within_y: Tensor, between: Tensor) -> tuple[float, float]:
    """The squared discrepancy by a kernel, unbiased, and the jackknife's standard error over both samples.

    Args:
        within_x, within_y: sums of the kernel over all others of the same sample, (n,) and (m,).
        between: the kernel of every pair, (n, m).
    """
    n, m = between.shape
    across_x, across_y = between.sum(1), between.sum(0)
    sums = within_x.sum(), within_y.sum(), across_x.sum()

    def value(own: Tensor, rest: Tensor, across: Tensor, count: int, others: int) -> Tensor:
        return own / (count * (count - 1)) + rest / (others * (others - 1)) - 2 * across / (count * others)

    found = value(*sums, n, m)
    without_x = value(sums[0] - 2 * within_x, sums[1], sums[2] - across_x, n - 1, m)
    without_y = value(sums[1] - 2 * within_y, sums[0], sums[2] - across_y, m - 1, n)
    variance = sum(v.var(correction=0) * (len(v) - 1) for v in (without_x, without_y))
    return float(found), math.sqrt(float(variance))


def row_sums(features: Tensor) -> Tensor:
    """Sums of the kernel over all others of features (n, k), (n,)."""
    return _cubic(features.double(), features.double()).fill_diagonal_(0).sum(1)


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    value = (x @ y.T).div_(x.shape[1]).add_(1)
    # a general power takes ten times as long
    return value.square().mul_(value)


@metric(METRICS["kid"])
def kid(view: View) -> Estimate:
    """Distance of images generated from the prior, by a kernel."""
    made, real = view.generated_features[:_IMAGES], spaced(view.features, _IMAGES)
    if min(len(made), len(real)) < 3 or not bool(torch.isfinite(made).all()):
        return Estimate(math.nan, reason="features of three or more images, all finite, are needed")
    within = view.kept(("kernel", view.split), lambda: row_sums(real))
    value, error = kernel_distance(made, real, within)
    return Estimate(value, error, flag=flags.below_zero(value, error))
