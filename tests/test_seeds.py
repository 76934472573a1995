"""Random streams are functions of their keys."""

import torch
from conftest import CPU

from gimtune.algebra.seeds import generator, number


def test_a_stream_is_a_function_of_its_key():
    # the value pins the recipe: another one would change every number of every study
    assert number(0, "train", 3) == 4195721774
    one, two, other = (torch.randn(100, generator=generator(CPU, *key)) for key in [(0, "a"), (0, "a"), (0, "b")])
    assert one.equal(two)
    assert not bool((one == other).any())


def test_global_random_state_is_left_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    torch.randn(10, generator=generator(CPU, 1, "noise"))
    assert torch.get_rng_state().equal(before)


def test_keys_are_told_apart():
    keys = [(seed, kind, epoch) for seed in range(30) for kind in ("train", "formula") for epoch in range(30)]
    # 1,800 of 2^32: a collision has a chance of 4e-4
    assert len({number(*key) for key in keys}) == len(keys)
