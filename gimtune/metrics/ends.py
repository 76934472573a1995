"""Where the scales of the objectives end, by split: what is reached without any model, the corner of every front."""

from __future__ import annotations

import torch

from gimtune.metrics.features import features_of
from gimtune.metrics.frechet import Statistics, frechet, reference
from gimtune.metrics.measures import metric
from gimtune.metrics.view import CHUNK, View
from gimtune.vocabulary import METRICS


@metric(METRICS["fid_worst"])
def fid_worst(view: View) -> float:
    """Distance of one image that is generated always, the mean of the training images."""

    def worst() -> float:
        images = view.data.images["train"]
        # a part at a time: as numbers with a point, a large set is larger than memory
        total = sum(part.sum(0, dtype=torch.float64) for part in images.split(CHUNK))
        mean = (total / (len(images) * view.data.scale)).float()[None]
        features = features_of(view.network, mean).double()[0]
        return frechet(Statistics(features, torch.zeros_like(reference(view).covariance), None), reference(view))

    return view.kept(("worst", view.split), worst)


@metric(METRICS["probe_chance"])
def probe_chance(view: View) -> float:
    """Accuracy of the answer that is right most often; of several columns of labels, the mean."""
    columns = view.labels.T if view.labels.ndim == 2 else view.labels[None]
    return sum(float(labels.bincount().max() / len(labels)) for labels in columns) / len(columns)


@metric(METRICS["balanced_chance"])
def balanced_chance(view: View) -> float:
    """Balanced accuracy of any answer that is always the same; of several columns of labels, the mean."""
    columns = view.labels.T if view.labels.ndim == 2 else view.labels[None]
    return sum(1 / len(labels.unique()) for labels in columns) / len(columns)
