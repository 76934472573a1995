"""Optuna's samplers by ask and tell: members suggested as results come in. Its study is a view, the store the truth.

A sampler is made anew for every question, seeded by the study's seed and the question's number: a study that goes on
asks what it would have asked, and two studies with one worker are the same.
"""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
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
from gimtune.results.constraints import violations
from gimtune.results.store import Store
from gimtune.study import space
from gimtune.study.messages import ConfigError
from gimtune.study.resolve import member, whole_space
from gimtune.study.schema import Config
from gimtune.tuning.packs import key
from gimtune.vocabulary import ENDED, Member, Status, identifying

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
#: Of a trial: the member of an earlier run that it stands for; and of the study, whether all of these are there.
_EARLIER, _ENTERED = "earlier", "entered"


class Proposals:
    """Members for a study, one question after the other.

    Args:
        folder: of the run; Optuna's journal is ``optuna.log`` there, and holds one study, whatever its name.
        known: rows of the store: members that are there already. Optuna's trials are brought to where these stand.
        features: name of the study's feature network, where members of another run are to be compared by it.

    Attributes:
        notes: what is to be said of how it begins.
    """

    def __init__(self, config: Config, folder: Path, known: pd.DataFrame, features: str | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.config, self.space = config, whole_space(config)
        self.objectives = dict(config.objectives)
        self.notes: list[str] = []
        self._features = features
        storage = _journal(folder / "optuna.log")
        self.study = optuna.create_study(
            # a folder may have got another name since
            study_name=next(iter(optuna.get_all_study_names(storage)), config.name),
            storage=storage,
            directions=["minimize" if d == "min" else "maximize" for d in self.objectives.values()],
            load_if_exists=True,
        )
        if not self.study.get_trials(deepcopy=False):
            self.study.set_metric_names(list(self.objectives))
            if config.search.warm_start:
                self.study.set_user_attr(_ENTERED, False)
        #: Members that have not ended, by the number of Optuna's trial, where it has one.
        self._open: dict[str, int | None] = {}
        #: Members that have ended, with their objectives, where they have them.
        self._values: dict[str, list[float] | None] = {}
        #: What ended members violate, by bound.
        self._violated: dict[str, dict[str, float]] = {}
        #: Trials that failed before any other had done better.
        self._lost: list[int] = []
        self._reconcile({str(row["trial"]): row for row in _rows(known)})
        # a journal of before there was this mark is left as it is
        if config.search.warm_start and self.study.user_attrs.get(_ENTERED) is False:
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
                self.study.tell(self._open.pop(one.trial) or 0, state=TrialState.FAIL)
                break
            found.append(one)
            fixed = {name: value for name, value in parameters.items() if not name.startswith(_FREE)}
            if len(fixed) == len(parameters):
                break
        return found

    def tell(self, trial: str, status: Status, row: Mapping[str, Any]) -> None:
        """How a member ended: a stopped one is told as pruned, one without all objectives as worse than the worst.

        Samplers leave out what is told as failed, and would suggest it for ever.
        """
        if trial not in self._open:
            return
        asked = self._open.pop(trial)
        self._take(trial, status, row)
        if asked is not None:
            self._tell(asked, trial, status)

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
            if values:
                self._constrain(trial.number, one.trial)
            self.study.tell(trial, values, state=TrialState.COMPLETE if values else TrialState.FAIL)
        return None

    def _take(self, trial: str, status: Status, row: Mapping[str, Any]) -> None:
        """Remember how a member ended."""
        self._values[trial] = self._judged(status, row)
        self._violated[trial] = self._beyond(row)

    def _beyond(self, row: Mapping[str, Any]) -> dict[str, float]:
        """What a row violates, by bound; samplers take finite numbers."""
        found = violations(self.config.bounds, row)
        return {key: beyond if math.isfinite(beyond) else 1.0 for key, beyond in found.items()}

    def _constrain(self, asked: int, trial: str) -> None:
        """Tell Optuna's trial what its member violates, before it ends."""
        if not self.config.bounds:
            return
        frozen = self.study.get_trials(deepcopy=False)[asked]
        own = optuna.trial.Trial(self.study, frozen._trial_id)
        for name, beyond in self._violated.get(trial, self._beyond({})).items():
            # a kill may have come between two of them
            if name not in frozen.constraints:
                own.set_constraint(name, beyond)

    def _worse(self) -> list[float] | None:
        """Objectives that are worse than all so far, by a tenth of their range; ``None`` before the first."""
        there = [values for values in self._values.values() if values]
        if not there:
            return None
        found = []
        for column, way in zip(zip(*there, strict=True), self.objectives.values(), strict=True):
            low, high = min(column), max(column)
            found.append(high + 0.1 * (high - low) if way == "min" else low - 0.1 * (high - low))
        return found

    def _judged(self, status: Status, row: Mapping[str, Any]) -> list[float] | None:
        values = [row.get(metric) for metric in self.objectives]
        if status is not Status.DONE or any(v is None or not math.isfinite(v) for v in values):
            return None
        return [float(v) for v in values if v is not None]

    def _tell(self, asked: int, trial: str, status: Status) -> None:
        values = self._values[trial]
        self._constrain(asked, trial)
        if values:
            self.study.tell(asked, values)
        elif status is Status.STOPPED:
            self.study.tell(asked, state=TrialState.PRUNED)
        else:
            self._lost.append(asked)
        if worse := self._worse():
            for number in self._lost:
                self.study.tell(number, worse)
            self._lost = []

    def _reconcile(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Optuna's trials after a kill: open ones told what the store knows, or ended where it knows nothing, and
        members entered that a journal does not have which was lost, damaged or cut."""
        for name, row in rows.items():
            if row["status"] in ENDED:
                self._take(name, Status(row["status"]), row)
        there = [(str(frozen.user_attrs.get(_OWN)), frozen) for frozen in self.study.get_trials(deepcopy=False)]
        entered = {name for name, _ in there}
        for name, row in rows.items():
            if name not in entered:
                self._enter(name, row)
        for name, frozen in there:
            if frozen.state is not TrialState.RUNNING:
                continue
            if name not in rows:
                self.study.tell(frozen.number, state=TrialState.FAIL)
            elif name in self._values:
                self._tell(frozen.number, name, Status(rows[name]["status"]))
            else:
                self._open[name] = frozen.number
        for name, row in rows.items():
            # Optuna is told before the store is: such a member is trained again, and is no new one
            if row["status"] not in ENDED:
                self._open.setdefault(name, None)

    def _enter(self, name: str, row: Mapping[str, Any]) -> None:
        """A member of the store as a trial of Optuna's, open or ended."""
        status, known = Status(row["status"]), self._parameters(row)
        if known is not None:
            started = create_trial(
                state=TrialState.RUNNING,
                params=known.values,
                distributions=known.distributions,
                user_attrs={_OWN: name},
            )
            self.study.add_trial(started)
        number = None if known is None else self.study.get_trials(deepcopy=False)[-1].number
        if status not in ENDED:
            self._open[name] = number
        elif number is not None:
            self._tell(number, name, status)

    def _warm_start(self, run: Path) -> None:
        """Enter the members of an earlier run that this study might have had, and note how many, and why not others."""
        try:
            with Store(run / "study.db") as store:
                rows = store.trials()
        except (OSError, ValueError) as error:
            # it was there when the study began
            self.notes.append(f"search.warm_start={run}: the search goes on without its members: {error}")
            return
        entered = {frozen.user_attrs.get(_EARLIER) for frozen in self.study.get_trials(deepcopy=False)}
        left: Counter[str] = Counter()
        for row in _rows(rows):
            known, values = self._parameters(row), self._judged(Status(row["status"]), row)
            why = self._incomparable(known, row) if values else "without objectives"
            if why:
                left[why] += 1
            elif known and values and row["trial"] not in entered:
                self.study.add_trial(
                    create_trial(
                        values=values,
                        params=known.values,
                        distributions=known.distributions,
                        user_attrs={_EARLIER: row["trial"]},
                        constraints=self._beyond(row) or None,
                    )
                )
        self.study.set_user_attr(_ENTERED, True)
        told = f"{len(rows) - left.total()} of {len(rows)} members came in"
        others = "; ".join(f"{count} {why}" for why, count in left.most_common())
        self.notes.append(f"search.warm_start={run}: {told}" + (f"; left out: {others}" if others else ""))

    def _incomparable(self, known: _Parameters | None, row: Mapping[str, Any]) -> str:
        """Why a member of another run says nothing here; empty where all but its seed could be this study's."""
        if known is None:
            return "outside of the space"
        try:
            ours = identifying(json.loads(member(self.config, known.assignment).to_json()))
        except ConfigError:
            return "outside of the space"
        other = {key: value for key, value in identifying(known.member).items() if key in ours and key != "seed"}
        if differing := sorted(key for key, value in other.items() if value != ours[key]):
            return f"of other {' and '.join(differing)}"
        if self._features not in (None, (there := row.get("fid_features"))):
            return f"of other fid_features ({there}, not {self._features})"
        return ""

    def _parameters(self, row: Mapping[str, Any]) -> _Parameters | None:
        """A member's place in this study's space; ``None`` where it has none."""
        try:
            one = json.loads(row["config"])
            # what was chosen, and else what the member is: a prior may be named or spelled out
            known = _Parameters({**one, **json.loads(row.get("assignment") or "{}"), "prior": one["prior"]})
            known.assignment = space.assign(self.space, known)
        except (LookupError, TypeError, ValueError):
            return None
        known.member = one
        return known


def _journal(path: Path) -> JournalStorage:
    """Optuna's journal, made whole, for the one driver of its run folder.

    What a driver had locked that was killed is unlocked: Optuna would wait for half a minute, or for ever in a folder
    that has another name by now. A line that a kill or a full disk left half is cut off: the next one would be glued to
    it, and the journal could never be read again. One that is damaged elsewhere is put aside, and made anew from what
    the store holds.
    """
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.is_file():
        with path.open("rb+") as handle:
            content = handle.read()
            end = content.rfind(b"\n") + 1
            start = content.rfind(b"\n", 0, max(0, end - 1)) + 1
            try:
                json.loads(content[start:end] or "{}")
            except ValueError:
                end = start  # Optuna passes over a last line that is none, and stumbles when another follows
            handle.truncate(end)
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
            labels = space.labels(content)
            return labels.index(trial.suggest_categorical(name, labels))
        low, high = content
        if kind == "randint":
            return trial.suggest_int(name, low, high - 1)
        return trial.suggest_float(name, low, high, log=kind == "loguniform")

    return choose


def _distribution(kind: str, content: list[Any]) -> BaseDistribution:
    if kind in space.LISTS:
        return CategoricalDistribution(space.labels(content))
    low, high = content
    if kind == "randint":
        return IntDistribution(low, high - 1)
    return FloatDistribution(low, high, log=kind == "loguniform")


class _Parameters:
    """Reads a member's values off as if they had been suggested; `LookupError` where the space does not hold them."""

    def __init__(self, one: Mapping[str, Any]) -> None:
        self.member = one
        self.values: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self.assignment: space.Assignment = {}

    def __call__(self, name: str, kind: str, content: list[Any]) -> Any:
        key, *below = name.split(".")[1:]
        value = self.member[key]
        # conditions and options of lists are in the name too, and no keys of what was chosen
        for step in below:
            if isinstance(value, Mapping) and step in value:
                value = value[step]
        if kind in space.LISTS:
            fitting = [i for i, option in enumerate(content) if _may_be(option, value)]
            if not fitting:
                raise LookupError(name)
            # one that is spelled out before one that leaves something open
            taken = next((i for i in fitting if content[i] == value), fitting[0])
            value = space.labels(content)[taken]
        else:
            if not _may_be({kind: content}, value):
                raise LookupError(name)
            taken = value
        self.distributions[name], self.values[name] = _distribution(kind, content), value
        return taken


def _may_be(option: Any, value: Any) -> bool:
    """Whether a value may come of an option of a list, whose open parts are looked at next."""
    if not isinstance(option, Mapping):
        # a prior may be named or spelled out
        return bool(option == value or (isinstance(value, Mapping) and option == value.get("name")))
    if "per" in option:
        return any(_may_be(inner, value) for name, inner in option.items() if name != "per")
    for kind in space.KINDS:
        if kind in option and kind in space.LISTS:
            return any(_may_be(inner, value) for inner in option[kind])
        if kind in option:
            low, high = option[kind]
            return isinstance(value, int | float) and low <= value <= (high - 1 if kind == "randint" else high)
    return isinstance(value, Mapping) and all(k in value and _may_be(inner, value[k]) for k, inner in option.items())
