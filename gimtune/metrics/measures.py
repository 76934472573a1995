"""What a metric is: declared columns, and a function from a view of one member on one split to their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gimtune import parts
from gimtune.metrics.view import Estimate, View
from gimtune.training import machines
from gimtune.vocabulary import Member, Metric, declare

Values = Mapping[str, float | Estimate]


@dataclass(frozen=True)
class Measure:
    """A registered metric, or several that are measured together.

    Attributes:
        columns: as declared.
        function: from a view to a value, or to values by key where there are several.
        more: further columns, of a member's own restrictions.
        ours: it comes with this package, and an error in it is one.
    """

    columns: tuple[Metric, ...]
    function: Callable[[View], float | Estimate | Values]
    more: Callable[[Member], list[str]]
    ours: bool

    @property
    def name(self) -> str:
        """That of its first column."""
        return self.columns[0].key

    def keys(self, member: Member) -> list[str]:
        """Every key that it measures of a member."""
        return [*(column.key for column in self.columns), *self.more(member)]

    def __call__(self, view: View) -> dict[str, Estimate]:
        """Its values by key; where somebody's own metric fails, NaN with the reason: the member's other numbers stand.

        Raises:
            ValueError: one of ours returned other keys than it declares, or a value without its standard error.
        """
        try:
            return self._estimates(view)
        except (Exception, SystemExit) as error:
            if self.ours or machines(error):
                raise
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            return {key: Estimate(math.nan, reason=why) for key in self.keys(view.member)}

    def _estimates(self, view: View) -> dict[str, Estimate]:
        keys, found = self.keys(view.member), self.function(view)
        values = dict(found) if isinstance(found, Mapping) else {keys[0]: found}
        if {*values} != {*keys}:
            raise ValueError(f"it returned {', '.join(map(str, values))}; declared are {', '.join(keys)}")
        estimates = {key: _plain(value) for key, value in values.items()}
        for column in self.columns:
            if column.error and estimates[column.key].error is None and not estimates[column.key].reason:
                raise ValueError(f"{column.key} is declared with a standard error, and has none")
        return estimates


def _plain(value: Any) -> Estimate:
    """A number of torch or NumPy, or an estimate of such, as Python's own: they go into JSON and SQLite."""
    value, error, reason, flag, estimator = value if isinstance(value, Estimate) else Estimate(value)
    number = float(value)
    return Estimate(number, None if error is None else float(error), str(reason), str(flag or ""), str(estimator))


def _accept(measure: Any) -> tuple[str, Measure]:
    if not measure.columns:
        raise ValueError("it declares no column: metric(Metric(...))")
    view = [*parts.signature(measure.function)]
    if len(view) != 1:
        raise ValueError(f"it takes one argument, the view; not {', '.join(view) or 'none'}")
    parts.summary(measure.function)
    for other in MEASURES.values():
        if other.name != measure.name and (taken := {c.key for c in other.columns} & {c.key for c in measure.columns}):
            raise ValueError(f"{sorted(taken)[0]} is measured by {other.name}")
    declare(measure.columns)
    return measure.name, measure


def _facts(measure: Measure) -> parts.Facts:
    columns = {
        c.key: f"{c.meaning} ({c.unit}; {'better at its ' + c.direction if c.direction != 'none' else 'describes'})"
        for c in measure.columns
    }
    sources = dict.fromkeys(c.source for c in measure.columns if c.source)
    return parts.Facts(parts.summary(measure.function), columns, "; ".join(sources))


MEASURES: parts.Registry[str, Measure] = parts.Registry(
    "metric",
    "A function of one argument, a gimtune.metrics.View of a member on a split, with the columns that it measures "
    "declared as gimtune.vocabulary.Metric. It returns a number, an Estimate (value, standard error, reason, flag), or "
    "a mapping of these by key. It draws from view.random alone, so that the same weights give the same numbers.",
    _accept,
    _facts,
)


def metric(
    *columns: Metric, more: Callable[[Member], list[str]] = lambda member: []
) -> Callable[[Callable[[View], Any]], Callable[[View], Any]]:
    """Register a function as what measures these columns.

    Args:
        more: further columns that depend on the member.

    Raises:
        PartError: it does not keep the contract of a metric.
    """
    origin = parts.caller(2)

    def register(function: Callable[[View], Any]) -> Callable[[View], Any]:
        MEASURES.enter(Measure(columns, function, more, origin.startswith("gimtune.")), origin)
        return function

    return register


def columns(member: Member) -> list[str]:
    """Every metric of a member: those of `METRICS` that are measured, and those of its own restrictions."""
    return [key for measure in MEASURES.values() for key in measure.keys(member)]


def find(key: str, member: Member) -> Measure:
    """What measures a key of a member.

    Raises:
        KeyError: nothing does.
    """
    for measure in MEASURES.values():
        if key in measure.keys(member):
            return measure
    raise KeyError(f"no metric measures {key}")
