"""Vectors in place of images: how they are read, what goes with them, and how well they are generated."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import member
from scipy.stats import energy_distance as of_scipy

from gimtune import data
from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.data import from_splits
from gimtune.metrics.energy import energy_distance
from gimtune.study.composition import load
from gimtune.study.messages import ConfigError
from gimtune.tuning.plan import preflight


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def table(count=200, seed=0):
    """Values of three kinds of spread, and a label that the first tells."""
    values = np.random.default_rng(seed).normal(size=(count, 3)) * [1, 10, 0.1] + [0, 5, -2]
    return values, (values[:, 0] > 0).astype(int)


def written(folder):
    """One set of vectors in every form, by name."""
    values, labels = table()
    frame = pd.DataFrame(values, columns=["a", "b", "c"]).assign(label=labels)
    np.savez(folder / "set.npz", x=values, y=labels)
    np.save(folder / "set.npy", values)
    # the shortest text that gives the same number
    frame.to_csv(folder / "set.csv", index=False)
    frame.to_parquet(folder / "set.parquet")
    return {path.suffix[1:]: path for path in folder.glob("set.*")}


def test_every_form_gives_the_same_vectors(tmp_path):
    sets = {form: data.load("vectors", path=str(path)) for form, path in written(tmp_path).items()}
    one = sets["npz"]
    assert one.vectors
    assert one.image == (1, 1, 3)
    assert one.classes == 2
    assert [len(one.images[split]) for split in data.SPLITS] == [140, 30, 30]
    for form in ("csv", "parquet"):
        assert sets[form].digest == one.digest, form
    assert sets["npy"].classes == 1
    # moments of the training split, for all splits
    train, test = (one.images[split].reshape(-1, 3) for split in ("train", "test"))
    assert np.abs(train.mean(0)).max() < 1e-6
    assert np.abs(train.std(0) - 1).max() < 1e-6
    assert 0.01 < np.abs(test.mean(0)).max() < 0.6
    # standardised values are those of the table
    raw = data.load("vectors", path=str(tmp_path / "set.npz"), standardise=False)
    for split in data.SPLITS:
        told = (raw.images[split] - raw.images["train"].mean(0)) / raw.images["train"].std(0)
        assert np.abs(told - one.images[split]).max() < 1e-4
        assert ((raw.images[split].ravel()[::3] > 0) == (one.labels[split] == 1)).all()


def test_splits_that_are_given_are_kept(tmp_path):
    values, labels = table()
    np.savez(tmp_path / "set.npz", x_train=values[:150], y_train=labels[:150], x_test=values[150:], y_test=labels[150:])
    found = data.load("vectors", path=str(tmp_path / "set.npz"), standardise=False)
    assert {tuple(v) for v in found.images["test"].reshape(-1, 3)} == {
        tuple(v) for v in values[150:].astype(np.float32)
    }


def test_another_value_is_another_data_set(tmp_path):
    values, _ = table()
    np.save(tmp_path / "one.npy", values)
    values[0, 0] += 1e-3
    np.save(tmp_path / "two.npy", values)
    one, two = (data.content("vectors", 0, path=str(tmp_path / name)) for name in ("one.npy", "two.npy"))
    assert one is not None
    assert one != two


def spoiled(change):
    """A table with something wrong, as CSV text."""
    values, labels = table(120)
    frame = pd.DataFrame(values, columns=["a", "b", "c"]).assign(label=labels)
    return change(frame).to_csv(index=False)


BAD_TABLES = [
    (lambda f: f.assign(b="x"), r"column b has 'x' in line 2; allowed are numbers"),
    (lambda f: f.assign(b=f["b"].where(f.index != 7)), "column b has no value in line 9"),
    (lambda f: f.assign(b=f["b"].where(f.index != 7, np.inf)), "has inf in row 7, column 1"),
    (lambda f: f.assign(b=f["b"].where(f.index != 7, 1e300)), r"has 1e\+300 in row 7, column 1"),
    (lambda f: f.assign(b=3), "value 1 is the same in all training vectors"),
    (lambda f: f.assign(label=0.5), "label is not a whole number or a name in every row"),
    (lambda f: f[["label"]], "no rows of numbers"),
    (lambda f: f[:60], "9 validation vectors; 10 or more"),
]


@pytest.mark.parametrize(("change", "message"), BAD_TABLES)
def test_tables_that_cannot_be_used_are_refused(tmp_path, change, message):
    (tmp_path / "set.csv").write_text(spoiled(change))
    with pytest.raises(ValueError, match=message):
        data.load("vectors", path=str(tmp_path / "set.csv"))


def test_files_that_cannot_be_used_are_refused(tmp_path):
    np.save(tmp_path / "cube.npy", np.zeros((50, 3, 3)))
    np.savez(tmp_path / "names.npz", what=np.zeros((50, 3)))
    np.savez(tmp_path / "widths.npz", x_train=np.zeros((50, 3)), x_test=np.zeros((50, 4)))
    (tmp_path / "set.txt").write_text("1 2")
    (tmp_path / "damaged.parquet").write_text("no Parquet")
    for name, message in {
        "cube.npy": r"images is float64 \(50, 3, 3\); allowed are numbers \(n, d\)",
        "names.npz": "no vectors; there are what",
        "widths.npz": "x_test has 4 values, x_train 3",
        "set.txt": r"allowed are files that end in \.npy, \.npz, \.csv, \.parquet",
        "damaged.parquet": "cannot be read",
    }.items():
        with pytest.raises(ValueError, match=message):
            data.load("vectors", path=str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        data.load("vectors", path=str(tmp_path / "none.csv"))


REFUSED = [
    ([], "models=cyclegan: its prior is made of images"),
    (
        ["models=[vae]", "likelihood=bernoulli"],
        "likelihood=bernoulli with models=vae: the data are vectors; allowed are",
    ),
    (["models=[vae]", "metrics.fid_features=random"], "metrics.fid_features=random: the data are vectors; .*values"),
    (["models=[vae]", "metrics.fid_features=classifier"], "fid_features=classifier: the data are vectors; .*values"),
    (["models=[vae]", "network=conv"], "network.channels"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_is_of_images_is_refused_of_vectors(tmp_path, given, message):
    path = written(tmp_path)["csv"]
    with pytest.raises(ConfigError, match=message):
        preflight(load(["data=vectors", f"data.path={path}", *given]))


def test_what_is_of_vectors_is_refused_of_images():
    with pytest.raises(ConfigError, match="likelihood=real_gaussian with models=vae: the data are images"):
        preflight(load(["models=[vae]", "likelihood=real_gaussian"]))
    with pytest.raises(ConfigError, match=r"metrics\.fid_features=values: the data are images"):
        preflight(load(["models=[vae]", "metrics.fid_features=values"]))


def test_a_study_of_vectors_is_about_their_energy_distance(tmp_path):
    plan = preflight(load(["data=vectors", f"data.path={written(tmp_path)['npz']}", "model=vectors"]))
    assert plan.config.objectives == {"energy": "min", "probe_codes": "max"}
    likelihoods = {m.model: m.likelihood for pack in plan.listed for m in pack}
    assert likelihoods.pop("vae_gan") == "real_features"
    assert {*likelihoods.values()} == {"real_gaussian"}


def test_the_gaussian_of_vectors_is_that_of_torch():
    x, output = torch.randn(2, 5, 1, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.distributions.Normal(output, 0.5**0.5).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(LIKELIHOODS["real_gaussian"].log_prob(x, output), expected)
    assert LIKELIHOODS["real_gaussian"].mean(output) is output
    drawn = LIKELIHOODS["real_gaussian"].sample(output.expand(5, 1, 1, 3), torch.Generator().manual_seed(1))
    assert drawn.shape == output.shape
    assert not drawn.equal(output)


def test_a_data_set_of_ones_own_may_be_of_vectors():
    source = np.random.default_rng(0)
    vectors = {split: source.normal(size=(20, 4)).astype(np.float32) for split in data.SPLITS}
    labels = {split: np.arange(20) % 2 for split in data.SPLITS}
    made = from_splits("own", vectors, labels)
    assert made.vectors
    assert made.image == (1, 1, 4)
    assert made.scale == 1
    vectors["test"][3, 1] = np.nan
    with pytest.raises(ValueError, match="test vectors have values that are not finite"):
        from_splits("own", vectors, labels)


# The energy distance


def test_it_equals_its_definition_and_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 1)), rng.normal(size=(7, 1)) + 0.5
    between = np.abs(x - y.T).mean()
    within = [np.abs(z - z.T).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    value, error = energy_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert value == pytest.approx(2 * between - sum(within), rel=1e-12)
    # scipy's has pairs of a value with itself, and is the root
    biased = [np.abs(z - z.T).mean() for z in (x, y)]
    assert of_scipy(x.ravel(), y.ravel()) ** 2 == pytest.approx(value + sum(within) - sum(biased), rel=1e-9)
    assert error > 0


def test_gaussians_are_as_far_apart_as_is_known_and_the_error_is_that_of_redraws():
    # of N(0, 1) and N(s, 1): E|x - y| of N(s, 2), in closed form
    shift = 0.6
    normal = torch.distributions.Normal(0.0, 1.0)
    far = 2 / np.sqrt(np.pi) * np.exp(-(shift**2) / 4) + shift * (
        2 * float(normal.cdf(torch.tensor(shift / 2**0.5))) - 1
    )
    for mean, exact in ((0.0, 0.0), (shift, 2 * far - 4 / np.sqrt(np.pi))):
        source = torch.Generator().manual_seed(1)
        drawn = [
            energy_distance(torch.randn(100, 1, generator=source), torch.randn(80, 1, generator=source) + mean)
            for _ in range(300)
        ]
        values, errors = np.array(drawn).T
        assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(300)
        # the jackknife counts the second order twice, which is all there is where the two are equal
        assert 0.85 * values.std() < errors.mean() < (1.3 if mean else 2) * values.std()


def test_it_sees_what_moments_do_not():
    source = torch.Generator().manual_seed(2)
    normal = torch.randn(2000, 2, generator=source)
    signs = torch.randn(2000, 2, generator=source).sign()  # of the same mean and covariance
    value, error = energy_distance(normal, signs)
    assert value > 20 * error


def test_images_have_no_energy_distance(evaluation, untrained):
    row = evaluation.row(untrained, 0, ("validation",))
    assert np.isnan(row["energy"])
    assert "of vectors" in row["reasons"]["energy"]


@pytest.fixture(scope="module")
def untrained(evaluation):
    from gimtune.training import Pack

    return Pack([member(metrics={**member().metrics, "ruler": "never"})], evaluation.data, torch.float32)
