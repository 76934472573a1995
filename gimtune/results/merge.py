"""Several runs as one run folder, which is read as any other. Needs neither torch nor Ray."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gimtune.results.backup import damage
from gimtune.results.carry import carry
from gimtune.results.environment import mixed
from gimtune.results.folder import absent, make_at, relative
from gimtune.results.load import load, settings, text_file
from gimtune.results.same import together, values
from gimtune.results.store import FORMAT, Row, Store
from gimtune.vocabulary import ENDED, Member, Status

#: What the members of one run have in common, since their numbers compare by it.
_COMMON = ("data.", "metrics.", "network.", "critic.", "plugins.", "watched.", "epochs", "evaluate_every", "patience")
#: Of these, what a study may sweep: then it is a setting as others are.
_SWEPT = ("network.", "critic.")
#: The same of their rows: which images were compared, by what.
_MEASURED = ("fid_features", "fid_reference")
#: The same of the runs, where they say it.
_STATED = ("objectives", "constraints", "data_digest")
#: Facts about one course of one run.
_OWN = ("started", "epochs_before", "first_row_seconds", "reused", "config")
#: Of a member that several runs have, the row that says most.
_RANK = (Status.DONE, Status.DIVERGED, Status.STOPPED, Status.FAILED)


class _Run(NamedTuple):
    named: str
    folder: Path
    meta: Mapping[str, str]
    members: Sequence[Member]
    statuses: Mapping[str, Status]
    rows: Sequence[Row]


def merge(runs: Sequence[Path], out: Path) -> list[str]:
    """Write the members of several runs that have ended into one folder; returns what is to be said of it, in lines.

    A member that several runs have is counted once: of the first of them in which it is done, or else came furthest.
    The folder's ``config.yaml`` is that of the first run, with the models of all.

    Raises:
        ValueError: a folder that is no run, or of another format; runs that do not compare, with the key and what each
            says; or a file or folder that is there already.
    """
    if len({run.resolve() for run in runs}) < max(2, len(runs)):
        raise ValueError("merge: it takes two different runs or more, and a folder that is to be made")
    if out.exists():
        raise ValueError(f"{out}: there is something already; name a folder that is to be made")
    read = [_read(run) for run in runs]
    for other in read[1:]:
        if why := _apart(read[0], other):
            raise ValueError(f"{other.named} and {read[0].named} do not compare: {why}")
    chosen = _chosen(read)

    def fill(fresh: Path) -> None:
        (fresh / "config.yaml").write_text(yaml.safe_dump(_config(read), sort_keys=False))
        (fresh / "environment.json").write_text(json.dumps(_environment(read), indent=2) + "\n")
        with Store(fresh / "study.db", create=True) as store:
            facts = {key: text for key, text in read[0].meta.items() if key not in ("format", *_OWN)}
            store.annotate(**facts | _together(read, sum(map(len, chosen.values()))))
            rows, reports = carry([(run.folder, chosen[run.named]) for run in read], fresh, store)
            for row in (row for run in read for row in run.rows):
                # what was added to a member in one of its runs alone
                name = str(row["trial"])
                rows[name] = {**rows[name], **(together(rows[name], row) or {})}
            store.plan(rows.values(), reports)

    if not make_at(out, fill):
        raise ValueError(f"{out}: there is something already; name a folder that is to be made")
    return _told(read, chosen, out)


def _read(run: Path) -> _Run:
    if not (run / "study.db").is_file():
        raise ValueError(f"{run}: {absent(run)}")
    if why := damage(run / "study.db"):
        raise ValueError(f"{run}: study.db is damaged ({why}); python -m gimtune repair {run} makes it anew")
    with Store(run / "study.db") as store:
        if store.meta["format"] != str(FORMAT):
            raise ValueError(f"{run}: format {store.meta['format']}; runs of format {FORMAT} are merged")
        statuses = {trial: status for trial, status in store.statuses().items() if status in ENDED}
        try:
            members = store.members()
        except (KeyError, TypeError) as error:
            raise ValueError(f"{run}: a member's configuration cannot be read ({error})") from None
        rows, _ = store.whole(statuses)
        return _Run(str(run), run.resolve(), dict(store.meta), members, statuses, rows)


def _apart(one: _Run, other: _Run) -> str:
    """What the numbers of two runs differ in beside what studies sweep; empty where they compare."""
    for key in _STATED:
        a, b = (run.meta.get(key) for run in (one, other))
        if a and b and _canonical(a) != _canonical(b):
            return _says(key, {b}, {a})
    here, there = (values(run.members) for run in (one, other))
    for key in sorted(here.keys() & there.keys()):
        swept = key.startswith(_SWEPT) and max(len(here[key]), len(there[key])) > 1
        if key.startswith(_COMMON) and here[key] != there[key] and not swept:
            return _says(key, there[key], here[key])
    for key in _MEASURED:
        seen = [{str(row[key]) for row in run.rows if row.get(key)} for run in (one, other)]
        if all(seen) and seen[0] != seen[1]:
            return _says(key, seen[1], seen[0])
    restored = [settings(run.folder).get("budget") for run in (one, other)]
    rules = [str(budget.get("restore")) for budget in restored if isinstance(budget, dict)]
    if len({*rules}) > 1:
        return _says("budget.restore", rules[1:], rules[:1])
    known = {column["key"]: column for column in json.loads(one.meta.get("metrics", "[]"))}
    for column in json.loads(other.meta.get("metrics", "[]")):
        if column != known.get(column["key"], column):
            return f"each defines the metric {column['key']} in its own way"
    return ""


def _says(key: str, there: Iterable[str], here: Iterable[str]) -> str:
    return f"{key} is {', '.join(sorted(there))} in the one and {', '.join(sorted(here))} in the other"


def _canonical(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _chosen(read: Sequence[_Run]) -> dict[str, list[str]]:
    """Names of the members that each run gives."""
    best: dict[str, tuple[int, int]] = {}
    for place, run in enumerate(read):
        for trial, status in run.statuses.items():
            found = (_RANK.index(status), place)
            best[trial] = min(best.get(trial, found), found)
    return {run.named: [t for t in run.statuses if best[t][1] == place] for place, run in enumerate(read)}


def _config(read: Sequence[_Run]) -> dict[str, Any]:
    stated = [settings(run.folder) for run in read]
    models: list[Any] = []
    for config in stated:
        models += [model for model in config.get("models", []) if model not in models]
    return {**stated[0], "models": models, "resume": None, "reuse": []}


def _environment(read: Sequence[_Run]) -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "merged": {str(run.folder): _canonical(text_file(run.folder, "environment.json") or "null") for run in read},
    }


def _together(read: Sequence[_Run], count: int) -> dict[str, str]:
    sources: dict[str, dict[str, str]] = {}
    for run in read:
        for kind, found in json.loads(run.meta.get("sources", "{}")).items():
            sources[kind] = {**found, **sources.get(kind, {})}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "members": str(count),
        "sources": json.dumps(sources),
        "merged": json.dumps([str(run.folder) for run in read]),
        "exhausted": "merged of runs, with the members that these have",
    }


def _told(read: Sequence[_Run], chosen: Mapping[str, Sequence[str]], out: Path) -> list[str]:
    lines = []
    every: dict[str, Row] = {}
    for run in read:
        own = {*chosen[run.named]}
        every |= {str(row["trial"]): row for row in run.rows if row["trial"] in own}
    for run in read:
        text = f"{len(chosen[run.named])} of {len(run.members)} members of {run.named}"
        doubles = [row for row in run.rows if every[str(row["trial"])] is not row]
        if doubles:
            text += f"; {len(doubles)} counted with another run's"
        if others := sum(together(every[str(row["trial"])], row) is None for row in doubles):
            text += f", {others} of them with other numbers"
        if left := len(run.members) - len(run.statuses):
            text += f"; {left} not ended, left out"
        lines.append(text)
    study = load(out, reports=False)
    lines.append(f"{len(study.trials)} members in {relative(out.resolve())}")
    return [*lines, *filter(None, [mixed(study.trials, study.meta)])]
