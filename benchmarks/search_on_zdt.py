"""Search and early stopping on problems with a known front: hypervolume against members and epochs, seed by seed.

    python -m benchmarks.search_on_zdt --trials 40 --seeds 5

ZDT1 and ZDT2 (Zitzler, Deb & Thiele 2000, 10 variables) with a simulated budget: after e of 27 epochs a member reports
f (1 + 2 exp(-6 e / 27)) + noise, so that early values rank members roughly as the last ones do; on the front counts f
itself, of members that ran to their end. The variables are the weights of a model made for it, ten restrictions of one
weight each, so that a member is one as any study has them; the metrics ``fid`` and ``recon_fid`` stand for f1 and f2.
Nothing is trained. `benchmarks.searches` says how the searches run.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.searches import SAMPLERS, Problem, compare, save
from gimtune.algebra.encoders import make_encoder
from gimtune.algebra.priors import make_prior
from gimtune.algebra.restrictions import RESTRICTIONS
from gimtune.study.composition import load
from gimtune.vocabulary import Member, Model, Weighted

EPOCHS, VARIABLES = 27, 10
#: Beyond it no point counts: f1 is at most 1, and f2 of a random member is about 4.
REFERENCE = (1.1, 6.0)


def zdt1(x: np.ndarray) -> tuple[float, float]:
    g = 1 + 9 * x[1:].mean()
    return float(x[0]), float(g * (1 - math.sqrt(x[0] / g)))


def zdt2(x: np.ndarray) -> tuple[float, float]:
    g = 1 + 9 * x[1:].mean()
    return float(x[0]), float(g * (1 - (x[0] / g) ** 2))


Function = Callable[[np.ndarray], tuple[float, float]]
#: With the integral of f2 over f1 in [0, 1] along the front, on which g is 1.
FUNCTIONS: dict[str, tuple[Function, float]] = {"zdt1": (zdt1, 1 / 3), "zdt2": (zdt2, 2 / 3)}


def model() -> Model:
    """One whose restrictions' weights are the variables."""
    prior = make_prior(name="normal")
    encoder = make_encoder("gaussian", asdict(prior))
    pairs = [pair for pair, restriction in RESTRICTIONS.items() if not restriction.refuses(prior, encoder)]
    terms = [Weighted(*pair, lambda i=i, **p: p[f"x{i}"]) for i, pair in enumerate(pairs[:VARIABLES])]
    return Model("zdt", tuple(terms), "this benchmark", parameters={f"x{i}": 0.0 for i in range(VARIABLES)})


def variables(one: Member) -> np.ndarray:
    return np.array([weight for _, _, weight in one.restrictions])


def register() -> None:
    # of the process that searches: what this module holds comes there as a copy
    from gimtune.algebra.models import MODELS

    if "zdt" not in MODELS:
        # no member of it is trained, so that no worker has to import this module
        MODELS.enter(model(), MODELS.origin("vae"))


def problem(name: str) -> Problem:
    """ZDT with epochs."""
    register()
    function, under = FUNCTIONS[name]
    config = load(
        ["study=search", "models=[zdt]", "space.weight=1", "objectives={fid: min, recon_fid: min}"]
        + [f"budget.epochs={EPOCHS}", "budget.evaluate_every=1"]
        + [f"space.x{i}={{uniform: [0, 1]}}" for i in range(VARIABLES)]
    )

    def counts(one: Member, epoch: int) -> tuple[float, float] | None:
        return function(variables(one)) if epoch == EPOCHS else None

    def reports(one: Member, epoch: int, seed: int) -> dict[str, float]:
        noise = np.random.default_rng([seed, epoch, int(one.trial, 16)]).standard_normal(2)
        early = 1 + 2 * math.exp(-6 * epoch / EPOCHS)
        return dict(zip(config.objectives, np.array(function(variables(one))) * early + 0.02 * noise, strict=True))

    ceiling = REFERENCE[0] * REFERENCE[1] - under - (REFERENCE[0] - 1) * counts_at_end(function)
    return Problem(name, config, range(1, EPOCHS + 1), reports, counts, REFERENCE, ceiling, register)


def counts_at_end(function: Function) -> float:
    """f2 where the front ends, at f1 = 1."""
    return function(np.eye(VARIABLES)[0])[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS, choices=SAMPLERS)
    parser.add_argument("--problems", nargs="+", default=list(FUNCTIONS), choices=list(FUNCTIONS))
    parser.add_argument("--trials", type=int, default=40, help="members to the end; each search spends their epochs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--figure", type=Path, help="a PNG to write, and the numbers beside it as CSV")
    arguments = parser.parse_args()
    problems = [problem(name) for name in arguments.problems]
    results = compare(problems, arguments.samplers, arguments.trials, arguments.seeds)
    if arguments.figure:
        save(arguments.figure, problems, results, arguments.trials)


if __name__ == "__main__":
    main()
