"""Which members, and which models, minimise the same: equal objectives are one curve in every count and comparison.

Read from the stored configurations alone. A model's name and the multiplier ``weight`` are labels: what is trained is
the side, the likelihood, the encoder, and the restrictions with their weights in the loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from gimtune.vocabulary import identifying

#: Of a formula without restrictions: the auto-encoder, where every curve over weights starts.
FREE = "no restriction"


def objective(config: str) -> str:
    """All that a member's numbers depend on, as canonical JSON: members of one objective are one member.

    A restriction of weight 0 is none. ``vae`` is ``beta_vae`` at weight 1, ``wae_gan`` at weight 1/200 is ``aae`` at 1
    once they have one likelihood and one encoder, and ``info_vae`` at lambda = 1 is ``vae``.

    Args:
        config: a member's configuration, as of `gimtune.vocabulary.Member.to_json`.

    >>> row = '{"model": "%s", "weight": %s, "restrictions": [["posterior", "kl", 1.0]], "likelihood": "bernoulli"}'
    >>> objective(row % ("vae", 1.0)) == objective(row % ("beta_vae", 1))
    True
    """
    values = identifying(json.loads(config))
    left = {key: value for key, value in values.items() if key not in ("model", "weight", "restrictions")}
    # weights that are products round differently
    terms = [[*term, float(f"{weight:.9g}")] for term, weight in _terms(values)]
    if not terms:
        # nothing is left that a critic could see
        left["critic"] = {}
    return json.dumps({**left, "restrictions": terms}, sort_keys=True, separators=(",", ":"))


def formula(config: str | Mapping[str, Any]) -> str:
    """What a member minimises, up to one factor of all its restrictions, as a line of text: members of one formula
    (with the same prior, size and budget) are points of one curve over weights.

    Args:
        config: a member's configuration; ``side``, ``likelihood``, ``encoder`` and ``restrictions`` are looked at.

    >>> formula({"side": "q", "likelihood": "bernoulli", "encoder": "gaussian",
    ...          "restrictions": [["posterior", "kl", 2.0], ["latent", "mmd_wide", 6.0]]})
    'side q, bernoulli, gaussian encoder: 3 latent/mmd_wide + posterior/kl'
    """
    values = json.loads(config) if isinstance(config, str) else config
    terms = _terms(values)
    unit = min((weight for _, weight in terms if weight), default=0.0)
    ratios = [f"{weight / unit:.6g}" if unit else "0" for _, weight in terms]
    said = [
        "/".join(t) if ratio == "1" else f"{ratio} {'/'.join(t)}" for (t, _), ratio in zip(terms, ratios, strict=True)
    ]
    before = f"side {values['side']}, {values['likelihood']}, {values['encoder']} encoder"
    return f"{before}: {' + '.join(said) or FREE}"


def curves(trials: pd.DataFrame) -> pd.Series:
    """The curve that each member's model belongs to: the models of one curve, joined as ``beta_vae = vae``.

    Two models of a study are one where the formulas of their members are the same. Members whose restrictions all have
    weight 0 say nothing of it, unless a model has no other. A model without a stored configuration is its own curve.
    """
    names = trials["model"].astype(str)
    configs = trials["config"] if "config" in trials else pd.Series(None, index=trials.index, dtype=object)
    seen: dict[str, set[str]] = {}
    for name, config in dict.fromkeys(zip(names, configs, strict=True)):
        known = isinstance(config, str) and bool(config)
        seen.setdefault(name, set()).add(formula(config) if known else name)
    joined = one_curve(seen)
    return names.map(joined).rename("curve")


def one_curve(formulas: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """From each model to the models of its curve, joined by `` = ``, given the formulas of its members."""
    sets: dict[frozenset[str], list[str]] = {}
    for name, found in formulas.items():
        restricted = frozenset(text for text in found if not text.endswith(FREE))
        sets.setdefault(restricted or frozenset(found), []).append(name)
    return {name: " = ".join(sorted(names)) for names in sets.values() for name in names}


def _terms(values: Mapping[str, Any]) -> list[tuple[tuple[str, str], float]]:
    # a critic whose features are the likelihood is looked at whatever it weighs
    kept = values["likelihood"] in ("features", "real_features")
    terms = (((match, divergence), weight) for match, divergence, weight in values["restrictions"])
    return sorted((term, weight) for term, weight in terms if weight or (kept and term[0] == "data"))
