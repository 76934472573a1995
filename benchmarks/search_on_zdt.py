"""Search and early stopping on a problem with a known front: hypervolume against the epochs spent, seed by seed.

ZDT1 and ZDT2 (Zitzler, Deb & Thiele 2000, 10 variables) with a simulated budget: after e of 27 epochs a trial shows
f (1 + 2 exp(-6 e / 27)) + noise, so that early values rank trials roughly as the last ones do. Eight workers run at a
time. Samplers are Optuna's, as `gimtune.tuning.search` makes them, and successive halving is `gimtune.tuning.mo_asha`.

    python benchmarks/search_on_zdt.py --samplers random nsga2 tpe --seeds 5 --trials 200

The second number of a row is what halving is for: epochs until the final hypervolume of random search without it.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Callable
from typing import NamedTuple

import moocore
import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from gimtune.tuning.mo_asha import Rungs
from gimtune.tuning.search import SAMPLERS

EPOCHS, EVERY, WORKERS, VARIABLES = 27, 1, 8, 10
#: Beyond it no point counts: f1 is at most 1, and f2 of a random trial is about 4.
REFERENCE = (1.1, 6.0)
NAMES = ("f1", "f2")
OBJECTIVES = dict.fromkeys(NAMES, "min")


class Curve(NamedTuple):
    """Hypervolume after each finished trial, and the epochs spent until then."""

    epochs: list[int]
    hypervolume: list[float]


def zdt1(x: np.ndarray) -> tuple[float, float]:
    g = 1 + 9 * x[1:].mean()
    return float(x[0]), float(g * (1 - math.sqrt(x[0] / g)))


def zdt2(x: np.ndarray) -> tuple[float, float]:
    g = 1 + 9 * x[1:].mean()
    return float(x[0]), float(g * (1 - (x[0] / g) ** 2))


PROBLEMS: dict[str, Callable[[np.ndarray], tuple[float, float]]] = {"zdt1": zdt1, "zdt2": zdt2}


def search(problem: str, sampler: str, halving: bool, trials: int, seed: int) -> Curve:
    """One study; a stopped trial counts with the epochs that it took, and its point is not on any front."""
    rng = np.random.default_rng(seed)
    made: BaseSampler = RandomSampler(seed) if sampler == "random" else SAMPLERS[sampler](seed)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=made)
    rungs = Rungs(OBJECTIVES, max_epochs=EPOCHS, grace=1, reduction=3, seed=seed) if halving else None
    running: list[tuple[float, int, int, optuna.Trial, tuple[float, float]]] = []
    asked = spent = 0
    found: list[tuple[float, float]] = []
    curve = Curve([], [])

    def start(now: float) -> None:
        nonlocal asked
        trial = study.ask()
        x = np.array([trial.suggest_float(f"x{i}", 0, 1) for i in range(VARIABLES)])
        # workers differ in speed, so that reports arrive in no order of theirs
        heapq.heappush(running, (now + rng.uniform(0.5, 1.5), asked, EVERY, trial, PROBLEMS[problem](x)))
        asked += 1

    for _ in range(min(WORKERS, trials)):
        start(0.0)
    while running:
        now, number, epoch, trial, final = heapq.heappop(running)
        spent += EVERY
        early = 1 + 2 * math.exp(-6 * epoch / EPOCHS)
        shown = [v * early + 0.02 * rng.standard_normal() for v in final]
        if epoch < EPOCHS and (rungs is None or rungs.report(str(number), epoch, dict(zip(NAMES, shown, strict=True)))):
            heapq.heappush(running, (now + rng.uniform(0.5, 1.5), number, epoch + EVERY, trial, final))
            continue
        if epoch == EPOCHS:
            study.tell(trial, final)
            found.append(final)
            curve.epochs.append(spent)
            curve.hypervolume.append(float(moocore.hypervolume(np.array(found), ref=REFERENCE)))
        else:
            study.tell(trial, state=TrialState.PRUNED)
        if asked < trials:
            start(now)
    return curve


def reached(curve: Curve, level: float) -> float:
    """Epochs until a hypervolume, or infinity."""
    return next((e for e, h in zip(curve.epochs, curve.hypervolume, strict=True) if h >= level), math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="+", default=["random", "nsga2", "tpe"], choices=["random", *SAMPLERS])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument(
        "--trials", type=int, default=200, help="without halving; with it, until as many epochs are spent"
    )
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    budget = arguments.trials * EPOCHS
    for problem in arguments.problems:
        print(f"\n{problem}: {arguments.seeds} seeds, {budget} epochs, hypervolume from {REFERENCE}")
        print(f"{'':22} final hypervolume      epochs to random's final one, as a share of its {budget}")
        baseline = [search(problem, "random", False, arguments.trials, s) for s in range(arguments.seeds)]
        for sampler in arguments.samplers:
            for halving in (False, True):
                # many more trials fit into the epochs when most are stopped
                trials = arguments.trials * (6 if halving else 1)
                curves = [search(problem, sampler, halving, trials, s) for s in range(arguments.seeds)]
                ends = [max(h for e, h in zip(c.epochs, c.hypervolume, strict=True) if e <= budget) for c in curves]
                shares = [reached(c, b.hypervolume[-1]) / b.epochs[-1] for c, b in zip(curves, baseline, strict=True)]
                name = sampler + (" + mo_asha" if halving else "")
                told = " ".join(f"{s:5.2f}" if s < math.inf else "never" for s in sorted(shares))
                print(f"{name:22} {np.mean(ends):.3f} +- {np.std(ends, ddof=1):.3f}         {told}")


if __name__ == "__main__":
    main()
