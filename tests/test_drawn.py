"""Drawn command lines: each is a study that could run, or is refused in two lines that name its key.

``GIMTUNE_DRAWN=10000 pytest -m slow tests/test_drawn.py`` draws so many.
"""

import copy
import os
import re
import sys
from functools import cache

import hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gimtune.__main__ import main
from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.algebra.models import MODELS
from gimtune.algebra.priors import PRIORS
from gimtune.data import idx, vision
from gimtune.metrics import features
from gimtune.study.composition import GROUPS, options
from gimtune.study.schema import keys

SPACES = ["{grid: [%s]}", "{choice: [%s, %s]}", "{per: model, vae: %s, default: %s}", "{per: prior, default: %s}"]
#: By key, values that mean something. Every key has an entry: one that a new key lacks fails the test.
SENSE = {
    "name": ["mine", "a.b-c_1"],
    "plugins": ["[]"],
    "seed": ["0", "7", "4294967296"],
    "models": [
        *(f"[{a},{b}]" for a in MODELS for b in MODELS if a != b),
        "[{name: mine, restrictions: [{match: latent, divergence: mmd, weight: 3}, {match: data, divergence: js}]}]",
        "[ae, {name: mine, side: p, encoder: deterministic}]",
        "[{name: mine, likelihood: features}]",
        "[{name: mine, restrictions: [latent/mmd]}]",
        "[{name: mine, restrictions: {match: latent}}]",
        "[{name: vae}]",
        "[{}]",
        "[vae, 3]",
    ],
    "likelihood": [*LIKELIHOODS, "null"],
    "encoder": ["gaussian", "deterministic", "implicit", "null"],
    "space": ["{weight: 1}", "{weight: {grid: [0.1, 1]}, seed: 3}", "{alpha: 0.5}", "{prior: {grid: [normal]}}"],
    "budget.epochs": ["1", "60", "5"],
    "budget.evaluate_every": ["1", "20", "100"],
    "budget.patience": ["null", "1", "5"],
    "budget.measure": ["all", "objectives"],
    "budget.restore": ["loss", "objectives", "last"],
    "training.learning_rate": ["0.001", "1e-3", "1"],
    "training.beta1": ["0", "0.5", "0.999"],
    "training.batch_size": ["4", "64", "100000"],
    "training.sigma_min": ["0", "0.001", "1"],
    "training.sigma_start": ["0.01", "1", "null"],
    "data.name": ["digits", "mnist", "fashion_mnist", "kmnist", "images", "vectors"],
    "data.fid_features": ["classifier", "random"],
    "data.root": ["/nowhere", "null", "."],
    "data.download": ["true", "false"],
    "data.likelihood": ["bernoulli", "real_gaussian", "gaussian"],
    "data.seed": ["0", "5", "4294967295"],
    "data.epochs": ["10"],
    "data.evaluate_every": ["5"],
    "data.batch_size": ["32"],
    "data.hidden": ["[16]", "[]"],
    "data.critic_hidden": ["[16]"],
    "data.binarized": ["fixed", "dynamic", "null"],
    "data.pair": ["digits", "mnist", "null"],
    "data.weights": ["1", "{grid: [1, 2]}", "{per: model, default: 1}"],
    "data.weight_ranges": ["{loguniform: [0.1, 1]}", "{per: model, default: {uniform: [0, 1]}}"],
    "data.restriction_weights": ["{per: restriction, default: 2}"],
    "network.name": ["mlp", "conv", "resnet"],
    "network.width": ["null", "8", "0"],
    "network.depth": ["null", "1", "2", "7"],
    "network.activation": ["null", "gelu", "swish"],
    "network.hidden": ["[128]", "[32, 32]", "[]"],
    "network.channels": ["null", "[8]", "[8, 8]", "[8, 8, 8, 8]"],
    "critic.hidden": ["[16]", "[16, 16]"],
    "critic.learning_rate": ["null", "2", "0.5"],
    "critic.beta1": ["null", "0", "0.5"],
    "critic.steps": ["null", "1", "5"],
    "critic.gradient_penalty": ["null", "0", "10"],
    "critic.spectral_norm": ["null", "true", "false"],
    "critic.instance_noise": ["null", "0", "0.1"],
    "critic.log_prior": ["null", "true", "false"],
    "metrics.fid_features": ["classifier", "inception", "values", "exported"],
    "metrics.features_file": ["null", "/nowhere.pt2", "."],
    "metrics.inception_weights": ["null", "/nowhere.pth", "."],
    "metrics.importance_codes": ["1", "3"],
    "metrics.fid_samples": ["2", "100"],
    "metrics.probe_samples": ["50", "1000"],
    "metrics.ruler": ["end", "always", "never"],
    "search.sampler": ["grid", "random", "tpe", "nsga2", "gp"],
    "search.trials": ["null", "1", "12"],
    "search.warm_start": ["null", "/nowhere", "."],
    "scheduler.name": ["fifo", "mo_asha"],
    "scheduler.grace": ["null", "1", "5", "60"],
    "scheduler.reduction": ["2", "3", "1.0001", "4.5"],
    "scheduler.priority": ["epsilon_net", "scalarisation"],
    "resources.cpu": ["1", "0.5", "2", "64", "1.5"],
    "resources.gpu": ["0", "0.25", "1", "8"],
    "resources.members": ["auto", "1", "4"],
    "resources.cuda_graphs": ["true", "false"],
    "ray.address": ["null", "auto", "127.0.0.1:6379"],
    "ray.dashboard": ["true", "false"],
    "ray.dashboard_port": ["8265", "1", "65535"],
    "ray.trackers": ["[]", "[tensorboard]", "[mlflow, wandb]", "[tensorboard, tensorboard]"],
    "objectives": [
        "{fid: min, mi_q: max}",
        "{fid: min, probe_codes: max, loss: min}",
        "{fid: max, mi_q: max}",
        "{a: min}",
        "[fid, mi_q]",
        "{mi_gap: min, fid: min}",
        "{restriction: max, test_fid: min}",
        "{fid: null, kid: min}",
        "{energy: min}",
    ],
    "constraints": [
        "{}",
        "{probe_codes: {min: 0.8}}",
        "{fid: {min: 2, max: 1}}",
        "{latent_js: {max: 0.1}}",
        "{a: {min: 1}}",
    ],
    "checkpoints": ["front", "all"],
    "storage_path": ["results", "/proc/nowhere", "../up", "s3://bucket/x"],
    "dry_run": ["true"],
    "resume": ["null", ".", "/nowhere"],
    "reuse": ["[]", "[/nowhere]", "[.]", "."],
    "across": ["true", "false"],
    "stop.grace": ["0", "30", "1.5"],
    "space.weight": ["0", "1", "{grid: [0.1, 1, 10]}", "{loguniform: [0.01, 1]}", "{uniform: [0, 1]}"],
    "space.prior": [
        *PRIORS,
        "{grid: [normal, laplace]}",
        "{name: laplace, scale: 2}",
        "{name: mixture, components: 3}",
        "{name: laplace, scale: {uniform: [0.5, 2]}}",
        "{name: normal, skew: 1}",
        "{scale: 2}",
        "{name: 3}",
    ],
    "space.latent_dim": ["2", "8", "12", "{grid: [2, 4]}", "{randint: [2, 6]}"],
    "space.seed": ["0", "{grid: [0, 1]}", "{randint: [0, 100]}"],
    "space.likelihood": ["gaussian", "{grid: [bernoulli, gaussian]}"],
    "space.encoder": ["gaussian", "{grid: [gaussian, deterministic]}"],
    "space.restriction": ["latent/mmd", "{grid: [latent/mmd, posterior/kl]}", "latent/w2"],
    "space.learning_rate": ["0.01", "{loguniform: [1e-4, 1e-2]}"],
    "space.beta1": ["0.9", "{uniform: [0, 0.9]}", "1"],
    "space.batch_size": ["16", "{grid: [16, 32]}"],
    "space.sigma_min": ["0.01", "{uniform: [0, 0.1]}", "0.5"],
    "space.network": [
        "{width: {grid: [8, 16]}}",
        "{name: conv, channels: [8], hidden: []}",
        "{depth: 2}",
        "{grid: [mlp]}",
    ],
    "space.critic": ["{steps: {grid: [1, 2]}}", "{hidden: [16], spectral_norm: true}", "{step: 2}"],
    "space.sigma_start": ["0.1", "{loguniform: [0.01, 1]}", "1.0"],
}
#: For any key.
_NONSENSE = """
    -1 0 0.5 1e400 nan inf -inf true null '' "" [] {} [1,[2]] {a:b} {grid:[]} {grid:[1,nonsense]} {grid:3} {choice:[]}
    {uniform:[0,1]} {uniform:[1,0]} {uniform:[nan,1]} {loguniform:[-1,1]} {randint:[1,5]} {randint:[0,1.5]} {per:model}
    {per:weight,default:1} {per:model,vea:1,default:2} {per:[1],default:2} {grid:[1],choice:[2]} {1:2} {name:normal}
    {grid:[{grid:[1,2]},{uniform:[1,0]}]} {grid:[[1]]} {grid:[null]} {grid:[true]} {grid:[{}]} {name:{grid:[normal,3]}}
    {per:null} {grid:{a:1}} {uniform:[0,1e400]} {loguniform:[1e-320,1e308]} {randint:[0,99999999999999999999]}
    99999999999999999999 -99999999999999999999 1e308 1e-320 vae [vae] normal ünïcode ../../x /etc/passwd ~ . * %s 0x10
    1_000 1,2 [1 {a a=b 'a: b' ${seed} ${nope} ${data.weights} ??? auto [bold]x[/bold] None 2**31 1:30 2026-01-01 -0 +1
"""
NONSENSE = [*_NONSENSE.split(), "'two\tparts'", "x" * 300]
#: Keys that are none.
STRANGE = ["colour", "budget.epoch", "budget", "space", "space.", "space.colour", "space.weight.x", "models.0", "a.b.c"]
STRANGE += ["", ".", "data.weights.vae", "objectives.fid", "objectives.loss", "hydra.run.dir", "models[0]", "seed.x"]


@st.composite
def overrides(draw):
    """One to five arguments of the command line."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.integers(0, 19))
        if kind == 0:
            group = draw(st.sampled_from(GROUPS))
            found.append(f"{group}={draw(st.sampled_from([*NONSENSE, 'x']))}")
            continue
        if kind < 5:
            group = draw(st.sampled_from(GROUPS))
            found.append(f"{group}={draw(st.sampled_from(options(group)))}")
            continue
        key = draw(st.sampled_from(STRANGE if kind == 5 else sorted(SENSE)))
        if kind > 10 and key in SENSE:
            value = draw(st.sampled_from(SENSE[key]))
            if key.startswith("space.") and draw(st.booleans()):
                space = draw(st.sampled_from(SPACES))
                value = space % tuple(draw(st.sampled_from(SENSE[key])) for _ in range(space.count("%s")))
        else:
            value = draw(st.one_of(st.sampled_from(NONSENSE), st.integers().map(str), st.floats().map(str)))
        sign = draw(st.sampled_from(["", "", "", "", "", "", "", "", "", "+", "++", "~"]))
        bare = sign == "~" and draw(st.booleans())
        found.append(f"{sign}{key}" if bare else f"{sign}{key}={value}")
    return found


@cache
def _files(arguments):
    return hydra.compose("config", list(arguments), return_hydra_config=True)


def composed(name, arguments, return_hydra_config):
    """As `hydra.compose`, by its own parts; what it reads from the same files, it reads once."""
    parsed = OverridesParser.create().parse_overrides(arguments)
    of_files = [o for o in parsed if o.key_or_group in GROUPS or o.key_or_group.startswith("hydra")]
    config = copy.deepcopy(_files(tuple(o.input_line for o in of_files)))
    ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if o not in of_files], config)
    return config


class Quick:
    """``hydra``, as `gimtune.study.composition` uses it."""

    initialize_config_dir = staticmethod(hydra.initialize_config_dir)
    compose = staticmethod(composed)


class Absent:
    """Nothing is fetched here."""

    def __init__(self, *given):
        raise OSError("no network")


def named(message):
    """Keys and groups that a message names."""
    words = {word.rstrip(".") for word in re.findall(r"[a-z_]+(?:\.[a-z_]+)*", message)}
    sections = {key.partition(".")[0] for key in keys()}
    inside = {word for word in words if "." in word and word.split(".")[0] in sections}
    return inside | words & {*keys(), *GROUPS, "space"}


def related(key, drawn):
    """Whether a key may be wrong for what was drawn: its own section, or a group, which sets keys of any section."""
    return key.split(".")[0] == drawn.split(".")[0] or drawn in GROUPS or drawn.split(".")[0] == "data"


def check(arguments, capsys, folder):
    """Returns the exit code."""
    code = main(["dry_run=true", *arguments])
    said = capsys.readouterr()
    assert not list(folder.iterdir())
    if code == 0:
        assert "nothing was started" in said.out
        assert said.err == ""
        return code
    assert code == 2
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert 1 <= len(lines) <= 2, said.err
    drawn = [re.sub(r"^(\+\+?|~)", "", a).partition("=")[0] for a in arguments]
    assert (
        any(said.err.startswith((f"{one}: ", f"{one}=")) for one in drawn)
        or any(related(key, one) for key in named(said.err) for one in drawn)
        or any(a in said.err for a in arguments)
    ), said.err
    return code


def test_every_key_is_drawn():
    assert set(keys()) == set(SENSE)


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("GIMTUNE_DRAWN", "300")), suppress_health_check=list(HealthCheck))
@given(overrides())
def test_every_configuration_runs_or_is_refused_by_its_key(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.delenv("GIMTUNE_DATA", raising=False)
    # images that are to be decoded are locked there, whether or not there are any
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.parent / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gimtune.study.composition.hydra", Quick)
    monkeypatch.setattr(idx, "_download", Absent)
    monkeypatch.setattr(vision, "_made", Absent)
    monkeypatch.setattr(features, "Inception", Absent)
    before = "ray" in sys.modules
    check(arguments, capsys, tmp_path)
    # a tracker is asked for what it needs, and it is one of Ray's
    assert before == ("ray" in sys.modules) or any("trackers" in a for a in arguments)
