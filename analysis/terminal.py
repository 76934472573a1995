"""Tables on a terminal (rich)."""

from __future__ import annotations

import re

from rich.table import Table as Shown
from rich.text import Text

from gimtune.analysis.tables import Table

#: Columns whose cells are copied or looked for: never broken.
_WHOLE = ("trial", "model", "prior", "run")


def bare_table(title: str, caption: str | None = None) -> Shown:
    """A table without lines, to be filled."""
    return Shown(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=None if caption is None else Text(caption),
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )


def rendered(table: Table, title: str = "", *, ragged: bool = False) -> Shown:
    """A table as it is printed, with a word in red below a cell for each mark.

    Args:
        title: in place of its caption.
        ragged: numbers stand left as words do.
    """
    shown = bare_table(title or table.caption, "\n".join(f"flagged: {note}" for note in table.notes) or None)
    for column in table.columns:
        right = column.numeric and not ragged
        # a name of several words takes several lines, and the column no more room than its numbers
        head = re.sub(r"_|(?<=\.)", "\n", column.key)
        whole = column.key in _WHOLE
        shown.add_column(Text(head), justify="right" if right else "left", overflow="fold", no_wrap=whole)
    for row in table.rows:
        # what is broken across lines is broken at spaces
        cells = [Text(cell.text.replace(" \u00b1 ", "\u00b1")) for cell in row]
        for cell, text in zip(row, cells, strict=True):
            for mark in cell.marks:
                text.append(f"\n{mark.word}", style="bold red")
        shown.add_row(*cells)
    return shown


def front_title(table: Table) -> str:
    """What a front's table says above it."""
    return f"Pareto front on the validation split: {table.caption} (test: the same trials on the test split)"
