"""Optuna by ask and tell: what is suggested is a function of the seed and of what was told."""

import contextlib
import dataclasses
import json
import math
import shutil

import pandas as pd
import pytest
from optuna import Study
from optuna.trial import Trial, TrialState

from gimtune.results.store import Store
from gimtune.study import space
from gimtune.study.composition import dump, load
from gimtune.study.messages import ConfigError
from gimtune.study.resolve import members
from gimtune.study.schema import SEQUENTIAL
from gimtune.tuning.packs import key
from gimtune.tuning.plan import preflight
from gimtune.tuning.search import Proposals, _Parameters
from gimtune.vocabulary import Status

NOTHING = pd.DataFrame()
#: Its Gaussian processes take long, and the other samplers are asked the same.
LONG = [pytest.mark.slow, pytest.mark.long]
SPACE = [
    "study=search",
    "search.trials=20",
    "models=[vae,wae_mmd]",
    "space.prior={grid: [normal, {name: laplace, scale: {uniform: [0.5, 2]}}]}",
    "space.latent_dim={randint: [4, 9]}",
]


def config(*arguments, sampler="tpe"):
    return load([*SPACE, f"search={sampler}", *arguments])


def outcome(one):
    """Objectives that are a function of the member: the best weight is 0.1."""
    return {"fid": abs(math.log(one.weight / 0.1)), "probe_codes": 1 / (1 + one.latent_dim)}


def asked(proposals, packs, most=4):
    found = []
    for _ in range(packs):
        pack = proposals.ask(lambda first: most)
        for one in pack:
            proposals.tell(one.trial, Status.DONE, outcome(one))
        found += pack
    return found


def row(one, status=Status.DONE, **values):
    return {"trial": one.trial, "status": str(status), **outcome(one), **values}


@pytest.mark.parametrize("sampler", SEQUENTIAL)
def test_two_studies_ask_the_same(tmp_path, sampler):
    folders = [tmp_path / name / "run" for name in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
    one, two = (asked(Proposals(config(sampler=sampler), folder, NOTHING), 4) for folder in folders)
    assert [m.trial for m in one] == [m.trial for m in two]
    assert len({m.trial for m in one}) == len(one)
    other = tmp_path / "other"
    other.mkdir()
    assert one != asked(Proposals(config("seed=1", sampler=sampler), other, NOTHING), 4)


#: A range that no data set's file may change.
WEIGHTS = "space.weight={loguniform: [0.001, 0.3]}"


def test_a_pack_can_share_a_program_and_spans_weights(tmp_path):
    proposals = Proposals(config("models=[wae_mmd]", WEIGHTS), tmp_path, NOTHING)
    pack = proposals.ask(lambda first: 4)
    assert len(pack) == 4
    assert len({key(one) for one in pack}) == 1
    assert len({one.weight for one in pack}) == 4
    assert all(0.001 <= one.weight <= 0.3 for one in pack)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_study_of_the_default_size_learns(tmp_path, sampler):
    first, last = [], []
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        given = ["models=[wae_mmd]", WEIGHTS, "space.prior=normal", "search.trials=50", f"seed={seed}"]
        found = asked(Proposals(config(*given, sampler=sampler), folder, NOTHING), 50, most=1)
        distances = [outcome(one)["fid"] for one in found]
        first += distances[:10]
        last += distances[30:]
    # means of 30 and 60; at random they are equal
    assert sum(last) / len(last) < 0.85 * sum(first) / len(first)


def test_what_was_asked_before_a_kill_is_asked_again(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = asked(Proposals(config(), whole, NOTHING), 6)
    proposals = Proposals(config(), tmp_path, NOTHING)
    first = asked(proposals, 3)
    again = Proposals(config(), tmp_path, pd.DataFrame([row(one) for one in first]))
    assert [m.trial for m in first + asked(again, 3)] == [m.trial for m in expected]


@pytest.mark.parametrize("cut", [1, 5, 40, 200])
def test_a_journal_that_was_cut_is_read_and_written_again(tmp_path, cut):
    proposals = Proposals(config(), tmp_path, NOTHING)
    found = asked(proposals, 3)
    known = pd.DataFrame(
        [{**row(one), "config": one.to_json(), "assignment": json.dumps(one.assignment)} for one in found]
    )
    journal = tmp_path / "optuna.log"
    journal.write_bytes(journal.read_bytes()[:-cut])
    again = Proposals(config(), tmp_path, known)
    more = asked(again, 2)
    assert not {one.trial for one in more} & {one.trial for one in found}
    last = Proposals(config(), tmp_path, NOTHING).study.get_trials()
    assert len(last) >= len(found) + len(more) - 1


def test_a_damaged_journal_is_put_aside_and_made_anew_from_the_store(tmp_path):
    found = asked(Proposals(config(), tmp_path, NOTHING), 3)
    journal = tmp_path / "optuna.log"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0], "no journal\n", *lines[2:]]))
    known = pd.DataFrame(
        [{**row(one), "config": one.to_json(), "assignment": json.dumps(one.assignment)} for one in found]
    )
    again = Proposals(config(), tmp_path, known)
    assert (tmp_path / "optuna.log.damaged").is_file()
    told = sorted(tuple(t.values) for t in again.study.get_trials())
    assert told == sorted(tuple(outcome(one).values()) for one in found)
    more = asked(again, 2)
    assert not {one.trial for one in more} & {one.trial for one in found}


@pytest.mark.timeout(120)
def test_a_journal_that_a_killed_driver_locked_is_not_waited_for(tmp_path):
    """optuna/optuna 5921; in a folder that was renamed since, Optuna looks at the lock for ever."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    found = asked(Proposals(config(), old, NOTHING), 2)
    # as Optuna makes it
    (old / "optuna.log.lock").symlink_to(old / "optuna.log")
    old.rename(new)
    again = Proposals(config(), new, pd.DataFrame([row(one) for one in found]))
    assert not {one.trial for one in asked(again, 2)} & {one.trial for one in found}
    assert not list(new.glob("optuna.log.*"))


def test_open_trials_are_brought_to_where_the_store_stands(tmp_path):
    proposals = Proposals(config("models=[wae_mmd]"), tmp_path, NOTHING)
    done, stopped, running, lost = proposals.ask(lambda first: 4)
    known = [row(done), row(stopped, Status.STOPPED), row(running, Status.RUNNING)]
    again = Proposals(config("models=[wae_mmd]"), tmp_path, pd.DataFrame(known))
    states = {t.user_attrs.get("member"): t.state for t in again.study.get_trials()}
    assert states[done.trial] is TrialState.COMPLETE
    assert states[stopped.trial] is TrialState.PRUNED
    assert states[running.trial] is TrialState.RUNNING
    # planned nowhere: the driver died between question and plan
    assert states[lost.trial] is TrialState.FAIL
    again.tell(running.trial, Status.DONE, outcome(running))
    told = again.study.get_trials()[2]
    assert tuple(told.values) == tuple(outcome(running).values())


@pytest.mark.parametrize("told", [Status.DONE, Status.STOPPED])
def test_a_member_that_optuna_was_told_of_before_the_store_is_no_new_one(tmp_path, told):
    few = config("models=[wae_mmd]", "space.prior=normal", "space.latent_dim=4", "space.weight={grid: [0.1, 0.2]}")
    proposals = Proposals(few, tmp_path, NOTHING)
    one, other = proposals.ask(lambda first: 2)
    proposals.tell(one.trial, told, outcome(one))
    # a kill here
    again = Proposals(few, tmp_path, known_of([one, other], **{m.trial: Status.PLANNED for m in (one, other)}))
    assert again.ask(lambda first: 2) == []
    for member in (one, other):
        again.tell(member.trial, Status.DONE, outcome(member))
    states = {t.user_attrs["member"]: t.state for t in again.study.get_trials() if t.user_attrs}
    assert states == {
        one.trial: TrialState.COMPLETE if told is Status.DONE else TrialState.PRUNED,
        other.trial: TrialState.COMPLETE,
    }


@pytest.mark.parametrize(
    ("status", "values"),
    [
        (Status.DIVERGED, {"fid": math.nan, "probe_codes": math.nan}),
        (Status.FAILED, {}),
        (Status.DONE, {"fid": 3.0, "probe_codes": math.nan}),
        (Status.DONE, {"fid": 3.0, "probe_codes": None}),
        (Status.DONE, {"fid": math.inf, "probe_codes": 0.5}),
    ],
)
def test_a_member_without_its_objectives_is_told_as_worse_than_the_worst(tmp_path, status, values):
    proposals = Proposals(config("models=[wae_mmd]"), tmp_path, NOTHING)
    lost, *others = proposals.ask(lambda first: 4)
    proposals.tell(lost.trial, status, values)
    for one, fid in zip(others, (5.0, 9.0, 7.0), strict=True):
        proposals.tell(one.trial, Status.DONE, {"fid": fid, "probe_codes": fid / 10})
    proposals.tell(lost.trial, Status.DONE, outcome(lost))
    told = proposals.study.get_trials()
    assert {t.state for t in told} == {TrialState.COMPLETE}
    # beyond all that had ended when it could be said, and nowhere near what a second report claims
    fid, probe = told[0].values  # noqa: PD011 - Optuna's
    assert fid >= 5.0
    assert probe <= 0.5
    assert [tuple(t.values) for t in told[1:]] == [(5.0, 0.5), (9.0, 0.9), (7.0, 0.7)]
    (late,) = proposals.ask(lambda first: 1)
    proposals.tell(late.trial, status, values)
    fid, probe = proposals.study.get_trials()[-1].values  # noqa: PD011 - Optuna's
    assert fid > 9.0
    assert probe < 0.5


#: Below it training diverges: a fifth of the range, on its own scale.
EDGE = 0.0031


def diverged_late(sampler, folder, seed, trials):
    """Share of diverged members in a search's second half."""
    folder.mkdir()
    given = ["models=[wae_mmd]", WEIGHTS, "space.prior=normal", f"search.trials={trials}", f"seed={seed}"]
    proposals = Proposals(config(*given, sampler=sampler), folder, NOTHING)
    lost = []
    for _ in range(trials):
        (one,) = proposals.ask(lambda first: 1)
        lost.append(one.weight < EDGE)
        proposals.tell(one.trial, *((Status.DIVERGED, {}) if lost[-1] else (Status.DONE, outcome(one))))
    return sum(lost[trials // 2 :]) / (trials - trials // 2)


@pytest.mark.parametrize(
    ("sampler", "trials"),
    [("tpe", 40), pytest.param("nsga2", 100, marks=pytest.mark.slow), pytest.param("gp", 24, marks=LONG)],
)
def test_samplers_learn_from_what_diverged(tmp_path, sampler, trials):
    shares = [diverged_late(sampler, tmp_path / str(seed), seed, trials) for seed in range(10)]
    at_random = math.log(EDGE / 0.001) / math.log(0.3 / 0.001)
    assert sum(shares) / len(shares) < at_random, shares


def known_of(members, **statuses):
    return pd.DataFrame(
        [
            {
                **row(one, statuses.get(one.trial, Status.DONE)),
                "config": one.to_json(),
                "assignment": json.dumps(one.assignment),
            }
            for one in members
        ]
    )


@pytest.mark.parametrize("happened", ["renamed", "lost", "damaged"])
def test_a_search_goes_on_in_a_folder_of_another_name_and_without_its_journal(tmp_path, happened):
    folder = tmp_path / "run"
    folder.mkdir()
    # so few members that they would be suggested again, were they not known
    few = config("models=[wae_mmd]", "space.prior=normal", "space.weight={grid: [0.1, 0.2, 0.3]}")
    proposals = Proposals(few, folder, NOTHING)
    ended = asked(proposals, 2, most=2)
    open_ = proposals.ask(lambda first: 3)
    known = known_of([*ended, *open_], **{one.trial: Status.RUNNING for one in open_})
    if happened == "renamed":
        folder = folder.rename(tmp_path / "by another name")
    elif happened == "lost":
        (folder / "optuna.log").unlink()
    else:
        (folder / "optuna.log").write_text("no journal\n")
    again = Proposals(few, folder, known)
    # a question that gave a member once more is a trial without one
    states = {t.user_attrs.get("member"): t.state for t in again.study.get_trials() if t.user_attrs}
    assert states == {
        **{one.trial: TrialState.COMPLETE for one in ended},
        **{one.trial: TrialState.RUNNING for one in open_},
    }
    for one in open_:
        again.tell(one.trial, Status.DONE, outcome(one))
    trials = [one.trial for one in (*ended, *open_, *asked(again, 4, most=1))]
    assert len(trials) == len(set(trials))


def test_a_small_space_ends_with_its_members(tmp_path):
    small = config("space.prior=normal", "space.latent_dim=4", "space.weight={grid: [0.1, 1]}")
    found = asked(Proposals(small, tmp_path, NOTHING), 10)
    assert sorted((m.model, m.weight) for m in found) == [("vae", 0.1), ("vae", 1), ("wae_mmd", 0.1), ("wae_mmd", 1)]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", pytest.param("gp", marks=LONG)])
def test_a_space_of_stopped_members_ends_with_its_members(tmp_path, sampler):
    weights = ", ".join(str(10 ** (i / 10)) for i in range(-10, 5))
    space = config(
        f"search={sampler}", "space.prior=normal", "space.latent_dim=4", f"space.weight={{grid: [{weights}]}}"
    )
    proposals = Proposals(space, tmp_path, NOTHING)
    found = []
    while one := proposals.ask(lambda _: 1):
        found += one
        # the sampler knows enough to be sure of itself, and learns no more
        proposals.tell(one[0].trial, Status.DONE if len(found) <= 12 else Status.STOPPED, row(one[0]))
    assert len({m.trial for m in found}) == len(found) == 30


def test_a_study_starts_from_an_earlier_one(tmp_path):
    earlier = load([*SPACE, "search=random"])
    planned = members(earlier)
    with Store(tmp_path / "study.db", create=True) as store:
        store.plan({"trial": m.trial, "model": m.model, "config": m.to_json()} for m in planned)
        store.report([{**row(m), "epoch": 1} for m in planned])
        odd = dataclasses.replace(planned[0], data={"name": "mnist", "seed": 0})
        store.plan([{"trial": odd.trial, "model": odd.model, "config": odd.to_json()}])
        store.report([{**row(odd), "epoch": 1}])
    new = tmp_path / "new"
    new.mkdir()
    narrow = config(f"search.warm_start={tmp_path}", "space.latent_dim={randint: [4, 7]}")
    proposals = Proposals(narrow, new, NOTHING)
    taken = proposals.study.get_trials()
    inside = [m for m in planned if m.latent_dim < 7]
    assert 0 < len(inside) < len(planned)
    assert [t.values for t in taken] == [list(outcome(m).values()) for m in inside]  # noqa: PD011 - Optuna's
    assert {t.params["space.model"] for t in taken} == {"vae", "wae_mmd"}
    for frozen, one in zip(taken, inside, strict=True):
        assert frozen.params["space.latent_dim"] == one.latent_dim
        if one.prior["name"] == "laplace":
            assert frozen.params["space.prior.scale"] == one.prior["scale"]
    (note,) = proposals.notes
    assert f"{len(inside)} of {len(planned) + 1} members came in; left out: " in note
    assert f"{len(planned) - len(inside)} outside of the space" in note
    assert "1 of other data" in note
    # and it learns from them without counting them as its own
    assert len(asked(proposals, 2)) == 8


def test_a_warm_start_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"search\.warm_start=/nowhere: no run folder"):
        config("search.warm_start=/nowhere")
    (tmp_path / "study.db").write_text("not a database")
    with pytest.raises(ConfigError, match=rf"search\.warm_start={tmp_path}: .*not a results store"):
        preflight(config(f"search.warm_start={tmp_path}"))


def test_a_warm_start_is_found_from_every_folder(tmp_path, monkeypatch):
    (tmp_path / "warm").mkdir()
    (tmp_path / "warm" / "study.db").touch()
    monkeypatch.chdir(tmp_path)
    assert config("search.warm_start=warm").search.warm_start == str(tmp_path / "warm")


def test_a_search_goes_on_where_its_warm_start_has_gone(tmp_path):
    (tmp_path / "warm").mkdir()
    (tmp_path / "warm" / "study.db").touch()
    (tmp_path / "run").mkdir()
    begun = config(f"search.warm_start={tmp_path / 'warm'}")
    (tmp_path / "run" / "config.yaml").write_text(dump(begun))
    (tmp_path / "run" / "study.db").touch()
    shutil.rmtree(tmp_path / "warm")
    again = load([f"resume={tmp_path / 'run'}"])
    assert again.search == begun.search
    # without its journal too, which would begin with those members
    proposals = Proposals(again, tmp_path / "run", NOTHING)
    (note,) = proposals.notes
    assert f"search.warm_start={tmp_path / 'warm'}: the search goes on without its members" in note
    assert asked(proposals, 1)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("entered", [0, 1, 3, 4])
def test_a_warm_start_that_was_killed_is_made_whole(tmp_path, monkeypatch, entered):
    planned = members(load([*SPACE, "models=[wae_mmd]", "search=random", "search.trials=4"]))
    with Store(tmp_path / "study.db", create=True) as store:
        store.plan({"trial": m.trial, "model": m.model, "config": m.to_json()} for m in planned)
        store.report([{**row(m), "epoch": 1} for m in planned])
    given = config("models=[wae_mmd]", f"search.warm_start={tmp_path}")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = Proposals(given, tmp_path / "whole", NOTHING)
    first, left = Study.add_trial, [None] * entered

    def killed(study, trial):
        if not left:
            raise Killed
        left.pop()
        first(study, trial)

    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        patched.setattr(Study, "add_trial", killed)
        Proposals(given, tmp_path / "killed", NOTHING)
    again = Proposals(given, tmp_path / "killed", NOTHING)
    values = [t.values for t in whole.study.get_trials()]  # noqa: PD011 - Optuna's
    assert [t.values for t in again.study.get_trials()] == values  # noqa: PD011 - Optuna's
    assert len(values) == 4
    # once more changes nothing, and the study asks what it would have asked
    more = [asked(one, 2) for one in (whole, Proposals(given, tmp_path / "killed", NOTHING))]
    assert [m.trial for m in more[0]] == [m.trial for m in more[1]]


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("budget.epochs=7", "of other epochs"),
        ("network.hidden=[16]", "of other network"),
        ("training.batch_size=32", "of other batch_size"),
        ("metrics.fid_samples=500", "of other metrics"),
        ("likelihood=gaussian", "of other likelihood and restrictions"),
        ("space.latent_dim=3", "of other latent_dim"),
        ("space.latent_dim={randint: [1, 3]}", "outside of the space"),
        (None, "of other fid_features (classifier:old, not classifier:new)"),
    ],
)
def test_a_warm_start_takes_no_member_whose_numbers_do_not_compare(tmp_path, override, why):
    planned = members(load([*SPACE, "models=[wae_mmd]", "search=random", "search.trials=4"]))
    with Store(tmp_path / "study.db", create=True) as store:
        store.plan({"trial": m.trial, "model": m.model, "config": m.to_json()} for m in planned)
        store.report([{**row(m), "epoch": 1, "fid_features": "classifier:old"} for m in planned])
    new = tmp_path / "new"
    new.mkdir()
    given = config("models=[wae_mmd]", f"search.warm_start={tmp_path}", *([override] if override else []))
    proposals = Proposals(given, new, NOTHING, "classifier:old" if override else "classifier:new")
    assert not proposals.study.get_trials()
    (note,) = proposals.notes
    assert note.endswith(f"0 of 4 members came in; left out: 4 {why}")


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 50), ("nsga2", 50), ("gp", 24)])
def test_samplers_seek_what_is_feasible(tmp_path, sampler, trials):
    # good objectives lie where the constraint is broken: without it a search goes there
    given = ["models=[wae_mmd]", WEIGHTS, "space.prior=normal", f"search.trials={trials}"]

    def share(folder, *more):
        folder.mkdir()
        proposals, found = Proposals(config(*given, *more, sampler=sampler), folder, NOTHING), []
        for _ in range(trials):
            (one,) = proposals.ask(lambda first: 1)
            found.append(one.weight < 0.01)
            proposals.tell(one.trial, Status.DONE, {**outcome(one), "mi_q": one.weight})
        return sum(found[trials // 2 :]) / (trials - trials // 2)

    # seeds 0 to 2: 1.3 to 4 times as many
    assert share(tmp_path / "bound", "constraints={mi_q: {max: 0.01}}") > 1.3 * share(tmp_path / "free") > 0


def test_what_a_member_violates_is_known_after_a_kill(tmp_path):
    bound = ["constraints={mi_q: {max: 0.01}, knn_codes: {min: 0.5}}"]
    proposals = Proposals(config(*bound), tmp_path, NOTHING)
    pack = proposals.ask(lambda first: 4)
    rows = [{**row(one, mi_q=0.03), "config": one.to_json(), "assignment": json.dumps(one.assignment)} for one in pack]
    proposals.tell(pack[0].trial, Status.DONE, rows[0])
    again = Proposals(config(*bound), tmp_path, pd.DataFrame(rows))
    told = [trial.constraints for trial in again.study.get_trials()]
    # a value that is not there is one that breaks its bound
    assert told == [{"mi_q max": pytest.approx(0.02), "knn_codes min": 1.0}] * len(pack)


def test_a_kill_between_two_constraints_loses_none(tmp_path, monkeypatch):
    bound = ["constraints={mi_q: {max: 0.01}, knn_codes: {min: 0.5}}"]
    proposals = Proposals(config(*bound), tmp_path, NOTHING)
    (one,) = proposals.ask(lambda first: 1)
    ended = {**row(one, mi_q=0.03), "config": one.to_json(), "assignment": json.dumps(one.assignment)}
    first = Trial.set_constraint

    def killed(trial, key, value):
        first(trial, key, value)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trial, "set_constraint", killed)
        with pytest.raises(KeyboardInterrupt):
            proposals.tell(one.trial, Status.DONE, ended)
    again = Proposals(config(*bound), tmp_path, pd.DataFrame([ended]))
    (told,) = again.study.get_trials()
    assert told.constraints == {"mi_q max": pytest.approx(0.02), "knn_codes min": 1.0}


#: Two options with parts of one name, which Optuna takes no two lists of.
ALIKE = [
    "models=[wae_mmd]",
    "space.latent_dim={randint: [4, 9]}",
    "space.prior={choice: [{name: mixture, components: {choice: [3, 5]}}, "
    "{name: learned_mixture, components: {choice: [10, 20]}}]}",
    "space.network={choice: [{name: mlp, hidden: {choice: [[16], [24]]}}, "
    "{name: mlp, hidden: {choice: [[8, 8], [12, 12]]}, activation: tanh}]}",
]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", pytest.param("gp", marks=LONG)])
def test_options_may_have_parts_of_one_name(tmp_path, sampler):
    given = config(*ALIKE, sampler=sampler)
    proposals = Proposals(given, tmp_path, NOTHING)
    found = asked(proposals, 14, most=1)
    assert {m.prior["name"] for m in found} == {"mixture", "learned_mixture"}
    assert all(m.prior["components"] in ((3, 5) if m.prior["name"] == "mixture" else (10, 20)) for m in found)
    assert {len(m.network["hidden"]) for m in found} == {1, 2}
    before = {t.user_attrs["member"]: t.params for t in proposals.study.get_trials() if t.user_attrs}
    # what is read off members is what was suggested
    (tmp_path / "optuna.log").unlink()
    again = Proposals(given, tmp_path, known_of(found))
    assert {t.user_attrs["member"]: t.params for t in again.study.get_trials()} == before
    assert not {one.trial for one in asked(again, 2)} & {one.trial for one in found}


def test_a_member_is_read_as_the_option_that_spells_it_out():
    chosen = {"name": "mlp", "hidden": [16]}
    known = _Parameters({"network": chosen})
    assert space.assign({"network": {"choice": [{"name": "mlp"}, chosen]}}, known)["network"] == chosen


def test_a_warm_start_finds_the_options_of_members(tmp_path):
    planned = members(load([*SPACE, "search=random", *ALIKE]))
    with Store(tmp_path / "study.db", create=True) as store:
        store.plan(
            {"trial": m.trial, "model": m.model, "config": m.to_json(), "assignment": json.dumps(m.assignment)}
            for m in planned
        )
        store.report([{**row(m), "epoch": 1} for m in planned])
    (tmp_path / "new").mkdir()
    proposals = Proposals(config(*ALIKE, f"search.warm_start={tmp_path}"), tmp_path / "new", NOTHING)
    taken = proposals.study.get_trials()
    assert len(taken) == len(planned)
    for frozen, one in zip(taken, planned, strict=True):
        assert frozen.params[f"space.prior.{one.prior['name']}.components"] == one.prior["components"]
