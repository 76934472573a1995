"""What users of Ray, Tune, Optuna and Hydra ran into and reported, tried here as they did."""

import dataclasses
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import member

from gimtune.__main__ import main
from gimtune.metrics import Evaluation
from gimtune.results.folder import driver_at_work, held
from gimtune.shadows import shadow
from gimtune.study.composition import load
from gimtune.study.machine import processors
from gimtune.study.messages import ConfigError
from gimtune.training import run
from gimtune.tuning.cluster import free_port

CPU = torch.device("cpu")
FEW = {"probe_samples": 60, "fid_samples": 60, "ruler": "never"}

TINY = ["models=[vae]", "space.prior=normal", "space.weight=1", "space.seed=0", "dry_run=true"]


def said(arguments, capsys):
    """The exit code, and what was said of it."""
    return main([*TINY, *arguments]), " ".join(capsys.readouterr().err.split())


def test_two_studies_that_start_at_once_have_two_ports():
    """FAIR-Chem/fairchem 1787: each asks whether a port is free, and Ray binds to it seconds later."""
    with free_port(18265) as one, free_port(18265) as other:
        assert one != other
    with free_port(18265) as again:
        assert again == one


@pytest.mark.parametrize("key", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_too_deep_for_rays_sockets_is_refused(key, tmp_path, monkeypatch, capsys):
    """ray-project/ray 7724: a batch system's folder for temporary files, of sixty letters or so."""
    deep = tmp_path / ("a" * 60)
    deep.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(key, str(deep))
    code, text = said([f"storage_path={tmp_path}"], capsys)
    assert code == 2
    assert f"{key}={deep}: a path of" in text
    assert "RAY_TMPDIR=FOLDER" in text


def test_a_folder_for_rays_files_that_is_anothers_is_refused(tmp_path, monkeypatch, capsys):
    """ray-project/ray 4593: who starts Ray first on a shared machine owns its folder."""
    # pytest's own folders may be too deep for Ray's sockets, which is another refusal
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "ray").write_text("in the way, for root too")
        monkeypatch.setenv("RAY_TMPDIR", made)
        code, text = said([f"storage_path={tmp_path}"], capsys)
    assert code == 2
    assert f"RAY_TMPDIR={place}: {place / 'ray'} cannot be written to" in text


def test_a_mask_of_processors_is_kept_to(tmp_path, capsys):
    """skypilot-org/skypilot 8293, ray-project/ray 8983: two processors of a machine that has many more."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert processors() == 1
        code, text = said([f"storage_path={tmp_path}", "resources.cpu=2"], capsys)
    finally:
        os.sched_setaffinity(0, mine)
    assert code == 2
    assert "resources.cpu=2: this machine has 1" in text


def test_python_without_docstrings_has_its_parts():
    """``python -OO``: a part's first line says what it is, and there is none."""
    subprocess.run([sys.executable, "-OO", "-c", "import gimtune.data"], check=True, timeout=60)


def test_letters_of_another_encoding_are_no_error_of_ours(tmp_path):
    """facebookresearch/hydra 1090: a byte that the shell's encoding does not know."""
    config = load([*TINY, f"storage_path={tmp_path}/\udce4"])
    assert config.storage_path.endswith("\udce4")


def studied(folder, monkeypatch, content):
    (folder / "studies" / "study").mkdir(parents=True)
    (folder / "studies" / "study" / "mine.yaml").write_bytes(content)
    monkeypatch.chdir(folder)
    return load(["study=mine"])


@pytest.mark.parametrize("head", [b"", b"# @package _global_\r\n"])
def test_a_study_file_that_a_windows_editor_marked_is_read(head, tmp_path, monkeypatch):
    """ScrollPrize/villa 1524: a mark of three bytes before the first line."""
    config = studied(tmp_path, monkeypatch, b"\xef\xbb\xbf" + head + b"name: marked\r\nmodels: [vae]\r\n")
    assert (config.name, config.models) == ("marked", ["vae"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"name: no", "name=False: allowed is text; off and no are false in YAML"),
        (b"metrics: {ruler: off}", "metrics.ruler=False: .*; off and no are false in YAML"),
        (b"space: {on: 3}", "space=True: .*; on and yes are true in YAML"),
    ],
)
def test_words_that_yaml_takes_for_true_or_false_are_named(line, words, tmp_path, monkeypatch):
    """rbgirshick/yacs 48, omry/omegaconf 317."""
    with pytest.raises(ConfigError, match=words):
        studied(tmp_path, monkeypatch, b"models: [vae]\n" + line + b"\n")


def test_a_pipe_in_the_place_of_the_lock_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    assert not driver_at_work(tmp_path)
    with held(tmp_path) as alone:
        assert alone
        assert driver_at_work(tmp_path)


def test_a_data_set_of_few_images_has_its_pictures(digits, small, tmp_path):
    """dreamquark-ai/tabnet 537: fewer images than a default takes for granted, here for a grid of 32."""
    few = {split: images[:30] if split == "test" else images for split, images in digits.images.items()}
    labels = {split: own[:30] if split == "test" else own for split, own in digits.labels.items()}
    data = dataclasses.replace(digits, images=few, labels=labels)
    (rows,) = run([member(epochs=1, metrics=FEW)], Evaluation(data, small.network, CPU), tmp_path)
    assert len(list((tmp_path / "samples").glob("*-reconstructed.png"))) == len(rows) == 1


COMMAND = "from gimtune.__main__ import main; exit(main())"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("random.py", ["-m", "gimtune"]),
        ("queue.py", ["-m", "gimtune"]),
        ("copy/__init__.py", ["-m", "gimtune"]),
        ("torch.py", ["-c", COMMAND]),
    ],
)
def test_a_file_that_hides_a_module_is_named(name, command, tmp_path):
    """numpy/numpy 16753: what stands beside a user's scripts is found before Python's own, here or in Ray's workers."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine = 1\n")
    root = str(Path(__file__).parents[1])
    # without -m, the working directory is looked at last
    first = f"import sys; sys.path[:] = [p for p in sys.path if p] + [{str(tmp_path)!r}]; "
    asked = [command[0], first + command[1] if command[0] == "-c" else command[1], "study=tradeoff", "dry_run=true"]
    done = subprocess.run(
        [sys.executable, *asked], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == 2, done.stderr
    where = path.parent if path.parent != tmp_path else path
    assert done.stderr.startswith(f"{where}: it hides the module {where.stem}; rename it")
    assert done.stderr.count("\n") == 1


def test_a_plug_in_where_one_stands_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text("")
    (tmp_path / "sitecustomize.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("my_parts")
    assert shadow() is None
    (tmp_path / "queue.py").write_text("")
    assert (
        shadow() == f"{tmp_path / 'queue.py'}: it hides the module queue; rename it, or start gimtune in another folder"
    )


@pytest.mark.parametrize(("typed", "form"), [
    ("models=vae,aae", "models=[vae,aae]"),
    ("plugins=a,b", "plugins=[a,b]"),
    ("network.hidden=32,16", "network.hidden=[32,16]"),
    ("space.weight=1,2", "space.weight={grid: [1,2]}"),
])  # fmt: skip
def test_values_with_commas_are_told_how_they_are_written(typed, form, capsys):
    """NVIDIA/cloudai 557: Hydra takes commas for a sweep."""
    assert main([typed, "dry_run=true"]) == 2
    assert capsys.readouterr().err.strip() == f"{typed}: several values are written '{form}'"


@pytest.mark.parametrize(
    ("key", "study"), [("resume", []), ("reuse", TINY), ("search.warm_start", ["study=search", "search=tpe"])]
)
@pytest.mark.parametrize("above", [1, 2])
def test_a_folder_above_a_run_names_the_runs_in_it(killed_run, tmp_path, capsys, key, study, above):
    """ray-project/ray 36062 and 30950: the folder of all results, in the place of one of them, began another study."""
    run = tmp_path / "results" / "tradeoff" / "20261129-000000"
    shutil.copytree(killed_run, run)
    place = run.parents[above - 1]
    assert main([*study, f"{key}={place}"]) == 2
    assert "no run folder (it needs " in (told := capsys.readouterr().err)
    assert told.strip().endswith(f"; runs in it: {run}")
