"""A density fitted to codes: marginals made Gaussian, then a mixture of Gaussians with full covariances. float64.

Both steps are invertible, so that the density of codes is exact. A mixture alone needs components without number for
what marginals alone make (tails, bounds, skewness), and marginals alone know nothing of clusters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_LOG_2PI = math.log(2 * math.pi)
#: Components that are tried beside one; codes that are kept aside choose.
COUNTS = (2, 4, 8, 16)
#: Codes to a component, at least.
_CODES_EACH = 30
#: Codes to a cell of the finer maps, at least.
_FINE = 5
_STEPS = 15
_KNOTS = 64
#: Of the mean variance within components, added to it.
_RIDGE = 1e-6


class Marginals(NamedTuple):
    """One increasing map for each dimension, linear between knots: from codes to normal scores.

    Attributes:
        knots, scores: (d, k), increasing.
    """

    knots: Tensor
    scores: Tensor

    def __call__(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Normal scores (n, d) of codes, and the log-determinant of the map (n,)."""
        values = codes.T.contiguous()
        cell = torch.searchsorted(self.knots, values).clamp(1, self.knots.shape[1] - 1)
        left, right = self.knots.gather(1, cell - 1), self.knots.gather(1, cell)
        low, high = self.scores.gather(1, cell - 1), self.scores.gather(1, cell)
        slope = (high - low) / (right - left)
        return (low + slope * (values - left)).T, slope.log().sum(0)


def marginals(codes: Tensor, knots: int = _KNOTS, each: int = 10) -> Marginals:
    """Maps through quantiles of codes (n, d), ``each`` codes or more to a cell; beyond the last they go on as steep.

    Raises:
        ValueError: a dimension that does not vary.
    """
    count = len(codes)
    cells = max(2, min(knots, count // each))
    levels = (torch.arange(cells, dtype=codes.dtype, device=codes.device) + 0.5) / cells
    places = torch.quantile(codes, levels, dim=0).T.contiguous()
    scores = torch.special.ndtri(levels).expand_as(places)
    # ties would be steps
    width = codes.std(0)[:, None]
    if not bool((width > 0).all()):
        raise ValueError("a dimension of the codes does not vary")
    places = torch.cummax(places, 1).values + 1e-6 * width * torch.arange(cells, dtype=codes.dtype, device=codes.device)
    return Marginals(places.contiguous(), scores.contiguous())


class Mixture(NamedTuple):
    """Log-weights (k,), means (k, d) and the Cholesky factors of covariances (k, d, d)."""

    weights: Tensor
    means: Tensor
    roots: Tensor

    def parts(self, codes: Tensor) -> Tensor:
        """Log-densities of codes (n, d) with each component and its weight: (n, k)."""
        shifted = (codes[None] - self.means[:, None]).mT
        white = torch.linalg.solve_triangular(self.roots, shifted, upper=False)
        logdet = self.roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (self.weights - logdet - 0.5 * codes.shape[1] * _LOG_2PI)[None] - 0.5 * white.square().sum(1).T

    def log_prob(self, codes: Tensor) -> Tensor:
        """Log-density of codes (n, d): (n,), nats."""
        return torch.logsumexp(self.parts(codes), 1)

    def doubled(self, generator: torch.Generator) -> Mixture:
        """Each component twice, moved apart by a part of its own width."""
        step = 0.3 * torch.randn(self.means.shape, generator=generator, dtype=torch.float64).to(self.means.device)
        moved = torch.einsum("kij,kj->ki", self.roots, step)
        means = torch.cat([self.means + moved, self.means - moved])
        return Mixture((self.weights - math.log(2)).repeat(2), means, self.roots.repeat(2, 1, 1))

    def climbed(self, codes: Tensor, steps: int = _STEPS) -> Mixture:
        """Expectation-maximisation on codes (n, d)."""
        mixture, before = self, -math.inf
        for _ in range(steps):
            parts = mixture.parts(codes)
            total = torch.logsumexp(parts, 1)
            value = float(total.mean())
            if value - before < 1e-3:
                break
            before = value
            share = (parts - total[:, None]).exp()
            mixture = maximised(codes, share)
        return mixture


class Density(NamedTuple):
    """Marginals and a mixture of their normal scores; ``kept`` is how well codes that were kept aside fared, nats."""

    marginals: Marginals | None
    mixture: Mixture
    kept: float

    def scores(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Normal scores (n, d) of codes and the map's log-determinant (n,)."""
        if self.marginals is None:
            return codes, codes.new_zeros(len(codes))
        return self.marginals(codes)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Log-density of codes (n, d): (n,), nats."""
        scores, logdet = self.scores(codes)
        return self.mixture.log_prob(scores) + logdet

    def resubstituted(self, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Log-density of codes by one that is fitted to these very codes, twice as fine: (n,).

        Twice the components, which start at this mixture's, and maps of twice the cells. Its mean is larger than that
        of the best such density by what is over-fitted, so that of the true one too where the class comes that near.
        """
        codes = codes.double()
        finer = self
        if self.marginals is not None:
            finer = self._replace(marginals=marginals(codes, 2 * _KNOTS, each=_FINE))
        scores, logdet = finer.scores(codes)
        return self.mixture.doubled(generator).climbed(scores).log_prob(scores) + logdet


def maximised(codes: Tensor, share: Tensor) -> Mixture:
    """The mixture of codes (n, d) where component k has the share (n, k) of each.

    A component's covariance is drawn towards that within all of them, as by 2 d codes of it: there may be more
    coefficients than codes. Source: Fraley & Raftery 2007 (a common inverse Wishart prior).

    Raises:
        ValueError: a covariance is not positive definite.
    """
    mass = share.sum(0) + 1e-9
    dims = codes.shape[1]
    means = share.T @ codes / mass[:, None]
    scatters = torch.stack([(codes * part[:, None]).T @ codes for part in share.T])
    scatters = scatters - mass[:, None, None] * torch.einsum("ki,kj->kij", means, means)
    within = scatters.sum(0) / mass.sum()
    within = within + _RIDGE * within.diagonal().mean() * torch.eye(dims).to(within)
    prior = 2.0 * dims * (len(mass) > 1)
    covariances = (scatters + prior * within) / (mass + prior)[:, None, None]
    covariances = covariances + 1e-9 * within.diagonal().mean() * torch.eye(dims).to(within)
    roots, failed = torch.linalg.cholesky_ex(covariances)
    if bool(failed.any()):
        raise ValueError("codes of which a mixture has no covariance")
    return Mixture((mass / mass.sum()).log(), means, roots)


def clustered(codes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Shares (n, count) of codes (n, d) in clusters: k-means++ and ten of Lloyd's steps."""
    white = codes / codes.std(0)
    chosen = [int(torch.randint(0, len(codes), (1,), generator=generator))]
    nearest = torch.full_like(white[:, 0], math.inf)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (white - white[chosen[-1]]).square().sum(1))
        ahead = nearest.cumsum(0)
        place = float(torch.rand(1, generator=generator)) * ahead[-1]
        chosen.append(min(int(torch.searchsorted(ahead, place)), len(codes) - 1))
    centres = white[chosen]
    for _ in range(10):
        share = torch.nn.functional.one_hot(torch.cdist(white, centres).argmin(1), count).to(codes)
        mass = share.sum(0)[:, None]
        centres = torch.where(mass > 0, share.T @ white / mass.clamp_min(1), centres)
    return share


def single(codes: Tensor) -> Mixture:
    """One Gaussian of the moments of codes (n, d)."""
    return maximised(codes, torch.ones_like(codes[:, :1]))


def fit(codes: Tensor, generator: torch.Generator) -> Density:
    """The density of codes (n, d): with marginals or without, and with as many components as held-out codes gain by.

    A quarter of the codes is kept aside for the choice, and then fitted to as well.

    Raises:
        ValueError: codes that are not finite, or do not vary.
    """
    codes = codes.double()
    if not bool(torch.isfinite(codes).all()):
        raise ValueError("codes are not finite")
    order = torch.randperm(len(codes), generator=generator).to(codes.device)
    fitted, held = codes[order[len(codes) // 4 :]], codes[order[: len(codes) // 4]]
    # with marginals or without is decided for one Gaussian; then components are added to the better
    best = max((_single(maps, fitted, held) for maps in (None, marginals(fitted))), key=lambda density: density.kept)
    seen, _ = best.scores(fitted)
    failed = 0
    for count in COUNTS:
        if count * _CODES_EACH > len(fitted) or failed == 2:
            break
        more = best._replace(mixture=maximised(seen, clustered(seen, count, generator)).climbed(seen))
        more = more._replace(kept=float(more.log_prob(held).mean()))
        failed = 0 if more.kept > best.kept else failed + 1
        best = max(best, more, key=lambda density: density.kept)
    if best.marginals is not None:
        best = best._replace(marginals=marginals(codes))
    return best._replace(mixture=best.mixture.climbed(best.scores(codes)[0]))


def _single(maps: Marginals | None, fitted: Tensor, held: Tensor) -> Density:
    scores = maps(fitted)[0] if maps else fitted
    density = Density(maps, single(scores), 0.0)
    return density._replace(kept=float(density.log_prob(held).mean()))
