"""Studies on a real Ray: run, killed, resumed."""

import math
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from helpers import CLOCK, STUDY, check_same, member, only_run, table, until

from gimtune import analysis
from gimtune.results import mirror
from gimtune.results.store import Store
from gimtune.tuning.packs import longest_first, packs, rows_of
from gimtune.vocabulary import METRICS, Member

BOUNDED = [
    *("study=search", "name=tradeoff", "models=[vae,wvae]", "search.trials=10", "space.prior=normal"),
    *("space.latent_dim=4", "network.hidden=[32]", "budget.epochs=4", "budget.evaluate_every=2"),
    *("resources.members=2", "metrics.fid_samples=400", "metrics.ruler=never", "ray.dashboard=false"),
]


def test_a_study_ends_with_its_front_and_all_numbers(undisturbed_study):
    run = only_run(undisturbed_study)
    study = analysis.load(run)
    assert len(study.trials) == 8
    assert (study.meta["members"], study.meta["epochs"]) == ("8", "6")
    assert set(study.trials["status"]) == {"done"}
    assert len(study.reports) == 8 * 3
    for key in METRICS:
        for column in (key, f"test_{key}"):
            missing = study.trials[study.trials[column].isna()]
            assert all(column in text for text in missing["reasons"]), column
    assert set(study.trials["fid_features"].str.split(":").str[0]) == {"classifier"}
    said = (undisturbed_study / "output.txt").read_text()
    assert "Pareto front" in said
    assert "ray get-auth-token" in said
    for name in ("config.yaml", "environment.json", "study.db", "trials.parquet", "pareto.csv", "figures/front.png"):
        assert (run / name).is_file(), name
    for trial in study.trials["trial"]:
        assert (run / "samples" / f"{trial}.png").is_file()
    # weights are kept of those that no other of their model dominates
    fronts = analysis.fronts_by(study.trials, "model", {"fid": "min", "probe_codes": "max"})
    best = {trial for front in fronts.values() for trial in front.rows["trial"]}
    assert {path.stem for path in (run / "members").iterdir()} == best
    assert set(study.trials.loc[study.trials["checkpoint"].notna(), "trial"]) == best
    for trial in best:
        kept = torch.load(run / "members" / f"{trial}.pt", weights_only=True)
        assert Member.from_json(kept["member"]).trial == trial
    # a pack that has ended keeps no checkpoint to go on from
    assert not list((run / "packs").iterdir())


def test_a_finished_run_can_be_resumed_and_nothing_runs(undisturbed_study, drive):
    before = table(only_run(undisturbed_study))
    driver = drive(undisturbed_study, f"resume={only_run(undisturbed_study)}")
    assert driver.wait() == 0, driver.said()
    pd.testing.assert_frame_equal(table(only_run(undisturbed_study)), before)


@pytest.mark.slow
@pytest.mark.long  # tests/test_chaos.py kills drivers, and compares what went on
def test_a_killed_driver_goes_on_where_it_was(undisturbed_study, drive, tmp_path):
    driver = drive(tmp_path, *STUDY)
    until(driver, tmp_path, 8)
    driver.process.kill()
    driver.end()
    run = only_run(tmp_path)
    said = (tmp_path / "output.txt").read_text().splitlines()
    assert said[-1] == f"  python -m gimtune resume={run.relative_to(tmp_path)}"
    broken = analysis.load(run)
    # half-way: it was neither finished nor hardly begun
    assert 8 <= len(broken.reports) < 24
    # and the last thing that was written is cut
    newest = max(run.glob("packs/*/epoch-*.pt"), key=lambda path: path.stat().st_mtime)
    newest.write_bytes(newest.read_bytes()[:1000])
    again = drive(tmp_path, f"resume={run}")
    assert again.wait() == 0, again.said()
    assert f"note: {newest}: cannot be read" in again.said()
    assert len(analysis.load(run).reports) == 24
    check_same(run, only_run(undisturbed_study))


@pytest.mark.slow
def test_a_study_with_constraints_goes_on_to_the_same_front(undisturbed_study, drive, tmp_path):
    # what a bound in the middle makes of the numbers of a study without one, which trains the same members
    whole = analysis.load(only_run(undisturbed_study)).trials
    bound = float(whole["probe_codes"].median())
    feasible = whole[whole["probe_codes"] >= bound]
    assert 0 < len(feasible) < len(whole)
    driver = drive(tmp_path, *STUDY, f"constraints={{probe_codes: {{min: {bound!r}}}}}")
    until(driver, tmp_path, 8)
    driver.process.kill()
    driver.end()
    run = only_run(tmp_path)
    assert 8 <= len(analysis.load(run).reports) < 24
    again = drive(tmp_path, f"resume={run}")
    assert again.wait() == 0, again.said()
    study = analysis.load(run)
    left = ["checkpoint", *CLOCK]
    pd.testing.assert_frame_equal(study.trials.drop(columns=[*left, "infeasible"]), whole.drop(columns=left))
    assert study.trials[study.trials["infeasible"].isna()]["trial"].tolist() == feasible["trial"].tolist()
    objectives = {"fid": "min", "probe_codes": "max"}
    front = analysis.front(study.trials, objectives)
    assert front.rows["trial"].tolist() == analysis.front(feasible, objectives).rows["trial"].tolist()
    assert set(pd.read_csv(run / "pareto.csv")["trial"]) == {*front.rows["trial"]}
    # weights are kept of what no other of its model dominates, with infeasible members among themselves
    groups = whole.groupby(["model", whole["probe_codes"] >= bound])
    best = {trial for _, own in groups for trial in analysis.front(own, objectives).rows["trial"]}
    assert {path.stem for path in (run / "members").iterdir()} == best


@pytest.mark.slow
@pytest.mark.long  # a grid with constraints goes on above, and tests/test_chaos.py kills tpe
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_search_with_constraints_is_killed_with_all_its_processes_and_goes_on(drive, tmp_path, sampler):
    import optuna

    asked = [*BOUNDED, f"search={sampler}", "constraints={probe_codes: {min: 0.3}, mi_q: {max: 12}}"]
    driver = drive(tmp_path, *asked)
    until(driver, tmp_path, 8)
    for sign in (signal.SIGSTOP, signal.SIGKILL):  # at once, as when a machine is gone
        for process in driver.everything():
            process.send_signal(sign)
    run = only_run(tmp_path)
    assert 8 <= len(analysis.load(run).reports) < 2 * 10
    again = drive(tmp_path, f"resume={run}")
    assert again.wait() == 0, again.said()
    study = analysis.load(run)
    trials = study.trials.set_index("trial")
    assert len(trials) == 10
    assert set(trials["status"]) == {"done"}
    kept = (trials["probe_codes"] >= 0.3) & (trials["mi_q"] <= 12)
    feasible = trials[trials["infeasible"].isna()]
    assert sorted(feasible.index) == sorted(trials.index[kept])
    assert set(analysis.front(study.trials, study.objectives).rows["trial"]) <= set(feasible.index)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(run / "optuna.log")))
    told = [t for t in optuna.load_study(study_name="tradeoff", storage=storage).get_trials() if t.state.is_finished()]
    # what a sampler learned from: every member once, with its objectives and how far it is beyond each bound
    known = {t.user_attrs["member"]: t for t in told if t.state.name == "COMPLETE" and "member" in t.user_attrs}
    assert sorted(known) == sorted(trials.index)
    for name, trial in known.items():
        row = trials.loc[name]
        assert [*trial.values] == [row["fid"], row["probe_codes"]]  # noqa: PD011 - Optuna's
        assert trial.constraints == {"probe_codes min": 0.3 - row["probe_codes"], "mi_q max": row["mi_q"] - 12}


@pytest.mark.slow
@pytest.mark.long  # tests/test_stopping.py interrupts studies and compares what went on
def test_an_interrupted_study_says_how_to_go_on_and_does(undisturbed_study, drive, tmp_path):
    driver = drive(tmp_path, *STUDY, "ray.dashboard=false")
    until(driver, tmp_path, 4)
    driver.process.send_signal(signal.SIGINT)
    assert driver.wait() == 130
    run = only_run(tmp_path)
    assert f"python -m gimtune resume={run.relative_to(tmp_path)}" in driver.said()
    assert len(analysis.load(run).reports) < 24
    again = drive(tmp_path, f"resume={run}")
    assert again.wait() == 0, again.said()
    check_same(run, only_run(undisturbed_study))


@pytest.mark.slow
def test_a_machine_that_vanished_is_replaced_by_another(drive, store_server, tmp_path, monkeypatch):
    import boto3

    # long beside the time between two copies, so that the first copy is not of the whole study
    study, reports = [*STUDY, "budget.epochs=40"], 8 * 20
    (tmp_path / "undisturbed").mkdir()
    whole = drive(tmp_path / "undisturbed", *study)
    assert whole.wait() == 0, whole.said()
    undisturbed = only_run(tmp_path / "undisturbed")
    for key, value in store_server.items():
        monkeypatch.setenv(key, value)
    boto3.client("s3").create_bucket(Bucket="vanished")
    driver = drive(tmp_path, *study, "storage_path=s3://vanished/studies")
    cache = tmp_path.parent / "cache" / "gimtune" / "s3" / "vanished"
    parent = cache / "studies" / "tradeoff"

    def copied():
        """Reports that the copy tells of."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "looked at"))
        try:
            with Store(mirror.fetch(f"s3://vanished/studies/tradeoff/{run.name}") / "study.db") as store:
                return len(store.reports())
        except ValueError:
            return 0

    deadline = time.monotonic() + 200
    while not list(parent.glob("[0-9]*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    # a folder whose name begins with a dot is a run that is being made
    (run,) = parent.glob("[0-9]*")
    while not copied() and time.monotonic() < deadline:
        assert driver.process.poll() is None, driver.said()
        time.sleep(0.1)
    driver.process.kill()
    driver.end()
    shutil.rmtree(cache)
    assert 0 < copied() < reports
    again = drive(tmp_path, f"resume=s3://vanished/studies/tradeoff/{run.name}")
    assert again.wait() == 0, again.said()
    check_same(run, undisturbed)
    # the copy has it all
    shutil.rmtree(tmp_path / "looked at")
    assert copied() == reports
    there = mirror.folder(f"s3://vanished/studies/tradeoff/{run.name}")
    check_same(there, undisturbed)
    for name in ("report.html", "trials.parquet", "figures/front.png"):
        assert (there / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.slow
def test_a_second_interrupt_ends_it_now(drive, tmp_path):
    driver = drive(tmp_path, *STUDY, "budget.epochs=2000")
    until(driver, tmp_path, 2)
    for _ in range(2):
        driver.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    started = time.monotonic()
    assert driver.wait() == 130
    assert time.monotonic() - started < 20
    assert f"python -m gimtune resume={only_run(tmp_path).relative_to(tmp_path)}" in driver.said()
    assert "Traceback" not in driver.said()


@pytest.mark.slow
def test_failed_and_diverged_members_are_rows(drive, tmp_path):
    arguments = [a for a in STUDY if not a.startswith(("space.weight", "models", "budget"))]
    driver = drive(
        tmp_path, *arguments, "models=[vae]", "budget.epochs=2", "budget.evaluate_every=1",
        "space.weight={grid: [1, 1.0e39]}",
    )  # fmt: skip
    assert driver.wait() == 1, driver.said()
    trials = analysis.load(only_run(tmp_path)).trials.set_index("weight")
    assert set(trials.loc[1.0, "status"]) == {"done"}
    lost = trials.loc[1.0e39]
    assert set(lost["status"]) == {"diverged"}
    assert lost["error"].str.contains("not finite").all()
    assert lost["fid"].isna().all()
    assert lost["reasons"].str.contains('"fid"').all()


SEARCH = [
    "study=search",
    "models=[vae,wvae]",
    "space.prior=normal",
    "space.seed={grid: [0, 1]}",
    "space.latent_dim=4",
    "network.hidden=[32]",
    "budget.epochs=6",
    "budget.evaluate_every=1",
    "resources.members=2",
    "search.trials=9",
    "scheduler=mo_asha",
    "scheduler.reduction=2",
    "ray.dashboard=false",
]


def search_run(folder: Path) -> Path:
    (run,) = (folder / "results" / "search").iterdir()
    return run


def optuna_states(run: Path) -> list[str]:
    """States of Optuna's trials that belong to a member, as its journal has them."""
    import optuna

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(run / "optuna.log")))
    study = optuna.load_study(study_name=None, storage=storage)
    return sorted(t.state.name for t in study.get_trials() if "member" in t.user_attrs)


def check_searched(run: Path) -> None:
    """Every member there once, whole and ended; a stopped one measured on the test split where it stands."""
    study = analysis.load(run)
    trials = study.trials
    assert len(trials) == 9
    assert trials["trial"].is_unique
    assert set(trials["status"]) <= {"done", "stopped"}
    assert (trials.loc[trials["status"] == "done", "epoch"] == 6).all()
    stopped = trials[trials["status"] == "stopped"]
    assert len(stopped)
    # rungs stand at 1, 2 and 4 epochs
    assert set(stopped["epoch"]) <= {1, 2, 4}
    assert trials["test_fid"].notna().all()
    counted = study.reports.groupby("trial")["epoch"].agg(list)
    for trial, epoch in zip(trials["trial"], trials["epoch"], strict=True):
        assert sorted(counted[trial]) == list(range(1, int(epoch) + 1))
    states = trials["status"].map({"done": "COMPLETE", "stopped": "PRUNED"})
    assert optuna_states(run) == sorted(states)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", pytest.param("nsga2", marks=pytest.mark.long)])
def test_a_search_suggests_stops_and_ends(drive, tmp_path, sampler):
    driver = drive(tmp_path, *SEARCH, f"search={sampler}")
    assert driver.wait() == 0, driver.said()
    check_searched(search_run(tmp_path))
    assert f"9 members by {sampler}" in driver.said()


@pytest.mark.slow
@pytest.mark.long  # tests/test_chaos.py kills tpe, and rungs
def test_a_killed_search_has_its_members_at_the_end(drive, tmp_path):
    driver = drive(tmp_path, *SEARCH, "search=tpe")
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert driver.process.poll() is None, driver.said()
        try:
            with Store(search_run(tmp_path) / "study.db") as store:
                if len(store.reports()) >= 12:
                    break
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.05)
    driver.process.kill()
    driver.end()
    run = search_run(tmp_path)
    before = analysis.load(run).trials
    ended = before[before["status"].isin(["done", "stopped"])]
    again = drive(tmp_path, f"resume={run}")
    assert again.wait() == 0, again.said()
    check_searched(run)
    after = analysis.load(run).trials.set_index("trial")
    # nothing that had ended was touched
    assert (after.loc[ended["trial"], "fid"].to_numpy() == ended["fid"].to_numpy()).all()


def test_packs_hold_members_that_can_share_a_program():
    planned = [
        member(model, weight=w, seed=s, prior=p)
        for model in ("vae", "wae_mmd")
        for p in ({"name": "normal", "scale": 1.0}, {"name": "normal", "scale": 2.0}, {"name": "laplace", "scale": 1.0})
        for w in (0.1, 1.0)
        for s in (0, 1)
    ]
    made = packs(planned, 3, (1, 8, 8))
    assert sorted(m.trial for pack in made for m in pack) == sorted(m.trial for m in planned)
    assert all(len(pack) <= 3 for pack in made)
    assert all(len({(m.model, m.prior["name"], m.latent_dim) for m in pack}) == 1 for pack in made)
    assert any(len({m.prior["scale"] for m in pack}) == 2 for pack in made)


def test_automatic_packs_hold_what_belongs_together_in_even_parts():
    image = (1, 8, 8)
    twenty, five = ([member(model, seed=s) for s in range(n)] for model, n in (("vae", 20), ("ae", 5)))

    def sizes(planned, **options):
        return [len(p) for p in packs(planned, "auto", image, **options)]

    assert sizes(twenty) == [20]
    assert sizes([*twenty, *five]) == [20, 5]
    # every worker has a pack, and none is left with a rest
    assert sizes(twenty, workers=3) == [7, 6, 7]
    assert sizes([*twenty, *five], workers=3) == [10, 10, 2, 3]
    assert sizes(five, workers=64) == [1] * 5
    made = packs([*twenty, *five], "auto", image, workers=3)
    assert [m.trial for pack in made for m in pack] == [m.trial for m in (*twenty, *five)]
    assert sizes([member(learning_rate=rate, beta1=beta1) for rate in (1e-3, 1e-2) for beta1 in (0, 0.5)]) == [4]
    assert sizes([member(sigma_min=least, sigma_start=start) for least in (1e-3, 0.1) for start in (0.03, 1.0)]) == [4]
    assert sizes([member(batch_size=size) for size in (32, 64)]) == [1, 1]


def test_a_network_that_keeps_a_processor_busy_is_alone_on_it_and_a_gpu_takes_what_its_memory_does():
    large = [member("vae", seed=s, network={"name": "mlp", "hidden": [512, 512]}) for s in range(3)]
    assert [len(p) for p in packs(large, "auto", (1, 28, 28))] == [1, 1, 1]
    assert [len(p) for p in packs(large, "auto", (1, 28, 28), "cuda")] == [3]
    # 300 million weights, of which there are five copies: 6 GB each
    huge = [member("vae", seed=s, network={"name": "mlp", "hidden": [12_000, 12_000]}) for s in range(3)]
    assert [len(p) for p in packs(huge, "auto", (1, 28, 28), "cuda")] == [1, 1, 1]


def test_the_longest_packs_are_started_first():
    groups = [[member(model, seed=s) for s in range(n)] for model, n in (("vae", 3), ("alice", 2), ("aae", 1))]
    assert [pack[0].model for pack in longest_first(groups)] == ["alice", "vae", "aae"]


def test_ray_sees_the_best_of_a_pack():
    from gimtune.tuning.trainable import result

    rows = [
        {"trial": "a", "epoch": 2, "status": "done", "fid": 3.0, "probe_codes": 0.5},
        {"trial": "b", "epoch": 2, "status": "diverged", "fid": math.nan, "probe_codes": math.nan},
        {"trial": "c", "epoch": 2, "status": "done", "fid": 4.0, "probe_codes": 0.7},
    ]
    seen = result(rows)
    assert (seen["fid"], seen["probe_codes"], seen["done"], set(seen["members"])) == (3.0, 0.7, True, set("abc"))
    assert not result([{**rows[0], "status": "running"}, rows[1]])["done"]
    # and the rows come through to whoever asks, of a result as it is or flat; NaN is no value of JSON, and comes too
    for given in (seen, {f"members/{trial}": text for trial, text in seen["members"].items()}):
        assert repr(list(rows_of(given).values())) == repr(rows)


def test_a_run_folder_has_one_driver(tmp_path):
    from gimtune.results.folder import held

    with held(tmp_path) as first, held(tmp_path) as second:
        assert first
        assert not second
    with held(tmp_path) as again:
        assert again


def test_a_damaged_store_is_refused_on_resume(tmp_path, capsys):
    from gimtune.__main__ import main
    from gimtune.study import composition as configuration

    (tmp_path / "config.yaml").write_text(configuration.dump(configuration.load([])))
    (tmp_path / "study.db").write_text("no database" * 100)
    assert main([f"resume={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "study.db is damaged (file is not a database)" in said
    assert "repair" in said


def test_weights_that_are_none_are_refused_before_ray(tmp_path, capsys, monkeypatch):
    from gimtune.__main__ import main

    monkeypatch.chdir(tmp_path)
    Path("weights.pth").write_text("no weights")
    assert main(["metrics.fid_features=inception", "metrics.inception_weights=weights.pth"]) == 2
    assert "metrics.inception_weights=" in capsys.readouterr().err
    assert not list(tmp_path.rglob("study.db"))


def test_study_files_are_yaml_alone():
    folder = Path(__file__).parents[1] / "studies"
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} == {".yaml"}
    assert all(yaml.safe_load(p.read_text()) for p in folder.rglob("*.yaml"))
