"""The ruler: divergences of codes and of images by fresh critics, the same for every model.

The critic that a model was trained against reports what it lost in that game. Here a classifier of a fixed architecture
and budget is trained anew on samples of the training split, chosen on a held-out part of it, and scored on the split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gimtune.algebra.divergences import LN2, softplus
from gimtune.metrics import flags
from gimtune.metrics.fitted import Budget, Stack, finite, fit, in_parts, minibatches, whole, widened
from gimtune.metrics.measures import metric
from gimtune.metrics.view import Estimate, View, spaced, undefined
from gimtune.training import Step
from gimtune.vocabulary import METRICS

#: Of the critics of codes, and of images.
CODES = Budget((32, 32), 250)
IMAGES = Budget((64, 64), 200)
#: Samples of the model that a critic is trained on; as many codes of training images, by several draws if need be.
_SAMPLES = 5000
#: Codes from the prior that a critic is scored on.
_SCORED = 10_000
#: Training images that are looked at, at most; one in five is held out.
_REAL, _HELD = 10_000, 5
#: Codes with more dimensions are made equal in scale and not whitened.
_WHITENED = 64
#: Codes and posteriors of the estimate of KL(q(z) || p(z)), at most.
_POINTS, _CENTRES = 2000, 5000
#: Deviations of the noise that smooths the mixture of posteriors, as multiples of the codes' own.
_WIDTHS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
_CHUNK = 250
_SUREST = 8.0
_STEP = Step()
_TEMPERS = torch.linspace(0, 1.25, 26, dtype=torch.float64)


class Whitened(NamedTuple):
    """Means (M, 1, d) of two samples of codes, and matrices (M, d, d) that whiten each."""

    means: tuple[Tensor, Tensor]
    roots: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, q: Tensor, p: Tensor) -> Self:
        """Of samples (M, n, d)."""
        # a dimension without spread has no scale of its own
        least = 1e-6 * torch.maximum(q.var(1), p.var(1)).double() + 1e-20
        roots = []
        for sample in (q, p):
            # one by one: batched products round by their number
            covariances = [torch.cov(one.double().T).reshape(one.shape[1], -1) for one in sample]
            lower = [torch.linalg.cholesky(c + extra.diag()) for c, extra in zip(covariances, least, strict=True)]
            inverse = [torch.linalg.solve_triangular(a, torch.eye(len(a)).to(a), upper=False) for a in lower]
            roots.append(torch.stack(inverse).mT.to(q.dtype).contiguous())
        return cls((q.mean(1, keepdim=True), p.mean(1, keepdim=True)), (roots[0], roots[1]))

    def __call__(self, samples: Tensor) -> Tensor:
        """Codes (M, n, d) on the scale of either sample with their squares, which tell Gaussians apart; no long tails.

        The map is one-to-one, so that it loses nothing of a divergence.
        """
        both = torch.cat([(samples - m) @ root for m, root in zip(self.means, self.roots, strict=True)], -1)
        return widened(torch.cat([both.asinh(), both.square().clamp(max=25)], -1))


class Scaled(NamedTuple):
    """Mean and deviation of samples together, (M, 1, k)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, *samples: Tensor) -> Self:
        """Of samples (M, n, k)."""
        both = torch.cat(samples, 1)
        deviation = both.std(1, keepdim=True)
        return cls(both.mean(1, keepdim=True), torch.where(deviation > 0, deviation, 1.0))

    def straight(self, samples: Tensor) -> Tensor:
        """Samples (M, n, k), of mean 0 and deviation 1."""
        return widened((samples - self.mean) / self.deviation)

    def __call__(self, samples: Tensor) -> Tensor:
        """The same without long tails."""
        return self.straight(samples).asinh()


class Critic(NamedTuple):
    """A classifier of two samples: its logits are log q/p, times a factor that was chosen on held-out samples."""

    scale: Whitened | Scaled
    stack: Stack
    temper: float

    def logits(self, samples: Tensor) -> Tensor:
        """Of samples (n, k), before they are tempered: (n,), float64."""
        # no surer than held-out samples can show: one that lies where none was would else decide the mean
        return self.stack(self.scale(samples[None]))[0, :, 0].double().clamp(-_SUREST, _SUREST)

    def js(self, q: Tensor, p: Tensor) -> Estimate:
        """JS(q || p) of other samples (n, k), (m, k): in expectation a lower bound."""
        under_q, under_p = self.logits(q), self.logits(p)
        # the untempered critic has an error even where it is found to be worth nothing, and the value is zero
        errors = (softplus(-under_q), softplus(under_p))
        error = 0.5 * math.sqrt(sum(float(e.var()) / len(e) for e in errors))
        lost = softplus(-self.temper * under_q).mean() + softplus(self.temper * under_p).mean()
        value = LN2 - 0.5 * float(lost)
        return Estimate(value, error, flag=flags.below_zero(value, error))


class Samples(NamedTuple):
    """Two samples to train a critic on and two to choose it by, (n, k) each."""

    q: Tensor
    p: Tensor
    held_q: Tensor
    held_p: Tensor

    @classmethod
    def split(cls, q: Tensor, p: Tensor) -> Self:
        """Of draws q (r, n, k) for n images, one in five of which is held out, and p (m, k)."""
        held_q = torch.arange(q.shape[1], device=q.device) % _HELD == _HELD - 1
        held_p = torch.arange(len(p), device=p.device) % _HELD == _HELD - 1
        parts = q[:, ~held_q].flatten(0, 1), p[~held_p], q[:, held_q].flatten(0, 1), p[held_p]
        return cls(*map(whole, parts))


def critics(
    samples: Sequence[Samples], scale: type[Whitened | Scaled], sources: Sequence[torch.Generator], budget: Budget
) -> list[Critic]:
    """One for each member, trained together."""
    q, p, held_q, held_p = (torch.stack(part) for part in zip(*samples, strict=True))
    made = scale.of(q, p)
    q, p, held_q, held_p = (made(part) for part in (q, p, held_q, held_p))
    rows_q = minibatches(q.shape[1], budget, "q", q.device)
    rows_p = minibatches(p.shape[1], budget, "p", p.device)

    def examples(step: int) -> tuple[Tensor, ...]:
        return (torch.cat([q[:, rows_q[step]], p[:, rows_p[step]]], 1),)

    def loss(stack: Stack, both: Tensor) -> Tensor:
        under_q, under_p = stack(both).squeeze(-1).chunk(2, 1)
        return softplus(-under_q).mean(1) + softplus(under_p).mean(1)

    def logits(stack: Stack) -> tuple[Tensor, Tensor]:
        return stack(held_q).squeeze(-1).double(), stack(held_p).squeeze(-1).double()

    def score(stack: Stack) -> Tensor:
        return _loss(*logits(stack))

    stack, _ = fit(Stack.start(q.shape[-1], 1, budget, sources), loss, examples, score, budget, _STEP)
    under_q, under_p = logits(stack)
    losses = torch.stack([_loss(t * under_q, t * under_p) for t in _TEMPERS.to(q.device)])
    tempers = _TEMPERS[losses.argmin(0).cpu()]
    return [
        Critic(tree_map(lambda leaf, i=i: leaf[i : i + 1], made), stack.one(i), float(tempers[i]))
        for i in range(len(samples))
    ]


def _loss(under_q: Tensor, under_p: Tensor) -> Tensor:
    # row by row: a mean over many rows may be summed in another order than one over a single row
    both = zip(softplus(-under_q), softplus(under_p), strict=True)
    return torch.stack([a.mean() + b.mean() for a, b in both])


def _codes(view: View) -> Samples:
    """Codes of training images, and of the prior."""
    first, train = view.training.z, view.on("train")
    draws = -(-_SAMPLES // len(first)) if view.encoder.varies else 1
    more = [view.training_codes(f"ruler {i}") for i in range(1, draws)]
    return Samples.split(torch.stack([first, *more]), train.sampled(_SAMPLES))


def _images(view: View) -> Samples:
    """Training images, and generated ones."""
    train = view.on("train")
    real = view.training_images(_REAL).flatten(1)
    return Samples.split(real[None], _levels(view, train.decode(train.sampled(_SAMPLES))).flatten(1))


def _levels(view: View, images: Tensor) -> Tensor:
    # as the data are stored: else a critic would know images by grey values that are between theirs
    return images if view.data.vectors else (images * view.data.scale).round() / view.data.scale


def _trained(
    key: str, sampled: Callable[[View], Samples], scale: type[Whitened | Scaled], budget: Budget
) -> Callable[[Sequence[View]], list[Critic | str]]:
    """Critics of all views, or why there is none of one."""

    def fitted(views: Sequence[View], samples: Sequence[Samples]) -> list[Critic]:
        return critics(samples, scale, [v.on("train").random("ruler", key) for v in views], budget)

    return lambda views: in_parts(views, sampled, fitted)


def _repeated(view: View) -> str:
    # on the validation split the critic would be asked about images that it was trained on, also as held-out ones
    return (
        "the prior's images are too few to train a critic on some and ask it about others" if view.prior.images else ""
    )


@metric(METRICS["latent_js"])
def latent_js(view: View) -> Estimate:
    """JS(q(z), p(z)) by a fresh critic of codes."""
    if why := view.postponed or _repeated(view):
        return undefined(why)
    scale = Whitened if view.latent_dim <= _WHITENED else Scaled
    critic = view.together("latent critic", _trained("codes", _codes, scale, CODES))
    if isinstance(critic, str):
        return undefined(critic)
    if not finite(view.posterior.z):
        return undefined("codes of the split are not finite")
    found = critic.js(view.posterior.z, view.sampled(_SCORED))
    return found._replace(flag=flags.joined(found.flag, flags.far(view)))


@metric(METRICS["data_js"])
def data_js(view: View) -> Estimate:
    """JS(q(x), p(x)) by a fresh critic of images; generated ones are decoded means, as for the FID."""
    if why := view.postponed or _repeated(view):
        return undefined(why)
    critic = view.together("data critic", _trained("images", _images, Scaled, IMAGES))
    if isinstance(critic, str):
        return undefined(critic)
    if not finite(view.generated):
        return undefined("generated images are not finite")
    return critic.js(view.images.flatten(1), _levels(view, view.generated).flatten(1))


class Mixture(NamedTuple):
    """q(z) as the mixture of the posteriors of N training images, N(mu_n, diag sigma_n^2), (N, d) each.

    Attributes:
        width: of the noise in it, as a multiple of the codes' own deviations.
    """

    mu: Tensor
    sigma: Tensor
    width: float

    @staticmethod
    def of(mu: Tensor, sigma: Tensor, z: Tensor) -> Mixture:
        """Of training images' posteriors with a code each, (n, d); the width is what best foretells held-out codes."""
        held = torch.arange(len(mu), device=mu.device) % _HELD == _HELD - 1
        spread = z.std(0)

        def noised(width: float, chosen: Tensor | slice) -> Mixture:
            wide = (sigma[chosen].square() + (width * spread).square()).sqrt()
            return Mixture(mu[chosen][:_CENTRES], wide[:_CENTRES], width)

        codes = z[held][: _POINTS // 4]
        best = max(_WIDTHS, key=lambda width: float(noised(width, ~held).log_prob(codes).mean()))
        return noised(best, slice(None))

    def log_prob(self, z: Tensor) -> Tensor:
        """Of codes (n, d): (n,), float64."""
        centre = self.mu.double().mean(0)
        mu, precision = self.mu.double() - centre, self.sigma.double() ** -2
        constant = -0.5 * (mu.square() * precision - precision.log() + math.log(2 * math.pi)).sum(1) - math.log(len(mu))
        # the quadratic form as products of matrices; float64, since it cancels where sigma is small
        parts = [
            torch.logsumexp(part @ (mu * precision).T - 0.5 * part.square() @ precision.T + constant, 1)
            for part in (z.double() - centre).split(_CHUNK)
        ]
        return torch.cat(parts)

    def kl(self, z: Tensor, log_p: Tensor) -> Estimate:
        """E[log q(z) - log p(z)] over codes (n, d) of other images, with log p(z) of them, (n,)."""
        ratio = self.log_prob(z) - log_p
        value, error = float(ratio.mean()), float(ratio.std()) / math.sqrt(len(ratio))
        how = f"mixture of {len(self.mu)} training posteriors, widened by {self.width:g}: a lower bound"
        return Estimate(value, error, flag=flags.below_zero(value, error), estimator=how)


@metric(METRICS["latent_kl"])
def latent_kl(view: View) -> Estimate:
    """KL(q(z) || p(z)) at codes of the split's images, with q(z) taken for the mixture of the training posteriors.

    The bias is that of the mixture m, each of whose Gaussians is widened by what best foretells codes of held-out
    training images: E_q[log m - log p] falls short of the divergence by KL(q(z) || m), so it is a lower bound in
    expectation. Source: Hoffman & Johnson 2016, eq. 4; Chen et al. 2018, app. C (there over a minibatch, here over up
    to 5,000 images).
    """
    if why := view.postponed:
        return undefined(why)
    if not view.encoder.gaussian:
        return undefined(f"q(z|x) of an encoder that is {view.encoder.name} has no density in closed form")
    if not view.prior.density:
        return undefined(f"a {view.prior.name} prior has no density")
    if not finite(*view.training, *view.posterior):
        return undefined("codes are not finite")
    fitted = view.once("mixture of posteriors", lambda: Mixture.of(*view.training))
    codes = spaced(view.posterior.z, _POINTS)
    found = fitted.kl(codes, view.prior.log_prob(view.prior_tensors, codes).double())
    return found._replace(flag=flags.joined(found.flag, flags.far(view)))
