"""Ranges of weights, from no effect to collapse: by bisection on planted curves, and by short members on digits."""

import dataclasses
import math

import numpy as np
import pytest
import yaml

from gimtune import data
from gimtune.__main__ import main
from gimtune.study.composition import load
from gimtune.study.resolve import members
from gimtune.tuning import ranges
from gimtune.tuning.ranges import found_range, middle


@pytest.mark.parametrize("centre", [-1.3, 0.0, 1.6])
@pytest.mark.parametrize("width", [0.2, 0.4])
def test_both_ends_of_a_planted_curve_are_found(centre, width):
    asked = []

    def measure(logs):
        asked.extend(logs)
        return [-100 - 400 / (1 + math.exp(-(log - centre) / width)) for log in logs]

    found = found_range(measure)
    # where the effect is 5 % and 95 %, to a quarter of a decade, on the outer side
    reach = width * math.log(19)
    assert 0 <= centre - reach - math.log10(found.low) <= 0.26
    assert 0 <= math.log10(found.high) - centre - reach <= 0.26
    assert found.weights == len(asked) == len({*asked}) <= 11
    assert found.grid[0] == found.low
    assert found.grid[-1] == pytest.approx(found.high, rel=0.01)


def test_members_that_diverge_have_collapsed():
    found = found_range(lambda logs: [math.nan if log > 1.1 else -100.0 for log in logs])
    # the last that did not, and the first that did
    assert math.log10(found.low) == pytest.approx(1.0, abs=0.01)
    assert math.log10(found.high) == pytest.approx(1.25, abs=0.01)


@pytest.mark.parametrize("value", [-100.0, math.nan])
def test_weights_that_do_nothing_have_no_range(value):
    assert found_range(lambda logs: [value] * len(logs)) is None


def test_one_seed_of_three_decides_no_end():
    source = np.random.default_rng(0)

    def seed(log, jumps):
        # no effect below 0.1 and collapse above 10, but for one seed, which jumps wherever it likes
        return -500.0 if jumps and source.random() < 0.5 else -100 - 400 * min(max((log + 1) / 2, 0), 1)

    found = found_range(lambda logs: [middle([seed(log, False), seed(log, True), seed(log, False)]) for log in logs])
    assert (found.low, found.high) == found_range(lambda logs: [seed(log, False) for log in logs])[:2]


def test_a_sweep_takes_the_middle_of_its_seeds(small, monkeypatch):
    config = load(["models=[aae]", "space.prior=normal", "network.hidden=[16]", "critic.hidden=[16]"])
    (first,) = ranges._firsts(config).values()

    def likelihood(start, seeds):
        monkeypatch.setattr(ranges, "_SEEDS", seeds)
        return ranges._likelihoods(config, dataclasses.replace(first, seed=start), small, 2, [0.0])[0]

    alone = [likelihood(seed, 1) for seed in range(3)]
    assert len({*alone}) == 3
    # members of one pack round differently
    assert likelihood(0, 3) == pytest.approx(sorted(alone)[1], rel=1e-3)


SMALL = ["network.hidden=[16]", "space.prior=normal", "budget.epochs=6", "budget.evaluate_every=6"]


def test_a_sweep_writes_ranges_that_a_study_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "models=[vae,beta_vae]", "name=mine", *SMALL]) == 0
    said = capsys.readouterr().out
    assert said.startswith("beta_vae: ")
    assert "data=mine" in said
    written = yaml.safe_load((tmp_path / "studies" / "data" / "ranges" / "mine.yaml").read_text())
    assert {*written} == {"weights", "weight_ranges", "restriction_weights"}
    own, kept = written["weights"], load([]).data.weights
    assert {key: value for key, value in own.items() if key != "beta_vae"} == {
        key: value for key, value in kept.items() if key != "beta_vae"
    }
    low, high = written["weight_ranges"]["beta_vae"]["loguniform"]
    assert 0 < low < high
    found = members(load(["data=mine", "models=[beta_vae]", "space.seed=0", "space.prior=normal"]))
    assert [one.weight for one in found] == own["beta_vae"]["grid"]
    assert {one.data["name"] for one in found} == {"digits"}
    assert not [*tmp_path.rglob("study.db")]
    # another run does not overwrite it
    assert main(["sweep", "models=[beta_vae]", "name=mine", *SMALL]) == 2
    assert "name=mine: " in capsys.readouterr().err


def test_images_of_ones_own_are_swept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digits = data.load("digits")
    images, labels = digits.images["train"][:400, 0, :, :7], digits.labels["train"][:400]
    np.savez(tmp_path / "mine too.npz", images=np.uint8(images * (255 / digits.scale)), labels=labels)
    given = ["data=images", "data.path='mine too.npz'", "name=own", "budget.epochs=60"]
    shared = ["models=[beta_vae]", "training.batch_size=64", *SMALL[:2]]
    assert main(["sweep", *given, *shared]) == 0
    (one, *_) = members(load(["data=own", *shared]))
    assert one.data["path"] == str(tmp_path / "mine too.npz")
    written = yaml.safe_load((tmp_path / "studies" / "data" / "ranges" / "own.yaml").read_text())
    assert one.weight == written["weights"]["beta_vae"]["grid"][0]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["models=[ae,vae]"], "no model of these has a weight"),
        (["data=nope"], "data=nope: allowed are"),
        (["resume=/nowhere"], "resume=/nowhere: no run folder"),
        (["models=[beta_vae]", "name=a/b"], "name='a/b'"),
        (["models=[beta_vae]", "constraints={nope: {min: 1}}"], "constraints.nope"),
    ],
)
def test_what_cannot_be_swept_is_a_line(arguments, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *arguments]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert len(said.strip().splitlines()) == 1
    assert not [*tmp_path.rglob("*.yaml")]
