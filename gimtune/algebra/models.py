"""The models, as declarations: what each restricts, and how its published weight reads on our scale.

Likelihoods are summed over pixels and averaged over the batch, in nats. A member's ``weight`` multiplies the
restriction as declared here, so 1 is the paper's own setting.
"""

from __future__ import annotations

import re
from typing import Any

from gimtune import parts
from gimtune.algebra.priors import PRIORS
from gimtune.results.equal import formula, one_curve
from gimtune.vocabulary import IDENTITY, METRICS, PROGRESS, PROTOCOL, Match, Model, Side, Weighted

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PARAMETER = re.compile(r"[a-z][a-z0-9_]{0,63}")
#: What stands in a study's space, in a row or in a weight's arguments already.
_TAKEN = {*IDENTITY, *PROGRESS, *PROTOCOL, *METRICS, "restriction", "likelihood", "pixels", "learning_rate"}
_TAKEN |= {"beta1", "batch_size", "sigma_min", "sigma_start", "study"}


def _accept(model: Any) -> tuple[str, Model]:
    if not isinstance(model, Model):
        raise ValueError("it is no Model")
    if not model.source:
        raise ValueError("it says its source")
    if not _NAME.fullmatch(model.name):
        raise ValueError("its name is made of letters, digits, '_', '.' and '-'")
    for name in model.parameters:
        if not _PARAMETER.fullmatch(name) or name in _TAKEN:
            raise ValueError(f"parameter {name}: small letters, digits and _, and none of {', '.join(sorted(_TAKEN))}")
    return model.name, model


def _facts(model: Model) -> parts.Facts:
    restricted = ", ".join(f"{r.match}/{r.divergence}" for r in model.restrictions) or "no restriction"
    options = {name: f"{value:g}" for name, value in model.parameters.items()}
    return parts.Facts(f"side {model.side}: {restricted}", options, model.source)


MODELS: parts.Registry[str, Model] = parts.Registry(
    "model",
    "A gimtune.vocabulary.Model: a declaration of side, likelihood, encoder and restrictions with the published "
    "weights on our scale, which may depend on parameters of its own.",
    _accept,
    _facts,
)

_WAE = (
    "lambda 10, beside 0.05 x the summed squared error in the code: 200 beside the squared error itself, which is our "
    "-log p at variance 1/2; for another likelihood, times its least cost of a unit of squared error"
)
_ALL = (
    Model("ae", (), "the reference point: no restriction"),
    Model("vae", (Weighted(Match.POSTERIOR, "kl"),), "Kingma & Welling 2014"),
    Model("beta_vae", (Weighted(Match.POSTERIOR, "kl"),), "Higgins et al. 2017", note="weight is beta"),
    Model(
        "wae_mmd",
        (Weighted(Match.LATENT, "mmd", lambda **p: p["lambda"] * p["cost"]),),
        "Tolstikhin et al. 2018",
        likelihood="gaussian",
        encoder="deterministic",
        parameters={"lambda": 200.0},
        note=_WAE,
    ),
    Model(
        "info_vae",
        (
            Weighted(Match.POSTERIOR, "kl", lambda **p: 1 - p["alpha"]),
            Weighted(Match.LATENT, "mmd_wide", lambda **p: p["alpha"] + p["lambda"] - 1),
        ),
        "Zhao et al. 2017",
        parameters={"alpha": 0.0, "lambda": 1000.0},
        note="the paper's alpha 0, lambda 1000; its code sums over pixels, and the kernel is its code's",
    ),
    Model("wvae", (Weighted(Match.POSTERIOR, "w2"),), "Astorga 2022, our reading: squared W2 in closed form"),
    Model("js_vae", (Weighted(Match.POSTERIOR, "js"),), "Astorga 2022, our reading: JS summed over dimensions"),
    Model(
        "avb",
        (Weighted(Match.POSTERIOR, "kl_contrast"),),
        "Mescheder et al. 2017",
        encoder="implicit",
        note="the paper's 1",
    ),
    Model("aae", (Weighted(Match.LATENT, "js"),), "Makhzani et al. 2016", note="the paper's 1, losses summed"),
    Model(
        "wae_gan",
        (Weighted(Match.LATENT, "js", lambda **p: p["lambda"] * p["cost"]),),
        "Tolstikhin et al. 2018",
        likelihood="gaussian",
        encoder="deterministic",
        parameters={"lambda": 200.0},
        note=_WAE,
    ),
    Model(
        "vae_gan",
        (Weighted(Match.POSTERIOR, "kl"), Weighted(Match.DATA, "js", lambda **p: (1 - p["gamma"]) / p["gamma"])),
        "Larsen et al. 2016",
        likelihood="features",
        parameters={"gamma": 0.25},
        note="the decoder's gamma x likelihood + (1 - gamma) x GAN, divided by gamma; the paper's gamma belongs to "
        "its own feature layer, ours is 0.25",
    ),
    Model(
        "alice",
        (Weighted(Match.JOINT, "js"),),
        "Li et al. 2017",
        note="the paper's 1, beside -log p(x|z) of any likelihood",
    ),
    Model(
        "infogan",
        (Weighted(Match.DATA, "js"),),
        "Chen et al. 2016",
        side=Side.P,
        note="the paper's 1; the whole latent is the code (its own split: prior infogan_code)",
    ),
    Model(
        "veegan",
        (Weighted(Match.JOINT, "kl_reverse", lambda **p: 0.5),),
        "Srivastava et al. 2017",
        side=Side.P,
        encoder="deterministic",
        note="the paper's 1 beside the squared error of codes, which is twice our unit-variance likelihood",
    ),
    Model(
        "aim",
        (Weighted(Match.DATA, "js", lambda **p: p["latent_dim"]),),
        "Li et al. 2019 (code)",
        side=Side.P,
        note="the code's likelihood is a mean over dimensions: times d on our scale, which sums them",
    ),
    Model(
        "cyclegan",
        (
            Weighted(Match.DATA, "lsgan", lambda **p: p["pixels"] / p["lambda"]),
            Weighted(Match.LATENT, "lsgan", lambda **p: p["pixels"] / p["lambda"]),
        ),
        "Zhu et al. 2017",
        side=Side.BOTH,
        likelihood="laplace",
        prior="domain",
        parameters={"lambda": 10.0},
        note="lambda x the mean absolute error of a cycle: our Laplace likelihood sums it over pixels",
    ),
)

for _model in _ALL:
    MODELS.register(_model)


def fixed_likelihood(model: Model, vectors: bool = False) -> str | None:
    """The likelihood that no study replaces, since it is what the model is: a critic's features, a pair's cycles.

    Args:
        vectors: the data has vectors and no images.
    """
    if model.likelihood == "features":
        return "real_features" if vectors else "features"
    return model.likelihood if model.prior else None


def classes(likelihood: str | None = None, encoder: str | None = None) -> list[tuple[str, ...]]:
    """The models, those of equal objectives together: one curve over the weight, up to its scale.

    Args:
        likelihood: that a study forces on all that can take it, or ``None`` for each model's own, else Bernoulli.
        encoder: likewise of q(z|x), or ``None`` for each model's own.

    >>> [together for together in classes("bernoulli") if len(together) > 1]
    [('vae', 'beta_vae'), ('infogan', 'aim')]
    """

    def said(model: Model) -> str:
        weights = model.weights(1.0, latent_dim=8, pixels=64)
        return formula(
            {
                "side": str(model.side),
                "likelihood": fixed_likelihood(model) or likelihood or model.likelihood or "bernoulli",
                "encoder": (PRIORS[model.prior].encoder if model.prior else None) or encoder or model.encoder,
                "restrictions": [
                    (str(term.match), term.divergence, weight)
                    for term, weight in zip(model.restrictions, weights, strict=True)
                ],
            }
        )

    formulas = {name: [said(model)] for name, model in MODELS.items()}
    joined = one_curve(formulas)
    return [tuple(n for n in joined if joined[n] == text) for text in dict.fromkeys(joined.values())]
