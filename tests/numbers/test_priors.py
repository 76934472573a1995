"""Each prior's density, samples, entropy, extent and marginals against each other and against SciPy."""

import math

import numpy as np
import pytest
import reference
import torch
from scipy import stats

from gimtune.divergences import gaussian_log_prob
from gimtune.priors import PRIORS, make_prior

CASES = [
    ("normal", {"scale": 1.0}),
    ("normal", {"scale": 0.3}),
    ("uniform", {"scale": 2.0}),
    ("laplace", {"scale": 0.7}),
    ("mixture", {}),
    ("mixture", {"components": 9, "layout": "grid", "radius": 2.0, "scale": 0.4}),
    ("mixture", {"components": 1, "layout": "grid"}),
]
IDS = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options in CASES]
DIM = 3
DRAWS = 50_000


def build(name, options, latent_dim=DIM):
    prior = make_prior(name, **options)
    return prior, {key: value.double() for key, value in prior.parameters(latent_dim).items()}


def expected_marginals(name, options):
    options = {"scale": 0.5 if name == "mixture" else 1.0, **options}
    if options.get("components") == 1:
        return [reference.gaussian(0.0, options["scale"])] * 2 + [reference.gaussian(0.0, 1.0)]
    return reference.marginals(name, latent_dim=DIM, **options)


def draw(prior, tensors, count=DRAWS, seed=0):
    return prior.sample(tensors, prior.noise(count, DIM, torch.Generator().manual_seed(seed)).double())


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_marginals_equal_the_reference_and_integrate_to_one(name, options):
    prior, tensors = build(name, options)
    marginal = prior.marginal(tensors)
    for i, expected in enumerate(expected_marginals(name, options)):
        x = np.linspace(-4.05, 4.05, 200)
        points = torch.from_numpy(x)[:, None].expand(-1, DIM)
        # the prior's centres and scale were rounded to float32
        np.testing.assert_allclose(marginal.log_prob(points)[:, i].numpy(), expected.log_pdf(x), rtol=1e-5, atol=1e-5)

        def density(x, i=i):
            points = torch.from_numpy(np.clip(x, -1e3, 1e3)).reshape(-1, 1).expand(-1, DIM)
            return marginal.log_prob(points)[:, i].exp().numpy().reshape(x.shape)

        # the uniform's edge moves by its rounding in float32
        assert reference.integrate(density, expected.edges) == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_log_prob_of_codes(name, options):
    prior, tensors = build(name, options)
    z = draw(prior, tensors, 500)
    if name == "mixture" and options.get("components") != 1:
        where = {"components": 10, "radius": 3.0, "layout": "ring", **{k: options[k] for k in options if k != "scale"}}
        expected = reference.mixture_log_pdf(z.numpy(), options.get("scale", 0.5), **where)
    else:
        # a product of its marginals
        expected = sum(m.log_pdf(z[:, i].numpy()) for i, m in enumerate(expected_marginals(name, options)))
    np.testing.assert_allclose(prior.log_prob(tensors, z).numpy(), expected, rtol=1e-5, atol=1e-5)  # as above


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_samples_follow_the_marginals(name, options):
    prior, tensors = build(name, options)
    z = draw(prior, tensors).numpy()
    for i, expected in enumerate(expected_marginals(name, options)):
        edges = np.unique(expected.edges)

        def cumulative(x, expected=expected, edges=edges):
            fine = np.unique(np.concatenate([edges, np.linspace(edges[0], edges[-1], 20_001)]))
            middle, width = 0.5 * (fine[:-1] + fine[1:]), np.diff(fine)
            return np.interp(x, fine, np.concatenate([[0], np.cumsum(np.exp(expected.log_pdf(middle)) * width)]))

        # a fixed seed: passes or fails for good; one in a thousand of right samplers would fail
        assert stats.kstest(z[:, i], cumulative).pvalue > 1e-3


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_moments_of_samples(name, options):
    prior, tensors = build(name, options)
    z = draw(prior, tensors, seed=1)
    variance = prior.variance(tensors)
    # 3.5 standard errors of the mean and of the variance: six comparisons for each of seven priors
    error = (variance / DRAWS).sqrt()
    centre = prior.marginal(tensors).mean
    assert bool(((z.mean(0) - centre).abs() < 3.5 * error).all())
    spread = (z - centre).square()
    assert bool(((spread.mean(0) - variance).abs() < 3.5 * spread.std(0) / math.sqrt(DRAWS)).all())


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_entropy_equals_monte_carlo(name, options):
    prior, tensors = build(name, options)
    closed = prior.entropy(tensors)
    surprise = -prior.log_prob(tensors, draw(prior, tensors, seed=2))
    if closed is None:
        assert name == "mixture"
    else:
        # 1e-9: the uniform's surprise is constant
        assert abs(float(surprise.mean() - closed)) < 3 * float(surprise.std()) / math.sqrt(DRAWS) + 1e-9


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_extent_holds_the_mass(name, options):
    prior, tensors = build(name, options)
    low, high = prior.extent(tensors)
    for i, expected in enumerate(expected_marginals(name, options)):
        for a, b in [(expected.edges.min(), float(low[i])), (float(high[i]), expected.edges.max())]:
            if b - a > 1e-6:  # the reference reaches further than the extent
                outside = reference.integrate(lambda x, e=expected: np.exp(e.log_pdf(x)), np.linspace(a, b, 50))
                assert 0 <= outside < 1e-15


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_noise_is_the_generators_and_samples_are_finite(name, options):
    prior, tensors = build(name, options)
    one, two = (draw(prior, tensors, 1000, seed=3) for _ in range(2))
    assert bool((one == two).all())
    assert bool(one.isfinite().all())
    assert not bool((draw(prior, tensors, 1000, seed=4) == one).any())


@pytest.mark.parametrize("name", ["uniform", "laplace"])
def test_the_rarest_noise_gives_finite_codes(name):
    prior = make_prior(name)
    tensors = prior.parameters(DIM)
    ends = torch.tensor([2.0**-25, 1 - 2.0**-24]).reshape(2, 1).expand(2, DIM)
    z = prior.sample(tensors, ends)
    assert bool(z.isfinite().all())
    assert bool(prior.log_prob(tensors, z).isfinite().all())


def test_closed_kl_of_the_prior_from_itself():
    prior, tensors = build("normal", {"scale": 0.3})
    mu, sigma = torch.zeros(1, DIM).double(), tensors["scale"].expand(1, DIM)
    assert float(prior.gaussian_kl(tensors, mu, sigma)) == 0
    assert float(gaussian_log_prob(mu, mu, sigma)) == pytest.approx(float(prior.log_prob(tensors, mu)), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cauchy", {}, "prior='cauchy': allowed are normal, uniform, laplace, mixture"),
        ("normal", {"scale": 0}, r"prior.scale=0(\.0)?: normal takes a positive number"),
        ("normal", {"scale": math.nan}, "prior.scale=nan"),
        ("normal", {"scale": "wide"}, "prior.scale='wide': normal takes a positive number"),
        ("laplace", {"width": 1}, "prior.width=1: laplace takes scale"),
        ("mixture", {"components": 2.5}, "prior.components=2.5: mixture takes a whole number"),
        ("mixture", {"layout": "star"}, "prior.layout='star': mixture takes ring or grid"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_prior(name, **options)


def test_a_mixture_needs_two_dimensions():
    with pytest.raises(ValueError, match="latent_dim=1"):
        make_prior("mixture").parameters(1)


def test_members_that_differ_in_scale_share_a_pack():
    assert make_prior("normal", scale=1.0).shape_key == make_prior("normal", scale=2.0).shape_key
    assert make_prior("mixture", components=5).shape_key != make_prior("mixture", components=6).shape_key
    assert len({make_prior(name).shape_key for name in PRIORS}) == len(PRIORS)
