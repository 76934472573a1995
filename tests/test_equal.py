"""Equal objectives are one curve and equal members one member, told from stored configurations."""

import json

import pandas as pd
import pytest
import torch
from helpers import member

from gimtune.algebra.models import MODELS, classes
from gimtune.results.equal import curves, formula, objective
from gimtune.training.pack import Pack


def frame(*members):
    return pd.DataFrame([{"model": m.model, "config": m.to_json()} for m in members])


def together(**forced):
    return {frozenset(names) for names in classes(**forced) if len(names) > 1}


def test_with_one_likelihood_and_one_encoder_three_pairs_are_one_curve():
    pairs = {frozenset(("vae", "beta_vae")), frozenset(("aae", "wae_gan")), frozenset(("infogan", "aim"))}
    assert together(likelihood="bernoulli", encoder="gaussian") == pairs
    assert together(likelihood="gaussian", encoder="gaussian") == pairs


def test_another_likelihood_or_encoder_is_another_curve():
    assert frozenset(("aae", "wae_gan")) not in together(encoder="gaussian")
    assert sorted(name for names in classes() for name in names) == sorted(MODELS)


def test_members_of_equal_objectives_are_one():
    vae, beta = member("vae", 1.0), member("beta_vae", 1.0)
    assert objective(vae.to_json()) == objective(beta.to_json())
    assert objective(vae.to_json()) != objective(member("beta_vae", 2.0).to_json())
    assert objective(vae.to_json()) != objective(member("vae", 1.0, seed=1).to_json())
    assert objective(vae.to_json()) == objective(member("info_vae", 1.0, {"lambda": 1.0}).to_json())
    # 3 x 0.1 is no 0.3 in floating point
    assert objective(member("beta_vae", 0.3).to_json()) == objective(member("beta_vae", 3 * 0.1).to_json())


def test_without_weight_every_model_is_the_auto_encoder():
    free = objective(member("ae").to_json())
    others = [member(name, 0.0, sigma_start=0.03) for name in ("vae", "info_vae", "wvae", "js_vae")]
    assert {objective(other.to_json()) for other in others} == {free}
    # one that starts elsewhere is another training
    assert objective(member("vae", 0.0).to_json()) != free
    with_critic = member("aae", 0.0, critic={"hidden": [32]})
    assert objective(with_critic.to_json()) == objective(member("ae", critic={}).to_json())
    # the features of a critic are a likelihood whatever its game weighs
    assert "data/js" in formula(member("vae_gan", 0.0).to_json())


@pytest.mark.parametrize(("one", "other", "scale"), [("vae", "beta_vae", 1.0), ("infogan", "aim", 4.0)])
def test_models_of_one_curve_give_the_same_numbers(small, one, other, scale):
    forced = {"likelihood": "bernoulli", "encoder": "gaussian"}
    first, second = member(one, scale, **forced), member(other, 1.0, **forced)
    assert objective(first.to_json()) == objective(second.to_json())
    trained = []
    for each in (first, second):
        pack = Pack([each], small.data)
        pack.train_epoch()
        trained.append(pack.one(0))
    for module, values in trained[0].items():
        for name, value in values.items():
            assert torch.equal(value, trained[1][module][name]), (module, name)


def test_curves_of_a_study():
    forced = {"likelihood": "bernoulli", "encoder": "gaussian"}
    rows = frame(
        *(member("beta_vae", w, seed=s, **forced) for w in (0.0, 0.1, 3.0) for s in (0, 1)),
        member("vae", **forced),
        *(member(name, w, **forced) for name in ("aae", "wae_gan") for w in (0.0, 0.1)),
        *(member("info_vae", 1.0, {"lambda": value}, **forced) for value in (1.0, 10.0)),
        member("ae", **forced),
    )
    found = curves(rows)
    assert found[rows["model"] == "vae"].unique().tolist() == ["beta_vae = vae"]
    assert found[rows["model"] == "aae"].unique().tolist() == ["aae = wae_gan"]
    # the auto-encoder is where curves start and no curve's member; InfoVAE meets the VAE in one point
    assert found[rows["model"].isin(["ae", "info_vae"])].unique().tolist() == ["info_vae", "ae"]


def test_rows_without_a_configuration_go_by_their_model():
    rows = pd.DataFrame({"model": ["vae", "beta_vae"], "config": ["", None]})
    assert curves(rows).tolist() == ["vae", "beta_vae"]
    assert curves(rows[["model"]]).tolist() == ["vae", "beta_vae"]
    assert curves(rows.iloc[:0]).tolist() == []


def test_the_names_hold_what_a_configuration_holds():
    # a key that a member gains is part of what is compared
    one = member("vae")
    compared = json.loads(objective(one.to_json()))
    assert set(compared) == set(json.loads(one.to_json())) - {"model", "weight"}
