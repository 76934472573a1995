"""What is to be said of values that are not to be trusted: each check gives a line, or nothing."""

from __future__ import annotations

import math

from gimtune.metrics.view import View

#: Share of examples above which a critic leaves too little overlap for an estimate.
_APART = 0.95
#: Nats by which estimates of no information lie around it.
_NOTHING = 0.5
#: In standard deviations of the prior.
_FAR = 20.0
#: Test accuracy of a classifier whose features say something of images.
_SEEING = 0.8


def below_zero(value: float, error: float) -> str:
    """Of a divergence: it is negative by more than twice its standard error."""
    return f"below zero by {-value / error:.0f} standard errors" if error > 0 and value < -2 * error else ""


def negative(nats: float) -> str:
    """Of information that is estimated from samples: it is below zero by more than noise around nothing."""
    return f"{nats:.3g} nats, where information is never below zero: no estimate" if nats < -_NOTHING else ""


def told_apart(accuracy: float) -> str:
    """Of a critic's estimate: it tells nearly all examples apart."""
    return f"its critic tells {accuracy:.1%} apart: no estimate" if accuracy > _APART else ""


def far(view: View) -> str:
    """Of what is said of codes: one of them is where the prior gives none."""
    if view.prior.images:
        return ""
    deviation = view.prior.variance(view.prior_tensors).sqrt()
    furthest = float((view.posterior.z.abs() / deviation).max())
    return f"a code is {furthest:.0f} standard deviations of the prior from zero" if furthest > _FAR else ""


def blind(network: object) -> str:
    """Of a distance of features: the network that they are of hardly knows the classes that it was trained on."""
    accuracy = getattr(network, "test_accuracy", math.nan)
    return (
        f"its features tell {accuracy:.0%} of test images' classes: they hardly see them" if accuracy < _SEEING else ""
    )


def joined(*flags: str) -> str:
    """Several as one."""
    return "; ".join(flag for flag in flags if flag)
