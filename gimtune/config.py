"""Typed configuration: composed by Hydra from ``studies/``, checked here before anything starts.

Every error is a `ConfigError` of one or two lines that name the key, the value and what is allowed.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, field_validator
from pydantic.fields import FieldInfo

from gimtune import mirror, space
from gimtune.vocabulary import METRICS, Direction

STUDIES = Path(__file__).resolve().parent.parent / "studies"
#: Samplers that decide as results come in.
SEQUENTIAL = ("tpe", "nsga2", "gp")
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_Name = Annotated[str, Field(pattern=NAME)]
_GROUPS = ("study", "model", "data", "prior", "network", "search", "scheduler", "resources")


class ConfigError(ValueError):
    """Bad input, in words for the person who gave it."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Budget(_Section):
    epochs: PositiveInt = Field(description="passes over the training split")
    evaluate_every: PositiveInt = Field(description="epochs between two evaluations")


class Training(_Section):
    learning_rate: PositiveFloat = Field(description="of Adam")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(description="of Adam; 0.5 as the papers with critics have it")
    batch_size: Annotated[int, Field(ge=4)] = Field(description="images per step, at most")
    sigma_min: Annotated[float, Field(ge=0, le=1)] = Field(description="lower bound of the posterior's deviation")


class Data(_Section):
    name: Literal["digits", "mnist", "fashion_mnist"] = Field(description="data set")
    root: str | None = Field(description="folder with its IDX files; null: $GIMTUNE_DATA, the cache, download")
    download: bool = Field(description="fetch it where it is not found")
    seed: Annotated[int, Field(ge=0, lt=2**32 - 1)] = Field(description="of the splits")
    epochs: PositiveInt = Field(description="default of budget.epochs")
    evaluate_every: PositiveInt = Field(description="default of budget.evaluate_every")
    batch_size: PositiveInt = Field(description="default of training.batch_size")
    hidden: list[PositiveInt] = Field(description="default of network.hidden")
    critic_hidden: list[PositiveInt] = Field(min_length=1, description="default of critic.hidden")
    pair: Literal["digits", "mnist", "fashion_mnist"] | None = Field(
        description="second domain of a domain prior; null: the images turned and inverted"
    )
    weights: Any = Field(description="default of space.weight: from no effect to collapse on this data")
    weight_ranges: Any = Field(description="the same, as ranges to search")
    restriction_weights: Any = Field(description="the same for single restrictions (space.restriction)")


class Network(_Section):
    name: Literal["mlp", "conv"] = Field(description="architecture of all encoders and decoders")
    hidden: list[PositiveInt] = Field(description="widths of the fully connected layers")
    channels: list[PositiveInt] | None = Field(default=None, description="of the strided convolutions (conv)")

    @field_validator("channels")
    @classmethod
    def _some(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and not value:
            raise ValueError("one channel or more")
        return value


class Critic(_Section):
    """Settings of every critic; null leaves each restriction its own (`gimtune.critics.Critic`)."""

    hidden: list[PositiveInt] = Field(min_length=1, description="widths of its fully connected layers")
    learning_rate: PositiveFloat | None = Field(description="multiple of the model's")
    beta1: Annotated[float, Field(ge=0, lt=1)] | None = Field(description="of its Adam")
    steps: PositiveInt | None = Field(description="of the critic for one of the model")
    gradient_penalty: Annotated[float, Field(ge=0)] | None = Field(description="factor; 0 for none")
    spectral_norm: bool | None = Field(description="divide its matrices by their largest singular values")
    instance_noise: Annotated[float, Field(ge=0)] | None = Field(description="deviation of noise on its inputs")
    log_prior: bool | None = Field(description="its logit holds -log p(z) outright")


class Metrics(_Section):
    fid_features: Literal["classifier", "inception"] = Field(description="network that images are compared by")
    inception_weights: str | None = Field(description="file or address of the Inception weights; null: pytorch-fid's")
    fid_samples: Annotated[int, Field(ge=2)] = Field(description="images per distance, at most the split's")
    probe_samples: Annotated[int, Field(ge=50)] = Field(description="training codes for the probes, at most")


class Search(_Section):
    sampler: Literal["grid", "random", "tpe", "nsga2", "gp"] = Field(
        description="grid: every combination; random: search.trials draws; Optuna's tpe, nsga2, gp: as they see results"
    )
    trials: PositiveInt | None = Field(description="members to run (all but grid)")
    warm_start: str | None = Field(description="an earlier run's folder, whose members tpe, nsga2 and gp start from")


class Scheduler(_Section):
    name: Literal["fifo", "mo_asha"] = Field(
        description="fifo: every member runs to the end; mo_asha: multi-objective successive halving"
    )
    grace: PositiveInt | None = Field(description="epochs before the first decision; null: budget.evaluate_every")
    reduction: Annotated[float, Field(gt=1)] = Field(description="one in so many members goes on at a rung")
    priority: Literal["epsilon_net", "scalarisation"] = Field(description="how a rung's members are ranked")


class Resources(_Section):
    cpu: Annotated[float, Field(gt=0)] = Field(description="per Ray trial")
    gpu: Annotated[float, Field(ge=0)] = Field(description="per Ray trial; fractions allowed")
    members: PositiveInt | Literal["auto"] = Field(description="members in one Ray trial")

    @field_validator("cpu", "gpu", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("cpu", "gpu")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("above 1 Ray takes whole numbers")
        return value


class Ray(_Section):
    address: str | None = Field(
        description="of a running cluster: HOST:PORT, or auto for this machine's; local: one started here; "
        "null: $RAY_ADDRESS (a Ray job's own cluster), else local"
    )
    dashboard: bool = Field(description="serve the Ray dashboard on the loopback address")
    dashboard_port: Annotated[int, Field(ge=1, le=65535)] = Field(description="its port, or the next free one")
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        description="log to tensorboard, mlflow, wandb as well (docs/monitoring.md)"
    )

    @field_validator("trackers")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("each once")
        return value

    @field_validator("address")
    @classmethod
    def _joinable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"auto|local|([^\s:/]+|\[[0-9A-Fa-f:]+\]):\d{1,5}", value):
            raise ValueError("should be HOST:PORT of a cluster's head, auto, local, or null")
        return value


class Config(_Section):
    """A study, as its file and the command line say it."""

    name: _Name = Field(description="of the study, and of its folder under storage_path")
    seed: Annotated[int, Field(ge=0)] = Field(description="of the random search and of the order of minibatches")
    models: list[Any] = Field(min_length=1, description="names, or mappings {name, side, restrictions, ...}")
    likelihood: str | None = Field(description="of p(x|z) for all models; null: each model's own, else bernoulli")
    encoder: Literal["gaussian", "deterministic", "implicit"] | None = Field(
        description="kind of q(z|x) for all models; null: each model's own"
    )
    space: dict[str, Any] = Field(description="what is swept: weight, prior, latent_dim, seed and further keys")
    budget: Budget
    training: Training
    data: Data
    network: Network
    critic: Critic
    metrics: Metrics
    search: Search
    scheduler: Scheduler
    resources: Resources
    ray: Ray
    objectives: dict[str, Literal["min", "max"]] = Field(description="of the Pareto front, with directions")
    storage_path: str = Field(description="folder for the runs, or s3://BUCKET/PREFIX for copies of them")
    checkpoints: Literal["front", "all"] = Field(
        description="whose weights are kept: each model's non-dominated members', or all"
    )
    dry_run: bool = Field(description="list what would run, and stop")
    resume: str | None = Field(description="run folder to go on with")


#: Keys of ``space`` beside the models' own parameters.
SWEPT: Mapping[str, str] = {
    "weight": "multiplier of a model's restriction, >= 0; 1 is the paper's own",
    "prior": "name, or mapping {name, options}",
    "latent_dim": "dimensions of the code, whole, >= 1",
    "seed": "of a member's weights and noise, whole, >= 0",
    "likelihood": "of p(x|z)",
    "encoder": "kind of q(z|x)",
    "restriction": "match/divergence, for models that have none of their own",
    "learning_rate": "in place of training.learning_rate",
    "batch_size": "in place of training.batch_size",
    "sigma_min": "in place of training.sigma_min",
}


def load(arguments: Sequence[str]) -> Config:
    """The configuration that the command line asks for, fully checked but for the machine and the data.

    Raises:
        ConfigError: anything unknown, of a wrong type or impossible.
    """
    config = _validated(_compose(list(arguments)))
    if config.resume is None:
        return config
    others = [a for a in arguments if not re.match(r"(resume|dry_run|ray\.\w+)=", a)]
    if others:
        raise ConfigError(
            f"{others[0]}: with resume only ray.* and dry_run may be given; the run's own file says the rest"
        )
    run = config.resume
    if mirror.is_address(run):
        try:
            run = str(mirror.fetch(run))
        except ValueError as error:
            raise ConfigError(f"resume={error}") from None
        except OSError as error:
            raise ConfigError(f"resume={run}: {str(error).splitlines()[0]}") from None
    stated = reopened(Path(run))
    given = {a.split("=")[0].removeprefix("ray.") for a in arguments if a.startswith("ray.")}
    ray = stated.ray.model_copy(update={key: getattr(config.ray, key) for key in given})
    return stated.model_copy(update={"resume": run, "dry_run": config.dry_run, "ray": ray})


def reopened(run: Path) -> Config:
    """The configuration that a run folder states.

    Raises:
        ConfigError: it is no run folder, or its file is damaged.
    """
    path = run / "config.yaml"
    if not path.is_file() or not (run / "study.db").is_file():
        raise ConfigError(f"resume={run}: no run folder (it needs config.yaml and study.db)")
    try:
        return _validated(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None


def dump(config: Config) -> str:
    """A configuration as the YAML that `reopened` reads."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _compose(arguments: list[str]) -> Any:
    parser, own, known = OverridesParser.create(), _own_studies(), set(keys())
    plain: list[str] = []
    replaced: list[Any] = []
    for argument in arguments:
        try:
            override = parser.parse_override(argument)
        except HydraException:
            override = None
        if override is None or not override.key_or_group:
            raise ConfigError(
                f"{argument}: cannot be read; write key=value, and quote mappings: 'key={{grid: [1, 2]}}'"
            )
        if override.is_sweep_override():
            raise ConfigError(f"{argument}: several values are written as a space: 'KEY={{grid: [a, b]}}'")
        key = override.key_or_group
        if key.startswith("hydra"):
            raise ConfigError(_unknown(key))
        # Hydra would look for the rest as an index
        if above := next((k for k, field in _fields() if _is_list(field) and key.startswith(f"{k}.")), None):
            raise ConfigError(f"{argument}: {above} is a list, and is given whole: {above}=[...]")
        whole = key in _GROUPS or (key in known and not key.startswith("space."))
        if override.is_delete() and (whole or override.value() is not None):
            raise ConfigError(f"{argument}: ~KEY takes a part out of a space or a mapping; write {key}=VALUE")
        if key in _GROUPS and not override.is_delete():
            _check_option(key, override.value(), own)
        # Hydra merges a mapping into the one that stands there; a space is replaced as a whole
        if not override.is_delete() and (key.startswith("space.") or isinstance(override.value(), dict)):
            replaced.append(override)
        else:
            plain.append(argument)
    search = [f"hydra.searchpath=['file://{str(own).replace(chr(39), chr(92) + chr(39))}']"] if own else []
    try:
        with hydra.initialize_config_dir(str(STUDIES), version_base="1.3"):
            composed = hydra.compose("config", plain + search, return_hydra_config=True)
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file or "").rpartition("/")
        raise ConfigError(f"{group}={name}: allowed are {', '.join(error.options or options(group))}") from None
    except ConfigCompositionException as error:
        raise ConfigError(_composition(str(error), plain)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"a study file is not YAML: {' '.join(str(error).split())}") from None
    assert isinstance(composed, DictConfig)
    OmegaConf.set_struct(composed, False)
    study = str(composed.hydra.runtime.choices.study)
    del composed["hydra"]
    for key, value in _space_of(study, own).items():
        if (group := f"{key}=") in {a.partition("=")[0] + "=" for a in plain} and key in _GROUPS:
            raise ConfigError(f"{group}...: study={study} sets space.{key} itself; write space.{key}=... instead")
        OmegaConf.update(composed, f"space.{key}", value, merge=False, force_add=True)
    for override in replaced:
        key = override.key_or_group
        if not key.startswith("space.") and key not in known:
            raise ConfigError(_unknown(key))
        OmegaConf.update(composed, key, override.value(), merge=False, force_add=True)
    try:
        return OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None


def _check_option(group: str, option: Any, own: Path | None) -> None:
    there = sorted({*options(group), *(path.stem for path in (own / group).glob("*.yaml"))} if own else options(group))
    if option not in there:
        raise ConfigError(f"{group}={option}: allowed are {', '.join(there)}")


def _own_studies() -> Path | None:
    """The folder ``studies`` where the user stands, if it is another than ours.

    Raises:
        ConfigError: a file in it has the name of one of ours, which Hydra would take instead, or leads out of it.
    """
    own = Path.cwd() / "studies"
    if not own.is_dir() or own.resolve() == STUDIES:
        return None
    for path in own.rglob("*.yaml"):
        ours = STUDIES / path.relative_to(own)
        if ours.is_file() and ours.read_bytes() != path.read_bytes():
            raise ConfigError(f"{path}: gimtune ships a file of that name; give yours another")
        with contextlib.suppress(yaml.YAMLError):  # composing says it better
            content = yaml.safe_load(path.read_text())
            if isinstance(content, dict) and ".." in json.dumps(content.get("defaults"), default=str):
                raise ConfigError(f"{path}: its defaults lead out of {own}")
    return own


def _space_of(study: str, own: Path | None) -> dict[str, Any]:
    """The ``space`` that a study file states, to replace the defaults' spaces and not to be merged into them."""
    for folder in (STUDIES, own):
        if folder and (path := folder / "study" / f"{study}.yaml").is_file():
            stated = (yaml.safe_load(path.read_text()) or {}).get("space")
            return stated if isinstance(stated, dict) else {}
    return {}


def _composition(message: str, arguments: Sequence[str]) -> str:
    found = re.search(r"Could not (?:override|append|delete)[^']*'([^']+)'", message)
    if not found:
        return message.splitlines()[0]
    key = found[1].split("@")[0]
    return _unknown(key)


def _unknown(key: str) -> str:
    if key in keys():
        return f"{key}: it has a value already; write {key}=VALUE, without a sign before it"
    close = difflib.get_close_matches(key, keys(), 3, 0.5)
    hint = f"did you mean {', '.join(close)}?" if close else f"allowed are {', '.join(Config.model_fields)}"
    return f"{key}: unknown key; {hint}"


def options(group: str) -> list[str]:
    """The files of a configuration group."""
    return sorted(path.stem for path in (STUDIES / group).glob("*.yaml"))


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    for name, field in Config.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from ((f"{name}.{key}", f) for key, f in inner.model_fields.items())
        else:
            yield name, field


def _is_list(field: FieldInfo) -> bool:
    return any(get_origin(kind) is list for kind in (field.annotation, *get_args(field.annotation)))


def keys() -> Iterator[str]:
    """Every key of a configuration, dotted."""
    yield from (key for key, _ in _fields())
    yield from (f"space.{key}" for key in SWEPT)


def help_text() -> str:
    """What ``--help`` prints: groups with their options, then every key with what it means."""
    lines = ["usage: python -m gimtune [group=option] [key=value] ...", "", "groups:"]
    lines += [f"  {group:28} {', '.join(options(group))}" for group in _GROUPS]
    lines += ["", "keys:"]
    lines += [f"  {key:28} {field.description}" for key, field in _fields()]
    lines += [f"  {f'space.{key}':28} a value or a space: {meaning}" for key, meaning in SWEPT.items()]
    lines += ["", "spaces: {grid: [..]} {choice: [..]} {uniform: [a, b]} {loguniform: [a, b]} {randint: [a, b]}"]
    lines += ["        {per: model, vae: SPACE, default: SPACE}   (or per: prior, per: restriction)"]
    return "\n".join(lines)


def _validated(content: Any) -> Config:
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(_message(e) for e in error.errors()[:2])) from None
    for metric, direction in config.objectives.items():
        _check_objective(metric, direction)
    if len(config.objectives) < 2:
        raise ConfigError(f"objectives={config.objectives}: a front needs two or more")
    for key, value in config.space.items():
        try:
            space.check(f"space.{key}", value)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if config.search.sampler != "grid" and config.search.trials is None:
        raise ConfigError(f"search.trials=null: search.sampler={config.search.sampler} needs a number of members")
    if config.search.warm_start is not None and config.search.sampler not in SEQUENTIAL:
        raise ConfigError(
            f"search.warm_start={config.search.warm_start}: search.sampler={config.search.sampler} does not learn; "
            f"allowed are {', '.join(SEQUENTIAL)}"
        )
    if config.search.warm_start is not None and not (Path(config.search.warm_start) / "study.db").is_file():
        raise ConfigError(f"search.warm_start={config.search.warm_start}: no run folder (it needs study.db)")
    if config.search.sampler == "grid" and config.search.trials is not None:
        raise ConfigError(
            f"search.trials={config.search.trials}: search.sampler=grid runs every combination; leave it null"
        )
    if config.network.name == "conv" and not config.network.channels:
        raise ConfigError("network.channels=null: conv needs channels, e.g. [32, 64]")
    if config.network.name == "mlp" and config.network.channels:
        raise ConfigError(f"network.channels={config.network.channels}: mlp has none; use network=conv")
    weights = config.metrics.inception_weights
    if weights and "://" not in weights:
        if not Path(weights).is_file():
            raise ConfigError(f"metrics.inception_weights={weights}: no such file")
        # a worker stands elsewhere
        metrics = config.metrics.model_copy(update={"inception_weights": str(Path(weights).resolve())})
        config = config.model_copy(update={"metrics": metrics})
    for key in ("storage_path", "resume"):
        try:
            mirror.is_address(getattr(config, key) or "")
        except ValueError as error:
            raise ConfigError(f"{key}={error}") from None
    return config


def _message(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(key)
    if error["type"] == "missing":
        return f"{key}: missing"
    allowed = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "string_pattern_mismatch":
        allowed = "should be letters, digits, '_', '.' and '-', 64 at most"
    return f"{key}={error['input']!r}: {allowed}"


def _check_objective(metric: str, direction: str) -> None:
    if metric not in METRICS:
        close = difflib.get_close_matches(metric, METRICS, 3, 0.5)
        raise ConfigError(f"objectives.{metric}: unknown metric; allowed are {', '.join(close or METRICS)}")
    own = METRICS[metric].direction
    if own not in (Direction.NONE, direction):
        raise ConfigError(f"objectives.{metric}={direction}: the metric is better at its {own}; allowed is {own}")


def cluster_address(config: Config) -> str | None:
    """Address of the running cluster to join; ``None`` for a Ray of the study's own."""
    address = config.ray.address or os.environ.get("RAY_ADDRESS") or "local"
    # the URL in RAY_ADDRESS is where `ray job submit` goes, and no cluster to join
    return None if address == "local" or "://" in address else address


def check_machine(config: Config, nodes: Sequence[tuple[float, float]]) -> None:
    """Refuse more per trial than any node has: Ray would wait for ever.

    Args:
        nodes: CPUs and GPUs of each.

    Raises:
        ConfigError: naming the key.
    """
    wanted = config.resources
    where = "cluster's nodes have" if cluster_address(config) else "machine has"
    for key, most in (("cpu", max(c for c, _ in nodes)), ("gpu", max(g for _, g in nodes))):
        if getattr(wanted, key) > most:
            raise ConfigError(f"resources.{key}={getattr(wanted, key):g}: this {where} {most:g}")
    if not any(wanted.cpu <= cpu and wanted.gpu <= gpu for cpu, gpu in nodes):
        raise ConfigError(f"resources.cpu={wanted.cpu:g} with resources.gpu={wanted.gpu:g}: no node has both")


def storage(config: Config) -> Path:
    """The folder for the runs; that of this machine where they are copied to an object store."""
    place = config.storage_path
    return mirror.folder(place) if mirror.is_address(place) else Path(place).expanduser()


def check_storage(config: Config) -> Path:
    """The folder for the runs, made if need be.

    Raises:
        ConfigError: it cannot be written to.
    """
    if mirror.is_address(config.storage_path):
        try:
            mirror.check(config.storage_path)
        except OSError as error:
            raise ConfigError(f"storage_path={config.storage_path}: {str(error).splitlines()[0]}") from None
    path = storage(config).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError as error:
        raise ConfigError(f"storage_path={config.storage_path}: {error.strerror}") from None
    if not writable:
        raise ConfigError(f"storage_path={config.storage_path}: cannot be written to")
    return path
