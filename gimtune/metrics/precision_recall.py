"""Precision and recall of generated images: how many look like real ones, and how many real ones are reached."""

from __future__ import annotations

import torch
from torch import Tensor

from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, spaced, undefined
from gimtune.vocabulary import METRICS

_NEIGHBOURS = 3
#: Images of each kind; the radii, and both values, depend on it.
_IMAGES = 2000


def covered(points: Tensor, cloud: Tensor, neighbours: int = _NEIGHBOURS) -> float:
    """Share of points (n, k) inside of the balls around those of a cloud (m, k) that reach its own k-th neighbours.

    Source: Kynkaanniemi et al. 2019, eq. 1 and 2.
    """
    apart = torch.cdist(cloud, cloud).fill_diagonal_(torch.inf)
    radii = apart.kthvalue(neighbours, dim=1).values
    return float((torch.cdist(points, cloud) <= radii).any(1).double().mean())


@metric(METRICS["precision"], METRICS["recall"])
def precision_recall(view: View) -> dict[str, Estimate | float]:
    """Shares of generated images among real ones and of real among generated ones, of equally many of both."""
    count = min(view.count, len(view.features), _IMAGES)
    made, real = view.generated_features[:count].double(), spaced(view.features, count).double()
    if count <= _NEIGHBOURS or not bool(torch.isfinite(made).all()):
        why = undefined(f"features of more than {_NEIGHBOURS} images, all finite, are needed")
        return {"precision": why, "recall": why}
    return {"precision": covered(made, real), "recall": covered(real, made)}
