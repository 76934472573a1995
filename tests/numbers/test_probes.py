"""Probes on codes whose answer is known: labels, separable clusters, noise."""

import math

import numpy as np
import pytest
from scipy import stats

from gimtune.metrics import information as mi
from gimtune.metrics import probe

CLASSES, COUNT = 10, 1000


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def labels_of(rng, count=COUNT):
    return rng.integers(0, CLASSES, count)


def test_labels_as_codes_are_read_without_error(rng):
    train, test = labels_of(rng), labels_of(rng)
    fitted = probe.fit(np.eye(CLASSES)[train], train)
    assert fitted.score(np.eye(CLASSES)[test], test) == (1.0, 1.0)


def test_separable_clusters_are_read_without_error(rng):
    centres = 20 * rng.normal(size=(CLASSES, 8))
    train, test = labels_of(rng), labels_of(rng)
    fitted = probe.fit(centres[train] + rng.normal(size=(COUNT, 8)), train)
    assert fitted.score(centres[test] + rng.normal(size=(COUNT, 8)), test) == (1.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_read_at_chance(seed):
    rng = np.random.default_rng(seed)
    train, test = labels_of(rng), labels_of(rng)
    fitted = probe.fit(rng.normal(size=(COUNT, 8)), train)
    # whatever it guesses, each guess is right with probability 1/10: ten comparisons at 99.95 % each
    low, high = stats.binom.interval(0.9995, COUNT, 1 / CLASSES)
    for accuracy in fitted.score(rng.normal(size=(COUNT, 8)), test):
        assert low <= accuracy * COUNT <= high


def test_codes_are_standardised(rng):
    # the label is in the dimension whose scale is smallest
    train, test = labels_of(rng), labels_of(rng)

    def codes(labels):
        return np.column_stack([1e-4 * np.eye(CLASSES)[labels], 1e4 + 1e4 * rng.normal(size=(len(labels), 1))])

    linear, neighbours = probe.fit(codes(train), train).score(codes(test), test)
    assert linear == 1.0
    assert neighbours > 0.99  # one dimension of noise among eleven of unit variance


def test_the_strength_is_chosen_on_the_training_codes_alone(rng):
    # labels that only a strong regularisation survives: few codes, many dimensions, little signal
    signal = rng.normal(size=(CLASSES, 60))
    train = labels_of(rng, 200)
    codes = signal[train] * 0.25 + rng.normal(size=(200, 60))
    fitted = probe.fit(codes, train)
    before = fitted.strength
    assert before < max(probe.STRENGTHS)
    # the split that is scored is given to `score` only, which changes nothing
    first = fitted.score(codes[:100], train[:100])
    fitted.score(rng.normal(size=(500, 60)), labels_of(rng, 500))
    assert fitted.score(codes[:100], train[:100]) == first
    assert fitted.strength == before


def test_the_strength_is_the_best_on_the_part_kept_aside(rng):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train = labels_of(rng, 400)
    codes = rng.normal(size=(CLASSES, 30))[train] * 0.5 + rng.normal(size=(400, 30))
    a, b, la, lb = train_test_split(codes, train, test_size=0.2, random_state=0, stratify=train)
    scores = {
        s: make_pipeline(StandardScaler(), LogisticRegression(C=s, max_iter=1000)).fit(a, la).score(b, lb)
        for s in probe.STRENGTHS
    }
    assert probe.fit(codes, train).strength == max(scores, key=scores.get)


def test_the_same_codes_give_the_same_scores(rng):
    train, test = labels_of(rng), labels_of(rng)
    codes, others = rng.normal(size=(2, COUNT, 4)) + np.stack([train, test])[..., None] * 0.2
    assert probe.fit(codes, train).score(others, test) == probe.fit(codes, train).score(others, test)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_codes_that_are_not_finite_are_refused(rng, value):
    codes = rng.normal(size=(100, 2))
    codes[3, 1] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        probe.fit(codes, labels_of(rng, 100))


def test_information_of_correlated_gaussians(rng):
    # z = B x + e with x standard: I = ln det(B B' + S) / 2 - ln det(S) / 2, up to the moments of 200,000 draws
    mixing, sigma = rng.normal(size=(3, 5)), np.array([0.5, 1.0, 0.2])
    import torch

    mu = torch.from_numpy(rng.normal(size=(200_000, 5)) @ mixing.T)
    value = mi.gaussian(mu, torch.from_numpy(sigma).expand_as(mu))
    expected = 0.5 * (np.linalg.slogdet(mixing @ mixing.T + np.diag(sigma**2))[1] - np.log(sigma**2).sum())
    # ln det of a sample covariance of dimension k has variance 2 k / N; half of it here
    assert abs(value - expected) < 3 * 0.5 * math.sqrt(2 * 3 / 200_000)


def test_active_units_are_those_whose_mean_moves(rng):
    import torch

    scales = torch.tensor([1.0, 0.2, 0.05, 0.0])
    mu = torch.from_numpy(rng.normal(size=(2000, 4))).float() * scales + 5
    assert mi.active(mu) == 2
