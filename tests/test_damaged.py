"""Files that were damaged at random: whatever they hold, a command reads them or says in a line what is wrong.

The default suite draws some of each kind; ``GIMTUNE_DAMAGED=1000 pytest tests/test_damaged.py`` draws so many.
"""

import io
import json
import os
import shutil
import sqlite3
import time
from contextlib import chdir, closing, suppress

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gimtune import analysis, data
from gimtune.analysis.status import standing
from gimtune.api import Trained
from gimtune.results.store import Store
from gimtune.study.composition import load
from gimtune.study.resolve import members
from gimtune.training import run as trained

SECONDS = 10
_SETTINGS = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
KNOWN = (ValueError, OSError)


def drawn(examples):
    """So many cases of a test, each from a seed that hypothesis shrinks."""

    def decorate(test):
        few = settings(_SETTINGS, max_examples=int(os.environ.get("GIMTUNE_DAMAGED", examples)))
        return few(given(st.integers(0, 2**32 - 1))(test))

    return decorate


def damaged(content, seed):
    """Bytes with some changed, cut, doubled, filled or put in."""
    source = np.random.default_rng(seed)
    made = bytearray(content)
    for _ in range(source.integers(1, 4)):
        at = int(source.integers(0, max(1, len(made))))
        size = int(source.choice([1, 4, 64, 1024]))
        kind = source.integers(0, 6)
        if kind == 0:
            made[at : at + size] = source.bytes(size)
        elif kind == 1:
            del made[at:]
        elif kind == 2:
            made[at:at] = made[at : at + size]
        elif kind == 3:
            made[at : at + size] = bytes([int(source.choice([0, 255]))]) * size
        elif kind == 4:
            made[at:at] = source.bytes(size)
        else:
            del made[at : at + size]
    return bytes(made)


def reads(read):
    """It is read, or refused in a line or two, and soon."""
    began = time.monotonic()
    try:
        read()
    except KNOWN as error:
        text = str(error)
        assert text.strip()
        assert text.count("\n") <= 1, text
    assert time.monotonic() - began < SECONDS


# Data


def sets():
    """A small set in every form that is read, by file name."""
    source = np.random.default_rng(0)
    images, labels = source.integers(0, 256, (80, 8, 8), np.uint8), np.arange(80) % 3
    vectors = source.normal(size=(80, 3))
    table = pd.DataFrame(vectors, columns=["a", "b", "c"]).assign(label=labels)
    pictures = []
    for one in images:
        part = io.BytesIO()
        Image.fromarray(one).save(part, format="PNG")
        pictures.append({"bytes": part.getvalue(), "path": None})
    found = {name: io.BytesIO() for name in ("i.npz", "i.npy", "i.parquet", "v.npz", "v.csv", "v.parquet")}
    np.savez_compressed(found["i.npz"], images=images, labels=labels)
    np.save(found["i.npy"], images)
    pd.DataFrame({"image": pictures, "label": labels}).to_parquet(found["i.parquet"])
    np.savez(found["v.npz"], x=vectors, y=labels)
    table.to_csv(found["v.csv"], index=False)
    table.to_parquet(found["v.parquet"])
    return {name: stream.getvalue() for name, stream in found.items()}


SETS = sets()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def check_set(name, folder, seed):
    place = folder / str(seed)
    place.mkdir(exist_ok=True)
    path = place / name
    path.write_bytes(damaged(SETS[name], seed))
    kind = "images" if name.startswith("i") else "vectors"
    reads(lambda: data.load(kind, path=str(path)))
    shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.rmtree(place)


@pytest.mark.parametrize("name", SETS)
def test_sets_are_read_whole(name, tmp_path):
    (tmp_path / name).write_bytes(SETS[name])
    found = data.load("images" if name.startswith("i") else "vectors", path=str(tmp_path / name))
    assert sum(len(found.images[split]) for split in data.SPLITS) == 80


@pytest.mark.parametrize("name", SETS)
@drawn(6)
def test_damaged_sets_are_read_or_refused(name, tmp_path, seed):
    check_set(name, tmp_path, seed)


@drawn(6)
def test_damaged_pictures_are_read_or_refused(tmp_path, seed):
    folder = tmp_path / str(seed)
    folder.mkdir(exist_ok=True)
    source = np.random.default_rng(1)
    for i in range(40):
        form = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")[i % 6]
        Image.fromarray(source.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{i}.{form.lower()}", form)
    chosen = sorted(folder.iterdir())[seed % 40]
    chosen.write_bytes(damaged(chosen.read_bytes(), seed))
    reads(lambda: data.load("images", path=str(folder)))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    shutil.rmtree(folder)


# Runs


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """The folder of a run of two members that has ended."""
    folder = tmp_path_factory.mktemp("run")
    given = ["models=[vae]", "prior=normal", "space.weight={grid: [0.1, 1]}", "space.seed=0", "budget.epochs=1"]
    given += ["budget.evaluate_every=1", "metrics.ruler=never", "metrics.fid_samples=100", "network.hidden=[16]"]
    config = load(given)
    planned = members(config)
    with Store(folder / "study.db", create=True) as store:
        store.annotate(objectives=json.dumps(dict(config.objectives)), members="2", epochs="1")
        said = ("model", "side", "weight", "seed", "latent_dim")
        store.plan(
            {"trial": m.trial, "config": m.to_json(), "data": "digits", "prior": "normal", "study": "test", "pack": "p"}
            | {key: getattr(m, key) for key in said}
            for m in planned
        )
        for rows in trained(planned, small, folder):
            store.report(rows)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return folder


def copied(run, tmp_path):
    place = tmp_path / "copy"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(run, place)
    return place


def looked_at(folder):
    study = analysis.load(folder)
    analysis.front(study.trials, study.objectives)
    standing(folder, {})


def test_the_run_is_read_whole(run, tmp_path):
    looked_at(run)
    load([f"resume={run}"])
    assert Trained(run, analysis.load(run).trials["trial"][0]).sample(2).shape == (2, 1, 8, 8)


@drawn(10)
def test_a_damaged_store_is_read_or_refused(run, tmp_path, seed):
    place = copied(run, tmp_path)
    (place / "study.db").write_bytes(damaged((run / "study.db").read_bytes(), seed))
    reads(lambda: looked_at(place))


@drawn(10)
def test_a_store_with_other_values_is_read_or_refused(run, tmp_path, seed):
    place, source = copied(run, tmp_path), np.random.default_rng(seed)
    with closing(sqlite3.connect(place / "study.db")) as store, store:
        table = ("trials", "reports", "meta")[seed % 3]
        names = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
        values = [
            None,
            "",
            "x",
            "{",
            "[1]",
            b"\x00\xff",
            -1,
            2**62,
            1e308,
            float("inf"),
            "\x1b[31m",
            '{"a": NaN}',
            "9" * 400,
        ]
        for _ in range(source.integers(1, 4)):
            name, value = names[source.integers(len(names))], values[source.integers(len(values))]
            where = "1" if source.random() < 0.5 else "rowid=1"
            with suppress(sqlite3.IntegrityError):  # two rows of one key
                store.execute(f'UPDATE {table} SET "{name}"=? WHERE {where}', (value,))
    reads(lambda: looked_at(place))


@drawn(10)
def test_a_damaged_configuration_is_read_or_refused(run, tmp_path, seed):
    place = copied(run, tmp_path)
    (place / "config.yaml").write_bytes(damaged((run / "config.yaml").read_bytes(), seed))
    reads(lambda: load([f"resume={place}"]))
    reads(lambda: looked_at(place))


@drawn(10)
def test_damaged_weights_are_read_or_refused(run, tmp_path, seed):
    place = copied(run, tmp_path)
    (path,) = sorted((place / "members").iterdir())[:1]
    path.write_bytes(damaged(path.read_bytes(), seed))
    reads(lambda: Trained(place, path.stem))


# Study files

_WORDS = """
models space weight grid prior normal vae budget epochs defaults name search objectives fid min network hidden plugins
per loguniform model ~ ${x} ${oc.env:HOME} ???? 1e-3 !!python/object/apply:os.system ä - metrics critic
"""
_words = st.sampled_from([*_WORDS.split(), "override /data", "a b", "\x00", ""])
_leaves = st.one_of(_words, st.none(), st.booleans(), st.integers(-3, 10**12), st.floats(), st.text(max_size=8))
_trees = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words, inner, max_size=4), max_leaves=12
)


@settings(_SETTINGS, max_examples=int(os.environ.get("GIMTUNE_DAMAGED", 12)))
@given(content=st.dictionaries(_words, _trees, max_size=5), marked=st.booleans())
def test_study_files_of_anything_are_read_or_refused(tmp_path, content, marked):
    folder = tmp_path / "studies" / "study"
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(content, allow_unicode=True)
    (folder / "drawn.yaml").write_text("# @package _global_\n" * marked + text)
    with chdir(tmp_path):
        reads(lambda: members(load(["study=drawn"])))
