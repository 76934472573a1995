"""The words every room uses: sides, matches, models, metrics and the row of a trial.

Declarations only. Nothing here imports another room, torch or Ray, so the analysis can read a study on any machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self


class Side(StrEnum):
    """Which of the two joint distributions the likelihood is taken under."""

    Q = "q"
    P = "p"
    BOTH = "both"


class Match(StrEnum):
    """Which two distributions a restriction brings together."""

    POSTERIOR = "posterior"
    LATENT = "latent"
    DATA = "data"
    JOINT = "joint"


class Direction(StrEnum):
    """Which way a metric is better; ``NONE`` for those that only describe."""

    MIN = "min"
    MAX = "max"
    NONE = "none"


class Status(StrEnum):
    """Where a member stands. The last four are final."""

    PLANNED = "planned"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"


ENDED = frozenset({Status.DONE, Status.STOPPED, Status.DIVERGED, Status.FAILED})


def _one(**parameters: float) -> float:
    return 1.0


@dataclass(frozen=True)
class Weighted:
    """One restriction of a model: a match by a divergence, times a weight.

    Attributes:
        match: the two distributions.
        divergence: name of a divergence in `gimtune.algebra.restrictions.RESTRICTIONS` under this match.
        weight: the term's weight on our scale (nats, summed over pixels), from the model's own parameters,
            ``latent_dim``, ``pixels`` and the likelihood's ``cost``. It is multiplied by the member's ``weight``.
    """

    match: Match
    divergence: str
    weight: Callable[..., float] = _one

    @property
    def key(self) -> str:
        """``posterior_kl`` and so on: the name of its column in a trial's row."""
        return f"{self.match}_{self.divergence}"


@dataclass(frozen=True)
class Model:
    """A generative-inference model: a side, a likelihood and a list of restrictions.

    Attributes:
        name: as published.
        restrictions: none for the autoencoder.
        source: authors and year.
        side: distribution that the likelihood is averaged over.
        likelihood: of p(x|z), or ``None`` to take the study's; a study's own does not replace that of a critic.
        encoder: kind of q(z|x), a name in `gimtune.algebra.encoders.ENCODERS`.
        prior: the one that the model is about, in place of the study's.
        parameters: the paper's own weights and their defaults, e.g. ``alpha`` of InfoVAE; the weights of the
            restrictions are functions of them.
        note: conversion of the published weight to our scale.
    """

    name: str
    restrictions: tuple[Weighted, ...]
    source: str
    side: Side = Side.Q
    likelihood: str | None = None
    encoder: str = "gaussian"
    prior: str | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        keys = [r.key for r in self.restrictions]
        if len(set(keys)) < len(keys):
            raise ValueError(f"model {self.name}: restrictions repeat {sorted({k for k in keys if keys.count(k) > 1})}")
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    def weights(
        self, weight: float, *, latent_dim: int = 1, pixels: int = 1, cost: float = 1.0, **parameters: float
    ) -> tuple[float, ...]:
        """Weights of the restrictions at the member's ``weight``, with the paper's ``parameters`` overridden.

        Args:
            latent_dim: size of codes, for weights that the paper gives per dimension.
            pixels: size of images, likewise.
            cost: nats that the likelihood takes for a unit of squared error, for weights that the paper gives beside
                the squared error (`gimtune.algebra.likelihoods.Likelihood.cost`).

        Raises:
            ValueError: a parameter that the model does not have, or a weight that is negative or not finite.
        """
        unknown = sorted(set(parameters) - set(self.parameters))
        if unknown:
            allowed = ", ".join(self.parameters) or "none"
            raise ValueError(f"model {self.name} has no parameter {unknown[0]}; it has: {allowed}")
        given = {**self.parameters, **parameters, "latent_dim": latent_dim, "pixels": pixels, "cost": cost}
        try:
            values = tuple(float(weight * r.weight(**given)) for r in self.restrictions)
        except (ArithmeticError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"model {self.name}: its weights raise {type(error).__name__}: {error}") from None
        for restriction, value in zip(self.restrictions, values, strict=True):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"model {self.name}: weight of {restriction.key} is {value:g}; it must be >= 0")
        return values


@dataclass(frozen=True)
class Member:
    """One trial, resolved: everything that its result depends on, as plain values.

    Attributes:
        restrictions: (match, divergence, weight in the loss) each.
        encoder: kind of q(z|x).
        weight: the multiplier that the study swept; already in ``restrictions``.
        critic: what the study sets for all critics, in place of their restrictions' own settings.
        prior: its name and options.
        network: its name and options.
        data: name, and seed of the split.
        metrics: settings of the measurements.
        shuffle_seed: of the order of minibatches, shared by the study's members.
        patience: evaluations without progress that end it before its ``epochs``; ``None`` for all of them.
        restore: by what the weights are chosen that it ends with, as `gimtune.results.course.Restore`.
        watched: metrics that progress goes by, and that choice where it is not by the loss; with their directions.
        plugins: modules that its parts come from beside ours, with their content hashes.
        assignment: the values of the study's space that it was resolved from; it is no part of its identity.
    """

    model: str
    side: str
    likelihood: str
    encoder: str
    restrictions: tuple[tuple[str, str, float], ...]
    weight: float
    critic: Mapping[str, Any]
    prior: Mapping[str, Any]
    latent_dim: int
    seed: int
    data: Mapping[str, Any]
    network: Mapping[str, Any]
    learning_rate: float
    beta1: float
    batch_size: int
    epochs: int
    evaluate_every: int
    sigma_min: float
    sigma_start: float
    shuffle_seed: int
    metrics: Mapping[str, Any]
    patience: int | None = None
    restore: str = "last"
    watched: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, str] = field(default_factory=dict)
    assignment: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def trial(self) -> str:
        """Its name in every run: a hash of all of the above, but for the place of images whose content is there."""
        return hashlib.sha256(_canonical(identifying(json.loads(self.to_json()))).encode()).hexdigest()[:10]

    def to_json(self) -> str:
        """Canonical JSON; without plug-ins it says nothing of them."""
        values = asdict(self)
        del values["assignment"]
        if not self.plugins:
            del values["plugins"]
        return _canonical(values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "restrictions": tuple((m, d, w) for m, d, w in values["restrictions"])})


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def identifying(values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a member's values, as `Member.to_json` has them, tells it from others: images are the same elsewhere.

    >>> identifying({"model": "vae", "data": {"name": "images", "path": "/home/me/mine", "content": "0f"}})
    {'model': 'vae', 'data': {'name': 'images', 'content': '0f'}}
    """
    data = values.get("data")
    if not isinstance(data, Mapping) or "content" not in data:
        return dict(values)
    return {**values, "data": {key: value for key, value in data.items() if key != "path"}}


@dataclass(frozen=True)
class Metric:
    """One column of a trial's row: which way is better, in which unit, and whose definition it is.

    Attributes:
        error: it comes with a standard error, in a column of its name and ``_se``.
    """

    key: str
    direction: Direction
    unit: str
    meaning: str
    source: str = ""
    error: bool = False

    def __post_init__(self) -> None:
        if self.direction not in list(Direction):
            raise ValueError(f"metric {self.key}: direction {self.direction}; allowed are {', '.join(Direction)}")
        object.__setattr__(self, "direction", Direction(self.direction))
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.key) or self.key.startswith("test_"):
            raise ValueError(f"metric {self.key}: small letters, digits and _, and no test_ before them")
        if not self.unit or not self.meaning:
            raise ValueError(f"metric {self.key}: it says its unit and its meaning")

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns on the validation split."""
        return (self.key, f"{self.key}_se") if self.error else (self.key,)


_MIN, _MAX, _NONE = Direction.MIN, Direction.MAX, Direction.NONE

_metrics: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("likelihood", _MAX, "nats", "the side's: likelihood_x (q), likelihood_z (p) or their sum (both)"),
        Metric("likelihood_x", _MAX, "nats", "E_q(x,z)[log p(x|z)], one code per image", "Astorga 2022, eq. 1"),
        Metric("likelihood_z", _MAX, "nats", "E_p(x,z)[log q(z|x)], x the decoder's mean", "Astorga 2022, side p"),
        Metric(
            "log_px",
            _MAX,
            "nats",
            "importance-weighted bound of log p(x), at the end, on the test split",
            "Burda et al. 2016",
            True,
        ),
        Metric(
            "restriction",
            _NONE,
            "nats",
            "sum of weight x divergence, as in the loss: a critic that trains says what it lost, no divergence",
        ),
        Metric("loss", _MIN, "nats", "-likelihood + restriction; its error is over minibatches", error=True),
        Metric("mi_q", _MAX, "nats", "h(z) - h(z|x), q(z) one Gaussian: at least I_q, of many images", "Astorga 2022"),
        Metric("mi_p", _MAX, "nats", "lower bound of I_p, x drawn from p(x|z)", "Alemi & Fischer 2018 (GILBO)", True),
        Metric("mi_p_mean", _MAX, "nats", "the same, x the decoder's mean image", "Alemi & Fischer 2018 (GILBO)", True),
        Metric("mi_noised", _MAX, "nats", "mi_q of codes with noise of a tenth of each dimension's own deviation"),
        Metric(
            "mi_upper",
            _MAX,
            "nats",
            "upper bound of I_q, q(z) a density fitted to training codes",
            "Poole et al. 2019",
            True,
        ),
        Metric(
            "mi_lower",
            _MAX,
            "nats",
            "from below: q(z) fitted to the very codes, or the index-code bound where larger",
            "Hoffman & Johnson 2016; van den Oord 2018",
            True,
        ),
        Metric("mi_gap", _NONE, "nats", "mi_q + loss, the estimate of dI, on side q", "Astorga 2022, eq. 2"),
        Metric("sigma_mean", _NONE, "code units", "mean posterior standard deviation"),
        Metric("active_units", _MAX, "dimensions", "dimensions with Var_x[mu] > 0.01 code units", "Burda et al. 2016"),
        Metric("latent_js", _NONE, "nats", "JS(q(z), p(z)) by a fresh critic, at most ln 2", "Goodfellow 2014", True),
        Metric("data_js", _MIN, "nats", "JS(q(x), p(x)) by a fresh critic, at most ln 2", "Goodfellow 2014", True),
        Metric("latent_kl", _NONE, "nats", "lower bound of KL(q(z)||p(z))", "Hoffman & Johnson 2016, eq. 4", True),
        Metric("fid", _MIN, "features^2", "Frechet distance, codes from the prior", "Heusel et al. 2017", True),
        Metric("fid_expost", _MIN, "features^2", "the same, codes from a fitted mixture", "Ghosh et al. 2020", True),
        Metric("recon_fid", _MIN, "features^2", "the same for reconstructions of the split", "Heusel et al. 2017"),
        Metric("fid_floor", _NONE, "features^2", "the same for as many training images, or all; mean of 10 draws"),
        Metric("kid", _MIN, "features^6", "kernel distance, unbiased, codes from the prior", "Binkowski 2018", True),
        Metric("energy", _MIN, "data units", "energy distance of vectors, codes from the prior", "Szekely 2013", True),
        Metric("precision", _MAX, "fraction", "generated images among real ones", "Kynkaanniemi et al. 2019"),
        Metric("recall", _MAX, "fraction", "real images among generated ones", "Kynkaanniemi et al. 2019"),
        Metric(
            "classes_covered",
            _MAX,
            "classes",
            "classes that at least half their share of the generated images is recognised as",
            "Srivastava et al. 2017 (modes captured)",
        ),
        Metric("code_accuracy", _MAX, "fraction", "labels as a code's category names them", "Chen et al. 2016", True),
        Metric("fid_worst", _NONE, "features^2", "the same for the mean training image alone"),
        Metric("probe_codes", _MAX, "fraction", "logistic regression on z ~ q(z|x)", "Alain & Bengio 2016", True),
        Metric("probe_means", _MAX, "fraction", "logistic regression on posterior means", "Alain & Bengio 2016", True),
        Metric("probe_chance", _NONE, "fraction", "accuracy of the most frequent label"),
        Metric("mig", _MAX, "fraction", "mutual information gap of codes, by label factors", "Chen et al. 2018"),
        *(
            Metric(f"dci_{key}", _MAX, "fraction", meaning, "Eastwood & Williams 2018")
            for key, meaning in (
                ("disentanglement", "to what degree a code is about one factor, where labels are factors"),
                ("completeness", "to what degree a factor is in one code, where labels are factors"),
                ("informativeness", "accuracy of random forests on codes, a mean over factors"),
            )
        ),
        Metric("probe_balanced", _MAX, "fraction", "probe_codes, a mean over classes", "Brodersen et al. 2010", True),
        Metric("balanced_chance", _NONE, "fraction", "balanced accuracy of any one label"),
        Metric("knn_codes", _MAX, "fraction", "5 nearest neighbours on codes z ~ q(z|x)"),
        Metric("knn_means", _MAX, "fraction", "5 nearest neighbours on posterior means"),
    )
}
#: Every metric that is known: those that we measure, and those of plug-ins and of runs that were read.
METRICS: Mapping[str, Metric] = MappingProxyType(_metrics)
#: Of each image, for `log_px`, where ``metrics.importance_codes`` says nothing else.
IMPORTANCE_CODES = 100

#: Metrics that a network or a density is fitted for, by the setting ``metrics.ruler``.
FITTED = frozenset({"latent_js", "data_js", "latent_kl", "mi_p", "mi_p_mean"})
#: Metrics that are measured as a member ends, unless ``metrics.ruler`` is ``always``.
LATE = FITTED | {"fid_expost", "dci_disentanglement", "dci_completeness", "dci_informativeness"}


#: Metrics that need several columns of labels, factors of what an image shows.
FACTORED = frozenset({"mig", "dci_disentanglement", "dci_completeness", "dci_informativeness"})
#: Metrics that need labels.
LABELLED = frozenset({"probe_codes", "probe_means", "probe_balanced", "knn_codes", "knn_means", "classes_covered"})
LABELLED |= FACTORED | {"code_accuracy"}


def declare(metrics: Iterable[Metric]) -> None:
    """Make metrics known, from a plug-in or from a run that was measured with one.

    Raises:
        ValueError: there is a metric of that name with another direction or unit, or another column.
    """
    for metric in metrics:
        known = _metrics.get(metric.key, metric)
        if (known.direction, known.unit, known.error) != (metric.direction, metric.unit, metric.error):
            raise ValueError(
                f"metric {metric.key} ({metric.direction}, {metric.unit}): another of that name is known, "
                f"{known.meaning!r} ({known.direction}, {known.unit})"
            )
        if taken := {*metric.columns} & {*IDENTITY, *PROGRESS, *PROTOCOL}:
            raise ValueError(f"metric {metric.key}: {sorted(taken)[0]} is another column of a row")
        _metrics[metric.key] = metric


#: Columns that say what was run; set once, when the member is planned.
IDENTITY = (
    *("trial", "study", "model", "side", "restrictions", "likelihood_name", "encoder", "prior", "weight"),
    *("latent_dim", "seed", "data", "network", "pack", "config", "assignment"),
)
#: Columns that say how far it came; ``reported`` is when, in seconds since 1970. Its metrics are of the weights of
#: ``best_epoch``, chosen as ``restored_by`` says; ``levelled`` is 1 where it had levelled off, else 0; ``eager`` says
#: why its train steps were not replayed (`gimtune.training.replay`), and is empty where they were.
PROGRESS = (
    *("status", "error", "checkpoint", "epoch", "seconds", "reported", "examples_per_second", "diverged"),
    *("best_epoch", "restored_by", "levelled", "eager"),
)
#: What distances between features were measured with; those that differ in any of it do not compare. ``fid_samples``:
#: how many images were generated, ``fid_reference_samples`` how many they were compared with, ``fid_reference`` a hash
#: of those.
ALIKE = ("fid_features", "fid_samples", "fid_reference_samples", "fid_reference")
#: Columns that say how its metrics were measured; ``reasons`` is JSON {metric: why it is NaN}, ``flags`` JSON
#: {metric: why it is not to be trusted}, ``environment`` the short names of what it was made by, joined by ``+``
#: (`gimtune.results.environment.made_by`; the facts ``environment NAME`` of a study say what they mean), ``added_in``
#: JSON {metric that was measured after the member had ended: such a name}.
PROTOCOL = (*ALIKE, "mi_images", "reasons", "flags", "estimators", "environment", "added_in")
