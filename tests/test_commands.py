"""The commands as they are installed, typed in any folder and completed by a shell: real processes."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]


def run(folder, *command, **environment):
    """A command in a folder, with this checkout's modules."""
    return subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def gimtune(folder, *arguments, **environment):
    return run(folder, sys.executable, "-m", "gimtune", *arguments, **environment)


def wheel(source, folder):
    """The wheel of a source tree or archive, open."""
    done = run(folder, *BUILD, "--wheel-dir", folder / "built", source)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "built").glob("*.whl")
    return zipfile.ZipFile(path)


def test_a_wheel_has_all_under_one_name(tmp_path):
    pytest.importorskip("hatchling")
    with wheel(ROOT, tmp_path) as packed:
        names = set(packed.namelist())
        about = next(name.partition("/")[0] for name in names if name.endswith("/METADATA"))
        entry = packed.read(f"{about}/entry_points.txt").decode()
    assert {name.partition("/")[0] for name in names} == {"gimtune", about}
    assert f"{about}/licenses/LICENSE" in names
    assert "gimtune = gimtune.__main__:main" in entry
    tree = run(ROOT, "git", "ls-files", "gimtune", "analysis", "studies")
    if tree.returncode == 0:
        tracked = {f"gimtune/{name.removeprefix('gimtune/')}" for name in tree.stdout.split()}
        assert tracked - {"gimtune/analysis", "gimtune/studies"} <= names
    assert {
        "gimtune/py.typed",
        "gimtune/analysis/__main__.py",
        "gimtune/analysis/front.ipynb",
        "gimtune/analysis/export/references.bib",
        "gimtune/analysis/page/page.css",
        "gimtune/analysis/page/page.html",
        "gimtune/analysis/page/page.js",
        "gimtune/studies/config.yaml",
        "gimtune/studies/study/tradeoff.yaml",
    } <= names


@pytest.mark.slow
def test_a_wheel_of_the_source_archive_is_the_same(tmp_path):
    pytest.importorskip("hatchling")
    done = run(ROOT, sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {
        "LICENSE",
        "CHANGELOG.md",
        "analysis/status.py",
        "gimtune/analysis/status.py",
        "tests/test_docs.py",
    } <= names
    (tmp_path / "tree").mkdir()
    with wheel(archive, tmp_path) as of_archive, wheel(ROOT, tmp_path / "tree") as of_tree:
        assert sorted(of_archive.namelist()) == sorted(of_tree.namelist())


@pytest.mark.slow
def test_modules_where_the_user_stands_do_not_matter(tmp_path):
    for name in ("analysis", "studies"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    done = gimtune(tmp_path, "study=tradeoff", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "396" in done.stdout
    # no run folder: the analysis itself says so
    done = gimtune(tmp_path, "analysis", "nowhere", "--status")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_packages_where_the_user_stands_do_not_matter(tmp_path):
    for name in ("analysis", "studies"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    done = gimtune(tmp_path, "study=tradeoff", "dry_run=true")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("called", "folder"), [("gimtune analysis", "."), ("analysis", ROOT)], ids=["installed", "clone"]
)
def test_the_analysis_says_how_it_was_called(called, folder, tmp_path):
    done = run(tmp_path / folder, sys.executable, "-m", *called.split(), "--help")
    assert done.stdout.startswith(f"usage: python -m {called} ")


def test_help_names_the_other_commands(tmp_path):
    said = gimtune(tmp_path, "--help").stdout
    assert "gimtune analysis RUN" in said
    assert "gimtune parts [NAME]" in said


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """What ``gimtune -sc install=bash`` prints."""
    done = gimtune(tmp_path_factory.mktemp("install"), "-sc", "install=bash")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def shell(tmp_path, script):
    """Completes a line in a real bash, as the Tab key does."""
    command = tmp_path / "bin" / "gimtune"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gimtune "$@"\n')
    command.chmod(0o755)
    program = """
        eval "$2"
        COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        [[ $1 == *' ' ]] && COMP_CWORD=$((COMP_CWORD + 1)) && COMP_WORDS+=('')
        # the function that is registered for the first word
        registered=$(complete -p "${COMP_WORDS[0]}") && [[ $registered =~ -F\\ ([a-z_]+) ]]
        "${BASH_REMATCH[1]}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """

    def complete(line):
        search = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
        done = run(tmp_path, "bash", "--norc", "-c", program, "bash", line, script, PATH=search)
        assert not done.stderr
        return done.stdout.split()

    return complete


STUDIES = (
    "elbo_paper",
    "gan_papers",
    "infogan_paper",
    "iwae_paper",
    "latent_size",
    "priors",
    "restrictions",
    "search",
    "tradeoff",
)


def test_bash_completes_groups_keys_and_values(shell):
    assert shell("gimtune study=") == [f"study={n}" for n in STUDIES]
    assert shell("gimtune study=tradeoff budget.e") == ["budget.epochs=", "budget.evaluate_every="]
    assert shell("gimtune space.re") == ["space.restriction="]
    assert shell("gimtune dry_run=t") == ["dry_run=true"]


def test_bash_completes_what_may_stand_there_at_all(shell):
    offered = set(shell("gimtune "))
    assert {"study=", "search=", "space.", "models=", "resume="} <= offered
    assert "models." not in offered
    assert not [word for word in offered if word.startswith("hydra")]


def test_bash_completes_the_module_too(shell):
    assert shell("python -m gimtune scheduler=mo") == ["scheduler=mo_asha"]
    assert shell("python -m json.tool sched") == []


def test_bash_completes_own_studies(shell, tmp_path):
    (tmp_path / "studies" / "study").mkdir(parents=True)
    (tmp_path / "studies" / "study" / "mine.yaml").write_text("# @package _global_\nname: mine\n")
    assert shell("gimtune study=m") == ["study=mine"]


def test_half_a_line_need_not_make_sense(shell):
    assert shell("gimtune study={a space.sigma_m") == ["space.sigma_min="]


@pytest.mark.parametrize("asked", [[], ["query=ksh"]], ids=str)
def test_a_wrong_question_about_completion_is_one_line(asked, tmp_path):
    done = gimtune(tmp_path, "-sc", *asked)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("-sc")


def test_the_bare_command_says_how_to_start_and_starts_nothing(tmp_path):
    done = gimtune(tmp_path)
    assert done.returncode == 2
    assert done.stderr == "nothing was started: python -m gimtune study=tradeoff starts the main job\n"
    assert done.stdout == gimtune(tmp_path, "--help").stdout
    assert not list(tmp_path.iterdir())
