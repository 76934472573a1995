"""Members an hour: a study of VAEs as the command line runs it, against hand-written trials one after the other.

    python -m benchmarks.gpu_study --data-root ../shared/data              on the GPU, if there is one
    python -m benchmarks.gpu_study --workers 1 2 4 8                       to choose how many packs share a GPU
    python -m benchmarks.gpu_study resources.cuda_graphs=true --workers 1 2 4 8
    python -m benchmarks.gpu_study --members 4 --epochs 1 --trials 1       the same in small

Both train MNIST's VAE (784-512-512, latent size 8, batch 256, Adam at 1e-3), each member with a weight of its own, on
the same machine and device, and measure it on both splits at its end. By hand means the module and the library metrics
of `benchmarks.trial_against_handwritten` in a plain loop, its images on the device; its metrics are a third of a
study's. A study's time goes from the command to its report, with the start of Ray; ``trained`` is from the first report
of a member to the last. Members are parted evenly among the workers of a GPU, so that each has a pack.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.trial_against_handwritten import BATCH, RATE, Measurement, Vae
from gimtune.data import load
from gimtune.files import cache
from gimtune.metrics.lenet import classifier
from gimtune.training import precision


def study(options: Mapping[str, object], members: int) -> tuple[float, float]:
    """Seconds of a whole study, and from its first report to its last."""
    weights = [round(0.1 * (i + 1), 3) for i in range(members)]
    with tempfile.TemporaryDirectory() as folder:
        asked = {
            **options,
            "study": "tradeoff",
            "models": "[beta_vae]",
            "prior": "normal",
            "space.seed": 0,
            "space.weight": f"{{grid: {weights}}}",
            "ray.dashboard": "false",
            "storage_path": folder,
        }
        began = time.perf_counter()
        command = [sys.executable, "-m", "gimtune", *(f"{key}={value}" for key, value in asked.items())]
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        whole = time.perf_counter() - began
        if ended.returncode:
            sys.exit(f"the study ended with exit code {ended.returncode}")
        (run,) = Path(folder).glob("*/*")
        with closing(sqlite3.connect(run / "study.db")) as store:
            first, last, done = store.execute("select min(reported), max(reported), count(*) from reports").fetchone()
    if done < members:
        sys.exit(f"{done} reports of {members} members")
    return whole, last - first


def by_hand(images: Mapping[str, Tensor], measure: Measurement, epochs: int, weight: float) -> None:
    """One trial: trained where its images are, measured by libraries on the CPU."""
    device = images["train"].device
    model = Vae(images["train"][0].numel()).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    for _ in range(epochs):
        for index in torch.randperm(len(images["train"]), device=device).split(BATCH):
            x = images["train"][index]
            mu, log_variance, _, logits = model(x)
            nll = binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
            kl = -0.5 * (1 + log_variance - mu.square() - log_variance.exp()).sum() / len(x)
            optimiser.zero_grad()
            (nll + weight * kl).backward()
            optimiser.step()
    measure.model = model.cpu()
    measure(["validation", "test"])


def main() -> None:
    """Print members an hour of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("GIMTUNE_DATA"), help="IDX files; default $GIMTUNE_DATA")
    parser.add_argument("--members", type=int, default=64, help="of the study (64)")
    parser.add_argument("--trials", type=int, default=2, help="by hand (2)")
    parser.add_argument("--epochs", type=int, default=10, help="of each (10)")
    parser.add_argument("--workers", type=int, nargs="+", default=[4], help="that share a GPU, one study each (4)")
    parser.add_argument("more", nargs="*", help="further settings of the study, as resources.members=16")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    options: dict[str, object] = {
        "data": "mnist",
        "data.root": arguments.data_root,
        "budget.epochs": arguments.epochs,
        "budget.evaluate_every": arguments.epochs,
        "budget.patience": "null",
        **({"resources": "gpu"} if gpu else {}),
        **dict(pair.split("=", 1) for pair in arguments.more),
    }
    times = {}
    for workers in arguments.workers if gpu else [0]:
        parted = {"resources.gpu": 1 / workers, "resources.members": -(-arguments.members // workers)} if gpu else {}
        times[f", {workers} a GPU" if gpu else ""] = study({**parted, **options}, arguments.members)
    data = load("mnist", root=arguments.data_root)
    on_cpu = {split: torch.tensor(array) / data.scale for split, array in data.images.items()}
    there = {"train": on_cpu["train"].to(device)}
    lenet = classifier(data, cache(), torch.device("cpu"))
    measure = Measurement(Vae(1), on_cpu, dict(data.labels), lenet)
    began = time.perf_counter()
    for i in range(arguments.trials):
        by_hand(there, measure, arguments.epochs, 0.1 * (i + 1))
    each = (time.perf_counter() - began) / arguments.trials
    name = torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    print(
        f"{name}, python {platform.python_version()}, torch {torch.__version__}; study in {precision(device)}, by hand "
        f"in float32\n{arguments.members} members, {arguments.epochs} epochs of MNIST\n"
    )
    rates = {"by hand": 1 / each}
    for workers, (whole, trained) in times.items():
        rates[f"study{workers}"] = arguments.members / whole
        # a single report has no time between
        rates[f"study{workers}, trained"] = arguments.members / trained if trained >= 1 else math.nan
    print(f"{'':24s} {'members an hour':>16s} {'/ by hand':>10s}")
    for what, rate in rates.items():
        print(f"{what:24s} {3600 * rate:16.0f} {rate * each:10.2f}")


if __name__ == "__main__":
    main()
