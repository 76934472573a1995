"""A run keeps the feature network that it began with, and compares by no other."""

import dataclasses

import pytest
import torch

from gimtune.__main__ import main
from gimtune.metrics import features, lenet
from gimtune.results.store import Store

CPU = torch.device("cpu")
SETTINGS = {"fid_features": "classifier"}


@pytest.fixture(scope="module")
def own(digits):
    """Images whose classifier does not come with the package: it is trained where it is asked for."""
    return dataclasses.replace(digits, digest="0" * 16)


@pytest.mark.parametrize("kind", ["classifier", "random"])
def test_another_version_compares_by_the_network_that_the_run_keeps(digits, tmp_path, monkeypatch, kind):
    settings = {"fid_features": kind}
    assert features.begin(digits, settings, tmp_path) == ""
    first = features.load(digits, settings, tmp_path, CPU)
    images = torch.from_numpy(digits.images["test"][:50]) / digits.scale
    expected = first(images)
    # a version that ships nothing, makes another of what it knows, and rounds otherwise
    monkeypatch.setattr(lenet, "SHIPPED", tmp_path)
    monkeypatch.setattr(lenet, "_RECIPE", 99)
    monkeypatch.setattr("gimtune.metrics.random_network._SCALED_BY", 100)
    again = features.load(digits, settings, tmp_path, CPU, keep=True)
    assert again.name == first.name
    assert torch.equal(again(images), expected)


def test_a_network_that_was_changed_or_cut_is_refused(digits, tmp_path):
    features.begin(digits, SETTINGS, tmp_path)
    path = tmp_path / "features" / features.RULER
    kept = torch.load(path, weights_only=True)
    kept["state"]["head.bias"] += 1
    torch.save(kept, path)
    with pytest.raises(ValueError, match=r"ruler\.pt: the run's features are classifier:\w+, and what is there is"):
        features.load(digits, SETTINGS, tmp_path, CPU, keep=True)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"ruler\.pt: not the run's feature network"):
        features.load(digits, SETTINGS, tmp_path, CPU, keep=True)


def test_what_would_be_compared_by_another_network_is_refused_before_a_member_is_trained(killed_run, capsys):
    with Store(killed_run / "study.db", create=True) as store:
        store._db.execute("UPDATE trials SET fid_features='classifier:before' WHERE fid_features IS NOT NULL")
    assert main([f"resume={str(killed_run)!r}"]) == 2
    said = capsys.readouterr()
    assert "its members were compared by classifier:before, and would be by classifier:" in said.err
    assert "members" not in said.out


def test_without_a_cache_it_is_the_same_network_and_a_note(own, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert features.begin(own, SETTINGS, tmp_path / "with") == ""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    note = features.begin(own, SETTINGS, tmp_path / "without")
    assert note.startswith("feature networks are not kept for later studies: ")
    names = {features.load(own, SETTINGS, tmp_path / where, CPU).name for where in ("with", "without")}
    assert len(names) == 1
