"""Studies that grow: members of earlier runs are taken over and not trained again; runs are merged."""

import json
import shutil
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import CLOCK, only_run
from rich.console import Console

import gimtune
from gimtune import analysis
from gimtune.__main__ import main
from gimtune.analysis.status import standing
from gimtune.results import folder
from gimtune.results.environment import fingerprint
from gimtune.results.load import settings
from gimtune.results.merge import merge
from gimtune.results.store import Store
from gimtune.study.composition import load
from gimtune.study.messages import ConfigError
from gimtune.training import made_by
from gimtune.training import run as trained
from gimtune.tuning.launch import _new_run, launch
from gimtune.tuning.plan import preflight, to_go
from gimtune.vocabulary import Status

TINY = [
    *("study=tradeoff", "models=[vae]", "space.prior=normal", "space.weight=1", "network.hidden=[32]"),
    *("budget.epochs=2", "budget.evaluate_every=1", "metrics.ruler=never", "metrics.fid_samples=400"),
    "resources.cpu=1",
]
SEEDS = "space.seed={grid: [0, 1]}"
MORE = "space.seed={grid: [0, 1, 2]}"
HERE = made_by(torch.device("cpu"), 1)


def planned(place, *arguments):
    return preflight(load([*TINY, *arguments, f"storage_path={place}"]))


def finish(run, plan, evaluation):
    """Train what a run has left, as workers would."""
    with Store(run / "study.db", create=True) as store:
        store.annotate(**{f"environment {fingerprint(HERE)}": json.dumps(HERE)})
        for pack in plan.packs:
            for rows in trained(pack, evaluation, run, environment=fingerprint(HERE)):
                store.report(rows)


@pytest.fixture(scope="module")
def earlier(evaluation, tmp_path_factory):
    """A run of two seeds."""
    plan = planned(tmp_path_factory.mktemp("earlier"), SEEDS)
    run = _new_run(plan)
    finish(run, plan, evaluation)
    return run


@pytest.fixture
def old(earlier, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(earlier, tmp_path / "old")


def edited(run, *statements):
    with sqlite3.connect(run / "study.db") as db:
        for statement in statements:
            db.execute(*statement)
    db.close()


def contents(run, table, trials):
    """A table's rows of some members, to the bit: NULL where there is nothing, whatever the columns' order."""
    with Store(run / "study.db") as store:
        found = store.whole(trials)[table]
    return [{key: value for key, value in row.items() if value is not None} for row in found]


def files(run):
    return {str(path.relative_to(run)): path.read_bytes() for path in [*run.glob("members/*"), *run.glob("samples/*")]}


def test_members_are_taken_over_with_rows_weights_and_samples(old, evaluation, tmp_path):
    plan = planned(tmp_path, MORE, f"reuse=[{old}]")
    assert [member.seed for pack in plan.packs for member in pack] == [2]
    assert plan.total == 3
    assert plan.notes[:2] == (f"2 members are taken over from {old}", "1 of 3 members is to be trained")
    run = _new_run(plan)
    kept = [member.trial for member in plan.planned if member.seed < 2]
    assert contents(run, 1, kept) == contents(old, 1, kept)
    told = [{k: v for k, v in row.items() if k != "pack"} for row in contents(run, 0, kept)]
    assert told == [{k: v for k, v in row.items() if k != "pack"} for row in contents(old, 0, kept)]
    assert {Path(name).stem[:10] for name in files(old)} == {*kept}
    assert files(run) == files(old)
    # nothing is asked of the earlier run from here on
    shutil.rmtree(old)
    again = preflight(load([f"resume={run}"]))
    assert to_go(again.config, run) == 1
    finish(run, again, evaluation)
    study = analysis.load(run)
    assert [*study.trials["seed"]] == [0, 1, 2]
    assert {*study.trials["status"]} == {Status.DONE}
    assert len(study.reports) == 6


def test_a_study_that_has_everything_already_says_so_and_ends(old, tmp_path):
    console = Console(record=True, width=400)
    plan = planned(tmp_path, SEEDS, f"reuse={old}")
    assert launch(plan, console, lambda run: 0) == 0
    assert f"note: 2 members are taken over from {old}" in console.export_text()


def test_the_first_run_that_has_a_member_gives_it(old, tmp_path):
    plan = planned(tmp_path, SEEDS, f"reuse=[{old},{shutil.copytree(old, tmp_path / 'copy')}]")
    assert [taken.run for taken in plan.taken] == [old]
    assert plan.notes[1].endswith("nothing is taken over: the runs before it have all members")
    assert not plan.packs
    assert to_go(plan.config, _new_run(plan)) == 0


def test_what_was_made_otherwise_is_refused_until_it_is_asked_for(old, tmp_path):
    others = {**HERE, "threads": "7"}
    text = json.dumps(others)
    edited(old, ("UPDATE meta SET value=? WHERE key=?", (text, f"environment {fingerprint(HERE)}")))
    with pytest.raises(ConfigError, match=r"threads 1, not 7\. reuse\.across=true takes"):
        planned(tmp_path, MORE, f"reuse=[{old}]")
    plan = planned(tmp_path, MORE, f"reuse=[{old}]", "reuse.across=true")
    assert plan.notes[0].endswith("they were made otherwise: threads 1, not 7")
    assert len(plan.taken[0].trials) == 2
    with Store(_new_run(plan) / "study.db") as store:
        assert store.meta[f"environment {fingerprint(HERE)}"] == text


def test_rows_that_do_not_say_what_they_were_made_by_are_refused_too(old, tmp_path):
    edited(old, ("UPDATE trials SET environment=NULL",))
    (old / "environment.json").unlink()
    with pytest.raises(ConfigError, match="it does not say by what"):
        planned(tmp_path, MORE, f"reuse=[{old}]")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["metrics.fid_samples=500"], "metrics.fid_samples is 400 there and 500 here"),
        (["budget.epochs=3"], "epochs is 2 there and 3 here"),
        (["data.seed=1"], "data.seed is 0 there and 1 here"),
        (["space.seed=5"], "seed has other values there"),
    ],
)
def test_a_run_without_a_member_in_common_says_why(earlier, tmp_path, arguments, why):
    plan = planned(tmp_path, SEEDS, *arguments, f"reuse=[{earlier}]")
    assert plan.notes[0] == f"reuse={earlier}: nothing is taken over: {why}"
    assert plan.taken == ()


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        ([("UPDATE meta SET value='abc' WHERE key='data_digest'",)], "its images are others: abc there"),
        ([("UPDATE trials SET fid_reference='abc'",)], "its images are others: abc there"),
        ([("UPDATE trials SET fid_features='lenet:0'",)], "its distances are of the features lenet:0"),
        ([("UPDATE meta SET value='4' WHERE key='format'",)], "it is of format 4"),
        ([("UPDATE trials SET status='stopped'",)], "2 stopped there"),
    ],
)
def test_a_run_whose_numbers_are_others_gives_nothing(old, tmp_path, statements, why):
    edited(old, *statements)
    plan = planned(tmp_path, MORE, f"reuse=[{old}]")
    assert f"reuse={old}: nothing is taken over: {why}" in plan.notes[0]
    assert plan.taken == ()
    assert plan.notes[1] == "3 of 3 members are to be trained"


def test_members_that_a_rung_or_an_error_ended_are_trained(old, tmp_path):
    edited(old, ("UPDATE trials SET status='failed' WHERE seed=0",))
    plan = planned(tmp_path, MORE, f"reuse=[{old}]")
    assert plan.notes[0] == f"1 member is taken over from {old}; 1 failed there, to be trained"
    assert sorted(member.seed for pack in plan.packs for member in pack) == [0, 2]


def test_a_search_that_decides_as_it_goes_takes_nothing_over(earlier, tmp_path):
    with pytest.raises(ConfigError, match=r"reuse=\[.*search.warm_start=RUN"):
        planned(tmp_path, "search=tpe", "search.trials=4", f"reuse=[{earlier}]")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        planned(tmp_path, SEEDS, f"reuse=[{tmp_path}]")


def test_a_damaged_run_is_refused_and_says_what_mends_it(old, later, tmp_path):
    content = bytearray((old / "study.db").read_bytes())
    content[4096:-4096] = bytes(len(content) - 8192)
    (old / "study.db").write_bytes(content)
    with pytest.raises(ConfigError, match=r"study\.db is damaged .* gimtune repair"):
        planned(tmp_path, MORE, f"reuse=[{old}]")
    with pytest.raises(ValueError, match=r"study\.db is damaged .* gimtune repair"):
        merge([later, old], tmp_path / "out")


def test_a_run_folder_is_there_whole_or_not_at_all(tmp_path):
    def half(place):
        (place / "config.yaml").write_text("name: x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.make(tmp_path / "runs", half)
    assert [*(tmp_path / "runs").iterdir()] == []
    runs = [folder.make(tmp_path / "runs", lambda place: place.joinpath("a").touch()) for _ in range(3)]
    assert len({*runs}) == 3
    assert all((run / "a").is_file() for run in runs)


@pytest.fixture(scope="module")
def later(evaluation, tmp_path_factory):
    """A run of the second seed and a third."""
    plan = planned(tmp_path_factory.mktemp("later"), "space.seed={grid: [1, 2]}")
    run = _new_run(plan)
    finish(run, plan, evaluation)
    return run


def test_runs_are_merged_into_one_that_is_read_as_any_other(earlier, later, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert main(["merge", str(earlier), str(later), str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"2 of 2 members of {earlier}"
    assert told[1] == f"1 of 2 members of {later}; 1 counted with another run's"
    assert told[2] == f"3 members in {out}"
    assert len(told) == 3
    study = analysis.load(out)
    assert [*study.trials["seed"]] == [0, 1, 2]
    for run, seeds in ((earlier, (0, 1)), (later, (2,))):
        kept = [*study.trials["trial"][study.trials["seed"].isin(seeds)]]
        assert contents(out, 1, kept) == contents(run, 1, kept)
        assert {**files(out), **{k: v for k, v in files(run).items() if kept[0] in k}} == files(out)
    assert {Path(name).stem[:10] for name in files(out)} == {*study.trials["trial"]}
    assert study.objectives == analysis.load(earlier).objectives
    assert standing(out).ended
    again = preflight(load([f"resume={out}"]))
    assert to_go(again.config, out) == 0
    assert gimtune.open(out).member(study.trials["trial"][2]).sample(3).shape == (3, 1, 8, 8)
    # and it gives its members to a study that grows
    assert not planned(tmp_path, MORE, f"reuse=[{out}]").packs


def test_a_member_is_of_the_run_that_brought_it_furthest(old, later, tmp_path):
    edited(old, ("UPDATE trials SET status='stopped', fid=1 WHERE seed=1",))
    edited(old, ("UPDATE trials SET status='running' WHERE seed=0",))
    told = merge([old, later], tmp_path / "out")
    double = "1 counted with another run's, 1 of them with other numbers"
    assert told[0] == f"0 of 2 members of {old}; {double}; 1 not ended, left out"
    assert told[1] == f"2 of 2 members of {later}"
    assert {*analysis.load(tmp_path / "out").trials["status"]} == {Status.DONE}


def test_what_was_made_otherwise_is_said_of_the_whole(old, later, tmp_path):
    made = {**HERE, "threads": "7"}
    edited(old, ("UPDATE trials SET environment=?", (fingerprint(made),)))
    edited(old, ("INSERT INTO meta VALUES (?, ?)", (f"environment {fingerprint(made)}", json.dumps(made))))
    assert merge([later, old], tmp_path / "out")[-1].endswith("1 with threads 7, not 1")


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["metrics.fid_samples=500"], "metrics.fid_samples is 500 in the one and 400 in the other"),
        (["budget.epochs=3"], "epochs is 3 in the one and 2 in the other"),
        (["budget.restore=last"], "budget.restore is last in the one and loss in the other"),
        (["network.hidden=[16]"], "network.hidden is [16] in the one and [32] in the other"),
        (["data.seed=1"], "data_digest is "),
        (["objectives={fid: min, probe_means: max}"], "objectives is "),
    ],
)
def test_runs_that_do_not_compare_are_refused_with_the_key(earlier, tmp_path, arguments, key, capsys):
    other = _new_run(planned(tmp_path, SEEDS, *arguments))
    assert main(["merge", str(earlier), str(other), str(tmp_path / "out")]) == 2
    assert f"{other} and {earlier} do not compare: {key}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_of_other_weights_compare(earlier, tmp_path):
    other = _new_run(planned(tmp_path, SEEDS, "space.weight=2", "models=[wae_mmd]", "training.learning_rate=0.01"))
    assert merge([earlier, other], tmp_path / "out")[1].endswith("; 2 not ended, left out")
    assert [m["models"] for m in (settings(tmp_path / "out"),)] == [["vae", "wae_mmd"]]


def test_networks_compare_where_they_were_swept(earlier, tmp_path):
    other = _new_run(planned(tmp_path, SEEDS, "space.network.hidden={grid: [[16], [24]]}"))
    assert merge([earlier, other], tmp_path / "out")[1].endswith("; 4 not ended, left out")


def test_what_cannot_be_merged_is_refused(earlier, later, old, tmp_path):
    (tmp_path / "there").mkdir()
    for runs, out, why in (
        ([earlier], "out", "two different runs"),
        ([earlier, earlier], "out", "two different runs"),
        ([earlier, later], "there", "something already"),
        ([earlier, tmp_path], "out", "no run folder"),
    ):
        with pytest.raises(gimtune.ConfigError, match=why):
            gimtune.merge(*runs, out=tmp_path / out)
    edited(old, ("UPDATE meta SET value='4' WHERE key='format'",))
    with pytest.raises(ValueError, match="format 4; runs of format 5 are merged"):
        merge([later, old], tmp_path / "out")


def table(run):
    """A run's table as it is read, but for the clock and for who shared a pack."""
    trials = analysis.load(run).trials.drop(columns=[*CLOCK, "pack"])
    return trials[sorted(trials)]


@pytest.mark.slow
@pytest.mark.long
def test_a_study_grown_from_24_members_to_36_is_the_one_of_36(drive, tmp_path, capsys):
    common = [
        *("study=tradeoff", "models=[vae,wae_mmd,aae]", "space.prior=normal", "space.weight={grid: [0.1, 1]}"),
        *("network.hidden=[32]", "budget.epochs=4", "budget.evaluate_every=2", "metrics.fid_samples=400"),
    ]
    first, whole = "space.seed={grid: [0, 1, 2, 3]}", "space.seed={grid: [0, 1, 2, 3, 4, 5]}"

    def ran(name, *arguments):
        place = tmp_path / name
        place.mkdir()
        driver = drive(place, *common, *arguments)
        assert driver.wait() == 0, driver.said()
        return only_run(place), driver.said()

    small, _ = ran("small", first)
    dry = tmp_path / "dry"
    dry.mkdir()
    driver = drive(dry, *common, whole, f"reuse=[{small}]", "dry_run=true")
    assert driver.wait() == 0, driver.said()
    for told in (driver.said(), ran("grown", whole, f"reuse=[{small}]")[1]):
        assert f"24 members are taken over from {small}" in told
        assert "12 of 36 members are to be trained" in told
    grown, (once, _) = only_run(tmp_path / "grown"), ran("once", whole)
    pd.testing.assert_frame_equal(table(grown), table(once), check_exact=True)
    reports = [analysis.load(run).reports.drop(columns=list(CLOCK), errors="ignore") for run in (grown, once)]
    pd.testing.assert_frame_equal(*(frame[sorted(frame)] for frame in reports), check_exact=True)
    assert main(["merge", str(small), str(once), str(tmp_path / "out")]) == 0
    assert main(["analysis", str(tmp_path / "out")]) == 0
    assert "36 trials" in capsys.readouterr().out
    # what is not new was not touched
    old, new = analysis.load(small).trials.set_index("trial"), analysis.load(grown).trials.set_index("trial")
    assert (new.loc[old.index, "reported"] == old["reported"]).all()
    assert (new["reported"] > old["reported"].max()).sum() == 12
