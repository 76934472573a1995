"""Information of the generative side, against what is known of it."""

import math

import pytest
import torch
from helpers import DEFAULTS
from helpers import member as plain
from test_ruler import trained, views

from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.metrics import generation


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


def planted(count, seed):
    """Pairs of a category out of three that x shows, and of a dimension u that x shows with half of its deviation."""
    source = torch.Generator().manual_seed(seed)
    category = torch.nn.functional.one_hot(torch.randint(0, 3, (count,), generator=source), 3).float()
    u = torch.randn(count, 1, generator=source)
    noise = torch.randn(count, 16, generator=source)
    x = torch.cat([category + 0.05 * noise[:, :3], u + 0.5 * noise[:, 3:4], noise[:, 4:]], 1)
    return generation.Pairs(x, torch.cat([category, u], 1))


def test_a_planted_code_is_told_to_its_information():
    pairs, others = planted(10_000, 0), planted(20_000, 1)
    code = generation.Code(3, pairs.z[:, 3:].mean(0), pairs.z[:, 3:].std(0))
    (encoder,) = generation.encoders([pairs], [code], [torch.Generator().manual_seed(0)])
    entropy = math.log(3) + 0.5 * math.log(2 * math.pi * math.e)
    terms = encoder.log_prob(*others) + entropy
    known = math.log(3) + 0.5 * math.log(1 + 1 / 0.25)
    error = float(terms.std()) / math.sqrt(len(terms))
    assert known - 0.03 < float(terms.mean()) < known + 3 * error


def test_a_decoder_that_ignores_its_code_tells_nothing(evaluation):
    pack = trained(evaluation, 0, member("vae"))
    with torch.no_grad():
        for value in pack.parameters["decoder"].values():
            value.zero_()
    (view,) = views(evaluation, pack)
    for key in ("mi_p", "mi_p_mean"):
        found = view.estimate(key)
        assert "vacuous" in found.reason if math.isnan(found.value) else 0 < found.value < 3 * found.error


def test_a_bound_below_zero_is_vacuous(small):
    # an encoder that is sure of another generator's codes
    (other,) = views(small, trained(small, 5, member("vae", seed=1)))
    (view,) = views(small, trained(small, 5, member("vae", seed=0)))
    assert other.value("mi_p_mean") > 0
    wrong = other.once("auxiliary False", dict)
    assert isinstance(wrong, generation.Auxiliary)
    view.once("auxiliary False", lambda: wrong)
    found = view.estimate("mi_p_mean")
    assert math.isnan(found.value)
    assert found.reason.startswith("vacuous: the bound is -")


@pytest.mark.slow
def test_a_members_bound_does_not_depend_on_the_others(small):
    members = [member("vae", 0.1, seed=seed) for seed in range(3)]
    pack = trained(small, 2, *members)
    together = views(small, pack)
    (alone,) = views(small, trained(small, 2, members[1]))
    for key in ("mi_p", "mi_p_mean"):
        assert together[1].value(key) == pytest.approx(alone.value(key), rel=1e-6)


def test_priors_of_images_and_likelihoods_of_critics_have_none(small):
    (view,) = views(small, trained(small, 0, member("cyclegan")))
    assert "no known entropy" in view.estimate("mi_p_mean").reason
    (view,) = views(small, trained(small, 0, member("vae_gan")))
    assert "draws no images" in view.estimate("mi_p").reason
