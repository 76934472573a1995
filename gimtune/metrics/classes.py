"""Which classes there are among generated images."""

from __future__ import annotations

import torch

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
