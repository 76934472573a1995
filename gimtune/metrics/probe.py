"""Probes: how well simple classifiers read the labels from codes z ~ q(z|x), and from posterior means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gimtune.metrics import logistic
from gimtune.metrics.logistic import Logistic
from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, undefined
from gimtune.vocabulary import METRICS

#: Inverse regularisation strengths that the linear probe chooses from.
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
NEIGHBOURS = 5
#: Codes of each image, each draw of the scored ones with classifiers of its own draw of the training ones.
DRAWS = 5
#: Of which the strength is chosen; it multiplies a sum over codes as a prior's variance does, whatever their number.
_CHOOSING = 5_000
#: One in so many of each class is kept aside to choose the strength by.
_KEPT = 5
#: How many standard errors an accuracy may be above a bound.
_BEYOND = 3.0
#: Distances that are worked on at a time: 8 MB.
_DISTANCES = 2**20


class Scores(NamedTuple):
    """Accuracies on one split, and the standard errors of the linear probe's.

    Attributes:
        balanced: the linear probe's, a mean over classes in place of images.
    """

    linear: float
    error: float
    neighbours: float
    balanced: float
    balanced_error: float


class Probes(NamedTuple):
    """Classifiers of standardised codes, one for each draw; the strength was chosen on a part kept aside.

    Attributes:
        linear: of k draws.
        known: the standardised training codes (k, n, d), of which the nearest tell the label.
        labels: of these, 0 to the number of classes - 1, (n,).
        classes: the labels that these stand for.
        mean, scale: by which codes are standardised, (d,).
    """

    linear: Logistic
    known: Tensor
    labels: Tensor
    classes: Tensor
    strength: float
    mean: Tensor
    scale: Tensor

    def score(self, codes: Tensor, labels: Tensor) -> Scores:
        """Accuracies on other codes, (k, n, d) for k draws, with labels (n,).

        The linear probe's is a mean over the draws, neighbours read a draw of each k-th part of the images.
        """
        return mean_scores([self], codes, labels[:, None])[0]


def mean_scores(probes: Sequence[Probes], codes: Tensor, labels: Tensor) -> tuple[Scores, list[float]]:
    """Mean accuracies of probes of the columns of labels (n, c), fitted to the same codes; and each column's linear.

    Args:
        codes: (k, n, d) for k draws, as `Probes.score` takes them.
    """
    first = probes[0]
    codes = (codes.double() - first.mean) / first.scale
    labels = labels.to(codes.device)
    right = torch.stack(
        [p.classes[p.linear.predicted(codes)] == own for p, own in zip(probes, labels.T, strict=True)]
    ).double()
    near = torch.zeros(len(labels), dtype=torch.float64, device=codes.device)
    for i in range(min(len(codes), len(labels))):
        part = slice(i, None, len(codes))
        index = _nearest(codes[i, part], first.known[i])
        for p, own in zip(probes, labels.T, strict=True):
            votes = torch.nn.functional.one_hot(p.labels[index], len(p.classes)).sum(1)
            near[part] += p.classes[votes.argmax(1)] == own[part]
    each = right.flatten(1).mean(1).tolist()
    balanced = torch.stack([_balanced(r, own) for r, own in zip(right, labels.T, strict=True)]).mean(0)
    linear, neighbours = right.mean(0), float(near.mean()) / len(probes)
    means = float(linear.mean()), float(balanced.mean())
    return Scores(means[0], standard_error(linear), neighbours, means[1], standard_error(balanced)), each


def _balanced(right: Tensor, labels: Tensor) -> Tensor:
    """Values (k, n) whose mean is the mean over classes of ``right``, and which vary as their classes do within.

    Source: Brodersen et al. 2010, section 2.
    """
    member = torch.nn.functional.one_hot(labels.unique(return_inverse=True)[1]).to(right)
    sizes = member.sum(0)
    recall = right.mean(0) @ member / sizes
    weight = len(labels) / (len(sizes) * (member @ sizes))
    return recall.mean() + weight * (right - member @ recall)


def _nearest(codes: Tensor, known: Tensor) -> Tensor:
    """The nearest known codes of each code (n, d): (n, k)."""
    squares, found = known.square().sum(1), []
    for part in codes.split(max(1, _DISTANCES // len(known))):
        # less what all distances of a code have in common
        apart = torch.addmm(squares, part, known.T, alpha=-2)
        found.append(apart.topk(min(NEIGHBOURS, len(known)), largest=False).indices)
    return torch.cat(found)


def standard_error(right: Tensor) -> float:
    """Of the mean of ``right`` (k, n), k draws of n images: images and draws are crossed random effects.

    It covers the finite split and the draws of all codes, those that are fitted to among them; given are the training
    images. Source: Searle et al. 1992, section 4.5 (moments of the two-way layout without replicates).
    """
    values = right.double()
    draws, images = values.shape
    mean = values.mean()
    of_images, of_draws = values.mean(0), values.mean(1)
    between_images = float(of_images.var()) / images if images > 1 else math.nan
    if draws < 2 or images < 2:
        return math.sqrt(between_images)
    residual = values - of_images - of_draws[:, None] + mean
    within = float(residual.square().sum()) / ((draws - 1) * (images - 1))
    between_draws = float(of_draws.var()) / draws
    return math.sqrt(between_images + max(between_draws - within / (draws * images), 0.0))


def fit(codes: Tensor, labels: Tensor) -> Probes:
    """Multinomial logistic regression and nearest neighbours on standardised codes (k, n, d) with labels (n,).

    The strength is chosen on the first draw, by a part of each class that is kept aside; draws' fits start at its fit.

    Raises:
        ValueError: codes that are not finite, or fewer than two classes.
    """
    codes = codes.double()
    if not bool(codes.isfinite().all()):
        raise ValueError("training codes hold NaN or infinity")
    classes, labels = labels.to(codes.device).unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError("training images of two or more classes are needed")
    mean, scale = codes[0].mean(0), codes[0].std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    codes = (codes - mean) / scale
    fitted, held = kept_aside(labels)
    strengths = codes.new_tensor(STRENGTHS)
    some = codes[0, fitted].expand(len(STRENGTHS), -1, -1)
    path = logistic.fit(some, labels[fitted], strengths, Logistic.zero(some, len(classes)))
    right = path.predicted(codes[0, held].expand(len(STRENGTHS), -1, -1)) == labels[held]
    # the first of those that are right as often: the strongest regularisation
    best = right.sum(1).tolist().index(int(right.sum(1).max()))
    strength = strengths[best].expand(len(codes))
    models = logistic.fit(codes, labels, strength, path.one(best, len(codes)))
    return Probes(models, codes, labels, classes, STRENGTHS[best], mean, scale)


def kept_aside(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of labels (n,) that a strength's classifiers are fitted to, and rows that it is chosen by: one in five of
    each class, out of 5,000 at most."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:_CHOOSING].to(labels.device)
    # place of each row among those of its class
    members = torch.nn.functional.one_hot(labels[order]).cumsum(0).gather(1, labels[order, None])[:, 0]
    held = members % _KEPT == 0
    return order[~held], order[held]


def fano(information: float, labels: Tensor) -> float:
    """The largest accuracy of any classifier of codes that hold so much of the labels (n,), in nats.

    H(y) - I <= H(y|z) <= h(e) + e ln(c - 1) for c classes and an error of e. Source: Cover & Thomas 2006, eq. 2.130;
    I(y; z) is at most I(x; z) (eq. 2.122).
    """
    shares = labels.unique(return_counts=True)[1].double() / len(labels)
    unknown = -float((shares * shares.log()).sum()) - max(information, 0.0)
    classes = len(shares)
    if unknown <= 0 or classes < 2:
        return 1.0
    low, high = 0.0, 1 - 1 / classes
    for _ in range(60):
        error = 0.5 * (low + high)
        allowed = -error * math.log(error) - (1 - error) * math.log1p(-error) + error * math.log(max(classes - 1, 1))
        low, high = (error, high) if allowed < unknown else (low, error)
    return 1 - low


class _Found(NamedTuple):
    """Scores of a member's codes, and of which columns of labels they are the mean."""

    scores: Scores
    how: str


def _scores(view: View, name: str, codes: Callable[[View, str], Tensor]) -> _Found | str:
    targets = view.data.dataset.targets

    def fitted(views: Sequence[View]) -> list[list[Probes] | str]:
        return [_fitted(codes(v, "train"), _columns(v.training_labels), targets) for v in views]

    probes = view.together(("probes", name), fitted)
    if isinstance(probes, str):
        return probes
    scored = codes(view, view.split)
    if not bool(scored.isfinite().all()):
        return "codes of the split hold NaN or infinity"
    scores, each = mean_scores(probes, scored, _columns(view.labels))
    how = ", ".join(f"{target} {value:.3f}" for target, value in zip(targets, each, strict=True)) if each[1:] else ""
    return _Found(scores, f"mean of {how}" if how else "")


def _columns(labels: Tensor) -> Tensor:
    return labels if labels.ndim == 2 else labels[:, None]


def _fitted(codes: Tensor, columns: Tensor, targets: Sequence[str]) -> list[Probes] | str:
    found = []
    for i, labels in enumerate(columns.T):
        try:
            found.append(fit(codes, labels))
        except ValueError as error:
            return f"{f'{targets[i]}: ' if len(columns.T) > 1 else ''}{error}".splitlines()[0]
    return found


def _of_means(view: View) -> _Found | str:
    return view.once(
        ("probed means", view.split), lambda: _scores(view, "means", lambda v, split: v.means(split)[None])
    )


@metric(METRICS["probe_means"], METRICS["knn_means"])
def of_means(view: View) -> dict[str, Estimate]:
    """Accuracy of both on the split's posterior means, fitted to those of training images."""
    return _estimates(("probe_means", "knn_means"), _of_means(view))


@metric(METRICS["probe_codes"], METRICS["knn_codes"], METRICS["probe_balanced"])
def of_codes(view: View) -> dict[str, Estimate]:
    """Accuracy of both on the split's codes, fitted to those of training images; a mean over draws."""
    if not view.encoder.varies:
        scores = _of_means(view)  # codes are the means
    else:
        scores = _scores(view, "codes", lambda v, split: torch.stack([v.codes(split, i) for i in range(DRAWS)]))
    values = _estimates(("probe_codes", "knn_codes"), scores)
    if isinstance(scores, str):
        return {**values, "probe_balanced": undefined(scores)}
    values["probe_balanced"] = Estimate(scores.scores.balanced, scores.scores.balanced_error)
    # from samples it is no bound
    if not view.encoder.gaussian or not math.isfinite(information := view.value("mi_q")):
        return values
    columns = _columns(view.labels).T
    bound = sum(fano(information, labels) for labels in columns) / len(columns)
    if scores.scores.linear > bound + _BEYOND * scores.scores.error:
        flag = f"above what {information:.3g} nats (mi_q) allow by Fano's inequality: {bound:.3g}"
        values["probe_codes"] = values["probe_codes"]._replace(flag=flag)
    return values


def _estimates(keys: tuple[str, str], found: _Found | str) -> dict[str, Estimate]:
    if isinstance(found, str):
        return dict.fromkeys(keys, undefined(found))
    linear = Estimate(found.scores.linear, found.scores.error, estimator=found.how)
    return {keys[0]: linear, keys[1]: Estimate(found.scores.neighbours)}
