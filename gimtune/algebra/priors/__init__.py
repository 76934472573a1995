"""Priors p(z): samples, log-densities, and closed-form divergences of a diagonal Gaussian from them."""

from gimtune.algebra.priors import fixed, learned, sampled  # noqa: F401 - they register themselves
from gimtune.algebra.priors.base import PRIORS, Encode, GaussianMixture, Parameters, Prior, make_prior

__all__ = ["PRIORS", "Encode", "GaussianMixture", "Parameters", "Prior", "make_prior"]
