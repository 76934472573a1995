"""A mixture of Gaussians fitted to training codes: what q(z) is, where the prior is not."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CODES = 10_000
_COMPONENTS = 10
_STARTS = 5
#: More codes are held out once: the mean of so many is certain enough.
_FOLDED, _FOLDS = 4000, 5
_KINDS = ("full", "diag")


def fit(codes: Tensor, seed: int) -> Any:
    """A `GaussianMixture` of codes (n, d), or why there is none.

    Ten components, as Ghosh et al. 2020 have them, the best of five starts of expectation maximisation. Their
    covariances are full, or diagonal where that gives codes that are held out a higher likelihood: full ones of many
    dimensions are more than few codes carry.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if not bool(torch.isfinite(codes).all()):
        return "training codes are not finite"
    values = codes[:_CODES].double().cpu().numpy()
    try:
        # matrices of d x d: several BLAS threads only wait for each other, ten times longer where the cores are shared
        with threadpool_limits(1, "blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return _mixture(_kind(values, seed), seed, _STARTS).fit(values)
    except ValueError as error:
        return f"no mixture could be fitted: {str(error).splitlines()[0]}"


def _kind(codes: NDArray[np.float64], seed: int) -> str:
    """Kind of covariance with the highest mean log-likelihood of codes that are held out."""
    # the same parts for all members; training codes stand in the order of the data set, which may be one of classes
    order = np.random.default_rng(0).permutation(len(codes))
    folds = np.array_split(order, _FOLDS)[: 1 if len(codes) >= _FOLDED else _FOLDS]

    def held_out(kind: str) -> float:
        scores = []
        for fold in folds:
            try:
                scores.append(_mixture(kind, seed, 1).fit(np.delete(codes, fold, 0)).score(codes[fold]))
            except ValueError:
                return -np.inf
        return float(np.mean(scores))

    return max(_KINDS, key=held_out)


def _mixture(kind: str, seed: int, starts: int) -> Any:
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(_COMPONENTS, covariance_type=kind, n_init=starts, random_state=seed, reg_covar=1e-6)
