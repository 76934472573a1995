"""Restrictions: a match by a divergence. `RESTRICTIONS` holds every pair that a model or a study file may name."""

from gimtune.algebra.restrictions import closed, of_critics  # noqa: F401 - they register themselves
from gimtune.algebra.restrictions.base import RESTRICTIONS, Restriction, sigma_start
from gimtune.algebra.restrictions.refusals import refuses
from gimtune.algebra.restrictions.sample import Pair, Sample

__all__ = ["RESTRICTIONS", "Pair", "Restriction", "Sample", "refuses", "sigma_start"]
