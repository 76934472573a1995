"""Files that were damaged, at random or with intent: a command reads them or says in a line what is wrong, within
seconds and 2 GiB, and runs nothing that they hold.

The default suite draws some of each kind, always the same; ``GIMTUNE_DAMAGED=1000 pytest tests/test_damaged.py`` draws
so many others (with ``--hypothesis-seed=1`` the same again), and says at its end how many cases it tried.
"""

import collections
import contextlib
import io
import json
import os
import pickle
import shutil
import sqlite3
import struct
import sys
import time
import zipfile
from contextlib import chdir, closing, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
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
from gimtune.training.checkpoints import newest

SECONDS, GIBIBYTES = 10, 2
#: Cases that were tried, by kind.
TRIED = collections.Counter()
#: What Python tells of when it starts a program or looks up what a pickle names.
_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class")
_watched: list[str] | None = None


def _note(event, arguments):
    if _watched is not None and event in _CODE:
        _watched.append(f"{event}{arguments}")


sys.addaudithook(_note)
MANY = os.environ.get("GIMTUNE_DAMAGED")
_SETTINGS = settings(deadline=None, derandomize=not MANY, database=None, suppress_health_check=[*HealthCheck])
KNOWN = (ValueError, OSError)


def drawn(examples):
    """So many cases of a test, each from a seed that hypothesis shrinks."""

    def decorate(test):
        few = settings(_SETTINGS, max_examples=int(MANY or examples))
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


@contextlib.contextmanager
def watched():
    """Nothing is executed, and no memory to speak of is taken."""
    global _watched
    Path("/proc/self/clear_refs").write_text("5")  # the most that was resident, from here on
    before, _watched = _resident(), []
    try:
        yield
        assert not _watched, _watched
    finally:
        _watched = None
    assert _resident() - before < GIBIBYTES * 2**20


def _resident():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def reads(read):
    """It is read, or refused in a line or two, and soon."""
    TRIED[os.environ["PYTEST_CURRENT_TEST"].split("::")[1].partition(" ")[0].partition("[")[0]] += 1
    began, worked = time.monotonic(), time.process_time()
    with watched():
        try:
            read()
        except KNOWN as error:
            text = str(error)
            assert text.strip()
            assert text.count("\n") <= 1, text
    assert time.process_time() - worked < SECONDS
    # what waits without working; a busy machine takes its time
    assert time.monotonic() - began < 12 * SECONDS


def refused(read, words):
    """It is refused, soon, and for this."""

    def expect():
        with pytest.raises(KNOWN, match=words):
            read()

    reads(expect)


@pytest.fixture(scope="module", autouse=True)
def told(pytestconfig):
    """How many cases were tried, at the end."""
    yield
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{sum(TRIED.values())} cases: {dict(TRIED)}")


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


def promised(path, **arrays):
    """An .npz whose headers tell of more than there is, or of what is packed to nothing."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, size) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(stream, header)
                for _ in range(0, size, 2**20):
                    stream.write(bytes(2**20))


@pytest.mark.parametrize(
    ("kind", "arrays", "words"),
    [
        ("images", {"images": ((80, 60_000, 60_000), 100)}, "ends after 0 of 80"),
        ("images", {"images": ((2**50, 8, 8), 100)}, "ends after"),
        ("images", {"images": ((4, 8193, 8), 2**18)}, "8192 pixels a side"),
        ("images", {"images": ((80, 8, 8), 80 * 64), "labels": ((80, 2**18), 80 * 2**18)}, "1000 at most"),
        ("vectors", {"x": ((80, 2**18), 80 * 2**18)}, "d at most 16384"),
        ("vectors", {"x": ((10**9, 9_000), 2**20)}, "ends after"),
    ],
)
def test_arrays_that_promise_too_much_are_refused(kind, arrays, words, tmp_path):
    promised(tmp_path / "a.npz", **arrays)
    refused(lambda: data.load(kind, path=str(tmp_path / "a.npz")), words)


def test_tables_of_too_many_columns_are_refused(tmp_path):
    names = ",".join(f"c{i}" for i in range(300_000))
    (tmp_path / "a.csv").write_text(f"{names}\n{names}\n")
    refused(lambda: data.load("vectors", path=str(tmp_path / "a.csv")), "300000 columns")


def test_arrays_of_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([Bomb()] * 80, object))
    refused(lambda: data.load("vectors", path=str(tmp_path / "a.npz")), "Python objects")


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
def test_a_store_with_pages_changed_is_read_or_refused(run, tmp_path, seed):
    place, source = copied(run, tmp_path), np.random.default_rng(seed)
    content = bytearray((run / "study.db").read_bytes())
    (size,) = struct.unpack(">H", content[16:18])
    for _ in range(source.integers(1, 4)):
        one, other = source.integers(0, len(content) // size, 2) * size
        kind = source.integers(0, 4)
        page = content[other : other + size]
        if kind == 0:  # another page in its place
            content[one : one + size] = page
        elif kind == 1:
            content[one : one + size] = bytes(byte ^ 255 for byte in content[one : one + size])
        elif kind == 2:
            content[one : one + size], content[other : other + size] = page, content[one : one + size]
        else:  # its pointers to cells
            content[one + 8 : one + 64] = source.bytes(56)
    (place / "study.db").write_bytes(content)
    reads(lambda: looked_at(place))


_STATEMENTS = (
    "CREATE TRIGGER t AFTER UPDATE ON trials BEGIN DELETE FROM reports; END",
    "CREATE TRIGGER t AFTER INSERT ON reports BEGIN UPDATE trials SET fid = 0; END",
    "CREATE VIEW extra AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    "ALTER TABLE trials ADD COLUMN z GENERATED ALWAYS AS (printf('%.*c', 900000000, 'x')) VIRTUAL",
    "UPDATE trials SET error = printf('%.*c', 90000000, 'x')",
    "INSERT INTO meta VALUES ('x', zeroblob(90000000))",
)


@pytest.mark.parametrize("statement", _STATEMENTS)
def test_a_store_that_computes_is_refused(run, tmp_path, statement):
    place = copied(run, tmp_path)
    with closing(sqlite3.connect(place / "study.db")) as store, store:
        store.execute(statement)
    refused(lambda: looked_at(place), "trigger|view|computed|too big")


def test_a_table_that_never_ends_is_refused(run, tmp_path):
    place = copied(run, tmp_path)
    with closing(sqlite3.connect(place / "study.db")) as store, store:
        store.execute("ALTER TABLE trials RENAME TO t")
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
        store.execute(f"CREATE VIEW trials AS {endless} SELECT t.*, i AS rowid FROM t, n WHERE i < 0")
    refused(lambda: looked_at(place), "view")


_KINDS = ("study.db", "config.yaml", ".lock", "members/*.pt", "packs/*/*.pt", "study.db-wal")


@drawn(5)
def test_links_pipes_and_folders_in_a_run_are_read_or_refused(run, tmp_path, seed):
    place, source = copied(run, tmp_path), np.random.default_rng(seed)
    (place / ".lock").touch()
    name = _KINDS[source.integers(len(_KINDS))]
    path = next(iter(sorted(place.glob(name))), place / name.replace("*", "x"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    kind = source.integers(0, 5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to(("/dev/zero", path.name, "/etc/passwd")[kind - 2])
    reads(lambda: looked_at(place))
    reads(lambda: load([f"resume={place}"]))
    with Store(run / "study.db") as store:
        (first, *_) = store.statuses()
    reads(lambda: Trained(place, first))
    reads(lambda: newest(next((place / "packs").glob("*"), place), lambda note: None))


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


class Bomb:
    def __reduce__(self):
        return os.system, ("exit 7",)


def test_weights_that_hold_code_are_refused(run, tmp_path):
    place = copied(run, tmp_path)
    (path,) = sorted((place / "members").iterdir())[:1]
    torch.save({"member": Bomb()}, path)
    refused(lambda: Trained(place, path.stem), "cannot be read")
    path.write_bytes(pickle.dumps(Bomb()))
    refused(lambda: Trained(place, path.stem), "cannot be read")


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


@settings(_SETTINGS, max_examples=int(MANY or 12))
@given(content=st.dictionaries(_words, _trees, max_size=5), marked=st.booleans())
def test_study_files_of_anything_are_read_or_refused(tmp_path, content, marked):
    folder = tmp_path / "studies" / "study"
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(content, allow_unicode=True)
    (folder / "drawn.yaml").write_text("# @package _global_\n" * marked + text)
    with chdir(tmp_path):
        reads(lambda: members(load(["study=drawn"])))


def anchored(levels):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize("text", [anchored(9), "a: &a [*a]", "name: ä".encode("latin-1")])
def test_study_files_that_grow_are_refused(text, tmp_path):
    folder = tmp_path / "studies" / "study"
    folder.mkdir(parents=True)
    (folder / "drawn.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with chdir(tmp_path):
        refused(lambda: load(["study=drawn"]), "anchors|UTF-8")


def test_run_folders_that_grow_are_refused(run, tmp_path):
    place = copied(run, tmp_path)
    (place / "config.yaml").write_text(anchored(9))
    refused(lambda: load([f"resume={place}"]), "anchors")
    reads(lambda: looked_at(place))


def test_spaces_of_a_billion_members_are_refused():
    many = "{grid: [" + ", ".join(map(str, range(1, 1001))) + "]}"
    asked = [f"space.{key}={many}" for key in ("seed", "latent_dim", "weight")]
    refused(lambda: members(load(["models=[vae]", "prior=normal", *asked])), "more than 100,000")
