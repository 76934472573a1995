"""How often verdicts are wrong where there is nothing, and right where there is something, on studies that are drawn.

The null world has the layout of the main job (15 models, 5 weights, 2 priors, 2 seeds) and the spread that a finished
one had: of the variance of a metric .77 lies between the weights of a model, .15 between models, .05 between priors at
one weight, and .08 between seeds. All metrics are independent there. Planted worlds have one thing each that a verdict
must not be taken in by, or a trade-off of a known size. Nothing is trained.

    python -m benchmarks.verdicts                          400 studies of each world, some minutes
    python -m benchmarks.verdicts --studies 20 --worlds null small

It asks of the code little more than `claims(trials, generator)`, so that the same worlds can be put to another version
of it: `PYTHONPATH=OTHER python benchmarks/verdicts.py`.
"""

from __future__ import annotations

import argparse
import inspect
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gimtune.analysis.statistics.attainment import mean_front
from gimtune.analysis.statistics.claims import claims

MODELS = {
    "vae": ["posterior_kl"],
    "beta_vae": ["posterior_kl"],
    "avb": ["posterior_kl_contrast"],
    "wvae": ["posterior_w2"],
    "js_vae": ["posterior_js"],
    "wae_mmd": ["latent_mmd"],
    "wae_gan": ["latent_js"],
    "aae": ["latent_js"],
    "info_vae": ["posterior_kl", "latent_mmd"],
    "vae_gan": ["posterior_kl", "data_js"],
    "alice": ["joint_js"],
    "infogan": ["data_js"],
    "veegan": ["joint_kl_reverse"],
    "aim": ["data_js"],
    "cyclegan": ["data_lsgan", "latent_lsgan"],
}
#: Families large enough to be compared.
TWICE = {**MODELS, **{f"{name}_2": keys for name, keys in MODELS.items()}}
PRIORS = ("normal", "laplace")
SIZES = (2, 4, 8, 16, 32, 64)
WEIGHTS, SEEDS = 5, 2
#: Of a metric's variance: weights of a model, models, priors at one weight, seeds; and the splits of a trained member.
SPREAD = {"weight": 0.77, "model": 0.15, "prior": 0.05, "seed": 0.08, "split": 0.01}
#: From units of a standard deviation to the metrics' own: middle and unit, of distances those of the logarithm.
SCALES = {
    "fid": (4.0, 0.6),
    "fid_expost": (3.6, 0.5),
    "probe_codes": (0.8, 0.05),
    "mi_noised": (10.0, 2.0),
    "likelihood_x": (-20.0, 2.0),
}
Effects = dict[str, np.ndarray]


def families(models: dict[str, list[str]] = MODELS) -> np.ndarray:
    """0 for models restricted by the posterior alone, 1 by the latent alone, 2 for others, 3 for those with data."""
    first = [{key.partition("_")[0] for key in keys} for keys in models.values()]
    return np.array(
        [3 if k & {"data", "joint"} else 0 if k == {"posterior"} else 1 if k == {"latent"} else 2 for k in first]
    )


def layout(models: dict[str, list[str]] = MODELS, priors: Sequence[str] = PRIORS, seeds: int = SEEDS) -> pd.DataFrame:
    """Members without metrics, by model, weight, prior and seed."""
    index = pd.MultiIndex.from_product(
        [[*models], range(WEIGHTS), priors, range(seeds)],
        names=["model", "weight", "prior", "seed"],
    )
    trials = index.to_frame(index=False)
    trials["weight"] = 10.0 ** (trials["weight"] - 2)
    trials["restrictions"] = trials["model"].map({name: json.dumps(keys) for name, keys in models.items()})
    constant = {"side": "q", "latent_dim": 8, "data": "digits", "network": "mlp", "likelihood_name": "bernoulli"}
    return trials.assign(**constant, status="done", fid_features="classifier", active_units=8.0, config=None, epoch=60)


def spread(generator: np.random.Generator, shape: tuple[int, ...], **shares: float) -> np.ndarray:
    """One metric with the layout's components, (models, weights, priors, seeds), in standard deviations."""
    shares = {**SPREAD, **shares}
    models, weights, priors, _ = shape
    parts = {
        "weight": generator.normal(size=(models, weights, 1, 1)),
        "model": generator.normal(size=(models, 1, 1, 1)),
        "prior": generator.normal(size=(models, weights, priors, 1)),
        "seed": generator.normal(size=shape),
    }
    return np.sum([np.sqrt(shares[k]) * np.broadcast_to(v, shape) for k, v in parts.items()], axis=0)


def filled(trials: pd.DataFrame, values: Effects, generator: np.random.Generator) -> pd.DataFrame:
    """Members with metrics on both splits, from values in standard deviations."""
    columns: dict[str, Any] = {}
    for key, (middle, unit) in SCALES.items():
        for split in ("", "test_"):
            noise = np.sqrt(SPREAD["split"]) * generator.normal(size=len(trials))
            drawn = middle + unit * (values[key].ravel() + noise)
            columns[split + key] = np.exp(drawn) if key.startswith("fid") else drawn
    columns |= {f"{split}mi_lower": columns[f"{split}mi_noised"] for split in ("", "test_")}
    columns |= {f"{split}probe_means": columns[f"{split}probe_codes"] for split in ("", "test_")}
    constant = {f"{s}{k}": v for s in ("", "test_") for k, v in {"fid_worst": 1500.0, "probe_chance": 0.1}.items()}
    return trials.assign(**columns, **constant)


def independent(generator: np.random.Generator, shape: tuple[int, ...]) -> Effects:
    """Every metric by itself."""
    return {key: spread(generator, shape) for key in SCALES}


# Worlds: from a generator to a study


def null(generator: np.random.Generator) -> pd.DataFrame:
    """Nothing."""
    return filled(layout(), independent(generator, (len(MODELS), WEIGHTS, len(PRIORS), SEEDS)), generator)


def trade_off(size: float, models: dict[str, list[str]] = MODELS) -> Callable[[np.random.Generator], pd.DataFrame]:
    """What a member keeps of its images makes the probe and the information better and the samples worse.

    ``size`` is the correlation; it is there between models as it is within them. Families keep more or less of it, by
    as many standard deviations: latent more than posterior, GAN-side models least.
    """

    def world(generator: np.random.Generator) -> pd.DataFrame:
        shape = (len(models), WEIGHTS, len(PRIORS), SEEDS)
        values, kept = independent(generator, shape), spread(generator, shape, seed=0)
        kept = kept + size * np.array([-0.5, 1.5, 0.5, -2.0])[families(models)][:, None, None, None]
        for key in ("fid", "fid_expost", "probe_codes", "mi_noised"):
            values[key] = size * kept + np.sqrt(1 - size**2) * values[key]
        return filled(layout(models), values, generator)

    return world


def other_grids(generator: np.random.Generator) -> pd.DataFrame:
    """All models have one curve of FID and probe over the restriction; families, twice as large, sweep other parts."""
    shape = (len(TWICE), WEIGHTS, len(PRIORS), SEEDS)
    start = np.array([-0.3, 0.3, 0.0, 0.6])[families(TWICE)][:, None, None, None]
    at = np.linspace(-1.2, 1.2, WEIGHTS)[None, :, None, None] + start + np.zeros(shape)
    values = {key: spread(generator, shape, weight=0.0, model=0.02, prior=0.02) for key in SCALES}
    for key, of in {"fid": at**2, "fid_expost": at**2, "probe_codes": -1.5 * at, "mi_noised": -1.5 * at}.items():
        values[key] = values[key] + of
    values["likelihood_x"] = 0.3 * values["likelihood_x"] - at
    return filled(layout(TWICE), values, generator)


def one_curve(generator: np.random.Generator) -> pd.DataFrame:
    """Information is one function of the likelihood and of FID; latent models, twice as many, sweep its upper half."""
    shape = (len(TWICE), WEIGHTS, len(PRIORS), SEEDS)
    values = {key: spread(generator, shape, weight=0.0, model=0.02, prior=0.02) for key in SCALES}
    start = np.array([-0.6, 0.6, 0.0, 0.0])[families(TWICE)][:, None, None, None]
    at = np.linspace(-1.2, 1.2, WEIGHTS)[None, ::-1, None, None] + start + np.zeros(shape)
    for key, of in {"likelihood_x": at, "fid": at, "mi_noised": np.exp(at / 2)}.items():
        values[key] = 0.3 * values[key] + of
    return filled(layout(TWICE), values, generator)


def counted_twice(generator: np.random.Generator) -> pd.DataFrame:
    """Nothing but seeds and models, and one VAE under five names, whose members are the same."""
    names = {**MODELS, **{f"vae_{i}": ["posterior_kl"] for i in range(3)}}
    shape = (len(names), WEIGHTS, len(PRIORS), SEEDS)
    values = {key: spread(generator, shape, weight=0.0, model=0.4) for key in SCALES}
    copies = [i for i, name in enumerate(names) if names[name] == ["posterior_kl"]]
    values = {
        key: np.where(np.isin(np.arange(len(names)), copies)[:, None, None, None], v[copies[0]], v)
        for key, v in values.items()
    }
    trials = layout(names)
    same = trials["restrictions"] == json.dumps(["posterior_kl"])

    def stored(row: Any) -> str:
        name = "vae" if row.restrictions == json.dumps(["posterior_kl"]) else row.model
        terms = [["posterior", "kl", row.weight]] if name == "vae" else [["own", row.model, row.weight]]
        told = {"side": "q", "likelihood": "bernoulli", "encoder": "gaussian", "restrictions": terms, "critic": {}}
        return json.dumps({**told, "model": row.model, "weight": row.weight, "prior": row.prior, "seed": row.seed})

    drawn = filled(trials, values, generator)
    metrics = [c for c in drawn if c.removeprefix("test_") in SCALES or c.endswith(("mi_lower", "probe_means"))]
    first = drawn[same & (drawn["model"] == "vae")][metrics].to_numpy()
    for name in drawn.loc[same, "model"].unique():
        drawn.loc[drawn["model"] == name, metrics] = first
    return drawn.assign(config=[stored(row) for row in trials.itertuples()])


def two_arms(generator: np.random.Generator) -> pd.DataFrame:
    """A trade-off up to the weight of best FID; past it the restriction ruins both."""
    shape = (len(MODELS), WEIGHTS, len(PRIORS), SEEDS)
    values = {key: spread(generator, shape, weight=0.0, model=0.1, prior=0.02) for key in SCALES}
    at = np.arange(WEIGHTS)[None, :, None, None] - 1.5 + np.zeros(shape)
    values["fid"] = values["fid"] + abs(at)
    values["fid_expost"] = values["fid_expost"] + abs(at)
    values["probe_codes"] = values["probe_codes"] - at
    values["mi_noised"] = values["mi_noised"] - at
    return filled(layout(), values, generator)


def flat(generator: np.random.Generator) -> pd.DataFrame:
    """The probe falls along the weights; the FID, with the ex-post FID, does not depend on them."""
    shape = (len(MODELS), WEIGHTS, len(PRIORS), SEEDS)
    values = {key: spread(generator, shape, weight=0.0, prior=0.0) for key in SCALES}
    values["fid_expost"] = 0.8 * values["fid"] + 0.6 * values["fid_expost"]
    at = np.arange(WEIGHTS)[None, :, None, None] - 2 + np.zeros(shape)
    values["probe_codes"] = 0.3 * values["probe_codes"] - at
    return filled(layout(), values, generator)


def shuffled_mismatch(generator: np.random.Generator) -> pd.DataFrame:
    """What makes samples better makes the probe better; FID is ex-post FID times a mismatch of nothing."""
    shape = (len(MODELS), WEIGHTS, len(PRIORS), SEEDS)
    values, kept = independent(generator, shape), spread(generator, shape)
    values["fid_expost"] = 0.8 * kept + 0.6 * values["fid_expost"]
    values["probe_codes"] = -0.8 * kept + 0.6 * values["probe_codes"]
    values["fid"] = SCALES["fid_expost"][1] / SCALES["fid"][1] * values["fid_expost"] + values["fid"]
    return filled(layout(), values, generator)


def sizes(generator: np.random.Generator) -> pd.DataFrame:
    """Nothing, with one prior and codes of six sizes, which make no difference beyond the priors' in the null world."""
    shape = (len(MODELS), WEIGHTS, len(SIZES), SEEDS)
    trials = filled(layout(priors=[str(size) for size in SIZES]), independent(generator, shape), generator)
    sized = trials["prior"].astype(int)
    asked = [json.dumps({"latent_dim": size}) for size in sized]
    return trials.assign(prior=PRIORS[0], latent_dim=sized, active_units=sized.astype(float), assignment=asked)


WORLDS: dict[str, Callable[[np.random.Generator], pd.DataFrame]] = {
    "null": null,
    "small": trade_off(0.3),
    "medium": trade_off(0.5),
    "large": trade_off(0.8),
    "small_twice": trade_off(0.3, TWICE),
    "medium_twice": trade_off(0.5, TWICE),
    "large_twice": trade_off(0.8, TWICE),
    "other_grids": other_grids,
    "counted_twice": counted_twice,
    "two_arms": two_arms,
    "flat": flat,
    "shuffled_mismatch": shuffled_mismatch,
    "one_curve": one_curve,
    "sizes": sizes,
}


#: What the rates do not look at and a version may be told to leave.
_LEFT = {
    key: value for key, value in {"redraws": 0, "beside": False}.items() if key in inspect.signature(claims).parameters
}


class Rates:
    """Verdicts of many studies of one world, by claim."""

    def __init__(self) -> None:
        self.studies = 0
        self.any = 0
        self.decided: Counter[str] = Counter()
        self.before: Counter[str] = Counter()
        self.holds: Counter[str] = Counter()
        self.few: Counter[str] = Counter()

    def add(self, trials: pd.DataFrame, generator: np.random.Generator) -> None:
        """One study more."""
        found = claims(trials, generator, **_LEFT).claims
        self.studies += 1
        for claim in found:
            done = str(claim.verdict) in ("holds", "does not hold")
            self.decided[claim.key] += done
            self.holds[claim.key] += claim.verdict == "holds"
            self.few[claim.key] += claim.verdict == "too few models"
            self.before[claim.key] += bool(getattr(claim, "p", 1.0 - done) <= 0.05 + 1e-12)
        self.any += any(str(claim.verdict) in ("holds", "does not hold") for claim in found)

    def lines(self) -> list[str]:
        """A line for each claim: decided before the correction, after it, for it, and not decidable."""
        lines = [f"    {'':25} {'before':>7} {'after':>7} {'holds':>7} {'too few':>8}"]
        for key in self.decided:
            shares = [c[key] / self.studies for c in (self.before, self.decided, self.holds, self.few)]
            lines.append("    {:25} {:7.3f} {:7.3f} {:7.3f} {:8.3f}".format(key, *shares))
        return [*lines, f"    {'any verdict':25} {'':7} {self.any / self.studies:7.3f}"]


def coverage(studies: int, seeds: int, level: float = 0.95) -> tuple[float, float]:
    """How often the interval of the front's hypervolume has that of the true means in it, and its median width."""
    hits, widths = 0, []
    for number in range(studies):
        generator = np.random.default_rng([number, seeds, 5])
        shape = (8, WEIGHTS, 1, 1)
        true = {key: spread(generator, shape, seed=0) for key in SCALES}
        many = {key: np.repeat(v, seeds, axis=3) for key, v in true.items()}
        noisy = {k: v + np.sqrt(SPREAD["seed"]) * generator.normal(size=v.shape) for k, v in many.items()}
        names = dict([*MODELS.items()][:8])
        study = filled(layout(names, PRIORS[:1], seeds), noisy, generator)
        exact = filled(layout(names, PRIORS[:1], 1), true, generator)
        for key in ("fid", "probe_codes"):
            middle, unit = SCALES[key]
            values = middle + unit * true[key].ravel()
            exact[key] = np.exp(values) if key == "fid" else values
        found = mean_front(study, generator=generator, level=level)
        aim = mean_front(exact, generator=generator, reference=found.reference, draws=2).hypervolume
        hits += found.low <= aim <= found.high
        widths.append((found.high - found.low) / aim)
    return hits / studies, float(np.median(widths))


def main() -> None:
    """Print the rates of each world."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=400, help="of each world")
    parser.add_argument("--worlds", nargs="*", default=[*WORLDS, "coverage"], choices=[*WORLDS, "coverage"])
    arguments = parser.parse_args()
    for name in arguments.worlds:
        start = time.perf_counter()
        if name == "coverage":
            for seeds in (2, 3, 5):
                share, width = coverage(arguments.studies, seeds)
                print(f"hypervolume, {seeds} seeds: intervals at .95 cover {share:.3f}, median width {width:.1%}")
            continue
        rates = Rates()
        for number in range(arguments.studies):
            generator = np.random.default_rng([number, len(name), 12])
            rates.add(WORLDS[name](generator), generator)
        summary = (WORLDS[name].__doc__ or "A trade-off: correlation as named.").splitlines()[0]
        print(f"{name}: {summary} ({rates.studies} studies, {time.perf_counter() - start:.0f} s)")
        print("\n".join(rates.lines()), flush=True)


if __name__ == "__main__":
    main()
