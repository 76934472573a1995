"""Metrics that are added to a run after it has ended."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DEFAULTS

from gimtune import analysis
from gimtune.analysis.__main__ import main
from gimtune.results.environment import fingerprint
from gimtune.results.store import Store, reasons
from gimtune.study.composition import load
from gimtune.study.resolve import members
from gimtune.training import made_by
from gimtune.training import run as trained

COLUMNS = ("kid", "kid_se", "test_kid", "test_kid_se")
MODULE = '''
from gimtune import register
from gimtune.metrics import Estimate
from gimtune.vocabulary import Metric


@register.metric(Metric("added_spread", "max", "code units", "largest deviation of a code", error=True))
def added_spread(view):
    """Of posterior means."""
    return Estimate(float(view.posterior.mu.std(0).max()), 0.0)


@register.metric(Metric("added_broken", "min", "nats", "nothing"))
def added_broken(view):
    """It fails."""
    raise RuntimeError("no such thing")
'''


@pytest.fixture
def ended(evaluation, tmp_path):
    """A run folder with three members, of which the first's weights were not kept."""
    folder = tmp_path / "run"
    given = ["models=[vae]", "prior=normal", "space.weight={grid: [0.1, 1, 10]}", "space.seed=0", "budget.epochs=1"]
    given += ["budget.evaluate_every=1", "metrics.ruler=never", "metrics.fid_samples=300", "metrics.probe_samples=300"]
    planned = members(load([*given, f"network.hidden={DEFAULTS['network']['hidden']}"]))
    folder.mkdir()
    with Store(folder / "study.db", create=True) as store:
        store.annotate(objectives=json.dumps({"fid": "min", "probe_codes": "max"}))
        store.plan(identity(member) for member in planned)
        for rows in trained(planned, evaluation, folder):
            store.report(rows)
    (folder / "members" / f"{planned[0].trial}.pt").unlink()
    return folder


def identity(one):
    said = {"model": one.model, "side": one.side, "weight": one.weight, "seed": one.seed, "latent_dim": one.latent_dim}
    return {"trial": one.trial, "config": one.to_json(), "data": "digits", "prior": "normal", "study": "test", **said}


def forget(folder, *columns):
    """As if the run were of a version that did not measure them."""
    with closing(sqlite3.connect(folder / "study.db")) as store, store:
        for column in columns:
            store.execute(f'UPDATE trials SET "{column}"=NULL')


def test_what_is_added_is_what_would_have_been_measured(ended, capsys):
    before = analysis.load(ended).trials
    forget(ended, *COLUMNS)
    assert analysis.load(ended).trials["kid"].isna().all()
    assert main([str(ended), "--add", "kid"]) == 0
    after = analysis.load(ended).trials
    assert (after.loc[1:, list(COLUMNS)].to_numpy() == before.loc[1:, list(COLUMNS)].to_numpy()).all()
    # that of which there are no weights says so
    assert np.isnan(after.loc[0, "kid"])
    assert all("its weights were not kept" in reasons(after.loc[0])[key] for key in ("kid", "test_kid"))
    # and nothing else has changed
    rest = [c for c in before if c not in (*COLUMNS, "reasons", "flags", "estimators", "added_in")]
    assert after[rest].equals(before[rest])
    assert "kid: of 2 members whose weights were kept" in capsys.readouterr().out
    assert json.loads(analysis.load(ended).meta["added"]) == {"kid": "gimtune.metrics.kernel"}
    # an interrupted call may be made again
    assert main([str(ended), "--add", "kid"]) == 0
    assert analysis.load(ended).trials.equals(after)


@pytest.mark.slow
def test_a_metric_that_was_added_elsewhere_is_told_of(ended, capsys):
    forget(ended, *COLUMNS)
    here = made_by(torch.device("cpu"), 3)
    (ended / "environment.json").write_text(json.dumps({"numbers": here}))
    trained_in = {**here, "torch": "1.0.0"}
    with Store(ended / "study.db", create=True) as store:
        store.annotate(**{f"environment {fingerprint(trained_in)}": json.dumps(trained_in)})
    with closing(sqlite3.connect(ended / "study.db")) as store, store:
        store.execute("UPDATE trials SET environment=?", (fingerprint(trained_in),))
    threads = torch.get_num_threads()
    assert main([str(ended), "--add", "kid"]) == 0
    told = f"kid was added to 2 members with torch {here['torch']}, not 1.0.0"
    assert told in capsys.readouterr().out
    assert told in (ended / "report.html").read_text()
    # it is measured on as many threads as the run's workers had, and this process keeps its own
    study = analysis.load(ended)
    assert [json.loads(text) for text in study.trials["added_in"].dropna()] == [{"kid": fingerprint(here)}] * 2
    assert torch.get_num_threads() == threads
    # added where the members were made: there is nothing to tell
    with closing(sqlite3.connect(ended / "study.db")) as store, store:
        store.execute("UPDATE trials SET environment=?", (fingerprint(here),))
    assert main([str(ended), "--add", "kid"]) == 0
    assert "was added to" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--add", "fid"], "--add fid: the run was measured with it"),
        (["--add", "kidd"], "--add kidd: no metric of that name; did you mean kid"),
        (["--add", "kid", "--plugins", "no_such_module"], "plugins=no_such_module: cannot be imported"),
    ],
)
def test_what_cannot_be_added_is_refused(ended, capsys, given, said):
    before = analysis.load(ended).trials
    assert main([str(ended), *given]) == 2
    assert said in capsys.readouterr().err
    assert analysis.load(ended).trials.equals(before)


@pytest.mark.slow
def test_a_metric_of_ones_own_is_added_and_may_be_an_objective(ended, tmp_path):
    (tmp_path / "my_metrics.py").write_text(MODULE)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    asked = ["--add", "added_spread", "added_broken", "--plugins", "my_metrics"]
    asked += ["--objectives", "fid", "added_spread"]
    done = subprocess.run(
        [sys.executable, "-m", "gimtune", "analysis", str(ended), *asked],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "spread" in done.stdout
    with Store(ended / "study.db") as store:
        rows = store.trials()
        assert rows["added_spread"].notna().tolist() == [False, True, True]
        assert rows["test_added_spread"].notna().tolist() == [False, True, True]
        assert "RuntimeError: no such thing" in reasons(rows.loc[1])["added_broken"]
        declared = {metric["key"]: metric["direction"] for metric in json.loads(store.meta["metrics"])}
        assert declared == {"added_spread": "max", "added_broken": "min"}
        assert json.loads(store.meta["added"])["added_spread"].startswith("my_metrics ")
