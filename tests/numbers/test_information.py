"""The pair around I_q where it is known, in a small form of `benchmarks/mutual_information.py`; and in rows."""

import math

import pytest
import torch
from helpers import member

from benchmarks.mutual_information import MAPS, measure, table
from gimtune.metrics import bounds, density
from gimtune.training import Pack


@pytest.mark.parametrize("nats", [1.0, 20.0])
@pytest.mark.parametrize("task", MAPS)
def test_the_truth_is_between(task, nats):
    row = measure(1077, 360, 8, task, nats)
    assert row.lower[0] < row.truth + 3 * row.lower[1]
    assert row.upper[0] > row.truth - 3 * row.upper[1]
    # and both are near it, where what is capped by the number of images is not
    assert row.upper[0] - row.lower[0] < 2
    assert row.index < math.log(1078) + 1e-9
    assert task in table([row])


@pytest.mark.slow
@pytest.mark.parametrize("dims", [8, 64])
@pytest.mark.parametrize("task", MAPS)
def test_the_truth_is_between_in_more_dimensions_and_among_more_images(task, dims):
    for nats in (5.0, 20.0):
        row = measure(4000, 2000, dims, task, nats)
        assert row.lower[0] < row.truth + 3 * row.lower[1]
        assert row.upper[0] > row.truth - 3 * row.upper[1]
        assert row.upper[0] - row.lower[0] < (1.5 if dims == 8 else 10)


def test_the_fitted_density_integrates_to_one():
    source = torch.Generator().manual_seed(0)
    codes = torch.randn(2000, 1, generator=source, dtype=torch.float64)
    codes = torch.where(torch.rand(2000, 1, generator=source) < 0.3, codes.exp(), codes - 4)
    fitted = density.fit(codes, source)
    grid = torch.linspace(-40, 400, 400_001, dtype=torch.float64)[:, None]
    # between and beyond knots alike
    assert float(fitted.log_prob(grid).exp().sum() * (grid[1] - grid[0])) == pytest.approx(1, abs=2e-3)
    maps = density.marginals(codes)
    inside = torch.linspace(-5, 5, 100, dtype=torch.float64)[:, None]
    _, slope = maps(inside)
    step = 1e-7
    difference = (maps(inside + step)[0] - maps(inside)[0]) / step
    # but for steps across a knot
    assert float((slope.exp() - difference[:, 0]).abs().median()) < 1e-6


def test_the_lower_end_is_never_above_the_upper(small):
    for weight in (1e-3, 1.0, 100.0):
        pack = Pack([member("beta_vae", weight=weight, learning_rate=1e-2)], small.data)
        for _ in range(5):
            pack.train_epoch()
        row = small.row(pack, 0, ("validation",))
        slack = 3 * math.hypot(row["mi_lower_se"], row["mi_upper_se"])
        assert row["mi_lower"] < row["mi_upper"] + slack


def test_what_a_deterministic_encoder_has(small):
    pack = Pack([member("ae", encoder="deterministic")], small.data)
    row = small.row(pack, 0, ("validation", "test"))
    assert math.isnan(row["mi_upper"])
    assert row["reasons"]["mi_upper"] == row["reasons"]["mi_q"]
    assert row["mi_lower"] < row["mi_noised"] + 3 * row["mi_lower_se"]
    # the noise is relative: codes twice as large are known no better
    with torch.no_grad():
        for name in ("3.weight", "3.bias"):
            pack.parameters["encoder"][name].mul_(2)
    again = small.row(pack, 0, ("validation", "test"))
    for key in ("mi_noised", "test_mi_noised", "mi_lower", "test_mi_lower"):
        assert again[key] == pytest.approx(row[key], abs=1e-4), key


def test_what_is_not_finite_has_no_bound(small):
    codes = torch.full((200, 2), math.nan)
    with pytest.raises(ValueError, match="not finite"):
        density.fit(codes, torch.Generator().manual_seed(0))
    assert bounds.NOISE == 0.1
