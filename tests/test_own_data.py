"""Images of one's own: folders, arrays and Parquet in; what is wrong with them in one line; and a study of them."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import Driver
from PIL import Image
from rich.console import Console
from torchvision import datasets

import gimtune
from gimtune import analysis, data
from gimtune.data import published
from gimtune.data.dataset import parted
from gimtune.metrics import Evaluation, features, flags
from gimtune.metrics.evaluation import kept
from gimtune.metrics.random_network import RandomSource
from gimtune.results.store import Store
from gimtune.study.composition import load
from gimtune.study.messages import ConfigError
from gimtune.study.resolve import members, whole_space
from gimtune.training import run as train
from gimtune.tuning.launch import _new_run
from gimtune.tuning.plan import preflight, show

CPU = torch.device("cpu")
RNG = np.random.default_rng


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def pictures(count=90, shape=(9, 7), colour=True, seed=0):
    return RNG(seed).integers(0, 256, (count, *shape, *([3] if colour else [])), dtype=np.uint8)


def written(folder: Path, images, names=("cat", "dog", "owl"), suffix=".png") -> Path:
    """Images as files, in folders of classes in turn, or in none."""
    for i, pixels in enumerate(images):
        place = folder / names[i % len(names)] if names else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i:04d}{suffix}")
    return folder


def whole(found: data.Dataset):
    """All images of a data set as rows of bytes, with their labels."""
    return sorted(
        (image.tobytes(), int(label))
        for split in data.SPLITS
        for image, label in zip(found.images[split], found.labels[split], strict=True)
    )


def rows(images, labels):
    return sorted(
        (np.moveaxis(i, -1, 0).tobytes() if i.ndim == 3 else i.tobytes(), int(x))
        for i, x in zip(images, labels, strict=True)
    )


def encoded(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def parquet(path: Path, images, labels=None, column="image") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {column: [encoded(i) for i in images]}
    pq.write_table(pa.table(columns if labels is None else {**columns, "label": labels}), path)
    return path


# What comes in


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("kind", ["folder", "npz", "parquet"])
def test_every_form_gives_the_same_images_and_labels(tmp_path, kind, colour):
    images, labels = pictures(colour=colour), np.arange(90) % 3
    if kind == "folder":
        place = written(tmp_path / "set", images)
    elif kind == "npz":
        place = tmp_path / "set.npz"
        np.savez(place, images=images, labels=labels)
    else:
        place = parquet(tmp_path / "set.parquet", images, labels.tolist())
    found = data.load("images", path=str(place))
    assert found.image == (3 if colour else 1, 9, 7)
    assert whole(found) == rows(images, labels)
    # 15 % of the 90 in each, the same share of every class but for what is left of a division by three
    for split, count in (("train", 62), ("validation", 14), ("test", 14)):
        each = np.bincount(found.labels[split])
        assert each.sum() == count
        assert np.ptp(each) <= 1


def test_how_images_were_read_is_said(tmp_path):
    place = written(tmp_path / "set", pictures(colour=True))
    assert data.load("images", path=str(place)).notes == ()
    (place / "notes.txt").touch()
    (place / ".hidden").touch()
    found = data.load("images", path=str(place))
    assert found.described.endswith(": 90 images of 9 x 7, in colour, 3 classes: 62 train, 14 validation, 14 test")
    (note,) = found.notes
    assert "notes.txt left out" in note
    assert ".hidden" not in note


def test_splits_that_are_given_are_kept(tmp_path):
    for seed, (split, count) in enumerate([("train", 60), ("val", 15), ("test", 30)]):
        written(tmp_path / "set" / split, pictures(count, seed=seed))
    found = data.load("images", path=str(tmp_path / "set"))
    assert [len(found.images[s]) for s in data.SPLITS] == [60, 15, 30]
    # of arrays in the way of Keras, the validation split is taken from the training images
    np.savez(
        tmp_path / "set.npz",
        x_train=pictures(80),
        y_train=np.arange(80) % 2,
        x_test=pictures(20, seed=5),
        y_test=np.arange(20) % 2,
    )
    found = data.load("images", path=str(tmp_path / "set.npz"))
    assert [len(found.images[s]) for s in data.SPLITS] == [68, 12, 20]
    files = tmp_path / "hub" / "data"
    for split, count in (("train", 80), ("test", 20)):
        parquet(files / f"{split}-00000-of-00001.parquet", pictures(count), [0, 1] * (count // 2))
    found = data.load("images", path=str(tmp_path / "hub"))
    assert [len(found.images[s]) for s in data.SPLITS] == [68, 12, 20]


def test_several_columns_of_labels_are_read(tmp_path):
    images, one, two = pictures(), np.arange(90) % 3, np.array(["red", "blue"])[np.arange(90) // 3 % 2]
    stream = [i.tobytes() for i in np.moveaxis(images, -1, 1)]
    np.savez(tmp_path / "a.npz", images=images, labels=np.stack([one, np.full(90, 7), one // 2], 1))
    np.savez(tmp_path / "b.npz", images=images, shape=one, colour=two)
    columns = {"image": [encoded(i) for i in images], "shape": one.tolist(), "colour": two.tolist(), "label": [0] * 90}
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    for name, asked, targets, known in (
        ("a.npz", {}, ("labels0", "labels2"), np.stack([one, one // 2], 1)),
        ("b.npz", {"labels": ["shape", "colour"]}, ("shape", "colour"), np.stack([one, two == "red"], 1)),
        ("c.parquet", {"labels": ["shape", "colour"]}, ("shape", "colour"), np.stack([one, two == "red"], 1)),
        ("c.parquet", {"labels": "colour"}, ("colour",), two == "red"),
    ):
        found = data.load("images", path=str(tmp_path / name), **asked)
        assert found.targets == targets
        for split in data.SPLITS:
            where = [stream.index(i.tobytes()) for i in found.images[split]]
            assert (found.labels[split] == known[where]).all()
    assert data.load("images", path=str(tmp_path / "a.npz")).notes == ("no label is labels1: the same of all images",)


def test_numbers_become_bytes_without_being_cut(tmp_path):
    levels = np.linspace(0, 1, 256).reshape(1, 16, 16)
    for name, values in (("float", levels), ("sixteen", (levels * 65_535).round().astype(np.uint16))):
        np.save(tmp_path / f"{name}.npy", np.repeat(values, 100, 0))
        found = data.load("images", path=str(tmp_path / f"{name}.npy"))
        assert (found.images["train"][0].flatten() == np.arange(256)).all()
    folder = tmp_path / "deep"
    folder.mkdir()
    for i in range(100):
        Image.fromarray((levels[0] * 65_535).round().astype(np.uint16)).save(folder / f"{i}.png")
    found = data.load("images", path=str(folder))
    assert found.images["train"][0].flatten().tolist() == list(range(256))
    assert found.classes == 1


def test_mixed_sizes_are_made_one(tmp_path):
    place = written(tmp_path / "set", pictures(60, (12, 8)))
    written(place, pictures(60, (20, 30), seed=1), suffix=".bmp")
    assert data.load("images", path=str(place), size=8).image == (3, 8, 8)
    assert data.load("images", path=str(place), size=[6, 10]).image == (3, 6, 10)
    np.save(tmp_path / "set.npy", pictures(90, (12, 8), colour=False))
    assert data.load("images", path=str(tmp_path / "set.npy"), size=6).image == (1, 6, 6)


def test_files_are_decoded_once(tmp_path, monkeypatch):
    place = written(tmp_path / "set", pictures())
    first = data.load("images", path=str(place))
    opened = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("decoded again"))
    assert data.load("images", path=str(place)).digest == first.digest
    monkeypatch.setattr(Image, "open", opened)
    file = next(iter((place / "cat").iterdir()))
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    os.utime(file, (1, 1))
    assert data.load("images", path=str(place)).digest != first.digest


def test_processes_share_the_files_of_the_cache(tmp_path):
    place = written(tmp_path / "set", pictures())
    found = data.load("images", path=str(place))
    sent = pickle.dumps(found)
    assert len(sent) < 4000  # the images alone are 17 kB
    there = pickle.loads(sent)
    assert whole(there) == whole(found)
    assert there.digest == found.digest
    # what maps a file, and not what a process holds of its own
    assert all(str(data.kept.cache()) in mapped(there.images[split]) for split in data.SPLITS)
    # another machine has no such files: the arrays go there themselves
    apart = pickle.dumps(found.carried())
    shutil.rmtree(data.kept.cache() / "data")
    assert whole(pickle.loads(apart)) == whole(found)


def mapped(array):
    while not isinstance(array, np.memmap):
        array = array.base
    return str(array.filename)


def test_what_is_damaged_in_the_cache_is_made_anew(tmp_path):
    place = written(tmp_path / "set", pictures())
    first = whole(data.load("images", path=str(place)))
    (folder,) = (p for p in (data.kept.cache() / "data").iterdir() if p.is_dir())
    left = folder.with_name(f".{folder.name}.1234")  # by somebody who was killed
    left.mkdir()
    for damaged in ("set.json", "labels.npz", "train.npy"):
        content = (folder / damaged).read_bytes()
        (folder / damaged).write_bytes(content[: len(content) // 2])
        assert whole(data.load("images", path=str(place))) == first
    assert not left.exists()


def test_a_cache_without_room_is_named(tmp_path):
    place = written(tmp_path / "set", pictures())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"no room for .* GiB of decoded images \(File too large\)"):
            data.load("images", path=str(place))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.suffix for p in (data.kept.cache() / "data").iterdir()] == [".lock"]


def test_the_first_images_stand_for_all(tmp_path):
    np.savez(tmp_path / "set.npz", images=pictures(300), labels=np.sort(np.arange(300) % 3))
    found = data.load("images", path=str(tmp_path / "set.npz"))
    for split in data.SPLITS:
        assert {*found.labels[split][:15].tolist()} == {0, 1, 2}
    images = {split: pictures(90).transpose(0, 3, 1, 2) for split in data.SPLITS}
    labels = {split: np.sort(np.arange(90) % 3) for split in data.SPLITS}
    found = data.from_splits("mine", images, labels, 255.0)
    assert {*found.labels["test"][:15].tolist()} == {0, 1, 2}
    assert whole(found) == sorted(
        (i.tobytes(), int(x)) for s in data.SPLITS for i, x in zip(images[s], labels[s], strict=True)
    )


def test_a_small_class_stays_in_training():
    labels = np.array([0] * 100 + [1] * 20 + [2] * 2 + [3])
    kept, out = parted(labels, 30, 0)
    assert sorted([*kept, *out]) == list(range(len(labels)))
    assert np.bincount(labels[out], minlength=4).tolist() == [24, 5, 0, 0]


def test_many_small_classes_still_make_a_split():
    # 15 % of three images is less than a half of one, of every class
    kept, out = parted(np.repeat(np.arange(100), 3), 45, 0)
    assert len(out) == 45
    assert len(kept) == 255


# torchvision's


def idx(values):
    """An IDX file of bytes, as the MNIST family has them."""
    return bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


@pytest.fixture
def kmnist(tmp_path):
    """Files as torchvision leaves them: 400 images to train on, and 60 to test."""
    raw = tmp_path / "there" / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for word, count, seed in (("train", 400, 0), ("t10k", 60, 1)):
        (raw / f"{word}-images-idx3-ubyte").write_bytes(idx(pictures(count, (28, 28), False, seed)))
        (raw / f"{word}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))
    return raw.parents[1]


def test_sets_of_torchvision_are_read_where_they_are(kmnist, monkeypatch):
    found = data.load("kmnist", root=str(kmnist))
    assert [len(found.images[split]) for split in data.SPLITS] == [340, 60, 60]
    assert found.image == (1, 28, 28)
    known = rows(pictures(400, (28, 28), False), np.arange(400) % 10)
    known += rows(pictures(60, (28, 28), False, 1), np.arange(60) % 10)
    assert whole(found) == sorted(known)
    monkeypatch.setenv("GIMTUNE_DATA", str(kmnist))
    same = data.load("torchvision", dataset="KMNIST")
    assert same.digest == found.digest
    assert data.load("torchvision", dataset="KMNIST", size=16).image == (1, 16, 16)


def test_sets_of_torchvision_are_fetched_when_they_are_asked_for_alone(kmnist, monkeypatch):
    monkeypatch.delenv("GIMTUNE_DATA", raising=False)
    fetched = []
    monkeypatch.setattr(datasets.KMNIST, "download", lambda self: fetched.append(self.root))
    with pytest.raises(FileNotFoundError, match=r"data=kmnist: no KMNIST in .*; data\.download=true fetches it"):
        data.load("kmnist")
    assert not fetched
    with pytest.raises(FileNotFoundError, match="data=kmnist: torchvision's KMNIST cannot be downloaded"):
        data.load("kmnist", download=True)
    assert fetched


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dataset": "CIFAR1O"}, "torchvision has none of that name; it has CIFAR10"),
        ({"dataset": "KMNIST", "size": 2}, "data.size=2: allowed are"),
        ({"dataset": "KMNIST", "subset": "letters"}, "data.dataset=KMNIST"),
        ({}, "data.dataset: missing"),
    ],
)
def test_what_torchvision_lacks_is_said(kmnist, options, said):
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        data.load("torchvision", root=str(kmnist), **options)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


# Sets with several labels


ATTRIBUTES = ("Bald", "Smiling", "Young")


@pytest.fixture
def celeba(tmp_path):
    """Files as torchvision leaves them, of 80 faces: images of 178 x 218, of which the middle alone is not black."""
    folder = tmp_path / "there" / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    values = np.where(RNG(1).random((80, 3)) < 0.5, -1, 1)
    names = [f"{i:06d}.jpg" for i in range(1, 81)]
    for i, name in enumerate(names):
        pixels = np.zeros((218, 178, 3), np.uint8)
        pixels[39:179, 19:159] = 100 + i
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name, quality=95)
    rows = [f"{name} {' '.join(f'{v:2d}' for v in own)}" for name, own in zip(names, values, strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(["80", " ".join(ATTRIBUTES) + " ", *rows]) + "\n")
    parts = [f"{name} {min(i // 50 + i // 65, 2)}" for i, name in enumerate(names)]
    (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return folder, values


def test_celeba_is_cropped_and_has_its_splits_and_attributes(celeba):
    folder, values = celeba
    found = data.load("celeba", root=str(folder.parent))
    assert found.image == (3, 64, 64)
    assert found.targets == ATTRIBUTES
    assert [len(found.images[split]) for split in data.SPLITS] == [50, 15, 15]
    seen = []
    for split in data.SPLITS:
        # nothing of the black margin, which a JPEG file blurs by a pixel or two
        inner = found.images[split][:, :, 2:-2, 2:-2].astype(int)
        which = inner.mean((1, 2, 3)).round().astype(int) - 100
        assert np.ptp(inner, axis=(1, 2, 3)).max() <= 8
        assert (found.labels[split] == (values[which] > 0)).all()
        seen += which.tolist()
    assert sorted(seen) == list(range(80))
    assert data.load("celeba", root=str(folder.parent), size=32).image == (3, 32, 32)


@pytest.fixture
def dsprites(tmp_path):
    """An archive of the published form, with the pickled description that nobody reads."""
    count = 400
    classes = np.stack([np.zeros(count, int), *(np.arange(count) // k % k for k in (3, 6, 4, 5, 2))], 1)
    images = (RNG(0).random((count, 64, 64)) < 0.2).astype(np.uint8)
    (tmp_path / "there" / "dsprites").mkdir(parents=True)
    file = tmp_path / "there" / "dsprites" / published._DSPRITES
    np.savez_compressed(file, metadata=np.array({"a": 1}, object), imgs=images, latents_classes=classes)
    return file, images, classes


def test_dsprites_has_a_label_for_each_factor_that_varies(dsprites):
    file, images, classes = dsprites
    found = data.load("dsprites", root=str(file.parents[1]))
    assert found.targets == ("shape", "scale", "orientation", "x", "y")
    assert found.notes == ("no label is colour: the same of all images",)
    assert [len(found.images[split]) for split in data.SPLITS] == [240, 80, 80]
    assert found.scale == 1
    stream = [one.tobytes() for one in images]
    for split in data.SPLITS:
        where = [stream.index(one.tobytes()) for one in found.images[split]]
        assert (found.labels[split] == classes[where, 1:]).all()


def test_damaged_files_of_these_sets_are_named(celeba, dsprites):
    folder, _ = celeba
    with pytest.raises(FileNotFoundError, match=r"data=celeba: no list_attr_celeba.txt, .*data\.download=true fetches"):
        data.load("celeba", root=str(folder / "img_align_celeba"))
    lines = (folder / "list_attr_celeba.txt").read_text().splitlines()
    (folder / "list_attr_celeba.txt").write_text("\n".join([*lines[:5], lines[5][:12]]))
    with pytest.raises(ValueError, match=r"list_attr_celeba\.txt: cannot be read"):
        data.load("celeba", root=str(folder.parent))
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines))
    (folder / "img_align_celeba" / "000007.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"000007\.jpg: cannot be read as an image"):
        data.load("celeba", root=str(folder.parent))
    (folder / "img_align_celeba" / "000007.jpg").unlink()
    with pytest.raises(ValueError, match=r"000007\.jpg: cannot be read as an image"):
        data.load("celeba", root=str(folder.parent))
    file, *_ = dsprites
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:3000] + bytes(500) + content[3500:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{published._DSPRITES}: cannot be read"):
            data.load("dsprites", root=str(file.parents[1]))
    np.savez(file, imgs=np.zeros((40, 64, 64), np.uint8))
    with pytest.raises(ValueError, match="no array latents_classes; there are imgs"):
        data.load("dsprites", root=str(file.parents[1]))


def test_a_classifier_of_one_label_is_no_judge_of_several(dsprites):
    file, *_ = dsprites
    asked = ("data=dsprites", f"data.root={file.parents[1]}", "training.batch_size=16")
    assert study(*asked).config.metrics.fid_features == "random"
    with pytest.raises(ConfigError, match=r"fid_features=classifier: dsprites has 5 labels, and it is trained"):
        study(*asked, "metrics.fid_features=classifier")


# What is wrong


def broken(folder: Path, what: str) -> tuple[str, str]:
    """Arguments of `load` as JSON, and what the refusal says."""
    options: dict[str, object] = {"path": str(folder / "set")}
    images, labels = pictures(), np.arange(90) % 3
    place, said = folder / "set", ""
    arrays: dict[str, object] | None = None
    if what == "nowhere":
        said = "there is no such file or folder"
    elif what == "empty folder":
        place.mkdir()
        said = "no images in this folder"
    elif what == "text file":
        (folder / "set.txt").write_text("x")
        options["path"], said = str(folder / "set.txt"), "allowed are a folder, .npz, .npy and .parquet"
    elif what == "damaged file":
        (written(place, images) / "cat" / "0000.png").write_bytes(b"no image")
        said = "0000.png: cannot be read as an image"
    elif what == "half a file":
        file = written(place, pictures(90, (64, 64))) / "cat" / "0000.png"
        file.write_bytes(file.read_bytes()[:2000])
        said = "0000.png: cannot be read as an image"
    elif what == "two sizes":
        written(written(place, images), pictures(3, (5, 5)), suffix=".bmp")
        said = "cat/0000.bmp is 5 x 5 and cat/0000.png is 7 x 9; data.size=N makes them one size"
    elif what == "file beside classes":
        Image.fromarray(images[0]).save(written(place, images) / "lost.png")
        said = "lost.png stands beside folders of classes"
    elif what == "empty class":
        (written(place, images) / "yak").mkdir()
        said = "the folder yak has no images"
    elif what == "few images":
        written(place, pictures(20))
        said = "3 validation images; 10 or more are needed in each split"
    elif what == "class without training":
        written(place / "train", images)
        written(place / "test", images[:12], names=("cat", "yak"))
        said = "the class yak is in test and not in train"
    elif what == "no training":
        written(place / "test", images)
        said = "no training images; there are test"
    elif what == "labels in one split":
        np.savez(folder / "set.npz", x_train=images, y_train=labels, x_test=images)
        options["path"], said = str(folder / "set.npz"), "the split test has no labels, and others have"
    elif what.startswith("size"):
        written(place, images)
        options["size"] = json.loads(what.split()[1])
        said = "allowed are a whole number from 4 to 1024, or two: [height, width]"
    elif what == "option":
        options["colour"], said = 1, "images takes path, size"
    elif what == "no path":
        options, said = {}, "data.path: missing; images takes path, size"
    elif what == "parquet of text":
        pq.write_table(pa.table({"text": ["a"]}), folder / "set.parquet")
        options["path"], said = str(folder / "set.parquet"), "no column of images; there are text"
    elif what == "no parquet":
        (folder / "set.parquet").write_bytes(b"x")
        options["path"], said = str(folder / "set.parquet"), "cannot be read as Parquet"
    elif what == "parquet without label":
        parquet(folder / "set.parquet", images[:2], [0, None])
        options["path"], said = str(folder / "set.parquet"), "row 1 has no label"
    elif what == "content":
        written(place, images)
        options["content"], said = "0" * 16, "its content is not what it was"
    elif what == "no npz":
        (folder / "set.npz").write_bytes(b"x")
        options["path"], said = str(folder / "set.npz"), "cannot be read"
    elif what == "pickles":
        arrays, said = {"images": np.array([{}], dtype=object)}, "cannot be read"
    elif what == "no images":
        arrays, said = {"a": images}, "no images; there are a"
    elif what == "four colours":
        arrays, said = {"images": np.zeros((90, 8, 8, 4), np.uint8)}, "is (90, 8, 8, 4); allowed are"
    elif what == "vectors":
        arrays, said = {"images": np.zeros((90, 8), np.uint8)}, "is (90, 8); allowed are"
    elif what == "none":
        arrays, said = {"images": np.zeros((0, 8, 8), np.uint8)}, "is (0, 8, 8)"
    elif what == "beyond one":
        arrays, said = {"images": 2 * RNG(0).random((90, 8, 8))}, "numbers with a point are from 0 to 1"
    elif what == "nan":
        arrays, said = {"images": np.full((90, 8, 8), np.nan)}, "numbers with a point are from 0 to 1"
    elif what == "int64":
        arrays, said = {"images": np.zeros((90, 8, 8), np.int64)}, "is int64; allowed are uint8, uint16"
    elif what == "few labels":
        arrays, said = {"images": images, "labels": labels[:50]}, "labels is int64 (50,)"
    elif what == "cube of labels":
        arrays, said = {"images": images, "labels": np.zeros((90, 4, 2), int)}, "labels is int64 (90, 4, 2)"
    elif what == "fractions":
        arrays, said = {"images": images, "labels": labels / 2}, "labels is float64 (90,)"
    if arrays is not None:
        options["path"] = str(folder / "set.npz")
        np.savez(options["path"], **arrays)
    return json.dumps(options), said


BROKEN = (
    """
nowhere, empty folder, text file, damaged file, half a file, two sizes, file beside classes, empty class, few images
class without training, no training, labels in one split, size 0, size 2000, size [8], option, no path
parquet of text, no parquet, parquet without label, content, no npz, pickles, no images, four colours, vectors, none
beyond one, nan, int64, few labels, cube of labels, fractions
""".strip()
    .replace("\n", ", ")
    .split(", ")
)


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_is_said_in_a_line(tmp_path, what):
    options, said = broken(tmp_path, what)
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        data.load("images", **json.loads(options))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_classes_that_are_not_held_out_are_named(tmp_path):
    np.savez(tmp_path / "set.npz", images=pictures(100), labels=["cat"] * 60 + ["dog"] * 37 + ["owl"] * 2 + ["yak"])
    plan = study("data=images", f"data.path={tmp_path / 'set.npz'}", "training.batch_size=16")
    assert plan.data.notes == ("classes of one or two images are in the training split alone: owl, yak",)
    console = Console(record=True, width=200)
    show(plan, console)
    assert f"note: {plan.data.notes[0]}" in console.export_text()


def study(*overrides: str):
    return preflight(load(["study=tradeoff", "models=[vae]", "space.prior=normal", *overrides]))


def test_studies_that_need_labels_or_more_images_are_refused(tmp_path):
    place = written(tmp_path / "set", pictures(), names=())
    own = ("data=images", f"data.path={place}", "training.batch_size=16")
    with pytest.raises(ConfigError, match=r"objectives\.probe_codes: images has no labels.*mi_noised"):
        study(*own)
    plan = study(*own, "objectives={fid: min, mi_noised: max}")
    assert plan.config.metrics.fid_features == "random"
    with pytest.raises(
        ConfigError,
        match=r"metrics\.fid_features=classifier: images has no labels; allowed are inception, exported",
    ):
        study(*own, "objectives={fid: min, mi_noised: max}", "metrics.fid_features=classifier")
    with pytest.raises(ConfigError, match=r"training\.batch_size=128: images has 62 training images"):
        study("data=images", f"data.path={written(tmp_path / 'other', pictures())}")


def test_other_images_in_the_same_place_are_other_members(tmp_path):
    np.savez(tmp_path / "set.npz", images=pictures(seed=0), labels=np.arange(90) % 3)
    asked = ["study=tradeoff", "models=[vae]", "data=images", f"data.path={tmp_path / 'set.npz'}"]
    (first, *_) = members(load(asked))
    np.savez(tmp_path / "set.npz", images=pictures(seed=1), labels=np.arange(90) % 3)
    data._read.cache_clear()
    (other, *_) = members(load(asked))
    assert first.trial != other.trial
    assert {key: first.data[key] == other.data[key] for key in first.data} == dict.fromkeys(first.data, True) | {
        "content": False
    }
    with pytest.raises(ValueError, match="its content is not what it was"):
        data.load(**first.data)


def test_a_run_goes_on_from_every_folder_and_with_images_that_have_moved(tmp_path, monkeypatch):
    asked = [
        *("study=tradeoff", "models=[vae]", "space.seed=0", "space.prior=normal", "space.weight=1", "data=images"),
        *("training.batch_size=32", "metrics.fid_samples=200", "network.hidden=[32]", "budget.epochs=1"),
        *("budget.evaluate_every=1", "metrics.ruler=never", "resources.cpu=1", f"storage_path={tmp_path / 'results'}"),
    ]
    there, moved = tmp_path / "there", tmp_path / "moved"
    written(there / "set", pictures(240, (10, 6)))
    monkeypatch.chdir(there)
    plan = preflight(load([*asked, "data.path=set"]))
    run = _new_run(plan)
    monkeypatch.chdir(tmp_path)
    resume = [f"resume={run}"]
    ((one,),) = preflight(load(resume)).packs
    assert [[one.trial]] == [[m.trial for m in pack] for pack in plan.packs]
    features.begin(plan.data, one.metrics, run)
    with Store(run / "study.db", create=True) as store:
        for rows in train([one], kept(plan.data, run, one.metrics, CPU), run):
            store.report(rows)

    # the same images elsewhere are the same member
    shutil.move(there / "set", moved)
    data._read.cache_clear()
    assert [m.trial for m in members(load([*asked, f"data.path={moved}"]))] == [one.trial]
    assert gimtune.open(run).member(one.trial, str(moved)).sample(2).shape == (2, 3, 10, 6)
    with pytest.raises(ConfigError, match="set: there is no such file or folder"):
        preflight(load(resume))
    stated = run / "config.yaml"
    stated.write_text(stated.read_text().replace(str(there / "set"), str(moved)))
    (note,) = preflight(load(resume)).notes
    assert f"data.path is {moved}, and was {there / 'set'}" in note
    # and other images are not
    shutil.rmtree(moved)
    written(moved, pictures(240, (10, 6), seed=1))
    data._read.cache_clear()
    with pytest.raises(ConfigError, match="images of images are others than when the run was begun"):
        preflight(load(resume))


def test_codes_that_are_images_may_be_large(tmp_path):
    place = written(tmp_path / "set", pictures(90, (10, 6)))
    asked = ["study=tradeoff", "models=[cyclegan]", "space.seed=0", "data=images", f"data.path={place}", "data.size=64"]
    assert {m.latent_dim for m in members(load(asked))} == {64 * 64 * 3}


def test_weights_of_a_set_without_a_sweep_go_with_its_pixels(tmp_path):
    place = written(tmp_path / "set", pictures(shape=(14, 14)))
    asked = ["study=tradeoff", "models=[beta_vae,aae]", "data=images", f"data.path={place}", "space.seed=0"]

    def weights(*more):
        config = load([*asked, "space.prior=normal", *more])
        found = [(m.model, m.weight) for m in members(config)]
        return [[w for model, w in found if model == wanted] for wanted in ("beta_vae", "aae")]

    # 14 x 14 x 3 of MNIST's 28 x 28: three quarters
    assert weights() == [[0.075, 0.75, 2.2, 7.5, 22], [0.003, 0.3, 3, 10, 30]]
    # what a user writes is what is run
    assert weights("space.weight={grid: [0.1, 1]}") == [[0.1, 1], [0.1, 1]]
    drawn = whole_space(load([*asked, "search=random", "space.weight=${data.weight_ranges}"]))["weight"]
    assert drawn["beta_vae"] == {"loguniform": [0.075, 22]}
    assert drawn["aae"] == {"loguniform": [0.003, 30]}


# Features


def test_random_features_are_the_same_everywhere_and_see_what_is_not_there(digits):
    network = RandomSource().load(digits, {}, Path(), torch.device("cpu"))
    assert network.name == RandomSource().load(digits, {}, Path(), torch.device("cpu")).name
    evaluation = Evaluation(digits, network, torch.device("cpu"))
    from gimtune.metrics.frechet import frechet, statistics

    def distance(images):
        return frechet(statistics(network(images)), statistics(network(evaluation.data.scaled("test", slice(None)))))

    real = evaluation.data.scaled("validation", slice(None))
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    ones = real[evaluation.data.labels["validation"] == 1]
    # what is left between two splits is small against each fault
    assert 5 * distance(real) < min(distance(noise), distance(blurred), distance(ones))


def test_features_that_do_not_see_are_flagged():
    class Network:
        test_accuracy = 0.28

    assert flags.blind(Network()) == "its features tell 28% of test images' classes: they hardly see them"
    Network.test_accuracy = 0.9
    assert flags.blind(Network()) == flags.blind(object()) == ""


# A study


@pytest.mark.slow
def test_a_study_of_ones_own_oblong_images_in_colour_runs_to_its_report(tmp_path):
    place = written(tmp_path / "set", pictures(240, (10, 6)))
    asked = (
        "data=images",
        f"data.path={place}",
        "models=[vae,cyclegan]",
        "space.prior=normal",
        "space.seed=0",
        "space.weight=1",
        "network.hidden=[32]",
        "critic.hidden=[32]",
        "training.batch_size=32",
        "budget.epochs=2",
        "budget.evaluate_every=1",
        "metrics.fid_samples=200",
        "metrics.ruler=never",
    )
    driver = Driver(tmp_path, "study=tradeoff", *asked)
    try:
        assert driver.wait() == 0, driver.said()
    finally:
        driver.end()
    (run,) = (tmp_path / "results" / "tradeoff").iterdir()
    trials = analysis.load(run).trials
    assert trials["data"].unique().tolist() == ["images:set"]
    assert trials["status"].tolist() == ["done", "done"]
    assert trials["fid_features"].str.startswith("random:").all()
    assert trials["test_fid"].notna().all()
    assert (run / "report.html").is_file()
