"""A mixture of Gaussians fitted to training codes: what q(z) is, where the prior is not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CODES = 10_000
_COMPONENTS = 10


def fit(codes: Tensor, seed: int) -> Any:
    """A `GaussianMixture` of codes (n, d), or why there is none."""
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    if not bool(torch.isfinite(codes).all()):
        return "training codes are not finite"
    mixture = GaussianMixture(_COMPONENTS, init_params="k-means++", random_state=seed, reg_covar=1e-6)
    try:
        # matrices of d x d: several BLAS threads only wait for each other, ten times longer where the cores are shared
        with threadpool_limits(1, "blas"):
            return mixture.fit(codes[:_CODES].double().cpu().numpy())
    except ValueError as error:
        return f"no mixture could be fitted: {str(error).splitlines()[0]}"
