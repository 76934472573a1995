"""What varies in a study beside the columns that every row has, from its members' configurations and assignments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from gimtune.results.store import Value
from gimtune.vocabulary import METRICS

#: Keys of a configuration that columns say already, or that say nothing of the setting.
_SAID = frozenset(
    {
        *("trial", "model", "side", "likelihood", "encoder", "restrictions", "weight", "latent_dim", "plugins"),
        *("prior.name", "data.name", "network.name", "metrics.fid_features"),
    }
)
#: Keys of an assignment that a configuration says too; what is left are models' own parameters.
_SPACE = frozenset({*_SAID, "prior", "restriction", "seed", "learning_rate", "beta1", "batch_size"})
_SPACE |= {"sigma_min", "sigma_start", "network", "critic"}
#: Sections of one part: an option varies if it does among those of the same name.
_PARTS = ("prior", "data", "network")
#: In a canonical configuration, what differs from member to member and is no setting.
_ALIKE = re.compile(r',"seed":\d+|,"restrictions":\[(?:\["\w+","\w+",[^]["]+\],?)*\]|,"weight":[-+.\w]+(?=}$)')
#: Keys whose default is the model's: they vary if they do among members of one model.
_OF_MODEL = frozenset({"restore", "sigma_start"})
_MADE = frozenset({"run", "collapsed", "on_front", "configuration", "flagged", "infeasible"})
#: Whole numbers beyond it are no floats.
_LARGEST = 2**53


def varied(trials: pd.DataFrame) -> tuple[str, ...]:
    """Columns of the trials, or of some of them, that were added since they vary in the study.

    >>> rows = [{"config": f'{{"learning_rate": {rate}, "seed": {i}}}'} for i, rate in enumerate((0.1, 0.2))]
    >>> varied(with_varied(pd.DataFrame(rows)))
    ('learning_rate',)
    """
    return tuple(key for key in trials.attrs.get("varied", ()) if key in trials)


def parameters(trials: pd.DataFrame) -> tuple[str, ...]:
    """Those among them that are parameters of single models, as ``alpha``: other models have none."""
    return tuple(key for key in trials.attrs.get("parameters", ()) if key in trials)


def with_varied(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with a column for each further key of their configurations that has more than one value.

    Names are dotted (``learning_rate``, ``prior.scale``, ``critic.steps``); lists are text. A parameter of models is
    told of those where it varies. Columns added before are found anew. Seeds are no setting.
    """
    trials = trials.drop(columns=[*varied(trials)])
    known: dict[str, dict[str, _Told]] = {}
    settings = [_settings(_ALIKE.sub("", str(text)), known) for text in trials.get("config", ())]
    chosen = [dict(_parameters(_parsed(text))) for text in trials.get("assignment", ())]
    models = [*trials["model"].astype(str)] if "model" in trials else [""] * len(trials)
    columns = {key: [row.get(key, (None, ""))[0] for row in settings] for key in sorted(_differing(settings))}
    own = [{key: (value, model) for key, value in row.items()} for row, model in zip(chosen, models, strict=False)]
    for key, among in sorted(_differing(own).items()):
        columns.setdefault(key, [row[key][0] if key in row and row[key][1] in among else None for row in own])
    mine = {key for row in own for key in row}
    taken = {*trials, *METRICS, *_MADE}
    columns = {key: values for key, values in columns.items() if key not in taken and not key.startswith("test_")}
    if columns:
        added = pd.DataFrame({key: _column(values) for key, values in columns.items()}).set_axis(trials.index)
        trials = pd.concat([trials, added], axis=1)
    trials.attrs |= {"varied": tuple(columns), "parameters": tuple(key for key in columns if key in mine)}
    return trials


#: A key's value, and the name of the part that it is an option of.
_Told = tuple[Value, str]


def _differing(rows: list[dict[str, _Told]]) -> dict[str, set[str]]:
    """Keys with more than one value among those of one part, and of which parts."""
    first: dict[tuple[str, str], Value] = {}
    found: dict[str, set[str]] = {}
    for row in rows:
        for key, (value, part) in row.items():
            if first.setdefault((key, part), value) != value:
                found.setdefault(key, set()).add(part)
    return found


def _settings(text: str, known: dict[str, dict[str, _Told]]) -> dict[str, _Told]:
    """Those of a configuration; few are different, and to read one takes time."""
    if text not in known:
        known[text] = dict(_flat(_parsed(text)))
    return known[text]


def _flat(configuration: Mapping[str, Any]) -> Iterator[tuple[str, _Told]]:
    for section, content in configuration.items():
        if not isinstance(content, dict):
            content, before, part = {section: content}, "", ""
        else:
            before, part = f"{section}.", str(content.get("name")) if section in _PARTS else ""
        for name, value in content.items():
            key = before + name
            if key not in _SAID and section not in _SAID and not key.endswith("seed") and value is not None:
                yield key, (_plain(value), str(configuration.get("model")) if key in _OF_MODEL else part)


def _parameters(assignment: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    for key, value in assignment.items():
        if key not in _SPACE and isinstance(value, int | float):
            yield key, _plain(value)


def _parsed(text: object) -> dict[str, Any]:
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _plain(value: Any) -> Value:
    """A number or text; all else as JSON."""
    if isinstance(value, str) or (type(value) in (int, float) and abs(value) < _LARGEST):
        return value
    return json.dumps(value)


def _column(values: list[Value]) -> pd.Series:
    """Whole numbers, numbers, or text."""
    if any(isinstance(value, str) for value in values):
        return pd.Series([None if value is None else str(value) for value in values], dtype=object)
    whole = all(isinstance(value, int) for value in values)
    return pd.Series(values, dtype="int64" if whole else "float64")
