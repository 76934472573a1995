"""Bounds and estimates of I(x; z) as rows have them, where it is known: 1 to 20 nats in 8 and 64 dimensions.

    python -m benchmarks.mutual_information

A code is z = f(m + s e) with m and e normal in every dimension: the posterior of an image whose mean is m, sent through
an invertible map that changes no information. ``normal`` is no map; ``half-cube`` makes the tails heavy, ``asinh``
light, ``spiral`` turns the planes of coordinates by an angle that grows with the radius (Czyz et al. 2023); in
``clusters`` the means have ten modes, and the information is a mean over many codes.

Columns, nats: the truth; ``lower`` and ``upper``, the pair of `gimtune.metrics.bounds` without the index code, with
standard errors; ``index``, the bound that ends at the logarithm of the number of images; ``gaussian``, `mi_q`, where no
map has changed what a posterior is; and the seconds that the pair takes.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gimtune.metrics import density
from gimtune.metrics.bounds import pair
from gimtune.metrics.information import gaussian, index_code

_LOG_2PI = math.log(2 * math.pi)
#: From codes (n, d) to others and the log-determinant of the derivative, (n,).
Map = Callable[[Tensor], tuple[Tensor, Tensor]]


def _same(codes: Tensor) -> tuple[Tensor, Tensor]:
    return codes, codes.new_zeros(len(codes))


def _half_cube(codes: Tensor) -> tuple[Tensor, Tensor]:
    return codes.sign() * codes.abs() ** 1.5, (math.log(1.5) + 0.5 * codes.abs().log()).sum(1)


def _asinh(codes: Tensor) -> tuple[Tensor, Tensor]:
    return torch.asinh(codes), -0.5 * torch.log1p(codes.square()).sum(1)


def _spiral(codes: Tensor) -> tuple[Tensor, Tensor]:
    angle = codes.norm(dim=1, keepdim=True) / math.sqrt(codes.shape[1])
    even, odd = codes[:, ::2], codes[:, 1::2]
    turned = angle.cos() * even - angle.sin() * odd, angle.sin() * even + angle.cos() * odd
    # a turn that depends on the radius alone keeps volumes
    return torch.stack(turned, 2).flatten(1), codes.new_zeros(len(codes))


MAPS: dict[str, Map] = {
    "normal": _same,
    "half-cube": _half_cube,
    "asinh": _asinh,
    "spiral": _spiral,
    "clusters": _same,
}


class Row(NamedTuple):
    """One task: values and standard errors, nats."""

    images: int
    dims: int
    task: str
    truth: float
    lower: tuple[float, float]
    upper: tuple[float, float]
    index: float
    gaussian: float
    seconds: float


def _means(count: int, dims: int, task: str, source: torch.Generator) -> Tensor:
    draws = torch.randn(count, dims, generator=source, dtype=torch.float64)
    if task != "clusters":
        return draws
    # ten modes, three deviations from the origin each
    centres = torch.randn(10, dims, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    centres = 3 * centres / centres.norm(dim=1, keepdim=True)
    return centres[torch.randint(0, 10, (count,), generator=source)] + 0.5 * draws


def _truth(dims: int, task: str, width: float) -> float:
    if task != "clusters":
        return 0.5 * dims * math.log1p(width**-2)
    source = torch.Generator().manual_seed(11)
    centres = torch.randn(10, dims, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    centres = 3 * centres / centres.norm(dim=1, keepdim=True)
    variance = 0.25 + width**2
    codes = _means(100_000, dims, task, source)
    codes = codes + width * torch.randn(codes.shape, generator=source, dtype=torch.float64)
    log_density = torch.logsumexp(-0.5 * torch.cdist(codes, centres).square() / variance, 1) - math.log(10)
    entropy = 0.5 * dims * (_LOG_2PI + math.log(variance)) - float(log_density.mean())
    return entropy - 0.5 * dims * (_LOG_2PI + 1 + 2 * math.log(width))


def measure(training: int, images: int, dims: int, task: str, information: float, seed: int = 0) -> Row:
    """One row, from codes of training images for the fit and of others for the expectation."""
    width = math.expm1(2 * information / dims) ** -0.5 * (0.5 if task == "clusters" else 1.0)
    source = torch.Generator().manual_seed(seed)
    means, noise, codes, logdets = [], [], [], []
    for count in (training, images):
        mean = _means(count, dims, task, source)
        draws = torch.randn(count, dims, generator=source, dtype=torch.float64)
        code, logdet = MAPS[task](mean + width * draws)
        for kept, value in zip((means, noise, codes, logdets), (mean, draws, code, logdet), strict=True):
            kept.append(value)
    own = -0.5 * (noise[1].square() + _LOG_2PI + 2 * math.log(width)).sum(1) - logdets[1]
    began = time.perf_counter()
    fitted = density.fit(codes[0], torch.Generator().manual_seed(0))
    above, below = pair(own, codes[1], fitted, torch.Generator().manual_seed(0))
    seconds = time.perf_counter() - began
    sigma = torch.full_like(means[1], width)
    others = means[0], torch.full_like(means[0], width)
    # the map changes nothing of a ratio of densities
    index = index_code(means[1], sigma, means[1] + width * noise[1], others).mean()
    ends = [(float(t.mean()), float(t.std()) / math.sqrt(images)) for t in (below, above)]
    single = gaussian(means[1], sigma) if MAPS[task] is _same else math.nan
    return Row(images, dims, task, _truth(dims, task, width), ends[0], ends[1], float(index), single, seconds)


def table(rows: list[Row]) -> str:
    """Rows as text, a line each."""
    head = ("images", "dims", "task", "truth", "lower", "upper", "index", "gaussian", "s")
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    for row in rows:
        ends = [f"{value:.2f} ± {error:.2f}" for value, error in (row.lower, row.upper)]
        single = "" if math.isnan(row.gaussian) else f"{row.gaussian:.2f}"
        cells = (f"{row.images:,}", row.dims, row.task, f"{row.truth:.2f}", *ends, f"{row.index:.2f}", single)
        lines.append("| " + " | ".join(map(str, (*cells, f"{row.seconds:.1f}"))) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=int, nargs="*", default=[1077, 8000], help="codes that are fitted to")
    parser.add_argument("--images", type=int, nargs="*", default=[360, 5000], help="codes that are scored")
    parser.add_argument("--dims", type=int, nargs="*", default=[8, 64])
    parser.add_argument("--nats", type=float, nargs="*", default=[1, 5, 10, 20])
    given = parser.parse_args(arguments)
    rows = [
        measure(training, images, dims, task, nats)
        for training, images in zip(given.training, given.images, strict=True)
        for dims in given.dims
        for task in MAPS
        for nats in given.nats
    ]
    print(table(rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
