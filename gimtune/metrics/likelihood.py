"""The terms of the loss on a split: likelihoods of both sides, restrictions, and how well critics tell apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from gimtune.algebra.objective import batches, slice_noise
from gimtune.algebra.restrictions import RESTRICTIONS
from gimtune.metrics import flags
from gimtune.metrics.measures import metric
from gimtune.metrics.view import CHUNK, Estimate, View
from gimtune.vocabulary import METRICS, Match, Member, Side

#: Matches that say something of codes, and nothing where these are far from the prior.
_OF_CODES = (Match.POSTERIOR, Match.LATENT)


def _own(member: Member) -> list[str]:
    used = [RESTRICTIONS[Match(match), divergence] for match, divergence, _ in member.restrictions]
    judged = [r.key for r in used if r.critic and r.critic.divergence.threshold is not None]
    return [*(f"restriction/{r.key}" for r in used), *(f"critic_accuracy/{key}" for key in judged)]


@metric(METRICS["likelihood_x"], METRICS["restriction"], more=_own)
def terms(view: View) -> dict[str, Estimate]:
    """E_q[log p(x|z)] and the restrictions by minibatches as in training, and the share that a critic gets right."""
    objective, parameters, constants, member = view.objective, view.parameters, view.constants, view.member
    count = len(view.labels)
    parts = batches(count, member.batch_size)
    noise = objective.noise((member.seed, "formula", view.split), count, len(parts), view.data.device)
    sums = torch.zeros(1 + len(objective.restrictions), dtype=torch.float64, device=view.data.device)
    accuracies: dict[str, float] = {}
    losses: list[float] = []
    by_batch: list[list[float]] = []
    for i, part in enumerate(parts):
        draws = {k: v[0] for k, v in slice_noise({k: v[None] for k, v in noise.items()}, part, i).items()}
        x, share = view.data.scaled(view.split, part), (part.stop - part.start) / count
        batch = objective.terms(parameters, constants, x, draws)
        losses.append(float(batch.loss))
        by_batch.append(batch.divergences.tolist())
        likelihood = batch.likelihood
        if view.side is not Side.Q:
            likelihood = objective.log_prob_x(parameters, x, view.posterior.z[part]).mean()
        sums += share * torch.cat([likelihood[None], batch.divergences])
        for name, value in objective.accuracies(parameters, constants, x, draws).items():
            accuracies[name] = accuracies.get(name, 0.0) + share * float(value)
    divergences = sums[1:]
    view.once(("losses", view.split), lambda: losses)
    of_critic = (
        "Gaussian of the critic's features, in units of their deviation" if objective.likelihood.of_critic else ""
    )
    values = {
        "likelihood_x": Estimate(float(sums[0]), estimator=of_critic),
        "restriction": Estimate(float((constants.weights * divergences).sum())),
    }
    for restriction, value, own in zip(
        objective.restrictions, divergences.tolist(), zip(*by_batch, strict=True), strict=True
    ):
        flag = flags.joined(
            flags.below_zero(value, _error(own)),
            flags.told_apart(accuracies.get(restriction.key, 0.0)),
            flags.far(view) if restriction.match in _OF_CODES else "",
        )
        values[f"restriction/{restriction.key}"] = Estimate(
            value, flag=flag, estimator=restriction.estimated(view.prior)
        )
    return values | {f"critic_accuracy/{name}": Estimate(value) for name, value in accuracies.items()}


@metric(METRICS["likelihood_z"])
def likelihood_z(view: View) -> Estimate:
    """E_p[log q(z|x)] at the decoder's means of codes from the prior."""
    pairs = zip(view.generated.split(CHUNK), view.prior_codes.split(CHUNK), strict=True)
    log_q = torch.cat([view.objective.log_prob_z(view.parameters, x, z) for x, z in pairs])
    return Estimate(float(log_q.double().mean()), estimator="" if view.encoder.gaussian else view.encoder.estimator)


@metric(METRICS["likelihood"])
def likelihood(view: View) -> float:
    """The likelihood of the model's side, or of both."""
    keys = {Side.Q: ("likelihood_x",), Side.P: ("likelihood_z",)}.get(view.side, ("likelihood_x", "likelihood_z"))
    return sum(view.value(key) for key in keys)


@metric(METRICS["loss"])
def loss(view: View) -> Estimate:
    """What the model minimises, with the standard error of its mean over minibatches, NaN of a single one.

    Of few minibatches the error is itself uncertain. On side p it is larger than the value's own: minibatches generate
    as many images as the split has, and the likelihood's mean is over all that are generated.
    """
    value = view.value("restriction") - view.value("likelihood")
    # by minibatches: some restrictions are of several codes together, and have no value for an image
    losses = view.once(("losses", view.split), list[float])
    return Estimate(value, _error(losses))


def _error(values: Sequence[float]) -> float:
    """Standard error of a mean over minibatches; NaN of a single one, or where one is not finite."""
    known = len(values) > 1 and all(map(math.isfinite, values))
    return statistics.stdev(values) / math.sqrt(len(values)) if known else math.nan
