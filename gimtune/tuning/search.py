"""Optuna's samplers by ask and tell: members suggested as results come in. Its study is a view, the store the truth.

A sampler is made anew for every question, seeded by the study's seed and the question's number: a study that goes on
asks what it would have asked, and two studies with one worker are the same.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from gimtune.algebra.seeds import number
from gimtune.results.store import Store
from gimtune.study import space
from gimtune.study.messages import ConfigError
from gimtune.study.resolve import member, whole_space
from gimtune.study.schema import Config
from gimtune.tuning.packs import key
from gimtune.vocabulary import ENDED, Member, Status

#: By seed, and the number of members that the study is to have.
SAMPLERS: Mapping[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, trials: TPESampler(seed=seed, multivariate=True, group=True),
    # Optuna's own 50 in a generation make a study of 50 members a random search
    "nsga2": lambda seed, trials: NSGAIISampler(population_size=min(50, max(8, trials // 10)), seed=seed),
    "gp": lambda seed, trials: GPSampler(seed=seed),
}
#: Questions for one new member, before the space is taken for exhausted.
_TRIES = 100
#: The same for a pack's further members, since a smaller pack is no loss; and for the sampler itself.
_FEW = 5
#: What members of one pack may differ in.
_FREE = ("space.weight", "space.seed")
_OWN = "member"


class Proposals:
    """Members for a study, one question after the other.

    Args:
        folder: of the run; Optuna's journal is ``optuna.log`` there, its study has the run's name.
        known: rows of the store: members that are there already. Optuna's trials are brought to where these stand.
    """

    def __init__(self, config: Config, folder: Path, known: pd.DataFrame) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.config, self.space = config, whole_space(config)
        self.objectives = dict(config.objectives)
        self.study = optuna.create_study(
            study_name=f"{config.name} {folder.name}",
            storage=_journal(folder / "optuna.log"),
            directions=["minimize" if d == "min" else "maximize" for d in self.objectives.values()],
            load_if_exists=True,
        )
        fresh = not self.study.get_trials(deepcopy=False)
        if fresh:
            self.study.set_metric_names(list(self.objectives))
        self._open: dict[str, int] = {}
        self._values: dict[str, list[float] | None] = {}
        if fresh:
            # what the store holds while the journal does not: that was damaged
            self._take_over(known)
        self._reconcile({str(row["trial"]): row for row in _rows(known)})
        if fresh and config.search.warm_start:
            self._warm_start(Path(config.search.warm_start))
        self._asked = len(self.study.get_trials(deepcopy=False))

    def ask(self, most: Callable[[Member], int]) -> list[Member]:
        """New members that can share a pack, as many as ``most`` says of the first; none where there are no more."""
        found: list[Member] = []
        fixed: dict[str, Any] = {}
        while not found or len(found) < most(found[0]):
            asked = self._ask(fixed)
            if asked is None:
                break
            one, parameters = asked
            if found and key(one) != key(found[0]):
                self.study.tell(self._open.pop(one.trial), state=TrialState.FAIL)
                break
            found.append(one)
            fixed = {name: value for name, value in parameters.items() if not name.startswith(_FREE)}
            if len(fixed) == len(parameters):
                break
        return found

    def tell(self, trial: str, status: Status, row: Mapping[str, Any]) -> None:
        """How a member ended: a stopped one is told as pruned, one without all objectives as failed."""
        asked = self._open.pop(trial, None)
        if asked is None:
            return
        self._tell(asked, trial, status, row)

    def _ask(self, fixed: dict[str, Any]) -> tuple[Member, dict[str, Any]] | None:
        for repeated in range(_FEW if fixed else _TRIES):
            seed = number("search", self.config.seed, self._asked)
            # a sampler learns nothing from what was stopped or failed, and may suggest it for ever
            own = SAMPLERS[self.config.search.sampler]
            sampler = own(seed, self.config.search.trials or 0) if repeated < _FEW else RandomSampler(seed=seed)
            self.study.sampler = PartialFixedSampler(fixed, sampler) if fixed else sampler
            self._asked += 1
            trial = self.study.ask()
            one = member(self.config, space.assign(self.space, _suggest(trial)))
            if one.trial not in self._open and one.trial not in self._values:
                trial.set_user_attr(_OWN, one.trial)
                self._open[one.trial] = trial.number
                return one, trial.params
            # what it would give is known, or will be told by the first of its kind
            values = self._values.get(one.trial)
            self.study.tell(trial, values, state=TrialState.COMPLETE if values else TrialState.FAIL)
        return None

    def _judged(self, status: Status, row: Mapping[str, Any]) -> list[float] | None:
        values = [row.get(metric) for metric in self.objectives]
        if status is not Status.DONE or any(v is None or not math.isfinite(v) for v in values):
            return None
        return [float(v) for v in values if v is not None]

    def _tell(self, asked: int, trial: str, status: Status, row: Mapping[str, Any]) -> None:
        values = self._values[trial] = self._judged(status, row)
        ended = TrialState.PRUNED if status is Status.STOPPED else TrialState.FAIL
        self.study.tell(asked, values, state=TrialState.COMPLETE if values else ended)

    def _reconcile(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Optuna's open trials after a kill: told what the store knows, or ended where it knows nothing."""
        for frozen in self.study.get_trials(deepcopy=False):
            name = str(frozen.user_attrs.get(_OWN))
            if frozen.state is TrialState.RUNNING:
                row = rows.get(name)
                if row is None:
                    self.study.tell(frozen.number, state=TrialState.FAIL)
                elif row["status"] in ENDED:
                    self._tell(frozen.number, name, Status(row["status"]), row)
                else:
                    self._open[name] = frozen.number
        for name, row in rows.items():
            if row["status"] in ENDED:
                self._values[name] = self._judged(Status(row["status"]), row)

    def _warm_start(self, run: Path) -> None:
        try:
            with Store(run / "study.db") as store:
                rows = store.trials()
        except ValueError as error:
            raise ConfigError(f"search.warm_start={run}: {error}") from None
        self._take_over(rows)

    def _take_over(self, rows: pd.DataFrame) -> None:
        """Enter finished members as trials of Optuna's, those that this study's space holds."""
        for row in _rows(rows):
            values = self._judged(Status(row["status"]), row)
            one = json.loads(row["config"])
            # distances on other data, or of other networks, say nothing here
            if one["data"]["name"] != self.config.data.name or one["network"]["name"] != self.config.network.name:
                continue
            # what was chosen, and else what the member is: a prior may be named or spelled out
            parameters = _Parameters({**one, **json.loads(row["assignment"] or "{}"), "prior": one["prior"]})
            try:
                space.assign(self.space, parameters)
            except LookupError:
                continue
            if values:
                self.study.add_trial(
                    create_trial(values=values, params=parameters.values, distributions=parameters.distributions)
                )


def _journal(path: Path) -> JournalStorage:
    """Optuna's journal, made whole.

    A line that a kill or a full disk left half is cut off: the next one would be glued to it, and the journal could
    never be read again. One that is damaged elsewhere is put aside, and made anew from what the store holds.
    """
    if path.is_file():
        with path.open("rb+") as handle:
            handle.truncate(handle.read().rfind(b"\n") + 1)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (ValueError, KeyError):
        path.replace(path.with_name(f"{path.name}.damaged"))
        return JournalStorage(JournalFileBackend(str(path)))


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


def _suggest(trial: optuna.trial.Trial) -> space.Choose:
    def choose(name: str, kind: str, content: list[Any]) -> Any:
        if kind in space.LISTS:
            labels = _labels(content)
            return labels.index(trial.suggest_categorical(name, labels))
        low, high = content
        if kind == "randint":
            return trial.suggest_int(name, low, high - 1)
        return trial.suggest_float(name, low, high, log=kind == "loguniform")

    return choose


def _distribution(kind: str, content: list[Any]) -> BaseDistribution:
    if kind in space.LISTS:
        return CategoricalDistribution(_labels(content))
    low, high = content
    if kind == "randint":
        return IntDistribution(low, high - 1)
    return FloatDistribution(low, high, log=kind == "loguniform")


def _labels(content: Iterable[Any]) -> list[Any]:
    """Optuna's categories are plain values: a mapping stands for itself as text."""
    return [json.dumps(v, sort_keys=True) if isinstance(v, dict | list) else v for v in content]


class _Parameters:
    """Reads a member's values off as if they had been suggested; `LookupError` where the space does not hold them."""

    def __init__(self, one: Mapping[str, Any]) -> None:
        self.member = one
        self.values: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def __call__(self, name: str, kind: str, content: list[Any]) -> Any:
        path = name.split(".")[1:]
        value = self.member[path[0]]
        if kind in space.LISTS:
            index = next((i for i, option in enumerate(content) if _same(option, value, path)), None)
            if index is None:
                raise LookupError(name)
            value, taken = _labels(content)[index], index
        else:
            if isinstance(value, Mapping):
                value = value[path[-1]]
            top = content[1] - 1 if kind == "randint" else content[1]
            if not content[0] <= value <= top:
                raise LookupError(name)
            taken = value
        self.distributions[name], self.values[name] = _distribution(kind, content), value
        return taken


def _same(option: Any, value: Any, path: list[str]) -> bool:
    if path[0] != "prior":
        return bool(option == value)
    if len(path) > 1 and path[-1] in value:
        return bool(option == value[path[-1]])
    # a name, or a mapping whose open parts are looked at next
    name = option.get("name") if isinstance(option, Mapping) else option
    given = option.items() if isinstance(option, Mapping) else ()
    return bool(name == value["name"] and all(isinstance(v, Mapping) or value.get(k) == v for k, v in given))
