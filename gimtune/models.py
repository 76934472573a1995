"""The models, as declarations: what each restricts, and how its published weight reads on our scale.

Likelihoods are summed over pixels and averaged over the batch, in nats. A member's ``weight`` multiplies the
restriction as declared here, so 1 is the paper's own setting.
"""

from __future__ import annotations

from collections.abc import Mapping

from gimtune.vocabulary import Match, Model, Weighted

MODELS: Mapping[str, Model] = {
    model.name: model
    for model in (
        Model("ae", (), "the reference point: no restriction"),
        Model("vae", (Weighted(Match.POSTERIOR, "kl"),), "Kingma & Welling 2014"),
        Model("beta_vae", (Weighted(Match.POSTERIOR, "kl"),), "Higgins et al. 2017", note="weight is beta"),
        Model(
            "wae_mmd",
            (Weighted(Match.LATENT, "mmd", lambda **p: p["lambda"]),),
            "Tolstikhin et al. 2018",
            likelihood="gaussian",
            parameters={"lambda": 200.0},
            note="lambda 10 against 0.05 x the summed squared error is 200 against our -log p at variance 1/2",
        ),
        Model(
            "info_vae",
            (
                Weighted(Match.POSTERIOR, "kl", lambda **p: 1 - p["alpha"]),
                Weighted(Match.LATENT, "mmd", lambda **p: p["alpha"] + p["lambda"] - 1),
            ),
            "Zhao et al. 2017",
            parameters={"alpha": 0.0, "lambda": 1000.0},
            note="the paper's alpha 0, lambda 1000 are on our scale already",
        ),
        Model("wvae", (Weighted(Match.POSTERIOR, "w2"),), "Astorga 2022, our reading: squared W2 in closed form"),
        Model("js_vae", (Weighted(Match.POSTERIOR, "js"),), "Astorga 2022, our reading: JS summed over dimensions"),
    )
}
