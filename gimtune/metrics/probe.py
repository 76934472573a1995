"""Probes: how well simple classifiers read the labels from codes z ~ q(z|x), and from posterior means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

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
#: Codes of each image, each draw of the scored ones with classifiers of its own draw of the training ones.
DRAWS = 5
#: Of which the strength is chosen; it multiplies a sum over codes as a prior's variance does, whatever their number.
_CHOOSING = 5_000
#: Coefficients up to which Newton's steps cost less than a quasi-Newton method's.
_SMALL = 200
#: How many standard errors an accuracy may be above a bound.
_BEYOND = 3.0


class Scores(NamedTuple):
    """Accuracies on one split, and the standard error of the linear probe's."""

    linear: float
    error: float
    neighbours: float


class Probes(NamedTuple):
    """Classifiers of standardised codes, one for each draw; the strength was chosen on a part kept aside."""

    linear: tuple[Any, ...]
    neighbours: tuple[Any, ...]
    strength: float
    mean: Codes
    scale: Codes

    def score(self, codes: Codes, labels: Labels) -> Scores:
        """Accuracies on other codes, (k, n, d) for k draws, with labels (n,).

        The linear probe's is a mean over the draws, neighbours read a draw of each k-th part of the images.
        """
        from threadpoolctl import threadpool_limits

        codes = (codes - self.mean) / self.scale
        parts = np.arange(len(labels)) % len(codes)
        near = np.empty(len(labels), bool)
        with threadpool_limits(1, "blas"):
            right = np.stack([p.predict(z) == labels for p, z in zip(self.linear, codes, strict=True)])
            for i in range(min(len(codes), len(labels))):
                part = parts == i
                near[part] = self.neighbours[i].predict(codes[i, part]) == labels[part]
        return Scores(float(right.mean()), standard_error(right), float(near.mean()))


def standard_error(right: NDArray[Any]) -> float:
    """Of the mean of ``right`` (k, n), k draws of n images: images and draws are crossed random effects.

    It covers the finite split and the draws of all codes, those that are fitted to among them; given are the training
    images. Source: Searle et al. 1992, section 4.5 (moments of the two-way layout without replicates).
    """
    values = right.astype(float)
    draws, images = values.shape
    mean = values.mean()
    of_images, of_draws = values.mean(0), values.mean(1)
    between_images = of_images.var(ddof=1) / images if images > 1 else math.nan
    if draws < 2 or images < 2:
        return float(np.sqrt(between_images))
    residual = values - of_images - of_draws[:, None] + mean
    within = residual.var() * draws * images / ((draws - 1) * (images - 1))
    between_draws = of_draws.var(ddof=1) / draws
    return float(np.sqrt(between_images + max(between_draws - within / (draws * images), 0.0)))


def fit(codes: Codes, labels: Labels, seed: int = 0) -> Probes:
    """Multinomial logistic regression and k nearest neighbours on standardised codes (k, n, d) with labels (n,).

    The strength is chosen on the first draw; each draw's fit starts at the one before it.

    Raises:
        ValueError: codes that are not finite, or fewer than two classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.neighbors import KNeighborsClassifier
    from threadpoolctl import threadpool_limits

    if not np.isfinite(codes).all():
        raise ValueError("training codes hold NaN or infinity")
    mean, scale = codes[0].mean(0), codes[0].std(0)
    scale[scale == 0] = 1.0
    codes = (codes - mean) / scale
    chosen = np.random.default_rng(seed).permutation(len(labels))[:_CHOOSING]
    first, classes = codes[0][chosen], labels[chosen]
    small = len(np.unique(labels)) * (codes.shape[2] + 1) <= _SMALL
    solver = "newton-cholesky" if small else "lbfgs"

    def linear(strength: float, start: Any = None) -> Any:
        model = LogisticRegression(C=strength, max_iter=1000, warm_start=True, solver=solver)
        if start is not None:
            model.coef_, model.intercept_, model.classes_ = start.coef_, start.intercept_, start.classes_
        return model

    # narrow matrices: several BLAS threads only wait for each other
    with threadpool_limits(1, "blas"):
        fitted, held, fitted_labels, held_labels = train_test_split(
            first, classes, test_size=0.2, random_state=seed, stratify=classes
        )
        path: list[Any] = []
        for strength in STRENGTHS:
            path.append(linear(strength, path[-1] if path else None).fit(fitted, fitted_labels))
        best = int(np.argmax([model.score(held, held_labels) for model in path]))
        models: list[Any] = []
        for z in codes:
            models.append(linear(STRENGTHS[best], (models or path[best : best + 1])[-1]).fit(z, labels))
        neighbours = tuple(KNeighborsClassifier(NEIGHBOURS).fit(z, labels) for z in codes)
    return Probes(tuple(models), neighbours, STRENGTHS[best], mean, scale)


def fano(information: float, labels: Labels) -> float:
    """The largest accuracy of any classifier of codes that hold so much of the labels (n,), in nats.

    H(y) - I <= H(y|z) <= h(e) + e ln(c - 1) for c classes and an error of e. Source: Cover & Thomas 2006, eq. 2.130;
    I(y; z) is at most I(x; z) (eq. 2.122).
    """
    counts = np.bincount(labels)
    shares = counts[counts > 0] / len(labels)
    unknown = -float((shares * np.log(shares)).sum()) - max(information, 0.0)
    classes = len(shares)
    if unknown <= 0 or classes < 2:
        return 1.0
    low, high = 0.0, 1 - 1 / classes
    for _ in range(60):
        error = 0.5 * (low + high)
        allowed = -error * math.log(error) - (1 - error) * math.log1p(-error) + error * math.log(max(classes - 1, 1))
        low, high = (error, high) if allowed < unknown else (low, error)
    return 1 - low


def _scores(view: View, name: str, training: Callable[[], Codes], scored: Callable[[], Codes]) -> Scores | str:
    def fitted() -> Probes | str:
        try:
            return fit(training(), view.training_labels.numpy())
        except ValueError as error:
            return str(error).splitlines()[0]

    probes = view.once(("probes", name), fitted)
    if isinstance(probes, str):
        return probes
    codes = scored()
    if not np.isfinite(codes).all():
        return "codes of the split hold NaN or infinity"
    return probes.score(codes, view.labels.numpy())


def _means(view: View) -> Scores | str:
    return _scores(
        view,
        "means",
        lambda: view.means("train").double().cpu().numpy()[None],
        lambda: view.means(view.split).double().cpu().numpy()[None],
    )


@metric(METRICS["probe_means"], METRICS["knn_means"])
def of_means(view: View) -> dict[str, Estimate]:
    """Accuracy of both on the split's posterior means, fitted to those of training images."""
    return _estimates(("probe_means", "knn_means"), _means(view))


@metric(METRICS["probe_codes"], METRICS["knn_codes"])
def of_codes(view: View) -> dict[str, Estimate]:
    """Accuracy of both on the split's codes, fitted to those of training images; a mean over draws."""
    keys = ("probe_codes", "knn_codes")
    if not view.encoder.varies:
        # codes are the means
        means = view.estimate("probe_means"), view.estimate("knn_means")
        return dict(zip(keys, means, strict=True))

    def drawn(split: str) -> Callable[[], Codes]:
        return lambda: np.stack([view.codes(split, i).double().cpu().numpy() for i in range(DRAWS)])

    scores = _scores(view, "codes", drawn("train"), drawn(view.split))
    values = _estimates(keys, scores)
    if isinstance(scores, str) or not math.isfinite(information := view.value("mi_q")):
        return values
    bound = fano(information, view.labels.numpy())
    if scores.linear > bound + _BEYOND * scores.error:
        flag = f"above what {information:.3g} nats (mi_q) allow by Fano's inequality: {bound:.3g}"
        values["probe_codes"] = values["probe_codes"]._replace(flag=flag)
    return values


def _estimates(keys: tuple[str, str], scores: Scores | str) -> dict[str, Estimate]:
    if isinstance(scores, str):
        return dict.fromkeys(keys, undefined(scores))
    return {keys[0]: Estimate(scores.linear, scores.error), keys[1]: Estimate(scores.neighbours)}
