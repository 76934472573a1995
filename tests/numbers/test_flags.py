"""Values that are not to be trusted say so: each flag where its fault is planted, and not where there is none."""

import math
from types import SimpleNamespace

import pytest
import torch
from helpers import member

from gimtune.algebra.objective import Objective
from gimtune.metrics import flags
from gimtune.metrics.kernel import kid
from gimtune.training.pack import Pack


def planted(evaluation, one, **shifts):
    """A view of an untrained member with the biases of modules' last layers shifted."""
    pack = Pack([one], evaluation.data)
    with torch.no_grad():
        for module, shift in shifts.items():
            layers = pack.parameters[module]
            # of an encoder the means alone
            layers[max(name for name in layers if name.endswith("bias"))][..., :4] += shift
    return evaluation.view(pack.objective, pack.one(0), one, "test")


def test_what_is_said_of_values():
    assert flags.below_zero(-0.3, 0.1) == "below zero by 3 standard errors"
    assert not flags.below_zero(-0.19, 0.1)
    assert not flags.below_zero(0.3, 0.1)
    assert not flags.below_zero(-0.3, math.nan)
    assert "96.0% apart" in flags.told_apart(0.96)
    assert not flags.told_apart(0.95)
    assert flags.joined("", "a", "", "b") == "a; b"


def test_a_kl_below_zero(small):
    key = "restriction/posterior_kl_contrast"
    found = planted(small, member("avb"), posterior_kl_contrast=-100.0).estimate(key)
    assert found.value < 0
    assert "below zero by" in found.flag
    # as much above zero is nothing that could not be
    found = planted(small, member("avb"), posterior_kl_contrast=100.0).estimate(key)
    assert found.value > 0
    assert "below zero" not in found.flag


@pytest.mark.parametrize(("accuracy", "flagged"), [(0.96, True), (0.94, False)])
def test_a_critic_that_tells_nearly_all_apart(small, monkeypatch, accuracy, flagged):
    monkeypatch.setattr(Objective, "accuracies", lambda *_: {"latent_js": torch.tensor(accuracy)})
    view = planted(small, member("aae"))
    assert ("apart" in view.estimate("restriction/latent_js").flag) == flagged
    assert not view.estimate("likelihood_x").flag


@pytest.mark.parametrize(
    ("model", "key"),
    [("vae", "posterior_kl"), ("wvae", "posterior_w2"), ("wae_mmd", "latent_mmd"), ("aae", "latent_js")],
)
def test_codes_far_from_the_prior(small, model, key):
    # in standard deviations: the Laplace prior's is the square root of 2
    for shift, prior, flagged in ((26.0, "normal", True), (26.0, "laplace", False), (32.0, "laplace", True)):
        view = planted(small, member(model, prior={"name": prior}), encoder=shift)
        assert ("standard deviations of the prior" in view.estimate(f"restriction/{key}").flag) == flagged, prior
        assert not view.estimate("likelihood_x").flag


def test_a_restriction_of_images_says_nothing_of_codes(small):
    found = planted(small, member("infogan"), encoder=40.0).estimate("restriction/data_js")
    assert "prior" not in found.flag


def test_a_kernel_distance_below_zero():
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    other = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))

    # features of the same images on both sides: pairs of equal ones make the distance negative
    def of(generated):
        view = {"features": features, "generated_features": generated, "split": "test"}
        return kid(SimpleNamespace(**view, kept=lambda key, make: make()))

    same = of(features)
    assert same.value < 0
    assert "below zero by" in same.flag
    assert not of(other).flag
