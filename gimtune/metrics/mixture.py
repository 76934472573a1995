"""Mixtures of Gaussians fitted to training codes: what q(z) is, where the prior is not. float64.

All starts of expectation maximisation, of all members that are measured together, climb at once: a step is two products
of matrices, with the squares, products and values of the codes as features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from gimtune.algebra.seeds import generator

_CODES = 10_000
_COMPONENTS = 10
_STARTS = 10
#: More codes are held out once: the mean of so many is certain enough.
_FOLDED, _FOLDS = 4000, 5
_TRIALS, _LLOYD, _STEPS, _TOLERANCE = 4, 10, 100, 1e-3
#: Of a dimension's variance, added to that of each component.
_RIDGE = 1e-6
_LEAST = -1e300
_LOG_2PI = math.log(2 * math.pi)


class Mixture(NamedTuple):
    """A mixture of K Gaussians in d dimensions.

    Attributes:
        weights: (K,).
        means: (K, d).
        roots: lower triangular roots of the covariances, (K, d, d).
    """

    weights: Tensor
    means: Tensor
    roots: Tensor

    def sample(self, count: int, source: torch.Generator) -> Tensor:
        """Draws (count, d), drawn on the CPU by a generator of it, and ordered by component."""
        chosen = torch.multinomial(self.weights.cpu(), count, replacement=True, generator=source)
        noise = torch.randn(count, self.means.shape[1], generator=source, dtype=torch.float64).to(self.means.device)
        parts = noise.split(torch.bincount(chosen, minlength=len(self.weights)).tolist())
        drawn = [m + part @ root.T for m, root, part in zip(self.means, self.roots, parts, strict=True)]
        return torch.cat(drawn)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Log-density of codes (n, d): (n,), nats."""
        white = torch.linalg.solve_triangular(self.roots, (codes.double() - self.means[:, None]).mT, upper=False)
        logdet = self.roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        parts = self.weights.log() - logdet - 0.5 * codes.shape[1] * _LOG_2PI - 0.5 * white.square().sum(1).T
        return torch.logsumexp(parts, 1)


class _Climb(NamedTuple):
    """B fits to the codes of M members: parameters of K components each, and how likely the codes are.

    Attributes:
        weights: (M, B, K).
        means: (M, B, K, d).
        roots: (M, B, K, d, d).
        value: mean log-likelihood of the codes that are fitted to, (M, B); minus infinity where there is no mixture.
    """

    weights: Tensor
    means: Tensor
    roots: Tensor
    value: Tensor

    def where(self, chosen: Tensor, other: _Climb) -> _Climb:
        """These where chosen (M, B), the others elsewhere."""
        return _Climb(
            *(
                torch.where(chosen.reshape(chosen.shape + (1,) * (one.ndim - 2)), one, two)
                for one, two in zip(self, other, strict=True)
            )
        )


def fit(codes: Sequence[Tensor], seeds: Sequence[int]) -> list[Mixture | str]:
    """A mixture for the codes (n, d) of each member, or why there is none.

    Ten components, as Ghosh et al. 2020 have them, the best of ten starts of expectation maximisation. Their
    covariances are full, or diagonal where that gives codes that are held out a higher likelihood: full ones of many
    dimensions are more than few codes carry.
    """
    values = [part[:_CODES].double() for part in codes]
    if len(values[0]) < 2 * _COMPONENTS:
        return [f"no mixture of {_COMPONENTS} could be fitted: {len(values[0])} codes"] * len(values)
    found: list[Mixture | str] = ["training codes are not finite"] * len(values)
    good = [i for i, part in enumerate(values) if bool(part.isfinite().all())]
    # one at a time on a CPU: products of several round by how many there are
    groups = [[i] for i in good] if codes[0].device.type == "cpu" else [good] * bool(good)
    for group in groups:
        for i, mixture in zip(group, _fit([values[i] for i in group], [seeds[i] for i in group]), strict=True):
            found[i] = mixture
    return found


def _fit(codes: list[Tensor], seeds: list[int]) -> list[Mixture | str]:
    stacked = torch.stack(codes)
    centre, scale = stacked.mean(1, keepdim=True), stacked.std(1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    white = (stacked - centre) / scale
    features = _features(white)
    count = white.shape[1]

    # the same parts for all members; training codes stand in the order of the data set, which may be one of classes
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    folds = order.tensor_split(_FOLDS)[: 1 if count >= _FOLDED else _FOLDS]
    fitted = white.new_ones(count, len(folds))
    for i, fold in enumerate(folds):
        fitted[fold.to(white.device), i] = 0
    kinds = torch.tensor([[False, True]], device=white.device).expand(len(codes), 2)  # diagonal or not
    fitted, kinds = fitted.repeat(1, 2), kinds.repeat_interleave(len(folds), 1)
    tried = _climbed(features, fitted, kinds, _started(white, features, fitted, kinds, [(s, "kind") for s in seeds]))
    held = 1 - fitted
    value = (_expected(features, tried)[1] * held).sum(1) / held.sum(0)
    value = torch.where(tried.value > -math.inf, value, -math.inf).unflatten(1, (2, -1)).mean(2)
    diagonal = (value[:, 1] > value[:, 0])[:, None].expand(-1, _STARTS)

    every = white.new_ones(count, _STARTS)
    made = _climbed(features, every, diagonal, _started(white, features, every, diagonal, [(s, "all") for s in seeds]))
    found: list[Mixture | str] = []
    for i, best in enumerate(made.value.argmax(1).tolist()):
        if made.value[i, best] == -math.inf:
            found.append("no mixture could be fitted: a component has no covariance")
            continue
        weights, means, roots, _ = (part[i, best] for part in made)
        found.append(Mixture(weights, centre[i] + scale[i] * means, scale[i].mT * roots))
    return found


@cache
def _pairs(dims: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.triu_indices(dims, dims)
    return rows, columns


def _features(codes: Tensor) -> Tensor:
    """Products of two dimensions, the dimensions and one, of codes (M, n, d): (M, n, d (d + 1) / 2 + d + 1)."""
    rows, columns = _pairs(codes.shape[2])
    return torch.cat([codes[:, :, rows] * codes[:, :, columns], codes, torch.ones_like(codes[:, :, :1])], 2)


def _expected(features: Tensor, climb: _Climb) -> tuple[Tensor, Tensor]:
    """Shares of the components in each code, (M, n, B, K), and the code's log-density under each fit, (M, n, B)."""
    fits, components, dims = climb.means.shape[1:]
    rows, columns = _pairs(dims)
    precision = torch.cholesky_inverse(climb.roots)
    slope = (precision @ climb.means[..., None])[..., 0]
    constant = (
        climb.weights.log()
        - climb.roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        - 0.5 * (dims * _LOG_2PI + (slope * climb.means).sum(-1))
    )
    twice = torch.where(rows == columns, 0.5, 1.0).to(precision)
    form = torch.cat([-twice * precision[..., rows, columns], slope, constant[..., None]], -1)
    parts = (features @ form.flatten(1, 2).mT).unflatten(2, (fits, components))
    most = parts.amax(3, keepdim=True)
    shares = parts.sub_(most).exp_()
    total = shares.sum(3, keepdim=True)
    return shares.div_(total), (most + total.log())[..., 0]


def _maximised(features: Tensor, shares: Tensor, diagonal: Tensor) -> tuple[_Climb, Tensor]:
    """The mixtures of codes by their features where component k of a fit has the share (M, n, B, K) of each code, and
    whether all covariances of a fit are positive definite, (M, B)."""
    fits, components = shares.shape[2:]
    moments = (shares.flatten(2).mT @ features).unflatten(1, (fits, components))
    mass = moments[..., -1:] + 1e-9
    moments = moments / mass
    dims = round((math.sqrt(1 + 8 * features.shape[2]) - 3) / 2)
    rows, columns = _pairs(dims)
    means = moments[..., -1 - dims : -1]
    covariances = moments.new_empty(*means.shape, dims)
    covariances[..., rows, columns] = covariances[..., columns, rows] = moments[..., : len(rows)]
    covariances = covariances - means[..., None] * means[..., None, :]
    eye = torch.eye(dims).to(covariances)
    covariances = torch.where(diagonal[..., None, None, None], covariances * eye, covariances) + _RIDGE * eye
    roots, failed = torch.linalg.cholesky_ex(covariances)
    good = (failed == 0).all(2) & roots.flatten(2).isfinite().all(2)
    roots = torch.where(good[..., None, None, None], roots, eye)
    weights = mass[..., 0] / mass.sum(2)
    return _Climb(weights, means, roots, torch.full_like(weights[..., 0], -math.inf)), good


def _started(
    codes: Tensor, features: Tensor, fitted: Tensor, diagonal: Tensor, keys: Sequence[tuple[int, str]]
) -> _Climb:
    """Mixtures of k-means++ clusters of codes (M, n, d); the draws are by each member's key."""
    climb, good = _maximised(features, _clustered(codes, fitted, keys), diagonal)
    return climb._replace(value=torch.where(good, climb.value.new_tensor(_LEAST), -math.inf))


def _climbed(features: Tensor, fitted: Tensor, diagonal: Tensor, start: _Climb) -> _Climb:
    """Expectation maximisation of B fits, each until a step gains less than the tolerance.

    Args:
        features: of the codes.
        fitted: one where a fit looks at a code, zero where not, (n, B).
        diagonal: whether a fit's covariances are, (M, B).
    """
    climb = _Climb(*(part.clone() for part in start))
    left = torch.arange(fitted.shape[1], device=features.device)
    done = climb.value == -math.inf
    for _ in range(_STEPS):
        now = _Climb(*(part[:, left] for part in climb))
        shares, density = _expected(features, now)
        weight = fitted[:, left]
        value = torch.where(done[:, left], now.value, (density * weight).sum(1) / weight.sum(0))
        following, good = _maximised(features, shares.mul_(weight[..., None]), diagonal[:, left])
        # where a step leads to no mixture, the one before it stays
        moved = following._replace(value=value).where(good & ~done[:, left], now._replace(value=value))
        for part, new in zip(climb, moved, strict=True):
            part[:, left] = new
        done[:, left] |= (value - now.value < _TOLERANCE) | ~good
        left = left[~done[:, left].all(0)]
        if not len(left):
            break
    return climb


def _clustered(codes: Tensor, fitted: Tensor, keys: Sequence[tuple[int, str]]) -> Tensor:
    """Shares (M, n, B, K), zero or one, of codes (M, n, d) in clusters: greedy k-means++, ten of Lloyd's steps."""
    fits = fitted.shape[1]
    # drawn on the CPU, and for each member by itself
    shape = _COMPONENTS, fits, _TRIALS
    draws = [torch.rand(shape, generator=generator(torch.device("cpu"), *key)) for key in keys]
    places = torch.stack(draws).double().to(codes.device)
    squares = codes.square().sum(2, keepdim=True)

    def apart(centres: Tensor) -> Tensor:
        """Squared distances (M, n, c) to centres (M, c, d)."""
        return (squares - 2 * codes @ centres.mT + centres.square().sum(2)[:, None]).clamp_min(0)

    members = torch.arange(len(codes), device=codes.device)[:, None]
    nearest = fitted.expand(len(codes), *fitted.shape)
    centres: list[Tensor] = []
    for k in range(_COMPONENTS):
        ahead = (nearest * fitted).cumsum(1)
        place = places[:, k] * ahead[:, -1, :, None]
        chosen = torch.searchsorted(ahead.mT.contiguous(), place).clamp(max=codes.shape[1] - 1)
        tried = codes[members, chosen.flatten(1)]
        distances = apart(tried).unflatten(2, (fits, _TRIALS))
        if k:
            distances = torch.minimum(nearest[..., None], distances)
        # of several draws the one that leaves the least to be covered
        best = (distances * fitted[..., None]).sum(1).argmin(2, keepdim=True)
        nearest = distances.gather(3, best[:, None].expand(-1, len(fitted), -1, -1))[..., 0]
        index = best[..., None].expand(-1, -1, -1, codes.shape[2])
        centres.append(tried.unflatten(1, (fits, _TRIALS)).gather(2, index)[:, :, 0])
    now = torch.stack(centres, 2)
    for _ in range(_LLOYD):
        closest = apart(now.flatten(1, 2)).unflatten(2, (fits, _COMPONENTS)).argmin(3, keepdim=True)
        shares = torch.zeros(*closest.shape[:3], _COMPONENTS, dtype=codes.dtype, device=codes.device)
        shares = shares.scatter_(3, closest, 1.0).mul_(fitted[..., None])
        mass = shares.sum(1)[..., None]
        means = (shares.flatten(2).mT @ codes).unflatten(1, (fits, _COMPONENTS)) / mass.clamp_min(1)
        now = torch.where(mass > 0, means, now)
    return shares
