"""Members as trials of a Tuner of one's own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
from helpers import numbers
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.sample import Categorical, Float, Integer

import gimtune
from gimtune.study.composition import load
from gimtune.study.resolve import members
from gimtune.training import run as trained
from gimtune.tune import chosen

TINY = {
    "network.hidden": [32],
    "budget.epochs": 4,
    "budget.evaluate_every": 1,
    "budget.patience": None,
    "metrics.ruler": "never",
    "metrics.fid_samples": 400,
    "space.prior": "normal",
}
ONE = {**TINY, "models": ["vae"], "space.weight": {"grid": [0.1, 1]}, "space.seed": 0}


@pytest.fixture
def local(digits):
    """A trainable's trials in this process, by their configuration."""
    made = []

    def start(study, config):
        own = gimtune.tune.trainable("tradeoff", **study).__mro__[1]

        class Local(own):
            def setup(self, config):
                super().setup(config, data=digits)

        made.append(Local(config))
        return made[-1]

    yield start
    for trial in made:
        trial.stop()


def test_a_space_has_a_domain_for_every_part_under_any_condition():
    weight = {"per": "model", "vae": {"loguniform": [0.01, 1]}, "default": {"grid": [0.1, 1, 10]}}
    prior = {"choice": ["normal", {"name": "mixture", "components": 5, "scale": {"uniform": [0.1, 1]}}]}
    swept = {"space.weight": weight, "space.prior": prior, "space.seed": {"randint": [0, 9]}, "space.latent_dim": 4}
    found = gimtune.tune.space(models=["vae", "wae_mmd"], **swept)
    kinds = {key: type(domain) for key, domain in found.items()}
    assert kinds == {
        "model": Categorical,
        "prior": Categorical,
        "prior.scale": Float,
        "weight.vae": Float,
        "weight.wae_mmd": Categorical,
        "seed": Integer,
    }
    assert found["weight.wae_mmd"].categories == [0.1, 1, 10]
    study = load(["models=[vae,wae_mmd]", *(f"{k}={v}".replace("'", "") for k, v in swept.items())])
    for seed in range(30):
        state = np.random.RandomState(seed)
        config = {key: domain.sample(random_state=state) for key, domain in found.items()}
        one = chosen(study, config)
        assert one.model == config["model"]
        assert one.weight == config[f"weight.{one.model}"]
        assert one.seed == config["seed"]
        assert one.latent_dim == 4
        if one.prior["name"] == "mixture":
            assert one.prior["scale"] == config["prior.scale"]


def test_layers_can_be_swept():
    swept = {"space.network": {"hidden": {"grid": [[32], [16, 8]]}, "activation": {"grid": ["relu", "elu"]}}}
    found = gimtune.tune.space(models=["vae"], **{"space.weight": 1, "space.prior": "normal", "space.seed": 0}, **swept)
    assert {*found} == {"network.hidden", "network.activation"}
    options = f"space.network={swept['space.network']}".replace("'", "")
    study = load(["models=[vae]", "space.weight=1", "space.prior=normal", "space.seed=0", options])
    one = chosen(study, {"network.hidden": found["network.hidden"].categories[1], "network.activation": "elu"})
    assert one.network == {"name": "mlp", "hidden": [16, 8], "activation": "elu"}


def test_the_same_values_are_the_same_member_as_in_a_study():
    study = load(["models=[vae]", "space.weight={grid: [0.1, 1]}", "space.seed=0", "space.prior=normal"])
    assert [chosen(study, {"weight": w}).trial for w in (0.1, 1)] == [one.trial for one in members(study)]


def test_domains_of_ones_own_replace_parts():
    study = load(["models=[vae]", "space.weight={grid: [0.1, 1]}", "space.prior=normal"])
    assert chosen(study, {"weight": 0.37, "seed": np.int64(5), "latent_dim": 3}).weight == 0.37
    wide = chosen(study, {"weight": 1, "seed": 0, "network.width": 24, "network.depth": np.int64(1)})
    assert (wide.network["width"], wide.network["depth"]) == (24, 1)
    with pytest.raises(gimtune.ConfigError, match=r"network\.wdith"):
        chosen(study, {"weight": 1, "seed": 0, "network.wdith": 24})
    per = load(["models=[vae,ae]", "space.weight={per: model, default: {grid: [0.1, 1]}}", "space.prior=normal"])
    assert chosen(per, {"model": "vae", "weight.vae": 0.37, "seed": 0}).weight == 0.37
    with pytest.raises(gimtune.ConfigError, match=r"wieght: no part of this space; there are model"):
        chosen(study, {"wieght": 1})
    with pytest.raises(gimtune.ConfigError, match=r"weight: missing in the trial's config"):
        chosen(study, {"seed": 0})
    with pytest.raises(gimtune.ConfigError, match=r"space\.latent_dim=0"):
        chosen(study, {"weight": 1, "latent_dim": 0, "seed": 0})


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"models": ["vea"]}, "models=vea: unknown model"),
        ({"search.trials": 5}, "search.trials: in a Tuner of one's own"),
        ({"scheduler": "mo_asha"}, "scheduler: in a Tuner of one's own"),
        ({"training.batch_size": 100_000}, "training.batch_size=100000: digits has"),
        ({"space.weight": {"grid": [-1]}}, "space.weight=-1"),
        ({"metrics.fid_features": "values"}, "the data are images"),
    ],
)
def test_bad_input_is_refused_before_there_is_a_tuner(overrides, why):
    with pytest.raises(gimtune.ConfigError, match=why):
        gimtune.tune.trainable(**{**ONE, **overrides})


def test_the_users_ray_is_left_as_it_is():
    code = "import os; before = dict(os.environ); import gimtune.tune; assert dict(os.environ) == before, 'changed'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], env=_plain())


def _plain():
    from gimtune.tuning import _SWITCHES

    return {k: v for k, v in os.environ.items() if k not in _SWITCHES}


def expected(evaluation, study=ONE):
    """Rows of the members of a study, as it has them: by name and number of the row."""
    config = load([f"{k}={v}".replace("'", "").replace("None", "null") for k, v in study.items()])
    rows = {one.trial: [rows[0] for rows in trained([one], evaluation)] for one in members(config)}
    return {(trial, i): numbers(row, "environment") for trial, all_ in rows.items() for i, row in enumerate(all_, 1)}


def ours(result, like):
    return numbers({key: value for key, value in result.items() if key in like}, "environment")


def test_a_trial_goes_on_from_a_checkpoint_with_the_numbers_of_a_study(local, evaluation, tmp_path):
    rows = expected(evaluation)
    first = local(ONE, {"weight": 0.1})
    seen = [first.train() for _ in range(2)]
    first.save(str(tmp_path / "kept"))
    again = local(ONE, {"weight": 0.1})
    again.restore(str(tmp_path / "kept"))
    while not seen[-1]["done"]:
        seen.append(again.train())
    assert [row["epoch"] for row in seen[:4]] == [1, 2, 3, 4]
    for i, row in enumerate(seen, 1):
        like = rows[row["trial"], i]
        assert ours(row, like) == like
    assert (seen[0]["trial"], len(seen) + 1) not in rows
    again.save(str(tmp_path / "end"))
    assert gimtune.Trained(tmp_path / "end", seen[-1]["trial"]).sample(3).shape == (3, 1, 8, 8)


def test_a_trial_goes_on_from_the_weights_of_another_and_says_so(local, tmp_path):
    donor = local(ONE, {"weight": 0.1})
    before = [donor.train() for _ in range(2)][-1]
    donor.save(str(tmp_path / "kept"))
    other = local(ONE, {"weight": 1})
    other.restore(str(tmp_path / "kept"))
    row = other.train()
    assert (row["epoch"], row["inherited"]) == (3, before["trial"])
    assert row["trial"] != before["trial"]
    # it starts where the other was, and not anew
    assert row["loss"] < local(ONE, {"weight": 1}).train()["loss"]
    wider = local(ONE, {"weight": 1, "latent_dim": 3})
    with pytest.raises(ValueError, match="with another latent_dim"):
        wider.restore(str(tmp_path / "kept"))


@pytest.mark.slow
def test_a_tuner_with_asha_reports_the_rows_of_a_study(evaluation, tmp_path):
    study = {**TINY, "models": ["vae", "aae"], "space.weight": {"grid": [0.1, 1]}, "space.seed": 0}
    rows = expected(evaluation, study)
    ray.init(
        num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}}
    )
    try:
        results = tune.Tuner(
            gimtune.tune.trainable(**study),
            param_space=gimtune.tune.space(**study),
            tune_config=tune.TuneConfig(
                metric="fid",
                mode="min",
                num_samples=8,
                scheduler=ASHAScheduler(time_attr="epoch", max_t=4, grace_period=1, reduction_factor=2),
            ),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
                verbose=0,
            ),
        ).fit()
    finally:
        ray.shutdown()
    assert not results.errors
    ended = [result.metrics for result in results]
    assert len(ended) == 8
    assert {metrics["epoch"] for metrics in ended} > {4}
    assert {metrics["status"] for metrics in ended} == {"running", "done"}
    for metrics in ended:
        like = rows[metrics["trial"], metrics["training_iteration"]]
        assert ours(metrics, like) == like
    best = min((r for r in results if r.metrics["status"] == "done"), key=lambda r: r.metrics["fid"])
    with best.checkpoint.as_directory() as folder:
        assert gimtune.Trained(Path(folder), best.metrics["trial"]).sample(2).shape == (2, 1, 8, 8)
