"""What numbers were made by: rows say it, a resume elsewhere asks, fronts of several say so."""

import html
import json

import pandas as pd
import pytest
import torch
from helpers import TINY, member
from rich.console import Console
from test_analysis import member as row
from test_analysis import write

from gimtune.analysis.export.report import export, print_front
from gimtune.results import environment
from gimtune.results.load import load as read
from gimtune.study.composition import load
from gimtune.study.messages import ConfigError
from gimtune.training import made_by, run
from gimtune.tuning.launch import _new_run
from gimtune.tuning.plan import preflight

HERE = made_by(torch.device("cpu"), 1)


@pytest.fixture
def begun(tmp_path):
    """A run that was begun, and no member of it."""
    return _new_run(preflight(load([*TINY, f"storage_path={tmp_path}", "resources.cpu=1"])))


def elsewhere(folder, key, **facts):
    path = folder / "environment.json"
    stated = json.loads(path.read_text())
    path.write_text(json.dumps({**stated, key: {**stated[key], **facts}}))


def test_comments_and_docstrings_are_no_other_code():
    plain = environment._said("def f(x):\n    return x + 1\n")
    assert environment._said('def f(x):\n    """One more."""\n    # the next\n    return x + 1\n') == plain
    assert environment._said("def f(x):\n    return x + 2\n") != plain


def test_a_resume_where_numbers_would_differ_is_refused_until_it_is_asked_for(begun):
    assert preflight(load([f"resume={begun}"])).notes == ()
    elsewhere(begun, "numbers", threads="7", precision="float8")
    with pytest.raises(ConfigError) as refused:
        preflight(load([f"resume={begun}"]))
    told = f"precision {HERE['precision']}, not float8; threads 1, not 7"
    assert told in str(refused.value)
    assert "resume.across=true" in str(refused.value)
    assert preflight(load([f"resume={begun}", "resume.across=true"])).notes[0].endswith(told)


def test_a_resume_with_another_version_of_what_does_not_compute_says_so(begun):
    elsewhere(begun, "packages", optuna="1.0.0")
    assert "optuna" in preflight(load([f"resume={begun}"])).notes[0]


def test_a_run_of_before_goes_on_without_a_question(begun):
    path = begun / "environment.json"
    stated = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in stated.items() if key != "numbers"}))
    assert preflight(load([f"resume={begun}"])).notes == ()


def test_a_row_names_every_environment_that_it_came_from(small, tmp_path):
    pack = [member(epochs=2, evaluate_every=1)]
    first = next(iter(run(pack, small, tmp_path, environment="here")))
    assert {r["environment"] for r in first} == {"here"}
    *_, last = run(pack, small, tmp_path, environment="there")
    assert {r["environment"] for r in last} == {"here+there"}


def test_a_front_of_several_environments_says_in_what_they_differ(tmp_path):
    others = {**HERE, "threads": "4"}
    names = [environment.fingerprint(made) for made in (HERE, others)]
    members = [row(i, fid=10.0 + i, environment=names[i == 3]) for i in range(4)]
    with write(tmp_path, members) as store:
        store.annotate(**{f"environment {n}": json.dumps(m) for n, m in zip(names, (HERE, others), strict=True)})
    study = read(tmp_path)
    console = Console(record=True, width=200)
    print_front(study, console)
    told = "not all 4 members' numbers were made alike, and they compare but for that: 1 with threads 4, not 1"
    assert told in console.export_text()
    assert told in html.unescape(export(study)["report.html"].read_text())
    alike = study.trials.assign(environment=names[0])
    assert environment.mixed(alike, study.meta) == ""
    assert environment.mixed(pd.DataFrame({"fid": [1.0]}), {}) == ""
