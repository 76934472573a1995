"""Likelihoods against SciPy, torch and their own normalisation."""

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gimtune.algebra.likelihoods import LIKELIHOODS, Gaussian

LOGITS = st.floats(-50, 50)
GREY = st.floats(0, 1)


def images(*values):
    """Images of one pixel, (n, 1, 1, 1), float64."""
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


def density(likelihood, logit):
    """x -> p(x) of one pixel, for arrays of any shape."""

    def function(x):
        pixels = images(*x.ravel())
        return likelihood.log_prob(pixels, torch.full_like(pixels, logit)).exp().numpy().reshape(x.shape)

    return function


@given(logit=LOGITS, binary=st.sampled_from([0.0, 1.0]))
def test_bernoulli_equals_scipy(logit, binary):
    value = LIKELIHOODS["bernoulli"].log_prob(images(binary), images(logit))
    # log p by the logistic function's logarithm: scipy's own pmf goes by p and has lost its digits beyond 30; torch
    # takes log(1 + e^-a) and terms of size a, which round at 50 x 2e-16
    assert float(value) == pytest.approx(stats.logistic.logcdf(logit if binary else -logit), rel=1e-12, abs=2e-14)
    if abs(logit) < 10:
        probability = 1 / (1 + math.exp(-logit))
        assert float(value) == pytest.approx(stats.bernoulli.logpmf(binary, probability), rel=1e-9)  # 1 - p cancels


@given(logit=LOGITS, grey=GREY)
def test_bernoulli_on_grey_values_is_the_cross_entropy(logit, grey):
    value = LIKELIHOODS["bernoulli"].log_prob(images(grey), images(logit))
    expected = grey * stats.logistic.logcdf(logit) + (1 - grey) * stats.logistic.logcdf(-logit)
    assert float(value) == pytest.approx(expected, rel=1e-10, abs=1e-12)  # two terms of opposite growth


@given(logit=LOGITS)
def test_continuous_bernoulli_integrates_to_one(logit):
    # 24 nodes for every factor of e^(50 / 32): exact up to rounding
    mass = reference.integrate(density(LIKELIHOODS["continuous_bernoulli"], logit), np.linspace(0, 1, 33))
    assert mass == pytest.approx(1, abs=1e-12)


@given(logit=LOGITS)
def test_mean_of_the_continuous_bernoulli_is_its_first_moment(logit):
    likelihood = LIKELIHOODS["continuous_bernoulli"]
    p = density(likelihood, logit)
    expected = reference.integrate(lambda x: x * p(x), np.linspace(0, 1, 33))
    # the series below a logit of 0.5 leaves 0.5^9 / 5e7 = 4e-11
    assert float(likelihood.mean(images(logit))) == pytest.approx(expected, abs=1e-10)
    single = likelihood.mean(torch.tensor([logit], dtype=torch.float32))
    # 1 / a - 1 / tanh(a / 2) cancels in float32, from at most 2 units each
    assert float(single) == pytest.approx(expected, abs=1e-6)


@given(logit=st.floats(-12, 12), grey=GREY)
def test_continuous_bernoulli_equals_torch_where_that_is_exact(logit, grey):
    value = LIKELIHOODS["continuous_bernoulli"].log_prob(images(grey), images(logit))
    theirs = torch.distributions.ContinuousBernoulli(logits=images(logit)).log_prob(images(grey))
    assert float(value) == pytest.approx(float(theirs), abs=1e-9)  # their 1 - 2p loses e^12 units of 2e-16


@given(logit=LOGITS, grey=GREY)
def test_continuous_bernoulli_keeps_its_digits_in_float32(logit, grey):
    # torch's own class is wrong by 1.3 nats at a logit of 60, where p is 1 in float32
    likelihood = LIKELIHOODS["continuous_bernoulli"]
    single = [image.float() for image in (images(grey), images(logit))]
    double = [image.double() for image in single]
    value, expected = float(likelihood.log_prob(*single)), float(likelihood.log_prob(*double))
    assert value == pytest.approx(expected, rel=2e-7, abs=1e-6)  # 2 units of the last place; terms of order 1 cancel


def test_continuous_bernoulli_has_a_gradient_at_zero():
    logit = torch.zeros(1, 1, 1, 1, requires_grad=True)
    LIKELIHOODS["continuous_bernoulli"].log_prob(torch.full((1, 1, 1, 1), 0.8), logit).sum().backward()
    # d log p / d logit = x - E[x], and E[x] = 1/2 there
    assert logit.grad.item() == pytest.approx(0.3, abs=1e-7)


@given(output=st.floats(-20, 20), grey=GREY, variance=st.floats(0.01, 4))
def test_gaussian_equals_scipy(output, grey, variance):
    value = Gaussian(variance).log_prob(images(grey), images(output))
    mean = 1 / (1 + math.exp(-output))
    assert float(value) == pytest.approx(stats.norm.logpdf(grey, mean, math.sqrt(variance)), rel=1e-12, abs=1e-12)
    linear = Gaussian(variance, link=lambda out: out).log_prob(images(grey), images(output))
    assert float(linear) == pytest.approx(stats.norm.logpdf(grey, output, math.sqrt(variance)), rel=1e-12, abs=1e-12)


def test_gaussian_at_half_is_the_squared_error_and_a_constant():
    source = torch.Generator().manual_seed(0)
    x, output = torch.rand(2, 5, 3, 4, 4, generator=source, dtype=torch.float64)
    value = -LIKELIHOODS["gaussian"].log_prob(x, output)
    squared = (x - output.sigmoid()).square().sum((1, 2, 3))
    torch.testing.assert_close(value, squared + 24 * math.log(math.pi), rtol=1e-12, atol=0)  # sums of 48 terms


# features are in units of their own deviation over the minibatch: no image stands by itself there
@pytest.mark.parametrize("name", sorted(name for name in LIKELIHOODS if not LIKELIHOODS[name].of_critic))
def test_pixels_are_summed_and_images_are_not(name):
    source = torch.Generator().manual_seed(1)
    x, output = torch.rand(2, 6, 1, 4, 4, generator=source, dtype=torch.float64)
    value = LIKELIHOODS[name].log_prob(x, output)
    pixels = LIKELIHOODS[name].log_prob(x.reshape(-1, 1, 1, 1), output.reshape(-1, 1, 1, 1)).reshape(6, 16)
    torch.testing.assert_close(value, pixels.sum(1), rtol=1e-12, atol=0)  # one sum, in another order
    assert LIKELIHOODS[name].mean(output).shape == output.shape
