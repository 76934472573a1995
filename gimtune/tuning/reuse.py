"""Which members of a new study earlier runs have trained already; `gimtune.results.carry` takes them over.

A member's name is a hash of what its numbers depend on, but for code, processor and the content of files that are known
by their names: published data sets, Inception's weights. These are compared here, so that what is taken over is what
training would give.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from gimtune.data import Dataset
from gimtune.metrics import features
from gimtune.results import environment
from gimtune.results.backup import damage
from gimtune.results.carry import carry_features
from gimtune.results.folder import absent
from gimtune.results.same import LASTING, apart
from gimtune.results.store import FORMAT, Row, Store
from gimtune.study.composition import here
from gimtune.study.messages import ConfigError
from gimtune.study.schema import Config
from gimtune.vocabulary import Member


class Taken(NamedTuple):
    """Members of one earlier run that are not trained again.

    Attributes:
        run: its folder.
        trials: their names.
    """

    run: Path
    trials: tuple[str, ...]


class _Offer(NamedTuple):
    """What an earlier run has of the members that are asked for.

    Attributes:
        named: the run, as the user wrote it.
        rows: of those that have ended in a way that training them would repeat.
        others: how many of those asked for there are with another status.
        meta: facts about the run.
        why: nothing of it can be taken over; empty where something can.
    """

    named: str
    rows: Sequence[Row]
    others: Mapping[str, int]
    meta: Mapping[str, str]
    why: str


def taken_over(
    config: Config, members: Sequence[Member], data: Dataset, made: Mapping[str, str]
) -> tuple[tuple[Taken, ...], tuple[str, ...]]:
    """Members that the runs of ``reuse`` have, each of the first that has it, and what is to be said of each run.

    Args:
        members: of the new study.
        made: what numbers depend on here, as far as it is known (`gimtune.results.environment.made_by`).

    Raises:
        ConfigError: a folder that is no run; or numbers come out otherwise here, and nobody said that they may.
    """
    left = {member.trial: member for member in members}
    found: list[Taken] = []
    notes: list[str] = []
    network = ""
    for named in config.reuse:
        run = here("reuse", named).resolve()
        offer = _offer(named, run, left, data)
        if not offer.why:
            try:
                # what is trained here will be compared by the first run's features
                network = network or _features(members[0], data, run)
                offer = _of_features(offer, network)
            except ValueError as error:
                offer = offer._replace(why=str(error))
        if offer.why:
            notes.append(f"reuse={named}: nothing is taken over: {offer.why}")
            continue
        different = _different(offer, run, made)
        if different and not config.across:
            raise ConfigError(
                f"reuse={named}: its numbers were made otherwise: {different}. reuse.across=true takes them over all "
                "the same, and rows say what they were made by"
            )
        names = tuple(str(row["trial"]) for row in offer.rows)
        found.append(Taken(run, names))
        notes.append(_told(config, offer, different))
        gone = {*names}
        left = {trial: member for trial, member in left.items() if trial not in gone}
    if config.reuse:
        notes.append(f"{len(left)} of {len(members)} members {_are(len(left))} to be trained")
    return tuple(found), tuple(notes)


def check_start(start: str | None) -> None:
    """Refuse an earlier run whose results a search cannot start from.

    Raises:
        ConfigError: there are none, or they cannot be read.
    """
    if start is None:
        return
    try:
        with Store(Path(start) / "study.db") as store:
            store.trials()
    except (OSError, ValueError) as error:
        raise ConfigError(f"search.warm_start={start}: {str(error).splitlines()[0]}") from None


def _offer(named: str, run: Path, left: Mapping[str, Member], data: Dataset) -> _Offer:
    """
    Raises:
        ConfigError: it is no run folder, or cannot be read.
    """
    if not (run / "study.db").is_file():
        raise ConfigError(f"reuse={named}: {absent(run)}")
    if why := damage(run / "study.db"):
        raise ConfigError(f"reuse={named}: study.db is damaged ({why}); python -m gimtune repair {named} makes it anew")
    try:
        with Store(run / "study.db") as store:
            meta, theirs = dict(store.meta), store.members()
            statuses = {trial: status for trial, status in store.statuses().items() if trial in left}
            rows, _ = store.whole(trial for trial, status in statuses.items() if status in LASTING)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"reuse={named}: {str(error).splitlines()[0]}") from None
    others = Counter(str(status) for status in statuses.values() if status not in LASTING)
    return _Offer(named, rows, others, meta, _why(rows, others, meta, theirs, left, data))


def _why(
    rows: Sequence[Row],
    others: Mapping[str, int],
    meta: Mapping[str, str],
    theirs: Iterable[Member],
    left: Mapping[str, Member],
    data: Dataset,
) -> str:
    if meta["format"] != str(FORMAT):
        return f"it is of format {meta['format']}, and this version writes {FORMAT}"
    if not left:
        return "the runs before it have all members"
    if not rows:
        return _listed(others) if others else apart(theirs, left.values())
    if (digest := meta.get("data_digest", data.digest)) != data.digest:
        return f"its images are others: {digest} there and {data.digest} here"
    if others_seen := {str(row["fid_reference"]) for row in rows if row.get("fid_reference")} - {data.reference}:
        return f"its images are others: {min(others_seen)} there and {data.reference} here"
    return ""


def _features(member: Member, data: Dataset, run: Path) -> str:
    """The name of the features that members are compared by where those of an earlier run are at hand."""
    with tempfile.TemporaryDirectory() as made:
        carry_features(run, Path(made))
        return features.load(data, member.metrics, Path(made), torch.device("cpu")).name


def _of_features(offer: _Offer, network: str) -> _Offer:
    others = {str(row["fid_features"]) for row in offer.rows if row.get("fid_features")} - {network}
    if not others:
        return offer
    return offer._replace(why=f"its distances are of the features {min(others)}, those here of {network}")


def _different(offer: _Offer, run: Path, made: Mapping[str, str]) -> str:
    """In what its rows were made otherwise, in a line."""
    told: dict[str, None] = {}
    begun = environment.begun_in(run)
    for stated, added in {(row.get("environment"), row.get("added_in")) for row in offer.rows}:
        names = str(stated).split("+") if stated else []
        theirs = [environment.meaning(offer.meta, name) for name in names] or [begun]
        theirs += [environment.meaning(offer.meta, name) for name in json.loads(str(added or "{}")).values()]
        for there in theirs:
            told[environment.differences(made, there) if there else "it does not say by what"] = None
    return "; ".join(filter(None, sorted(told)))


def _told(config: Config, offer: _Offer, different: str) -> str:
    count = len(offer.rows)
    text = f"{count} member{'s' * (count > 1)} {_are(count)} taken over from {offer.named}"
    if offer.others:
        text += f"; {_listed(offer.others)}, to be trained"
    without = sum(row.get("checkpoint") is None for row in offer.rows)
    if without and config.checkpoints == "all":
        text += f"; of {without} it did not keep the weights"
    return text + (f"; they were made otherwise: {different}" if different else "")


def _listed(others: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in others.items()) + " there"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
