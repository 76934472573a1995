"""Frechet distance between features of images (FID)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gimtune.algebra.seeds import generator
from gimtune.metrics.features import features_of
from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View
from gimtune.vocabulary import METRICS


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


def _distance(images: Tensor, view: View) -> Estimate:
    try:
        made = statistics(features_of(view.network, images))
    except ValueError as error:
        return Estimate(math.nan, reason=str(error))
    return Estimate(frechet(made, reference(view)))


def reference(view: View) -> Statistics:
    """Moments of the features of the split's images, made once for all members."""
    return view.kept(("reference", view.split), lambda: statistics(features_of(view.network, view.images), root=True))


@metric(METRICS["fid"])
def fid(view: View) -> Estimate:
    """Distance of images generated from the prior."""
    return _distance(view.generated, view)


@metric(METRICS["recon_fid"])
def recon_fid(view: View) -> Estimate:
    """Distance of reconstructions."""
    return _distance(view.reconstructed, view)


@metric(METRICS["fid_expost"])
def fid_expost(view: View) -> Estimate:
    """Distance of images from codes of a mixture that is fitted to those of training images."""
    if isinstance(view.resampled, str):
        return Estimate(math.nan, reason=view.resampled)
    return _distance(view.resampled, view)


@metric(METRICS["fid_floor"])
def fid_floor(view: View) -> float:
    """Distance of as many training images as are generated."""

    def floor() -> float:
        train = view.data.images["train"]
        index = torch.randperm(len(train), generator=generator(torch.device("cpu"), "floor"))[: view.count]
        images = view.data.scaled("train", index.to(view.data.device))
        return frechet(statistics(features_of(view.network, images)), reference(view))

    return view.kept(("floor", view.split, view.count), floor)
