"""Mixtures of Gaussians fitted to codes, against scikit-learn's and against what is planted."""

import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from gimtune.metrics import mixture


def planted(seed, count=2000, dims=4, apart=6.0, diagonal=False):
    """Codes of ten Gaussians, and the mixture that they are drawn from."""
    source = torch.Generator().manual_seed(seed)
    means = apart * torch.randn(10, dims, generator=source, dtype=torch.float64)
    roots = torch.tril(torch.randn(10, dims, dims, generator=source, dtype=torch.float64), -1)
    roots = (0 if diagonal else 1) * roots + (
        0.5 + torch.rand(10, dims, generator=source, dtype=torch.float64)
    ).diag_embed()
    true = mixture.Mixture(torch.full((10,), 0.1, dtype=torch.float64), means, roots)
    return true.sample(count, source)[torch.randperm(count, generator=source)], true


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_mixture_is_found(seed):
    codes, true = planted(seed)
    (found,) = mixture.fit([codes], [seed])
    others = true.sample(20_000, torch.Generator().manual_seed(99))
    lost = true.log_prob(others) - found.log_prob(others)
    # half a nat for each coefficient over the number of codes: 149 coefficients, 2,000 codes
    assert -3 * float(lost.std()) / math.sqrt(len(lost)) < float(lost.mean()) < 3 * 149 / (2 * len(codes))


@pytest.mark.parametrize("seed", range(4))
def test_the_likelihood_is_not_below_scikit_learns(seed):
    # neighbours that overlap: climbs have many tops
    codes, _ = planted(seed, apart=1.5)
    (found,) = mixture.fit([codes], [seed])
    other = GaussianMixture(10, n_init=5, random_state=seed).fit(codes.numpy()).score(codes.numpy())
    assert float(found.log_prob(codes).mean()) > other - 0.001 * abs(other)


def test_log_densities_are_scikit_learns():
    codes, true = planted(0)
    other = GaussianMixture(10, covariance_type="full")
    other.weights_, other.means_ = true.weights.numpy(), true.means.numpy()
    other.precisions_cholesky_ = np.linalg.inv(true.roots.numpy()).transpose(0, 2, 1)
    assert np.allclose(true.log_prob(codes).numpy(), other.score_samples(codes.numpy()), rtol=1e-10)


@pytest.mark.parametrize("diagonal", [True, False])
def test_covariances_are_what_held_out_codes_want(diagonal):
    codes, _ = planted(1, count=800, dims=10, diagonal=diagonal)
    (found,) = mixture.fit([codes], [0])
    off = found.roots - found.roots.diagonal(dim1=-2, dim2=-1).diag_embed()
    assert bool((off == 0).all()) is diagonal


def test_no_scale_matters_and_nothing_varies_in_one_dimension():
    codes, _ = planted(2, count=1000)
    scale = torch.tensor([1e-3, 1.0, 10.0, 1e4], dtype=torch.float64)
    plain, scaled = mixture.fit([codes, codes * scale], [0, 0])
    moved = plain.log_prob(codes) - scale.log().sum()
    assert (scaled.log_prob(codes * scale) - moved).abs().max() < 1e-6
    (flat,) = mixture.fit([torch.cat([codes, torch.ones(len(codes), 1)], 1)], [0])
    assert bool(flat.sample(100, torch.Generator().manual_seed(0)).isfinite().all())


def test_draws_have_the_mixtures_moments():
    _, true = planted(3)
    drawn = true.sample(40_000, torch.Generator().manual_seed(0))
    mean = true.weights @ true.means
    spread = true.roots @ true.roots.mT + (true.means - mean)[..., None] * (true.means - mean)[:, None]
    covariance = (true.weights[:, None, None] * spread).sum(0)
    assert (drawn.mean(0) - mean).abs().le(4 * (covariance.diagonal() / len(drawn)).sqrt()).all()
    assert torch.allclose(drawn.T.cov(), covariance, rtol=0.05, atol=0.05 * float(covariance.diagonal().max()))


def test_members_do_not_depend_on_each_other():
    codes = [planted(seed, count=600)[0] for seed in range(3)]
    broken = codes[1].clone()
    broken[5, 0] = math.nan
    alone, together = mixture.fit([codes[2]], [2]), mixture.fit([codes[0], broken, codes[2]], [0, 1, 2])
    assert together[1] == "training codes are not finite"
    for one, other in zip(alone[0], together[2], strict=True):
        assert torch.equal(one, other)


def test_few_codes_have_a_reason():
    assert "15 codes" in mixture.fit([torch.randn(15, 2)], [0])[0]
