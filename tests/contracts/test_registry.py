"""What holds for every entry of the registries: a new model, prior, restriction or metric adds no line here."""

import dataclasses
import io
import json
import math

import pytest
import torch
from conftest import CPU
from helpers import member, numbers
from torch.func import vmap

from gimtune.likelihoods import LIKELIHOODS
from gimtune.models import MODELS
from gimtune.networks import NETWORKS, initial
from gimtune.objective import Objective
from gimtune.priors import PRIORS, make_prior
from gimtune.restrictions import RESTRICTIONS
from gimtune.training import Pack
from gimtune.vocabulary import IDENTITY, METRICS, PROGRESS, PROTOCOL, Match, Member, Model, Weighted

NETWORK_OPTIONS = {"mlp": {"hidden": [16]}, "conv": {"channels": [4, 8], "hidden": [16]}}


def refused(restrictions, prior):
    return any(RESTRICTIONS[match, name].refuses(make_prior(prior)) for match, name in restrictions)


COMBINATIONS = [
    (model, prior)
    for model in MODELS
    for prior in PRIORS
    if not refused([(r.match, r.divergence) for r in MODELS[model].restrictions], prior)
]
TERMS = [(key, prior) for key in RESTRICTIONS for prior in PRIORS if not refused([key], prior)]
IDS = {"ids": lambda value: value if isinstance(value, str) else "-".join(value)}


def single(restriction, prior="normal", **options):
    """A member with one restriction, by its match and divergence."""
    return dataclasses.replace(
        member(prior={"name": prior}, **options), model="own", restrictions=((*map(str, restriction), 1.0),)
    )


def batch(small, objective, one, count=32):
    """Parameters that ask for gradients, constants, images and noise of one minibatch."""
    parameters = objective.initial(one.seed, CPU)
    for values in parameters.values():
        for value in values.values():
            value.requires_grad_()
    noise = objective.noise((one.seed, "train", 0), count, 1, CPU)
    noise = {k: v[0] if k == "directions" else v for k, v in noise.items()}
    return parameters, objective.constants(one, CPU), small.scaled("train", slice(count)), noise


def assert_gradients(loss, values):
    for name, gradient in zip(values, torch.autograd.grad(loss, list(values.values()), retain_graph=True), strict=True):
        assert bool(gradient.isfinite().all()), name
        assert float(gradient.abs().max()) > 0, name


# Models and restrictions


@pytest.mark.parametrize(("model", "prior"), COMBINATIONS, **IDS)
def test_a_step_of_every_model(small, model, prior):
    one = member(model, prior={"name": prior})
    objective = Objective(one, small.data.image)
    parameters, constants, x, noise = batch(small, objective, one)
    for player in objective.players:
        loss = objective.loss(player.name, parameters, constants, x, noise)
        assert math.isfinite(float(loss.detach()))
        for module in player.modules:
            assert_gradients(loss, parameters[module])


@pytest.mark.parametrize(("key", "prior"), TERMS, **IDS)
def test_every_restriction_is_finite_and_moves_the_encoder(small, key, prior):
    one = single(key, prior)
    objective = Objective(one, small.data.image)
    parameters, constants, x, noise = batch(small, objective, one)
    (value,) = objective.terms(parameters, constants, x, noise).divergences
    assert math.isfinite(float(value.detach()))
    assert_gradients(value, parameters["encoder"])


@pytest.mark.parametrize(("key", "prior"), TERMS, **IDS)
def test_every_restriction_can_be_mapped(small, key, prior):
    one = single(key, prior)
    objective = Objective(one, small.data.image)
    parameters, constants, x, noise = batch(small, objective, one)
    with torch.no_grad():
        alone = objective.terms(parameters, constants, x, noise)
        two = torch.utils._pytree.tree_map(lambda leaf: torch.stack([leaf, leaf]), (parameters, constants, noise))
        mapped = vmap(lambda p, c, n: objective.terms(p, c, x, n))(*two)
    for both, expected in zip(mapped, alone, strict=True):
        # one formula in float32 by batched and by plain kernels
        torch.testing.assert_close(both, torch.stack([expected, expected]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key", RESTRICTIONS, **IDS)
def test_every_restriction_says_what_it_is(key):
    restriction = RESTRICTIONS[key]
    assert (restriction.match, restriction.divergence) == key
    assert restriction.key == "_".join(key)
    assert restriction.unit
    assert restriction.source
    for prior in map(make_prior, PRIORS):
        why = restriction.refuses(prior)
        assert restriction.estimator(prior) if why is None else len(why) > 20
    assert any(restriction.refuses(make_prior(prior)) is None for prior in PRIORS)


@pytest.mark.parametrize("key", [*RESTRICTIONS, ()], ids=lambda key: "-".join(key) or "none")
def test_a_checkpoint_goes_on_with_the_same_bits(small, key):
    one = single(key) if key else member("ae")
    pack = Pack([one], small)
    pack.train_epoch()
    stream = io.BytesIO()
    torch.save(pack.state(), stream)
    stream.seek(0)
    again = Pack([one], small)
    again.restore(torch.load(stream, weights_only=True))
    for p in (pack, again):
        p.train_epoch()
    for module, values in pack.parameters.items():
        for name, value in values.items():
            assert value.equal(again.parameters[module][name]), f"{module}.{name}"


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_a_declaration(name):
    model = MODELS[name]
    assert model.name == name
    assert model.source
    assert model.likelihood is None or model.likelihood in LIKELIHOODS
    for restriction in model.restrictions:
        assert (restriction.match, restriction.divergence) in RESTRICTIONS
    one, two = model.weights(1.0), model.weights(2.0)
    assert two == tuple(2 * w for w in one)
    with pytest.raises(ValueError, match=f"model {name} has no parameter gamma_ray"):
        model.weights(1.0, gamma_ray=1.0)


def test_declarations_refuse_nonsense():
    twice = (Weighted(Match.POSTERIOR, "kl"), Weighted(Match.POSTERIOR, "kl"))
    with pytest.raises(ValueError, match=r"model twice: restrictions repeat \['posterior_kl'\]"):
        Model("twice", twice, "nobody")
    for alpha, weight in [(2.0, 1.0), (0.0, math.inf), (0.0, math.nan)]:
        with pytest.raises(ValueError, match=r"model info_vae: weight of posterior_kl is .* it must be >= 0"):
            MODELS["info_vae"].weights(weight, alpha=alpha)
    with pytest.raises(dataclasses.FrozenInstanceError):
        MODELS["vae"].name = "other"
    with pytest.raises(TypeError):
        MODELS["info_vae"].parameters["alpha"] = 1.0


def test_info_vae_weights_are_the_papers():
    assert MODELS["info_vae"].weights(1.0, **{"alpha": 0.25, "lambda": 10.0}) == (0.75, 9.25)
    assert MODELS["info_vae"].weights(0.5) == (0.5, 499.5)


# Likelihoods and networks


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_on_every_network(small, network, likelihood):
    one = member(likelihood=likelihood, network={"name": network, **NETWORK_OPTIONS[network]})
    objective = Objective(one, small.data.image)
    parameters, constants, x, noise = batch(small, objective, one)
    terms = objective.terms(parameters, constants, x, noise)
    assert terms.loss.dtype == torch.float32
    assert_gradients(terms.loss, parameters["encoder"])
    assert_gradients(terms.loss, parameters["decoder"])
    with torch.no_grad():
        mu, sigma = objective.encode(parameters, x)
        mean = objective.likelihood.mean(objective.decode(parameters, mu))
    assert mu.shape == sigma.shape == (32, one.latent_dim)
    assert float(sigma.min()) >= one.sigma_min
    assert mean.shape == x.shape
    assert 0 <= float(mean.min()) <= float(mean.max()) <= 1


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_start_as_torch_starts_them(network):
    built = NETWORKS[network]((1, 8, 8), 4, **NETWORK_OPTIONS[network])
    for module in built:
        assert not list(module.buffers())
        assert all(p.is_meta for p in module.parameters())
        ours = initial(module, torch.Generator().manual_seed(0))
        again = initial(module, torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        theirs = module.to_empty(device="cpu")
        for layer in theirs.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        for name, value in theirs.named_parameters():
            assert ours[name].equal(again[name])
            assert ours[name].shape == value.shape
            # uniform between the same bounds: the largest of n draws falls short of it by a share of about 1 / n
            largest = value.detach().abs().max().item()
            assert float(ours[name].abs().max()) == pytest.approx(largest, rel=20 / value.numel())


def test_an_image_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match=r"network.channels=\[4, 4, 4\]: images of 28 x 28 cannot be halved 3 times"):
        NETWORKS["conv"]((1, 28, 28), 4, channels=[4, 4, 4], hidden=[])


@pytest.mark.parametrize(("model", "prior"), [("vae", "normal"), ("ae", "laplace"), ("wae_mmd", "mixture")])
def test_float64_parameters_stay_float64(small, model, prior):
    one = member(model, prior={"name": prior})
    objective = Objective(one, small.data.image)
    parameters, constants, x, noise = torch.utils._pytree.tree_map(
        lambda leaf: leaf.double(), batch(small, objective, one)
    )
    terms = objective.terms(parameters, constants, x, noise)
    assert all(value.dtype == torch.float64 for value in terms)


# Metrics and rows


@pytest.mark.parametrize("restrictions", [(), (("posterior", "kl", 1.0), ("latent", "mmd", 2.0))], ids=["none", "two"])
def test_a_row_has_every_metric_and_no_other(small, restrictions):
    one = dataclasses.replace(member(), restrictions=restrictions)
    row = Pack([one], small).measure(0, ("validation", "test"))
    terms = {f"restriction/{match}_{divergence}" for match, divergence, _ in restrictions}
    expected = {*METRICS, *terms}
    assert set(row) - set(PROTOCOL) == expected | {f"test_{key}" for key in expected}
    assert set(row) & set(PROTOCOL) == set(PROTOCOL)
    for key in set(row) - set(PROTOCOL):
        assert isinstance(row[key], int | float), key
        assert math.isfinite(row[key]) or row["reasons"][key], key
    weighted = sum(w * row[f"restriction/{m}_{d}"] for m, d, w in restrictions)
    assert row["restriction"] == pytest.approx(weighted, rel=1e-12)  # one sum in float64
    failed = small.failed(one, ("validation", "test"), "a reason")
    assert set(failed) - {"reasons"} == expected | {f"test_{key}" for key in expected}
    assert set(failed["reasons"].values()) == {"a reason"}


def test_columns_are_named_once():
    names = [*METRICS, *IDENTITY, *PROGRESS, *PROTOCOL]
    assert len(set(names)) == len(names)
    for key, metric in METRICS.items():
        assert metric.key == key
        assert metric.unit
        assert metric.meaning


def test_a_member_is_its_configuration():
    one = member("info_vae")
    again = Member.from_json(one.to_json())
    assert again == one
    assert again.trial == one.trial
    changes = {
        "weight": 2.0,
        "seed": 1,
        "prior": {"name": "normal", "scale": 2.0},
        "restrictions": (("posterior", "kl", 2.0),),
        "data": {"name": "digits", "digest": "other"},
        "epochs": 9,
        "learning_rate": 2e-3,
        "metrics": {"probe_samples": 1},
    }
    names = {dataclasses.replace(one, **{key: value}).trial for key, value in changes.items()}
    assert len(names | {one.trial}) == len(changes) + 1
    assert json.loads(one.to_json())["model"] == "info_vae"


def test_measuring_again_gives_the_same_numbers(small):
    pack = Pack([member(prior={"name": "mixture"})], small)
    pack.train_epoch()
    one, two = (pack.measure(0, ("validation", "test")) for _ in range(2))
    assert numbers(one) == numbers(two)
