"""Models that are other models at a point of their parameters: the same numbers, bit for bit, after training."""

import pytest
from helpers import CLOCK, DEFAULTS, combinations, member, numbers

from gimtune.algebra.models import MODELS
from gimtune.training import Pack, run
from gimtune.vocabulary import METRICS, Side

EPOCHS = 3


@pytest.fixture(scope="module")
def trained(evaluation):
    """The last row of a model trained for a few epochs, by its name and options; each is trained once."""
    rows = {}

    def train(model, **options):
        key = repr((model, sorted(options.items())))
        if key not in rows:
            one = member(model, epochs=EPOCHS, evaluate_every=EPOCHS, **options)
            (last,) = list(run([one], evaluation))
            rows[key] = last[0]
        return rows[key]

    return train


def metrics(row):
    """The values of `METRICS` on both splits, but for those that name the restriction."""
    named = [k for k in row if k.removeprefix("test_").startswith(("restriction", "critic_accuracy"))]
    left = numbers(row, "trial", "estimators", "reasons", "flags", *named)
    assert set(METRICS) - {"restriction"} <= set(left) | set(CLOCK)
    return left


def test_info_vae_at_weights_one_and_zero_is_vae(trained):
    # lambda 1 and alpha 0 give (1 - alpha, alpha + lambda - 1) = (1, 0)
    info = trained("info_vae", parameters={"alpha": 0.0, "lambda": 1.0})
    vae = trained("vae")
    assert metrics(info) == metrics(vae)
    assert info["restriction"] == vae["restriction"]
    assert info["restriction/posterior_kl"] == vae["restriction/posterior_kl"]


def test_beta_vae_at_one_is_vae(trained):
    assert numbers(trained("beta_vae"), "trial") == numbers(trained("vae"), "trial")


def test_beta_vae_at_another_weight_is_not(trained):
    assert metrics(trained("beta_vae", weight=4.0)) != metrics(trained("vae"))


#: Those whose likelihood and encoder are an auto-encoder's.
PLAIN = [
    name
    for name, model in MODELS.items()
    if model.side is Side.Q and model.encoder == "gaussian" and model.likelihood != "features"
]


@pytest.mark.parametrize("model", PLAIN)
def test_any_model_at_weight_zero_is_the_autoencoder(trained, model):
    # from where the auto-encoder's codes start; by default those of a restriction may start elsewhere
    row = trained(model, weight=0.0, sigma_start=0.03)
    assert metrics(row) == metrics(trained("ae", weight=0.0))
    assert row["restriction"] == 0


def test_aim_is_infogan_at_the_size_of_its_latent(trained):
    # the same objective: AIM's code averages the likelihood over dimensions
    assert metrics(trained("aim")) == metrics(trained("infogan", weight=DEFAULTS["latent_dim"]))


def test_wae_gan_is_aae_under_one_likelihood_and_encoder(trained):
    # the paper's lambda on our scale, and the Bernoulli likelihood's cost beside it
    one = trained("wae_gan", weight=1 / 400, encoder="gaussian")
    assert metrics(one) == metrics(trained("aae"))


@pytest.mark.parametrize(
    ("model", "prior"),
    [(name, prior) for name, prior in combinations() if name in PLAIN and prior in ("uniform", "laplace", "mixture")],
)
def test_weight_zero_trains_the_same_network_under_other_priors(evaluation, model, prior):
    same = {"weight": 0.0, "sigma_start": 0.03, "prior": {"name": prior}}
    packs = [Pack([member(name, **same)], evaluation.data) for name in (model, "ae")]
    for pack in packs:
        pack.train_epoch()
    for module in ("encoder", "decoder"):
        for name, value in packs[0].parameters[module].items():
            assert value.equal(packs[1].parameters[module][name]), f"{module}.{name}"
