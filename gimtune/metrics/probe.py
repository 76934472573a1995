"""Probes of the posterior means: how well simple classifiers read the labels from them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, undefined
from gimtune.vocabulary import METRICS

Codes = NDArray[np.float64]
Labels = NDArray[np.int64]
#: Inverse regularisation strengths that the linear probe chooses from.
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
NEIGHBOURS = 5


class Probes(NamedTuple):
    """Classifiers fitted to training codes; the strength was chosen on a fifth of them, kept aside."""

    linear: object
    neighbours: object
    strength: float

    def score(self, codes: Codes, labels: Labels) -> tuple[float, float]:
        """Accuracy of both on other codes (n, d) with labels (n,)."""
        return tuple(float((p.predict(codes) == labels).mean()) for p in (self.linear, self.neighbours))  # type: ignore[attr-defined, return-value]


def fit(codes: Codes, labels: Labels, seed: int = 0) -> Probes:
    """Multinomial logistic regression and k nearest neighbours on standardised codes (n, d) with labels (n,).

    Raises:
        ValueError: codes that are not finite, or fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    def linear(strength: float) -> object:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))

    fitted, held, fitted_labels, held_labels = train_test_split(
        codes, labels, test_size=0.2, random_state=seed, stratify=labels
    )
    neighbours = make_pipeline(StandardScaler(), KNeighborsClassifier(NEIGHBOURS))
    # narrow matrices: several BLAS threads only wait for each other
    with threadpool_limits(1, "blas"):
        scores = [linear(s).fit(fitted, fitted_labels).score(held, held_labels) for s in STRENGTHS]  # type: ignore[attr-defined]
        strength = STRENGTHS[int(np.argmax(scores))]
        return Probes(linear(strength).fit(codes, labels), neighbours.fit(codes, labels), strength)  # type: ignore[attr-defined]


@metric(METRICS["probe_codes"], METRICS["knn_codes"])
def probes(view: View) -> dict[str, Estimate]:
    """Accuracy of both on the split's posterior means, fitted to those of training images."""

    def fitted() -> Probes | str:
        try:
            return fit(view.training.mu.double().cpu().numpy(), view.training_labels.numpy())
        except ValueError as error:
            return str(error).splitlines()[0]

    keys = ("probe_codes", "knn_codes")
    both = view.once("probes", fitted)
    if isinstance(both, str):
        return dict.fromkeys(keys, undefined(both))
    scores = both.score(view.posterior.mu.double().cpu().numpy(), view.labels.numpy())
    return {key: Estimate(score) for key, score in zip(keys, scores, strict=True)}
