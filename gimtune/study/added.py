"""Metrics that are measured of a run's members after they have ended, from the weights that were kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from gimtune import parts
from gimtune.metrics import MEASURES, Evaluation
from gimtune.metrics.measures import Measure
from gimtune.parts import allowed
from gimtune.results.environment import begun_in, fingerprint
from gimtune.results.folder import absent
from gimtune.results.store import Store
from gimtune.study.opened import opened
from gimtune.training import made_by
from gimtune.vocabulary import Status

#: Why a member has no value.
_DROPPED = "its weights were not kept, and it was added after the member had ended"


def add(
    folder: Path,
    names: Iterable[str],
    plugins: Sequence[str] = (),
    root: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Measure registered metrics of a run's members that are done and have weights, on both splits; how many these are.

    A member's row gets the values, reasons and flags in one transaction, and by what they were made; what stands in it
    already is left as it is, so that an interrupted call may be made again. The run's evaluations on the way get none.
    Sums are split among as many threads as the run's workers had, where its folder says so.

    Args:
        names: of metrics, or of columns that they measure.
        plugins: modules that register them, where no package or study does.
        root: of the data's files, as `gimtune.data.load` takes it.
        note: is told of each member that was measured.

    Raises:
        FileNotFoundError: no run folder.
        ValueError: no such metric, one that the run was measured with, or weights or data that cannot be read.
    """
    path = folder / "study.db"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: {absent(folder)}")
    parts.load(plugins)
    with Store(path, create=True) as store:
        rows = store.trials()
        done = rows[rows["status"] == Status.DONE]
        measures = [_found(name) for name in dict.fromkeys(names)]
        keys = [column.key for measure in measures for column in measure.columns]
        earlier = json.loads(store.meta.get("added", "{}"))
        for key in keys:
            if key not in earlier and key in rows and rows[key].notna().any():
                raise ValueError(f"--add {key}: the run was measured with it")
        own = {column["key"]: column for column in json.loads(store.meta.get("metrics", "[]"))}
        own |= {column.key: vars(column) for one in measures if not one.ours for column in one.columns}
        where = {key: _origin(measure) for measure in measures for key in _keys(measure)}
        store.annotate(metrics=json.dumps([*own.values()]), added=json.dumps(earlier | where))
        known: dict[str, Evaluation] = {}
        count = 0
        for trial, config in zip(done["trial"], done["config"], strict=True):
            if not (folder / "members" / f"{trial}.pt").is_file():
                store.add(trial, {"reasons": dict.fromkeys([*keys, *(f"test_{key}" for key in keys)], _DROPPED)})
                continue
            with _threads(begun_in(folder).get("threads", "")):
                pack, evaluation = opened(folder, trial, root, known)
                wanted = [key for measure in measures for key in measure.keys(pack.members[0])]
                row = evaluation.added(pack.objective, pack.one(0), pack.members[0], wanted)
                made = made_by(evaluation.data.device, torch.get_num_threads())
            if f"environment {(name := fingerprint(made))}" not in store.meta:
                store.annotate(**{f"environment {name}": json.dumps(made)})
            store.add(trial, {**row, "added_in": dict.fromkeys(keys, name)})
            count += 1
            note(f"{trial} {json.loads(config)['model']}")
    return count


@contextlib.contextmanager
def _threads(stated: str) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(int(stated) if stated.isdecimal() and int(stated) else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _found(name: str) -> Measure:
    for measure in MEASURES.values():
        if name == measure.name or name in _keys(measure):
            return measure
    raise ValueError(f"--add {name}: no metric of that name; {allowed(name, MEASURES)}")


def _keys(measure: Measure) -> list[str]:
    return [column.key for column in measure.columns]


def _origin(measure: Measure) -> str:
    """The module that a metric comes from, with a hash of its content where it is a plug-in."""
    origin = MEASURES.origin(measure.name)
    return " ".join(filter(None, (origin, parts.used([(MEASURES, measure.name)]).get(origin, ""))))
