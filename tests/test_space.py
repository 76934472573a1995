"""The syntax of search spaces."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimtune.study import space


def test_grids_multiply_and_the_last_key_is_fastest():
    found = list(space.expand({"weight": {"grid": [1, 2]}, "seed": {"grid": [0, 1]}, "latent_dim": 8}))
    assert [(a["weight"], a["seed"]) for a in found] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(a["latent_dim"] == 8 for a in found)


def test_a_key_may_depend_on_the_model():
    spaces = {
        "weight": {"per": "model", "ae": 0, "default": {"grid": [1, 2]}},
        "model": {"grid": ["ae", "vae"]},
    }
    assert [(a["model"], a["weight"]) for a in space.expand(spaces)] == [("ae", 0), ("vae", 1), ("vae", 2)]


def test_a_key_may_depend_on_a_prior_that_has_options():
    spaces = {
        "prior": {"grid": ["normal", {"name": "laplace", "scale": {"grid": [1.0, 2.0]}}]},
        "latent_dim": {"per": "prior", "normal": 2, "laplace": 3},
    }
    assert [(a["prior"], a["latent_dim"]) for a in space.expand(spaces)] == [
        ("normal", 2),
        ({"name": "laplace", "scale": 1.0}, 3),
        ({"name": "laplace", "scale": 2.0}, 3),
    ]


def test_nothing_for_a_model_is_refused():
    with pytest.raises(ValueError, match=r"space\.weight: nothing for model=vae"):
        list(space.expand({"model": "vae", "weight": {"per": "model", "ae": 0}}))


@given(st.integers(0, 2**32 - 1))
def test_draws_stay_in_their_bounds_and_repeat(seed):
    spaces = {
        "a": {"uniform": [-1, 2]},
        "b": {"loguniform": [1e-3, 10]},
        "c": {"randint": [3, 6]},
        "d": {"choice": ["x", {"uniform": [5, 6]}]},
    }
    one, two = (space.draw(spaces, np.random.default_rng(seed)) for _ in range(2))
    assert one == two
    assert -1 <= one["a"] <= 2
    assert 1e-3 <= one["b"] <= 10
    assert one["c"] in (3, 4, 5)
    assert one["d"] == "x" or 5 <= one["d"] <= 6


def test_loguniform_is_uniform_in_the_logarithm():
    random = np.random.default_rng(0)
    logs = np.array([math.log10(space.draw({"w": {"loguniform": [1e-2, 1e2]}}, random)["w"]) for _ in range(4000)])
    # mean and variance of the uniform on [-2, 2], within 4 standard errors
    assert abs(logs.mean()) < 4 * math.sqrt(16 / 12 / 4000)
    assert abs(logs.var() - 16 / 12) < 4 * math.sqrt(16**2 / 180 / 4000)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], r"a list is no space; write \{grid: \[1, 2\]\}"),
        ({"grid": []}, "one or more values"),
        ({"grid": 3}, "one or more values"),
        ({"uniform": [2, 1]}, "a < b"),
        ({"uniform": [1]}, "two numbers"),
        ({"uniform": [0, float("inf")]}, "two numbers"),
        ({"uniform": [0, True]}, "two numbers"),
        ({"loguniform": [0, 1]}, "positive"),
        ({"randint": [0, 1.5]}, "whole"),
        ({"grid": [1], "name": "normal"}, "grid stands beside name"),
        ({"sweep": [1, 2]}, "sweep is no space"),
        ({"per": "weight", "default": 1}, "allowed are model, prior"),
        ({"per": "model", "vae": {"grid": []}}, r"space\.weight\.vae\.grid"),
        ({"grid": [{"name": "normal", "scale": {"uniform": [1, 0]}}]}, "a < b"),
    ],
)
def test_malformed_spaces_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        space.check("space.weight", value)


def test_a_grid_sampler_refuses_what_is_drawn():
    with pytest.raises(ValueError, match=r"space\.weight\.uniform.*search\.sampler=random"):
        list(space.expand({"weight": {"uniform": [0, 1]}}))


def test_numbers_go_with_the_pixels_where_a_space_says_so():
    asked = {
        "per": "model",
        "vae": {"loguniform": [0.1, 30], "pixels": 784},
        "aae": {"grid": [0.1, 1]},
        "default": {"grid": [0, 0.3, 3], "pixels": 100},
    }
    space.check("space.weight", asked)
    assert space.sized(asked, lambda: 3072) == {
        "per": "model",
        "vae": {"loguniform": [0.39, 120]},
        "aae": {"grid": [0.1, 1]},
        "default": {"grid": [0, 9.2, 92]},
    }
    # of as many pixels the numbers are what they were, to the last digit
    assert space.sized({"grid": [0.1234567], "pixels": 784}, lambda: 784) == {"grid": [0.1234567]}
    # and where nothing asks, nothing is read
    space.sized({"grid": [1, 2]}, lambda: pytest.fail("asked"))
    assert space.sized("pixels", lambda: 1) == "pixels"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"grid": [1], "pixels": 0}, "space.weight.pixels=0: a whole number >= 1"),
        ({"grid": [1], "pixels": 1.5}, "space.weight.pixels=1.5: a whole number >= 1"),
        ({"grid": ["normal"], "pixels": 784}, "pixels multiplies numbers"),
        ({"randint": [1, 9], "pixels": 784}, "pixels multiplies numbers"),
        ({"grid": [1], "pixels": 784, "colours": 3}, "grid stands beside colours"),
    ],
)
def test_what_cannot_be_multiplied_is_refused(asked, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        space.check("space.weight", asked)


def test_no_name_of_a_part_has_two_meanings():
    def named(*options, by="choice"):
        found = [*space.parts({"prior": {by: [*options]}})]
        seen = set()
        for seed in range(40):
            random = np.random.default_rng(seed)

            def choose(name, kind, content, random=random):
                seen.add(name)
                return int(random.integers(len(content))) if kind in space.LISTS else content[0]

            space.assign({"prior": {by: [*options]}}, choose)
        assert seen == {*found}
        return [name.removeprefix("space.prior") for name in found]

    few, many = ({"name": name, "components": {"choice": sizes}} for name, sizes in (("a", [3, 5]), ("b", [10, 20])))
    assert named("normal", few, many) == ["", ".a.components", ".b.components"]
    # where names tell nothing, places do
    assert named("normal", few, {**many, "name": "a"}) == ["", ".1.components", ".2.components"]
    assert named("normal", {"uniform": [1, 2]}) == ["", ".1"]
    assert named({"choice": [1, 2]}, {"choice": [3, 4]}) == ["", ".0", ".1"]
    assert named({"name": "a", "scale": {"uniform": [1, 2]}}, {"name": "b", "scale": {"loguniform": [1, 2]}}) == [
        *("", ".a.scale", ".b.scale")
    ]
    # as they were before, where a searcher takes one part for both
    assert named("normal", few) == ["", ".components"]
    assert named("normal", few, {**few, "name": "b"}) == ["", ".components"]
    assert named("normal", few, {"name": "b", "components": {"grid": [3, 5]}}) == ["", ".components"]
    assert named(few, {"name": "b", "scale": {"uniform": [1, 2]}}, by="grid") == ["", ".components", ".scale"]


def test_an_option_whose_parts_are_conditional_has_its_own_names():
    per = {"per": "model", "vae": {"choice": [1, 2]}, "default": 3}
    spaces = {
        "model": {"grid": ["vae", "ae"]},
        "prior": {"choice": [{"name": "a", "scale": per}, {"name": "b", "scale": {**per, "vae": {"choice": [4, 5]}}}]},
    }
    assert [*space.parts(spaces)] == ["space.model", "space.prior", *(f"space.prior.{n}.scale.vae" for n in "ab")]
