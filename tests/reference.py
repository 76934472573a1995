"""Known answers, computed another way: densities by SciPy, integrals by fine composite Gauss-Legendre rules."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
LN2 = math.log(2)


class Density(NamedTuple):
    """A density on the line, with the edges between which it is smooth and well resolved by 24 nodes."""

    log_pdf: Callable
    edges: np.ndarray


def gaussian(mu, sigma):
    return Density(lambda x: stats.norm.logpdf(x, mu, sigma), mu + sigma * np.linspace(-14, 14, 57))


def marginals(name, scale, latent_dim=2, components=10, radius=3.0, layout="ring"):
    """The one-dimensional marginals p(z_i) of a prior."""
    if name == "normal":
        return [gaussian(0.0, scale)] * latent_dim
    if name == "uniform":
        edges = np.linspace(-scale, scale, 17)
        return [Density(lambda x: stats.uniform.logpdf(x, -scale, 2 * scale), edges)] * latent_dim
    if name == "laplace":
        return [Density(lambda x: stats.laplace.logpdf(x, 0, scale), np.linspace(-50 * scale, 50 * scale, 201))] * (
            latent_dim
        )
    centres = mixture_centres(components, radius, layout)
    return [_mixture(centres[:, i], scale) for i in range(2)] + [gaussian(0.0, 1.0)] * (latent_dim - 2)


def mixture_centres(components=10, radius=3.0, layout="ring"):
    """Where the components of the mixture prior stand, (components, 2)."""
    if layout == "ring":
        angles = 2 * np.pi * np.arange(components) / components
        return radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    side = math.ceil(math.sqrt(components))
    axis = np.linspace(-radius, radius, side)
    return np.array([(a, b) for a in axis for b in axis])[:components]


def mixture_log_pdf(z, scale, **where):
    """Log-density of the mixture prior at codes (n, d)."""
    centres = mixture_centres(**where)
    planar = [stats.norm.logpdf(z[:, :2], c, scale).sum(1) for c in centres]
    return np.logaddexp.reduce(planar, 0) - math.log(len(centres)) + stats.norm.logpdf(z[:, 2:]).sum(1)


def _mixture(centres, scale):
    def log_pdf(x):
        return np.logaddexp.reduce([stats.norm.logpdf(x, c, scale) for c in centres], 0) - math.log(len(centres))

    return Density(log_pdf, np.concatenate([c + scale * np.linspace(-12, 12, 49) for c in centres]))


def integrate(function, edges):
    """Integral of a function that is smooth between the edges."""
    edges = np.unique(edges)
    half = np.diff(edges)[:, None] / 2
    return float((half * _WEIGHTS * function(edges[:-1, None] + half + half * _NODES)).sum())


def kl(q, p):
    """KL(q || p), both on the line."""

    def integrand(x):
        log_q = q.log_pdf(x)
        return np.exp(log_q) * (log_q - p.log_pdf(x))

    # the prior's edges within the posterior's mass: beyond it exp(log q) is 0 and log p may be minus infinity
    inside = p.edges[(p.edges > q.edges.min()) & (p.edges < q.edges.max())]
    return integrate(integrand, np.concatenate([q.edges, inside]))


def js(q, p):
    """JS(q || p), both on the line."""

    def integrand(x):
        log_q, log_p = q.log_pdf(x), p.log_pdf(x)
        log_m = np.logaddexp(log_q, log_p) - LN2
        with np.errstate(invalid="ignore"):
            terms = [np.where(np.isfinite(log), np.exp(log) * (log - log_m), 0) for log in (log_q, log_p)]
        return 0.5 * sum(terms)

    return integrate(integrand, np.concatenate([q.edges, p.edges]))
