"""The ruler against known divergences: Gaussians, quadrature in one dimension, equal and collapsed distributions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy
import torch
from helpers import DEFAULTS
from helpers import member as plain
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from gimtune.algebra.divergences import LN2
from gimtune.metrics import measures, ruler
from gimtune.metrics.fitted import Budget
from gimtune.metrics.view import View
from gimtune.training import Fellow, Pack

D = 8


def member(*arguments, **options):
    """A member that fresh networks are fitted for, as it ends."""
    return plain(*arguments, **{"metrics": {**DEFAULTS["metrics"], "ruler": "end"}, **options})


def js_of_shift(shift):
    """JS of N(0, 1) and N(shift, 1), by quadrature."""

    def half(at):
        return norm.pdf(at) * (LN2 - np.logaddexp(0, shift * at - shift**2 / 2))

    # log q/p is symmetric under exchange of the two
    return quad(half, -12, 12, epsabs=1e-10)[0]


def js_of_scale(scale):
    """JS of N(0, I) and N(0, scale^2 I) in D dimensions, by quadrature over the radius."""
    from scipy.stats import chi

    def ratio(r):
        return -D * math.log(scale) - 0.5 * r**2 * (scale**-2 - 1)

    def half(r):
        under_p = chi.pdf(r, D) * np.logaddexp(0, ratio(r))
        under_q = chi.pdf(r, D) * np.logaddexp(0, -ratio(scale * r))
        return under_p + under_q

    return LN2 - 0.5 * quad(half, 0, 12, epsabs=1e-10)[0]


def normal(count, *key):
    return torch.from_numpy(np.random.default_rng(key).standard_normal((count, D))).float()


def measured(change, seeds=4, count=8000, scored=5000, scale=ruler.Whitened):
    """Estimates of JS(change(e), e) for e ~ N(0, I), by critics of fresh samples each."""
    samples = [ruler.Samples.split(change(normal(count, 0, i))[None], normal(6000, 1, i)) for i in range(seeds)]
    sources = [torch.Generator().manual_seed(i) for i in range(seeds)]
    found = ruler.critics(samples, scale, sources, ruler.CODES)
    return [c.js(change(normal(scored, 2, i)), normal(scored, 3, i)) for i, c in enumerate(found)]


def shifted(true):
    shift = brentq(lambda s: js_of_shift(s) - true, 1e-3, 9)
    return lambda e: e + shift / math.sqrt(D)


def scaled(true):
    scale = brentq(lambda s: js_of_scale(s) - true, 1e-2, 1 - 1e-6)
    return lambda e: scale * e


@pytest.mark.parametrize("change", [shifted, scaled], ids=["shift", "scale"])
@pytest.mark.parametrize("true", [0.05, 0.3, 0.6])
def test_js_of_gaussians_within_three_standard_errors(true, change):
    for estimate in measured(change(true)):
        assert abs(estimate.value - true) < 3 * estimate.error, estimate
        assert estimate.error < 0.01
        assert not estimate.flag


def test_js_of_equal_distributions_is_never_negative_beyond_its_error():
    for estimate in (*measured(lambda e: e, seeds=8), *measured(lambda e: e, seeds=8, count=300, scored=360)):
        assert -2 * estimate.error <= estimate.value < 3 * max(estimate.error, 1e-3)
        assert not estimate.flag


def test_js_of_a_point_and_of_far_samples_is_ln_2():
    for change in (torch.zeros_like, lambda e: 0 * e + 0.3, lambda e: e + 1000, lambda e: 1e-4 * e):
        for estimate in measured(change, seeds=1):
            assert abs(estimate.value - LN2) < 1e-3


def test_a_critic_that_learned_its_samples_by_heart_is_not_believed():
    # 64 samples in 8 dimensions, and a budget that would tell them apart
    samples = ruler.Samples.split(normal(80, 0)[None], normal(80, 1))
    (critic,) = ruler.critics([samples], ruler.Whitened, [torch.Generator().manual_seed(0)], Budget((64, 64), 500))
    estimate = critic.js(normal(5000, 2), normal(5000, 3))
    assert -0.02 < estimate.value < 0.02


def test_a_members_critic_does_not_depend_on_the_others():
    samples = [ruler.Samples.split(normal(640, 0, i)[None] * 0.7, normal(640, 1, i)) for i in range(5)]

    def found(order):
        sources = [torch.Generator().manual_seed(i) for i in order]
        return ruler.critics([samples[i] for i in order], ruler.Whitened, sources, ruler.CODES)

    together, alone, two = found(range(5)), found([3]), found([1, 3])
    for other in (alone[0], two[1]):
        assert other.temper == together[3].temper
        for a, b in zip(other.stack.leaves(), together[3].stack.leaves(), strict=True):
            # bit for bit where members of packs are
            assert torch.equal(a, b) if torch.backends.cpu.get_cpu_capability() == "AVX2" else torch.allclose(a, b)


@pytest.mark.parametrize("count", [1, 3])
def test_critics_of_a_second_pack_are_replayed_to_the_same_bits(monkeypatch, count):
    samples = [ruler.Samples.split(0.8 * normal(500, 0, i)[None], normal(600, 1, i)) for i in range(count)]

    def trained():
        sources = [torch.Generator().manual_seed(i) for i in range(count)]
        found = ruler.critics(samples, ruler.Whitened, sources, Budget((16, 16), 50))
        return [leaf.numpy().tobytes() for one in found for leaf in one.stack.leaves()]

    computed = []
    start = ruler.softplus
    monkeypatch.setattr(ruler, "softplus", lambda x: computed.append(x.requires_grad) or start(x))
    monkeypatch.setattr(ruler, "_STEP", ruler.Step("as it is written"))
    written, each = trained(), sum(computed)
    monkeypatch.setattr(ruler, "_STEP", ruler.Step())
    first, second = trained(), (computed.clear(), trained())[1]
    assert (ruler._STEP.eager, sum(computed), each) == ("", 0, 2 * 50)
    assert written == first == second


def test_js_of_codes_where_no_code_was_is_wrong_within_bounds():
    samples = ruler.Samples.split(normal(400, 0)[None] * 0.1, normal(400, 1))
    (critic,) = ruler.critics([samples], ruler.Whitened, [torch.Generator().manual_seed(0)], ruler.CODES)
    assert critic.js(normal(400, 2) * 0 + 1e6, normal(400, 3)).value > -5


# Kullback-Leibler divergence of a mixture of posteriors


def test_density_of_a_mixture_equals_brute_force():
    z, mu = torch.randn(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = torch.rand(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    for i, value in enumerate(ruler.Mixture(mu, sigma, 0.0).log_prob(z).tolist()):
        densities = [np.prod(norm.pdf(z[i], mu[j], sigma[j])) for j in range(7)]
        assert value == pytest.approx(math.log(np.mean(densities)), abs=1e-12)


@pytest.mark.parametrize("true", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("wider", [True, False], ids=["wider", "narrower"])
@pytest.mark.parametrize("noise", [0.5, 1e-3], ids=["broad", "sharp"])
def test_kl_of_gaussians_within_three_standard_errors(true, wider, noise):
    # codes N(a e, s^2) of images e ~ N(0, I) in two dimensions: q(z) = N(0, (a^2 + s^2) I)
    variance = brentq(lambda v: v - 1 - math.log(v) - true, *((1, 20) if wider else (1e-6, 1)))
    spread, sharp = math.sqrt(variance * (1 - noise)), math.sqrt(variance * noise)

    def posteriors(count, key):
        mu, extra = spread * normal(count, key, 0)[:, :2], normal(count, key, 1)[:, :2]
        return mu, torch.full_like(mu, sharp), mu + sharp * extra

    z = posteriors(2000, 1)[2]
    mixture = ruler.Mixture.of(*posteriors(3000, 0))
    found = mixture.kl(z, torch.from_numpy(norm.logpdf(z).sum(1)))
    assert abs(found.value - true) < 3 * found.error
    assert found.error < 0.05
    # sharp posteriors alone are no density at codes of other images
    assert mixture.width > 0.05 or noise > 0.1


# Members


def trained(evaluation, epochs, *members):
    pack = Pack(list(members), evaluation.data)
    for _ in range(epochs):
        pack.train_epoch()
    return pack


def views(evaluation, pack, split="test"):
    fellows = [Fellow(pack.one(i), one, {}) for i, one in enumerate(pack.members)]
    rest = split, evaluation.data, evaluation.network
    return [
        View(pack.objective, f.parameters, f.member, *rest, f.once, {}, measures.find, fellows=fellows) for f in fellows
    ]


def test_adversarial_codes_against_quadrature(evaluation):
    # broad posteriors: the quadrature takes q(z) for the mixture over the split's images, which spikes would not fill
    one = member("aae", 0.3, latent_dim=1, learning_rate=1e-2, sigma_start=1.0)
    (view,) = views(evaluation, trained(evaluation, 5, one))
    mu, sigma, _ = (part.double().numpy()[:, 0] for part in view.posterior)
    at = np.linspace(-12, 12, 4001)
    q, p = norm.pdf(at[:, None], mu, sigma).mean(1), norm.pdf(at)
    middle = 0.5 * (q + p)
    js = 0.5 * np.trapezoid(scipy.special.rel_entr(q, middle) + scipy.special.rel_entr(p, middle), at)
    found = view.estimate("latent_js")
    assert js > 0.05
    assert abs(found.value - js) < 3 * found.error
    # the mixture of the training posteriors is not q(z) of the split, but near it
    kl = np.trapezoid(scipy.special.rel_entr(q, p), at)
    found = view.estimate("latent_kl")
    assert abs(found.value - kl) < 3 * found.error
    # what the critic in training makes of it is another number
    assert view.value("restriction/latent_js") < js - 3 * view.estimate("latent_js").error


def test_a_collapsed_encoder_gives_the_prior(small):
    pack = trained(small, 0, member("vae", sigma_start=1.0))
    with torch.no_grad():
        pack.parameters["encoder"]["3.weight"].zero_()
        pack.parameters["encoder"]["3.bias"].zero_()
    (view,) = views(small, pack)
    for key in ("latent_js", "latent_kl"):
        found = view.estimate(key)
        assert abs(found.value) <= max(3 * found.error, 5e-3), key
        assert not found.flag


def test_a_deterministic_encoder_has_a_js_and_no_kl(small):
    pack = trained(small, 0, member("aae", encoder="deterministic"))
    with torch.no_grad():
        pack.parameters["encoder"]["3.weight"].zero_()
    (view,) = views(small, pack)
    assert view.value("latent_js") == pytest.approx(LN2, abs=2e-3)  # all codes are one
    assert "deterministic" in view.estimate("latent_kl").reason


def test_a_prior_without_a_density_is_measured_by_samples(small):
    (view,) = views(small, trained(small, 2, member("infogan", prior={"name": "infogan_code"})))
    for key in ("latent_js", "data_js"):
        found = view.estimate(key)
        assert -2 * found.error <= found.value <= LN2
        assert found.error < 0.05
    assert view.estimate("latent_kl").reason


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_prior_of_images_has_none_to_spare_for_a_critic(small, split):
    (view,) = views(small, trained(small, 2, member("cyclegan")), split)
    assert all("too few" in view.estimate(key).reason for key in ("latent_js", "data_js"))


def test_generated_vectors_are_compared_as_they_are():
    values = torch.tensor([[-0.7, 0.2, 1.6]])
    assert ruler._levels(SimpleNamespace(data=SimpleNamespace(vectors=True, scale=1.0)), values).equal(values)
    images = ruler._levels(SimpleNamespace(data=SimpleNamespace(vectors=False, scale=4.0)), values)
    assert images.equal(torch.tensor([[-0.75, 0.25, 1.5]]))


def test_generated_images_that_are_the_data_are_not_told_apart(small, monkeypatch):
    (view,) = views(small, trained(small, 1, member("vae")))
    told = view.estimate("data_js")
    assert told.value > 0.3
    (view,) = views(small, trained(small, 1, member("vae")))
    images = small.data.scaled("train", slice(None))

    def decode(self, codes):
        order = torch.randint(len(images), (len(codes),), generator=torch.Generator().manual_seed(len(codes)))
        return images[order]

    monkeypatch.setattr(View, "decode", decode)
    same = view.estimate("data_js")
    assert -2 * same.error <= same.value < 3 * max(same.error, 0.01)


def test_members_are_measured_alike_alone_and_in_any_pack(small):
    members = [member("vae", seed=seed, latent_dim=3) for seed in range(4)]
    pack = trained(small, 2, *members)
    together = views(small, pack)
    (alone,) = views(small, trained(small, 2, members[2]))
    for key in ("latent_js", "data_js", "latent_kl"):
        if torch.backends.cpu.get_cpu_capability() == "AVX2":
            assert together[2].estimate(key) == alone.estimate(key)
        assert together[2].value(key) == pytest.approx(alone.value(key), abs=1e-3)
    assert len({view.value("latent_js") for view in together}) == 4


def test_what_takes_long_is_measured_as_a_member_ends(small):
    pack = trained(small, 1, member())
    keys = {"latent_js", "data_js", "latent_kl"}
    on, end = small.row(pack, 0, ("validation",)), small.row(pack, 0, ("validation", "test"))
    assert keys <= set(on["reasons"])
    assert "metrics.ruler" in on["reasons"]["latent_js"]
    assert not keys & set(end["reasons"])
    always = trained(small, 1, member(metrics={**pack.members[0].metrics, "ruler": "always"}))
    row = small.row(always, 0, ("validation",))
    assert {key: row[key] for key in keys} == {key: end[key] for key in keys}


def test_a_member_that_is_lost_does_not_spoil_the_others(small):
    pack = trained(small, 1, member(seed=0), member(seed=1))
    expected = views(small, pack)[1].estimate("latent_js")
    with torch.no_grad():
        pack.parameters["encoder"]["3.bias"][0] = math.nan
    first, second = views(small, pack)
    assert "not finite" in first.estimate("latent_js").reason
    assert second.estimate("latent_js") == expected
