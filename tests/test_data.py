"""Data sets: fixed, disjoint, stratified splits of files whose content is the published one."""

import gzip
import shutil

import numpy as np
import pytest

from gimtune import data
from gimtune.data import idx

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch, tmp_path_factory):
    """No files but those that a test names: neither the user's cache nor the environment's folder."""
    monkeypatch.delenv("GIMTUNE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(idx, "_DEBIAN", {})


@pytest.fixture
def copied(mnist_root, tmp_path):
    """MNIST's packed files under another root, where a test may damage them."""
    target = tmp_path / "MNIST" / "raw"
    target.mkdir(parents=True)
    for file in idx._IDX["mnist"][1]:
        shutil.copy(data.find("mnist", mnist_root) / f"{file}.gz", target)
    return target


def rows(dataset, split):
    """An image and its label as bytes, by position."""
    pixels = dataset.images[split].reshape(len(dataset.images[split]), -1)
    return [p.tobytes() + bytes([label]) for p, label in zip(pixels, dataset.labels[split], strict=True)]


def test_digits_are_split_60_20_20(digits):
    sizes = {split: len(digits.images[split]) for split in data.SPLITS}
    assert sizes == {"train": 1077, "validation": 360, "test": 360}
    assert digits.image == (1, 8, 8)
    assert digits.classes == 10
    for split in data.SPLITS:
        assert digits.images[split].dtype == np.uint8
        assert digits.labels[split].dtype == np.int64
        assert digits.images[split].flags.c_contiguous
        assert digits.images[split].max() == digits.scale == 16


def test_digits_are_all_there_once(digits):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    whole = sorted(p.astype(np.uint8).tobytes() + bytes([label]) for p, label in zip(images, labels, strict=True))
    assert sorted(row for split in data.SPLITS for row in rows(digits, split)) == whole
    assert len(set(whole)) == len(whole)  # no image stands there twice, so that the splits are disjoint


def stratified(dataset, splits):
    """Every class has its share of every split, to within one image by rounding."""
    counts = {split: np.bincount(dataset.labels[split], minlength=10) for split in splits}
    total = sum(counts.values())
    for count in counts.values():
        assert np.abs(count - total * count.sum() / total.sum()).max() <= 1.5  # two splits in a row, each rounded


def test_digits_are_stratified(digits):
    stratified(digits, data.SPLITS)


def test_splits_are_fixed_by_their_seed(digits):
    assert data.load("digits").digest == digits.digest == "84fed341f56c9b1e"
    other = data.load("digits", seed=1)
    assert other.digest != digits.digest
    assert rows(other, "test") != rows(digits, "test")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_sizes(mnist_root, name):
    if not data.find(name, mnist_root):
        pytest.skip(f"no {name} in {mnist_root}")
    loaded = data.load(name, root=mnist_root)
    assert {split: len(loaded.images[split]) for split in data.SPLITS} == {
        "train": 50_000,
        "validation": 10_000,
        "test": 10_000,
    }
    assert loaded.image == (1, 28, 28)
    assert loaded.scale == loaded.images["train"].max() == 255
    stratified(loaded, ("train", "validation"))
    assert data.load(name, root=mnist_root).digest == loaded.digest
    train, validation = set(rows(loaded, "train")), set(rows(loaded, "validation"))
    # MNIST itself repeats no training image; Fashion-MNIST repeats a few
    assert len(train & validation) <= (0 if name == "mnist" else 20)


def test_files_are_found_packed_or_not(mnist_root, copied, monkeypatch):
    labels = idx._read(copied, LABELS, idx._IDX["mnist"][1][LABELS])
    assert labels.shape == (60_000,)
    (copied / LABELS).write_bytes(gzip.decompress((copied / f"{LABELS}.gz").read_bytes()))
    (copied / f"{LABELS}.gz").unlink()
    assert idx._read(copied, LABELS, idx._IDX["mnist"][1][LABELS]).tobytes() == labels.tobytes()
    for root in (copied, copied.parent, copied.parents[1]):
        assert data.find("mnist", str(root)) == copied
        assert data.find("fashion_mnist", str(root)) is None
    monkeypatch.setenv("GIMTUNE_DATA", str(copied.parents[1]))
    assert data.find("mnist", None) == copied


def test_a_folder_further_up_may_be_called_anything(copied, tmp_path):
    # /.../FashionMNIST/experiments/MNIST/raw holds MNIST
    target = tmp_path / "FashionMNIST" / "experiments" / "MNIST" / "raw"
    target.parent.mkdir(parents=True)
    copied.rename(target)
    assert data.find("mnist", str(target.parents[1])) == target
    assert data.find("fashion_mnist", str(target.parents[1])) is None


def flip(content):
    return content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: gzip.compress(flip(gzip.decompress(packed)), 1), "its content is not the published one"),
        (lambda packed: gzip.compress(gzip.decompress(packed)[:-100], 1), "its content is not the published one"),
        (lambda packed: packed[: len(packed) // 2], "cannot be unpacked"),
        (lambda packed: packed[:100] + bytes(50) + packed[150:], "cannot be unpacked"),
        (lambda packed: b"<html>not found</html>", "cannot be unpacked"),
        (lambda packed: b"", "its content is not the published one"),
    ],
    ids=["one bit", "short", "cut", "overwritten", "no archive", "empty"],
)
def test_a_damaged_file_is_refused(copied, damage, message):
    file = copied / f"{LABELS}.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=message) as raised:
        idx._read(copied, LABELS, idx._IDX["mnist"][1][LABELS])
    assert str(copied / LABELS) in str(raised.value)


def test_a_folder_that_lacks_a_file_is_not_one(copied):
    (copied / f"{IMAGES}.gz").unlink()
    assert data.find("mnist", str(copied)) is None
    with pytest.raises(FileNotFoundError, match=r"data=mnist: no IDX files in data\.root="):
        data.load("mnist", root=str(copied), download=False)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(
        ValueError, match=r"data.name='celebs': did you mean celeba\? Allowed are digits, mnist, fashion_mnist, images"
    ):
        data.load("celebs")


def levels(dataset, split):
    return dataset.images[split].astype(np.float64) / dataset.scale


@pytest.mark.parametrize("way", ["fixed", "dynamic"])
def test_binarized_pixels_are_white_with_their_grey_level(digits, way):
    drawn = data.load("digits", binarized=way)
    assert (drawn.binarized, drawn.scale, drawn.image) == (way, digits.scale, digits.image)
    for split in data.SPLITS:
        grey, white = levels(digits, split), levels(drawn, split)
        assert drawn.images[split].dtype == np.uint8
        assert set(np.unique(white)) == {0, 1}
        # black stays black, and white stays white
        assert (white[grey == 0] == 0).all()
        assert (white[grey == 1] == 1).all()
        for level in np.unique(grey[(grey > 0) & (grey < 1)]):
            at = white[grey == level]
            assert abs(at.mean() - level) < 5 * np.sqrt(level * (1 - level) / at.size)
        assert np.array_equal(drawn.labels[split], digits.labels[split])
    if way == "dynamic":
        assert np.array_equal(drawn.grey, digits.images["train"])
        assert drawn.nbytes == digits.nbytes + digits.images["train"].nbytes
    else:
        assert drawn.grey is None


def test_binarized_draws_depend_on_the_seed_and_nothing_else():
    one, again, other = (data.load("digits", seed=seed, binarized="fixed") for seed in (0, 0, 1))
    dynamic, grey = data.load("digits", binarized="dynamic"), data.load("digits")
    for split in data.SPLITS:
        assert np.array_equal(one.images[split], again.images[split])
        assert np.array_equal(one.images[split], dynamic.images[split])
    assert one.digest == again.digest
    assert len({one.digest, other.digest, dynamic.digest, grey.digest}) == 4
    assert one.reference != grey.reference
    # splits draw apart: equal images would have equal pixels otherwise
    assert not np.array_equal(one.images["validation"], one.images["test"])


def test_both_domains_are_binarized():
    drawn = data.load("digits", pair="digits", binarized="fixed")
    assert set(np.unique(drawn.second("train"))) == {0, drawn.scale}


def test_what_cannot_be_binarized_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data.binarized=static: allowed are fixed, dynamic, and null"):
        data.load("digits", binarized="static")
    table = tmp_path / "table.csv"
    np.savetxt(table, np.random.default_rng(0).normal(size=(100, 3)), delimiter=",", header="a,b,c", comments="")
    with pytest.raises(ValueError, match=r"data.binarized=fixed: vectors has vectors"):
        data.load("vectors", path=str(table), binarized="fixed")
