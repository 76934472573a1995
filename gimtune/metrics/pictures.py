"""Rows of images that show what a member's codes mean, and whether it repeats its training images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gimtune.metrics.view import View
from gimtune.vocabulary import Side

#: Codes and images that ranges are taken from.
_CODES = 1000
#: Rows and columns of a picture, at most.
_ROWS, _COLUMNS = 10, 9
_PAIRS = 4
#: Training images that are compared at a time.
_CHUNK = 5000


def pictures(view: View) -> Mapping[str, Tensor]:
    """Grids of images, (rows, columns, *image) each, by name: those of them that are defined."""
    found = {
        "traversals": traversals(view),
        "interpolations": interpolations(view),
        "neighbours": neighbours(view),
    }
    return {name: grid for name, grid in found.items() if grid is not None}


def traversals(view: View) -> Tensor | None:
    """Decoded means as single codes change and all others stay, (rows, columns, *image).

    A row is a code, the one that varies most first; over its columns it goes from its 2 % to its 98 % quantile among
    posterior means of the split's images, or among codes of the prior on side p, where the decoder sees no others. The
    first row of a code with categories goes through these. A code that is an image has none.
    """
    if view.prior.images:
        return None
    codes = view.sampled(_CODES) if view.side is Side.P else view.drawn(count=_CODES).mu
    categories = int(getattr(view.encoder, "categories", 0))
    base, coded = codes[0], view.encoder.coded(view.latent_dim)
    rows: list[Tensor] = []
    if categories:
        row = base.repeat(_COLUMNS, 1)
        row[:, :categories] = torch.eye(categories, device=base.device)[torch.arange(_COLUMNS) % categories]
        rows.append(row)
    varying = codes[:, categories:coded]
    order = varying.var(0).argsort(descending=True)[: _ROWS - len(rows)]
    levels = torch.linspace(0.02, 0.98, _COLUMNS, device=codes.device)
    for dimension, values in zip(order.tolist(), varying[:, order].quantile(levels, dim=0).T, strict=True):
        row = base.repeat(_COLUMNS, 1)
        row[:, categories + dimension] = values
        rows.append(row)
    return view.decode(torch.cat(rows)).unflatten(0, (len(rows), _COLUMNS))


def interpolations(view: View) -> Tensor | None:
    """Decoded means on the line between the posterior means of two images, which stand at its ends.

    Of codes that are partly discrete, or images, there are none. (pairs, columns + 2, *image).
    """
    if view.prior.images or not view.encoder.differentiable:
        return None
    means = view.drawn(count=2 * _PAIRS).mu
    shares = torch.linspace(0, 1, _COLUMNS, device=means.device)[:, None]
    lines = [torch.lerp(means[i], means[i + 1], shares) for i in range(0, len(means) - 1, 2)]
    made = view.decode(torch.cat(lines)).unflatten(0, (len(lines), _COLUMNS))
    ends = view.images[: 2 * len(lines)].unflatten(0, (len(lines), 2))
    return torch.cat([ends[:, :1], made, ends[:, 1:]], 1)


def neighbours(view: View) -> Tensor:
    """Generated images, the first that samples show, and below each its nearest training image: (4, 10, *image).

    By the Euclidean distance of pixels, among all training images: a generator that repeats them shows pairs.
    """
    made = view.decode(view.sampled(2 * (_COLUMNS + 1)))
    flat = made.flatten(1)
    best = torch.full((len(made),), torch.inf, device=flat.device)
    nearest = torch.zeros(len(made), dtype=torch.long, device=flat.device)
    for start in range(0, len(view.data.images["train"]), _CHUNK):
        part = view.data.scaled("train", slice(start, start + _CHUNK)).flatten(1)
        distance, index = torch.cdist(flat, part).min(1)
        nearest = torch.where(distance < best, index + start, nearest)
        best = torch.minimum(distance, best)
    pairs = torch.stack([made, view.data.scaled("train", nearest)])
    return pairs.unflatten(1, (2, _COLUMNS + 1)).transpose(0, 1).flatten(0, 1)
