"""What measuring a member costs against training it, on digits: seconds of a core for each member of a pack.

    python -m benchmarks.ruler
    python -m benchmarks.ruler --models aae:0.3 --epochs 180 --members 24

An evaluation on the validation split comes every 15 epochs; what is measured as a member ends comes once, for all
members of a pack together. The ruler is the fresh critics of codes and of images, and the density of codes beside them.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from collections import Counter
from typing import Any

import torch

from gimtune import data
from gimtune.files import cache
from gimtune.metrics import Evaluation, lenet
from gimtune.metrics.measures import MEASURES, Measure
from gimtune.metrics.view import View
from gimtune.study import composition
from gimtune.study.resolve import members
from gimtune.training import Fellow, Pack
from gimtune.vocabulary import Member

CPU = torch.device("cpu")
RULER = ("latent_js", "data_js", "latent_kl")
INFORMATION = ("mi_p", "mi_p_mean")


def pack_of(model: str, weight: float, count: int, data: str = "digits") -> list[Member]:
    """Members that differ in their seed."""
    stated = ["study=tradeoff", f"data={data}", f"models=[{model}]", "prior=normal"]
    stated += [f"space.weight={weight}", "space.seed=0"]
    (one,) = members(composition.load(stated))
    return [dataclasses.replace(one, seed=seed) for seed in range(count)]


def measured(pack: Pack, evaluation: Evaluation) -> tuple[float, Counter[str]]:
    """Seconds of an evaluation of all members, and of their ends, by metric."""
    spent: Counter[str] = Counter()
    inner: list[float] = []

    def timed(measure: Measure, view: View) -> dict[str, Any]:
        began = time.perf_counter()
        inner.append(0.0)
        try:
            return measure._estimates(view)
        finally:
            took = time.perf_counter() - began
            spent[measure.name] += took - inner.pop()
            if inner:
                inner[-1] += took

    fellows = [Fellow(pack.one(i), member, {}) for i, member in enumerate(pack.members)]
    began = time.perf_counter()
    rows = [evaluation.measure(pack.objective, *f[:2], ("validation",), f.once) for f in fellows]
    middle = time.perf_counter()
    call = Measure.__call__
    Measure.__call__ = timed  # type: ignore[method-assign]
    try:
        for row, fellow in zip(rows, fellows, strict=True):
            evaluation.completed(row, pack.objective, *fellow[:2], fellow.once, fellows)
            evaluation.measure(pack.objective, *fellow[:2], ("test",), fellow.once, fellows)
    finally:
        Measure.__call__ = call  # type: ignore[method-assign]
    assert {*spent} == {measure.name for measure in MEASURES.values()}
    return middle - began, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["beta_vae:0.3", "aae:0.3", "alice:1"], metavar="MODEL:WEIGHT")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--members", type=int, default=10, help="of a pack")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits = data.load("digits")
    evaluation = Evaluation(digits, lenet.classifier(digits, cache(), CPU), CPU)
    print(
        f"{arguments.members} members in a pack, {arguments.epochs} epochs; one thread, torch {torch.__version__}, "
        f"python {platform.python_version()}, {torch.backends.cpu.get_cpu_capability()}\n"
    )
    heads = ("training s", "evaluation s", "end s", "ruler s", "/ training", "mi_p s", "/ training")
    print(f"{'of a member':14s}" + "".join(f"{head:>13s}" for head in heads))
    for text in arguments.models:
        model, _, weight = text.partition(":")
        pack = Pack(pack_of(model, float(weight or 1), arguments.members), evaluation.data)
        began = time.perf_counter()
        for _ in range(arguments.epochs):
            pack.train_epoch()
        training = time.perf_counter() - began
        measured(pack, evaluation)  # what is kept for all members, and warms up
        once, spent = measured(pack, evaluation)
        ruler, information = (sum(spent[key] for key in keys) for keys in (RULER, INFORMATION))
        numbers = (training, once, sum(spent.values()), ruler, None, information, None)
        shown = [
            f"{n / arguments.members:13.3f}" if n is not None else f"{last / training:13.2f}"
            for n, last in zip(numbers, (0.0, *numbers[:-1]), strict=True)
        ]
        print(f"{text:14s}" + "".join(shown), flush=True)


if __name__ == "__main__":
    main()
