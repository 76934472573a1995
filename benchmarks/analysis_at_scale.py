"""Time and memory of the analysis of 1,000, 10,000 and 100,000 trials, each size in a process of its own.

Rows are drawn: sixteen models, a weight for every configuration, two priors, four seeds, a trade-off of fid and probe
accuracy by model and weight, noise, a few failures and collapsed posteriors, three reports per trial, a picture of
samples and one of reconstructions (noise, which compresses worst) for each. Times are of the processor, since all
steps run on one core.

    python benchmarks/analysis_at_scale.py --rows 1000 10000 100000
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from gimtune.algebra.models import MODELS
from gimtune.analysis import front, fronts_by, load
from gimtune.analysis.export.report import write_report
from gimtune.analysis.statistics.claims import claims
from gimtune.results.store import Store
from gimtune.vocabulary import METRICS, Member

SEEDS, REPORTS = 4, 3
#: Links that a file system surely allows to one file.
_LINKS = 30_000


def draw(rows: int, generator: np.random.Generator) -> pd.DataFrame:
    """Trials as `gimtune.results.store.Store.trials` has them, but for columns that are empty."""
    configurations = -(-rows // SEEDS)
    models = np.array([*MODELS])[generator.integers(len(MODELS), size=configurations)]
    weights = np.exp(generator.uniform(np.log(1e-3), np.log(30), configurations))
    priors = generator.choice(["normal", "laplace"], configurations)
    table = []
    for model, weight, prior in zip(models, weights.tolist(), priors, strict=True):
        declared = MODELS[str(model)]
        terms = zip(declared.restrictions, declared.weights(weight, latent_dim=8, pixels=64), strict=True)
        one = {
            "model": str(model),
            "side": str(declared.side),
            "likelihood": "bernoulli",
            "encoder": declared.encoder,
            "restrictions": tuple((str(term.match), term.divergence, value) for term, value in terms),
            "weight": weight,
            "critic": {},
            "prior": {"name": str(prior), "scale": 1.0},
            "latent_dim": 8,
            "data": {"name": "digits", "seed": 0},
            "network": {"name": "mlp", "hidden": [128, 128]},
            "learning_rate": 1e-3,
            "beta1": 0.5,
            "batch_size": 64,
            "epochs": 60,
            "evaluate_every": 20,
            "sigma_min": 1e-3,
            "sigma_start": 0.03,
            "shuffle_seed": 0,
            "metrics": {"fid_features": "classifier", "fid_samples": 10_000, "probe_samples": 20_000},
        }
        for seed in range(SEEDS):
            member = Member(seed=seed, **one)  # type: ignore[arg-type]
            table.append(
                {
                    "trial": member.trial,
                    "study": "scale",
                    "model": member.model,
                    "side": member.side,
                    "restrictions": json.dumps(
                        [f"{match}_{divergence}" for match, divergence, _ in member.restrictions]
                    ),
                    "likelihood_name": "bernoulli",
                    "encoder": member.encoder,
                    "prior": str(prior),
                    "weight": weight,
                    "latent_dim": 8,
                    "seed": seed,
                    "data": "digits",
                    "network": "mlp",
                    "config": member.to_json(),
                    "status": "done",
                    "epoch": 60,
                    "fid_features": "classifier",
                    "reasons": "{}",
                    "flags": "{}",
                }
            )
    trials = pd.DataFrame(table[:rows])
    strength = np.log10(trials["weight"].to_numpy()) + pd.factorize(trials["model"])[0] / 8
    effects = {"fid": -0.6, "fid_expost": -0.3, "probe_codes": -0.5, "mi_noised": -0.7, "likelihood_x": -0.4}
    for key in METRICS:
        quality = effects.get(key, 0.1) * strength + generator.normal(0, 0.3, len(trials))
        for column in (key, f"test_{key}"):
            value = quality + generator.normal(0, 0.1, len(trials))
            trials[column] = 1 / (1 + np.exp(-value)) if METRICS[key].unit == "fraction" else 50 * np.exp(value / 2)
    trials["mi_q"] = np.where(generator.random(len(trials)) < 0.05, 0.1, 8.0)
    failed = generator.random(len(trials)) < 0.01
    return trials.assign(
        status=np.where(failed, "failed", "done"), error=np.where(failed, "RuntimeError: out of memory", None)
    )


def write(run: Path, trials: pd.DataFrame) -> None:
    """A run folder, by the store's own schema."""
    (run / "samples").mkdir(parents=True)
    path = run / "study.db"
    Store(path, create=True).close()
    reports = pd.concat([trials.assign(epoch=20 * (i + 1)) for i in range(REPORTS)])
    with sqlite3.connect(path) as db:
        for name, frame in (("trials", trials), ("reports", reports)):
            known = {row[1] for row in db.execute(f"PRAGMA table_info({name})")}
            for column in frame:
                if column not in known and name == "trials":
                    db.execute(f'ALTER TABLE trials ADD COLUMN "{column}" REAL')
                    known.add(column)
            frame[[c for c in frame if c in known]].to_sql(name, db, if_exists="append", index=False)
    db.close()
    pixels = np.random.default_rng(0).integers(0, 256, (80, 80), dtype=np.uint8).repeat(5, 0).repeat(5, 1)
    names = [f"{trial}{suffix}.png" for trial in trials["trial"] for suffix in ("", "-reconstructed")]
    for i, name in enumerate(names):
        if i % _LINKS == 0:
            Image.fromarray(pixels).save(run / "samples" / name)
        else:
            os.link(run / "samples" / names[i - i % _LINKS], run / "samples" / name)


def measure(run: Path) -> dict[str, float]:
    """Processor seconds of each step, the page's size and the process's peak memory, both in MB."""
    seconds: dict[str, float] = {}

    def timed(step: str, work: Callable[[], object]) -> object:
        started = time.process_time()
        done = work()
        seconds[step] = time.process_time() - started
        return done

    study = load(run)
    timed("load", lambda: load(run))
    timed("front", lambda: front(study.trials))
    timed("by model", lambda: fronts_by(study.trials, "model"))
    timed("claims", lambda: claims(study.trials, np.random.default_rng(0)))
    timed("report (with claims)", lambda: write_report([study]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**seconds, "page MB": (run / "report.html").stat().st_size / 1e6, "peak MB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    found = {}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / "run", draw(rows, np.random.default_rng(0)))
            command = [sys.executable, __file__, "--measure", f"{folder}/run"]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            found[f"{rows:,}"] = json.loads(done.stdout)
    print(pd.DataFrame(found).T.rename_axis("rows").round(2).to_string())


if __name__ == "__main__":
    main()
