"""Paths of any name, files that cannot be written, and study files as people write them."""

import shlex
import shutil
import sqlite3
import subprocess
import sys

import pytest
from helpers import Driver
from test_analysis import MIXED
from test_analysis import study as written

from gimtune.analysis.__main__ import main as analyse
from gimtune.results.folder import go_on
from gimtune.results.load import load as read
from gimtune.study.composition import load
from gimtune.study.messages import ConfigError
from gimtune.study.resolve import members
from gimtune.tuning.plan import preflight

NAMES = [
    "runs/lr=0.1",
    "run #3",
    "a (copy), the second",
    "Läufe für Müller",
    "it's",
    'a "quoted" one',
    "50 % [x] {y: z}",
    "back\\slash",
    "ends in one\\",
    "${data.name}",
    "null hypothesis",
    "-3",
    "1e-3",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_taken_as_it_is_typed(tmp_path, name):
    place = tmp_path / name
    config = load([f"storage_path={place}", f"data.path={place}", f"data.root={place}"])
    assert config.storage_path == config.data.root == config.data.options["path"] == str(place)
    assert load([f"storage_path={name}"]).storage_path == name
    # as before, between quotation marks of Hydra's
    if not {"'", "\\", "$"} & {*name}:
        assert load([f"storage_path='{name}'"]).storage_path == name
    place.mkdir(parents=True)
    (place / "study.db").touch()
    warm = load(["study=search", "search=tpe", "search.trials=4", f"search.warm_start={place}"])
    assert warm.search.warm_start == str(place)


def test_no_path_is_no_path():
    assert load(["data.root=null"]).data.root is None


def test_paths_of_a_list_are_taken_as_they_are_typed(tmp_path):
    places = [str(tmp_path / name) for name in ("runs/lr=0.1", "run #3", "Läufe (alle)")]
    with pytest.raises(ConfigError) as refused:
        preflight(load([f"reuse=[{', '.join(places)}]"]))
    assert places[0] in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_the_line_that_goes_on_can_be_pasted_into_a_shell(killed_run, tmp_path, name):
    moved = tmp_path / "moved" / name
    moved.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(killed_run, moved)
    line = go_on(moved).removeprefix("python ")
    # a shell's own words, one a line
    shell = subprocess.run(f"printf '%s\\n' {line}", shell=True, capture_output=True, text=True, check=True)
    arguments = shell.stdout.splitlines()
    assert arguments[:2] == ["-m", "gimtune"]
    assert preflight(load(arguments[2:])).run == moved.resolve()


def test_a_number_in_a_study_file_is_a_number(tmp_path, monkeypatch):
    own = tmp_path / "studies" / "study"
    own.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    space = "models: [vae]\nspace:\n  weight: {loguniform: [1e-3, 1e1]}\n  learning_rate: 1E-4\n  prior: normal\n"
    (own / "mine.yaml").write_text(f"# @package _global_\nname: mine\n{space}search: {{sampler: random, trials: 3}}\n")
    config = load(["study=mine"])
    assert config.space["weight"] == {"loguniform": [0.001, 10.0]}
    assert {one.learning_rate for one in members(config)} == {0.0001}


@pytest.mark.parametrize("comment", ["", "# my first study\n"])
def test_a_study_file_without_its_package_is_read_as_with_it(tmp_path, monkeypatch, comment):
    own = tmp_path / "studies" / "study"
    own.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    text = (
        "defaults:\n  - override /search: random\nname: mine\nmodels: [vae]\nbudget: {epochs: 7}\nsearch: {trials: 3}\n"
    )
    (own / "with.yaml").write_text(f"# @package _global_\n{text}")
    (own / "without.yaml").write_text(comment + text)
    assert load(["study=without"]) == load(["study=with"])
    assert load(["study=without", "budget.epochs=9"]) == load(["study=with", "budget.epochs=9"])


@pytest.fixture
def blocked(tmp_path):
    """A finished run into whose folder nothing can be written, even by root: a file stands in each folder's place."""
    run = tmp_path / "run"
    written(run, MIXED)
    (run / "tables").touch()
    return run


def test_what_cannot_be_written_is_printed_and_the_exit_code_says_so(blocked, tmp_path, capsys):
    assert analyse([str(blocked)]) == 1
    said = capsys.readouterr()
    assert "Pareto front" in said.out
    assert "not written: " in said.err
    assert "--out FOLDER" in said.err
    assert analyse([str(blocked), "--out", str(tmp_path / "elsewhere")]) == 0
    said = capsys.readouterr()
    assert str(tmp_path / "elsewhere" / "report.html") in said.out
    assert (tmp_path / "elsewhere" / "tables" / "front.tex").is_file()
    assert not (blocked / "report.html").exists()


def test_a_comparison_goes_elsewhere_too(blocked, tmp_path, capsys):
    (blocked / "report.html").mkdir()
    assert analyse([str(blocked), str(blocked)]) == 1
    assert "Pareto front" in capsys.readouterr().out
    assert analyse([str(blocked), str(blocked), "--out", str(tmp_path / "both")]) == 0
    assert (tmp_path / "both" / "report.html").is_file()


def namespace(script, place):
    """Runs a script where it may mount; skips the test where that is not allowed."""
    asked = ["unshare", "-rm", "bash", "-c", "mount -t tmpfs tmpfs /mnt"]
    if shutil.which("unshare") is None or subprocess.run(asked, capture_output=True).returncode:
        pytest.skip("no permission to mount in a namespace (unshare -rm)")
    return subprocess.run(
        ["unshare", "-rm", "bash", "-c", script],
        cwd=place, env=Driver.environment(place), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_run_on_a_read_only_disk_is_read(tmp_path):
    run = tmp_path / "run"
    written(run, MIXED)
    with sqlite3.connect(run / "study.db") as db:
        # as a copy of a study is that was killed
        db.execute("PRAGMA journal_mode=WAL")
    db.close()
    command = f"{shlex.quote(sys.executable)} -m gimtune analysis run"
    script = f"mount --bind run run && mount -o remount,ro,bind run && {command}; echo $?; {command} --out out; echo $?"
    done = namespace(script, tmp_path)
    codes = [line for line in done.stdout.splitlines() if line.isdigit()]
    assert codes == ["1", "0"], done.stdout + done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    assert len(read(run).trials) == len(MIXED)


@pytest.mark.slow
def test_a_study_runs_and_goes_on_whatever_its_path(tmp_path):
    place = tmp_path / "a=b #1 (ü), 50%20 'x'"
    study = [
        *("study=tradeoff", "models=[vae]", "space.prior=normal", "space.weight=1", "space.seed=0"),
        *("network.hidden=[32]", "budget.epochs=2", "budget.evaluate_every=1", "metrics.ruler=never"),
        *("metrics.fid_samples=400", "ray.dashboard=false", f"storage_path={place}"),
    ]
    driver = Driver(tmp_path, *study)
    try:
        assert driver.wait() == 0, driver.said()
    finally:
        driver.end()
    (run,) = (place / "tradeoff").iterdir()
    assert set(read(run).trials["status"]) == {"done"}
    assert (run / "report.html").is_file()
