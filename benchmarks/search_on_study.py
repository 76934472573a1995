"""Search and early stopping on a finished study, as a table of learning curves: hypervolume against members and epochs.

    python -m gimtune study=tradeoff budget.evaluate_every=5 'space.seed={grid: [0, 1, 2]}'
    python -m benchmarks.search_on_study results/tradeoff/... --figure docs/images/search-digits.png

As NAS-Bench and LCBench do it: searches look members up in a grid that ran to its end and train nothing. The space is
the study's own (model, a weight that depends on it, prior, seed), of which a sampler sees categories; rungs stand at 1,
3, 9, ... times the epochs between two of the run's evaluations, and decide by what was measured there. A stopped member
is a model that one has, so it counts with what it was when it stopped, as in any study; the true front is that of the
members at their end. Everything is of the validation split. `benchmarks.searches` says how the searches run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import moocore
import numpy as np

from benchmarks.searches import SAMPLERS, Problem, compare, save
from gimtune import analysis
from gimtune.study.composition import reopened
from gimtune.study.messages import ConfigError
from gimtune.study.resolve import members
from gimtune.vocabulary import Member, Status


def problem(run: Path) -> Problem:
    """The run as a table; the hypervolume's corner is the median of each objective over members that ran to the end.

    Raises:
        ValueError: it is no finished grid whose members were evaluated at the same epochs, twice or more.
    """
    config, study = reopened(run), analysis.load(run)
    if (config.search.sampler, config.scheduler.name) != ("grid", "fifo"):
        raise ValueError(f"{run}: a table is a grid that ran to its end (search=grid, scheduler=fifo)")
    status = dict(zip(study.trials["trial"], study.trials["status"], strict=True))
    grid = {member.trial for member in members(config)}
    if missing := [name for name in grid if status.get(name) not in (Status.DONE, Status.DIVERGED)]:
        raise ValueError(f"{run}: {len(missing)} of {len(grid)} members have not run to their end; resume it")
    keys = list(config.objectives)
    rows = study.reports[study.reports["trial"].isin(grid)]
    curves: dict[str, dict[int, dict[str, float]]] = {}
    for trial, epoch, *values in rows[["trial", "epoch", *keys]].itertuples(index=False):
        curves.setdefault(trial, {})[int(epoch)] = dict(zip(keys, map(float, values), strict=True))
    epochs = sorted({epoch for curve in curves.values() for epoch in curve})
    uneven = [t for t, curve in curves.items() if status[t] == Status.DONE and sorted(curve) != epochs]
    if uneven or len(epochs) < 2:
        raise ValueError(f"{run}: members were evaluated at other epochs than {epochs}")

    def name(one: Member) -> str:
        # the seed of a search is not the one that the table was trained with
        return replace(one, shuffle_seed=config.seed).trial

    def reports(one: Member, epoch: int, seed: int) -> Mapping[str, float] | None:
        return curves[name(one)].get(epoch)

    def counts(one: Member, epoch: int) -> list[float] | None:
        values = curves[name(one)].get(epoch)
        return list(values.values()) if values else None

    final = np.array([list(curves[t][epochs[-1]].values()) for t in grid if epochs[-1] in curves[t]])
    final = final[np.isfinite(final).all(axis=1)]
    corner = np.median(final, axis=0).tolist()
    ceiling = moocore.hypervolume(final, ref=corner, maximise=[d == "max" for d in config.objectives.values()])
    if not ceiling > 0:
        raise ValueError(f"{run}: no member is better than the median in all of {', '.join(keys)}")
    found = Problem(config.data.name, config, epochs, reports, counts, corner, float(ceiling))
    print(
        f"{run}: {len(grid)} members, {sum(s == Status.DIVERGED for s in status.values())} diverged, "
        f"evaluated at epochs {', '.join(map(str, epochs))}; objectives {', '.join(keys)}"
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished grid")
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=SAMPLERS)
    parser.add_argument("--trials", type=int, default=60, help="members to the end; each search spends their epochs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--figure", type=Path, help="a PNG to write, and the numbers beside it as CSV")
    arguments = parser.parse_args()
    try:
        table = problem(arguments.run)
    except (ValueError, ConfigError, FileNotFoundError) as error:
        sys.exit(str(error))
    results = compare([table], arguments.samplers, arguments.trials, arguments.seeds)
    if arguments.figure:
        save(arguments.figure, [table], results, arguments.trials)


if __name__ == "__main__":
    main()
