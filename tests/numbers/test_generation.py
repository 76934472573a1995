"""Information of the generative side, against what is known of it."""

import math

import pytest
import torch
from helpers import DEFAULTS
from helpers import member as plain
from test_ruler import trained, views

from gimtune.algebra.likelihoods import LIKELIHOODS


def member(*arguments, **options):
    """A member that fresh networks are fitted for, as it ends."""
    return plain(*arguments, **{"metrics": {**DEFAULTS["metrics"], "ruler": "end"}, **options})


@pytest.mark.parametrize("name", sorted(name for name in LIKELIHOODS if not LIKELIHOODS[name].of_critic))
def test_images_are_drawn_as_their_density_says(name):
    likelihood = LIKELIHOODS[name]
    logits = torch.tensor([-8.0, -1.0, -1e-4, 0.0, 0.3, 4.0, 30.0])
    output = logits.repeat(40_000, 1, 1, 1)
    drawn = likelihood.sample(output, torch.Generator().manual_seed(0)).flatten(0, 2).double()
    mean = likelihood.mean(output[:1]).flatten().double()
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert (drawn.mean(0) - mean).abs().le(4 * error + 1e-6).all()
    # the spread too: E[log p(x)] of what is drawn is minus the entropy, here by quadrature over [0, 1]
    if name == "continuous_bernoulli":
        at = torch.linspace(0, 1, 20_001, dtype=torch.float64)
        density = likelihood.log_prob(at[:, None, None, None].float(), torch.full((len(at), 1, 1, 1), 4.0)).double()
        entropy = -float(torch.trapezoid(density.exp() * density, at))
        found = likelihood.log_prob(drawn[:, 5, None, None, None].float(), torch.full((len(drawn), 1, 1, 1), 4.0))
        assert abs(-float(found.mean()) - entropy) < 4 * float(found.std()) / math.sqrt(len(found))


def sandwich(view, count=1000, codes=10_000):
    """Bounds of I_p(x, z) with x drawn from p(x|z), by the known p(x|z) of many codes: below and above, with an error.

    Source: Poole et al. 2019, section 2.1 and 2.3 (leave-one-out above, InfoNCE with the true density below).
    """
    z = view.sampled(codes)
    output = view.objective.decode(view.parameters, z)
    x = view.objective.likelihood.sample(output[:count], torch.Generator().manual_seed(1))
    # log p(x|z) of the Bernoulli: a form that is linear in the logits
    flat = output.flatten(1).double()
    against = x.flatten(1).double() @ flat.T - torch.nn.functional.softplus(flat).sum(1)
    own = against.diagonal()
    below = own - (torch.logsumexp(against, 1) - math.log(codes))
    others = against.clone().fill_diagonal_(-math.inf)
    above = own - (torch.logsumexp(others, 1) - math.log(codes - 1))
    return float(below.mean()), float(above.mean()), float(own.sub(against.logsumexp(1)).std()) / math.sqrt(count)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_noisy_channel_is_bounded_within_its_sandwich(evaluation, weight):
    network = {"name": "mlp", "hidden": [128]}
    (view,) = views(evaluation, trained(evaluation, 60, member("beta_vae", weight, network=network, latent_dim=8)))
    below, above, error = sandwich(view)
    found = view.estimate("mi_p")
    assert found.value < above + 3 * math.hypot(error, found.error)
    # p(z|x) is no Gaussian
    assert found.value > 0.8 * below
    assert above - below < 0.2
    # the mean image says more of its code than one drawn from p(x|z)
    assert view.value("mi_p_mean") > found.value


def test_what_is_vacuous_has_no_value(evaluation):
    # a decoder that ignores its code
    pack = trained(evaluation, 0, member("vae"))
    with torch.no_grad():
        for value in pack.parameters["decoder"].values():
            value.zero_()
    (view,) = views(evaluation, pack)
    for key in ("mi_p", "mi_p_mean"):
        found = view.estimate(key)
        assert math.isnan(found.value) or found.value < 3 * found.error
        assert "vacuous" in found.reason or found.value >= 0


@pytest.mark.slow
def test_a_members_bound_does_not_depend_on_the_others(small):
    members = [member("vae", 0.1, seed=seed) for seed in range(3)]
    pack = trained(small, 2, *members)
    together = views(small, pack)
    (alone,) = views(small, trained(small, 2, members[1]))
    for key in ("mi_p", "mi_p_mean"):
        if torch.backends.cpu.get_cpu_capability() == "AVX2":
            assert together[1].value(key) == alone.value(key)
        assert together[1].value(key) == pytest.approx(alone.value(key), rel=0.05, nan_ok=True)


@pytest.mark.slow
def test_infogans_code_is_told_by_its_own_likelihood(small):
    (view,) = views(small, trained(small, 2, member("infogan", prior={"name": "infogan_code"})))
    found = view.estimate("mi_p_mean")
    # two categories and one uniform dimension: the category alone is at most ln 2
    assert math.isfinite(found.value) or "vacuous" in found.reason
    assert math.isnan(view.value("mi_p")) or view.value("mi_p") < found.value + 1


def test_priors_of_images_and_likelihoods_of_critics_have_none(small):
    (view,) = views(small, trained(small, 0, member("cyclegan")))
    assert "no known entropy" in view.estimate("mi_p_mean").reason
    (view,) = views(small, trained(small, 0, member("vae_gan")))
    assert "draws no images" in view.estimate("mi_p").reason
