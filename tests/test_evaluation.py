"""Measurements: the splits do not leak into each other, and a value that is not defined is NaN with a reason."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CPU
from helpers import member, numbers

from gimtune.metrics import Evaluation
from gimtune.results.pareto import front
from gimtune.training import Pack, run
from gimtune.vocabulary import LATE, METRICS


@pytest.fixture(scope="module")
def one():
    return member("vae", weight=0.1, batch_size=50, learning_rate=1e-2)


@pytest.fixture(scope="module")
def pack(small, one):
    pack = Pack([one], small.data)
    for _ in range(20):
        pack.train_epoch()
    return pack


def measured(pack, evaluation, splits=("validation", "test")):
    parameters = pack.one(0)
    row = evaluation.measure(pack.objective, parameters, pack.members[0], splits)
    return numbers(row)


def of(row, split):
    """The metrics of one split."""
    keys = [*METRICS, "restriction/posterior_kl"]
    return {key: row[f"test_{key}" if split == "test" else key] for key in keys}


def changed(small, split):
    """The same data but for one split, whose images are mirrored and labels moved on."""
    data = small.data.dataset
    images = {**data.images, split: np.ascontiguousarray(data.images[split][..., ::-1])}
    labels = {**data.labels, split: (data.labels[split] + 1) % 10}
    return Evaluation(dataclasses.replace(data, images=images, labels=labels), small.network, CPU)


@pytest.mark.parametrize(("split", "other"), [("validation", "test"), ("test", "validation")])
def test_a_split_is_measured_without_the_other(small, pack, split, other):
    row, moved = measured(pack, small), measured(pack, changed(small, other))
    assert of(row, split) == of(moved, split)
    assert of(row, other)["fid"] != of(moved, other)["fid"]
    assert of(row, other)["probe_codes"] != of(moved, other)["probe_codes"]


def test_a_split_is_measured_the_same_alone(small, pack):
    both, alone = measured(pack, small), measured(pack, small, ("validation",))
    on, end = of(alone, "validation"), of(both, "validation")
    assert {k: v for k, v in on.items() if k not in LATE} == {k: v for k, v in end.items() if k not in LATE}
    assert {on[key] for key in LATE} == {"nan"}
    assert not [key for key in alone if key.startswith("test_")]


def test_a_fresh_evaluation_gives_the_same_numbers(small, pack):
    # nothing that one keeps between calls enters the next
    fresh = Evaluation(small.data.dataset, small.network, CPU)
    assert measured(pack, fresh, ("validation",)) == measured(pack, small, ("validation",))


def test_the_batch_size_of_the_formula_is_the_members(small, pack):
    # 72 images in batches of at most 50 are two of 36: means of equal parts
    row = measured(pack, small, ("validation",))
    assert row["loss"] == pytest.approx(row["restriction"] - row["likelihood_x"], rel=1e-12)
    assert row["mi_gap"] == pytest.approx(row["mi_q"] + row["loss"], rel=1e-12)


def test_the_information_estimates_bracket(small, pack):
    row = measured(pack, small, ("validation",))
    assert row["mi_images"] == 217
    assert row["mi_lower"] < row["mi_upper"]
    assert 2 < row["mi_lower"] < row["mi_q"]  # far enough apart for 72 codes
    assert 0 < row["mi_upper_se"] < 0.5
    # the Gaussian has the largest entropy, so that the estimate is between I_q and the rate, whatever q(z) is
    assert row["mi_q"] <= row["restriction/posterior_kl"]
    assert row["mi_noised"] < row["mi_q"]


@pytest.mark.parametrize(("information", "flagged"), [(0.0, True), (0.1, True), (5.0, False), (math.nan, False)])
def test_accuracy_on_codes_above_fanos_bound_is_flagged(small, pack, monkeypatch, information, flagged):
    view = small.view(pack.objective, pack.one(0), pack.members[0], "validation")
    assert view.value("probe_codes") > 0.4
    assert not view.estimate("probe_codes").flag
    view = small.view(pack.objective, pack.one(0), pack.members[0], "validation")
    monkeypatch.setattr(view, "value", {"mi_q": information}.__getitem__)
    assert ("Fano" in view.estimate("probe_codes").flag) == flagged


@pytest.mark.parametrize(("information", "failed"), [(-105.4, True), (-0.1, False), (0.4, False)])
def test_information_from_samples_bounds_no_accuracy(small, monkeypatch, information, failed):
    one = Pack([member("avb")], small.data)
    monkeypatch.setattr("gimtune.metrics.information.of_samples", lambda *_: information)
    view = small.view(one.objective, one.one(0), one.members[0], "validation")
    assert not view.estimate("probe_codes").flag
    assert bool(view.estimate("mi_q").flag) == bool(view.estimate("mi_noised").flag) == failed


def test_codes_of_a_deterministic_encoder_are_its_means(small):
    one = Pack([member("ae", encoder="deterministic")], small.data)
    row = small.row(one, 0, ("validation",))
    assert (row["probe_codes"], row["probe_codes_se"]) == (row["probe_means"], row["probe_means_se"])
    assert row["knn_codes"] == row["knn_means"]


def test_heads_of_the_encoder_that_no_loss_trains_change_no_metric(small):
    # InfoGAN's latent is a code of two categories and one continuous dimension, and noise: the last head is not trained
    one = Pack([member("infogan", prior={"name": "infogan_code"}, latent_dim=6)], small.data)
    for _ in range(3):
        one.train_epoch()
    before = numbers(small.row(one, 0, ("validation", "test")))
    with torch.no_grad():
        for name in ("3.weight", "3.bias"):
            one.parameters["encoder"][name][:, 3:].normal_(std=5, generator=torch.Generator().manual_seed(0))
    assert numbers(small.row(one, 0, ("validation", "test"))) == before
    with torch.no_grad():
        one.parameters["encoder"]["3.weight"][:, 2].zero_()
    assert numbers(small.row(one, 0, ("validation",)))["probe_means"] != before["probe_means"]


def test_the_floor_compares_training_images(small, pack):
    row = measured(pack, small, ("validation",))
    assert 0 < row["fid_floor"] < row["fid"]
    assert row["fid_features"] == small.network.name
    assert row["fid_samples"] == 400
    assert row["fid_reference_samples"] == len(small.data.images["validation"])
    assert row["fid_reference"] == small.data.dataset.reference
    assert changed(small, "validation").data.dataset.reference != row["fid_reference"]


def test_distances_come_with_their_errors(small, pack):
    row = measured(pack, small, ("validation", "test"))
    for key in ("fid", "fid_expost", "kid"):
        assert 0 < row[f"{key}_se"] < row[key], key
    assert 0 <= row["precision"] <= 1
    assert 0 <= row["recall"] <= 1


def test_fewer_samples_may_be_asked_for(small, pack):
    few = dataclasses.replace(pack.members[0], metrics={"probe_samples": 300, "fid_samples": 40})
    parameters = pack.one(0)
    row = small.measure(pack.objective, parameters, few, ("validation",))
    assert row["fid_samples"] == 40
    assert row["fid"] != measured(pack, small, ("validation",))["fid"]
    assert row["probe_codes"] == measured(pack, small, ("validation",))["probe_codes"]


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        ("encoder", "3.bias", math.nan),
        ("encoder", "3.bias", -1e38),
        ("encoder", "3.weight", 1e30),
        ("decoder", "2.bias", math.nan),
        ("decoder", "2.bias", math.inf),
    ],
)
@pytest.mark.parametrize("prior", ["normal", "mixture"])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_what_is_not_defined_is_nan_with_a_reason(small, prior, module, name, value):
    broken = Pack([member(prior={"name": prior})], small.data)
    with torch.no_grad():
        broken.parameters[module][name].fill_(value)
    row = small.row(broken, 0, ("validation", "test"))
    missing = {key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)}
    assert {"loss", "test_loss"} <= missing
    assert all(math.isnan(row[key]) for key in missing)
    assert set(row["reasons"]) == {key for key in missing if not key.endswith("_se")}
    assert all(row["reasons"].values())
    if module == "encoder" and math.isnan(value):
        assert {"active_units", "probe_codes", "mi_lower"} <= missing


def test_images_of_the_last_row_are_those_that_are_shown(small, pack):
    parameters = pack.one(0)
    shown = small.samples(pack.objective, parameters, pack.members[0], 9)
    again = small.samples(pack.objective, parameters, pack.members[0], 9)
    assert shown.shape == (9, 1, 8, 8)
    assert shown.equal(again)
    assert 0 <= float(shown.min()) <= float(shown.max()) <= 1


def test_a_perfect_translator_is_as_far_as_other_images_are(evaluation, monkeypatch):
    translator = member("cyclegan")
    view = evaluation.view(Pack([translator], evaluation.data).objective, {}, translator, "test")

    def back(codes):
        return torch.rot90(1 - codes.unflatten(1, (1, 8, 8)), -1, (2, 3))

    monkeypatch.setattr(view, "decode", back)
    assert view.generated.shape == (360, 1, 8, 8)
    shown = {image.numpy().tobytes() for image in view.images}
    # two of 1,797 digits come twice
    assert sum(image.numpy().tobytes() in shown for image in view.generated) <= 2
    distance, floor = view.value("fid"), view.value("fid_floor")
    assert 0.5 * floor < distance < 3 * floor


def test_images_as_codes_do_not_stand_beside_codes(small):
    asked = {"assignment": {"latent_dim": 4}}
    rows = []
    for one in (member("vae", **asked), member("ae", **asked), member("cyclegan", **asked)):
        row = small.row(Pack([one], small.data), 0, ("validation",))
        own = {"data": "digits", "status": "done", "latent_dim": one.latent_dim, "assignment": '{"latent_dim": 4}'}
        rows.append({**row, **own, "model": one.model, "reasons": json.dumps(row["reasons"])})
    best = front(pd.DataFrame(rows))
    assert best.left_out == {"codes of 64 dimensions, not 4": 1}
    assert set(best.points["model"]) == {"vae", "ae"}


def test_factors_have_a_probe_each_and_a_mean(small, pack):
    data = small.data.dataset
    factors = {s: np.stack([y, y % 2, np.minimum(y, 2)], 1) for s, y in data.labels.items()}

    def row(labels, targets=()):
        changed = dataclasses.replace(data, labels=labels, targets=targets)
        return pack_row(Evaluation(changed, small.network, CPU), pack)

    several = row(factors, ("digit", "odd", "small"))
    alone = [row({s: y[:, k] for s, y in factors.items()}) for k in range(3)]
    columns = ("probe_codes", "probe_means", "probe_balanced", "knn_codes", "knn_means", "probe_chance")
    for key in (*columns, "balanced_chance"):
        assert several[key] == pytest.approx(sum(one[key] for one in alone) / 3, abs=1e-12), key
    digit, odd, low = (one["probe_codes"] for one in alone)
    told = f"digit {digit:.3f}, odd {odd:.3f}, small {low:.3f}"
    assert several["estimators"]["probe_codes"] == f"mean of {told}"
    assert "several labels" in several["reasons"]["classes_covered"]
    assert several["fid"] == alone[0]["fid"]


def pack_row(evaluation, pack):
    return evaluation.measure(pack.objective, pack.one(0), pack.members[0], ("validation",))


def test_before_its_end_a_member_may_be_measured_by_the_objectives_alone(small):
    watched = {"fid": "min", "probe_codes": "max"}
    settings = {**member().metrics, "ruler": "end"}
    whole, some = (
        [*run([member("aae", epochs=2, watched=watched, metrics=settings | more)], small)]
        for more in ({}, {"measure": "objectives"})
    )
    (before,), (last,) = some
    reasons = json.loads(before["reasons"])
    for key in ("fid", "fid_se", "probe_codes", "probe_codes_se", "loss", "loss_se", "fid_worst"):
        assert before[key] == whole[0][0][key], key
    for key in ("mi_noised", "kid", "recon_fid", "latent_js", "fid_expost"):
        assert math.isnan(before[key]), key
        assert reasons[key] == "measured when a member ends (budget.measure)", key
    # at its end all of it is there, and is what it would have been
    apart = {"trial", "seconds", "examples_per_second"}
    known = {key: value for key, value in whole[-1][0].items() if key not in apart}
    numbers = {key for key, value in known.items() if value == value}
    assert {key: last[key] for key in numbers} == {key: known[key] for key in numbers}
    assert {key for key in known if last[key] != last[key]} == {*known} - numbers
