"""Energy distance between vectors: how well those are generated that no network has features of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gimtune.metrics import flags
from gimtune.metrics.kernel import jackknifed
from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, spaced
from gimtune.vocabulary import METRICS

#: Vectors of each kind: the estimate is unbiased whatever their number, and all pairs grow with its square.
_VECTORS = 2000


def energy_distance(one: Tensor, other: Tensor) -> tuple[float, float]:
    """2 E|x - y| - E|x - x'| - E|y - y'| of vectors (n, d) and (m, d), unbiased, and its standard error.

    Zero of equal distributions and of no others. A vector is not paired with itself, so that the estimate of equal
    distributions is negative as often as positive. The error is the jackknife's over both samples.
    Source: Szekely & Rizzo 2013, eq. 5 and 6; Efron & Stein 1981.
    """
    x, y = one.double(), other.double()
    # by differences: sums of squares would lose the digits of what lies close together
    between = -torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    within = [-torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").sum(1) for z in (x, y)]
    return jackknifed(within[0], within[1], between)


@metric(METRICS["energy"])
def energy(view: View) -> Estimate:
    """Distance of vectors generated from the prior to held-out ones."""
    if not view.data.vectors:
        return Estimate(math.nan, reason="it is measured of vectors; images are compared by their features")
    made, real = view.generated[:_VECTORS].flatten(1), spaced(view.images, _VECTORS).flatten(1)
    if min(len(made), len(real)) < 3 or not bool(torch.isfinite(made).all()):
        return Estimate(math.nan, reason="three or more vectors, all finite, are needed")
    value, error = energy_distance(made, real)
    return Estimate(value, error, flag=flags.below_zero(value, error))
