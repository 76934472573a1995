"""What a study may say, typed: the sections of its configuration, checked one by one and together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, field_validator
from pydantic.fields import FieldInfo

from gimtune.parts import close
from gimtune.results import mirror
from gimtune.study import space
from gimtune.study.measured import check_constraints, check_objectives
from gimtune.study.messages import ConfigError, rule
from gimtune.vocabulary import IMPORTANCE_CODES

#: Samplers that decide as results come in.
SEQUENTIAL = ("tpe", "nsga2", "gp")
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_Name = Annotated[str, Field(pattern=NAME)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Budget(_Section):
    epochs: PositiveInt = Field(description="passes over the training split, at most")
    evaluate_every: PositiveInt = Field(description="epochs between two evaluations")
    patience: PositiveInt | None = Field(
        description="evaluations, and two thirds of all so far, without progress beyond its error, after which a "
        "member has levelled off and ends; null: every member runs to budget.epochs"
    )
    restore: Literal["loss", "objectives", "last"] = Field(
        description="weights that a member ends with. loss: those of the lowest on the validation split, and as "
        "objectives for models whose loss is a game with a critic; objectives: those of the last evaluation that no "
        "earlier one beats in all of them; last: the last"
    )
    measure: Literal["all", "objectives"] = Field(
        description="at evaluations before a member's end: all metrics, or the objectives and the loss alone"
    )


class Training(_Section):
    learning_rate: PositiveFloat = Field(description="of Adam")
    beta1: Annotated[float, Field(ge=0, lt=1)] = Field(description="of Adam; 0.5 as the papers with critics have it")
    batch_size: Annotated[int, Field(ge=4)] = Field(description="images per step, at most")
    sigma_min: Annotated[float, Field(ge=0, le=1)] = Field(description="lower bound of the posterior's deviation")
    sigma_start: PositiveFloat | None = Field(
        description="a Gaussian posterior's deviation at the start; null: 1 on side p, 0.3 with posterior/kl, else 0.03"
    )


class _Open(_Section):
    """A section that holds the options of a part beside its own keys."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """Those of the part, by name."""
        return dict(self.model_extra or {})


class Data(_Open):
    name: str = Field(description="data set; its options stand beside it, as data.OPTION")
    root: str | None = Field(default=None, description="folder with its files; null: $GIMTUNE_DATA, cache, download")
    download: bool = Field(default=True, description="fetch it where it is not found")
    seed: Annotated[int, Field(ge=0, lt=2**32 - 1)] = Field(description="of the splits")
    epochs: PositiveInt = Field(description="default of budget.epochs")
    evaluate_every: PositiveInt = Field(description="default of budget.evaluate_every")
    batch_size: PositiveInt = Field(description="default of training.batch_size")
    hidden: list[PositiveInt] = Field(description="default of network.hidden")
    critic_hidden: list[PositiveInt] = Field(min_length=1, description="default of critic.hidden")
    fid_features: str = Field(description="default of metrics.fid_features")
    likelihood: str = Field(default="bernoulli", description="what studies give all models, so that they compare")
    pair: str | None = Field(description="second domain of a domain prior; null: the images turned and inverted")
    binarized: Literal["fixed", "dynamic"] | None = Field(
        default=None, description="pixels drawn black or white: once, or in training at every minibatch; null: grey"
    )
    weights: Any = Field(description="default of space.weight: from no effect to collapse on this data")
    weight_ranges: Any = Field(description="the same, as ranges to search")
    restriction_weights: Any = Field(description="the same for single restrictions (space.restriction)")


class Network(_Open):
    name: str = Field(description="architecture of all encoders and decoders; its options stand beside it")
    hidden: list[PositiveInt] | None = Field(default=None, description="widths of the fully connected layers")
    channels: list[PositiveInt] | None = Field(
        default=None, description="of the strided convolutions (conv), or of the residual blocks (resnet) at each size"
    )
    width: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        default=None, description="of all hidden layers (mlp), or channels at the first size; null: as they are listed"
    )
    depth: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None, description="hidden layers (mlp), or sizes, each of twice the channels; null: as they are listed"
    )
    activation: str | None = Field(default=None, description="between layers: relu, leaky_relu, elu, gelu, silu, ...")

    @field_validator("channels")
    @classmethod
    def _some(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and not value:
            raise ValueError("one channel or more")
        return value


class Critic(_Section):
    """Settings of every critic; null leaves each restriction its own (`gimtune.algebra.critics.Critic`)."""

    hidden: list[PositiveInt] = Field(min_length=1, description="widths of its fully connected layers")
    learning_rate: PositiveFloat | None = Field(description="multiple of the model's")
    beta1: Annotated[float, Field(ge=0, lt=1)] | None = Field(description="of its Adam")
    steps: PositiveInt | None = Field(description="of the critic for one of the model")
    gradient_penalty: Annotated[float, Field(ge=0)] | None = Field(description="factor; 0 for none")
    spectral_norm: bool | None = Field(description="divide its matrices by their largest singular values")
    instance_noise: Annotated[float, Field(ge=0)] | None = Field(description="deviation of noise on its inputs")
    log_prior: bool | None = Field(description="its logit holds -log p(z) outright")


class Metrics(_Section):
    fid_features: str = Field(
        description="network that images are compared by: classifier, random, inception, exported, a registered one"
    )
    features_file: str | None = Field(default=None, description="program of torch.export (.pt2), for exported")
    inception_weights: str | None = Field(description="file or address of the Inception weights; null: pytorch-fid's")
    fid_samples: Annotated[int, Field(ge=2)] = Field(description="images generated for a distance from a split's")
    ruler: Literal["end", "always", "never"] = Field(
        description="when fresh networks measure divergences and information: as a member ends, always or never"
    )
    importance_codes: PositiveInt = Field(default=IMPORTANCE_CODES, description="codes of an image that bound log_px")
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
    cuda_graphs: bool = Field(default=False, description="on a GPU, train steps in one launch each; the same numbers")

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


class Stop(_Section):
    grace: Annotated[float, Field(ge=0)] = Field(
        default=30.0,
        description="seconds that packs have to write down where they stand, after Ctrl-C, SIGTERM, SIGHUP or SIGUSR1",
    )

    @field_validator("grace", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Ray(_Section):
    address: str | None = Field(
        description="of a running cluster: HOST:PORT, or auto for this machine's; local: one started here; "
        "null: $RAY_ADDRESS (a Ray job's own cluster), else local"
    )
    dashboard: bool = Field(description="serve the Ray dashboard on the loopback address")
    dashboard_port: Annotated[int, Field(ge=1, le=65535)] = Field(description="its port, or the next free one")
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        description="log to tensorboard, mlflow, wandb as well (docs/howto/monitoring.md)"
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


class Bound(_Section):
    """What a metric is to be at least, at most, or both."""

    min: float | None = None
    max: float | None = None


class Config(_Section):
    """A study, as its file and the command line say it."""

    name: _Name = Field(description="of the study, and of its folder under storage_path")
    plugins: list[str] = Field(description="modules with parts of one's own, imported here and on every worker")
    seed: Annotated[int, Field(ge=0)] = Field(description="of the random search and of the order of minibatches")
    models: list[Any] = Field(min_length=1, description="names, or mappings {name, side, restrictions, ...}")
    likelihood: str | None = Field(description="of p(x|z) for all models; null: each model's own, else bernoulli")
    encoder: str | None = Field(description="kind of q(z|x) for all models; null: each model's own")
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
    stop: Stop = Stop()
    objectives: dict[str, Literal["min", "max"]] = Field(description="of the front, with directions; null: not this")
    constraints: dict[str, Bound] = Field(
        default_factory=dict,
        description="bounds of metrics, METRIC: {min: ..., max: ...}; members beyond are infeasible, and on no front",
    )
    storage_path: str = Field(description="folder for the runs, or s3://BUCKET/PREFIX for copies of them")
    checkpoints: Literal["front", "all"] = Field(
        description="whose weights are kept: each model's non-dominated members', or all"
    )
    dry_run: bool = Field(description="list what would run, and stop")
    resume: str | None = Field(description="run folder to go on with")
    reuse: list[str] = Field(
        default=[],
        description="earlier runs, RUN or [RUN, RUN2]: their members are taken over where they are this study's, and "
        "not trained again (docs/howto/growing.md)",
    )
    across: bool = Field(
        default=False,
        description="resume.across=true goes on with a run where its numbers would come out otherwise: on another "
        "kind of processor or device, with other versions; reuse.across=true takes over what was made so",
    )

    @field_validator("objectives", mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or None not in value.values():
            return value
        # what comes in another's place stands in its place: figures take the first that is to be small for one axis
        left = [(key, way) for key, way in value.items() if way is not None]
        return dict(sorted(left, key=lambda pair: pair[1] != "min"))

    @property
    def bounds(self) -> dict[str, dict[str, float]]:
        """Its constraints, by metric and ``min`` or ``max``."""
        return {metric: bound.model_dump(exclude_none=True) for metric, bound in self.constraints.items()}

    @field_validator("reuse", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


#: Sections that take the options of a part beside their own keys.
OPEN = tuple(name for name, field in Config.model_fields.items() if field.annotation in (Data, Network))

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
    "beta1": "in place of training.beta1",
    "batch_size": "in place of training.batch_size",
    "sigma_min": "in place of training.sigma_min",
    "sigma_start": "in place of training.sigma_start",
    "network": "mapping of options in place of network.*, each a value or a space; with a name it is another network",
    "critic": "mapping of settings in place of critic.*, each a value or a space",
}
#: Keys of ``space`` that are mappings of a section's keys, in which a list is a value.
SECTIONS: Mapping[str, type[_Section]] = {"network": Network, "critic": Critic}


def validated(content: Any) -> Config:
    """A configuration from plain values.

    Raises:
        ConfigError: anything unknown, of a wrong type, or that does not go together.
    """
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(message_of(e) for e in error.errors()[:2])) from None
    for key, value in config.space.items():
        try:
            space.check(f"space.{key}", value, lists=key in SECTIONS)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    asked = config.metrics.ruler, config.scheduler.name
    check_objectives(config.objectives, *asked)
    check_constraints(config.bounds, *asked)
    if config.search.sampler != "grid" and config.search.trials is None:
        raise ConfigError(f"search.trials=null: search.sampler={config.search.sampler} needs a number of members")
    if config.search.warm_start is not None and config.search.sampler not in SEQUENTIAL:
        raise ConfigError(
            f"search.warm_start={config.search.warm_start}: search.sampler={config.search.sampler} does not learn; "
            f"allowed are {', '.join(SEQUENTIAL)}"
        )
    if config.search.sampler == "grid" and config.search.trials is not None:
        raise ConfigError(
            f"search.trials={config.search.trials}: search.sampler=grid runs every combination; leave it null"
        )
    if config.reuse and config.search.sampler in SEQUENTIAL:
        raise ConfigError(
            f"reuse={_listed(config.reuse)}: search.sampler={config.search.sampler} suggests members as it goes; "
            "search.warm_start=RUN starts from an earlier run's, and grid and random take them over"
        )
    weights = config.metrics.inception_weights
    if weights and "://" not in weights and not Path(weights).is_file():
        raise ConfigError(f"metrics.inception_weights={weights}: no such file")
    # a worker stands elsewhere
    given = {key: getattr(config.metrics, key) for key in ("inception_weights", "features_file")}
    found = {key: str(Path(path).resolve()) for key, path in given.items() if path and "://" not in path}
    config = config.model_copy(update={"metrics": config.metrics.model_copy(update=found)})
    for key in ("storage_path", "resume"):
        try:
            mirror.is_address(getattr(config, key) or "")
        except ValueError as error:
            raise ConfigError(f"{key}={error}") from None
    return config


def _listed(values: list[str]) -> str:
    return f"[{', '.join(values)}]"


def message_of(error: Any) -> str:
    """An error of pydantic's in a line: key, value and what is allowed."""
    key = ".".join(str(part) for part in error["loc"] if "[key]" not in error["loc"] or part == error["loc"][0])
    if error["type"] == "extra_forbidden":
        return unknown(key)
    if error["type"] == "missing":
        return f"{key}: missing"
    return f"{key}={error['input']!r}: {rule(error)}"


def unknown(key: str) -> str:
    """What is to be said of a key that is none."""
    if key in keys():
        return f"{key}: it has a value already; write {key}=VALUE, without a sign before it"
    if re.match(r"constraints\.\w+\.", key):
        return f"{key}: unknown key; allowed are {', '.join(Bound.model_fields)}"
    meant = close(key, keys())
    section = key.partition(".")[0]
    own = [name for name in keys() if name.startswith(f"{section}.")] or [*Config.model_fields]
    hint = f"did you mean {', '.join(meant)}?" if meant else f"allowed are {', '.join(own)}"
    return f"{key}: unknown key; {hint}"


def all_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every key but those of ``space``, with what there is to know of it."""
    for name, field in Config.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from ((f"{name}.{key}", f) for key, f in inner.model_fields.items())
        else:
            yield name, field


def is_list(field: FieldInfo) -> bool:
    """Whether a key holds a list."""
    return any(get_origin(kind) is list for kind in (field.annotation, *get_args(field.annotation)))


def keys() -> Iterator[str]:
    """Every key of a configuration, dotted."""
    yield from (key for key, _ in all_fields())
    yield from (f"space.{key}" for key in SWEPT)
