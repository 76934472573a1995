"""Why a restriction makes no sense with a prior and an encoder: each check gives a reason, or ``None``."""

from __future__ import annotations

from collections.abc import Callable

from gimtune.algebra.encoders import Encoder
from gimtune.algebra.priors import Prior
from gimtune.vocabulary import Side

Check = Callable[[Prior, Encoder], str | None]


def bounded(prior: Prior, encoder: Encoder) -> str | None:
    if prior.bounded:
        return f"a Gaussian posterior has mass outside the {prior.name} prior's support, so the KL is infinite"
    return None


def heavy(prior: Prior, encoder: Encoder) -> str | None:
    if prior.heavy:
        return (
            f"far out the log-density of a {prior.name} prior falls more slowly than that of the Gaussian of the "
            "encoder's moments, which the estimate rests on there: it falls below zero, and codes run away"
        )
    return None


def no_density(prior: Prior, encoder: Encoder) -> str | None:
    return None if prior.density else f"a {prior.name} prior has no density, which the divergence needs"


def not_gaussian(prior: Prior, encoder: Encoder) -> str | None:
    return None if encoder.gaussian else f"q(z|x) of an encoder that is {encoder.name} has no density in closed form"


def same_code(prior: Prior, encoder: Encoder) -> str | None:
    return None if encoder.varies else f"the KL of an encoder that is {encoder.name} is infinite"


def no_w2(prior: Prior, encoder: Encoder) -> str | None:
    if prior.quantile_moment() is None:
        return f"W2 from a {prior.name} prior has no closed form; latent/sliced_wasserstein has"
    return None


def unresolved(prior: Prior, encoder: Encoder) -> str | None:
    if not prior.resolved:
        return f"no fixed rule resolves the marginals of a {prior.name} prior; posterior/js_joint takes samples"
    return None


def no_closed_geometric(prior: Prior, encoder: Encoder) -> str | None:
    if not prior.gaussian:
        return f"the geometric JS is in closed form between Gaussians only, not for {prior.name}"
    return None


def no_gradient(prior: Prior, encoder: Encoder) -> str | None:
    if not encoder.differentiable:
        return "the one-hot part of an infogan_code has no gradient to the encoder; restrict data, on side p"
    return None


def refuses(side: Side, prior: Prior, encoder: Encoder, restricted: bool) -> str | None:
    """Why a side, a prior and an encoder make no sense together, whatever is restricted if anything; or ``None``."""
    if prior.learned and not restricted:
        return "without a restriction nothing looks at the prior, and a learned one would stay where it starts"
    if prior.learned and side is not Side.Q:
        return f"on side {side} the entropy of p(z) belongs to what is maximised, and a learned prior would change it"
    if prior.encoder == "code" and side is not Side.P:
        return f"a code that is partly discrete has no gradient to the encoder, which side {side} needs"
    if prior.posteriors and not encoder.gaussian:
        return f"it is made of posteriors, and q(z|x) of an encoder that is {encoder.name} has no density"
    return None
