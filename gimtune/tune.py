"""Members as trials of a `ray.tune.Tuner` of one's own, with any searcher and scheduler of Ray's.

study = {"models": ["vae", "wae_mmd"], "data": "digits"}
tuner = tune.Tuner(
    gimtune.tune.trainable("tradeoff", **study),
    param_space=gimtune.tune.space("tradeoff", **study),
    tune_config=tune.TuneConfig(metric="fid", mode="min", num_samples=20, scheduler=ASHAScheduler()),
)

Every trial is one member, alone in its program; a study of ours trains those that differ in numbers together.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ray import tune
from ray.tune import PlacementGroupFactory

from gimtune import parts
from gimtune.analysis.export.reproduce import arguments
from gimtune.data import Dataset
from gimtune.files import replacing
from gimtune.metrics import FEATURES, features
from gimtune.metrics.evaluation import kept
from gimtune.results.environment import fingerprint
from gimtune.study import space as spaces
from gimtune.study.composition import load
from gimtune.study.data import check_data, load_data
from gimtune.study.messages import ConfigError
from gimtune.study.resolve import member, members, whole_space
from gimtune.study.schema import SECTIONS, SWEPT, Config
from gimtune.training import Rows, adopt, default_device, made_by, run
from gimtune.vocabulary import ENDED, Member

#: Keys that say how a study of ours is run, which is the Tuner's affair here.
_TUNERS = ("search", "scheduler", "stop", "ray", "storage_path", "checkpoints", "resume", "reuse", "across", "dry_run")
#: Random members that show whether a space makes sense.
_SHOWN = 16
_TOLD = "told.json"


def space(study: str = "tradeoff", **overrides: Any) -> dict[str, Any]:
    """A study's space as a Tuner's ``param_space``.

    Every part has a key of its own, named as a study writes it without ``space.`` before it, with the condition that
    it stands under: ``model``, ``latent_dim``, ``weight.vae``; and with the option of a list that it belongs to, where
    another has a part of that name: ``prior.mixture.components``. Searchers of Ray's take no conditions, so every trial
    has a value for all, and uses those of its model and prior. A grid is a choice; parts with one value are left out.
    Entries may be replaced by domains of one's own, and a key of ``space.*`` that stands there as a whole replaces it:
    ``{**gimtune.tune.space(...), "weight": tune.loguniform(0.01, 10)}``.

    Args:
        study: as of `trainable`.
        overrides: likewise.

    Raises:
        ConfigError: bad input.
    """
    found = {}
    for name, (kind, content) in _parts(whole_space(_config(study, overrides))).items():
        if kind not in spaces.LISTS:
            found[name] = getattr(tune, kind)(*content)
        elif len(content) > 1:
            found[name] = tune.choice(spaces.labels(content))
    return found


def trainable(study: str = "tradeoff", **overrides: Any) -> type[tune.Trainable]:
    """A study's members as a class for `ray.tune.Tuner`, which trains the one that a trial's ``config`` chooses.

    A step is one evaluation; its result is the member's row, as in a study's tables: all metrics on the validation
    split, and, in the last one of a member that comes to its end, those on the test split (``test_fid``). A checkpoint
    has all that the member needs to go on bit for bit, and after its end its weights and samples:
    ``gimtune.Trained(folder, metrics["trial"])``. A scheduler that goes on with another trial's weights under new
    numbers (PBT, PB2) may change ``weight``, ``learning_rate``, ``beta1``, ``seed`` and the prior's numbers; such a
    row's ``inherited`` has the names of the members whose training it continues.

    Args:
        study: name of a study file.
        overrides: keys of its configuration, as `gimtune.run` takes them, but for those that the Tuner decides
            (``search``, ``scheduler``, ``storage_path``, ...).

    Raises:
        ConfigError: bad input, in the words of the command line.
    """
    config = _config(study, overrides)
    try:
        FEATURES[config.metrics.fid_features].check(config.metrics.model_dump())
    except ValueError as error:
        raise ConfigError(str(error)) from None
    data = load_data(config)
    drawn = config.search.model_copy(update={"sampler": "random", "trials": _SHOWN})
    check_data(config, data, members(config.model_copy(update={"search": drawn})))
    stated = {"study": config, "plugins": dict(parts.plugins())}
    made = tune.with_parameters(type("GimTrial", (_MemberTrial,), stated), data=data.carried())
    assert isinstance(made, type)
    return made


def _config(study: str, overrides: Mapping[str, Any]) -> Config:
    for key in overrides:
        if key.partition(".")[0] in _TUNERS:
            raise ConfigError(f"{key}: in a Tuner of one's own it is the Tuner's affair")
    return load(arguments({"study": study, **overrides}))


def _parts(whole: Mapping[str, Any]) -> dict[str, tuple[str, list[Any]]]:
    return {name.removeprefix("space."): part for name, part in spaces.parts(whole).items()}


def chosen(config: Config, given: Mapping[str, Any]) -> Member:
    """The member that a trial's ``config`` chooses.

    Raises:
        ConfigError: a key that is no part of the space, or one that is missing; or what no member can be.
    """
    whole = dict(whole_space(config))
    known = _parts(whole)
    given = {key: value.item() if isinstance(value, np.generic) else value for key, value in given.items()}
    for key, value in given.items():
        if key not in known and key not in {*whole, *SWEPT} and key.partition(".")[0] not in SECTIONS:
            raise ConfigError(f"{key}: no part of this space; there are {', '.join(dict.fromkeys([*known, *whole]))}")
        kind, content = known.get(key, ("", []))
        if not kind or (kind in spaces.LISTS and value not in spaces.labels(content)):
            # a domain of the user's own in place of ours
            whole = _replaced(whole, key.split("."), value)

    def choose(name: str, kind: str, content: list[Any]) -> Any:
        key = name.removeprefix("space.")
        if key not in given:
            if kind in spaces.LISTS and len(content) == 1:
                return 0
            raise ConfigError(f"{key}: missing in the trial's config; gimtune.tune.space(...) has it")
        return spaces.labels(content).index(given[key]) if kind in spaces.LISTS else given[key]

    return member(config, spaces.assign(whole, choose))


def _replaced(within: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    rest = dict(within) if isinstance(within, Mapping) else {}
    return {**rest, path[0]: _replaced(rest.get(path[0]), path[1:], value)}


class _MemberTrial(tune.Trainable):
    """One member; see `trainable`."""

    study: ClassVar[Config]
    plugins: ClassVar[dict[str, str]]

    def setup(self, config: dict[str, Any], data: Dataset) -> None:  # type: ignore[override]  # tune.with_parameters
        torch.set_num_threads(max(1, int(self.study.resources.cpu)))
        self._data = data
        self._device = default_device() if self.study.resources.gpu else torch.device("cpu")
        self._environment = fingerprint(made_by(self._device, torch.get_num_threads()))
        self._folder = Path(tempfile.mkdtemp(prefix="gimtune-"))
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        parts.load(self.plugins, expected=self.plugins)
        self._member = chosen(self.study, config)
        self._rows: Iterator[Rows] | None = None
        self._last: dict[str, Any] = {}
        self._inherited: list[str] = []
        # rows since the newest checkpoint, which gives them again
        self._told = self._again = 0

    def step(self) -> dict[str, Any]:
        if self._rows is None:
            self._rows = self._begin()
            for _ in range(self._again):
                next(self._rows, None)
        rows = next(self._rows, None)
        if rows is None:
            return {**self._last, "done": True}
        row = rows[-1]
        self._told = self._told + 1 if row["epoch"] == self._last.get("epoch") else 1
        self._last = {**row, "inherited": "+".join(self._inherited) or None}
        return {**self._last, "done": row["status"] in ENDED}

    def _begin(self) -> Iterator[Rows]:
        features.begin(self._data, self._member.metrics, self._folder)
        evaluation = kept(self._data, self._folder, self._member.metrics, self._device)
        return run([self._member], evaluation, self._folder, environment=self._environment)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        shutil.copytree(self._folder, checkpoint_dir, dirs_exist_ok=True)
        stands = {"member": self._member.to_json(), "told": self._told, "last": self._last}
        with replacing(Path(checkpoint_dir) / _TOLD) as temporary:
            temporary.write_text(json.dumps({**stands, "inherited": self._inherited}))

    def load_checkpoint(self, checkpoint: Any) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(checkpoint, self._folder)
        told = json.loads((self._folder / _TOLD).read_text())
        before = Member.from_json(told["member"])
        self._inherited = told["inherited"]
        if before.trial != self._member.trial:
            adopt(self._folder, before, self._member)
            self._inherited = [*self._inherited, before.trial]
        self._rows, self._last = None, told["last"]
        self._told = self._again = told["told"]

    def cleanup(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        wanted = cls.study.resources
        return PlacementGroupFactory([{"CPU": wanted.cpu, "GPU": wanted.gpu}])


__all__ = ["space", "trainable"]
