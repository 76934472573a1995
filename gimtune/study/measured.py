"""What a study asks of metrics, its objectives and its constraints, checked against what will be measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gimtune.parts import allowed
from gimtune.results.constraints import Bounds
from gimtune.study.messages import ConfigError
from gimtune.vocabulary import FITTED, LATE, METRICS, Direction


def check_objectives(objectives: Mapping[str, str], ruler: str, scheduler: str) -> None:
    """Refuse objectives that make no front.

    Raises:
        ConfigError: naming the key.
    """
    for metric, direction in objectives.items():
        if metric not in METRICS:
            raise ConfigError(f"objectives.{metric}: unknown metric; {allowed(metric, METRICS)}")
        own = METRICS[metric].direction
        if own not in (Direction.NONE, direction):
            raise ConfigError(f"objectives.{metric}={direction}: the metric is better at its {own}; allowed is {own}")
    if len(objectives) < 2:
        raise ConfigError(f"objectives={dict(objectives)}: a front needs two or more")
    _check_measured("objectives", objectives, ruler, scheduler)


def check_constraints(bounds: Bounds, ruler: str, scheduler: str) -> None:
    """Refuse constraints that no member could keep or break.

    Raises:
        ConfigError: naming the key.
    """
    for metric, own in bounds.items():
        if metric not in METRICS:
            raise ConfigError(f"constraints.{metric}: unknown metric; {allowed(metric, METRICS)}")
        if not own:
            raise ConfigError(f"constraints.{metric}: no bound; allowed are min, max, or both")
        if len(own) > 1 and own["min"] > own["max"]:
            raise ConfigError(f"constraints.{metric}.min={own['min']:g}: it is above its max, {own['max']:g}")
    _check_measured("constraints", bounds, ruler, scheduler)


def _check_measured(section: str, metrics: Iterable[str], ruler: str, scheduler: str) -> None:
    asked = {*metrics}
    if ruler == "never" and (without := sorted(FITTED & asked)):
        raise ConfigError(
            f"{section}.{without[0]} with metrics.ruler=never: it is not measured; allowed are end, always"
        )
    if scheduler != "fifo" and ruler == "end" and (late := sorted(LATE & asked)):
        raise ConfigError(
            f"{section}.{late[0]} with scheduler={scheduler}: it is measured when a member ends; "
            "metrics.ruler=always measures it at every evaluation"
        )
