"""Which classes there are among generated images, and whether a code's category names them."""

from __future__ import annotations

import math

import torch
from scipy.optimize import linear_sum_assignment

from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, undefined
from gimtune.vocabulary import METRICS

#: Of a class' share of the split's images. What a classifier takes by mistake for a class (3 in 100 on digits) is less.
_SHARE = 0.5


@metric(METRICS["classes_covered"])
def classes_covered(view: View) -> Estimate:
    """Classes of generated images, as the feature network recognises them; a class left out is a mode left out."""
    recognise = getattr(view.network, "recognise", None)
    if recognise is None:
        return undefined(f"the feature network {view.network.name} recognises no classes")
    if view.labels.ndim == 2:
        return undefined("images with several labels are of no one class")
    found = recognise(view.generated_features).cpu()
    labels = view.labels
    count = 1 + int(max(found.max(), labels.max()))
    made, there = (torch.bincount(values, minlength=count) / len(values) for values in (found, labels))
    return Estimate(float(((made >= _SHARE * there) & (there > 0)).sum()))


@metric(METRICS["code_accuracy"])
def code_accuracy(view: View) -> Estimate:
    """Labels as the category of q(z|x) names them; which category is which class is matched on training images.

    Every category stands for one class at most, so that their number buys nothing. The error is that of so many images.
    Source: Chen et al. 2016, section 7.2.
    """
    categories = int(getattr(view.encoder, "categories", 0))
    if not categories:
        return undefined("codes have no category")
    if view.labels.ndim == 2:
        return undefined("images with several labels are of no one class")
    known, found = (posterior.mu[:, :categories].argmax(-1).cpu() for posterior in (view.training, view.posterior))
    classes = 1 + int(max(view.training_labels.max(), view.labels.max()))
    counts = torch.bincount(known * classes + view.training_labels, minlength=categories * classes)
    category, label = linear_sum_assignment(counts.reshape(categories, classes).numpy(), maximize=True)
    names = torch.full((categories,), -1)
    names[torch.from_numpy(category)] = torch.from_numpy(label)
    share = float((names[found] == view.labels).double().mean())
    return Estimate(share, math.sqrt(share * (1 - share) / len(found)))
