"""Critics: the divergence that a two-sample classifier's logit T = log q/p stands for, and how it is trained.

A critic sees samples of q and of p (models.md, section 0.2). Which of the two the model can move decides the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from gimtune.algebra.divergences import js_from_log_ratio, softplus

#: From inputs (n, k) to logits (n,).
Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Kind:
    """A divergence by a critic.

    Attributes:
        loss: of the critic's logits under q and under p.
        value: reported estimate from both, with the gradient of whichever side ``moves`` (``q``, ``p`` or ``qp``).
        unit: nats, or a distance.
        estimator: what the reported number is.
        source: authors and year.
        threshold: logit above which a sample is taken for one of q; ``None`` where the critic is no classifier.
        unit_slope: its gradient penalty wants norm 1 between the samples, and else 0 at samples of the resting side.
        log_prior: the logit holds -log p(z) outright, and the critic learns the rest.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor, Tensor, str], Tensor]
    unit: str
    estimator: str
    source: str
    threshold: float | None = 0.0
    unit_slope: bool = False
    log_prior: bool = False


def _with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    return value.detach() + surrogate - surrogate.detach()


def _classifier_loss(under_q: Tensor, under_p: Tensor) -> Tensor:
    return softplus(-under_q).mean() + softplus(under_p).mean()


def _js(under_q: Tensor, under_p: Tensor) -> Tensor:
    return js_from_log_ratio(under_q, under_p).mean()


def _js_saturating(under_q: Tensor, under_p: Tensor, moves: str) -> Tensor:
    return _js(under_q, under_p)


def _js_non_saturating(under_q: Tensor, under_p: Tensor, moves: str) -> Tensor:
    surrogate = sum(softplus(t).mean() for side, t in (("q", under_q), ("p", -under_p)) if side in moves)
    return _with_gradient_of(_js(under_q, under_p), torch.as_tensor(surrogate))


def _kl(under_q: Tensor, under_p: Tensor, moves: str) -> Tensor:
    return under_q.mean() if "p" not in moves else -under_p.mean()


def _wasserstein_loss(under_q: Tensor, under_p: Tensor) -> Tensor:
    return under_p.mean() - under_q.mean()


def _wasserstein(under_q: Tensor, under_p: Tensor, moves: str) -> Tensor:
    return under_q.mean() - under_p.mean()


def _least_squares_loss(under_q: Tensor, under_p: Tensor) -> Tensor:
    return 0.5 * ((under_q - 1).square().mean() + under_p.square().mean())


def _least_squares(under_q: Tensor, under_p: Tensor, moves: str) -> Tensor:
    value = 1 - 4 * _least_squares_loss(under_q, under_p)
    targets = (("q", under_q.square()), ("p", (under_p - 1).square()))
    surrogate = sum(error.mean() for side, error in targets if side in moves)
    return _with_gradient_of(value, torch.as_tensor(surrogate))


_JS = "critic, a lower bound of the JS divergence; {} gradient"
_NON_SATURATING = Kind(
    _classifier_loss,
    _js_non_saturating,
    "nats",
    _JS.format("non-saturating"),
    "Goodfellow et al. 2014, eq. 1 and section 3",
)
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "js": _NON_SATURATING,
        "js_saturating": Kind(
            _classifier_loss, _js_saturating, "nats", _JS.format("its own"), "Goodfellow et al. 2014, eq. 1"
        ),
        "kl": Kind(
            _classifier_loss,
            _kl,
            "nats",
            "critic's mean logit, a density ratio: no bound",
            "Mescheder et al. 2017, eq. 3.3",
            log_prior=True,
        ),
        "wgan_gp": Kind(
            _wasserstein_loss,
            _wasserstein,
            "1-Wasserstein distance",
            "critic with slope near 1",
            "Gulrajani et al. 2017, eq. 3",
            threshold=None,
            unit_slope=True,
        ),
        "lsgan": Kind(
            _least_squares_loss,
            _least_squares,
            "Vincze-Le Cam distance, at most 1",
            "critic, a lower bound; least-squares gradient",
            "Mao et al. 2017, eq. 2 and 9",
            threshold=0.5,
        ),
    }
)


@dataclass(frozen=True)
class Critic:
    """How a restriction's critic is built and trained; a study may set any of it for all critics.

    Attributes:
        kind: a name in `KINDS`.
        hidden: widths of its dense layers.
        learning_rate: as a multiple of the model's (WAE: 0.5).
        beta1: Adam's first moment decay.
        steps: of the critic for one of the model.
        gradient_penalty: factor of its penalty: half the squared slope at the resting side's samples (R1, Mescheder et
            al. 2018, eq. 9), or for ``wgan_gp`` (slope - 1)^2 between the samples (10 there).
        spectral_norm: divide its matrices by their largest singular values.
        instance_noise: standard deviation of the noise on its inputs (Soenderby et al. 2017).
        log_prior: the logit holds -log p(z) outright (WAE's code, AVB); ``None`` for the kind's habit.
    """

    kind: str
    hidden: tuple[int, ...] = (256, 256)
    learning_rate: float = 1.0
    beta1: float = 0.5
    steps: int = 1
    gradient_penalty: float = 0.0
    spectral_norm: bool = False
    instance_noise: float = 0.0
    log_prior: bool | None = None

    @property
    def divergence(self) -> Kind:
        """Its kind."""
        return KINDS[self.kind]

    @property
    def knows_prior(self) -> bool:
        """Whether its logit holds -log p(z)."""
        return self.divergence.log_prior if self.log_prior is None else self.log_prior

    def penalty(self, logits: Logits, under_q: Tensor, under_p: Tensor, moves: str, mix: Tensor) -> Tensor:
        """Its gradient penalty on inputs (n, k), with ``mix`` (n, 1) uniform: ()."""
        if self.divergence.unit_slope:
            points = mix * under_q + (1 - mix) * under_p
        else:
            points = under_p if moves == "q" else under_q
        slope: Tensor = torch.func.grad(lambda inputs: logits(inputs).sum())(points)
        squared = slope.square().sum(-1)
        if self.divergence.unit_slope:
            return self.gradient_penalty * ((squared + 1e-12).sqrt() - 1).square().mean()
        return 0.5 * self.gradient_penalty * squared.mean()
