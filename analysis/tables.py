"""Tables as data: fronts, groups and failures, to be rendered on a terminal, on a page and in LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gimtune.analysis.text import flags, number, plain, rounded, short
from gimtune.results.pareto import Front, contributions, fronts_by
from gimtune.results.store import Value
from gimtune.results.varied import parameters, varied
from gimtune.vocabulary import Direction

#: Metrics shown beside the objectives where there is room; pareto.csv has them all.
CONTEXT = ("fid_floor", "fid_expost", "mi_noised", "mi_lower", "restriction")
#: More rows than these have no contributions: they take a comparison of each with each.
_CONTRIBUTIONS = 2000
#: A column of more values than these makes no groups.
_GROUPS = 8
_LONGEST = 300
_WORDS = frozenset({"trial", "run", "model", "prior", "status", "error"})


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        key: of the rows that it is from.
        numeric: whether it holds numbers.
        direction: which way an objective is better.
    """

    key: str
    numeric: bool = True
    direction: Direction = Direction.NONE

    @property
    def head(self) -> str:
        """Its name in words."""
        return self.key.replace("_", " ")


class Mark(NamedTuple):
    """A word beside a cell, and what it means."""

    word: str
    meaning: str


class Cell(NamedTuple):
    """A table's cell.

    Attributes:
        text: as shown.
        key: number to sort by; text is sorted by itself.
        marks: beside it.
        point: index of the point that it names.
    """

    text: str
    key: float | None = None
    marks: tuple[Mark, ...] = ()
    point: int | None = None


class Table(NamedTuple):
    """A table.

    Attributes:
        caption: what it shows, and how many rows of how many.
        columns: one or more.
        rows: of cells.
        notes: on the flags of its rows.
    """

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: tuple[str, ...] = ()


def setting(rows: pd.DataFrame, *first: str) -> list[str]:
    """Columns that tell rows apart: what every study has, and all that varies in this one."""
    return [*first, "model", "prior", "weight", "latent_dim", *varied(rows), "seed"]


def front_table(
    best: Front,
    context: Sequence[str] = (),
    first: Sequence[str] = ("trial",),
    *,
    most: int,
    contribution: bool = False,
    shares: bool = False,
) -> Table:
    """The rows of a front: what they are, objectives, further metrics, and the objectives on the test split.

    Args:
        context: the further metrics.
        first: columns before the setting.
        most: rows, the best of the first objective.
        contribution: what the hypervolume loses with each, and a mark at the knee.
        shares: ``front_share``, where it is known.
    """
    rows, extra = best.rows, []
    if contribution and 0 < len(rows) <= _CONTRIBUTIONS:
        lost = contributions(best)
        rows, extra = rows.assign(contribution=lost["hypervolume"], _knee=lost["knee"]), ["contribution"]
    if shares and "front_share" in rows:
        extra = [*extra, "front_share"]
    what = setting(rows, *first)
    tests = {f"test_{key}": way for key, way in best.objectives.items()}
    ways = {**best.objectives, **tests}
    keys = [*dict.fromkeys([*what, *best.objectives, *context, *tests, *extra])]
    columns = [c._replace(direction=ways.get(c.key, Direction.NONE)) for c in columns_of(rows, keys)]
    cells: list[list[Cell]] = []
    notes: dict[str, None] = {}
    for i, row in zip(rows.index[:most], rows.head(most).to_dict("records"), strict=True):
        line = {key: with_error(row, key) if key in ways else cell(row.get(key)) for key in keys}
        if "trial" in line:
            line["trial"] = line["trial"]._replace(point=int(i))
        line["model"] = line["model"]._replace(marks=marks(row))
        cells.append([*line.values()])
        notes |= dict.fromkeys(f"{plain(key)}: {plain(why)}" for key, why in flags(row).items())
    caption = f"{len(best.rows):,} of {len(best.points):,} trials" + _first(len(best.rows), most)
    return Table(caption, columns, cells, tuple(notes))


def groupings(points: pd.DataFrame) -> list[str]:
    """Columns whose values make groups of a front: models, priors, and what varies over few values in all of them."""
    own = {*parameters(points)}
    more = [key for key in varied(points) if key not in own and points[key].notna().all()]
    return ["model", "prior", *(key for key in more if points[key].nunique() <= _GROUPS)]


def group_tables(
    trials: pd.DataFrame, best: Front, only: Mapping[str, str] | None, *first: str, most: int
) -> Iterator[Table]:
    """A table for each column of `groupings` that has two groups or more."""
    for by in (*first, *groupings(best.points)):
        groups = fronts_by(trials, by, best.objectives, only=only)
        if len(groups) > 1:
            yield group_table(by, groups, best, most=most)


def group_table(by: str, groups: Mapping[str, Front], best: Front, *, most: int) -> Table:
    """Fronts of groups, the largest hypervolume first, with the share of each in the common front."""
    common = best.rows[by].fillna("unknown").astype(str).value_counts()
    cells = []
    for name, own in sorted(groups.items(), key=lambda item: -item[1].hypervolume)[:most]:
        counts = (len(own.points), len(own.rows), int(common.get(name, 0)), int(own.points["collapsed"].sum()))
        cells.append([cell(name), *map(cell, counts), cell(own.hypervolume)])
    more = f", the best {most} of {len(groups):,}" if len(groups) > most else ""
    columns = ("trials", "own front", "of the common front", "collapsed", "hypervolume")
    return Table(f"By {by}, from the same reference point{more}", [Column(by, False), *map(Column, columns)], cells)


def failure_table(failures: pd.DataFrame, first: Sequence[str] = ("trial",), *, most: int) -> Table:
    """Members that failed or diverged: what they are, how far they came, and why."""
    what = [key for key in setting(failures, *first) if key != "latent_dim"]
    columns = columns_of(failures, (*what, "epoch", "status", "error"))
    cells = [[cell(row[column.key]) for column in columns] for row in failures.head(most).to_dict("records")]
    return Table(f"Failed or diverged: {len(failures):,}{_first(len(failures), most)}", columns, cells)


def cell(value: Value) -> Cell:
    """A value as a cell."""
    key = float(np.clip(value, -1e308, 1e308)) if isinstance(value, int | float) and not pd.isna(value) else None
    return Cell(number(value), key)


def with_error(row: Mapping[Any, Value], key: str) -> Cell:
    """A value with its standard error, where it has one."""
    found, error = cell(row.get(key)), row.get(f"{key}_se")
    if not isinstance(error, float) or pd.isna(error) or found.key is None:
        return found
    return found._replace(text=f"{found.text} \u00b1 {rounded(error)}")


def marks(row: Mapping[Any, Value]) -> tuple[Mark, ...]:
    """What is to be known of a point of a front before its numbers."""
    doubts = "; ".join(f"{key}: {why}" for key, why in flags(row).items())
    found = {
        "collapsed": "less than .5 nats of information: the restriction has pressed it out" if row["collapsed"] else "",
        "flagged": short(doubts, _LONGEST),
        "knee": "furthest from the line through the ends of the front" if row.get("_knee") else "",
    }
    return tuple(Mark(word, meaning) for word, meaning in found.items() if meaning)


def columns_of(rows: pd.DataFrame, keys: Iterable[str]) -> list[Column]:
    """Columns of these keys, and whether each holds numbers."""
    words = _WORDS | {key for key in varied(rows) if not pd.api.types.is_numeric_dtype(rows[key])}
    return [Column(key, key not in words) for key in keys]


def _first(total: int, most: int) -> str:
    return f", the first {most}" if total > most else ""
