"""Results that are damaged, gone or no longer those of their configuration: refused, said, made anew."""

import json
import shutil

import pandas as pd
import pytest
import yaml

from gimtune.__main__ import main
from gimtune.results.backup import KEPT, back_up, damage
from gimtune.results.load import load as read
from gimtune.results.store import Store
from gimtune.study.composition import load
from gimtune.study.messages import ConfigError
from gimtune.tuning.plan import preflight


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path):
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 6] = bytes(4096 * 4)
    path.write_bytes(content)


def no_database(path):
    path.write_text("no database")


def said(capsys, *arguments):
    code = main(list(arguments))
    return code, capsys.readouterr()


def test_two_copies_are_kept_and_each_is_whole(killed_run):
    with Store(killed_run / "study.db", create=True) as store:
        store.annotate(copy="one")
        back_up(killed_run)
        store.annotate(copy="two")
        back_up(killed_run)
        store.annotate(copy="three")
    found = []
    for name in KEPT:
        assert not damage(killed_run / name)
        with Store(killed_run / name) as store:
            found.append(store.meta["copy"])
    assert found == ["two", "one"]


@pytest.mark.parametrize("spoil", [cut, overwritten, no_database])
def test_damaged_results_are_refused_and_made_anew_without_a_loss(killed_run, capsys, spoil):
    before = read(killed_run)
    spoil(killed_run / "study.db")
    with pytest.raises(ConfigError, match=r"study\.db is damaged .*; python -m gimtune repair '.*run \(copy\)'"):
        preflight(load([f"resume={str(killed_run)!r}"]))
    code, output = said(capsys, "repair", str(killed_run))
    assert code == 0, output.err
    assert "taken from study.db.1" in output.out
    after = read(killed_run)
    columns = [name for name in before.trials if name != "reported"]
    pd.testing.assert_frame_equal(after.trials[columns], before.trials[columns], check_exact=True)
    # an evaluation of a member that has ended, but for its last, is what only the copy could hold
    assert len(before.reports) - len(after.reports) <= 1
    assert len(preflight(load([f"resume={str(killed_run)!r}"])).packs) == 3
    code, output = said(capsys, "repair", str(killed_run))
    assert "nothing to repair" in output.out


def test_results_without_a_copy_are_planned_anew_with_the_rows_of_weights_and_checkpoints(killed_run, capsys):
    before = read(killed_run).trials.set_index("trial")
    for name in ("study.db", *KEPT):
        (killed_run / name).unlink()
    code, output = said(capsys, "repair", str(killed_run))
    assert code == 0, output.err
    after = read(killed_run).trials.set_index("trial")
    assert set(after.index) == set(before.index)
    assert after["status"].to_dict() == before["status"].to_dict()
    assert after["fid"].dropna().to_dict() == before["fid"].dropna().to_dict()


def test_a_member_whose_row_is_nowhere_is_named(killed_run, capsys):
    ended = read(killed_run).trials.query("status == 'done'")["trial"].item()
    shutil.rmtree(killed_run / "members")
    no_database(killed_run / "study.db")
    code, output = said(capsys, "repair", str(killed_run))
    assert code == 0
    assert f"not found: the rows of {ended}" in output.out
    assert "0 of 3 members have ended" in output.out


def test_results_that_are_gone_are_said_to_be(killed_run):
    (killed_run / "study.db").unlink()
    with pytest.raises(ConfigError, match=r"study\.db is gone; python -m gimtune repair"):
        load([f"resume={str(killed_run)!r}"])


def edited(killed_run, **changes):
    path = killed_run / "config.yaml"
    content = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            content[section][name] = value
        else:
            content[section] = value
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"budget__epochs": 9}, "budget.epochs is 9, and was 3"),
        ({"data__seed": 5}, "data.seed is 5, and was 0"),
        ({"space__seed": {"grid": [0, 1]}}, "space is"),
        ({"models": ["wae_mmd"]}, "models is"),
    ],
)
def test_a_configuration_that_was_changed_by_hand_is_refused(killed_run, changes, told):
    edited(killed_run, **changes)
    with pytest.raises(ConfigError, match="its members are planned") as refused:
        preflight(load([f"resume={str(killed_run)!r}"]))
    assert told in str(refused.value)


def test_what_no_member_depends_on_may_be_changed_and_is_said(killed_run):
    edited(killed_run, ray__dashboard=False, checkpoints="all")
    notes = " ".join(preflight(load([f"resume={str(killed_run)!r}"])).notes)
    assert "ray.dashboard is False, and was True" in notes
    assert "checkpoints is all, and was front" in notes


def test_other_images_are_refused(killed_run):
    with Store(killed_run / "study.db", create=True) as store:
        store.annotate(data_digest="0" * 8)
    with pytest.raises(ConfigError, match="images of digits are others"):
        preflight(load([f"resume={str(killed_run)!r}"]))


def test_folders_that_were_deleted_are_said_to_be(killed_run):
    assert preflight(load([f"resume={str(killed_run)!r}"])).notes == ()
    shutil.rmtree(killed_run / "members")
    shutil.rmtree(killed_run / "packs")
    weights, checkpoints = preflight(load([f"resume={str(killed_run)!r}"])).notes
    assert "weights of 1 members are gone" in weights
    assert "checkpoints of 1 packs are gone" in checkpoints


def test_a_row_in_a_weights_file_is_the_row_of_the_store(killed_run):
    import torch

    (path,) = (killed_run / "members").glob("*.pt")
    row = json.loads(torch.load(path, weights_only=True)["row"])
    stored = read(killed_run).trials.set_index("trial").loc[path.stem]
    assert row["fid"] == stored["fid"]
    assert row["checkpoint"] == stored["checkpoint"] == f"members/{path.stem}.pt"
