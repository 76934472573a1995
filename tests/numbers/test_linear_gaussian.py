"""A linear-Gaussian world, in which every term of the source's equations is known.

    q(x) = N(0, X)   q(z|x) = N(A x, S)   p(z) = N(0, t^2)   p(x|z) = N(W z, v)

Expectations are taken over samples whose means and covariances are exactly these: every term is a quadratic form, so
that nothing is left but rounding. What the program itself draws is compared within three standard errors.
"""

import math

import numpy as np
import pytest
import torch
from helpers import member
from hypothesis import given
from hypothesis import strategies as st

from gimtune.algebra.divergences import gaussian_log_prob
from gimtune.algebra.encoders import Posterior
from gimtune.algebra.likelihoods import Gaussian
from gimtune.algebra.objective import Constants, Objective
from gimtune.algebra.priors import make_prior
from gimtune.data import Dataset
from gimtune.metrics import Evaluation, frechet, marginal, probe
from gimtune.metrics import information as mi

PIXELS, LATENT = 4, 2
#: Quadratic forms of order 10 in float64, summed over thousands of draws.
EXACT = 1e-9
LOG_2PI_E = math.log(2 * math.pi * math.e)

_rng = np.random.default_rng(0)
A = _rng.normal(size=(LATENT, PIXELS)) * 0.5
W = _rng.normal(size=(PIXELS, LATENT)) * 0.6
_ROOT = _rng.normal(size=(PIXELS, PIXELS)) * 0.5
X = _ROOT @ _ROOT.T + 0.3 * np.eye(PIXELS)
SIGMA = np.array([0.4, 0.7])
S = np.diag(SIGMA**2)
T, V = 1.3, 0.25
Z = A @ X @ A.T + S
#: What is of test images, classifiers, vectors or factors.
UNDEFINED = {"log_px", "classes_covered", "code_accuracy", "energy", "mig"} | {
    f"dci_{what}" for what in ("disentanglement", "completeness", "informativeness")
}


def logdet(matrix):
    return np.linalg.slogdet(matrix)[1]


def kl(mean_square, covariance, other):
    """E[KL(N(m, covariance) || N(0, other))], m of second moment ``mean_square``."""
    inverse = np.linalg.inv(other)
    return 0.5 * (np.trace(inverse @ (covariance + mean_square)) - len(other) + logdet(other) - logdet(covariance))


def exact_sample(count, *covariances, seed=1):
    """Independent Gaussian samples (count, k) whose joint mean is 0 and joint covariance is that given, exactly."""
    sizes = [len(c) for c in covariances]
    raw = np.random.default_rng(seed).normal(size=(count, sum(sizes)))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / count)).T
    parts = np.split(white, np.cumsum(sizes)[:-1], axis=1)
    return [torch.from_numpy(p @ np.linalg.cholesky(c).T) for p, c in zip(parts, covariances, strict=True)]


def world(prior=None, restrictions=None, variance=V, sigma=SIGMA):
    """The objective, and its parameters and constants in float64."""
    chosen = {} if restrictions is None else {"restrictions": restrictions}
    one = member(
        "vae",
        prior=prior or {"name": "normal", "scale": T},
        latent_dim=LATENT,
        sigma_start=1.0,
        network={"name": "mlp", "hidden": []},
        metrics={"probe_samples": 4000, "fid_samples": 10_000},
        **chosen,
    )
    objective = Objective(one, (1, 2, 2), likelihood=Gaussian(variance, link=lambda output: output))
    log_variance = np.log(sigma**2 - one.sigma_min**2)
    encoder = {
        "1.weight": torch.from_numpy(np.concatenate([A, np.zeros_like(A)])),
        "1.bias": torch.from_numpy(np.concatenate([np.zeros(LATENT), log_variance])),
    }
    decoder = {"0.weight": torch.from_numpy(W), "0.bias": torch.zeros(PIXELS).double()}
    weights = torch.tensor([w for *_, w in one.restrictions], dtype=torch.float64)
    tensors = {k: torch.full_like(v.double(), T) for k, v in objective.prior.parameters(LATENT).items()}
    return one, objective, {"encoder": encoder, "decoder": decoder}, Constants(weights, tensors)


def images(x):
    return x.reshape(-1, 1, 2, 2)


# Known values, q side
ENTROPY_X = 0.5 * (PIXELS * LOG_2PI_E + logdet(X))
INFORMATION = 0.5 * (logdet(Z) - logdet(S))
RATE = kl(A @ X @ A.T, S, T**2 * np.eye(LATENT))
MARGINAL = kl(np.zeros((LATENT, LATENT)), Z, T**2 * np.eye(LATENT))
_RESIDUAL = (np.eye(PIXELS) - W @ A) @ X @ (np.eye(PIXELS) - W @ A).T + W @ S @ W.T
DISTORTION = 0.5 * (np.trace(_RESIDUAL) / V + PIXELS * math.log(2 * math.pi * V))
_BACK = X @ A.T @ np.linalg.inv(Z)
_LEFT = X - _BACK @ A @ X
INVERSION = 0.5 * (
    (np.trace(_LEFT) + np.trace((_BACK - W) @ Z @ (_BACK - W).T)) / V - PIXELS + PIXELS * math.log(V) - logdet(_LEFT)
)

RESTRICTIONS = {
    "none": (),
    "kl": (("posterior", "kl", 1.0),),
    "kl, weight 3": (("posterior", "kl", 3.0),),
    "w2": (("posterior", "w2", 0.7),),
    "js and kl": (("posterior", "js", 2.0), ("posterior", "kl", 0.25)),
}


def test_the_world_obeys_the_equations():
    # the closed forms above against each other, before anything of ours is asked: (2) and (3) without R, and (4)
    assert pytest.approx(-DISTORTION + ENTROPY_X + INVERSION, abs=EXACT) == INFORMATION
    assert pytest.approx(RATE - MARGINAL, abs=EXACT) == INFORMATION


@pytest.mark.parametrize("restrictions", RESTRICTIONS.values(), ids=RESTRICTIONS)
def test_terms_of_equations_1_to_3(restrictions):
    _, objective, parameters, constants = world(restrictions=restrictions)
    x, noise, prior_noise = exact_sample(3000, X, np.eye(LATENT), np.eye(LATENT))
    draws = {"posterior": noise, "prior": prior_noise}
    terms = objective.terms(parameters, constants, images(x), draws)
    assert terms.loss.dtype == torch.float64
    restriction = float((constants.weights * terms.divergences).sum())
    assert -float(terms.likelihood) == pytest.approx(DISTORTION, abs=EXACT)
    # (1)
    assert float(terms.loss) == pytest.approx(DISTORTION + restriction, abs=EXACT)
    # I_q by our estimator: q(z) is one Gaussian here, so that it is exact
    mu, sigma = objective.encode(parameters, images(x))
    information = mi.gaussian(mu, sigma)
    assert information == pytest.approx(INFORMATION, abs=EXACT)
    # (2) and (3): mi_q + loss = dI, whatever the restriction
    assert information + float(terms.loss) == pytest.approx(restriction + ENTROPY_X + INVERSION, abs=EXACT)


def test_rate_and_equation_4():
    _, objective, parameters, constants = world()
    x, noise = exact_sample(3000, X, np.eye(LATENT))
    rate = float(objective.terms(parameters, constants, images(x), {"posterior": noise}).divergences[0])
    assert rate == pytest.approx(RATE, abs=EXACT)
    mu, sigma = objective.encode(parameters, images(x))
    assert mi.gaussian(mu, sigma) == pytest.approx(rate - MARGINAL, abs=EXACT)


def test_w2_of_the_posterior():
    _, objective, parameters, constants = world(restrictions=(("posterior", "w2", 1.0),))
    x, noise = exact_sample(3000, X, np.eye(LATENT))
    value = float(objective.terms(parameters, constants, images(x), {"posterior": noise}).divergences[0])
    assert value == pytest.approx(np.trace(A @ X @ A.T) + ((SIGMA - T) ** 2).sum(), abs=EXACT)


def test_information_with_noise_added():
    _, objective, parameters, _ = world()
    (x,) = exact_sample(3000, X)
    noised = mi.gaussian(*objective.encode(parameters, images(x)), noise=0.1)
    more = 0.01 * np.diag(np.diag(Z))
    assert noised == pytest.approx(0.5 * (logdet(Z + more) - logdet(S + more)), abs=EXACT)


def test_the_latent_match_of_a_gaussian():
    # the aggregated posterior is N(0, Z): MMD to the prior by the RBF kernel is known, and our minibatches are unbiased
    _, objective, parameters, constants = world(restrictions=(("latent", "mmd_rbf", 1.0),))
    width = 2 * LATENT * T**2

    def expected_kernel(covariance):
        return 1 / math.sqrt(np.linalg.det(np.eye(LATENT) + 2 * covariance / width))

    prior = T**2 * np.eye(LATENT)
    known = expected_kernel(2 * Z) + expected_kernel(2 * prior) - 2 * expected_kernel(Z + prior)
    source = torch.Generator().manual_seed(0)
    root = torch.from_numpy(np.linalg.cholesky(X))
    values = []
    for _ in range(300):
        x = torch.randn(64, PIXELS, generator=source, dtype=torch.float64) @ root.T
        noise, prior_noise = torch.randn(2, 64, LATENT, generator=source, dtype=torch.float64)
        draws = {"posterior": noise, "prior": prior_noise}
        values.append(float(objective.terms(parameters, constants, images(x), draws).divergences[0]))
    assert abs(np.mean(values) - known) < 3 * np.std(values, ddof=1) / math.sqrt(len(values))


# The mirror: side p

XP = W @ W.T * T**2 + V * np.eye(PIXELS)
INFORMATION_P = 0.5 * (logdet(XP) - PIXELS * math.log(V))
ENTROPY_Z = 0.5 * LATENT * (LOG_2PI_E + 2 * math.log(T))
_BACK_P = T**2 * W.T @ np.linalg.inv(XP)
_LEFT_P = T**2 * np.eye(LATENT) - _BACK_P @ W * T**2
_MISS_P = (np.eye(LATENT) - A @ W) * T**2 @ (np.eye(LATENT) - A @ W).T + V * A @ A.T
DISTORTION_P = 0.5 * (np.trace(np.linalg.inv(S) @ _MISS_P) + LATENT * math.log(2 * math.pi) + logdet(S))
INVERSION_P = 0.5 * (
    np.trace(np.linalg.inv(S) @ (_LEFT_P + (_BACK_P - A) @ XP @ (_BACK_P - A).T)) - LATENT + logdet(S) - logdet(_LEFT_P)
)


def test_equations_of_side_p():
    _, objective, parameters, constants = world()
    prior_noise, noise = exact_sample(3000, np.eye(LATENT), np.eye(PIXELS), seed=2)
    z = objective.prior.sample(constants.prior, prior_noise)
    x = objective.likelihood.mean(objective.decode(parameters, z)) + math.sqrt(V) * images(noise)
    likelihood = float(gaussian_log_prob(z, *objective.encode(parameters, x)).mean())
    entropy = float(objective.prior.entropy(constants.prior))
    assert entropy == pytest.approx(ENTROPY_Z, abs=EXACT)
    assert -likelihood == pytest.approx(DISTORTION_P, abs=EXACT)
    # I_p = -L_p + h_p(z) + E_p(x)[KL(p(z|x) || q(z|x))]
    assert entropy + likelihood + INVERSION_P == pytest.approx(INFORMATION_P, abs=EXACT)
    # so that what we report as mi_p is a lower bound
    assert entropy + likelihood < INFORMATION_P


def test_mirror_of_equation_4():
    # q(x) = N(0, 1.7^2): the encoder's divergence serves for images too
    _, objective, parameters, constants = world()
    (prior_noise,) = exact_sample(3000, np.eye(LATENT))
    z = objective.prior.sample(constants.prior, prior_noise)
    mean = objective.decode(parameters, z).flatten(1)
    data = make_prior("normal", scale=1.7)
    tensors = {"scale": torch.full((PIXELS,), 1.7, dtype=torch.float64)}
    rate = float(data.gaussian_kl(tensors, mean, torch.full_like(mean, math.sqrt(V))).mean())
    marginal = kl(np.zeros((PIXELS, PIXELS)), XP, 1.7**2 * np.eye(PIXELS))
    assert rate - marginal == pytest.approx(INFORMATION_P, abs=EXACT)


# The same world through `Evaluation`, which draws for itself, in float32, from bytes


GREY = 128 / 50


class PixelFeatures:
    """Features of an image: its pixels. The Frechet distances are then those of the images themselves."""

    name = "pixels"

    def __call__(self, images):
        return images.flatten(1) - GREY


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(3)
    root = 20 * np.linalg.cholesky(X)
    parts = {
        split: np.clip(128 + rng.normal(size=(n, PIXELS)) @ root.T, 0, 255).round().astype(np.uint8)
        for split, n in (("train", 4000), ("validation", 5000), ("test", 1000))
    }
    pictures = {split: a.reshape(-1, 1, 2, 2) for split, a in parts.items()}
    labels = {split: rng.integers(0, 3, len(a)) for split, a in parts.items()}
    evaluation = Evaluation(Dataset("bytes", pictures, labels, 50.0, ""), PixelFeatures(), torch.device("cpu"))
    one, objective, parameters, _ = world()
    # grey is the origin: the encoder sees x - GREY, and the decoder adds it
    parameters["encoder"]["1.bias"][:LATENT] -= torch.from_numpy(A.sum(1)) * GREY
    parameters["decoder"]["0.bias"] += GREY
    single = {module: {k: v.float() for k, v in values.items()} for module, values in parameters.items()}
    row = evaluation.measure(objective, single, one, ("validation", "test"))
    return row, {split: a / 50.0 - GREY for split, a in parts.items()}


@pytest.mark.parametrize(("split", "prefix"), [("validation", ""), ("test", "test_")])
def test_rows_of_the_evaluation(measured, split, prefix):
    row, x = measured[0], measured[1][split]
    # a log-likelihood is measured once, at the end
    assert {key.removeprefix("test_") for key in row["reasons"]} <= UNDEFINED
    assert "test_log_px" not in row["reasons"]
    values = {key: row[prefix + key] for key in ("likelihood_x", "restriction", "loss", "mi_q", "mi_gap")}
    mean, covariance = x.mean(0), np.cov(x.T, bias=True)
    second = covariance + np.outer(mean, mean)
    # deterministic terms, to 1e-6 relative: float32 codes round at 6e-8, and so do the products that they are sums of
    close = {"rel": 1e-6, "abs": 1e-6}
    joint = A @ covariance @ A.T
    assert values["mi_q"] == pytest.approx(0.5 * (logdet(joint + S) - logdet(S)), **close)
    rate = kl(A @ second @ A.T, S, T**2 * np.eye(LATENT))
    assert values["restriction"] == pytest.approx(rate, **close)
    assert row[f"{prefix}restriction/posterior_kl"] == values["restriction"]
    more = 0.01 * np.diag(np.diag(joint + S))
    noised = 0.5 * (logdet(joint + S + more) - logdet(S + more))
    assert row[f"{prefix}mi_noised"] == pytest.approx(noised, **close)
    assert row[f"{prefix}sigma_mean"] == pytest.approx(SIGMA.mean(), **close)
    assert row[f"{prefix}active_units"] == (np.diag(joint) > 0.01).sum()
    # identities
    assert values["loss"] == pytest.approx(values["restriction"] - values["likelihood_x"], rel=1e-15)
    assert values["mi_gap"] == pytest.approx(values["mi_q"] + values["loss"], rel=1e-15)
    # sampled: the squared error given x is |r - B e|^2, of known mean and variance
    residual, spread = x - x @ (W @ A).T, W @ np.diag(SIGMA)
    expected = 0.5 * ((residual**2).sum(1).mean() + np.trace(spread @ spread.T)) / V
    expected += 0.5 * PIXELS * math.log(2 * math.pi * V)
    variance = 4 * ((residual @ spread) ** 2).sum(1).mean() + 2 * np.trace((spread.T @ spread) @ (spread.T @ spread))
    assert abs(-values["likelihood_x"] - expected) < 3 * math.sqrt(variance / len(x)) / (2 * V)


def evidence(x, loading=W):
    """log p(x) of images (n, pixels), p(x) = N(0, W W' t^2 + v)."""
    covariance = loading @ loading.T * T**2 + V * np.eye(PIXELS)
    squares = np.einsum("ni,ij,nj->n", x, np.linalg.inv(covariance), x)
    return -0.5 * (squares + logdet(covariance) + PIXELS * math.log(2 * math.pi))


def test_the_evidence_of_the_evaluation(measured):
    row, x = measured[0], measured[1]["test"]
    known = evidence(x)
    # the importance weights' own error and bias at 100 codes, of another draw by the same formula
    rng = np.random.default_rng(8)
    z = (x @ A.T)[:, None] + SIGMA * rng.normal(size=(len(x), 100, LATENT))
    log_p = -0.5 * (((x[:, None] - z @ W.T) ** 2).sum(2) / V + PIXELS * math.log(2 * math.pi * V))
    log_p += -0.5 * ((z / T) ** 2 + math.log(2 * math.pi * T**2)).sum(2)
    log_q = -0.5 * (((z - (x @ A.T)[:, None]) / SIGMA) ** 2 + np.log(2 * math.pi * SIGMA**2)).sum(2)
    bound = np.logaddexp.reduce(log_p - log_q, axis=1) - math.log(100)
    error = (bound - known).std() * math.sqrt(2 / len(x))
    assert abs(row["test_log_px"] - bound.mean()) < 3 * error
    assert row["test_log_px"] < known.mean() + 3 * error
    # nearer to it than the bound of one code is, by far
    assert known.mean() - row["test_log_px"] < 0.2 * (known.mean() - (log_p - log_q).mean())
    assert row["test_log_px_se"] == pytest.approx(bound.std() / math.sqrt(len(x)), rel=0.1)
    assert math.isnan(row["log_px"])


def test_the_evidence_is_exact_where_the_encoder_is_the_posterior():
    # orthogonal loadings: p(z|x) has no correlations, and every importance weight is p(x)
    loading = np.linalg.qr(W)[0] * [0.9, 0.5]
    precision = (loading**2).sum(0) / V + T**-2
    _, objective, parameters, constants = world(sigma=precision**-0.5)
    parameters["encoder"]["1.weight"][:LATENT] = torch.from_numpy(loading.T / V / precision[:, None])
    parameters["decoder"]["0.weight"] = torch.from_numpy(loading)
    (x,) = exact_sample(300, X)
    posterior = objective.posterior(parameters, images(x), torch.zeros(300, LATENT).double())

    class View:
        def random(self, key):
            return torch.Generator().manual_seed(0)

    view = View()
    view.posterior, view.objective, view.parameters, view.prior = posterior, objective, parameters, objective.prior
    view.images, view.prior_tensors = images(x), constants.prior
    for codes in (1, 7, 100):
        found = marginal.importance(
            view, view.images[:300], Posterior(*(p[:300] for p in view.posterior)), view.random("log_px"), codes
        )
        # the floor of sigma is left out of the encoder's log-variance and added again
        assert found.numpy() == pytest.approx(evidence(x.numpy(), loading), abs=1e-6)


@pytest.mark.parametrize("widen", [1.0, 3.0, 12.0])
def test_probes_reach_the_bayes_accuracy_and_no_more(widen):
    # two classes that differ in their mean x: of codes z the best accuracy is Phi(|Z^-1/2 A s|), s half the difference
    rng = np.random.default_rng(4)
    shift = np.array([0.5, -0.4, 0.3, 0.2])
    labels = {split: rng.integers(0, 2, n) for split, n in (("train", 4000), ("validation", 5000), ("test", 1000))}
    root = np.linalg.cholesky(X)
    pictures = {
        split: np.clip(128 + 20 * (rng.normal(size=(len(y), PIXELS)) @ root.T + np.outer(2 * y - 1, shift)), 0, 255)
        for split, y in labels.items()
    }
    # a level of grey is .02: its rounding has a ten-thousandth of the variance of X
    pictures = {split: a.round().astype(np.uint8).reshape(-1, 1, 2, 2) for split, a in pictures.items()}
    evaluation = Evaluation(Dataset("bytes", pictures, labels, 20.0, ""), PixelFeatures(), torch.device("cpu"))
    one, objective, parameters, _ = world(sigma=widen * SIGMA)
    parameters["encoder"]["1.bias"][:LATENT] -= torch.from_numpy(A.sum(1)) * 128 / 20
    single = {module: {k: v.float() for k, v in values.items()} for module, values in parameters.items()}
    view = evaluation.view(objective, single, one, "validation")
    best = {}
    for name, covariance in (("probe_codes", A @ X @ A.T + widen**2 * S), ("probe_means", A @ X @ A.T)):
        distance = math.sqrt(shift @ A.T @ np.linalg.solve(covariance, A @ shift))
        best[name] = 0.5 * (1 + math.erf(distance / math.sqrt(2)))
        found = view.estimate(name)
        # the fit on 4,000 codes costs about (d + 1) / (2 x 4,000) of the likelihood, which is far below the error
        assert abs(found.value - best[name]) < 3 * found.error, name
        assert found.error < 0.01
        assert not found.flag
    # means know what codes do not hold; only codes obey the bound by the information that codes hold
    assert best["probe_means"] > best["probe_codes"]
    bound = probe.fano(
        0.5 * (logdet(A @ X @ A.T + widen**2 * S) - logdet(widen**2 * S)), torch.from_numpy(labels["validation"])
    )
    assert best["probe_codes"] < bound
    if widen == 12.0:
        assert best["probe_means"] > bound + 0.1


@pytest.mark.parametrize(("split", "prefix"), [("validation", ""), ("test", "test_")])
def test_side_p_of_the_evaluation(measured, split, prefix):
    row, count = measured[0], len(measured[1][split])
    # x is the decoder's mean here: E_p(z)[log N(z; A W z, S)], a quadratic form in z
    form = T**2 * (np.eye(LATENT) - A @ W).T @ np.linalg.inv(S) @ (np.eye(LATENT) - A @ W)
    expected = -0.5 * (np.trace(form) + LATENT * math.log(2 * math.pi) + logdet(S))
    error = math.sqrt(0.5 * np.trace(form @ form) / count)
    assert abs(row[f"{prefix}likelihood_z"] - expected) < 3 * error
    # p(z|x) is a Gaussian with a linear mean, which the auxiliary encoder finds: the bound is tight up to its fit
    assert abs(row[f"{prefix}mi_p"] - INFORMATION_P) < 3 * row[f"{prefix}mi_p_se"] + 0.02
    assert row[f"{prefix}mi_p_se"] < 0.02
    # of x = W z, z is a function
    assert row[f"{prefix}mi_p_mean"] > INFORMATION_P + 1


@pytest.mark.parametrize(("split", "prefix"), [("validation", ""), ("test", "test_")])
def test_frechet_distances_of_the_evaluation(measured, split, prefix):
    row, x = measured[0], measured[1][split]
    images = frechet.Statistics(torch.from_numpy(x.mean(0)), torch.from_numpy(np.cov(x.T)), None)
    count = len(x)

    def known(mean, covariance):
        return frechet.frechet(frechet.Statistics(torch.from_numpy(mean), torch.from_numpy(covariance), None), images)

    def spread(mean, covariance):
        # the deviation of the distance over samples of that size, by drawing them
        rng = np.random.default_rng(5)
        draws = (rng.multivariate_normal(mean, covariance, count) for _ in range(40))
        found = [frechet.frechet(frechet.statistics(torch.from_numpy(d)), images) for d in draws]
        return np.mean(found), np.std(found, ddof=1)

    covariance, mean = np.cov(x.T, bias=True), x.mean(0)
    codes = A @ covariance @ A.T + S
    for key, m, c in [
        ("fid", np.zeros(PIXELS), W @ W.T * T**2),
        ("recon_fid", W @ A @ mean, W @ codes @ W.T),
    ]:
        centre, deviation = spread(m, c)
        assert abs(centre - known(m, c)) < deviation  # the estimator's bias at this size is below its deviation
        assert abs(row[prefix + key] - centre) < 3 * deviation, key
    # expectation-maximisation keeps the mean and the covariance of the training codes, whatever its components
    train = measured[1]["train"]
    codes = A @ np.cov(train.T, bias=True) @ A.T + S
    centre, deviation = spread(W @ A @ train.mean(0), W @ codes @ W.T)
    # 4,000 training codes with their own noise know these moments no better than a sample of this size does
    assert abs(row[f"{prefix}fid_expost"] - centre) < 3 * deviation * math.sqrt(1 + count / 4000)


# The exact index-code estimate


@given(
    st.integers(2, 40),
    st.integers(1, 3),
    st.floats(-7, 2).map(lambda e: 10.0**e),
    st.floats(-3, 4).map(lambda e: 10.0**e),
    st.integers(0, 2**16),
)
def test_index_code_is_at_most_ln_n(count, latent_dim, sigma, reach, seed):
    source = torch.Generator().manual_seed(seed)
    mu, noise = torch.randn(2, count, latent_dim, generator=source)
    mu, sigmas = mu * reach, torch.full((count, latent_dim), sigma)
    value = float(mi.index_code(mu, sigmas, mu + sigmas * noise).mean())
    # one unit of the last place of the mean: in exact arithmetic there is no excess at all
    assert value <= math.log(count) + 1e-12


def test_index_code_equals_brute_force():
    source = torch.Generator().manual_seed(0)
    mu, noise = torch.randn(2, 12, 3, generator=source, dtype=torch.float64)
    sigma = torch.rand(12, 3, generator=source, dtype=torch.float64) + 0.2
    z = mu + sigma * noise

    def density(z, m, s):
        return math.prod(
            math.exp(-0.5 * ((a - b) / c) ** 2) / (c * math.sqrt(2 * math.pi))
            for a, b, c in zip(z.tolist(), m.tolist(), s.tolist(), strict=True)
        )

    ratios = []
    for n in range(12):
        mixture = sum(density(z[n], mu[m], sigma[m]) for m in range(12)) / 12
        ratios.append(math.log(density(z[n], mu[n], sigma[n]) / mixture))
    assert mi.index_code(mu, sigma, z).numpy() == pytest.approx(np.array(ratios), abs=1e-12)
    # among others: the image's own beside theirs
    few, rest = [part[:5] for part in (mu, sigma, z)], (mu[5:], sigma[5:])
    for n, value in enumerate(mi.index_code(*few, rest)):
        own = density(z[n], mu[n], sigma[n])
        mixture = (own + sum(density(z[n], mu[m], sigma[m]) for m in range(5, 12))) / 8
        assert float(value) == pytest.approx(math.log(own / mixture), abs=1e-12)


def test_index_code_of_sharp_posteriors_is_ln_n():
    mu = torch.linspace(-50, 50, 1000)[:, None]
    # (50 / 1e-3)^2 = 2.5e9 is the size of the quadratic form that cancels
    assert float(mi.index_code(mu, torch.full_like(mu, 1e-3), mu).mean()) == pytest.approx(math.log(1000), abs=2e-6)


def test_index_code_of_a_weak_channel_is_its_information():
    source = torch.Generator().manual_seed(1)
    values = []
    for _ in range(30):
        mu, noise = torch.randn(2, 2000, 2, generator=source)
        sigma = torch.tensor([2.0, 1.5]).expand(2000, 2)
        values.append(float(mi.index_code(mu, sigma, mu + sigma * noise).mean()))
    information = 0.5 * (math.log(1 + 1 / 4) + math.log(1 + 1 / 2.25))
    # its own bias is of order 1 / N = 5e-4, a fifth of the standard error
    assert abs(np.mean(values) - information) < 3 * np.std(values, ddof=1) / math.sqrt(30)


@given(
    st.lists(st.floats(-4, 4).map(lambda e: 10.0**e), min_size=3, max_size=3),
    st.floats(-6, 1).map(lambda e: 10.0**e),
    st.integers(0, 2**16),
)
def test_noised_information_does_not_depend_on_the_scale_of_codes(scale, sigma, seed):
    source = torch.Generator().manual_seed(seed)
    mu = torch.randn(200, 3, generator=source, dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.5, 0.0], [0.0, 1.0, 0.9], [0.0, 0.0, 0.1]], dtype=torch.float64
    )
    width = sigma * (0.5 + torch.rand(200, 3, generator=source, dtype=torch.float64))
    factors = torch.tensor(scale, dtype=torch.float64)
    for noise in (0.0, 0.1):
        value = mi.gaussian(mu, width, noise)
        assert mi.gaussian(mu * factors, width * factors, noise) == pytest.approx(value, abs=1e-9)
    # the noise bounds it where there is no width: d/2 ln(1 + 100)
    assert value <= 1.5 * math.log(101) + 1e-9
    assert mi.gaussian(mu, torch.zeros_like(mu), 0.1) >= value


def test_gaussian_information_of_correlated_gaussians():
    # one dimension of correlation r with x: I = -ln(1 - r^2) / 2
    for r in (0.1, 0.9, 0.999):
        (mu,) = exact_sample(500, np.eye(1) * r**2)
        sigma = torch.full_like(mu, math.sqrt(1 - r**2))
        assert mi.gaussian(mu, sigma) == pytest.approx(-0.5 * math.log(1 - r**2), abs=EXACT)
