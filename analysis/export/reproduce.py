"""From a member's configuration to the command line that trains it anew."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

from gimtune.algebra.models import MODELS
from gimtune.vocabulary import Member

#: What stands in a command line without a second look: names, paths and addresses.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:@+-]{0,255}")
_PIXELS = {"digits": 8 * 8, "mnist": 28 * 28, "fashion_mnist": 28 * 28}
_ENCODERS = ("gaussian", "deterministic", "implicit")


def command(trial: str, config: str, swept: Mapping[str, Any] | None = None) -> str:
    """The line ``python -m gimtune ...`` whose only member is this one, quoted for a POSIX shell.

    Everything that the member's name is a hash of is said outright, so that defaults may change.

    Args:
        trial: the member's name.
        config: its configuration, as of `gimtune.vocabulary.Member.to_json`.
        swept: the study's ``space``; where a model's own parameters were swept, their values are looked up in it.

    Raises:
        ValueError: the configuration is none, is not this member's, or says something that no line can.
    """
    try:
        member = Member.from_json(config)
        own = member.trial == trial
        overrides = [*_overrides(member, swept or {})] if own else []
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        why = str(error).splitlines()[0] if isinstance(error, _Unsaid) else "its configuration cannot be read"
        raise ValueError(why) from None
    if not own:
        raise ValueError("its configuration is not the one it was named after")
    return shlex.join(["python", "-m", "gimtune", *overrides])


class _Unsaid(ValueError):
    """Why a member has no line."""


def _overrides(member: Member, swept: Mapping[str, Any]) -> Iterator[str]:
    swept = {"prior": dict(member.prior), "latent_dim": member.latent_dim, "seed": member.seed, **_model(member, swept)}
    yield f"data={_text(member.data['name'])}"
    yield f"models=[{_text(swept.pop('model'))}]"
    yield f"space={_text(swept)}"
    yield f"likelihood={_text(member.likelihood)}"
    if member.encoder in _ENCODERS:  # others come with their prior
        yield f"encoder={member.encoder}"
    yield f"seed={_text(member.shuffle_seed)}"
    yield f"budget.epochs={_text(member.epochs)}"
    yield f"budget.evaluate_every={_text(member.evaluate_every)}"
    for key in ("learning_rate", "beta1", "batch_size", "sigma_min"):
        yield f"training.{key}={_text(getattr(member, key))}"
    yield f"network={_text(member.network['name'])}"
    for section in ("network", "data", "critic", "metrics"):
        for key, value in getattr(member, section).items():
            if key != "name":
                yield f"{_text(section)}.{_text(key)}={_text(value)}"


def _model(member: Member, swept: Mapping[str, Any]) -> dict[str, Any]:
    """The model as ``models`` lists it, its weight, and its parameters where they are not the declared ones."""
    terms = member.restrictions
    weight = {"weight": member.weight}
    if declared := MODELS.get(member.model):
        pixels = _PIXELS.get(str(member.data["name"]), 1)
        keys = [key for key in declared.parameters if key in swept]
        for values in islice(product(*(_numbers(swept[key]) for key in keys)), 1000):
            given = dict(zip(keys, values, strict=True))
            found = declared.weights(member.weight, latent_dim=member.latent_dim, pixels=pixels, **given)
            pairs = zip(declared.restrictions, found, strict=True)
            if terms == tuple((str(term.match), term.divergence, value) for term, value in pairs):
                return {"model": member.model, **weight, **given}
        parameters = ", ".join(declared.parameters) or "restriction"
        raise _Unsaid(f"its {parameters} cannot be told from its weights; the run's config.yaml has the space")
    if len(terms) == 1 and member.side == "q" and terms[0] == (*member.model.split("_", 1), member.weight):
        return {"model": "ae", "restriction": f"{terms[0][0]}/{terms[0][1]}", **weight}
    restrictions = [
        {"match": match, "divergence": divergence, "weight": _factor(value, member.weight)}
        for match, divergence, value in terms
    ]
    return {"model": {"name": member.model, "side": member.side, "restrictions": restrictions}, **weight}


def _factor(value: float, weight: float) -> float:
    """What times ``weight`` is ``value``, to the last bit."""
    if not weight:
        return 1.0
    near = value / weight
    for factor in (near, math.nextafter(near, 0), math.nextafter(near, math.inf)):
        if weight * factor == value:
            return factor
    raise _Unsaid("its restrictions' weights cannot be told from their products")


def _numbers(value: Any) -> list[float]:
    """Every number that a space lists, of its first thousand parts."""
    found, left = set(), [value]
    for _ in range(1000):
        if not left:
            break
        part = left.pop()
        if isinstance(part, Mapping):
            left += [inner for key, inner in part.items() if key not in ("uniform", "loguniform", "randint")]
        elif isinstance(part, list):
            left += part
        elif isinstance(part, int | float) and not isinstance(part, bool):
            found.add(float(part))
    return sorted(found)


def _text(value: Any) -> str:
    """A value in the grammar of the command line's overrides."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(k)}: {_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    raise _Unsaid(f"{str(value)[:40]!r} cannot stand in a command line")
