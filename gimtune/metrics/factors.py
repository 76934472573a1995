"""Disentanglement, where an image's labels are several factors: which codes know which factors. On codes z ~ q(z|x)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, undefined
from gimtune.vocabulary import METRICS

#: Of equal width, into which a code is put to count what it knows.
_BINS = 20
#: Training codes that forests are fitted to, at most; their trees, and how deep these may be.
_CODES, _TREES, _DEPTH = 5000, 50, 10
_NAMES = ("dci_disentanglement", "dci_completeness", "dci_informativeness")

Floats = NDArray[np.float64]


def mutual_information(codes: Floats, factor: NDArray[np.int64]) -> Floats:
    """I(z_j; v) in nats of each code (n, d) and a factor (n,), from counts in bins of equal width: (d,)."""
    values = np.unique(factor, return_inverse=True)[1]
    found = []
    for column in codes.T:
        joint = np.histogram2d(column, values, (_BINS, np.arange(values.max() + 2) - 0.5))[0] / len(values)
        apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        there = joint > 0
        found.append(float((joint[there] * np.log(joint[there] / apart[there])).sum()))
    return np.array(found)


def entropy(factor: NDArray[np.int64]) -> float:
    """H(v) in nats of a factor (n,)."""
    shares = np.unique(factor, return_counts=True)[1] / len(factor)
    return float(-(shares * np.log(shares)).sum())


def gap(codes: Floats, factors: NDArray[np.int64]) -> float:
    """How much more the code that knows most of a factor knows than the next, as a share of the factor's entropy.

    A mean over the factors (n, k) that vary.

    Source: Chen et al. 2018, eq. 6.
    """
    gaps = []
    for factor in factors.T:
        if (total := entropy(factor)) > 0:
            known = np.sort(mutual_information(codes, factor))
            gaps.append((known[-1] - known[-2]) / total)
    return float(np.mean(gaps))


def disentanglement(importance: Floats) -> float:
    """To what degree each code is about one factor, from how important codes are to factors (d, k): 0 to 1.

    1 - H_k(P_i) of a code's shares of importance P_i, with logarithms to the base k, weighted by the code's own share.
    Source: Eastwood & Williams 2018, section 2.
    """
    return _concentrated(importance, importance.sum(1) / importance.sum())


def completeness(importance: Floats) -> float:
    """To what degree each factor is captured by one code: 1 - H_d of a factor's shares, a mean over factors: 0 to 1.

    Source: Eastwood & Williams 2018, section 2.
    """
    return _concentrated(importance.T, np.full(importance.shape[1], 1 / importance.shape[1]))


def _concentrated(rows: Floats, weights: Floats) -> float:
    totals = rows.sum(1, keepdims=True)
    # what is important for nothing is about nothing
    shares = np.divide(rows, totals, out=np.full(rows.shape, 1 / rows.shape[1]), where=totals > 0)
    logs = np.log(shares, out=np.zeros(rows.shape), where=shares > 0)
    return float((weights * (1 + (shares * logs).sum(1) / math.log(rows.shape[1]))).sum())


def importances(codes: Floats, factors: NDArray[np.int64], seed: int) -> tuple[Floats, list[Any]]:
    """How important each code (n, d) is to each factor (n, k), by random forests: (d, k); and the forests.

    Source: Eastwood & Williams 2018, section 3 (random forests); importances are mean decreases of Gini's impurity.
    """
    from sklearn.ensemble import RandomForestClassifier

    forests = [
        RandomForestClassifier(_TREES, max_depth=_DEPTH, random_state=seed).fit(codes, factor) for factor in factors.T
    ]
    return np.stack([forest.feature_importances_ for forest in forests], 1), forests


def _refusal(view: View) -> str:
    if view.labels.ndim != 2:
        return "labels are no factors: there is one column of them"
    if view.means(view.split).shape[1] < 2:
        return "of one code it is not defined"
    if not bool(view.codes(view.split, 0).isfinite().all() and view.codes("train", 0).isfinite().all()):
        return "codes hold NaN or infinity"
    return ""


def _numbers(values: torch.Tensor) -> Any:
    return values.cpu().double().numpy() if values.is_floating_point() else values.cpu().numpy()


@metric(METRICS["mig"])
def mig(view: View) -> Estimate:
    """The mutual information gap of the split's codes."""
    if why := _refusal(view):
        return undefined(why)
    return Estimate(gap(_numbers(view.codes(view.split, 0)), _numbers(view.labels)))


@metric(*(METRICS[name] for name in _NAMES))
def dci(view: View) -> dict[str, Estimate]:
    """Disentanglement, completeness and informativeness of codes, by random forests on training codes."""
    if why := _refusal(view) or view.early:
        return dict.fromkeys(_NAMES, undefined(why))

    def fitted() -> tuple[Floats, list[Any]]:
        codes, factors = view.codes("train", 0)[:_CODES], view.training_labels[:_CODES]
        return importances(_numbers(codes), _numbers(factors), view.member.seed)

    importance, forests = view.once("dci", fitted)
    codes, factors = _numbers(view.codes(view.split, 0)), _numbers(view.labels)
    right = [float((f.predict(codes) == own).mean()) for f, own in zip(forests, factors.T, strict=True)]
    values = disentanglement(importance), completeness(importance), float(np.mean(right))
    return {name: Estimate(value) for name, value in zip(_NAMES, values, strict=True)}
