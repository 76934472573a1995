"""What several test files build or compare."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil

from gimtune import analysis
from gimtune.algebra.encoders import make_encoder
from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.algebra.models import MODELS
from gimtune.algebra.priors import PRIORS, make_prior
from gimtune.algebra.restrictions import RESTRICTIONS, refuses, sigma_start
from gimtune.results.store import Store
from gimtune.vocabulary import Member

#: Small enough for seconds of training on one core.
DEFAULTS = {
    "side": "q",
    "likelihood": "bernoulli",
    "encoder": "gaussian",
    "critic": {"hidden": [32]},
    "prior": {"name": "normal"},
    "latent_dim": 4,
    "seed": 0,
    "data": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [32]},
    "learning_rate": 1e-3,
    "beta1": 0.5,
    "batch_size": 64,
    "epochs": 2,
    "evaluate_every": 1,
    "sigma_min": 1e-3,
    "shuffle_seed": 0,
    "metrics": {"probe_samples": 300, "fid_samples": 400, "ruler": "never"},
}
#: The smallest study: one member of two epochs.
TINY = [
    *("study=tradeoff", "models=[vae]", "space.prior=normal", "space.weight=1", "space.seed=0", "network.hidden=[32]"),
    *("budget.epochs=2", "budget.evaluate_every=1", "metrics.ruler=never", "metrics.fid_samples=400"),
]
#: Progress that a clock decides.
CLOCK = ("seconds", "reported", "examples_per_second")


def member(model="vae", weight=1.0, parameters=None, **options):
    """A member of a named model on digits; ``options`` replace `DEFAULTS` or any field."""
    declared = MODELS[model]
    fitting = {
        "side": str(declared.side),
        "encoder": declared.encoder,
        "sigma_start": sigma_start(declared.side, [RESTRICTIONS[r.match, r.divergence] for r in declared.restrictions]),
    }
    if declared.prior or declared.likelihood == "features":
        fitting["likelihood"] = declared.likelihood
    if declared.prior:
        options = {**options, "prior": {"name": declared.prior}}
    options = {**DEFAULTS, **fitting, **options}
    prior = PRIORS[options["prior"]["name"]]
    if prior.encoder:
        options["encoder"] = prior.encoder
    if prior.images:
        options["latent_dim"] = 64
    elif prior.name == "infogan_code":
        options["prior"] = {"categories": 2, "continuous": 1, **options["prior"]}
    sizes = {"latent_dim": options["latent_dim"], "pixels": 64, "cost": LIKELIHOODS[options["likelihood"]].cost}
    weights = declared.weights(weight, **sizes, **(parameters or {}))
    restrictions = tuple((str(r.match), r.divergence, w) for r, w in zip(declared.restrictions, weights, strict=True))
    return Member(**{"model": model, "weight": weight, "restrictions": restrictions, **options})


def combinations():
    """Every model with every prior that makes sense for it, by name."""
    for name, model in MODELS.items():
        for prior in PRIORS:
            if model.prior and prior != model.prior:
                continue
            one = member(name, prior={"name": prior})
            family = make_prior(**one.prior)
            encoder = make_encoder(one.encoder, one.prior)
            used = [RESTRICTIONS[r.match, r.divergence] for r in model.restrictions]
            if not refuses(model.side, family, encoder, bool(used)) and not any(
                r.refuses(family, encoder) for r in used
            ):
                yield name, prior


def numbers(row, *without):
    """A row without what the clock or the member's name decides, NaN made comparable: equal means bit for bit."""
    left = {k: v for k, v in row.items() if k not in (*CLOCK, "checkpoint", *without)}
    return {k: "nan" if isinstance(v, float) and math.isnan(v) else v for k, v in left.items()}


def reasons(row):
    """Why which value of a row is NaN."""
    return json.loads(row["reasons"])


class Driver:
    """``python -m gimtune`` in a process group of its own, so that whatever it started ends with the test."""

    def __init__(self, folder: Path, *arguments: str, path: Path | None = None) -> None:
        self.output = (folder / "output.txt").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gimtune", *arguments],
            cwd=folder,
            env=self.environment(folder, path),
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @staticmethod
    def environment(folder: Path, path: Path | None = None) -> dict[str, str]:
        """One cache for the session, so that the classifier is trained once; ``path`` is looked for modules first."""
        found = [str(p) for p in (path, Path(__file__).parents[1]) if p]
        return {**os.environ, "XDG_CACHE_HOME": str(folder.parent / "cache"), "PYTHONPATH": os.pathsep.join(found)}

    def wait(self) -> int:
        return self.process.wait(400)

    def said(self) -> str:
        self.output.seek(0)
        return self.output.read()

    def everything(self) -> list[psutil.Process]:
        """The driver, and all that it has started."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def end(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                break
            time.sleep(1)
        self.process.wait(10)
        self.output.close()


def finished(folder: Path, *words: str) -> Path:
    """Runs a study in a folder from beginning to end."""
    driver = Driver(folder, *words)
    try:
        assert driver.wait() == 0, driver.said()
    finally:
        driver.end()
    return folder


def only_run(folder: Path) -> Path:
    (run,) = (folder / "results" / "tradeoff").iterdir()
    return run


def reports_of(folder: Path) -> int:
    try:
        with Store(only_run(folder) / "study.db") as store:
            return len(store.reports())
    except (FileNotFoundError, ValueError):
        return 0


def until(driver: Driver, folder: Path, reports: int) -> None:
    """Returns when a study has so many reports."""
    deadline = time.monotonic() + 200
    while reports_of(folder) < reports and time.monotonic() < deadline:
        assert driver.process.poll() is None, driver.said()
        time.sleep(0.05)


#: Four packs of two, with three reports of each member.
STUDY = [
    "study=tradeoff",
    "models=[vae,wvae]",
    "space.prior=normal",
    "space.weight={grid: [0.1, 1]}",
    "space.seed={grid: [0, 1]}",
    "space.latent_dim=4",
    "network.hidden=[32]",
    "budget.epochs=6",
    "budget.evaluate_every=2",
    "resources.members=2",
    "metrics.fid_samples=400",
]


def table(run: Path) -> pd.DataFrame:
    trials = analysis.load(run).trials.drop(columns=list(CLOCK))
    # columns stand in the order in which packs reported first
    return trials[sorted(trials)]


def check_same(run: Path, other: Path) -> None:
    """Two runs have the same members with the same numbers, at the end and on the way."""
    pd.testing.assert_frame_equal(table(run), table(other), check_exact=True)
    series = [analysis.load(r).reports.drop(columns=["seconds", "reported"]) for r in (run, other)]
    pd.testing.assert_frame_equal(*(frame[sorted(frame)] for frame in series), check_exact=True)
