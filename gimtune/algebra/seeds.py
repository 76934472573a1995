"""Generators named by what they are for: every stream of random numbers is a function of its key alone.

Because a key may hold the epoch, a run that starts again at an epoch draws what it would have drawn; a checkpoint keeps
the position and the seeds, and needs no generator's state.
"""

from __future__ import annotations

import hashlib

import torch


def number(*key: str | int) -> int:
    """A 32-bit seed for a key."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:4], "big")


def generator(device: torch.device, *key: str | int) -> torch.Generator:
    """A generator on ``device`` seeded by the key."""
    return torch.Generator(device).manual_seed(number(*key))
