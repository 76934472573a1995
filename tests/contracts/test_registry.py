"""What holds for every entry of the registries: a new model, prior, restriction or metric adds no line here."""

import dataclasses
import io
import json
import math

import pytest
import torch
from conftest import CPU
from helpers import combinations, member, numbers
from torch.func import vmap

from gimtune import testing
from gimtune.algebra.encoders import Implicit
from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.algebra.models import MODELS
from gimtune.algebra.objective import Objective
from gimtune.algebra.priors import PRIORS, make_prior
from gimtune.algebra.restrictions import RESTRICTIONS
from gimtune.networks import NETWORKS, CriticNetwork, initial
from gimtune.training import Pack
from gimtune.vocabulary import IDENTITY, METRICS, PROGRESS, PROTOCOL, Match, Member, Model, Weighted

NETWORK_OPTIONS = {
    "mlp": {"hidden": [16]},
    "conv": {"channels": [4, 8], "hidden": [16]},
    "resnet": {"channels": [4, 8]},
}


COMBINATIONS = list(combinations())
GAUSSIAN_ENCODED = [name for name, kind in PRIORS.items() if kind.encoder is None]
TERMS = [
    (key, prior)
    for key in RESTRICTIONS
    for prior in GAUSSIAN_ENCODED
    if RESTRICTIONS[key].refuses(make_prior(prior)) is None
]
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
    return parameters, small.data.constants(objective, one, "train"), small.data.scaled("train", slice(count)), noise


def assert_gradients(loss, values):
    for name, gradient in zip(values, torch.autograd.grad(loss, list(values.values()), retain_graph=True), strict=True):
        assert bool(gradient.isfinite().all()), name
        assert float(gradient.abs().max()) > 0, name


def reached(loss, parameters):
    """The modules of which any parameter has a gradient, all of them then being finite."""
    leaves = {(module, name): leaf for module, values in parameters.items() for name, leaf in values.items()}
    found = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
    gradients = {key: g for key, g in zip(leaves, found, strict=True) if g is not None and float(g.abs().max()) > 0}
    assert all(bool(g.isfinite().all()) for g in gradients.values())
    return {module for module, _ in gradients}


def critics(objective):
    return {player.name for player in objective.players} - {"model"}


#: What a restriction moves (models.md): the inference side, the generative side, or both; VEEGAN's mean logit is taken
#: under p alone, so that its encoder learns from the likelihood and from nothing else.
MOVES = {
    Match.POSTERIOR: {"encoder"},
    Match.LATENT: {"encoder"},
    Match.DATA: {"decoder"},
    Match.JOINT: {"encoder", "decoder"},
}


def moved_by(key):
    return {"decoder"} if tuple(map(str, key)) == ("joint", "kl_reverse") else MOVES[Match(key[0])]


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
def test_every_restriction_is_finite_and_moves_its_side(small, key, prior):
    one = single(key, prior)
    objective = Objective(one, small.data.image)
    parameters, constants, x, noise = batch(small, objective, one)
    (value,) = objective.terms(parameters, constants, x, noise).divergences
    assert math.isfinite(float(value.detach()))
    # a learned prior moves with either side, and one that is made of posteriors moves the encoder
    with_prior = {"prior"} & {*parameters} | ({"encoder"} if objective.prior.posteriors else set())
    assert reached(value, parameters) - critics(objective) == moved_by(key) | with_prior


@pytest.mark.parametrize("model", MODELS)
def test_every_term_reaches_what_it_should_and_nothing_else(small, model):
    one = member(model)
    objective = Objective(one, small.data.image)
    parameters, constants, x, noise = batch(small, objective, one)
    own = {"encoder", "decoder", *({"basis"} & {*parameters})}
    assert {*parameters} == own | critics(objective)
    terms = objective.terms(parameters, constants, x, noise)
    # the likelihood trains both halves on either side: on side p it reaches the generator through its images
    judge = {"data_js"} if objective.likelihood.of_critic else set()
    assert reached(terms.likelihood, parameters) == own | judge
    for (match, divergence, _), value in zip(one.restrictions, terms.divergences, strict=True):
        expected = moved_by((match, divergence)) | (
            {"basis"} & own if "encoder" in moved_by((match, divergence)) else set()
        )
        assert reached(value, parameters) - critics(objective) == expected
    # a critic's loss trains the critic alone, and the model's optimiser owns none of it
    for name in critics(objective):
        assert reached(objective.loss(name, parameters, constants, x, noise), parameters) == {name}
    owners = [module for player in objective.players for module in player.modules]
    assert sorted(owners) == sorted(parameters)
    assert {*objective.players[0].modules} == own


@pytest.mark.parametrize("name", [name for name, kind in PRIORS.items() if kind.learned])
@pytest.mark.parametrize("model", ["vae", "wae_mmd", "aae", "vae_gan"])
def test_a_learned_prior_is_trained_with_the_model(small, model, name):
    pack = Pack([member(model, prior={"name": name})], small.data)
    before = {key: value.detach().clone() for key, value in pack.parameters["prior"].items()}
    pack.train_epoch()
    assert all(not value.equal(pack.parameters["prior"][key]) for key, value in before.items())


@pytest.mark.parametrize(
    "settings",
    [{"spectral_norm": True}, {"instance_noise": 0.2}, {"gradient_penalty": 1.0}, {"log_prior": True}, {"steps": 2}],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("key", [("latent", "js"), ("data", "js"), ("joint", "kl_reverse")], ids="-".join)
def test_a_critics_settings_change_what_it_learns(small, key, settings):
    packs = [Pack([single(key, critic={"hidden": [16], **s})], small.data) for s in ({}, settings)]
    for pack in packs:
        pack.train_epoch()
        assert not pack.diverged()
    name = "_".join(key)
    same = all(v.equal(packs[1].parameters[name][k]) for k, v in packs[0].parameters[name].items())
    # a critic of images knows of no prior
    assert same == (key[0] == "data" and "log_prior" in settings)


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
        assert restriction.estimated(prior) if why is None else len(why) > 20
    assert any(restriction.refuses(make_prior(prior)) is None for prior in PRIORS)


@pytest.mark.parametrize("key", [*RESTRICTIONS, ()], ids=lambda key: "-".join(key) or "none")
def test_a_checkpoint_goes_on_with_the_same_bits(small, key):
    one = single(key) if key else member("ae")
    pack = Pack([one], small.data)
    pack.train_epoch()
    stream = io.BytesIO()
    torch.save(pack.state(), stream)
    stream.seek(0)
    again = Pack([one], small.data)
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
    model = "vae_gan" if LIKELIHOODS[likelihood].of_critic else "vae"
    one = member(model, likelihood=likelihood, network={"name": network, **NETWORK_OPTIONS[network]})
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
    assert not LIKELIHOODS[likelihood].bounded or 0 <= float(mean.min()) <= float(mean.max()) <= 1


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("start", [1.0, 0.1, 0.02])
def test_a_gaussian_posterior_starts_as_wide_as_the_study_says(small, network, start):
    one = member("vae", sigma_start=start, network={"name": network, **NETWORK_OPTIONS[network]})
    objective = Objective(one, small.data.image)
    parameters, _, x, _ = batch(small, objective, one)
    _, sigma = objective.encode(parameters, x)
    # the network's own output is of the order of 0.1 when it starts
    assert torch.allclose(sigma.log(), torch.tensor(start).log(), atol=0.35)


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_start_as_torch_starts_them(network):
    def built():
        return NETWORKS[network]((1, 8, 8), 4, 8, **NETWORK_OPTIONS[network])

    critics = [
        CriticNetwork(image, codes, [16], NETWORK_OPTIONS[network].get("channels", ()), built().critic)
        for image, codes in (((1, 8, 8), 0), (None, 4), ((1, 8, 8), 4))
    ]
    for module in (*filter(None, built()), *critics, Implicit().basis(4)):
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
    with pytest.raises(ValueError, match=r"network.channels=\[4, 4, 4\]: images of 5 x 28 cannot be halved 3 times"):
        NETWORKS["conv"]((1, 5, 28), 4, 8, channels=[4, 4, 4], hidden=[])
    with pytest.raises(ValueError, match=r"network\.depth=4: images of 5 x 28 cannot be halved 4 times"):
        NETWORKS["resnet"]((1, 5, 28), 4, 8, channels=[4], depth=4)


@pytest.mark.parametrize("image", [(1, 7, 5), (3, 9, 13)], ids=str)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"hidden": [], "width": 8, "depth": 2, "activation": "tanh"}),
        ("conv", {"channels": [4, 8], "hidden": [8]}),
        ("conv", {"channels": [4], "depth": 2, "hidden": [8], "activation": "silu"}),
        ("resnet", {"channels": [4, 8], "blocks": 2, "activation": "gelu"}),
        ("resnet", {"channels": [], "width": 6, "depth": 2}),
    ],
    ids=["mlp", "conv", "conv of two", "resnet", "resnet of two"],
)
def test_networks_take_odd_sizes_and_colours(image, name, options):
    testing.check_network(name, image=image, **options)


def test_width_and_depth_stand_for_lists():
    def shapes(name, **options):
        made = NETWORKS[name]((1, 8, 8), 4, 8, **options)
        return [p.shape for module in filter(None, made) for p in module.parameters()]

    assert shapes("mlp", hidden=[16, 32], width=8) == shapes("mlp", hidden=[8, 8])
    assert shapes("mlp", hidden=[16, 32], depth=3) == shapes("mlp", hidden=[16, 16, 16])
    assert shapes("conv", channels=[8], hidden=[9], width=4, depth=2) == shapes("conv", channels=[4, 8], hidden=[9])
    assert shapes("resnet", channels=[8, 16], width=4) == shapes("resnet", channels=[4, 8])


def test_a_residual_critic_sees_the_image_through_blocks_of_its_own(small):
    one = member(
        "vae_gan", critic={"hidden": [8], "gradient_penalty": 1.0}, network={"name": "resnet", "channels": [4]}
    )
    objective = Objective(one, small.data.image)
    critic = objective.modules["data_js"]
    encoder = objective.modules["encoder"]
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in critic.modules()) == sum(
        isinstance(layer, torch.nn.Conv2d) for layer in encoder.modules()
    )
    assert not any(isinstance(layer, torch.nn.GroupNorm) for layer in critic.modules())
    # R1 and the features of the likelihood, mapped over two members
    pack = Pack([one, dataclasses.replace(one, seed=1)], small.data)
    pack.train_epoch()
    assert not pack.diverged()
    started = objective.initial(0, CPU)["data_js"]
    moved = pack.one(0)["data_js"]
    assert not any(started[key].equal(moved[key]) for key in started)


def test_a_members_layers_are_counted_where_they_stand(small):
    one = member("vae", network={"name": "conv", "channels": [4], "hidden": [16]})
    # 4 maps of 4 x 4, 16 and 8; 16, 64 and 8 x 8
    assert Objective(one, small.data.image).units == 64 + 16 + 8 + 16 + 64 + 64


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


@pytest.mark.parametrize(
    "restrictions",
    [(), (("posterior", "kl", 1.0), ("latent", "mmd", 2.0)), (("joint", "lsgan", 1.0), ("latent", "wgan_gp", 1.0))],
    ids=["none", "two", "critics"],
)
def test_a_row_has_every_metric_and_no_other(small, restrictions):
    one = dataclasses.replace(member(), restrictions=restrictions)
    row = small.row(Pack([one], small.data), 0, ("validation", "test"))
    terms = {f"restriction/{match}_{divergence}" for match, divergence, _ in restrictions}
    # a critic that is no classifier has no accuracy
    terms |= {"critic_accuracy/joint_lsgan"} if restrictions and restrictions[0][1] == "lsgan" else set()
    expected = {*METRICS, *terms}
    errors = {f"{key}_se" for key, metric in METRICS.items() if metric.error}
    assert set(row) - set(PROTOCOL) == {p + key for p in ("", "test_") for key in expected | errors}
    # what made it, its worker says, and what was added later, who adds it
    assert set(row) & set(PROTOCOL) == set(PROTOCOL) - {"environment", "added_in"}
    for key in set(row) - set(PROTOCOL):
        assert isinstance(row[key], int | float), key
        assert math.isfinite(row[key]) or row["reasons"][key.removesuffix("_se")], key
    weighted = sum(w * row[f"restriction/{m}_{d}"] for m, d, w in restrictions)
    assert row["restriction"] == pytest.approx(weighted, rel=1e-12)  # one sum in float64
    failed = small.failed(one, ("validation", "test"), "a reason")
    assert set(failed) - {"reasons", "flags"} == expected | {f"test_{key}" for key in expected}
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
        "sigma_start": 0.2,
        "metrics": {"probe_samples": 1},
    }
    names = {dataclasses.replace(one, **{key: value}).trial for key, value in changes.items()}
    assert len(names | {one.trial}) == len(changes) + 1
    assert json.loads(one.to_json())["model"] == "info_vae"


def test_measuring_again_gives_the_same_numbers(small):
    pack = Pack([member(prior={"name": "mixture"})], small.data)
    pack.train_epoch()
    one, two = (small.row(pack, 0, ("validation", "test")) for _ in range(2))
    assert numbers(one) == numbers(two)
