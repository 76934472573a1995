"""Probes on codes whose answer is known: labels, separable clusters, noise."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from gimtune.metrics import information as mi
from gimtune.metrics import logistic, probe

CLASSES, COUNT = 10, 1000


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def labels_of(rng, count=COUNT):
    return rng.integers(0, CLASSES, count)


def fit(codes, labels):
    return probe.fit(torch.from_numpy(codes), torch.from_numpy(labels))


def score(fitted, codes, labels):
    return fitted.score(torch.from_numpy(codes), torch.from_numpy(labels))


def test_labels_as_codes_are_read_without_error(rng):
    train, test = labels_of(rng), labels_of(rng)
    fitted = fit(np.eye(CLASSES)[train][None], train)
    assert score(fitted, np.eye(CLASSES)[test][None], test) == (1.0, 0.0, 1.0, 1.0, 0.0)


def test_separable_clusters_are_read_without_error(rng):
    centres = 20 * rng.normal(size=(CLASSES, 8))
    train, test = labels_of(rng), labels_of(rng)
    fitted = fit(centres[train] + rng.normal(size=(2, COUNT, 8)), train)
    assert score(fitted, centres[test] + rng.normal(size=(2, COUNT, 8)), test) == (1.0, 0.0, 1.0, 1.0, 0.0)


def test_several_columns_have_a_probe_each(rng):
    # two factors of what a code is, and one that it says nothing of
    train, test = (np.stack([labels_of(rng), labels_of(rng) % 3, rng.integers(0, 2, COUNT)], 1) for _ in range(2))

    def codes(labels):
        seen = np.concatenate([np.eye(CLASSES)[labels[:, 0]], 5 * np.eye(3)[labels[:, 1]]], 1)
        return torch.from_numpy(seen + rng.normal(size=(2, *seen.shape)))

    known, scored = codes(train), codes(test)
    fitted = [probe.fit(known, torch.from_numpy(column)) for column in train.T]
    found, each = probe.mean_scores(fitted, scored, torch.from_numpy(test))
    alone = [f.score(scored, torch.from_numpy(column)) for f, column in zip(fitted, test.T, strict=True)]
    assert each == [one.linear for one in alone]
    assert found.linear == pytest.approx(sum(each) / 3, abs=1e-12)
    assert found.neighbours == pytest.approx(sum(one.neighbours for one in alone) / 3, abs=1e-12)
    assert each[1] > 0.95
    assert abs(each[2] - 0.5) < 4 * 0.5 / math.sqrt(COUNT)
    # images are right in all columns or in none to a degree: at most as if all columns were one
    assert found.error <= max(one.error for one in alone)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_read_at_chance(seed):
    rng = np.random.default_rng(seed)
    train, test = labels_of(rng), labels_of(rng)
    fitted = fit(rng.normal(size=(1, COUNT, 8)), train)
    # whatever it guesses, each guess is right with probability 1/10: ten comparisons at 99.95 % each
    low, high = stats.binom.interval(0.9995, COUNT, 1 / CLASSES)
    scores = score(fitted, rng.normal(size=(1, COUNT, 8)), test)
    for accuracy in (scores.linear, scores.neighbours):
        assert low <= accuracy * COUNT <= high


def test_codes_are_standardised(rng):
    # the label is in the dimension whose scale is smallest
    train, test = labels_of(rng), labels_of(rng)

    def codes(labels):
        return np.column_stack([1e-4 * np.eye(CLASSES)[labels], 1e4 + 1e4 * rng.normal(size=(len(labels), 1))])[None]

    linear, _, neighbours, *_ = score(fit(codes(train), train), codes(test), test)
    assert linear == 1.0
    assert neighbours > 0.99  # one dimension of noise among eleven of unit variance


def test_the_strength_is_chosen_on_the_training_codes_alone(rng):
    # labels that only a strong regularisation survives: few codes, many dimensions, little signal
    signal = rng.normal(size=(CLASSES, 60))
    train = labels_of(rng, 200)
    codes = signal[train] * 0.25 + rng.normal(size=(1, 200, 60))
    fitted = fit(codes, train)
    before = fitted.strength
    assert before < max(probe.STRENGTHS)
    # the split that is scored is given to `score` only, which changes nothing
    first = score(fitted, codes[:, :100], train[:100])
    score(fitted, rng.normal(size=(1, 500, 60)), labels_of(rng, 500))
    assert score(fitted, codes[:, :100], train[:100]) == first
    assert fitted.strength == before


def test_the_strength_is_the_best_on_the_part_kept_aside(rng):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train = labels_of(rng, 400)
    codes = rng.normal(size=(CLASSES, 30))[train] * 0.5 + rng.normal(size=(400, 30))
    standardised = StandardScaler().fit_transform(codes)
    a, b = (part.numpy() for part in probe.kept_aside(torch.from_numpy(train)))
    scores = {
        s: LogisticRegression(C=s, max_iter=10_000, tol=1e-8)
        .fit(standardised[a], train[a])
        .score(standardised[b], train[b])
        for s in probe.STRENGTHS
    }
    assert fit(codes[None], train).strength == max(scores, key=scores.get)


def test_a_fifth_of_each_class_is_kept_aside(rng):
    labels = torch.from_numpy(np.repeat(np.arange(4), [500, 100, 20, 1]))
    fitted, held = probe.kept_aside(labels)
    assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert torch.bincount(labels[held], minlength=4).tolist() == [100, 20, 4, 0]


@pytest.mark.parametrize("dims", [4, 30])
@pytest.mark.parametrize("strength", [0.001, 1.0, 100.0])
@pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])  # hardly told apart, and without an error
def test_the_probe_is_scikit_learns(rng, dims, strength, spread):
    # both ways to the optimum: Newton's steps of few coefficients, a quasi-Newton method's of many
    from sklearn.linear_model import LogisticRegression

    train = labels_of(rng)
    drawn = spread * rng.normal(size=(CLASSES, dims))[train] + rng.normal(size=(4, COUNT, dims))
    *codes, others = torch.from_numpy((drawn - drawn[0].mean(0)) / drawn[0].std(0))
    codes = torch.stack(codes)
    start = logistic.Logistic.zero(codes, CLASSES)
    found = logistic.fit(codes, torch.from_numpy(train), codes.new_full((3,), strength), start)
    again = logistic.fit(codes, torch.from_numpy(train), codes.new_full((3,), strength), found.one(0, 3))
    for i, z in enumerate(codes.numpy()):
        cold = LogisticRegression(C=strength, max_iter=10_000, tol=1e-8).fit(z, train)
        for one in (found, again):
            chance = one.logits(others.expand(3, -1, -1)).softmax(2)[i].numpy()
            assert np.abs(chance - cold.predict_proba(others.numpy())).max() < 5e-3
            assert (chance.argmax(1) == cold.predict(others.numpy())).mean() >= 0.999


def test_neighbours_are_scikit_learns(rng):
    from sklearn.neighbors import KNeighborsClassifier

    train, test = labels_of(rng), labels_of(rng)
    codes, others = (rng.normal(size=(1, COUNT, 3)) + 0.3 * a[:, None] for a in (train, test))
    found = score(fit(codes, train), others, test).neighbours
    scale = codes[0].std(0)
    assert found == KNeighborsClassifier(5).fit(codes[0] / scale, train).score(others[0] / scale, test)


def test_labels_may_be_any_numbers(rng):
    train, test = labels_of(rng), labels_of(rng)
    codes, others = (rng.normal(size=(1, COUNT, 3)) + 0.3 * a[:, None] for a in (train, test))
    known = score(fit(codes, train), others, test)
    assert score(fit(codes, 7 * train + 3), others, 7 * test + 3) == known


@pytest.mark.parametrize(("of_image", "of_draw", "of_both"), [(1.0, 0.0, 1.0), (1.0, 0.5, 0.3), (0.2, 0.0, 1.0)])
def test_the_standard_error_covers_images_and_draws(rng, of_image, of_draw, of_both):
    # crossed effects of known variance: the mean of the estimated variances is the true one, or a little more since the
    # draws' own variance is not taken for negative
    found, means = [], []
    for _ in range(2000):
        values = of_image * rng.normal(size=30) + of_draw * rng.normal(size=(5, 1)) + of_both * rng.normal(size=(5, 30))
        found.append(probe.standard_error(torch.from_numpy(values)) ** 2)
        means.append(values.mean())
    known = of_image**2 / 30 + of_draw**2 / 5 + of_both**2 / 150
    assert 0.95 * known < np.mean(found) < 1.25 * known
    assert np.var(means) == pytest.approx(known, rel=0.15)


def test_fano_bounds_what_is_known():
    labels = torch.arange(10).repeat_interleave(7)
    assert probe.fano(0.0, labels) == pytest.approx(0.1, abs=1e-6)
    assert probe.fano(math.log(10), labels) == 1.0
    # a channel that is symmetric attains the bound: right with probability a, any of the others with (1 - a) / 9
    for accuracy in (0.2, 0.5, 0.9, 0.99):
        wrong = (1 - accuracy) / 9
        information = math.log(10) + accuracy * math.log(accuracy) + 9 * wrong * math.log(wrong)
        assert probe.fano(information, labels) == pytest.approx(accuracy, abs=1e-9)


def test_the_same_codes_give_the_same_scores(rng):
    train, test = labels_of(rng), labels_of(rng)
    codes, others = rng.normal(size=(2, 2, COUNT, 4)) + np.stack([train, test])[:, None, :, None] * 0.2
    assert score(fit(codes, train), others, test) == score(fit(codes, train), others, test)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_codes_that_are_not_finite_are_refused(rng, value):
    codes = rng.normal(size=(1, 100, 2))
    codes[0, 3, 1] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        fit(codes, labels_of(rng, 100))


def test_information_of_correlated_gaussians(rng):
    # z = B x + e with x standard: I = ln det(B B' + S) / 2 - ln det(S) / 2, up to the moments of 200,000 draws
    mixing, sigma = rng.normal(size=(3, 5)), np.array([0.5, 1.0, 0.2])
    mu = torch.from_numpy(rng.normal(size=(200_000, 5)) @ mixing.T)
    value = mi.gaussian(mu, torch.from_numpy(sigma).expand_as(mu))
    expected = 0.5 * (np.linalg.slogdet(mixing @ mixing.T + np.diag(sigma**2))[1] - np.log(sigma**2).sum())
    # ln det of a sample covariance of dimension k has variance 2 k / N; half of it here
    assert abs(value - expected) < 3 * 0.5 * math.sqrt(2 * 3 / 200_000)


def test_active_units_are_those_whose_mean_moves(rng):
    scales = torch.tensor([1.0, 0.2, 0.05, 0.0])
    mu = torch.from_numpy(rng.normal(size=(2000, 4))).float() * scales + 5
    assert mi.active(mu) == 2


def test_balanced_accuracy_is_scikit_learns(rng):
    # one in ten: the accuracy of a probe that knows nothing is .9, and balanced .5
    labels = (rng.random(3000) < 0.1).astype(int)
    known, scored = (1.5 * labels[:, None] + rng.normal(size=(2, 3000, 2)) for _ in range(2))
    fitted = fit(known, labels)
    scores = score(fitted, scored, labels)
    guesses = fitted.linear.predicted((torch.from_numpy(scored) - fitted.mean) / fitted.scale)
    wanted = np.mean([balanced_accuracy_score(labels, guess) for guess in guesses])
    assert scores.balanced == pytest.approx(wanted, abs=1e-12)
    assert 0.5 < scores.balanced < scores.linear - 0.05


def test_the_error_of_balanced_accuracy_is_that_of_each_class(rng):
    labels, shares = torch.tensor([0] * 900 + [1] * 100), np.array([0.9] * 900 + [0.4] * 100)
    right = torch.from_numpy(rng.random((400, 1000)) < shares).double()
    values = [probe._balanced(one[None], labels) for one in right]
    known = math.sqrt(0.9 * 0.1 / 900 + 0.4 * 0.6 / 100) / 2
    means = [float(one.mean()) for one in values]
    assert abs(np.mean(means) - 0.65) < 4 * known / math.sqrt(len(means))
    assert np.std(means) == pytest.approx(known, rel=0.15)
    assert np.mean([probe.standard_error(one) for one in values]) == pytest.approx(known, rel=0.02)
