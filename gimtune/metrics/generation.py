"""Information of the generative side, I_p(x, z), bounded from below by an encoder that is fitted for it alone. Nats.

Two pairs go by that name. Of the noisy channel x is drawn from p(x|z): what the model p(x, z) says. Of the mean image
x = g(z) is the decoder's mean, as it is shown and as the critics of images see it. A model's own encoder was fitted to
neither, if it is of side q; so one of a fixed architecture and budget is fitted to pairs of each, the same for every
model, and scored on pairs that it has not seen:

    I_p >= h_p(z) + E_p(x,z)[log q(z|x)].

Source: Barber & Agakov 2003; Alemi & Fischer 2018 (GILBO).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gimtune.algebra.likelihoods import Likelihood
from gimtune.metrics.fitted import LANES, Budget, Stack, finite, fit, in_parts, minibatches
from gimtune.metrics.measures import metric
from gimtune.metrics.ruler import Scaled
from gimtune.metrics.view import CHUNK, Estimate, View, undefined
from gimtune.training import Step
from gimtune.vocabulary import METRICS

#: It never ends early: the first looks of a fit of deviations are no better than none.
BUDGET = Budget((64, 64), 500, batch=128, learning_rate=2e-3, patience=99)
#: Pairs that an encoder is fitted to, one in five of which is held out, and pairs that it is scored on.
_PAIRS, _HELD, _SCORED = 10_000, 5, 5000
_LEAST = -7.0
_STEP = Step()


class Code(NamedTuple):
    """How q(z|x) is laid out: a category of ``categories`` first, if any, then Gaussian dimensions (d,).

    Their means and deviations are the network's, and their correlations are the same for all images.

    Attributes:
        mean, deviation: of the codes, by which the Gaussian dimensions are scaled, (d,), or of M members, (M, 1, d).
    """

    categories: int
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, view: View, z: Tensor) -> Code:
        """Of a view's prior, given codes (n, k) from it."""
        categories = 0 if view.prior.density else int(getattr(view.prior, "categories", 0))
        rest = z[:, categories:]
        return cls(categories, rest.mean(0), rest.std(0).clamp_min(1e-6))

    @classmethod
    def stacked(cls, codes: Sequence[Code]) -> Code:
        """That of members whose codes are laid out alike."""
        means, deviations = (torch.stack(part)[:, None] for part in zip(*(code[1:] for code in codes), strict=True))
        return cls(codes[0].categories, means, deviations)

    @property
    def outputs(self) -> int:
        """Width of the network's output."""
        return self.categories + 2 * self.mean.shape[-1]

    def log_prob(self, output: Tensor, z: Tensor, lower: Tensor | None = None) -> Tensor:
        """log q(z|x) of codes (..., k) given outputs of the network: (...,).

        Args:
            lower: root of the residuals' covariance (d, d), in units of the deviations that were foretold.
        """
        residuals, log_sigma = self.residuals(output, z)
        total = -(log_sigma + self.deviation.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
        if lower is not None:
            residuals = torch.linalg.solve_triangular(lower, residuals.mT, upper=False).mT
            total = total - lower.diagonal().log().sum()
        total = total - 0.5 * residuals.square().sum(-1)
        if self.categories:
            total = total + (z[..., : self.categories] * output[..., : self.categories].log_softmax(-1)).sum(-1)
        return total

    def residuals(self, output: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals of the Gaussian dimensions, in units of the deviations that were foretold, and their logarithms."""
        mean, log_sigma, scaled = self._parts(output, z)
        return (scaled - mean) / log_sigma.exp(), log_sigma

    def _parts(self, output: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_sigma = output[..., self.categories :].chunk(2, -1)
        # bounded by a slope everywhere: a deviation of nothing would make one pair decide
        log_sigma = _LEAST + torch.nn.functional.softplus(log_sigma - _LEAST)
        return mean, log_sigma, (z[..., self.categories :] - self.mean) / self.deviation


class Auxiliary(NamedTuple):
    """An encoder of one member that was fitted to pairs of its generator."""

    code: Code
    pixels: Scaled
    stack: Stack
    lower: Tensor

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log q(z|x) of pairs (n, pixels), (n, k): (n,), float64."""
        output = self.stack(self.pixels.straight(x[None]))[0]
        return self.code.log_prob(output.double(), z.double(), self.lower)


class Pairs(NamedTuple):
    """Images (n, pixels) and the codes (n, k) that they were generated from."""

    x: Tensor
    z: Tensor


def encoders(pairs: Sequence[Pairs], codes: Sequence[Code], sources: Sequence[torch.Generator]) -> list[Auxiliary]:
    """One for the pairs of each member, fitted together."""
    held = torch.arange(len(pairs[0].x), device=pairs[0].x.device) % _HELD == _HELD - 1
    parts = [part[: len(part) - len(part) % LANES] for part in (torch.where(~held)[0], torch.where(held)[0])]
    x, held_x = (torch.stack([p.x[rows] for p in pairs]) for rows in parts)
    z, held_z = (torch.stack([p.z[rows] for p in pairs]) for rows in parts)
    pixels, both = Scaled.of(x), Code.stacked(codes)
    x, held_x = pixels.straight(x), pixels.straight(held_x)
    rows = minibatches(x.shape[1], BUDGET, "pairs", x.device)

    def examples(step: int) -> tuple[Tensor, ...]:
        return x[:, rows[step]], z[:, rows[step]], both.mean, both.deviation

    def loss(stack: Stack, x: Tensor, z: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        return -Code(both.categories, mean, deviation).log_prob(stack(x), z).mean(1)

    def score(stack: Stack) -> Tensor:
        # row by row: a mean over many rows may be summed in another order than one over a single row
        return torch.stack([-row.double().mean() for row in both.log_prob(stack(held_x), held_z)])

    stack, _ = fit(Stack.start(x.shape[-1], codes[0].outputs, BUDGET, sources), loss, examples, score, BUDGET, _STEP)
    output = stack(held_x)
    found = []
    for i, code in enumerate(codes):
        # held-out pairs say how sure it is, which a network overrates, and how its dimensions go together
        residuals, _ = code.residuals(output[i].double(), held_z[i].double())
        moments = residuals.mT @ residuals / len(residuals)
        lower = torch.linalg.cholesky(moments + 1e-9 * torch.eye(len(moments)).to(moments))
        one = tree_map(lambda leaf, i=i: leaf[i : i + 1], pixels)
        found.append(Auxiliary(code, one, stack.one(i), lower))
    return found


def _pairs(view: View, count: int, noisy: bool) -> Pairs:
    z = view.sampled(count)
    outputs = [view.objective.decode(view.parameters, codes) for codes in z.split(CHUNK)]
    likelihood, source = view.objective.likelihood, view.random("channel")
    made = [likelihood.sample(output, source) if noisy else likelihood.mean(output) for output in outputs]
    return Pairs(torch.cat(made).flatten(1), z[:, : view.encoder.coded(view.latent_dim)])


def _made(noisy: bool) -> Callable[[Sequence[View]], list[Auxiliary | str]]:
    def fitted(views: Sequence[View], pairs: Sequence[Pairs]) -> list[Auxiliary]:
        codes = [Code.of(view, p.z) for view, p in zip(views, pairs, strict=True)]
        return encoders(pairs, codes, [v.on("train").random("auxiliary", str(noisy)) for v in views])

    return lambda views: in_parts(views, lambda view: _pairs(view.on("train"), _PAIRS, noisy), fitted)


def _bound(view: View, noisy: bool) -> Estimate:
    if why := view.postponed:
        return undefined(why)
    entropy = view.prior.entropy(view.prior_tensors)
    if entropy is None and not view.prior.density:
        return undefined(f"a {view.prior.name} prior has no known entropy")
    encoder = view.together(f"auxiliary {noisy}", _made(noisy))
    if isinstance(encoder, str):
        return undefined(encoder)
    pairs = _pairs(view, _SCORED, noisy)
    if not finite(*pairs):
        return undefined("generated images are not finite")
    log_q = encoder.log_prob(*pairs)
    if view.prior.density:
        # of the same codes, so that what they have in common cancels
        ratio = log_q - view.prior.log_prob(view.prior_tensors, pairs.z).double()
    else:
        assert entropy is not None
        ratio = log_q + float(entropy)
    value, error = float(ratio.mean()), float(ratio.std()) / math.sqrt(len(ratio))
    if not value > 0:
        return undefined(f"vacuous: the bound is {value:.3g}, below zero")
    return Estimate(value, error, estimator="lower bound by an encoder fitted to generated pairs")


@metric(METRICS["mi_p"])
def mi_p(view: View) -> Estimate:
    """I_p(x, z) of the noisy channel: z from the prior, x drawn from p(x|z)."""
    likelihood = view.objective.likelihood
    if type(likelihood).sample is Likelihood.sample:
        return undefined(f"a likelihood of {likelihood.name} draws no images")
    return _bound(view, True)


@metric(METRICS["mi_p_mean"])
def mi_p_mean(view: View) -> Estimate:
    """The same of the generator's mean image: z from the prior, x = E[x|z]."""
    return _bound(view, False)
