"""Search spaces as YAML writes them.

    {grid: [...]}   every value          {uniform: [a, b]}      {loguniform: [a, b]}
    {choice: [...]} one of the values    {randint: [a, b]}      a <= n < b
    {per: model, vae: SPACE, default: SPACE}   by the value of another key (model, prior or restriction)

Numbers of a space with a key ``pixels`` are those of images of so many, and are multiplied by the images' own number
over it: ``{grid: [0.1, 1], pixels: 784}`` is ``{grid: [0.4, 4]}`` of images of 32 x 32 in colour.

Anything else is a value. Spaces may stand inside a mapping that is one: ``{name: mixture, scale: {uniform: [.2, 1]}}``.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

LISTS = ("grid", "choice")
RANGES = ("uniform", "loguniform", "randint")
KINDS = (*LISTS, *RANGES)
SIZED = "pixels"
#: Keys that ``per`` may look at; they are resolved before the others.
CONDITIONS = ("model", "prior", "restriction")

#: Members of a study, at most: a driver needs some 50 kB for each.
MOST = 100_000

Assignment = dict[str, Any]


def check(key: str, value: Any, lists: bool = False) -> None:
    """Refuse a malformed space.

    Args:
        lists: a list is a value there, as the widths of layers are.

    Raises:
        ValueError: an empty list, bounds that are no numbers or out of order, or a space mixed with other keys.
    """
    if isinstance(value, list) and not lists:
        raise ValueError(f"{key}={value}: a list is no space; write {{grid: {value}}}")
    if not isinstance(value, Mapping):
        return
    if "per" in value:
        if value["per"] not in CONDITIONS:
            raise ValueError(f"{key}.per={value['per']!r}: allowed are {', '.join(CONDITIONS)}")
        for name, inner in value.items():
            if name != "per":
                check(f"{key}.{name}", inner, lists)
        return
    kinds = [k for k in value if k in KINDS]
    if not kinds:
        unknown = [k for k, v in value.items() if len(value) == 1 and isinstance(v, list)]
        if unknown and not lists:
            raise ValueError(f"{key}={dict(value)}: {unknown[0]} is no space; allowed are {', '.join(KINDS)}")
        for name, inner in value.items():
            check(f"{key}.{name}", inner, lists)
        return
    if len(value) > 1 and {*value} != {kinds[0], SIZED}:
        others = ", ".join(str(k) for k in value if k not in (kinds[0], SIZED))
        raise ValueError(f"{key}: a space has one kind; {kinds[0]} stands beside {others}")
    kind, content = kinds[0], value[kinds[0]]
    if SIZED in value:
        _check_sized(key, kind, content, value[SIZED])
    if kind in LISTS:
        if not isinstance(content, list) or not content:
            raise ValueError(f"{key}.{kind}={content}: it takes a list of one or more values")
        for inner in content:
            if isinstance(inner, Mapping):
                check(f"{key}.{kind}", inner, lists)
        return
    numbers = isinstance(content, list) and len(content) == 2 and all(_is_number(b) for b in content)
    if not numbers or not content[0] < content[1]:
        raise ValueError(f"{key}.{kind}={content}: it takes two numbers [a, b] with a < b")
    if kind == "loguniform" and content[0] <= 0:
        raise ValueError(f"{key}.{kind}={content}: it takes positive numbers")
    if kind == "randint" and not all(isinstance(bound, int) and abs(bound) < 2**63 for bound in content):
        raise ValueError(f"{key}.{kind}={content}: it takes whole numbers of 64 bits")


def _check_sized(key: str, kind: str, content: Any, pixels: Any) -> None:
    if not isinstance(pixels, int) or isinstance(pixels, bool) or pixels < 1:
        raise ValueError(f"{key}.{SIZED}={pixels!r}: a whole number >= 1, of pixels times colours")
    if kind == "randint" or not isinstance(content, list) or not all(map(_is_number, content)):
        raise ValueError(f"{key}.{kind}={content}: {SIZED} multiplies numbers, of grid, choice, uniform and loguniform")


def sized(value: Any, pixels: Callable[[], int]) -> Any:
    """A space without ``pixels``, its numbers being those of images of so many: to two digits.

    Args:
        pixels: times colours; asked for where it is needed alone.
    """
    if not isinstance(value, Mapping):
        return value
    if SIZED not in value or not (kinds := [kind for kind in KINDS if kind in value]):
        return {name: sized(inner, pixels) for name, inner in value.items()}
    factor = pixels() / value[SIZED]
    return {kinds[0]: [float(f"{factor * number:.2g}") if factor != 1 else number for number in value[kinds[0]]]}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def expand(space: Mapping[str, Any]) -> Iterator[Assignment]:
    """Every combination of a space whose parts are grids and values, the last key fastest.

    Raises:
        ValueError: a part that is drawn and not listed, or more combinations than a driver has memory for.
    """

    def extend(done: Assignment, keys: list[str]) -> Iterator[Assignment]:
        if not keys:
            yield done
            return
        for value in _every(f"space.{keys[0]}", space[keys[0]], done):
            yield from extend({**done, keys[0]: value}, keys[1:])

    if next(itertools.islice(extend({}, _ordered(space)), MOST, None), None) is not None:
        raise ValueError(f"space: its grids have more than {MOST:,} members; search.sampler=random draws some of them")
    yield from extend({}, _ordered(space))


#: From a part's name, kind and content to what is taken: an index of a list, or a value of a range.
Choose = Callable[[str, str, list[Any]], Any]


def assign(space: Mapping[str, Any], choose: Choose) -> Assignment:
    """One combination, each part taken by ``choose``; a part's name says under which condition it stands."""
    done: Assignment = {}
    for key in _ordered(space):
        done[key] = _one(f"space.{key}", space[key], done, choose)
    return done


def draw(space: Mapping[str, Any], random: np.random.Generator) -> Assignment:
    """One combination at random; a grid is drawn from as a choice is."""

    def choose(name: str, kind: str, content: list[Any]) -> Any:
        if kind in LISTS:
            return int(random.integers(len(content)))
        if kind == "uniform":
            return float(random.uniform(*content))
        if kind == "loguniform":
            low, high = (math.log(bound) for bound in content)
            return math.exp(random.uniform(low, high))
        return int(random.integers(*content))

    return assign(space, choose)


def labels(content: Iterable[Any]) -> list[Any]:
    """The values of a list as a searcher takes them, plain: a mapping stands for itself as text."""
    return [json.dumps(v, sort_keys=True) if isinstance(v, dict | list) else v for v in content]


def parts(space: Mapping[str, Any]) -> dict[str, tuple[str, list[Any]]]:
    """Kind and content of every part that `assign` may ask for, by the part's name, under any condition.

    >>> parts({"model": {"grid": ["vae", "aae"]}, "weight": {"per": "model", "vae": {"uniform": [0, 1]}, "aae": 1}})
    {'space.model': ('grid', ['vae', 'aae']), 'space.weight.vae': ('uniform', [0, 1])}
    """
    found: dict[str, tuple[str, list[Any]]] = {}

    def values(key: str, value: Any, done: Assignment) -> list[Any]:
        if not isinstance(value, Mapping):
            return [value]
        if "per" in value:
            name, selected = _selected(key, value, done)
            return values(f"{key}.{name}", selected, done)
        for kind in KINDS:
            if kind in value:
                found.setdefault(key, (kind, value[kind]))
                if kind not in LISTS:
                    return [value[kind][0]]
                options = zip(_within(key, value[kind]), value[kind], strict=True)
                return [concrete for name, inner in options for concrete in values(name, inner, done)]
        # of a mapping, what is conditional on it is so by its name
        inside = {name: values(f"{key}.{name}", inner, done) for name, inner in value.items()}
        return [{**{name: first[0] for name, first in inside.items()}, "name": n} for n in inside.get("name", [None])]

    def extend(done: Assignment, keys: list[str]) -> None:
        if not keys:
            return
        seen = values(f"space.{keys[0]}", space[keys[0]], done)
        for value in seen if keys[0] in CONDITIONS else seen[:1]:
            extend({**done, keys[0]: value}, keys[1:])

    extend({}, _ordered(space))
    return found


def _ordered(space: Mapping[str, Any]) -> list[str]:
    return [k for k in CONDITIONS if k in space] + [k for k in space if k not in CONDITIONS]


def _selected(key: str, value: Mapping[str, Any], done: Assignment) -> tuple[str, Any]:
    condition = done.get(value["per"])
    name = str(condition.get("name") if isinstance(condition, Mapping) else condition)
    if name in value:
        return name, value[name]
    if "default" in value:
        return name, value["default"]
    raise ValueError(f"{key}: nothing for {value['per']}={name}, and no default")


def _every(key: str, value: Any, done: Assignment) -> list[Any]:
    if not isinstance(value, Mapping):
        return [value]
    if "per" in value:
        return _every(key, _selected(key, value, done)[1], done)
    if "grid" in value:
        return [concrete for inner in value["grid"] for concrete in _every(key, inner, done)]
    if drawn := [k for k in value if k in KINDS]:
        raise ValueError(
            f"{key}.{drawn[0]}={value[drawn[0]]}: search.sampler=grid takes {{grid: [...]}}; use search.sampler=random"
        )
    parts = [_every(f"{key}.{name}", inner, done) for name, inner in value.items()]
    return [dict(zip(value, combination, strict=True)) for combination in itertools.product(*parts)]


def _one(key: str, value: Any, done: Assignment, choose: Choose) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "per" in value:
        name, selected = _selected(key, value, done)
        return _one(f"{key}.{name}", selected, done, choose)
    for kind in KINDS:
        if kind in value:
            taken = choose(key, kind, value[kind])
            if kind not in LISTS:
                return taken
            return _one(_within(key, value[kind])[taken], value[kind][taken], done, choose)
    return {name: _one(f"{key}.{name}", inner, done, choose) for name, inner in value.items()}


def _within(key: str, options: list[Any]) -> list[str]:
    """What the parts of each option of a list are named under: the list's own key, as long as no name has two meanings.

    Else an option adds its name, or its place in the list where options have none or share it.
    """
    if not any(isinstance(option, Mapping) for option in options):
        return [key] * len(options)
    known: dict[str, list[Any]] = {key: []}
    if all(known.setdefault(name, asked) == asked for option in options for name, asked in _meanings(key, option)):
        return [key] * len(options)
    named = [option["name"] for option in options if isinstance(option, Mapping) and "name" in option]
    distinct = all(isinstance(name, str) for name in named) and len({*named}) == sum(
        isinstance(option, Mapping) for option in options
    )
    return [
        f"{key}.{option['name'] if distinct else place}" if isinstance(option, Mapping) else key
        for place, option in enumerate(options)
    ]


def _meanings(key: str, option: Any) -> Iterable[tuple[str, list[Any]]]:
    """The names of an option's parts, each with what a searcher tells parts apart by; conditions are one name here."""
    found: dict[str, list[Any]] = {}

    def look(name: str, value: Any) -> None:
        if not isinstance(value, Mapping):
            return
        kind = next((kind for kind in KINDS if kind in value), None)
        if "per" in value or kind is None:
            for key, inner in value.items():
                look(f"{name}.{'*' if 'per' in value else key}", inner)
            return
        # the bounds of a range may be others in every question
        found.setdefault(name, []).append(labels(value[kind]) if kind in LISTS else kind)
        if kind in LISTS:
            for within, inner in zip(_within(name, value[kind]), value[kind], strict=True):
                look(within, inner)

    look(key, option)
    return found.items()
