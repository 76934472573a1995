"""Each prior's density, samples, entropy, extent and marginals against each other and against SciPy."""

import math

import numpy as np
import pytest
import reference
import torch
from helpers import member
from scipy import stats

from gimtune.algebra.divergences import gaussian_log_prob
from gimtune.algebra.objective import Objective
from gimtune.algebra.priors import PRIORS, make_prior

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


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_heavy_is_what_falls_more_slowly_than_a_gaussian(name, options):
    prior, tensors = build(name, options)
    if prior.bounded or not prior.density:
        assert not prior.heavy
        return
    # the log-density of a Gaussian falls by four times as much at twice as far, that of exponential tails by twice
    far = 1000 * prior.variance(tensors).sqrt()
    near, further = (
        float(prior.log_prob(tensors, (k * far)[None]) - prior.log_prob(tensors, 0 * far[None])) for k in (1, 2)
    )
    assert prior.heavy == (further / near < 3)


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


# Priors that are learned, or have no density


def learned(name, latent_dim=DIM, pixels=16, **options):
    """A prior with learned parameters at their start, and the tensors that its methods take, in float64."""
    prior = make_prior(name, **options)
    start = prior.initial(latent_dim, pixels, torch.Generator().manual_seed(0))
    start = {key: value.double() for key, value in start.items()}
    weight = torch.randn(pixels, latent_dim, generator=torch.Generator().manual_seed(1)).double()

    def encode(x):
        return x @ weight, torch.full((len(x), latent_dim), 0.3).double()

    fixed = {key: value.double() for key, value in prior.parameters(latent_dim).items()}
    return prior, start, encode, prior.tensors(fixed, start, encode)


@pytest.mark.parametrize("name", ["learned_mixture", "vamp"])
def test_density_of_a_learned_prior_is_that_of_its_components(name):
    prior, _, _, tensors = learned(name, components=7)
    z = draw(prior, tensors, 500)
    assert tensors["means"].shape == tensors["scale"].shape == (7, DIM)
    parts = [
        stats.norm.logpdf(z.numpy(), m, s).sum(1)
        for m, s in zip(tensors["means"].numpy(), tensors["scale"].numpy(), strict=True)
    ]
    expected = np.logaddexp.reduce(parts, 0) - math.log(7)
    np.testing.assert_allclose(prior.log_prob(tensors, z).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["learned_mixture", "vamp"])
def test_draws_of_a_learned_prior_have_its_moments(name):
    prior, _, _, tensors = learned(name)
    z, spread = draw(prior, tensors), prior.variance(tensors)
    error = 3 * (spread / DRAWS).sqrt()
    assert bool(((z.mean(0) - tensors["means"].mean(0)).abs() < error).all())
    # kurtosis of a mixture that is wider than its components is below that of a normal: its variance errs less
    assert bool(((z.var(0) / spread - 1).abs() < 3 * math.sqrt(2 / DRAWS)).all())


def test_a_vamp_prior_is_the_posteriors_of_its_pseudo_inputs():
    _, start, encode, tensors = learned("vamp", components=5)
    mu, sigma = encode(start["inputs"])
    assert tensors["means"].equal(mu)
    assert tensors["scale"].equal(sigma)


@pytest.mark.parametrize(("likelihood", "inside"), [("gaussian", True), ("real_gaussian", False)])
def test_pseudo_inputs_lie_where_the_data_do(likelihood, inside):
    objective = Objective(member("vae", prior={"name": "vamp"}, likelihood=likelihood), (1, 1, 6))
    seen = objective._input(torch.tensor([[-3.0, 3.0, 0.5, 0.0, 1.0, 2.0]]))
    assert seen.shape == (1, 1, 1, 6)
    assert bool(((seen > 0) & (seen < 1)).all()) is inside


def test_an_infogan_code_is_one_hot_uniform_and_noise():
    prior = make_prior("infogan_code", categories=4, continuous=2)
    tensors = prior.parameters(9)
    z = prior.sample(tensors, prior.noise(DRAWS, 9, torch.Generator().manual_seed(0)))
    choice, rest = z[:, :4], z[:, 4:]
    assert bool((choice.sum(1) == 1).all())
    assert bool(((choice == 0) | (choice == 1)).all())
    # 3 standard errors of a share of 1/4
    assert bool(((choice.mean(0) - 0.25).abs() < 3 * math.sqrt(0.25 * 0.75 / DRAWS)).all())
    assert float(rest.abs().max()) <= 1
    assert float(prior.entropy(tensors)) == pytest.approx(math.log(4) + 2 * math.log(2), rel=1e-6)  # float32
    np.testing.assert_allclose(z.var(0).numpy(), prior.variance(tensors).numpy(), rtol=0.03)
    # the noise of two dimensions is independent of the code
    assert float(torch.corrcoef(torch.cat([choice[:, :1], rest], 1).T)[0, 1:].abs().max()) < 4 / math.sqrt(DRAWS)
    with pytest.raises(ValueError, match="latent_dim=5: the code alone has 4 \\+ 2 dimensions"):
        prior.parameters(5)


def test_a_domain_prior_draws_its_images_alike():
    prior, images = make_prior("domain"), torch.eye(5)
    z = prior.sample({"images": images}, prior.noise(DRAWS, 5, torch.Generator().manual_seed(0)))
    assert bool((z.sum(1) == 1).all())
    assert bool(((z.mean(0) - 0.2).abs() < 3 * math.sqrt(0.2 * 0.8 / DRAWS)).all())


@pytest.mark.parametrize("name", ["infogan_code", "domain"])
def test_a_prior_without_a_density_has_none(name):
    prior = make_prior(name)
    with pytest.raises(ValueError, match="it has no density"):
        prior.log_prob({}, torch.zeros(1, 12))
