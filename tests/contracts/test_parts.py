"""The door for parts: contracts over the registries, what is refused at it and in which words, and plug-ins."""

import dataclasses
import json
import math
import re
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import member, numbers
from torch import nn

from gimtune import data, parts, register, testing, vocabulary
from gimtune.algebra.encoders import ENCODERS
from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.algebra.models import MODELS
from gimtune.algebra.priors import PRIORS, Prior
from gimtune.algebra.restrictions import RESTRICTIONS, Restriction
from gimtune.analysis.export import references
from gimtune.data import DATASETS
from gimtune.metrics import FEATURES, MEASURES, Estimate
from gimtune.networks import NETWORKS, Networks, check
from gimtune.study import composition, resolve
from gimtune.study.messages import ConfigError
from gimtune.training import Pack
from gimtune.vocabulary import METRICS, Match, Metric, Model, Weighted

# Contracts, over all that is registered


@pytest.mark.parametrize("name", [RESTRICTIONS.label(key) for key in RESTRICTIONS])
def test_restrictions_keep_their_contract(name):
    testing.check_restriction(name)


@pytest.mark.parametrize("name", PRIORS)
def test_priors_keep_their_contract(name):
    testing.check_prior(name)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_keep_their_contract(name):
    testing.check_encoder(name)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_keep_their_contract(name):
    testing.check_likelihood(name)


@pytest.mark.parametrize("name", MODELS)
def test_models_keep_their_contract(name):
    testing.check_model(name)


@pytest.mark.parametrize("name", MEASURES)
def test_metrics_keep_their_contract(name):
    testing.check_metric(name)


@pytest.mark.parametrize(
    ("name", "options"),
    [("mlp", {"hidden": [16]}), ("conv", {"channels": [4], "hidden": [16]}), ("resnet", {"channels": [4]})],
)
def test_networks_keep_their_contract(name, options):
    testing.check_network(name, **options)


def test_every_network_is_checked():
    assert {*NETWORKS} == {"mlp", "conv", "resnet"}


def test_digits_keep_the_contract_of_data():
    testing.check_data("digits")


def test_the_classifier_keeps_the_contract_of_features():
    testing.check_features("classifier")


def test_every_part_says_what_it_is():
    kinds = {*register.__all__}
    assert {*parts.registries()} == kinds
    for kind, registry in parts.registries().items():
        assert registry.contract.endswith("."), kind
        for key in registry:
            facts = registry.facts(key)
            assert len(facts.summary) > 5, (kind, key)
            assert registry.origin(key).startswith("gimtune."), (kind, key)


def test_every_source_has_an_entry():
    known = references.entries()
    for kind, registry in parts.registries().items():
        for key in registry:
            cited = references.keys(registry.facts(key).source)
            assert {*cited} <= {*known}, (kind, key)


def test_a_critic_with_r1_cites_it():
    penalised = [r for r in RESTRICTIONS.values() if r.critic and r.critic.gradient_penalty]
    assert {r.match for r in penalised} >= {Match.DATA, Match.JOINT}
    for restriction in penalised:
        assert restriction.critic.divergence.unit_slope != ("mescheder2018" in references.keys(restriction.source))


# What the checks find


def _linear(image, latent_dim, outputs, layer=None):
    pixels = image[0] * image[1] * image[2]
    between = [layer(8)] if layer else []
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), *between, nn.Linear(8, outputs))
    return Networks(encoder, nn.Sequential(nn.Linear(latent_dim, pixels), nn.Unflatten(1, image)))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.BatchNorm1d, r"its encoder has a BatchNorm1d \(2\): a network that is mapped over members keeps no state"),
        (lambda width: nn.Dropout(0.5), r"has a Dropout \(2\)"),
        (lambda width: nn.Linear(width, 3), "does not take"),
    ],
    ids=["batch norm", "dropout", "shapes"],
)
def test_networks_that_cannot_be_mapped_are_refused(layer, why):
    def faulty(image, latent_dim, outputs):
        """A network that something is wrong with."""
        return _linear(image, latent_dim, outputs, layer)

    with NETWORKS.without():
        register.network(faulty)
        with pytest.raises(ValueError, match=f"network=faulty: its encoder.*{why}|network=faulty: .*{why}"):
            check("faulty", (1, 8, 8), 4, 8, {})


class _Between(nn.Module):
    """What a layer does not say of itself."""

    def __init__(self, function):
        super().__init__()
        self.function, self.seen = function, 0

    def forward(self, x):
        self.seen += 1
        return self.function(self, x)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda m, x: nn.functional.dropout(x, training=m.training), "other numbers the second time, by dropout"),
        (lambda m, x: x + m.seen, "other numbers the second time, by dropout, noise or what it remembers"),
        (lambda m, x: nn.functional.batch_norm(x, None, None, training=True), "by batch statistics; .*GroupNorm does"),
        (lambda m, x: x - x.mean(0), "gives an image other numbers among other images, by batch statistics"),
        (lambda m, x: 2 * x if m.training else x, "does something else in evaluation than in training"),
    ],
    ids=["dropout", "state", "batch norm", "batch mean", "mode"],
)
def test_what_a_network_does_beside_its_layers_is_refused(function, why):
    def faulty(image, latent_dim, outputs):
        """A network that something is wrong with."""
        return _linear(image, latent_dim, outputs, lambda width: _Between(function))

    with NETWORKS.without():
        register.network(faulty)
        state = torch.random.get_rng_state()
        with pytest.raises(ValueError, match=f"network=faulty: its encoder gives.*{why}|its encoder {why}"):
            check("faulty", (1, 8, 8), 4, 8, {})
        assert torch.random.get_rng_state().equal(state)


def test_a_bare_parameter_without_a_start_is_refused():
    def bare(image, latent_dim, outputs):
        """A parameter on meta, of which nobody knows where it starts."""
        with torch.device("meta"):
            networks = _linear(image, latent_dim, outputs, lambda width: nn.GroupNorm(2, width))
            networks.encoder.register_parameter("shift", nn.Parameter(torch.zeros(3)))
        return networks

    with NETWORKS.without():
        register.network(bare)
        with pytest.raises(ValueError, match="network=bare: its encoder cannot be started: shift of Sequential is on"):
            check("bare", (1, 8, 8), 4, 8, {})


def test_a_network_of_the_wrong_width_is_refused():
    def narrow(image, latent_dim, outputs):
        """It makes half of the outputs that it is asked for."""
        return _linear(image, latent_dim, outputs // 2)

    with NETWORKS.without():
        register.network(narrow)
        with pytest.raises(ValueError, match=r"its encoder makes \(4,\) of \(1, 8, 8\); it should make \(8,\)"):
            check("narrow", (1, 8, 8), 4, 8, {})


def test_a_network_starts_as_it_is_made_under_the_members_seed():
    def own(image, latent_dim, outputs):
        """A network that draws its weights itself, and has gains and a bare parameter."""
        networks = _linear(image, latent_dim, outputs, lambda width: nn.GroupNorm(2, width))
        networks.encoder[2].register_parameter("shift", nn.Parameter(torch.full((8,), 0.25)))
        networks.encoder[2].forward = lambda x, norm=networks.encoder[2]: (
            nn.functional.group_norm(x, 2, norm.weight, norm.bias) + norm.shift
        )
        nn.init.orthogonal_(networks.encoder[1].weight)
        return networks

    from conftest import CPU

    from gimtune.algebra.objective import Objective

    with NETWORKS.without():
        register.network(own)
        testing.check_network("own")
        objective = Objective(member(network={"name": "own"}), (1, 8, 8))
        state = torch.random.get_rng_state()
        first, again, other = (objective.initial(seed, CPU)["encoder"] for seed in (0, 0, 1))
        assert torch.random.get_rng_state().equal(state)
    assert all(first[key].equal(again[key]) for key in first)
    assert not first["1.weight"].equal(other["1.weight"])
    torch.testing.assert_close(first["1.weight"] @ first["1.weight"].T, torch.eye(8), rtol=0, atol=1e-5)
    assert first["2.weight"].tolist() == [1.0] * 8
    assert first["2.shift"].tolist() == [0.25] * 8


@pytest.mark.parametrize(
    ("closed", "why"),
    [
        (lambda s: s.z.mean() * float("nan"), "nan"),
        (lambda s: s.generated.mean(), "its gradient reaches"),
        (lambda s: (s.z.detach() ** 2).mean(), "does not require grad|its gradient reaches"),
        (lambda s: s.z.mean() if float(s.z.mean()) > 9 else s.z.square().mean(), "cannot be mapped"),
    ],
    ids=["nan", "other side", "no gradient", "branch"],
)
def test_restrictions_that_do_not_work_are_found(closed, why):
    with RESTRICTIONS.without():
        register.restriction(Restriction("latent", "faulty", "nats", "closed form", "nobody", closed, draws=("prior",)))
        with pytest.raises((AssertionError, RuntimeError), match=why):
            testing.check_restriction("latent/faulty")


# What is refused at the door


def _prior(**changes):
    body = {"name": "mine", "__doc__": "Mine.", "parameters": None, "marginal": None, "extent": None, **changes}
    return dataclasses.dataclass(frozen=True)(type("Mine", (Prior,), body))


class _Plain(Prior):
    """It has neither methods nor fields."""

    name: ClassVar[str] = "plain"


REFUSED = {
    "restriction of both kinds": (
        lambda: register.restriction(Restriction("latent", "x", "nats", "how", "who")),
        r"restriction latent_x of .*: it is either computed from a sample \(closed\) or estimated by a critic",
    ),
    "restriction with unknown draws": (
        lambda: register.restriction(Restriction("latent", "x", "nats", "how", "who", lambda s: s.z, draws=("dice",))),
        r"draws=dice: allowed are prior, directions, normal, mix",
    ),
    "restriction without a source": (
        lambda: register.restriction(Restriction("latent", "x", "nats", "how", "", lambda s: s.z)),
        "it says its unit and its source",
    ),
    "something else": (lambda: register.restriction(3), "restriction 3 of .*: it is no Restriction"),
    "prior that is no class": (lambda: register.prior(3), "it is no subclass of Prior"),
    "prior that is no dataclass": (
        lambda: register.prior(
            type("Thawed", (PRIORS["normal"],), {"name": "thawed", "__doc__": "Fields may be set."})
        ),
        "prior thawed of .*: it is no frozen dataclass, whose fields are its options",
    ),
    "prior without methods": (
        lambda: register.prior(dataclasses.dataclass(frozen=True)(_Plain)),
        "prior plain of .*: it lacks extent, marginal, parameters",
    ),
    "prior with an odd option": (
        lambda: register.prior(_prior(__annotations__={"scales": "list"}, scales=None)),
        "option scales is list; an option is int, float or str",
    ),
    "prior without a default": (
        lambda: register.prior(_prior(__annotations__={"scale": "float"})),
        "option scale has no default",
    ),
    "network with other arguments": (
        lambda: register.network(lambda shape, dims, width: None),
        "it takes image, latent_dim and outputs first, and then its options; not shape, dims, width",
    ),
    "network that takes anything": (
        lambda: register.network(lambda image, latent_dim, outputs, **options: None),
        "options are named, one by one",
    ),
    "data without a seed": (lambda: register.data(lambda path: None), "it takes the seed of its splits, as seed"),
    "metric without a column": (lambda: register.metric()(lambda view: 1.0), "it declares no column"),
    "metric of two arguments": (
        lambda: register.metric(Metric("x", "min", "nats", "x"))(lambda view, more: 1.0),
        "it takes one argument, the view; not view, more",
    ),
    "metric with another direction": (
        lambda: register.metric(Metric("fid", "max", "features^2", "x"))(test_every_network_is_checked),
        "it takes one argument",
    ),
    "metric without a docstring": (
        lambda: register.metric(Metric("x", "min", "nats", "x"))(lambda view: 1.0),
        "it has no docstring",
    ),
    "model without a source": (
        lambda: register.model(Model("mine", (Weighted(Match.LATENT, "mmd"),), "")),
        "model mine of .*: it says its source",
    ),
    "likelihood": (lambda: register.likelihood(int), "it is no subclass of Likelihood"),
    "encoder": (lambda: register.encoder(int), "it is no subclass of Encoder"),
    "features": (lambda: register.features(int), "it is no subclass of FeatureSource"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_keeps_no_contract_is_refused_in_a_line(case):
    make, why = REFUSED[case]
    with pytest.raises(parts.PartError, match=why) as refused:
        make()
    assert "\n" not in str(refused.value)
    assert re.match(r"(\w+) .* of (contracts\.)?test_parts: ", str(refused.value))


def test_a_direction_that_is_none_is_refused():
    with pytest.raises(ValueError, match="metric x: direction upwards; allowed are min, max, none"):
        Metric("x", "upwards", "nats", "x")


def test_a_name_that_is_taken_is_refused_with_who_has_it():
    with pytest.raises(parts.PartError, match=r"model vae of .*: gimtune\.algebra\.models has registered one of that"):
        register.model(Model("vae", (), "somebody"))

    def another(view):
        """The same column."""
        return 1.0

    with pytest.raises(parts.PartError, match=r"metric fid of .*: gimtune\.metrics\.frechet has registered one of"):
        register.metric(METRICS["fid"])(another)


def test_a_cell_that_is_run_again_replaces_its_part():
    with MODELS.without():
        register.model(Model("mine", (), "me"))
        register.model(Model("mine", (), "me, later"))
        assert MODELS["mine"].source == "me, later"
    assert "mine" not in MODELS


# Plug-ins

PLUGIN = """
from gimtune import register
from gimtune.vocabulary import Model
register.model(Model("plugged", (), "me"))
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Name and file of a plug-in that can be imported, and what is left of it is taken away."""
    path = tmp_path / "plugged_parts.py"
    path.write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    with MODELS.without():
        yield "plugged_parts", path
    parts._plugins.pop("plugged_parts", None)
    sys.modules.pop("plugged_parts", None)


def test_a_plugin_is_known_by_its_content(plugin):
    name, path = plugin
    parts.load([name])
    assert MODELS.origin("plugged") == name
    digest = parts.plugins()[name]
    assert parts.used([(MODELS, "plugged"), (MODELS, "vae")]) == {name: digest}
    parts.load([name], expected={name: digest})
    path.write_text(PLUGIN + "# another content\n")
    assert parts.digest(name) != digest
    with pytest.raises(parts.PartError, match=f"plugins={name}: its content is {digest}, and 0123 where the members"):
        parts.load([name], expected={name: "0123"})


def test_a_part_of_no_plugin_is_used_by_nobody():
    with MODELS.without():
        register.model(Model("here", (), "me"))
        with pytest.raises(
            parts.PartError, match=r"model here: registered by .*test_parts, which workers do not import"
        ):
            parts.used([(MODELS, "here")])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("from gimtune import register\nregister.model(3)", "model 3 of plugged_parts: it is no Model"),
    ],
)
def test_a_plugin_that_cannot_be_had_is_named(plugin, content, why):
    name, path = plugin
    path.write_text(content)
    with pytest.raises(parts.PartError, match=why):
        parts.load([name])
    with pytest.raises(parts.PartError, match="plugins=no_such_thing: cannot be imported"):
        parts.load(["no_such_thing"])


def test_data_says_which_options_it_takes():
    with pytest.raises(ValueError, match=r"data\.path=x: digits takes no options"):
        data.load("digits", path="x")
    assert {*DATASETS} >= {"digits", "mnist", "fashion_mnist", "images", "vectors", "torchvision"}
    assert {*FEATURES} == {"classifier", "random", "inception", "exported", "values"}


# What somebody's own code may do


def returned(value):
    """A metric that returns something."""

    def measured(view):
        """What a test says."""
        return value(view) if callable(value) else value

    return measured


@pytest.mark.parametrize(
    ("value", "number", "why"),
    [
        (np.float32(0.5), 0.5, ""),
        (torch.tensor(0.5), 0.5, ""),
        (Estimate(np.float32(0.5), torch.tensor(0.25)), 0.5, ""),
        (None, None, "TypeError: float"),
        ({"other": 1.0}, None, "ValueError: it returned other; declared are own"),
        (torch.zeros(8), None, "RuntimeError|ValueError"),
        (lambda view: 1 / 0, None, "ZeroDivisionError: division by zero"),
        (lambda view: sys.exit(3), None, "SystemExit: 3"),
        (lambda view: view.value("own"), None, "ValueError: metric own: it rests on itself"),
        (lambda view: view.value("nothing"), None, "KeyError: 'no metric measures nothing'"),
        (lambda view: view.value("mi_q") + 1.0, "mi_q", ""),
        (math.nan, None, "not finite"),
    ],
)
def test_whatever_a_metric_does_the_other_numbers_stand(small, monkeypatch, value, number, why):
    monkeypatch.setattr(vocabulary, "_metrics", dict(vocabulary._metrics))
    pack = Pack([member()], small.data)
    plain = numbers(small.row(pack, 0, ("validation",)))
    with MEASURES.without():
        register.metric(Metric("own", "max", "nats", "of a test"))(returned(value))
        row = small.row(pack, 0, ("validation",))
    if number is None:
        assert math.isnan(row["own"])
        assert re.match(why, row["reasons"]["own"])
    else:
        assert row["own"] == (row["mi_q"] + 1.0 if number == "mi_q" else number)
    if isinstance(value, Estimate):
        assert row["own_se"] == 0.25
    json.dumps(row)
    left = {key: v for key, v in numbers(row).items() if not key.startswith("own")}
    assert {**left, "reasons": 0} == {**plain, "reasons": 0}


def test_a_metric_that_owes_its_error_says_so(small, monkeypatch):
    monkeypatch.setattr(vocabulary, "_metrics", dict(vocabulary._metrics))
    with MEASURES.without():
        register.metric(Metric("own", "max", "nats", "of a test", error=True))(returned(1.0))
        row = small.row(Pack([member()], small.data), 0, ("validation",))
    assert row["reasons"]["own"] == "ValueError: own is declared with a standard error, and has none"


def broken(image, latent_dim, outputs):
    """A network that is none."""
    raise KeyError("width")


def nothing(image, latent_dim, outputs):
    """A network that is nothing."""


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        (broken, r"network=broken: 'width'"),
        (nothing, r"network=nothing: it makes NoneType; it should make Networks\(encoder, decoder\)"),
    ],
)
def test_networks_that_raise_or_are_none_are_refused(architecture, why):
    with NETWORKS.without():
        register.network(architecture)
        with pytest.raises(ValueError, match=why):
            check(architecture.__name__, (1, 8, 8), 4, 8, {})


IMAGES = {split: np.zeros((6, 8, 8), np.uint8) for split in data.SPLITS}
LABELS = {split: np.zeros(6, np.int64) for split in data.SPLITS}


@pytest.mark.parametrize(
    ("images", "labels", "why"),
    [
        ({"test": np.zeros((6, 8, 8))}, {}, r"test images are float64 \(6, 1, 8, 8\); allowed are uint8"),
        ({"test": np.zeros((6, 8, 4), np.uint8)}, {}, r"test images are \(1, 8, 4\), those of train \(1, 8, 8\)"),
        ({"validation": np.zeros((0, 8, 8), np.uint8)}, {}, "the split validation is empty"),
        ({}, {"test": np.zeros(3, np.int64)}, "3 labels of 6 test images"),
        ({}, {"train": np.full(6, -1)}, "train labels begin at -1"),
        ({}, {"train": np.full(6, 0.5)}, "train labels are float64; allowed are whole numbers and names"),
        ({"train": np.full((6, 8, 8), 17, np.uint8)}, {}, "train images have pixels of 17, and white is 16"),
        ({"test": None}, {}, "the split test is missing; there are train, validation, test"),
    ],
)
def test_malformed_data_is_refused(images, labels, why):
    with pytest.raises(ValueError, match=f"data=mine: {why}"):
        data.from_splits("mine", {**IMAGES, **images}, {**LABELS, **labels}, 16.0)


@pytest.mark.parametrize("called", [[3, 1000, 7], ["cat", "ant", "dog"]], ids=["numbers", "names"])
def test_labels_may_be_any_numbers_and_names(called):
    labels = {split: np.array([called[i % 3] for i in range(6)]) for split in data.SPLITS}
    made = data.from_splits("mine", IMAGES, labels, 16.0)
    assert made.classes == 3
    order = sorted(called)
    assert all(made.labels[split].tolist() == [order.index(one) for one in labels[split]] for split in data.SPLITS)


def test_labels_from_zero_are_what_they_were(digits):
    again = data.from_splits("digits", digits.images, digits.labels, digits.scale)
    assert again.digest == digits.digest


@pytest.mark.parametrize(
    ("labels", "why"),
    [([0] * 9 + [7], "class 7 has one image"), ([*range(10)] * 2, "0.2 of 20 images cannot be a share of each of 10")],
)
def test_classes_too_small_for_a_share_are_named(labels, why):
    with pytest.raises(ValueError, match=why):
        data.stratified(np.array(labels), 0.2, 0)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"images": np.full((6, 1, 8, 8), 3.0)}, r"train images are float64 \(6, 1, 8, 8\)"),
        ({"images": np.full((6, 1, 8, 8), 17, np.uint8)}, "train images have pixels of 17, and white is 16"),
        ({"labels": np.full(6, 0.5)}, "train labels are float64"),
    ],
)
def test_values_outside_of_an_image_never_reach_a_likelihood(changed, why, digits):
    def raw(seed):
        """A data set that is put together by hand, without `from_splits`."""
        arrays = {"images": np.zeros((6, 1, 8, 8), np.uint8), "labels": np.zeros(6, np.int64), **changed}
        by_split = {key: dict.fromkeys(data.SPLITS, value) for key, value in arrays.items()}
        return dataclasses.replace(digits, **by_split, scale=16.0)

    with DATASETS.without():
        register.data(raw)
        with pytest.raises(ValueError, match=f"data=raw: {why}"):
            data.load("raw")


def test_a_data_set_that_raises_is_named():
    def stored(seed, path="x"):
        """Images that are not where they should be."""
        return {}["images"]

    with DATASETS.without():
        register.data(stored)
        with pytest.raises(ValueError, match=r"data=stored data\.path=y: KeyError: 'images'"):
            data.load("stored", path="y")


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (lambda **p: p["nope"], "its weights raise KeyError: 'nope'"),
        (lambda **p: None, "its weights raise TypeError"),
        (lambda **p: 1 / 0, "its weights raise ZeroDivisionError"),
    ],
)
def test_weights_that_raise_are_a_line(weight, why):
    with pytest.raises(ValueError, match=f"model mine: {why}"):
        Model("mine", (Weighted(Match.LATENT, "mmd", weight),), "me").weights(1.0)
    assert Model("mine", (Weighted(Match.LATENT, "mmd", lambda **p: np.float32(2)),), "me").weights(1.0) == (2.0,)


@pytest.mark.parametrize("name", ["weight", "seed", "fid", "a b", "pixels", "learning_rate"])
def test_a_parameter_is_no_other_column(name):
    with pytest.raises(parts.PartError, match=f"model mine of .*: parameter {name}: small letters"):
        register.model(Model("mine", (), "me", parameters={name: 1.0}))


OWN = """
import torch
from gimtune import register
from gimtune.algebra.restrictions import Restriction
def added(name, closed, draws=("prior",)):
    register.restriction(Restriction("latent", name, "nats", "x", "x", closed, draws=draws))
added("many", lambda s: s.z.sum(1))
added("plain", lambda s: 1.0)
added("undrawn", lambda s: s.prior_z.mean(), ())
added("branch", lambda s: s.z.mean() if float(s.z.mean()) > 0 else s.z.sum())
added("compared", lambda s: s.z.mean() if s.z.mean() > 0 else s.z.sum())
added("drawing", lambda s: (s.z + torch.randn(s.z.shape)).mean())
added("good", lambda s: s.z.square().mean())
"""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("many", r"ValueError: restriction latent/many: it gives \(8,\), and no scalar tensor"),
        ("plain", "ValueError: restriction latent/plain: it gives float, and no scalar tensor"),
        ("undrawn", "KeyError: 'prior'"),
        ("branch", r"it looks at a tensor's values .*; torch\.where takes the place of a branch"),
        ("compared", r"it looks at a tensor's values .*; torch\.where takes the place of a branch"),
        ("drawing", "it draws random numbers; a part is given those that it names"),
    ],
)
def test_restrictions_that_fail_on_a_batch_are_refused_before_ray(plugin, monkeypatch, tmp_path, name, why):
    module, path = plugin
    path.write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with RESTRICTIONS.without():
        asked = ["study=restrictions", f"plugins=[{module}]", "space.weight=1", "space.seed=0"]
        assert len(resolve.members(composition.load([*asked, "space.restriction=latent/good"]))) == 1
        named = rf"models=latent_{name} with space.prior=normal: a part of {module} fails on a first batch"
        with pytest.raises(ConfigError, match=named) as refused:
            resolve.members(composition.load([*asked, f"space.restriction=latent/{name}"]))
        assert re.search(why, str(refused.value))


def test_a_study_file_names_its_plugin_and_its_network(plugin, monkeypatch, tmp_path):
    module, path = plugin
    path.write_text("""
from gimtune import register
from gimtune.networks import mlp
@register.network
def mine(image, latent_dim, outputs, width: int = 8):
    "One hidden layer."
    return mlp.mlp(image, latent_dim, outputs, [width])
""")
    (tmp_path / "studies" / "study").mkdir(parents=True)
    stated = ["# @package _global_", "name: own", f"plugins: [{module}]", "models: [ae]"]
    stated += ["network: {name: mine, width: 16}", "space: {seed: 0, prior: normal}"]
    (tmp_path / "studies" / "study" / "own.yaml").write_text("\n".join(stated))
    monkeypatch.chdir(tmp_path)
    with NETWORKS.without():
        for more, network in (
            ([], {"name": "mine", "width": 16}),
            (["network.width=4"], {"name": "mine", "width": 4}),
            (["network=mine"], {"name": "mine"}),
            (["network=mlp"], {"name": "mlp", "hidden": [128, 128]}),
        ):
            (one,) = resolve.members(composition.load(["study=own", *more]))
            assert dict(one.network) == network
            assert list(one.plugins) == ([module] if network["name"] == "mine" else [])


@pytest.mark.parametrize("content", ["raise SystemExit(4)", "import sys; sys.exit()"])
def test_a_script_is_no_plugin(plugin, content):
    name, path = plugin
    path.write_text(content)
    with pytest.raises(parts.PartError, match=rf"plugins={name}: cannot be imported \(SystemExit"):
        parts.load([name])
