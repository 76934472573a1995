"""Every divergence against another way of computing it: quadrature, Monte Carlo, brute force, closed form."""

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gimtune.algebra import divergences as div
from gimtune.algebra.encoders import Posterior
from gimtune.algebra.priors import PRIORS, make_prior
from gimtune.algebra.restrictions import RESTRICTIONS, Sample
from gimtune.vocabulary import Match

MEANS = st.floats(-6, 6)
SIGMAS = st.floats(math.log(1e-3), math.log(5)).map(math.exp)
SCALES = st.floats(0.2, 4)
CLOSED = [name for name, kind in PRIORS.items() if kind.closed_kl]
#: Those whose marginals a fixed rule resolves: the others have no density, or move.
RESOLVED = sorted(name for name, kind in PRIORS.items() if kind.resolved)
PRODUCTS = ["normal", "uniform", "laplace"]


def parameters(prior, latent_dim=2, dtype=torch.float64):
    return {name: value.to(dtype) for name, value in prior.parameters(latent_dim).items()}


def exact(name, scale, latent_dim=2):
    """A prior and its tensors in float64, the scale not rounded to float32."""
    prior = make_prior(name, scale=scale)
    tensors = parameters(prior, latent_dim)
    if name == "mixture":
        tensors["means"][:, :2] = torch.from_numpy(reference.mixture_centres())
        tensors["scale"][:, :2] = scale
    else:
        tensors["scale"][:] = scale
    return prior, tensors


def sample(mu, sigma, z, prior_z, prior, tensors, directions=None):
    made = Sample(z, {"directions": directions}, None, None, prior, tensors)
    made.posterior, made.prior_z = Posterior(mu, sigma, z), prior_z
    return made


def pair(mu, sigma, latent_dim=2):
    """Means and standard deviations of one posterior, (1, d), float64."""
    return (torch.full((1, latent_dim), float(v), dtype=torch.float64) for v in (mu, sigma))


def no_critic(_):
    raise AssertionError("this restriction has no critic")


def within(values, expected, errors=3.0):
    """The mean of independent draws is within ``errors`` standard errors of what is expected."""
    values = np.asarray(values, dtype=np.float64)
    standard_error = values.std(ddof=1) / math.sqrt(values.size)
    assert abs(values.mean() - expected) < errors * standard_error, (values.mean(), expected, standard_error)


# KL


@pytest.mark.parametrize("name", CLOSED)
@given(mu=MEANS, sigma=SIGMAS, scale=SCALES)
def test_closed_kl_equals_quadrature(name, mu, sigma, scale):
    prior, tensors = exact(name, scale)
    value = prior.gaussian_kl(tensors, *pair(mu, sigma))
    q, p = reference.gaussian(mu, sigma), reference.marginals(name, scale)[0]
    # 57 x 24 nodes leave 1e-12; the Laplace density's kink is an edge; its tails beyond 50 scales are not reached
    assert float(value) == pytest.approx(2 * reference.kl(q, p), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize(("mu", "sigma", "scale"), [(0.0, 1.0, 1.0), (2.0, 0.3, 1.0), (-1.0, 2.0, 0.7)])
def test_closed_kl_equals_monte_carlo(name, mu, sigma, scale):
    prior, tensors = exact(name, scale, 3)
    noise = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    means, sigmas = torch.full_like(noise, mu), torch.full_like(noise, sigma)
    z = means + sigmas * noise
    ratios = div.gaussian_log_prob(z, means, sigmas) - prior.log_prob(tensors, z)
    closed = float(prior.gaussian_kl(tensors, means[:1], sigmas[:1]))
    if name == "normal" and mu == 0 and sigma == scale:
        assert closed == 0
        assert float(ratios.abs().max()) < 1e-12  # the two densities are one; rounding of sums of a few nats
    else:
        within(ratios, closed)


def test_kl_of_the_mixture_by_monte_carlo_equals_quadrature():
    prior, tensors = exact("mixture", 0.5)
    mu, sigma = torch.tensor([[1.0, -2.0]]).double(), torch.tensor([[0.4, 0.7]]).double()
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    weight = np.outer(weights, weights).ravel() / (2 * np.pi)
    z = mu.numpy() + sigma.numpy() * grid
    log_ratio = stats.norm.logpdf(z, mu, sigma).sum(1) - reference.mixture_log_pdf(z, 0.5)
    expected = float((weight * log_ratio).sum())

    codes = mu + sigma * torch.randn(100_000, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn = sample(mu.expand_as(codes), sigma.expand_as(codes), codes, codes[:0], prior, tensors)
    ratios = div.gaussian_log_prob(codes, mu, sigma) - prior.log_prob(tensors, codes)
    within(ratios, expected)
    value = RESTRICTIONS[Match.POSTERIOR, "kl"].value(drawn, no_critic)
    assert float(value) == pytest.approx(float(ratios.mean()), rel=1e-12)  # one formula, summed in another order


def test_kl_from_a_bounded_prior_is_refused():
    reason = RESTRICTIONS[Match.POSTERIOR, "kl"].refuses(make_prior("uniform"))
    assert "infinite" in reason


# Wasserstein


@pytest.mark.parametrize("name", PRODUCTS)
@given(mu=MEANS, sigma=SIGMAS, scale=SCALES)
def test_w2_equals_quadrature_of_quantile_functions(name, mu, sigma, scale):
    prior, tensors = exact(name, scale)
    value = div.wasserstein2_squared(*pair(mu, sigma), prior, tensors)
    family = {"normal": stats.norm, "uniform": stats.uniform(-1, 2), "laplace": stats.laplace}[name]

    def integrand(e):
        # u = Phi(e); upper tails by the survival function, which keeps their digits
        quantile = np.where(e < 0, family.ppf(stats.norm.cdf(e)), family.isf(stats.norm.sf(e)))
        return stats.norm.pdf(e) * (mu + sigma * e - scale * quantile) ** 2

    expected = 2 * reference.integrate(integrand, np.linspace(-12, 12, 97))
    # W2 is a difference of squares of size (6 + 5)^2: 1e-9 is what the Laplace moment's trapezoid rule leaves of it
    assert float(value) == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_w2_from_the_mixture_is_refused():
    prior, tensors = exact("mixture", 0.5)
    assert "closed form" in RESTRICTIONS[Match.POSTERIOR, "w2"].refuses(prior)
    with pytest.raises(ValueError, match="no closed form"):
        div.wasserstein2_squared(torch.zeros(1, 2), torch.ones(1, 2), prior, tensors)


def test_sliced_wasserstein_of_a_scaled_and_shifted_sample():
    source = torch.Generator().manual_seed(3)
    x = torch.randn(200, 3, generator=source, dtype=torch.float64)
    directions = torch.randn(50, 3, generator=source, dtype=torch.float64)
    shift = torch.tensor([1.0, -2.0, 0.5]).double()
    unit = directions / directions.norm(dim=1, keepdim=True)
    # the same order along every direction, so that the optimal coupling is the identity
    expected = (x @ unit.T - (0.7 * x + shift) @ unit.T).square().mean()
    assert float(div.sliced_wasserstein(x, 0.7 * x + shift, directions)) == pytest.approx(float(expected), rel=1e-12)


def test_sliced_wasserstein_of_gaussians():
    source = torch.Generator().manual_seed(4)
    shift = torch.tensor([1.0, -2.0, 0.5]).double()
    values = []
    for _ in range(40):
        x, y = torch.randn(2, 2000, 3, generator=source, dtype=torch.float64)
        directions = torch.randn(50, 3, generator=source, dtype=torch.float64)
        values.append(float(div.sliced_wasserstein(x, 0.5 * y + shift, directions)))
    # projections are Gaussians: (u . shift)^2 + (1 - 0.5)^2, and (u . shift)^2 is |shift|^2 / 3 on average over u. Two
    # samples of 2,000 add about 2 ln ln n / n = 2e-3, a tenth of the standard error
    within(values, float(shift.square().sum()) / 3 + 0.25)


# Jensen-Shannon


@pytest.mark.parametrize("name", RESOLVED)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-6),  # what the docstring promises; 2e-7 was seen
        (torch.float32, 5e-7),  # 8 units of the last place of ln 2; 2.5e-7 was seen
    ],
)
@given(mu=MEANS, sigma=SIGMAS, scale=SCALES)
def test_js_per_dimension_equals_fine_quadrature(name, dtype, tolerance, mu, sigma, scale):
    scale = max(scale, 0.4) if name == "mixture" else scale  # an eighth of the radius and a little
    prior, tensors = exact(name, scale)
    tensors = {k: v.to(dtype) for k, v in tensors.items()}
    value = float(div.js_per_dimension(*(v.to(dtype) for v in pair(mu, sigma)), prior, tensors))
    expected = sum(reference.js(reference.gaussian(mu, sigma), p) for p in reference.marginals(name, scale))
    assert abs(value - expected) < 2 * tolerance
    assert -2 * tolerance < value < 2 * (div.LN2 + tolerance)


@given(mu=MEANS, sigma=SIGMAS, scale=SIGMAS)
def test_js_is_symmetric(mu, sigma, scale):
    # JS(N(m, s) || N(0, t)) and JS(N(0, t) || N(m, s)), the second one moved by -m
    forward = div.js_per_dimension(*pair(mu, sigma), *exact("normal", scale))
    backward = div.js_per_dimension(*pair(-mu, scale), *exact("normal", sigma))
    assert float(forward) == pytest.approx(float(backward), abs=1e-6)  # its own quadrature's error, 2e-7 at most, twice


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-7)])
def test_js_of_equal_distributions_is_zero(dtype, tolerance):
    # ln 2 - ln 2: one or two units of the last place of ln 2 remain
    prior = make_prior("normal", scale=1.5)
    tensors = parameters(prior, 3, dtype)
    value = div.js_per_dimension(torch.zeros(4, 3, dtype=dtype), torch.full((4, 3), 1.5, dtype=dtype), prior, tensors)
    assert float(value.abs().max()) < 3 * tolerance


@pytest.mark.parametrize("name", RESOLVED)
@pytest.mark.parametrize("mu", [-40.0, 40.0])
def test_js_of_disjoint_distributions_is_ln2_with_a_finite_gradient(name, mu):
    prior = make_prior(name)
    tensors = prior.parameters(2)
    means = torch.full((1, 2), mu, requires_grad=True)
    sigmas = torch.full((1, 2), 1e-2, requires_grad=True)
    value = div.js_per_dimension(means, sigmas, prior, tensors)
    value.sum().backward()
    # two units of the last place per dimension
    assert value.item() == pytest.approx(2 * div.LN2, abs=2.5e-7)
    assert bool(means.grad.isfinite().all())
    assert bool(sigmas.grad.isfinite().all())


@pytest.mark.parametrize("name", RESOLVED)
def test_gradient_of_js_equals_differences_of_the_reference(name):
    prior, tensors = exact(name, 0.8)
    mu = torch.tensor([[0.4, -0.4]], dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([[0.5, 0.9]], dtype=torch.float64, requires_grad=True)
    div.js_per_dimension(mu, sigma, prior, tensors).sum().backward()
    step = 1e-4
    for i, p in enumerate(reference.marginals(name, 0.8)):
        m, s = mu[0, i].item(), sigma[0, i].item()

        def value(m, s, p=p):
            return reference.js(reference.gaussian(m, s), p)

        # central differences: step^2 = 1e-8 times a third derivative of order 1, and 1e-12 / step of rounding
        assert float(mu.grad[0, i]) == pytest.approx((value(m + step, s) - value(m - step, s)) / (2 * step), abs=1e-6)
        assert float(sigma.grad[0, i]) == pytest.approx(
            (value(m, s + step) - value(m, s - step)) / (2 * step), abs=1e-6
        )


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(("mu", "sigma"), [(0.5, 0.3), (-1.0, 1.5)])
def test_joint_js_by_monte_carlo_equals_quadrature_in_one_dimension(name, mu, sigma):
    prior, tensors = exact(name, 1.0, 1)
    source = torch.Generator().manual_seed(5)
    z = mu + sigma * torch.randn(200_000, 1, generator=source, dtype=torch.float64)
    prior_z = prior.sample(tensors, prior.noise(200_000, 1, source).double())
    means, sigmas = torch.full_like(z, mu), torch.full_like(z, sigma)

    def log_ratio(codes):
        return div.gaussian_log_prob(codes, means, sigmas) - prior.log_prob(tensors, codes)

    draws = div.js_from_log_ratio(log_ratio(z), log_ratio(prior_z))
    within(draws, reference.js(reference.gaussian(mu, sigma), reference.marginals(name, 1.0)[0]))
    value = RESTRICTIONS[Match.POSTERIOR, "js_joint"].value(
        sample(means, sigmas, z, prior_z, prior, tensors), no_critic
    )
    assert float(value) == pytest.approx(float(draws.mean()), rel=1e-12)  # one formula, summed in another order


def test_js_from_log_ratio_is_symmetric():
    under_q, under_p = torch.randn(2, 100, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    # names exchanged: log q/p becomes log p/q
    torch.testing.assert_close(div.js_from_log_ratio(under_q, under_p), div.js_from_log_ratio(-under_p, -under_q))


@given(mu=MEANS, sigma=st.floats(0.05, 5), scale=SCALES)
def test_geometric_js_equals_quadrature(mu, sigma, scale):
    q, p = reference.gaussian(mu, sigma), reference.gaussian(0.0, scale)
    edges = np.concatenate([q.edges, p.edges])
    mass = reference.integrate(lambda x: np.exp(0.5 * (q.log_pdf(x) + p.log_pdf(x))), edges)

    def middle(x):
        return 0.5 * (q.log_pdf(x) + p.log_pdf(x)) - math.log(mass)

    expected = 0.5 * sum(
        reference.integrate(lambda x, f=f: np.exp(f.log_pdf(x)) * (f.log_pdf(x) - middle(x)), edges) for f in (q, p)
    )
    tensor = [torch.full((1, 2), v, dtype=torch.float64) for v in (mu, sigma, scale)]
    value = div.js_geometric(tensor[0], tensor[1], tensor[2][0])
    assert float(value) == pytest.approx(2 * expected, rel=1e-8, abs=1e-10)  # 1e-12 of the mass, in its logarithm


def test_geometric_js_is_refused_beside_a_gaussian():
    assert all(
        bool(RESTRICTIONS[Match.POSTERIOR, "js_geometric"].refuses(make_prior(name))) == (name != "normal")
        for name in PRIORS
    )


# Maximum mean discrepancy


@pytest.mark.parametrize("kernel", [div.imq, div.rbf])
def test_mmd_equals_a_double_loop(kernel):
    source = torch.Generator().manual_seed(7)
    x = torch.randn(7, 3, generator=source, dtype=torch.float64)
    y = 0.5 + torch.randn(5, 3, generator=source, dtype=torch.float64)
    scale = torch.tensor(6.0).double()

    def k(a, b):
        squared = sum((float(u) - float(v)) ** 2 for u, v in zip(a, b, strict=True))
        if kernel is div.rbf:
            return math.exp(-squared / 6)
        return sum(6 * s / (6 * s + squared) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    within_x = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / 42
    within_y = sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
    between = sum(k(a, b) for a in x for b in y) / 35
    assert float(div.mmd(x, y, scale, kernel)) == pytest.approx(within_x + within_y - 2 * between, abs=1e-12)


@pytest.mark.parametrize("name", RESOLVED)
@pytest.mark.parametrize("key", ["mmd", "mmd_rbf", "mmd_wide"])
def test_mmd_of_equal_distributions_is_zero_on_average(name, key):
    prior = make_prior(name)
    tensors, source = prior.parameters(3), torch.Generator().manual_seed(8)
    values = []
    for _ in range(400):
        z, prior_z = (prior.sample(tensors, prior.noise(n, 3, source)) for n in (30, 20))
        values.append(float(RESTRICTIONS[Match.LATENT, key].value(sample(z, z, z, prior_z, prior, tensors), no_critic)))
    within(values, 0.0)
    assert min(values) < 0  # unbiased, hence negative about half of the time


def test_mmd_of_gaussians_equals_its_closed_form():
    source, scale = torch.Generator().manual_seed(9), torch.tensor(4.0).double()
    shift = torch.tensor([1.0, 0.0, -0.5]).double()

    def expected_kernel(variance, offset):
        # E exp(-r^2 / C) for r ~ N(offset, variance I)
        return (1 + 2 * variance / 4) ** -1.5 * math.exp(-offset / (4 + 2 * variance))

    expected = expected_kernel(2.0, 0.0) + expected_kernel(2 * 0.49, 0.0)
    expected -= 2 * expected_kernel(1.49, float(shift.square().sum()))
    values = [
        float(div.mmd(x, 0.7 * y + shift, scale, div.rbf))
        for x, y in (torch.randn(2, 100, 3, generator=source, dtype=torch.float64) for _ in range(300))
    ]
    within(values, expected)


def test_mmd_by_inverse_multiquadratics_equals_quadrature():
    source, scale = torch.Generator().manual_seed(10), torch.tensor(2.0).double()

    def expected_kernel(variance, offset):
        density = reference.gaussian(offset, math.sqrt(variance))
        return reference.integrate(
            lambda r: np.exp(density.log_pdf(r)) * sum(2 * s / (2 * s + r**2) for s in div.SCALES), density.edges
        )

    expected = expected_kernel(2.0, 0.0) + expected_kernel(0.5, 0.0) - 2 * expected_kernel(1.25, 0.8)
    values = [
        float(div.mmd(x, 0.5 * y + 0.8, scale, div.imq))
        for x, y in (torch.randn(2, 100, 1, generator=source, dtype=torch.float64) for _ in range(300))
    ]
    within(values, expected)


# The table of models.md, section 3.6: means of squared length d (1 - sigma^2), so that q(z) can have unit variance


@pytest.mark.parametrize(
    ("latent_dim", "sigma", "kl", "w2", "js"),
    [
        (8, 0.5, "5.55", "8.0", "0.642"),
        (8, 0.2, "12.88", "12.8", "0.6928"),
        (16, 0.2, "25.75", "25.6", "0.6931"),
        (16, 0.1, "36.84", "28.8", "0.6931"),
    ],
)
def test_sizes_of_the_divergences(latent_dim, sigma, kl, w2, js):
    prior, tensors = exact("normal", 1.0, latent_dim)
    source = torch.Generator().manual_seed(11)
    noise, prior_z = torch.randn(2, 50_000, latent_dim, generator=source, dtype=torch.float64)
    mu, sigmas = torch.full_like(noise, math.sqrt(1 - sigma**2)), torch.full_like(noise, sigma)
    drawn = sample(mu, sigmas, mu + sigma * noise, prior_z, prior, tensors)

    def half_a_digit(text):
        return 0.5 * 10.0 ** -len(text.partition(".")[2]) + 1e-9

    def value(divergence):
        return float(RESTRICTIONS[Match.POSTERIOR, divergence].value(drawn, no_critic))

    assert value("kl") == pytest.approx(float(kl), abs=half_a_digit(kl))
    assert value("w2") == pytest.approx(float(w2), abs=half_a_digit(w2))
    # 0.23 is the largest deviation of one draw, that of the first row
    assert value("js_joint") == pytest.approx(float(js), abs=half_a_digit(js) + 3 * 0.23 / math.sqrt(50_000))
