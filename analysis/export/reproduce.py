"""From a member's configuration to the command line that trains it anew."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from gimtune.results.store import Value
from gimtune.vocabulary import Member

#: What stands in a command line without a second look: names, paths and addresses.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:@+-]{0,255}")
_ENCODERS = ("gaussian", "deterministic", "implicit")


def command(trial: str, config: str, assignment: Value, stated: Mapping[str, Any]) -> str:
    """The line ``python -m gimtune ...`` whose only member is this one, quoted for a POSIX shell.

    Everything that the member's name is a hash of is said outright, so that defaults may change.

    Args:
        trial: the member's name.
        config: its configuration, as of `gimtune.vocabulary.Member.to_json`.
        assignment: JSON of the values of the study's space that it came from.
        stated: the run's ``config.yaml``, which has the models that are the study's own.

    Raises:
        ValueError: the configuration is none, is not this member's, or says something that no line can.
    """
    try:
        member = Member.from_json(config)
        own = member.trial == trial
        overrides = [*_overrides(member, _chosen(assignment), stated)] if own else []
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = str(error).splitlines()[0] if isinstance(error, _Unsaid) else "its configuration cannot be read"
        raise ValueError(why) from None
    if not own:
        raise ValueError("its configuration is not the one it was named after")
    return shlex.join(["python", "-m", "gimtune", *overrides])


class _Unsaid(ValueError):
    """Why a member has no line."""


def _overrides(member: Member, chosen: Mapping[str, Any], stated: Mapping[str, Any]) -> Iterator[str]:
    # the study's space may leave to defaults what is said here
    space = {"prior": dict(member.prior), "weight": member.weight, "latent_dim": member.latent_dim, "seed": member.seed}
    space |= {key: value for key, value in chosen.items() if key not in ("model", "prior")}
    if member.plugins:
        yield f"plugins={override([*member.plugins])}"
    yield f"data={override(member.data['name'])}"
    yield f"models=[{override(_model(str(chosen['model']), stated))}]"
    yield f"space={override(space)}"
    yield f"likelihood={override(member.likelihood)}"
    if member.encoder in _ENCODERS:  # others come with their prior
        yield f"encoder={member.encoder}"
    yield f"seed={override(member.shuffle_seed)}"
    yield f"budget.epochs={override(member.epochs)}"
    yield f"budget.evaluate_every={override(member.evaluate_every)}"
    yield f"budget.patience={override(member.patience)}"
    yield f"budget.restore={override(member.restore)}"
    if member.watched:  # not of members from before there was a rule
        yield f"objectives={override(member.watched)}"
    for key in ("learning_rate", "beta1", "batch_size", "sigma_min", "sigma_start"):
        yield f"training.{key}={override(getattr(member, key))}"
    yield f"network={override(member.network['name'])}"
    for section in ("network", "data", "critic", "metrics"):
        for key, value in getattr(member, section).items():
            if key != "name":
                yield f"{override(section)}.{override(key)}={override(value)}"


def _chosen(assignment: Value) -> dict[str, Any]:
    if not isinstance(assignment, str) or not assignment:
        raise _Unsaid("it is not recorded which values of the study's space it came from")
    try:
        found = json.loads(assignment)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or "model" not in found:
        raise _Unsaid("the values of the study's space that it came from cannot be read")
    return found


def _model(name: str, stated: Mapping[str, Any]) -> Any:
    """A model as the study lists it: a name, or a mapping that says what it is."""
    listed = stated.get("models")
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, Mapping) and entry.get("name") == name:
            return entry
    return name


def arguments(given: Mapping[str, Any]) -> list[str]:
    """Keys with their values as they stand on the command line."""
    return [f"{key}={override(value, quoted=True)}" for key, value in given.items()]


def override(value: Any, *, quoted: bool = False) -> str:
    """A value in the grammar of the command line's overrides.

    Args:
        quoted: text that would mean something there is put between quotation marks.

    Raises:
        ValueError: text that cannot stand there, or a value of another kind.
    """
    if isinstance(value, Mapping):
        pairs = ((override(k, quoted=quoted), override(v, quoted=quoted)) for k, v in value.items())
        return "{" + ", ".join(f"{key}: {one}" for key, one in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(override(one, quoted=quoted) for one in value) + "]"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    if quoted and isinstance(value, str | PurePath):
        return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
    raise _Unsaid(f"{str(value)[:40]!r} cannot stand in a command line")
