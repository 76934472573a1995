"""Traversals, interpolations and nearest training images of members whose codes and images are known."""

from types import SimpleNamespace

import pytest
import torch

from gimtune.algebra.encoders import Posterior
from gimtune.metrics.pictures import interpolations, neighbours, pictures, traversals
from gimtune.vocabulary import Side

TRAIN = torch.rand(12_000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
CODES = torch.randn(1000, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 3.0, 0.1, 2.0])


def view(**changed):
    """A member whose decoder shows its four codes as four pixels."""
    data = SimpleNamespace(images={"train": TRAIN}, scaled=lambda split, index: TRAIN[index])
    encoder = SimpleNamespace(coded=lambda size: size, differentiable=True)
    return SimpleNamespace(
        **{
            "prior": SimpleNamespace(images=False),
            "side": Side.Q,
            "encoder": encoder,
            "latent_dim": 4,
            "data": data,
            "images": TRAIN[:50],
            "drawn": lambda count: Posterior(CODES[:count], CODES[:count], CODES[:count]),
            "sampled": lambda count: 5 + CODES[:count],
            "decode": lambda codes: codes.reshape(-1, 1, 2, 2),
        }
        | changed
    )


def test_a_row_varies_one_code_between_its_quantiles_the_most_active_first():
    grid = traversals(view()).flatten(2)
    assert grid.shape == (4, 9, 4)
    for row, dimension in zip(grid, (1, 3, 0, 2), strict=True):
        others = [i for i in range(4) if i != dimension]
        assert bool((row[:, others] == CODES[0, others]).all())
        low, middle, high = CODES[:, dimension].quantile(torch.tensor([0.02, 0.5, 0.98]))
        torch.testing.assert_close(row[[0, 4, 8], dimension], torch.stack([low, middle, high]))


def test_the_codes_of_side_p_are_the_priors():
    assert 4 < float(traversals(view(side=Side.P))[1, 4].mean()) < 6


def test_categories_are_gone_through():
    encoder = SimpleNamespace(coded=lambda size: 3, differentiable=False, categories=2)
    made = view(encoder=encoder)
    grid = traversals(made).flatten(2)
    # of four codes two are a category, one is a code and one is noise
    assert grid.shape == (2, 9, 4)
    assert grid[0, :, :2].tolist() == [[1, 0], [0, 1]] * 4 + [[1, 0]]
    assert bool((grid[1, :, 3] == CODES[0, 3]).all())
    assert interpolations(made) is None


def test_a_line_between_codes_has_the_images_at_its_ends():
    grid = interpolations(view()).flatten(2)
    assert grid.shape == (4, 11, 4)
    for i, row in enumerate(grid):
        torch.testing.assert_close(row[[0, 10]], TRAIN[2 * i : 2 * i + 2].flatten(1))
        torch.testing.assert_close(row[[1, 9]], CODES[2 * i : 2 * i + 2])
        torch.testing.assert_close(row[5], CODES[2 * i : 2 * i + 2].mean(0))


def test_a_repeated_training_image_is_found_wherever_it_stands():
    places = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(2))[:20]
    noise = 1e-4 * torch.randn(20, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    grid = neighbours(view(decode=lambda codes: TRAIN[places] + noise))
    assert grid.shape == (4, 10, 1, 2, 2)
    assert bool((grid[[1, 3]].flatten(0, 1) == TRAIN[places]).all())
    torch.testing.assert_close(grid[[0, 2]].flatten(0, 1), TRAIN[places] + noise)


@pytest.mark.parametrize("images", [False, True])
def test_a_code_that_is_an_image_is_not_varied(images):
    found = pictures(view(prior=SimpleNamespace(images=images)))
    assert {*found} == ({"neighbours"} if images else {"neighbours", "traversals", "interpolations"})
