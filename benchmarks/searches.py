"""Searches without training: the product's samplers and rungs, on simulated workers, by hypervolume against effort.

Members are drawn by `gimtune.study.resolve.members` (random) or asked of `gimtune.tuning.search.Proposals` (Optuna),
stopped by `gimtune.tuning.mo_asha.Rungs`, each as a study file would set them. `search_on_zdt` and `search_on_study`
say what a member reports. Eight workers run at a time, each epoch of a member takes between 0.5 and 1.5 of a simulated
unit, so that reports arrive in no order. A stopped member costs the epochs that it took.
"""

from __future__ import annotations

import csv
import heapq
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path
from typing import NamedTuple

import moocore
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gimtune.study.resolve import members
from gimtune.study.schema import SEQUENTIAL, Config
from gimtune.tuning.mo_asha import Rungs, make_rungs
from gimtune.tuning.search import Proposals
from gimtune.vocabulary import Member, Status

WORKERS = 8
SAMPLERS = ("random", *SEQUENTIAL)
SCHEDULERS = ("fifo", "mo_asha")
#: Of everything a study of fifo starts, a study with rungs may start so many times more.
_MORE = 6
_COLUMNS = "{:16} {:>15} {:>15} {:>15} {:>9}  {:29} {:>7} {:>8}"
_COLOURS = {"fifo": "#0072B2", "mo_asha": "#D55E00"}
_TITLES = {"fifo": "every member to the end", "mo_asha": "mo_asha"}


class Problem(NamedTuple):
    """What is searched.

    Attributes:
        config: space, objectives and budget of the study; sampler, scheduler and seed are set here.
        epochs: at which a member reports, ascending; the last one ends it.
        reports: the objectives of a member at one of these epochs, by metric; ``None``: it diverged before.
        counts: the objectives with which a member that ended at an epoch counts, in the order of ``config.objectives``;
            ``None``: it is on no front.
        reference: corner of the hypervolume, in the same order.
        ceiling: hypervolume of the true front.
        prepare: makes its parts known, in each process that searches.
    """

    name: str
    config: Config
    epochs: Sequence[int]
    reports: Callable[[Member, int, int], Mapping[str, float] | None]
    counts: Callable[[Member, int], Sequence[float] | None]
    reference: Sequence[float]
    ceiling: float
    prepare: Callable[[], None] = lambda: None


class Curve(NamedTuple):
    """Of one study: after each member that ended, how many had, the epochs spent by all, and the hypervolume."""

    trials: np.ndarray
    epochs: np.ndarray
    hypervolume: np.ndarray
    seconds_asking: float

    def at(self, axis: str, where: Sequence[float] | np.ndarray) -> np.ndarray:
        """Hypervolume once so many ``trials`` or ``epochs`` are spent: 0 before the first, a step function after."""
        index = np.searchsorted(getattr(self, axis), where, side="right")
        return np.concatenate([[0.0], self.hypervolume])[index]


def search(problem: Problem, sampler: str, scheduler: str, trials: int, seed: int) -> Curve:
    """One study, until it has spent the epochs of ``trials`` members that run to the end."""
    problem.prepare()
    budget = trials * problem.epochs[-1]
    config = _configured(problem.config, sampler, scheduler, trials * (1 if scheduler == "fifo" else _MORE), seed)
    maximise = [direction == "max" for direction in config.objectives.values()]
    rungs: Rungs | None = make_rungs(config) if scheduler == "mo_asha" else None
    random = np.random.default_rng(seed)
    # (time, number, member, index of its next epoch)
    running: list[tuple[float, int, Member, int]] = []
    found: list[Sequence[float]] = []
    points: list[tuple[int, int, float]] = []
    ended = spent = asked = 0
    asking = volume = 0.0

    with _Questions(config) as (ask, tell):

        def schedule(now: float, number: int, one: Member, step: int) -> None:
            length = problem.epochs[step] - (problem.epochs[step - 1] if step else 0)
            heapq.heappush(running, (now + length * random.uniform(0.5, 1.5), number, one, step))

        def start(now: float) -> None:
            nonlocal asked, asking
            before = time.perf_counter()
            one = ask() if asked < (config.search.trials or 0) else None
            asking += time.perf_counter() - before
            if one is not None:
                schedule(now, asked, one, 0)
                asked += 1

        for _ in range(min(WORKERS, trials)):
            start(0.0)
        while running and spent < budget:
            now, number, one, step = heapq.heappop(running)
            epoch = problem.epochs[step]
            spent += epoch - (problem.epochs[step - 1] if step else 0)
            row = problem.reports(one, epoch, seed)
            last = step == len(problem.epochs) - 1
            if row is not None and not last and (rungs is None or rungs.report(one.trial, epoch, row)):
                schedule(now, number, one, step + 1)
                continue
            ended += 1
            if row is None:
                tell(one.trial, Status.DIVERGED, {})
            elif not last:
                tell(one.trial, Status.STOPPED, row)
            else:
                if rungs is not None:
                    rungs.report(one.trial, epoch, row)
                tell(one.trial, Status.DONE, row)
            point = problem.counts(one, epoch)
            if point is not None and np.isfinite(point).all():
                found.append(point)
                volume = float(moocore.hypervolume(np.array(found), ref=problem.reference, maximise=maximise))
            points.append((ended, spent, volume))
            start(now)
    at = np.array(points)
    return Curve(at[:, 0], at[:, 1], at[:, 2], asking)


class _Questions:
    """The study's members one after the other: ``ask() -> Member | None`` and ``tell`` as `Proposals` has it."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __enter__(self) -> tuple[Callable[[], Member | None], Callable[..., None]]:
        self._folder = tempfile.TemporaryDirectory()
        if self._config.search.sampler not in SEQUENTIAL:
            drawn: Iterator[Member] = iter(members(self._config))
            return lambda: next(drawn, None), lambda *told: None
        proposals = Proposals(self._config, Path(self._folder.name), pd.DataFrame())
        return lambda: next(iter(proposals.ask(lambda first: 1)), None), proposals.tell

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()


def _configured(config: Config, sampler: str, scheduler: str, trials: int, seed: int) -> Config:
    search = config.search.model_copy(update={"sampler": sampler, "trials": trials})
    rungs = config.scheduler.model_copy(update={"name": scheduler})
    return config.model_copy(update={"search": search, "scheduler": rungs, "seed": seed})


Results = dict[tuple[str, str, str], list[Curve]]


def compare(problems: Sequence[Problem], samplers: Sequence[str], trials: int, seeds: int) -> Results:
    """Every sampler with and without rungs, the seeds of each; random search without rungs is always among them."""
    results: Results = {}
    for problem in problems:
        corner = ", ".join(f"{x:g}" for x in problem.reference)
        print(
            f"\n{problem.name}: {seeds} seeds; each search spends the {trials * problem.epochs[-1]} epochs of {trials} "
            f"members to the end.\nHypervolume from {corner}, as a share of the true front's {problem.ceiling:.4g}; "
            "epochs (as a share)\nto the hypervolume that random search without mo_asha of the same seed ends with.\n"
        )
        print(
            _COLUMNS.format("", "hypervolume", "after half of", f"after {trials}", "epochs to", "", "members", "s per")
        )
        print(_COLUMNS.format("search", "at the end", "the epochs", "members", "random's", "each seed", "", "question"))
        searches = list(product(dict.fromkeys(("random", *samplers)), SCHEDULERS))
        # a processor each: they know nothing of each other
        every = Parallel(n_jobs=-1, return_as="generator")(
            delayed(search)(problem, sampler, scheduler, trials, seed)
            for (sampler, scheduler), seed in product(searches, range(seeds))
        )
        for sampler, scheduler in searches:
            curves = list(islice(every, seeds))
            results[problem.name, sampler, scheduler] = curves
            baseline = results[problem.name, "random", "fifo"]
            print(_line(problem, sampler, scheduler, curves, baseline, trials), flush=True)
    return results


def _line(
    problem: Problem, sampler: str, scheduler: str, curves: list[Curve], baseline: list[Curve], trials: int
) -> str:
    budget = trials * problem.epochs[-1]

    def told(axis: str, where: float) -> str:
        shares = [float(curve.at(axis, [where])[0]) / problem.ceiling for curve in curves]
        return f"{np.mean(shares):.3f} +- {np.std(shares, ddof=1):.3f}" if len(shares) > 1 else f"{shares[0]:.3f}"

    shares = [reached(c, b.hypervolume[-1]) / budget for c, b in zip(curves, baseline, strict=True)]
    each = " ".join(f"{s:.2f}" if s < math.inf else "never" for s in shares)
    middle = f"{np.median(shares):.2f}" if np.median(shares) < math.inf else "never"
    ended = np.mean([len(c.trials) for c in curves])
    asking = sum(c.seconds_asking for c in curves) / sum(len(c.trials) for c in curves)
    name = sampler + (" + mo_asha" if scheduler == "mo_asha" else "")
    half, whole, same = told("epochs", budget / 2), told("epochs", budget), told("trials", trials)
    return _COLUMNS.format(name, whole, half, same, middle, each, f"{ended:.0f}", f"{asking:.3f}")


def reached(curve: Curve, level: float) -> float:
    """Epochs until a hypervolume, or infinity."""
    there = np.flatnonzero(curve.hypervolume >= level)
    return float(curve.epochs[there[0]]) if len(there) else math.inf


def save(path: Path, problems: Sequence[Problem], results: Results, trials: int) -> None:
    """``path`` as a figure, and beside it the numbers as CSV: each curve where it rises, and its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["problem", "sampler", "scheduler", "seed", "trials", "epochs", "hypervolume", "ceiling"])
        for problem in problems:
            for (name, sampler, scheduler), curves in results.items():
                for seed, curve in enumerate(curves if name == problem.name else ()):
                    rises = np.flatnonzero(np.diff(curve.hypervolume, prepend=0.0))
                    for i in sorted({*rises.tolist(), len(curve.trials) - 1}):
                        effort = [int(curve.trials[i]), int(curve.epochs[i])]
                        volumes = [f"{curve.hypervolume[i]:.6g}", f"{problem.ceiling:.6g}"]
                        table.writerow([name, sampler, scheduler, seed, *effort, *volumes])
    _draw(problems, results, trials).print_png(str(path))


def _draw(problems: Sequence[Problem], results: Results, trials: int) -> FigureCanvasAgg:
    samplers = list(dict.fromkeys(sampler for _, sampler, _ in results))
    rows = [(problem, axis) for problem in problems for axis in ("epochs", "trials")]
    figure = Figure(figsize=(2.9 * len(samplers), 2.6 * len(rows)), layout="constrained", dpi=110)
    axes = figure.subplots(len(rows), len(samplers), squeeze=False, sharey="row")
    for (problem, axis), line in zip(rows, axes, strict=True):
        budget = trials * problem.epochs[-1]
        most = max(c.trials[-1] for key, curves in results.items() if key[0] == problem.name for c in curves)
        where = np.linspace(0, budget, 400) if axis == "epochs" else np.unique(np.geomspace(1, most, 400).astype(int))
        base = np.mean([c.at(axis, where) for c in results[problem.name, "random", "fifo"]], axis=0) / problem.ceiling
        for sampler, panel in zip(samplers, line, strict=True):
            for scheduler in SCHEDULERS:
                curves = results[problem.name, sampler, scheduler]
                # a study's curve ends with its last member
                end = max(getattr(c, axis)[-1] for c in curves)
                x = where[where <= end]
                y = np.array([c.at(axis, x) for c in curves]) / problem.ceiling
                panel.fill_between(x, y.min(0), y.max(0), color=_COLOURS[scheduler], alpha=0.15, linewidth=0)
                panel.plot(x, y.mean(0), color=_COLOURS[scheduler], label=_TITLES[scheduler])
            if sampler != "random":
                panel.plot(where, base, color="black", linewidth=0.8, linestyle=":", label="random, to the end")
            panel.set_title(sampler, fontsize=10)
            panel.set_xlabel("epochs spent" if axis == "epochs" else "members ended")
            panel.set_ylim(0, 1.02)
            if axis == "trials":
                panel.set_xscale("log")
            panel.grid(alpha=0.3)
        line[0].set_ylabel(f"{problem.name}\nhypervolume / true front's")
    handles, labels = axes[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return FigureCanvasAgg(figure)
