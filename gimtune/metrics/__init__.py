"""Measures of members, as registered: what `Evaluation` finds for a row."""

from gimtune.metrics import (  # noqa: F401 - they register themselves
    bounds,
    classes,
    ends,
    energy,
    exported,
    factors,
    frechet,
    generation,
    information,
    kernel,
    lenet,
    likelihood,
    marginal,
    precision_recall,
    probe,
    random_network,
    ruler,
)
from gimtune.metrics.evaluation import Evaluation
from gimtune.metrics.features import FEATURES, Features, FeatureSource
from gimtune.metrics.measures import MEASURES, columns, metric
from gimtune.metrics.view import Estimate, View, undefined

__all__ = [
    "FEATURES",
    "MEASURES",
    "Estimate",
    "Evaluation",
    "FeatureSource",
    "Features",
    "View",
    "columns",
    "metric",
    "undefined",
]
