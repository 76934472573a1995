"""The command line: what it composes, and what it says of bad input."""

import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.errors import ConfigCompositionException
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from gimtune.__main__ import main
from gimtune.algebra.models import MODELS
from gimtune.interruption import Interrupted
from gimtune.study import composition as configuration
from gimtune.study import reading
from gimtune.study.composition import load
from gimtune.study.messages import ConfigError
from gimtune.study.resolve import members
from gimtune.vocabulary import Member

#: Arguments, the key that the message must name, and words of what is allowed.
BAD = [
    (["study=nope"], "study=nope", "search, tradeoff"),
    (["data=cifar"], "data=cifar", "cifar10"),
    (["budget.epoch=3"], "budget.epoch", "budget.epochs"),
    (["+colour=red"], "colour", "allowed are name"),
    (["objectives={fid: min, mi_p: max}", "metrics.ruler=never"], "objectives.mi_p with metrics.ruler", "end, always"),
    (["budget.epochs=0"], "budget.epochs=0", "greater than 0"),
    (["budget.epochs=ten"], "budget.epochs='ten'", "allowed are whole numbers"),
    (["models=3"], "models=3", "allowed is a list"),
    (["metrics.ruler=sometimes"], "metrics.ruler='sometimes'", "allowed are end, always, never"),
    (["data.download=3"], "data.download=3", "allowed are true and false"),
    (["metrics.fid_features=clasifier"], "metrics.fid_features=clasifier", "did you mean classifier? Allowed"),
    (["encoder=gausian"], "encoder=gausian", "did you mean gaussian? Allowed are gaussian, deterministic"),
    (["likelihood=bernouli"], "likelihood=bernouli", "did you mean bernoulli"),
    (["network=resnett"], "network=resnett", "did you mean resnet? Allowed are conv, mlp, resnet"),
    (["network.activation=rel"], "network.activation=rel", "did you mean relu"),
    (["space.prior=normall"], "space.prior='normall'", "did you mean normal"),
    (["space.wieght=1"], "space.wieght: unknown key", "did you mean weight"),
    (["metrics.rulr=end"], "metrics.rulr: unknown key", "did you mean metrics.ruler"),
    (["stop.qqqqqqqqqqq=3"], "stop.qqqqqqqqqqq: unknown key", "allowed are stop.grace"),
    (["models=[vea]"], "models=vea", "vae"),
    (["models=[vae,vae]"], "models=", "twice"),
    (["models=[]"], "models=[]", "at least 1"),
    (["space.weight={grid: []}"], "space.weight.grid=[]", "one or more"),
    (["space.weight=-1"], "space.weight=-1", ">= 0"),
    (["space.weight={uniform: [0, 1]}"], "space.weight.uniform", "search.sampler=random"),
    (["space.weight={uniform: [3, 1]}", "search=random"], "space.weight.uniform=[3, 1]", "a < b"),
    (["space.colour=3"], "space.colour", "weight, prior"),
    (["space.latent_dim=2.5"], "space.latent_dim=2.5", "whole number >= 1"),
    (["space.prior=cauchy"], "space.prior='cauchy'", "normal, uniform"),
    (["space.prior={name: laplace, scale: -1}"], "space.prior.scale=-1", "positive"),
    (["prior=uniform", "models=[vae]"], "models=vae with space.prior=uniform", "infinite"),
    (["prior=mixture", "models=[wvae]"], "models=wvae with space.prior=mixture", "sliced_wasserstein"),
    (["models=[{name: mine, restrictions: [{match: latent, divergence: w2}]}]"], "models.mine.restrictions=latent/w2",
     "latent/mmd"),
    (["models=[{name: mine, side: r}]"], "models.mine.side=r", "q, p, both"),
    (["models=[{name: mine, encoder: code}]"], "models.mine.encoder=code", "gaussian, deterministic, implicit"),
    (["models=[vae]", "encoder=implicit"], "models=vae with space.prior=normal and encoder=implicit", "closed form"),
    (["models=[avb]", "space.prior=laplace"], "models=avb with space.prior=laplace", "codes run away"),
    (["models=[avb]", "encoder=deterministic"], "encoder=deterministic: the KL of", "is infinite"),
    (["models=[avb]", "space.encoder=fuzzy"], "space.encoder=fuzzy", "gaussian, deterministic, implicit"),
    (["models=[vae]", "likelihood=features"], "models=vae with likelihood=features", "data restriction"),
    (["models=[infogan]", "space.prior=vamp"], "models=infogan with space.prior=vamp", "entropy of p(z)"),
    (["models=[ae]", "space.prior=vamp"], "models=ae with space.prior=vamp", "nothing looks at the prior"),
    (["models=[js_vae]", "space.prior=vamp"], "models=js_vae with space.prior=vamp", "posterior/js_joint"),
    (["models=[aae]", "space.prior=vamp", "encoder=implicit"], "models=aae with space.prior=vamp", "of posteriors"),
    (
        ["models=[ae]", "space.restriction=latent/kl", "space.prior=learned_mixture", "critic.log_prior=false"],
        "models=latent_kl with space.prior=learned_mixture and critic.log_prior=false",
        "through log p(z) alone",
    ),
    (
        ["models=[ae]", "space.restriction=latent/wgan_gp", "critic.log_prior=true"],
        "models=latent_wgan_gp with space.prior=normal and critic.log_prior=true",
        "slope is near 1",
    ),
    (["models=[aae]", "space.prior=infogan_code", "space.latent_dim=20"], "models=aae", "no gradient to the encoder"),
    (["models=[infogan]", "space.prior=infogan_code"], "space.latent_dim=8", "10 + 2"),
    (["critic.log_prior=true"], "space.prior=domain and critic.log_prior=true", "no density"),
    (["models=[ae]", "space.restriction={a: 3}"], "space.restriction={'a': 3}", "latent/js"),
    (["search=gp", "space.latent_dim={randint: [0, 99999999999999999999]}"], "space.latent_dim.randint", "64 bits"),
    *(([f"{key}={'x' * 300}"], f"{key}=xxx", "250 bytes") for key in ("study", "resume", "storage_path", "data.path")),
    (["reuse=[a," + "x/" * 2100 + "]"], "reuse=[a,x/x/", "a path 4000"),
    (["constraints={fid: {mn: 3}}"], "constraints.fid.mn: unknown key", "min, max"),
    (["models.x=3"], "models.x=3", "models=[...]"),
    (["~models.0"], "~models.0", "models=[...]"),
    (["~seed=3"], "~seed=3", "write seed=VALUE"),
    (["training.sigma_start=0"], "training.sigma_start=0", "greater than 0"),
    (["space.sigma_start=0"], "space.sigma_start=0", "> 0"),
    (["space.beta1=1"], "space.beta1=1", "<= 0.9999"),
    (["space.encoder={grid: [0]}"], "space.encoder=0", "gaussian"),
    (["models=[aae]", "space.prior=uniform", "critic.log_prior=true"], "space.prior=uniform", "support"),
    (["models=[vae]", "space.restriction=latent/js"], "models=vae", "models=[ae]"),
    (["models=[ae]", "space.restriction=latent/w2"], "space.restriction='latent/w2'", "latent/js"),
    (["study=restrictions", "space.weight={per: restriction, latent/jss: 1, default: 2}"], "latent/jss", "latent/js"),
    (["critic.steps=0"], "critic.steps=0", "greater than 0"),
    (["critic.hidden=[]"], "critic.hidden=[]", "at least 1"),
    (["data.pair=cifar"], "data.pair=cifar", "cifar10"),
    (["data.pair=mnist", "models=[cyclegan]"], "data=mnist", "no IDX files"),
    (["likelihood=poisson"], "likelihood=poisson", "bernoulli"),
    (["objectives={fid: min, mig: max}"], "objectives.mig", "one column of labels"),
    (["constraints={dci_completeness: {min: 0.5}}"], "constraints.dci_completeness", "one column of labels"),
    (["constraints={nope: {min: 1}}"], "constraints.nope", "unknown metric"),
    (["constraints={fid: {}}"], "constraints.fid", "allowed are min, max, or both"),
    (["constraints={fid: {min: 2, max: 1}}"], "constraints.fid.min=2", "above its max, 1"),
    (["constraints={fid: 3}"], "constraints.fid=3", "a mapping"),
    (["constraints={fid: {above: 3}}"], "constraints.fid.above", "unknown key"),
    (["constraints={fid: {max: inf}}"], "constraints.fid.max=inf", "finite"),
    (["constraints={latent_js: {max: 1}}", "metrics.ruler=never"], "constraints.latent_js", "allowed are end, always"),
    (["constraints={fid_expost: {max: 1}}", "scheduler=mo_asha"], "constraints.fid_expost", "metrics.ruler=always"),
    (["network.activation=swish"], "network.activation=swish", "silu"),
    (["network=resnet", "network.blocks=0"], "network.blocks=0", "whole number from 1"),
    (["network=resnet", "network.depth=9"], "network.depth=9", "halved 9 times"),
    (["network=resnet", "network.hidden=[3]"], "network.hidden=[3]", "resnet takes channels"),
    (["space.network.width={grid: [0]}"], "space.network.width=0", "numbers from 1"),
    (["space.network.wide=3"], "network.wide=3", "mlp takes hidden, width, depth, activation"),
    (["space.network=3"], "space.network=3", "a mapping"),
    (["space.network={grid: [nope]}"], "network.name=nope", "conv"),
    (["space.network={name: resnet}"], "network.channels", "missing"),
    (["space.critic.step={grid: [1, 2]}"], "space.critic.step", "unknown key"),
    (["space.critic.steps={grid: [0]}"], "space.critic.steps=0", "greater than 0"),
    (["network=conv", "network.channels=[8,8,8,8]"], "network.channels=[8, 8, 8, 8]", "halved"),
    (["objectives={fid: max, mi_q: max}"], "objectives.fid=max", "allowed is min"),
    (["objectives={fid: min}"], "objectives=", "two or more"),
    (["metrics.fid_features=vgg"], "metrics.fid_features=vgg", "classifier"),
    (["metrics.inception_weights=/nowhere.pth"], "metrics.inception_weights=/nowhere.pth", "no such file"),
    (["search=random", "search.trials=null"], "search.trials=null", "number of members"),
    (["resources.cpu=1000"], "resources.cpu=1000", "this machine has"),
    (["resources.gpu=64"], "resources.gpu=64", "this machine has"),
    (["data=mnist", "data.root=/nowhere", "data.download=false"], "data=mnist", "data.root=/nowhere"),
    (["name=../escape"], "name='../escape'", "letters, digits"),
    (["models=[{name: ../escape}]"], "models.name=../escape", "letters, digits"),
    (["study=../model/ae"], "study=../model/ae", "tradeoff"),
    (["study=[tradeoff]"], "study=['tradeoff']", "did you mean tradeoff? Allowed are elbo_paper"),
    (["hydra.searchpath=['file:///tmp']"], "hydra.searchpath", "unknown key"),
    (["ray.address=nowhere"], "ray.address='nowhere'", "HOST:PORT"),
    (["ray.address=ray://10.0.0.1:10001"], "ray.address='ray://10.0.0.1:10001'", "HOST:PORT"),
    (["resume=/nowhere"], "resume=/nowhere", "no run folder"),
    (["resume=x", "budget.epochs=3"], "budget.epochs=3", "with resume"),
    (["storage_path=/proc/nowhere"], "storage_path=/proc/nowhere", ""),
    (["space.weight"], "space.weight", "key=value"),
    (["space.weight=0.1,1"], "space.weight=0.1,1", "space.weight={grid: [0.1,1]}"),
    (["space.prior={name: mixture, components: 10.5}", "model=vae"], "space.prior.components=10.5", "whole number"),
    (["space.likelihood={grid: [[bernoulli]]}"], "space.likelihood=['bernoulli']", "gaussian"),
    (["space.latent_dim=1000000000"], "space.latent_dim=1000000000", "<= 4096"),
    (["space.seed=99999999999999999999"], "space.seed=", "<="),
    (["space.weight={per: model, vea: 3, default: 1}"], "space.weight.vea", "vae"),
    (["training.learning_rate=inf"], "training.learning_rate=inf", "finite"),
    (["training.batch_size=2"], "training.batch_size=2", "numbers from 4"),
    (["resources.gpu=1.5"], "resources.gpu=1.5", "whole numbers"),
    (["storage_path=s3://bucket/../x"], "storage_path=s3://bucket/../x", "s3://BUCKET/PREFIX"),
    (["storage_path=gs://bucket/x"], "storage_path=gs://bucket/x", "s3://BUCKET/PREFIX"),
    (["resume=s3://Bucket"], "resume=s3://Bucket", "s3://BUCKET/PREFIX"),
    (["storage_path=s3://bucket/x", "ray.address=10.0.0.1:6379"], "storage_path=s3://bucket/x", "share"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "key", "allowed"), BAD, ids=lambda value: str(value)[:40])
def test_bad_input_is_named_in_two_lines_and_nothing_starts(arguments, key, allowed, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("GIMTUNE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert key in said.err
    assert allowed in said.err
    assert len(said.err.strip().splitlines()) <= 2
    assert not list(tmp_path.rglob("study.db"))


def test_bad_input_never_loads_ray(tmp_path):
    program = (
        "import sys; from gimtune.__main__ import main; code = main(['prior=uniform', 'models=[vae]']);"
        "print(code, 'ray' in sys.modules)"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=here)
    assert done.stdout.split() == ["2", "False"]
    assert "Traceback" not in done.stderr


def test_every_shipped_option_composes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    without = {
        "torchvision": r"data\.dataset: missing; torchvision takes dataset, root",
        "celeba": r"data=celeba: no .*data\.download=true fetches it",
        "dsprites": r"data=dsprites: no .*data\.download=true fetches it",
    }
    np.save(tmp_path / "set.npy", np.zeros((100, 8, 8), np.uint8))
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(100, 3)))
    own = {"data=images": [f"data.path={tmp_path / 'set.npy'}"], "prior": ["model=aae"]}
    own["data=vectors"] = [f"data.path={tmp_path / 'vectors.npy'}"]
    for group in ("study", "model", "prior", "data", "network", "search", "scheduler", "resources"):
        for option in configuration.options(group):
            # a model for the priors that not every one takes
            given = [f"{group}={option}", *own.get(group, []), *own.get(f"{group}={option}", [])]
            if option in without:
                with pytest.raises(ConfigError, match=without[option]):
                    members(load(given))
            else:
                assert members(load(given)), given


def test_convolutions_bring_their_own_learning_rate_which_study_and_user_replace():
    one = ["models=[vae]", "space.prior=normal"]
    rates = {
        network: load([*one, f"network={network}"]).training.learning_rate for network in ("mlp", "conv", "resnet")
    }
    assert rates == {"mlp": 3e-3, "conv": 1e-3, "resnet": 1e-3}
    assert load([*one, "network=conv", "training.learning_rate=0.002"]).training.learning_rate == 2e-3
    assert load(["study=gan_papers"]).training.learning_rate == 2e-4


def test_an_override_replaces_a_whole_space():
    config = load(["study=search", "search=grid", "space.weight={grid: [0.5]}", "models=[vae]"])
    assert config.space["weight"] == {"grid": [0.5]}
    assert {m.weight for m in members(config)} == {0.5}


def test_the_order_of_the_contracts_examples():
    config = load(["study=tradeoff", "models=[vae,wae_mmd]", "space.weight={grid: [0.1, 1, 10]}"])
    found = members(config)
    assert len(found) == 2 * 3 * 2 * 3
    assert {m.likelihood for m in found} == {"bernoulli"}


def test_tradeoff_is_every_model_two_priors_three_seeds():
    found = members(load(["study=tradeoff"]))
    assert {m.model for m in found} == set(MODELS)
    assert {m.prior["name"] for m in found} == {"normal", "laplace", "domain"}
    assert {m.model for m in found if m.prior["name"] == "domain"} == {"cyclegan"}
    # adaptive contrast is refused with it
    assert {m.model for m in found if m.prior["name"] == "laplace"} == set(MODELS) - {"cyclegan", "avb"}
    assert {m.seed for m in found} == {0, 1, 2}
    assert len({m.trial for m in found}) == len(found)


def test_a_weight_that_changes_nothing_makes_no_members():
    found = members(load(["models=[ae]", "space.weight={grid: [0, 1, 2]}", "space.prior=normal", "space.seed=0"]))
    assert [m.weight for m in found] == [0.0]


def test_a_models_own_parameters_are_swept():
    config = load(["models=[info_vae]", "space.alpha={grid: [0, 0.5]}", "space.lambda=10", "space.weight=1"])
    weights = {tuple(w for _, _, w in m.restrictions) for m in members(config)}
    assert weights == {(1.0, 9.0), (0.5, 9.5)}
    with pytest.raises(ConfigError, match="must be >= 0"):
        members(load(["models=[info_vae]", "space.alpha=2", "space.weight=1"]))


def test_random_search_is_a_function_of_the_seed():
    def drawn(seed):
        return [m.trial for m in members(load(["study=search", "search.trials=20", f"seed={seed}"]))]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_members_name_is_that_of_its_configuration():
    for member in members(load(["study=search", "search.trials=20"])):
        assert Member.from_json(member.to_json()) == member
        assert Member.from_json(member.to_json()).trial == member.trial


def test_a_study_of_the_users_own_is_found_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "studies" / "study").mkdir(parents=True)
    (tmp_path / "studies" / "study" / "mine.yaml").write_text(
        "# @package _global_\n"
        "name: mine\n"
        "models:\n  - name: both\n"
        "    restrictions: [{match: posterior, divergence: kl}, {match: latent, divergence: mmd}]\n"
    )
    monkeypatch.chdir(tmp_path)
    config = load(["study=mine", "space.weight=2", "prior=normal"])
    (member,) = members(config)
    assert member.restrictions == (("posterior", "kl", 2.0), ("latent", "mmd", 2.0))


def own_study(folder, name, text):
    (folder / "studies" / "study").mkdir(parents=True, exist_ok=True)
    (folder / "studies" / "study" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")


def test_a_study_files_spaces_replace_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_study(
        tmp_path,
        "mine",
        "models: [beta_vae, wvae]\nspace:\n  weight: {per: model, default: {grid: [0.5, 2]}}\n"
        "  prior: {grid: [normal, laplace]}\n",
    )
    found = members(load(["study=mine"]))
    assert {m.weight for m in found} == {0.5, 2.0}
    assert {m.prior["name"] for m in found} == {"normal", "laplace"}
    assert {m.weight for m in members(load(["study=mine", "space.weight=3"]))} == {3.0}
    with pytest.raises(ConfigError, match=r"study=mine sets space\.prior itself"):
        load(["study=mine", "prior=laplace"])


def test_a_study_file_of_a_shipped_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_study(tmp_path, "tradeoff", "space: {seed: {grid: [5, 6]}}\n")
    with pytest.raises(ConfigError, match="give yours another"):
        load(["study=tradeoff"])


def test_a_study_file_does_not_lead_out_of_its_folder(tmp_path, monkeypatch):
    (tmp_path / "outside.yaml").write_text("# @package _global_\nname: outside\n")
    folder = tmp_path / "inside"
    own_study(folder, "mine", "defaults:\n  - ../../../outside\n  - _self_\n")
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match="lead out of"):
        load(["study=mine"])


def test_a_folder_with_an_odd_name_does_no_harm(tmp_path, monkeypatch):
    folder = tmp_path / "it's (odd)"
    own_study(folder, "mine", "models: [ae]\n")
    monkeypatch.chdir(folder)
    assert {m.model for m in members(load(["study=mine"]))} == {"ae"}


def test_a_random_search_draws_as_many_members_as_it_says():
    assert len(members(load(["study=search", "search.trials=30"]))) == 30
    # and ends where there are no more
    assert len(members(load(["study=search", "models=[ae]", "search.trials=30"]))) == 1


def test_resuming_keeps_the_runs_own_cluster(tmp_path):
    config = load(["ray.address=10.0.0.1:6379", "ray.dashboard=false"])
    (tmp_path / "config.yaml").write_text(configuration.dump(config))
    (tmp_path / "study.db").touch()
    assert load([f"resume={tmp_path}"]).ray == config.ray
    again = load([f"resume={tmp_path}", "ray.address=10.0.0.2:6379"]).ray
    assert (again.address, again.dashboard) == ("10.0.0.2:6379", False)


def test_a_configuration_survives_its_file(tmp_path):
    config = load(["study=search", "search.trials=5"])
    (tmp_path / "config.yaml").write_text(configuration.dump(config))
    (tmp_path / "study.db").touch()
    assert configuration.reopened(tmp_path) == config
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        configuration.reopened(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"name": "x"}))
    with pytest.raises(ConfigError, match="missing"):
        configuration.reopened(tmp_path)


#: Texts that look like numbers, in any of the ways that readers of YAML know; and any other.
TEXTS = st.one_of(
    st.from_regex(r"[-+]?[0-9_.]{0,3}[eE:.][-+]?[0-9_]{1,3}\.?", fullmatch=True),
    st.sampled_from(["1e3", "7e2", "12e4567", "null", "on", "0x1f", "1:30", "2026-01-01", "=", "<<", "~", "???", ""]),
    st.text(),
)


@cache
def searched():
    return load(["study=search", "search.trials=5"])


@given(TEXTS)
@example("1e3")
@example("12e4567")
@example("1_0e5")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_survives_its_file(tmp_path, text):
    found = searched().model_copy(
        update={
            "storage_path": text.replace("://", ":/"),
            "models": [{"name": text, "restrictions": []}],
            "space": {"prior": {"name": text, text: text, "scale": {"uniform": [1e-9, 1e22]}}},
        }
    )
    (tmp_path / "config.yaml").write_text(configuration.dump(found))
    (tmp_path / "study.db").touch()
    # of a text that OmegaConf takes for a reference, and cannot read, another reader is asked
    assert reading.read(tmp_path / "config.yaml") == found.model_dump(mode="json")


@pytest.mark.parametrize("text", ["1e3", "12e4567", "7e2"])
def test_a_study_of_any_name_can_be_gone_on_with(tmp_path, text):
    config = load([f"storage_path={text}", f'name="{text}"'])
    (tmp_path / "config.yaml").write_text(configuration.dump(config))
    (tmp_path / "study.db").touch()
    assert configuration.reopened(tmp_path) == config


@pytest.mark.parametrize(
    ("cause", "code", "said"),
    [
        (OmegaConfBaseException("why\nand where"), 2, "why"),
        (OmegaConfBaseException(), 2, "ConfigCompositionException"),
        (Interrupted(signal.SIGTERM), 143, "Interrupted."),
    ],
)
def test_what_hydra_has_no_words_for_is_no_traceback(monkeypatch, capsys, cause, code, said):
    def composed(*arguments, **options):
        raise ConfigCompositionException from cause

    monkeypatch.setattr(configuration.hydra, "compose", composed)
    assert main(["dry_run=true"]) == code
    assert capsys.readouterr().err.strip() == said


def test_help_names_every_key(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(key in said for key in set(configuration.keys()))


def test_a_dry_run_lists_and_starts_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study=tradeoff", "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert "396 members in" in said
    assert not list(tmp_path.iterdir())


def test_a_study_may_sweep_over_the_restriction_itself():
    found = members(load(["study=restrictions"]))
    pairs = {m.restrictions[0][:2] for m in found}
    assert {"posterior/kl", "posterior/w2", "latent/mmd", "latent/js", "data/js"} <= {"/".join(p) for p in pairs}
    assert all(m.model == "_".join(m.restrictions[0][:2]) and m.side == "q" for m in found)
    drawn = members(
        load(
            [
                "models=[ae]",
                "search=random",
                "search.trials=9",
                "space.restriction={choice: [posterior/kl, latent/js]}",
                "space.weight={per: restriction, posterior/kl: {loguniform: [0.01, 1]}, default: 2}",
            ]
        )
    )
    assert {(m.model, m.weight == 2) for m in drawn} == {("posterior_kl", False), ("latent_js", True)}


def test_what_belongs_to_a_model_is_not_swept_away():
    given = ["likelihood=gaussian", "space.prior={grid: [normal, mixture]}", "space.weight=1", "space.seed=0"]
    found = members(load(["models=[cyclegan, vae_gan, veegan, avb, infogan]", *given]))
    (cycle,) = [m for m in found if m.model == "cyclegan"]
    assert (cycle.prior["name"], cycle.encoder, cycle.latent_dim, cycle.likelihood) == (
        "domain",
        "image",
        64,
        "laplace",
    )
    assert {m.likelihood for m in found if m.model == "vae_gan"} == {"features"}
    assert {m.likelihood for m in found if m.model not in ("cyclegan", "vae_gan")} == {"gaussian"}
    assert {m.encoder for m in found if m.model == "avb"} == {"implicit"}
    assert {m.encoder for m in found if m.model == "veegan"} == {"deterministic"}
    assert {m.side for m in found if m.model in ("infogan", "veegan")} == {"p"}


def test_a_critics_settings_belong_to_members_with_critics():
    one, other = (members(load(["models=[vae, aae]", "space.weight=1", f"critic.steps={n}"])) for n in (1, 2))
    same = {m.model for m in one if m.trial in {o.trial for o in other}}
    assert same == {"vae"}
    assert all(m.critic["steps"] == 2 for m in other if m.model == "aae")


def test_what_changes_no_number_is_no_part_of_a_name(tmp_path):
    def names(*given):
        return {m.trial for m in members(load(["models=[ae]", "space.seed=0", *given]))}

    one = names("encoder=deterministic", "space.prior=normal")
    assert len(one) == 1
    swept = ["space.sigma_start={grid: [0.01, 0.3]}", "space.sigma_min={grid: [0.001, 0.01]}"]
    assert names("encoder=deterministic", "space.prior=normal", *swept) == one
    assert len(names("encoder=gaussian", "space.prior=normal", *swept)) == 4
    (weights := tmp_path / "inception.pth").touch()
    assert names("encoder=deterministic", "space.prior=normal", f"metrics.inception_weights={weights}") == one


def test_the_wae_is_deterministic_unless_a_study_asks():
    given = ["models=[wae_mmd, wae_gan]", "prior=normal", "space.weight=1", "space.seed=0"]
    assert {m.encoder for m in members(load(given))} == {"deterministic"}
    assert {m.encoder for m in members(load([*given, "encoder=gaussian"]))} == {"gaussian"}
    swept = members(load([*given, "space.encoder={grid: [gaussian, deterministic]}"]))
    assert sorted((m.model, m.encoder) for m in swept) == [
        ("wae_gan", "deterministic"),
        ("wae_gan", "gaussian"),
        ("wae_mmd", "deterministic"),
        ("wae_mmd", "gaussian"),
    ]


def test_where_a_posterior_starts_is_part_of_what_a_member_is():
    given = ["models=[vae]", "prior=normal", "space.seed=0"]
    (one,), (other,) = (members(load([*given, *more])) for more in ([], ["training.sigma_start=0.5"]))
    swept = members(load([*given, "space.sigma_start={grid: [0.3, 0.5]}"]))
    assert (one.sigma_start, other.sigma_start) == (0.3, 0.5)
    assert {m.trial for m in swept} == {one.trial, other.trial}


def test_where_a_posterior_starts_by_default_is_a_matter_of_its_restriction():
    given = ["prior=normal", "space.seed=0", "encoder=gaussian"]
    several = members(load(["models=[beta_vae,info_vae,vae_gan,wvae,js_vae,wae_mmd,aae,alice]", *given]))
    found = {m.model: m.sigma_start for m in several}
    # where its own divergence from the prior is restricted, it is sought from nearer; where all codes together are, a
    # wide one would be kept wide
    assert {model for model, start in found.items() if start == 0.3} == {"beta_vae", "info_vae", "vae_gan"}
    assert {start for start in found.values() if start != 0.3} == {0.03}
    # a likelihood of the prior's codes starts as wide as the prior
    assert {m.sigma_start for m in members(load(["models=[infogan]", "prior=normal", "space.seed=0"]))} == {1.0}


def test_a_weight_beside_the_squared_error_is_converted_with_the_likelihood():
    given = ["models=[wae_mmd, aae]", "prior=normal", "space.weight=1", "space.seed=0"]
    likelihoods = "space.likelihood={grid: [gaussian, bernoulli, continuous_bernoulli, laplace]}"
    found = {(m.model, m.likelihood): m.restrictions[0][2] for m in members(load([*given, likelihoods]))}
    assert found == {
        **{("aae", name): 1.0 for name in ("gaussian", "bernoulli", "continuous_bernoulli", "laplace")},
        **{("wae_mmd", name): w for name, w in (("gaussian", 200.0), ("laplace", 200.0))},
        ("wae_mmd", "bernoulli"): 400.0,
        ("wae_mmd", "continuous_bernoulli"): 1200.0,
    }


def test_networks_and_critics_are_swept():
    def swept(*arguments):
        return members(load(["models=[vae,aae]", "space.prior=normal", "space.seed=0", "space.weight=1", *arguments]))

    several = swept(
        "network.hidden=[16,16]", "space.network.width={grid: [8, 32]}", "space.critic.steps={grid: [1, 2]}"
    )
    # a critic's steps make no other members of a model without one
    assert [(m.model, m.network["width"], m.critic.get("steps")) for m in several] == [
        *(("vae", width, None) for width in (8, 32)),
        *(("aae", width, steps) for width in (8, 32) for steps in (1, 2)),
    ]
    assert all(m.network["hidden"] == [16, 16] for m in several)
    whole = swept("space.network={grid: [{name: conv, channels: [4], hidden: []}, {hidden: [8]}]}", "models=[vae]")
    assert [m.network for m in whole] == [
        {"name": "conv", "channels": [4], "hidden": []},
        {"name": "mlp", "hidden": [8]},
    ]
    # said outright, it is the same member
    (one,) = swept("models=[vae]", "network.width=32", "network.hidden=[16,16]")
    assert one.trial == several[1].trial


def test_objectives_and_constraints_are_added_one_by_one():
    bounds = ["constraints.probe_codes.min=0.8", "constraints.fid.max=3"]
    config = load(["objectives.fid=null", "objectives.kid=min", *bounds])
    assert config.objectives == {"probe_codes": "max", "kid": "min"}
    assert config.bounds == {"probe_codes": {"min": 0.8}, "fid": {"max": 3.0}}
    assert load(["objectives={kid: min, mi_noised: max}"]).objectives == {"kid": "min", "mi_noised": "max"}


def test_members_of_a_usual_number_of_codes_are_those_of_versions_without_the_key():
    (usual,), (more,) = (
        members(
            load(["study=tradeoff", "models=[vae]", "space.prior=normal", "space.weight=1", "space.seed=0", *given])
        )
        for given in ([], ["metrics.importance_codes=5000"])
    )
    assert "importance_codes" not in usual.metrics
    assert more.metrics["importance_codes"] == 5000
    assert more.trial != usual.trial
