"""TensorBoard, MLflow and W&B through Ray's own callbacks, one option each (``ray.trackers``); none by default.

A tracker sees a Ray trial as a person would name it: a lone member's metrics, or the best of a pack (with
``resources.members=1`` every member is a trial of its own), against the epoch, with the parameters in words.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ray.tune import Callback
from ray.tune.logger import LoggerCallback
from rich.console import Console

from gimtune.study.messages import ConfigError
from gimtune.study.schema import Config
from gimtune.tuning.packs import best_of, rows_of
from gimtune.vocabulary import METRICS, Member

#: What Ray's loggers take for the step: the first TensorBoard and MLflow, the second W&B.
_STEPS = ("timesteps_total", "training_iteration")
_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_PARAMETERS = ("model", "side", "likelihood", "encoder", "weight", "latent_dim", "seed", "learning_rate", "batch_size")
_UPLOAD_SECONDS = 120


def check(config: Config) -> None:
    """Refuse trackers that cannot start.

    Raises:
        ConfigError: a package is missing, or W&B has no key.
    """
    for name in config.ray.trackers:
        if find_spec(_PACKAGES[name]) is None:
            raise ConfigError(f"ray.trackers={name}: needs a package more: pip install {_PACKAGES[name]}")
    if "wandb" in config.ray.trackers:
        try:
            _logger("wandb", config, Path()).setup()
        except ValueError:
            raise ConfigError(
                "ray.trackers=wandb: no key; run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline"
            ) from None


def trackers(config: Config, run: Path, console: Console) -> list[Callback]:
    """The callbacks that the study asks for."""
    return [Tracker(name, _logger(name, config, run), run, console) for name in config.ray.trackers]


def _logger(name: str, config: Config, run: Path) -> LoggerCallback:
    if name == "tensorboard":
        from ray.tune.logger import TBXLoggerCallback

        return TBXLoggerCallback()  # type: ignore[no-untyped-call]
    if name == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        # one store for all studies, beside their folders
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.parents[1] / 'mlflow.db'}"
        return MLflowLoggerCallback(address, experiment_name=config.name, tags={"run": run.name})
    from ray.air.integrations.wandb import WandbLoggerCallback

    # a server that does not answer holds the end of a study up for so long, and for half an hour by Ray's default
    return WandbLoggerCallback(config.name, group=run.name, dir=str(run), upload_timeout=_UPLOAD_SECONDS)


class _Shown(NamedTuple):
    """What Ray's loggers read of a Ray trial."""

    name: str
    trial_id: str
    local_path: str
    experiment_dir_name: str
    config: dict[str, Any]

    @property
    def evaluated_params(self) -> dict[str, Any]:
        return self.config

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __hash__(self) -> int:
        return hash(self.trial_id)

    def __str__(self) -> str:
        return self.name


class Tracker(Callback):
    """One of Ray's loggers, told what a person can read. Where it fails, it is left out and the study goes on.

    Args:
        run: run folder; TensorBoard's files stand in ``tensorboard/<trial>`` there.
    """

    def __init__(self, name: str, logger: LoggerCallback, run: Path, console: Console) -> None:
        self.name, self.run, self.console = name, run, console
        self._logger: LoggerCallback | None = logger

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        self._tell("setup")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("log_trial_start", self._shown(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" in result:
            self._tell("log_trial_result", iteration, self._shown(trial), readable(result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("log_trial_end", self._shown(trial), failed=False)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("log_trial_end", self._shown(trial), failed=True)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._tell("on_experiment_end", trials)

    def _shown(self, trial: Any) -> _Shown:
        members = [Member.from_json(text) for text in trial.config["pack"]["members"]]
        where = self.run / self.name / str(trial) if self.name == "tensorboard" else self.run
        return _Shown(str(trial), trial.trial_id, str(where), self.run.name, parameters(members))

    def _tell(self, method: str, *given: Any, **named: Any) -> None:
        if self._logger is None:
            return
        try:
            getattr(self._logger, method)(*given, **named)
        except Exception as error:  # whatever a tracker's library raises is no reason to end a study
            self._logger = None
            why = (str(error) or type(error).__name__).splitlines()[0]
            text = f"ray.trackers={self.name}: {why}; the study goes on without it"
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def readable(result: Mapping[str, Any]) -> dict[str, Any]:
    """All metrics of a result that have a value, its epoch as the step."""
    metrics = best_of([*rows_of(result).values()], METRICS)
    known = {key: value for key, value in metrics.items() if math.isfinite(value)}
    return known | dict.fromkeys(_STEPS, result["epoch"])


def parameters(members: Sequence[Member]) -> dict[str, Any]:
    """What a pack's members are: single values, or those of several members in one text."""
    rows = [
        {
            **{key: getattr(member, key) for key in _PARAMETERS},
            **{key: getattr(member, key)["name"] for key in ("prior", "network", "data")},
            "trial": member.trial,
        }
        for member in members
    ]
    columns = {key: list(dict.fromkeys(row[key] for row in rows)) for key in rows[0]}
    return {key: values[0] if len(values) == 1 else ", ".join(map(str, values)) for key, values in columns.items()}
