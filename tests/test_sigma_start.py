"""Where a Gaussian posterior starts, and what restrictions of the posteriors and of the codes leave of it."""

import pytest
import torch
from helpers import member

from gimtune.algebra.restrictions.base import NARROW
from gimtune.training.pack import Pack


def information(pack, data, index):
    """h(z) - h(z|x) of held-out images, q(z) taken for one Gaussian: nats."""
    mu, sigma = pack.objective.encode(pack.one(index), data.scaled("validation", slice(None)))
    covariance = torch.cov(mu.T) + sigma.square().mean(0).diag()
    return float(0.5 * torch.logdet(covariance) - sigma.log().sum(1).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kept", "collapsed", "narrow", "wide"),
    [
        # a restriction of the posteriors finds its sigma: kept and collapsed at the same weights
        ("beta_vae", 1.0, 4.0, (1, 0.1), (1, 0.1)),
        # one of the codes holds a wide start where it is
        ("wae_mmd", 0.01, 0.3, (10, 2), (10, 0.1)),
    ],
)
def test_what_the_start_decides(evaluation, model, kept, collapsed, narrow, wide):
    settings = {"encoder": "gaussian", "latent_dim": 8, "network": {"name": "mlp", "hidden": [128, 128]}, "epochs": 60}
    for start, (most, least) in ((NARROW, narrow), (1.0, wide)):
        pack = Pack([member(model, w, sigma_start=start, **settings) for w in (kept, collapsed)], evaluation.data)
        for _ in range(60):
            pack.train_epoch()
        assert information(pack, evaluation.data, 0) > most
        left = information(pack, evaluation.data, 1)
        assert left > least if least > 1 else left < least
