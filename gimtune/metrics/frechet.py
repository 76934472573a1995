"""Frechet distance between features of images (FID)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gimtune.algebra.seeds import generator
from gimtune.metrics import flags
from gimtune.metrics.features import features_of
from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View
from gimtune.vocabulary import METRICS

#: Of training images, for the floor.
_DRAWS = 10


class Statistics(NamedTuple):
    """Mean (k,), covariance (k, k) and its symmetric root, float64."""

    mean: Tensor
    covariance: Tensor
    root: Tensor | None


def statistics(features: Tensor, root: bool = False) -> Statistics:
    """Moments of features (n, k); with their covariance's root, which a reference needs once.

    Raises:
        ValueError: fewer than two rows, or a value that is not finite.
    """
    if len(features) < 2 or not bool(torch.isfinite(features).all()):
        raise ValueError("features of two or more images, all finite, are needed")
    values = features.double()
    covariance = torch.cov(values.T).reshape(values.shape[1], values.shape[1])
    return Statistics(values.mean(0), covariance, _root(covariance) if root else None)


def frechet(generated: Statistics, reference: Statistics) -> float:
    """Squared Frechet distance of two Gaussians: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    The trace of the last term is the sum of the square roots of the eigenvalues of R S1 R, R the root of S2: real and
    non-negative where a general matrix root is neither. Source: Heusel et al. 2017; Dowson & Landau 1982, eq. 6.
    """
    root = reference.root if reference.root is not None else _root(reference.covariance)
    product = root @ generated.covariance @ root
    cross = torch.linalg.eigvalsh(0.5 * (product + product.T)).clamp_min(0).sqrt().sum()
    shift = (generated.mean - reference.mean).square().sum()
    return float(shift + generated.covariance.trace() + reference.covariance.trace() - 2 * cross)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def standard_error(generated: Tensor, reference: Tensor, *known: Statistics) -> float:
    """Standard error of `frechet` of two independent samples of features, (n, k) and (m, k): by the delta method.

    The distance moves with S1 as tr((I - T) dS1), T = R (R S1 R)^(-1/2) R being the optimal transport between the two
    Gaussians and R the root of S2; with S2 as tr((I - T^-1) dS2), and with the means as 2 (m1 - m2). That says by how
    much each feature vector moves it, whose variances over n and m add up. It says nothing of the bias of few images.
    Where the two are equal the first order vanishes: the error is then a third too large, not too small.

    Args:
        known: moments of both, where they are known.
    """
    one, two = known or (statistics(generated), statistics(reference))
    scales, axes = torch.linalg.eigh(two.covariance)
    scales, inverse = _powers(scales, 0.5, -0.5)
    root, root_inverse = (axes * scales) @ axes.T, (axes * inverse) @ axes.T
    product = root @ one.covariance @ root
    values, vectors = torch.linalg.eigh(0.5 * (product + product.T))
    out, back = _powers(values, -0.25, 0.25)
    shift = one.mean - two.mean
    x, y = generated.double() - one.mean, reference.double() - two.mean
    moved = x.square().sum(1) - ((x @ root @ vectors) * out).square().sum(1) + 2 * x @ shift
    moves = y.square().sum(1) - ((y @ root_inverse @ vectors) * back).square().sum(1) - 2 * y @ shift
    return math.sqrt(float(moved.var() / len(x) + moves.var() / len(y)))


def _powers(values: Tensor, *exponents: float) -> list[Tensor]:
    """Powers of eigenvalues; of those that are zero but for rounding, zero."""
    kept = values > 1e-10 * values.max()
    return [torch.where(kept, values.clamp_min(1e-300) ** exponent, 0.0) for exponent in exponents]


def _distance(features: Tensor, view: View, paired: bool = False) -> Estimate:
    """The distance to the split's images; the error is that of two independent samples, of pairs there is none."""
    try:
        made = statistics(features)
    except ValueError as error:
        return Estimate(math.nan, reason=str(error))
    real = reference(view)
    deviation = None if paired else standard_error(features, view.features, made, real)
    return Estimate(frechet(made, real), deviation, flag=flags.blind(view.network))


def reference(view: View) -> Statistics:
    """Moments of the features of the split's images, made once for all members."""
    return view.kept(("reference", view.split), lambda: statistics(view.features, root=True))


@metric(METRICS["fid"])
def fid(view: View) -> Estimate:
    """Distance of images generated from the prior."""
    return _distance(view.generated_features, view)


@metric(METRICS["recon_fid"])
def recon_fid(view: View) -> Estimate:
    """Distance of reconstructions of the split's images."""
    return _distance(features_of(view.network, view.reconstructed), view, paired=True)


@metric(METRICS["fid_expost"])
def fid_expost(view: View) -> Estimate:
    """Distance of images from codes of a mixture that is fitted to those of training images."""
    if isinstance(view.resampled, str):
        return Estimate(math.nan, reason=view.resampled)
    return _distance(features_of(view.network, view.resampled), view)


@metric(METRICS["fid_floor"])
def fid_floor(view: View) -> float:
    """Mean distance of draws of as many training images as are generated, or of all where there are no more."""

    def drawn() -> Tensor:
        # twice as many as a draw: features may be costly
        train = view.data.images["train"]
        index = torch.randperm(len(train), generator=generator(torch.device("cpu"), "floor"))[: 2 * view.count]
        return features_of(view.network, view.data.scaled("train", index.to(view.data.device)))

    def floor() -> float:
        features = view.kept(("floor", view.count), drawn)
        if len(features) <= view.count:
            return frechet(statistics(features), reference(view))
        source = generator(torch.device("cpu"), "floor draws")
        orders = [torch.randperm(len(features), generator=source)[: view.count] for _ in range(_DRAWS)]
        return sum(frechet(statistics(features[i.to(features.device)]), reference(view)) for i in orders) / _DRAWS

    return view.kept(("floor", view.split, view.count), floor)
