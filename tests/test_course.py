"""Which weights a member ends with, whether it had levelled off, and that its pack does not matter for either."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import member, numbers
from hypothesis import given
from hypothesis import strategies as st

from gimtune.algebra.objective import batches, slice_noise
from gimtune.metrics.features import features_of
from gimtune.metrics.frechet import frechet, reference, statistics
from gimtune.results.budget import at_budget
from gimtune.results.course import Course, Restore, enough
from gimtune.results.load import load
from gimtune.results.store import Store
from gimtune.results.tally import edges, levelling, unlevelled
from gimtune.study.composition import load as load_study
from gimtune.study.resolve import members as members_of
from gimtune.training import Pack, run
from gimtune.tuning.plan import preflight

BOTH = {"fid": "min", "probe_codes": "max"}
LOSS = {"loss": "min"}
SEED = "space.seed=0"


def course(watched, values, restore="last", patience=None, error=0.0):
    """A course through rows of values, with the marks that it gave."""
    found, marks = Course(watched, restore, patience), []
    for epoch, given_ in enumerate(values, 1):
        row = dict(zip(watched, given_ if isinstance(given_, tuple) else (given_,), strict=True))
        marks.append(found.take(epoch, row | {f"{metric}_se": error for metric in watched}))
    return found, marks


# Which weights


def test_the_lowest_loss_is_gone_back_to():
    found, marks = course(LOSS, [5.0, 3.0, 4.0, 3.5], "loss")
    assert found.best == 2
    assert marks == [True, True, False, False]


def test_the_last_that_no_earlier_one_beats_in_all_objectives():
    # the third is beaten by the first and not by the second, the fourth by none
    found, marks = course(BOTH, [(10.0, 0.8), (9.0, 0.7), (11.0, 0.75)], "objectives")
    assert (found.best, marks) == (2, [True, True, False])
    assert course(BOTH, [(10.0, 0.8), (9.0, 0.7), (11.0, 0.9)], "objectives")[0].best == 3


def test_the_last_is_the_last():
    assert course(LOSS, [1.0, 2.0, 3.0], "last")[0].best == 3


def test_what_is_not_defined_is_worse_than_any_number():
    assert course(LOSS, [3.0, math.nan, None], "loss")[0].best == 1
    assert course(LOSS, [math.nan, 3.0], "loss")[0].best == 2
    assert course(BOTH, [(math.nan, 0.5), (math.nan, 0.6)], "objectives")[0].best == 2


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_no_evaluation_beats_the_chosen_one_and_later_ones_are_beaten(values):
    found, _ = course(BOTH, [(float(a), float(b)) for a, b in values], "objectives")

    def beats(one, other):
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    chosen = found.best - 1
    assert not any(beats(old, values[chosen]) for old in values[:chosen])
    for later in range(chosen + 1, len(values)):
        assert any(beats(old, values[later]) for old in values[:later])


# Levelled off


@pytest.mark.parametrize(
    ("values", "error", "levelled"),
    [
        ([8.0, 8.1, 8.2, 8.3], 0.0, True),
        ([8.0, 8.1, 8.2, 7.9], 0.0, False),
        ([8.0, 8.1, 8.2, 7.9], 0.1, True),  # within an error of the difference of .14
        ([8.0, 8.1, 8.2], 0.0, False),  # fewer than its patience, and one more
        ([4.0, 3.0, 2.0, 1.9, 1.9, 1.9, 1.9, 1.9], 0.0, False),  # over its later half, and not over two thirds
        ([4.0, 3.0, 2.0, 1.9, *[1.9] * 8], 0.0, True),
        ([math.nan] * 6, 0.0, False),
        ([math.nan, math.nan, math.nan, 3.0, 3.0, 3.0], 0.0, False),
    ],
)
def test_levelled_off_is_no_progress_beyond_the_error_over_the_later_two_thirds(values, error, levelled):
    assert course(LOSS, values, "loss", 3, error)[0].levelled is levelled


def test_one_objective_that_moves_is_enough():
    flat = [(9.0, 0.5)] * 5
    assert course(BOTH, flat, "objectives")[0].levelled
    assert not course(BOTH, [*flat, (9.0, 0.6)], "objectives")[0].levelled


def test_weights_by_the_loss_and_progress_by_the_objectives_too():
    found = Course({"fid": "min"}, "loss", 2)
    for epoch, (loss, fid) in enumerate([(5.0, 90.0), (4.0, 60.0), (4.1, 50.0), (4.2, 40.0)], 1):
        found.take(epoch, {"loss": loss, "fid": fid})
    assert (found.best, found.levelled) == (2, False)
    for epoch in range(5, 13):
        found.take(epoch, {"loss": 4.3, "fid": 40.0 + epoch % 2})
    assert (found.best, found.levelled) == (2, True)


def test_levelled_off_is_no_other_choice_of_weights_either():
    # no probe is better than the first, no distance than it by more than its error; what the row says has changed
    values = [(10.0, 0.9), (9.9, 0.8), (9.8, 0.8), (9.8, 0.8)]
    assert course({"fid": "min"}, [fid for fid, _ in values], "objectives", error=0.2)[0].levelled
    assert not course(BOTH, values, "objectives", error=0.05)[0].levelled
    # as good a distance with the first probe is beaten by nothing, and is gone back to
    assert course(BOTH, [values[0], *[(10.0, 0.9)] * 3], "objectives", error=0.05)[0].levelled


def test_the_last_weights_must_not_be_worse_either():
    values = [8.0, 8.0, 8.0, 8.0, 8.5]
    assert not course(LOSS, values, "last")[0].levelled
    assert course(LOSS, values, "loss")[0].levelled
    assert course(LOSS, values, "last", error=0.5)[0].levelled


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=10), st.integers(0, 9), st.sampled_from([*Restore]))
def test_a_course_goes_on_from_its_state(values, cut, rule):
    whole, marks = course(LOSS, values, rule, 2, 0.1)
    begun, _ = course(LOSS, values[:cut], rule, 2, 0.1)
    resumed = Course(LOSS, rule, 2).resumed(json.loads(json.dumps(begun.state())))
    rest = [resumed.take(i, {"loss": v, "loss_se": 0.1}) for i, v in enumerate(values[cut:], cut + 1)]
    assert rest == marks[cut:]
    assert (resumed.best, resumed.levelled, resumed.state()) == (whole.best, whole.levelled, whole.state())


@pytest.mark.parametrize(("fall", "least", "most"), [(0.0, 200, 200), (6.0, 0, 20), (8.0, 0, 5)])
def test_what_falls_with_the_logarithm_of_the_epochs_by_more_than_its_error_is_not_level(fall, least, most):
    # errors of differences are 4.7, as those of FIDs on digits; over a later half nearly all would be level
    epochs, levelled = np.arange(1, 33), 0
    for seed in range(200):
        fids = 50 - fall * np.log2(epochs) + 2 * np.random.default_rng(seed).standard_normal(32)
        found = Course({"fid": "min"}, "objectives", 3)
        seen = []
        for epoch, fid in zip(epochs, fids, strict=True):
            found.take(int(epoch), {"fid": float(fid), "fid_se": 3.3})
            seen.append(found.levelled)
        levelled += any(seen)
    assert least <= levelled <= most


# Packs


class Losses:
    """Measures the loss and nothing else."""

    def __init__(self, evaluation):
        self.data, self.evaluation = evaluation.data, evaluation

    def completed(self, row, *whose):
        return row

    @torch.no_grad()
    def measure(self, objective, parameters, one, splits, once=None, fellows=()):
        row = {"estimators": {}, "reasons": {}, "flags": {}}
        for split in splits:
            found = self.evaluation.view(objective, parameters, one, split, once).estimate("loss")
            name = "loss" if split == "validation" else "test_loss"
            row |= {name: found.value, f"{name}_se": found.error}
        return row

    def __getattr__(self, name):
        return getattr(self.evaluation, name)


@pytest.fixture(scope="module")
def losses(small):
    return Losses(small)


def members():
    """So fast a learning rate that they level off within some epochs, each at another one."""
    rule = {"restore": "loss", "watched": LOSS, "patience": 2, "epochs": 20, "evaluate_every": 2, "sigma_start": 0.03}
    return [member("beta_vae", weight=w, seed=s, learning_rate=0.03, **rule) for w, s in ((3.0, 2), (4.0, 0), (4.0, 2))]


def courses(batches):
    """Rows by member, in the order in which they came."""
    found = {}
    for row in (row for rows in batches for row in rows):
        found.setdefault(row["trial"], []).append(row)
    return found


@pytest.fixture(scope="module")
def whole(losses, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, list(run(members(), losses, folder))


def test_members_end_when_they_have_levelled_off_with_their_best_weights(losses, whole):
    folder, batches = whole
    found = courses(batches)
    ends = [found[one.trial][-1] for one in members()]
    assert len({row["epoch"] for row in ends}) > 1  # they leave their pack one by one
    assert any(row["best_epoch"] < row["epoch"] for row in ends)
    for one, row in zip(members(), ends, strict=True):
        history = {r["epoch"]: r for r in found[one.trial][:-1]}
        assert {r["status"] for r in history.values()} == {"running"}
        assert (row["status"], row["restored_by"], row["levelled"]) == ("done", "loss", 1)
        assert row["epoch"] < one.epochs
        assert row["loss"] == min([*history.values(), row], key=lambda r: r["loss"])["loss"]
        # the weights that are kept are those of that epoch, trained anew without a rule
        pack = Pack([dataclasses.replace(one, restore="last")], losses.data)
        for _ in range(row["best_epoch"]):
            pack.train_epoch()
        kept = torch.load(folder / row["checkpoint"], weights_only=True)["parameters"]
        for module, values in pack.one(0).items():
            for name, value in values.items():
                torch.testing.assert_close(kept[module][name], value, rtol=1e-4, atol=1e-6)
        again = losses.measure(pack.objective, kept, one, ("validation", "test"))
        for key in ("loss", "loss_se", "test_loss", "test_loss_se"):
            assert row[key] == pytest.approx(again[key], rel=1e-6), key


def test_only_the_last_batch_has_none_but_ended_members(whole):
    over = [all(row["status"] == "done" for row in rows) for rows in whole[1]]
    assert over == [False] * (len(over) - 1) + [True]


def test_alone_or_in_a_pack_a_member_ends_alike(losses, whole):
    for one in members():
        alone, packed = courses(run([one], losses))[one.trial], courses(whole[1])[one.trial]
        if torch.backends.cpu.get_cpu_capability() == "AVX2":
            assert [numbers(row) for row in alone] == [numbers(row) for row in packed]
        assert [row["epoch"] for row in alone] == [row["epoch"] for row in packed]


@pytest.mark.parametrize("after", [1, 4, 6])
def test_killed_anywhere_it_ends_alike(losses, whole, tmp_path, after):
    running = run(members(), losses, tmp_path)
    first = [next(running) for _ in range(after)]
    running.close()
    rest = list(run(members(), losses, tmp_path))

    def plain(batches):
        return {(row["trial"], row["epoch"], row["status"]): numbers(row) for rows in batches for row in rows}

    assert plain([*first, *rest]) == plain(whole[1])


def test_a_member_that_is_told_to_stop_ends_with_its_best_weights(losses, tmp_path):
    # told that more is better, so that training makes it worse
    one = dataclasses.replace(members()[0], patience=None, watched={"loss": "max"})
    asked = iter([(), (), (), (), (), (one.trial,)])
    *history, (row,) = run([one], losses, tmp_path, stopped=lambda: next(asked))
    found = {rows[0]["epoch"]: rows[0]["loss"] for rows in history}
    assert (row["status"], row["epoch"]) == ("stopped", 10)
    assert row["best_epoch"] == max(found, key=found.get) < 10
    assert row["loss"] == max(found.values())


def test_the_error_of_the_loss_is_that_of_its_minibatches(losses):
    # 360 images would differ by 5 nats each: .26; here 72 in two minibatches, so that it says little but is none of 0
    one = members()[0]
    pack = Pack([one], losses.data)
    view = losses.evaluation.view(pack.objective, pack.one(0), one, "validation")
    value, error, *_ = view.estimate("loss")
    parts = []
    for i, part in enumerate(batches(len(view.labels), one.batch_size)):
        noise = pack.objective.noise((one.seed, "formula", "validation"), len(view.labels), 2, view.data.device)
        draws = {k: v[0] for k, v in slice_noise({k: v[None] for k, v in noise.items()}, part, i).items()}
        terms = pack.objective.terms(view.parameters, view.constants, view.images[part], draws)
        parts.append(float(terms.loss))
    assert sum(parts) / 2 == pytest.approx(value, rel=1e-6)
    assert abs(parts[0] - parts[1]) / 2 == pytest.approx(error, rel=1e-5)


# A smaller budget


def test_a_study_at_a_smaller_budget_is_the_study_with_that_budget(losses, tmp_path):
    def study(name, ms):
        (tmp_path / name).mkdir()
        with Store(tmp_path / name / "study.db", create=True) as store:
            store.plan([{"trial": one.trial, "model": "beta_vae", "config": one.to_json()} for one in ms])
            for rows in run(ms, losses):
                store.report(rows)
        return load(tmp_path / name)

    whole = study("whole", members())
    half = study("half", [dataclasses.replace(one, epochs=10) for one in members()])
    found = at_budget(whole, 0.5)
    for key in ("loss", "loss_se", "epoch", "best_epoch", "levelled", "status", "restored_by"):
        assert found.trials[key].tolist() == half.trials[key].tolist(), key
    assert found.trials["test_loss"].isna().all()
    assert whole.trials["test_loss"].notna().all()
    whole_again = at_budget(whole, 1).trials
    for key in ("loss", "epoch", "best_epoch", "levelled", "status"):
        assert whole_again[key].tolist() == whole.trials[key].tolist(), key
    assert at_budget(whole, 0.05).trials.empty
    with pytest.raises(ValueError, match="share=2: above 0 and at most 1"):
        at_budget(whole, 2)


def test_models_with_members_that_had_not_levelled_off_are_named_worst_first():
    rows = [("vae", "done", 1), ("vae", "done", 0), ("aae", "stopped", 0), ("ae", "done", 1), ("js_vae", "done", None)]
    trials = pd.DataFrame([*rows, ("wvae", "diverged", 0)], columns=["model", "status", "levelled"])
    assert unlevelled(trials) == {"aae": (1, 1), "vae": (1, 2)}
    assert levelling(trials).endswith("may move them: aae 1 of 1, vae 1 of 2")
    assert levelling(trials[trials["levelled"] == 1]) == levelling(trials[["model", "status"]]) == ""


@pytest.mark.parametrize("patience", [None, 1, 2, 3, 5])
def test_how_many_evaluations_levelling_off_takes_is_told_where_there_were_fewer(patience):
    needed = enough(patience)
    levelled = [course(LOSS, [1.0] * count, patience=patience)[0].levelled for count in range(1, needed + 1)]
    assert levelled == [*[False] * (needed - 1), True]
    config = json.dumps({"evaluate_every": 5, "patience": patience})
    rows = [("vae", "done", 0, 5 * epochs, config) for epochs in (1, needed - 1)]
    trials = pd.DataFrame(rows, columns=["model", "status", "levelled", "epoch", "config"])
    assert f"(none could be seen to, since that takes {needed} evaluations): vae 2 of 2" in levelling(trials)
    trials.loc[1, "epoch"] = 5 * (needed - 1) + 1
    assert levelling(trials).endswith("may move them: vae 2 of 2")


@pytest.mark.parametrize(("every", "told"), [(10, 1), (6, 0)])
def test_a_budget_that_cannot_show_who_has_levelled_off_is_told_of_before_it_is_spent(every, told):
    budget = ("budget.epochs=20", f"budget.evaluate_every={every}")
    plan = preflight(load_study(["study=tradeoff", "models=[vae]", "space.prior=normal", SEED, *budget]))
    assert sum("no member can be seen to level off, which takes 4 evaluations" in note for note in plan.notes) == told


def test_models_that_are_best_at_the_end_of_their_weights_are_named():
    def rows(model, fids, prior="normal"):
        return [(model, prior, weight, fid) for weight, values in fids.items() for fid in values]

    inner = rows("vae", {0.1: [30, 30], 1: [20, 10], 10: [16, 17]})
    largest = rows("aae", {0.1: [9], 1: [8], 3: [7]})
    # a mean over seeds: the luckiest seed is elsewhere
    smallest = rows("wvae", {0.1: [5, 5], 1: [2, 20], 10: [9, 9]})
    # of logarithms, as claims take it: 4.5 by these, and 10.5 without
    inner += rows("avb", {0.1: [5, 5], 1: [1, 20], 10: [9, 9]})
    few = rows("ae", {0: [40]}) + rows("two", {1: [3], 2: [4]})

    def told(*found):
        return edges(pd.DataFrame([row for each in found for row in each], columns=["model", "prior", "weight", "fid"]))

    assert told(inner, few) == edges(pd.DataFrame()) == ""
    assert told(inner, largest, smallest, few).endswith("them): aae at 3, the largest; wvae at 0.1, the smallest")
    other = rows("aae", {0.1: [9], 1: [5], 3: [7]}, "laplace")
    assert told(largest, other).endswith("looks for them): aae with normal at 3, the largest")
    # sizes are not averaged: the mean of these two is best in the middle
    sizes = [(8, 0.1, 3), (8, 1, 4), (8, 3, 90), (64, 0.1, 90), (64, 1, 5), (64, 3, 4)]
    sized = pd.DataFrame(sizes, columns=["latent_dim", "weight", "fid"]).assign(model="aae", prior="normal")
    assert edges(sized).endswith(
        "them): aae with 8 dimensions at 0.1, the smallest; aae with 64 dimensions at 3, the largest"
    )


@pytest.mark.slow
def test_infogan_is_untrained_at_the_budget_of_the_main_job_and_reaches_fifteen_when_trained(evaluation):
    """At the weight where it generates best: 45 at 60 epochs; then the best of validation, as a test split sees it."""
    (one,) = members_of(load_study(["study=tradeoff", "models=[infogan]", "prior=normal", "space.weight=300", SEED]))
    pack, found = Pack([one], evaluation.data), []
    for budget in range(one.epochs, 8 * one.epochs + 1, one.epochs):
        while pack.epoch < budget:
            pack.train_epoch()
        for split in ("validation", "test"):
            view = evaluation.view(pack.objective, pack.one(0), one, split)
            with torch.no_grad():
                images = view.decode(view.sampled(10_000))
                found.append(frechet(statistics(features_of(view.network, images)), reference(view)))
    validation, test = found[::2], found[1::2]
    assert min(validation) < validation[0] / 2
    assert test[validation.index(min(validation))] <= 15
