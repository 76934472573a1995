"""``python -m gimtune sweep``: each model's range of weights, from no effect to collapse, by a few short members.

What a weight does is read off the validation likelihood of short trainings: with little weight it is what it would be
without a restriction, with much it is as bad as it gets. Both ends are bisected on the weight's logarithm; members of
one model, three seeds at each weight, train as one program. No Ray.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from gimtune.files import replacing
from gimtune.metrics import Evaluation
from gimtune.study import space
from gimtune.study.data import check_data, load_data
from gimtune.study.messages import ConfigError
from gimtune.study.reading import written
from gimtune.study.resolve import check_parts, member, whole_space
from gimtune.study.schema import Config
from gimtune.training import Pack
from gimtune.vocabulary import Member

#: Decades of weights that are looked at first, around the paper's own.
_LADDER = (-4.0, -2.0, 0.0, 2.0, 4.0)
#: Bisections of each end after that: a quarter of a decade is left.
_ROUNDS = 3
#: Of the budget, a short member's epochs.
_SHORT = 6
#: Seeds at each weight, of which the middle one counts: a GAN's likelihood jumps from seed to seed.
_SEEDS = 3
#: Of all that weights do to the likelihood: what is no effect, and what is collapse.
_NONE, _ALL = 0.05, 0.95
#: Share of the likelihood that weights have to move, to be said to do something.
_LEAST = 0.01
#: Weights in a range's grid.
_GRID = 5

#: Keys of a data set that a file of ranges has.
_SWEPT = ("weights", "weight_ranges", "restriction_weights")

#: The likelihood that each of several weights (logarithms to the base 10) comes to; NaN of one that diverges.
Measure = Callable[[Sequence[float]], list[float]]


class Range(NamedTuple):
    """Weights from no effect to collapse, and how many it took to find them.

    Attributes:
        low, high: the largest weight without an effect, and the smallest that collapses.
        weights: how many were tried.
    """

    low: float
    high: float
    weights: int

    @property
    def grid(self) -> list[float]:
        """Weights evenly in the logarithm, to two digits."""
        ratio = (self.high / self.low) ** (1 / (_GRID - 1))
        return [float(f"{self.low * ratio**i:.2g}") for i in range(_GRID)]


def found_range(measure: Measure) -> Range | None:
    """A model's range, by a ladder of weights and the bisection of both its ends; ``None`` where weights do nothing."""
    known = dict(zip(_LADDER, measure(_LADDER), strict=True))
    for _ in range(_ROUNDS):
        if (brackets := _brackets(known)) is None:
            return None
        middles = sorted({(low + high) / 2 for low, high in brackets})
        known |= dict(zip(middles, measure(middles), strict=True))
    if (brackets := _brackets(known)) is None:
        return None
    (low, _), (_, high) = brackets
    return Range(float(f"{10**low:.2g}"), float(f"{10**high:.2g}"), len(known))


def _brackets(known: Mapping[float, float]) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Neighbours among the weights between which an effect begins, and between which it is all there is."""
    places = sorted(known)
    finite = [value for value in known.values() if math.isfinite(value)]
    best, worst = max(finite, default=math.nan), min(finite, default=math.nan)
    moved = best - worst > _LEAST * abs(best)
    if not finite or not (moved or len(finite) < len(known)):
        return None
    # what diverges has collapsed
    effects = [((best - v) / (best - worst) if moved else 0.0) if math.isfinite(v := known[p]) else 1.0 for p in places]
    steps = [*zip(pairwise(places), pairwise(effects), strict=True)]
    begins = next((pair for pair, (_, after) in steps if after > _NONE), (places[-2], places[-1]))
    ends = next((pair for pair, (_, after) in steps if after >= _ALL), (places[-2], places[-1]))
    return begins, ends


def sweep(config: Config, name: str, say: Callable[[str], None]) -> Path:
    """Find the ranges of a study's models, and write them as a data set's file of ranges, in ``studies`` here.

    Args:
        name: of the file, and of the option ``data=NAME`` that takes the set with these ranges.
        say: is told of each model's.

    Returns:
        The file of ranges.

    Raises:
        ConfigError: nothing to sweep, a file that is there, or as `gimtune.study.resolve.members`.
    """
    folder = Path.cwd() / "studies" / "data"
    path, option = folder / "ranges" / f"{name}.yaml", folder / f"{name}.yaml"
    for there in (path, option):
        if there.exists():
            raise ConfigError(f"name={name}: {there} is there already; give it another name")
    check_parts(config)
    firsts = _firsts(config)
    if not firsts:
        raise ConfigError("sweep: no model of these has a weight; models=[beta_vae, ...]")
    data = load_data(config)
    check_data(config, data, firsts.values())
    evaluation = Evaluation(data, _None(), torch.device("cpu"))
    epochs = -(-config.budget.epochs // _SHORT)
    found: dict[str, Range] = {}
    for model, first in firsts.items():
        range_ = found_range(partial(_likelihoods, config, first, evaluation, epochs))
        if range_ is None:
            say(f"{model}: weights from 1e-4 to 1e4 do nothing to the likelihood; its range is what it was")
            continue
        found[model] = range_
        tried = f"{range_.weights} weights with {_SEEDS} seeds each, {epochs} epochs"
        say(f"{model}: {range_.low:g} to {range_.high:g} ({tried})")
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Ranges of weights on {config.data.name}, from no effect on the likelihood to collapse: gimtune sweep.\n"
    with replacing(path) as temporary:
        temporary.write_text(head + yaml.safe_dump(_ranges(config, found), sort_keys=False, default_flow_style=None))
    own = {key: value for key, value in config.data.model_dump(mode="json").items() if key not in _SWEPT}
    stated = {"defaults": [{"ranges@_here_": name}, "_self_"], **own}
    with replacing(option) as temporary:
        temporary.write_text(written(stated))
    return path


class _None:
    """No features: no distance is measured in a sweep of weights."""

    name = "none"

    def __call__(self, images: Tensor) -> Tensor:
        raise RuntimeError(str(self.__doc__))


def _firsts(config: Config) -> dict[str, Member]:
    """The first member of each model that has a weight, by model."""
    whole = {key: _first(value) for key, value in whole_space(config).items() if key not in ("model", "weight")}
    found: dict[str, Member] = {}
    for model in whole_space(config)["model"]["grid"]:
        chosen = next(space.expand({**whole, "model": model, "weight": 1.0}))
        one = member(config, chosen)
        # a model whose weight the data set's file states has that one alone, as vae has 1
        if one.restrictions and _swept(config, model):
            found[model] = one
    return found


def _first(value: Any) -> Any:
    """A space's first value, whatever its kind."""
    if isinstance(value, Mapping):
        for kind in space.KINDS:
            if kind in value:
                return value[kind][0]
        return {name: _first(inner) if name != "per" else inner for name, inner in value.items()}
    return value


def _swept(config: Config, model: str) -> bool:
    weights = config.data.weights
    own = weights.get(model, weights.get("default")) if isinstance(weights, Mapping) and "per" in weights else weights
    return isinstance(own, Mapping)


def _likelihoods(
    config: Config, first: Member, evaluation: Evaluation, epochs: int, logs: Sequence[float]
) -> list[float]:
    """What short members with these weights come to on the validation split, each the middle one of its seeds."""
    seeds = range(first.seed, first.seed + _SEEDS)
    by_weight = [[member(config, {**first.assignment, "weight": 10.0**log, "seed": s}) for s in seeds] for log in logs]
    pack = Pack([one for members in by_weight for one in members], evaluation.data)
    for _ in range(epochs):
        pack.train_epoch()
        pack.drop(pack.diverged())
        if not pack.members:
            break
    there = {one.trial: pack.one(i) for i, one in enumerate(pack.members)}
    with torch.no_grad():
        found = {
            one.trial: evaluation.view(pack.objective, there[one.trial], one, "validation").value("likelihood")
            for one in pack.members
        }
    return [middle([found.get(one.trial, math.nan) for one in members]) for members in by_weight]


def middle(values: Sequence[float]) -> float:
    """The median of likelihoods, of which those that diverged are the least.

    >>> middle([-3.0, math.nan, -1.0]), middle([-3.0, math.nan, math.nan])
    (-3.0, nan)
    """
    found = statistics.median(value if math.isfinite(value) else -math.inf for value in values)
    return found if math.isfinite(found) else math.nan


def _ranges(config: Config, found: Mapping[str, Range]) -> dict[str, Any]:
    """The file's content: what was found, and of other models what the data set has."""
    content: dict[str, Any] = {}
    for key, kind in (("weights", "grid"), ("weight_ranges", "loguniform")):
        stated = getattr(config.data, key)
        own = dict(stated) if isinstance(stated, Mapping) and stated.get("per") == "model" else {"per": "model"}
        for model, one in found.items():
            own[model] = {kind: one.grid if kind == "grid" else [one.low, one.high]}
        own["default"] = own.pop("default", {kind: [0.1, 10.0]})
        content[key] = own
    return {**content, "restriction_weights": config.data.restriction_weights}
