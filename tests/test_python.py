"""Studies and members from Python: as the command line has them, by the same words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CPU
from helpers import DEFAULTS
from helpers import member as planned

import gimtune
from gimtune.analysis.export.reproduce import override
from gimtune.study.composition import load
from gimtune.training import run as trained
from gimtune.training.device import precision

DOCS = Path(__file__).parents[1] / "docs" / "howto" / "python.md"


@pytest.fixture(scope="module")
def folder(evaluation, tmp_path_factory):
    """A run folder's members: a VAE, an autoencoder and a translator."""
    place = tmp_path_factory.mktemp("run")
    for model, options in (
        ("vae", {"network": {"name": "mlp", "hidden": [48, 32]}}),
        ("wae_mmd", {}),
        ("cyclegan", {}),
    ):
        for _ in trained([member_of(model, **options)], evaluation, place):
            pass
    return place


def member_of(model: str, **options):
    metrics = {**DEFAULTS["metrics"], "fid_features": "classifier", "inception_weights": None}
    return planned(model, **{"epochs": 1, "metrics": metrics, **options})


def opened(folder: Path, model: str, **options):
    return gimtune.Trained(folder, member_of(model, **options).trial)


@pytest.fixture
def vae(folder):
    return opened(folder, "vae", network={"name": "mlp", "hidden": [48, 32]})


def test_a_member_encodes_decodes_and_samples(vae, evaluation):
    images = evaluation.data.scaled("test", slice(20))
    codes = vae.encode(images)
    assert codes.shape == (20, vae.latent_dim) == (20, 4)
    assert torch.equal(codes, vae.encode(images.numpy().astype(np.float64)))
    assert torch.equal(vae.reconstruct(images), vae.decode(codes.tolist()))
    drawn = vae.encode(images, draw=True), vae.encode(images, draw=True, seed=1)
    assert not torch.equal(*drawn)
    sampled = vae.sample(7, seed=3)
    assert sampled.shape == (7, 1, 8, 8)
    assert 0 <= float(sampled.min()) <= float(sampled.max()) <= 1
    assert torch.equal(sampled, vae.sample(7, seed=3))
    assert not torch.equal(sampled, vae.sample(7))


def test_modules_are_the_members_networks(vae, evaluation, tmp_path):
    images = evaluation.data.scaled("test", slice(20))
    # members are measured in the precision that they are trained in, and modules are plain ones
    with torch.autocast("cpu", torch.bfloat16, enabled=precision(CPU) is torch.bfloat16):
        outputs = vae.encoder(images).float()
        decoded = vae.decoder(vae.encode(images)).float()
    assert torch.allclose(outputs[:, :4], vae.encode(images), atol=1e-5)
    assert torch.allclose(decoded.sigmoid(), vae.reconstruct(images), atol=1e-5)
    assert isinstance(vae.decoder, torch.nn.Module)
    for part, given in (("decoder", vae.encode(images)), ("encoder", images)):
        path = vae.export(tmp_path / f"{part}.pt2", part)
        program = torch.export.load(path).module()
        for count in (20, 5):  # of any number of images
            assert torch.allclose(program(given[:count]), getattr(vae, part)(given[:count]), atol=1e-6)
    with pytest.raises(ValueError, match="part critic: allowed are encoder, decoder"):
        vae.export(tmp_path / "x.pt2", "critic")


def test_log_px_is_the_metric(vae, evaluation, folder):
    images = evaluation.data.scaled("test", slice(None))
    found = vae.log_px(images)
    view = evaluation.view(vae._objective, vae._parameters, vae.member, "test")
    stored = view.estimate("log_px")
    # other draws of the codes
    assert float(found.mean()) == pytest.approx(stored.value, abs=0.2)
    asked = replace(vae.member, metrics={**vae.member.metrics, "importance_codes": 400})
    tighter = evaluation.view(vae._objective, vae._parameters, asked, "test").estimate("log_px")
    assert tighter.value != stored.value
    assert tighter.value == pytest.approx(float(vae.log_px(images, codes=400).mean()), abs=0.1)
    more = vae.log_px(images[:50], codes=400)
    assert float((more - found[:50]).mean()) > -0.05
    with pytest.raises(ValueError, match="wae_mmd with a deterministic encoder has no density"):
        opened(folder, "wae_mmd").log_px(images)


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("encode", np.zeros((3, 8, 8)), r"images are \(3, 8, 8\); allowed are \(n, 1, 8, 8\)"),
        ("encode", np.zeros((0, 1, 8, 8)), r"images are \(0, 1, 8, 8\)"),
        ("encode", np.full((3, 1, 8, 8), 16.0), "images go from 16 to 16; allowed is 0 to 1"),
        ("reconstruct", np.full((3, 1, 8, 8), np.nan), "images go from nan to nan"),
        ("decode", np.zeros((3, 5)), r"codes are \(3, 5\); allowed are finite ones \(n, 4\)"),
        ("decode", np.full((3, 4), np.inf), "allowed are finite ones"),
    ],
)
def test_what_a_member_cannot_take_is_said(vae, method, given, said):
    with pytest.raises(ValueError, match=said):
        getattr(vae, method)(given)


def test_a_translator_has_no_prior_to_draw_from(folder):
    with pytest.raises(ValueError, match="cyclegan has no prior to draw from"):
        opened(folder, "cyclegan").sample(3)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"models": ["vea"]}, "models=vea"),
        ({"budget.epochs": 0}, "budget.epochs=0"),
        ({"budget.epoch": 3}, "budget.epoch"),
        ({"resume": "nowhere"}, "resume=nowhere: no run folder"),
        (
            {"data": "images", "data.path": "it's not {there}, really"},
            r"data.path=/.*/it's not \{there\}, really: there is no such file",
        ),
        ({"models": object()}, "cannot stand in a command line"),
    ],
)
def test_bad_input_is_refused_in_the_words_of_the_command_line(overrides, said):
    with pytest.raises(ValueError, match=said):
        gimtune.run(**overrides)


def test_values_are_written_as_the_command_line_reads_them():
    given = {"grid": [0.5, 1], "a b": None, "c": ["x,y", True, "it's", r"back\slash", "$HOME", ""]}
    config = load(["models=[vae]", f"storage_path={override('a, {b}: [c]', quoted=True)}"])
    assert config.storage_path == "a, {b}: [c]"
    config = load(["models=[vae]", f"network.hidden={override([16, 8], quoted=True)}"])
    assert config.network.hidden == [16, 8]
    assert "'x,y'" in override(given, quoted=True)


def test_a_run_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder"):
        gimtune.open(tmp_path)


@pytest.mark.slow
def test_the_documentations_blocks_run_one_after_the_other(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    script = "\n".join(blocks) + "\nprint('front', len(run.front().rows), 'trials', len(run.trials))\n"
    script += "try:\n    run.member('zz')\nexcept ValueError as error:\n    print(error)\n"
    script += "try:\n    run.figure('none')\nexcept ValueError as error:\n    print(error)\n"
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(DOCS.parents[2]), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # vae at weight 1 alone, wae_mmd at two; two seeds
    assert re.search(r"front \d+ trials 12", done.stdout), done.stdout[-2000:]
    assert "member zz: it begins none of 12 names" in done.stdout
    assert "figure none: allowed are front, information" in done.stdout
    (run,) = (tmp_path / "results" / "tradeoff").iterdir()
    for name in ("my_front.pdf", "my_front.html", "decoder.pt2", "report.html"):
        assert (run / name).is_file()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda member: member.sample("a"), "count='a': allowed are whole numbers >= 1"),
        (lambda member: member.sample(0), "count=0: allowed are whole numbers >= 1"),
        (lambda member: member.sample(True), "count=True: allowed are whole numbers >= 1"),
        (lambda member: member.sample(2, seed="one"), "seed='one': allowed are whole numbers"),
        (
            lambda member: member.encode("a"),
            "images are of type str; allowed are tensors and arrays of numbers (n, 1",
        ),
        (lambda member: member.encode(None), "images are of type NoneType; allowed"),
        (lambda member: member.encode(0.5), "images are (); allowed are (n, 1, 8, 8)"),
        (lambda member: member.encode(np.zeros((1, 1, 8, 8)), seed=0.5), "seed=0.5: allowed are whole numbers"),
        (
            lambda member: member.decode([["a"] * 4]),
            "codes are of type list; allowed are tensors and arrays",
        ),
        (lambda member: member.decode({"a": 1}), "codes are of type dict; allowed"),
        (lambda member: member.log_px(np.zeros((1, 1, 8, 8)), codes=2.5), "codes=2.5: allowed are whole numbers >= 1"),
        (lambda member: member.export(7), "path=7: allowed are paths"),
        (lambda member: gimtune.open(5), "folder=5: allowed are paths"),
        (lambda member: gimtune.Run(Path()).member(7), "trial=7: allowed are the first letters of a member's name"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named_with_what_is_allowed(vae, asked, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        asked(vae)


def test_numbers_of_numpy_are_numbers(vae):
    assert vae.sample(np.int64(2), seed=np.int32(1)).equal(vae.sample(2, seed=1))
