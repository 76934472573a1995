"""DCI and the mutual information gap against their definitions, on importances and codes that are planted."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import CPU
from helpers import member

from gimtune.metrics import Evaluation, factors
from gimtune.training import Pack


def test_importances_of_a_permutation_are_disentangled_and_complete():
    importance = np.array([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    assert factors.disentanglement(importance) == pytest.approx(1)
    assert factors.completeness(importance) == pytest.approx(1)


def test_even_importances_are_neither():
    assert factors.disentanglement(np.ones((5, 3))) == pytest.approx(0)
    assert factors.completeness(np.ones((5, 3))) == pytest.approx(0)


def test_a_factor_in_two_codes_is_disentangled_and_not_complete():
    # codes 0 and 1 share factor 0 evenly, code 2 is factor 1
    importance = np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]])
    assert factors.disentanglement(importance) == pytest.approx(1)
    assert factors.completeness(importance) == pytest.approx((1 - math.log(2) / math.log(3) + 1) / 2)


def test_codes_weigh_by_their_importance():
    # a code of two factors, half as important as one of a single factor
    importance = np.array([[0.5, 0.5], [2.0, 0.0]])
    assert factors.disentanglement(importance) == pytest.approx(2 / 3)
    shares = np.array([0.2, 0.8])
    first = 1 + float((shares * np.log2(shares)).sum())
    assert factors.completeness(importance) == pytest.approx((first + 1) / 2)


@pytest.fixture
def planted():
    """Two independent factors of 4 and 2 values, evenly, and codes: each factor, both together, and noise."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(0, 4, 4000), rng.integers(0, 2, 4000)], 1)
    return values, rng


def test_information_of_a_code_is_what_it_knows_of_a_factor(planted):
    values, rng = planted
    codes = np.stack([3.0 * values[:, 0], values[:, 0] + 10.0 * values[:, 1], values[:, 0] // 2, rng.random(4000)], 1)
    known = factors.mutual_information(codes, values[:, 0])
    total = factors.entropy(values[:, 0])
    assert total == pytest.approx(math.log(4), abs=1e-3)
    assert known[:3] == pytest.approx([total, total, math.log(2)], abs=2e-3)
    # counts are biased by (bins - 1) (values - 1) / 2n
    assert known[3] == pytest.approx(19 * 3 / 8000, rel=0.5)


def test_the_gap_is_one_of_factors_as_codes_and_nothing_of_copies(planted):
    values, rng = planted
    noise = rng.random((4000, 1))
    assert factors.gap(np.concatenate([values, noise], 1).astype(float), values) == pytest.approx(1, abs=0.01)
    twice = np.concatenate([values, 2 * values], 1).astype(float)
    assert factors.gap(twice, values) == pytest.approx(0, abs=1e-12)
    # the second factor in one code, the first in two: a half
    mixed = np.concatenate([values, values[:, :1] * 2], 1).astype(float)
    assert factors.gap(mixed, values) == pytest.approx(0.5, abs=0.01)
    # a factor that does not vary is none
    constant = np.concatenate([values, np.zeros((4000, 1), int)], 1)
    assert factors.gap(values.astype(float), constant) == pytest.approx(1, abs=0.01)


def test_forests_find_planted_codes(planted):
    values, rng = planted
    codes = np.concatenate([values + 0.01 * rng.normal(size=values.shape), rng.normal(size=(4000, 2))], 1)
    importance, forests = factors.importances(codes[:1000], values[:1000], 0)
    assert importance.argmax(0).tolist() == [0, 1]
    assert factors.disentanglement(importance) > 0.85
    assert factors.completeness(importance) > 0.85
    turned = np.concatenate([(codes[:, :2] @ [[1, 1], [1, -1]]), codes[:, 2:]], 1)
    entangled, _ = factors.importances(turned[:1000], values[:1000], 0)
    assert factors.completeness(entangled) < factors.completeness(importance) - 0.2
    assert all((f.predict(codes[1000:]) == own[1000:]).mean() > 0.99 for f, own in zip(forests, values.T, strict=True))


def test_members_on_factors_are_measured_at_their_end(small):
    data = small.data.dataset
    labels = {split: np.stack([y % 2, y // 5], 1) for split, y in data.labels.items()}
    evaluation = Evaluation(dataclasses.replace(data, labels=labels, targets=("odd", "high")), small.network, CPU)
    pack = Pack([member("ae")], evaluation.data)
    pack.train_epoch()
    row = evaluation.row(pack, 0, ("validation", "test"))
    keys = ("mig", "dci_disentanglement", "dci_completeness", "dci_informativeness")
    assert all(0 <= row[f"{split}{key}"] <= 1 for key in keys for split in ("", "test_"))
    assert row["dci_informativeness"] > 0.5
    assert row == evaluation.row(pack, 0, ("validation", "test")) | {"reasons": row["reasons"]}
    going = evaluation.row(pack, 0, ("validation",))
    assert "measured when a member ends" in going["reasons"]["dci_completeness"]
    assert going["mig"] == row["mig"]
    alone = small.row(Pack([member("ae")], small.data), 0, ("validation", "test"))
    assert alone["reasons"]["mig"] == "labels are no factors: there is one column of them"
