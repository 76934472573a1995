"""How a study stands, on a terminal: once, or until it has ended."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Shown
from rich.text import Text

from gimtune.analysis.export.report import export
from gimtune.analysis.status import Standing, standing
from gimtune.analysis.tables import Column, Table, cell, columns_of, failure_table, front_table, setting
from gimtune.analysis.terminal import front_title, rendered
from gimtune.analysis.text import number, plain
from gimtune.results.folder import go_on
from gimtune.results.load import load
from gimtune.results.tally import span
from gimtune.vocabulary import Status

_ROWS, _FRONT = 12, 100
_REFRESH = 2.0
_REPORT_EVERY = 60.0


def render(stand: Standing, rows: int | None = None) -> Group:
    """The whole for a terminal; ``rows`` limits each of its tables."""
    return Group(*_parts(stand, rows))


def _parts(stand: Standing, rows: int | None) -> Iterator[RenderableType]:
    study, tally = stand.study, stand.tally
    counts = {status: count for status, count in tally.counts.items() if count}
    yield Text.assemble((plain(study.meta.get("name", study.run.name)), "bold"), f"  {plain(study.run)}")
    yield Text(f"members  {tally.total}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    planned = tally.trained + tally.left
    if planned:
        share = f"epochs   {tally.trained:,} of {'' if stand.ended else 'about '}{planned:,.0f} "
        bar = Shown.grid()
        bar.add_row(Text(share), ProgressBar(planned, tally.trained, width=30), Text(f" {tally.trained / planned:.0%}"))
        yield bar
    yield driver(stand)
    trials = study.trials
    failed = trials[trials["status"].isin([Status.FAILED, Status.DIVERGED])]
    if len(failed):
        yield ""
        table = failed_table(study.run, failed, rows)
        yield rendered(table, table.caption, ragged=True)
    running = trials[trials["status"] == Status.RUNNING]
    if len(running):
        yield ""
        yield rendered(running_table(stand, running, rows))
    yield ""
    if stand.best is None:
        yield Text(f"no front: {plain(stand.refused)}")
    elif len(stand.best.rows):
        shown = min(rows or _FRONT, _FRONT)
        table = front_table(stand.best, most=shown)
        yield rendered(table, front_title(table))
        if shown < len(stand.best.rows):
            yield Text(f"... of {len(stand.best.rows)} on the front", style="dim")
        reference = ", ".join(f"{key} {number(value)}" for key, value in stand.best.reference.items())
        yield Text(f"hypervolume {number(stand.best.hypervolume)} from the reference point {reference}")
    else:
        yield Text("no member has ended yet: no front")


def driver(stand: Standing) -> Text:
    """Whether a driver is at work, since when and until when, or how to go on."""
    if stand.ended:
        when = stand.study.trials["reported"].max()
        at = f", the last at {_clock(when, stand.now)}" if math.isfinite(when) else ""
        writing = "; the driver is writing the report" if stand.driver else ""
        return Text(f"ended    all results are in{at}{writing}")
    if not stand.driver:
        line = f"\n  {plain(go_on(stand.study.run))}"
        # one line whatever its length, to be copied
        stopped = ("driver   none is at work; go on with", "bold red")
        return Text.assemble(stopped, line, no_wrap=True, overflow="ignore")
    since = stand.study.meta.get("started")
    text = f"driver   at work since {_clock(float(since), stand.now)}" if since else "driver   at work: Ray is starting"
    if stand.left is not None:
        until = f"about {span(stand.left)} left, until {_clock(stand.now + stand.left, stand.now)}"
        text += f"; {until if round(stand.left) else 'the last members are being measured'}"
    return Text(text)


def _clock(then: float, now: float) -> str:
    """Local time, with the day where it is another."""
    day = "%a %d %b " if time.localtime(then)[:3] != time.localtime(now)[:3] else ""
    return time.strftime(f"{day}%H:%M:%S", time.localtime(then))


def failed_table(run: Path, failed: pd.DataFrame, rows: int | None = None) -> Table:
    """Members that failed or diverged, the latest ``rows``, with the files that have their tracebacks."""
    latest = failed.tail(rows or len(failed))
    table = failure_table(latest, most=len(latest))
    paths = [Path("errors") / f"{pack}.txt" for pack in latest["pack"]]
    traces = [cell(plain(path) if (run / path).is_file() else None) for path in paths]
    cells = [[*row, trace] for row, trace in zip(table.rows, traces, strict=True)]
    columns = [*table.columns, Column("traceback", False)]
    return table._replace(caption=_counted("Failed or diverged", failed, rows), columns=columns, rows=cells)


def running_table(stand: Standing, running: pd.DataFrame, rows: int | None = None) -> Table:
    """Members that are trained, those first that were heard of last."""
    latest = running.sort_values("reported", ascending=False).head(rows or len(running))
    what = [key for key in setting(latest, "trial") if key != "latent_dim"]
    columns = [*columns_of(latest, what), Column("epoch"), Column("last report")]
    columns += map(Column, stand.best.objectives if stand.best else ())
    cells = []
    for row in latest.to_dict("records"):
        epoch, heard = row["epoch"], row["reported"]
        said = f"{number(epoch if epoch == epoch else 0)} of {stand.tally.epochs}"
        ago = None if heard is None or math.isnan(heard) else f"{span(max(0.0, stand.now - heard))} ago"
        told = {**row, "epoch": said, "last report": ago}
        cells.append([cell(told[column.key]) for column in columns])
    title = _counted("Running" if stand.driver else "Begun when the driver ended", running, rows)
    return Table(title, columns, cells)


def _counted(title: str, frame: pd.DataFrame, rows: int | None) -> str:
    return f"{title}: {len(frame)}" + (f", the latest {rows}" if rows and len(frame) > rows else "")


def watch(
    run: Path,
    console: Console,
    objectives: Mapping[str, str] | Iterable[str] | None = None,
    *,
    only: Mapping[str, str] | None = None,
) -> None:
    """Show a study until it has ended or Ctrl-C; the tables, figures and report in its folder follow it.

    Raises:
        FileNotFoundError, ValueError, OSError: as `standing`, or the folder cannot be written.
    """
    fresh = _Fresh(run, objectives, only)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            begun = time.monotonic()
            stand = standing(run, objectives, only=only)
            live.update(Group(render(stand, _ROWS), fresh.note), refresh=True)
            over = stand.ended and not stand.driver
            fresh.follow(stand, over)
            if over:
                live.update(Group(render(stand, _ROWS), fresh.note), refresh=True)
                return
            # a study of thousands takes longer to read: a tenth of the time at most goes into that
            time.sleep(max(_REFRESH, 10 * (time.monotonic() - begun)))


class _Fresh:
    """Writes the report anew when members have ended since, and no more than a twentieth of the time."""

    def __init__(self, run: Path, objectives: Mapping[str, str] | Iterable[str] | None, only: Mapping[str, str] | None):
        self.run, self.objectives, self.only = run, objectives, only
        self.note = Text("")
        self._members, self._next = 0, 0.0

    def follow(self, stand: Standing, over: bool) -> None:
        if stand.best is None or stand.tally.ended == self._members:
            return
        begun = time.monotonic()
        if begun < self._next and not over:
            return
        export(load(self.run), self.objectives or stand.best.objectives, only=self.only)
        self._members = stand.tally.ended
        self._next = time.monotonic() + max(_REPORT_EVERY, 20 * (time.monotonic() - begun))
        self.note = Text(f"report.html, tables and figures as of {time.strftime('%H:%M:%S')}", style="dim")
