"""What several test files build or compare."""

import json
import math

from gimtune.models import MODELS
from gimtune.vocabulary import Member

#: Small enough for seconds of training on one core.
DEFAULTS = {
    "side": "q",
    "likelihood": "bernoulli",
    "prior": {"name": "normal"},
    "latent_dim": 4,
    "seed": 0,
    "data": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [32]},
    "learning_rate": 1e-3,
    "batch_size": 64,
    "epochs": 2,
    "evaluate_every": 1,
    "sigma_min": 1e-3,
    "shuffle_seed": 0,
    "metrics": {"probe_samples": 300, "fid_samples": 10_000},
}
#: Progress that a clock decides.
CLOCK = ("seconds", "examples_per_second")


def member(model="vae", weight=1.0, parameters=None, **options):
    """A member of a named model on digits; ``options`` replace `DEFAULTS` or any field."""
    declared = MODELS[model]
    weights = declared.weights(weight, **(parameters or {}))
    restrictions = tuple((str(r.match), r.divergence, w) for r, w in zip(declared.restrictions, weights, strict=True))
    return Member(**{**DEFAULTS, "model": model, "weight": weight, "restrictions": restrictions, **options})


def numbers(row, *without):
    """A row without what the clock or the member's name decides, NaN made comparable: equal means bit for bit."""
    left = {k: v for k, v in row.items() if k not in (*CLOCK, "checkpoint", *without)}
    return {k: "nan" if isinstance(v, float) and math.isnan(v) else v for k, v in left.items()}


def reasons(row):
    """Why which value of a row is NaN."""
    return json.loads(row["reasons"])
