"""What a study leaves behind: tables and figures in its folder, and a summary on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs
from rich.console import Console
from rich.text import Text

from gimtune.analysis.export import latex
from gimtune.analysis.export.references import bibliography
from gimtune.analysis.figures.gallery import figures_of
from gimtune.analysis.page.comparison import compared
from gimtune.analysis.page.page import page
from gimtune.analysis.statistics.attainment import with_shares
from gimtune.analysis.statistics.claims import UNMEASURED, at_budgets, claims
from gimtune.analysis.statistics.verdicts import Verdict, Verdicts, between, chosen_by_results, corrected
from gimtune.analysis.tables import failure_table, front_table, group_table, group_tables
from gimtune.analysis.terminal import bare_table, front_title, rendered
from gimtune.analysis.text import distances, number, plain, plural
from gimtune.files import replacing
from gimtune.results.budget import at_budget
from gimtune.results.environment import mixed
from gimtune.results.load import Study, load, once, pooled
from gimtune.results.pareto import OBJECTIVES, Front, front, fronts_by
from gimtune.results.tally import edges, levelling
from gimtune.vocabulary import Status

#: Metrics beside the objectives, where a terminal has so many columns.
_CONTEXT = ("fid_expost", "mi_noised", "restriction")
_WIDE = 110
_FAILURES = 20
_ROWS = 100
_DECIDED = (Verdict.HOLDS, Verdict.DOES_NOT_HOLD)
_COLOURS = {Verdict.HOLDS: "green", Verdict.DOES_NOT_HOLD: "red", Verdict.UNDECIDED: "dim", Verdict.TOO_FEW: "dim"}


def export(
    run: Study | Path | str,
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    only: Mapping[str, str] | None = None,
    verdicts: Verdicts | None = None,
    out: Path | None = None,
) -> dict[str, Path]:
    """Write a study's tables and figures into its folder, each whole or not at all; return their paths.

    Args:
        run: a study, or its folder.
        objectives, only: as of `front`.
        verdicts: the study's `verdicts_of`, where they are known.
        out: another folder to write into.

    ``trials.parquet`` is written even if the front is refused, and ``claims.csv`` has the verdicts' numbers in words.

    Raises:
        ValueError, OSError: as `load` and `front`, or the folder cannot be written.
    """
    study = run if isinstance(run, Study) else load(run)
    folder = out or study.run
    paths = {name: folder / name for name in ("trials.parquet", "pareto.csv", "claims.csv")}
    table, csv, answers = paths.values()
    _write(table, lambda part: study.trials.to_parquet(part, index=False))
    best = with_shares(front(study.trials, objectives, only=only), np.random.default_rng(0))
    _write(csv, lambda part: best.rows.to_csv(part, index=False))
    told = verdicts or verdicts_of(study, only)
    _write(answers, lambda part: told.table().to_csv(part, index=False))
    for name, write in {
        "front.parquet": lambda part: best.rows.to_parquet(part, index=False),
        "front.tex": lambda part: part.write_text(latex.front_table(best), encoding="utf-8"),
        "references.bib": lambda part: part.write_text(bibliography(study), encoding="utf-8"),
    }.items():
        paths[f"tables/{name}"] = folder / "tables" / name
        _write(folder / "tables" / name, write)
    paths |= _export_figures(best, study.run, folder)
    paths["report.html"] = write_report([study], objectives, only=only, verdicts=[told], out=folder)
    return paths


def write_report(
    runs: Sequence[Study | Path | str],
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    only: Mapping[str, str] | None = None,
    verdicts: Sequence[Verdicts] = (),
    out: Path | None = None,
) -> Path:
    """Write ``report.html`` on all of the runs into ``out`` or the first's folder, whole or not at all; its path.

    Raises:
        ValueError, OSError: as `load` and `page`, or the folder cannot be written.
    """
    studies = [run if isinstance(run, Study) else load(run) for run in runs]
    told = verdicts or [verdicts_of(study, only) for study in studies]
    text = page(studies, told, objectives, only=only)
    path = (out or studies[0].run) / "report.html"
    _write(path, lambda part: part.write_text(text, encoding="utf-8"))
    return path


def _export_figures(best: Front, run: Path, folder: Path) -> dict[str, Path]:
    """Each of `figures_of` that the study has, as PNG and PDF, and as a page beside plotly's script."""
    paths = {}

    def written(name: str, write: Callable[[Path], object]) -> None:
        paths[f"figures/{name}"] = folder / "figures" / name
        _write(folder / "figures" / name, write)

    for name, kind in figures_of(best.objectives).items():
        if (figure := kind.static(best, run)) is not None:
            for suffix in ("png", "pdf"):
                written(f"{name}.{suffix}", figure.savefig)
                figure.set_layout_engine("none")  # it stands now, and takes as long as the drawing
        if (drawn := kind.interactive(best, run)) is not None:
            page = drawn.to_html(
                include_plotlyjs="directory",
                include_mathjax=False,
                config={"displaylogo": False, "showSendToCloud": False},
            )
            written(f"{name}.html", partial(Path.write_text, data=page, encoding="utf-8"))
    script = get_plotlyjs()
    written("plotly.min.js", partial(Path.write_text, data=script, encoding="utf-8"))
    return paths


def _write(path: Path, write: Callable[[Path], object]) -> None:
    with replacing(path) as part:
        write(part)


def print_front(
    study: Study,
    console: Console,
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    only: Mapping[str, str] | None = None,
    paths: Mapping[str, Path] | None = None,
    verdicts: Verdicts | None = None,
) -> None:
    """Print the front, its hypervolume, those by model and by prior, what was left out, the verdicts and `paths`."""
    best = with_shares(front(study.trials, objectives, only=only), np.random.default_rng(0))
    if study.older:
        console.print(Text(f"note: {study.older}"), soft_wrap=True)
    for note in filter(None, (levelling(study.trials), edges(best.points), mixed(best.points, study.meta))):
        console.print(Text(f"note: {note}"), soft_wrap=True)
    # what varies beside takes the room of the context
    context = _CONTEXT if console.width >= _WIDE + 12 * len(study.varied) else ()
    table = front_table(best, context, most=_ROWS, shares=True)
    console.print(rendered(table, front_title(table)))
    reference = ", ".join(f"{key} {number(value)}" for key, value in best.reference.items())
    console.print(f"hypervolume {number(best.hypervolume)} from the reference point {reference}", highlight=False)
    for groups in group_tables(study.trials, best, only, most=_ROWS):
        console.print(rendered(groups))
    if told := distances(study.meta, study.trials):
        console.print(Text(told), soft_wrap=True)
    left = ", ".join(f"{count} {plain(reason)}" for reason, count in best.left_out.items()) or "none"
    console.print(Text(f"{len(best.points)} of {len(study.trials)} trials considered; left out: {left}"))
    failures = study.trials[study.trials["status"].isin([Status.FAILED, Status.DIVERGED])]
    if len(failures):
        console.print(rendered(failure_table(failures, most=_FAILURES), ragged=True))
    print_verdicts(verdicts or verdicts_of(study, only), console)
    for path in dict.fromkeys(
        p.parent if p.parent.name in ("figures", "tables") else p for p in (paths or {}).values()
    ):
        console.print(Text(str(path)), soft_wrap=True)


def print_comparison(
    runs: Sequence[Study],
    console: Console,
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    only: Mapping[str, str] | None = None,
) -> None:
    """Print the common front of several runs, the share of each, and what the first attains more than the others."""
    labels, trials = pooled(runs)
    members, twice = once(trials)
    best = front(members, objectives, only=only)
    if twice:
        console.print(Text(f"note: {twice}"), soft_wrap=True)
    table = front_table(best, (), ("trial", "run"), most=_ROWS)
    console.print(rendered(table, front_title(table)))
    console.print(rendered(group_table("run", fronts_by(trials, "run", best.objectives, only=only), best, most=_ROWS)))
    for _, told in compared(runs, labels, best.objectives, only):
        console.print(Text(told), soft_wrap=True)


def print_verdicts(verdicts: Verdicts, console: Console) -> None:
    """Print the claims with their effects and intervals, or why there are none."""
    table = bare_table(f"Claims, on the {verdicts.split} split, at {verdicts.budget}")
    table.add_column("")
    table.add_column("claim")
    table.add_column("verdict", no_wrap=True)
    for column in ("effect", "such models", "these models", "p", "models"):
        table.add_column(column, justify="right", no_wrap=True, overflow="fold")
    measured = [claim for claim in verdicts.claims if not pd.isna(claim.value)]
    for claim in measured:
        verdict = Text(claim.verdict, style=_COLOURS[claim.verdict])
        numbers = (f"{claim.value:+.2f}", between(claim.low, claim.high), between(claim.seeds_low, claim.seeds_high))
        p = "-" if pd.isna(claim.p_adjusted) else f"{claim.p_adjusted:.3f}"
        table.add_row(f"({claim.key[0]})", claim.statement, verdict, *numbers, p, str(claim.models))
    if measured:
        console.print(table)
    if any(claim.at_half for claim in measured):
        both = [c for c in measured if UNMEASURED not in (c.at_half, c.at_whole)]
        turned = [c for c in both if c.at_half != c.at_whole and {c.at_half, c.at_whole} & {*_DECIDED}]
        told = "; ".join(f"({c.key[0]}) {c.statement}: {c.at_half}, then {c.at_whole}" for c in turned)
        if lacking := [c for c in measured if c not in both]:
            where = "half" if all(c.at_half == UNMEASURED for c in lacking) else "one of them"
            told = f"{told or 'no verdict turns'} among the {len(both)} measured at both; "
            told += f"{len(lacking)} not measured at {where}"
        head = "On the validation split, at half of the budget and at all of it:"
        console.print(Text(f"{head} {told or 'no verdict turns'}"), soft_wrap=True)
    if missing := Counter(claim.key[0] for claim in verdicts.claims if pd.isna(claim.value)):
        which = ", ".join(f"({key})" + (f" x {count}" if count > 1 else "") for key, count in missing.items())
        head = "" if measured else f"Claims, on the {verdicts.split} split. "
        console.print(Text(f"{head}Undecided for want of data: {which}; claims.csv says what each needs"))
    if verdicts.refused:
        console.print(Text(f"no verdicts: {verdicts.refused}"), soft_wrap=True)
    elif measured:
        console.print(Text(corrected(verdicts)), soft_wrap=True)
    left = ", ".join(f"{count} {plain(reason)}" for reason, count in verdicts.left_out.items()) or "none"
    of = f"{plural(verdicts.configurations, 'configuration')}, {plural(verdicts.models, 'model')}"
    total = f"{plural(verdicts.trials, 'trial')} of {of}"
    console.print(Text(f"from {total}; left out: {left}"))


def verdicts_of(study: Study, only: Mapping[str, str] | None = None) -> Verdicts:
    """A study's verdicts, the same in every reading; where it has reports, with those at half of the budget."""
    adaptive = chosen_by_results(study)
    found = claims(study.trials, np.random.default_rng(0), only=only, adaptive=adaptive)
    if adaptive or study.reports.empty:
        return found
    half = at_budget(study, 0.5).trials
    return found if half.empty else at_budgets(found, half, at_budget(study, 1).trials, only)


def report(
    study: Study,
    console: Console,
    objectives: Mapping[str, str] | Iterable[str],
    *,
    only: Mapping[str, str] | None = None,
    verdicts: Verdicts | None = None,
    out: Path | None = None,
) -> str:
    """Write and print what there is to say of a study, and print it all the same where it cannot be written.

    Returns:
        Why files were not written; empty where they were.

    Raises:
        ValueError: as `export`.
    """
    told, lost, paths = verdicts or verdicts_of(study, only), "", dict[str, Path]()
    try:
        paths = export(study, objectives, only=only, verdicts=told, out=out)
    except OSError as error:
        lost = f"not written: {error}"
    print_front(study, console, objectives, only=only, paths=paths, verdicts=told)
    return lost


def conclude(run: Path, objectives: Mapping[str, str], console: Console) -> int:
    """Write and print what there is to say of a run that has ended.

    Returns:
        0, or 1 where members failed or diverged, which are listed, or where files could not be written.
    """
    study = load(run)
    failed = study.trials[study.trials["status"].isin([Status.FAILED, Status.DIVERGED])]
    try:
        verdicts = verdicts_of(study)
        if lost := report(study, console, objectives, verdicts=verdicts):
            console.print(Text(f"gimtune analysis {run} writes them: {lost}"), soft_wrap=True)
            return 1
    except ValueError as error:
        console.print(Text(f"no front: {error}"), soft_wrap=True)
        for row in failed.to_dict("records"):
            console.print(Text(f"{row['status']} {row['trial']} {row['model']}: {row['error']}"), soft_wrap=True)
    return 1 if len(failed) else 0
