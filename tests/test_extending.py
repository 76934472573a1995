"""docs/howto/extending.md: every block of it, as one module of a package that is installed outside of the checkout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from gimtune import vocabulary
from gimtune.results import load as results

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "howto" / "extending.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CHECKS = """
import sys
from gimtune import parts, testing
parts.load()
testing.check_restriction("latent/cramer_wold")
testing.check_model("cramer_wold_ae")
testing.check_prior("gumbel")
testing.check_network("small_resnet", width=8)
testing.check_network("small_resnet", image=(3, 32, 32))
testing.check_likelihood("student")
testing.check_encoder("fixed_width")
testing.check_metric("label_gap")
testing.check_data("from_npz", path=sys.argv[1])
testing.check_features("downsampled")
print("all checked")
"""


def test_no_example_is_long():
    assert len(BLOCKS) == 10
    assert max(len(block.strip().splitlines()) for block in BLOCKS) <= 25


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package, as pip leaves it: its module, and the entry point in its metadata."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").touch()
    (folder / "my_package" / "parts.py").write_text("\n\n".join(BLOCKS))
    info = folder / "my_package-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[gimtune]\nmy_parts = my_package.parts\n")
    return folder


@pytest.fixture
def stand(tmp_path, site):
    """Where a user stands, with a data set, its defaults and the environment of commands."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    np.savez(tmp_path / "mine.npz", images=images.reshape(-1, 8, 8).astype(np.uint8)[:600], labels=labels[:600])
    defaults = yaml.safe_load((ROOT / "studies" / "data" / "digits.yaml").read_text())
    (tmp_path / "studies" / "data").mkdir(parents=True)
    (tmp_path / "studies" / "data" / "from_npz.yaml").write_text(yaml.safe_dump({**defaults, "name": "from_npz"}))
    path = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}

    def run(*command, code=0):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return tmp_path, run


@pytest.mark.slow
def test_an_installed_package_brings_its_parts(stand):
    folder, run = stand
    assert "all checked" in run(
        "-c",
        CHECKS.replace("import sys\n", "import sys\nfrom gimtune import parts\nparts.load()\n", 1),
        str(folder / "mine.npz"),
    )
    listed = run("-m", "gimtune", "parts")
    for name in ("latent/cramer_wold", "cramer_wold_ae", "gumbel", "small_resnet", "student", "label_gap", "from_npz"):
        assert re.search(rf"{name} +my_package", listed), name
    told = run("-m", "gimtune", "parts", "small_resnet")
    assert "width: int = 16" in told
    assert "Source: He et al. 2016" in told
    assert "def small_resnet(" in told
    assert "my_package/parts.py" in told


@pytest.mark.slow
def test_a_study_of_ones_own_parts(stand, monkeypatch):
    # what a run that is loaded makes known is forgotten at the end
    monkeypatch.setattr(vocabulary, "_metrics", dict(vocabulary._metrics))
    folder, run = stand
    run(
        "-m",
        "gimtune",
        *("study=tradeoff", "models=[ae,cramer_wold_ae]", "data=from_npz", f"data.path={folder / 'mine.npz'}"),
        *("network=small_resnet", "network.width=4", "network.blocks=1", "space.prior={grid: [normal, gumbel]}"),
        *(
            "space.seed=0",
            "space.weight={grid: [0.1, 1]}",
            "objectives={fid: min, label_gap: max}",
            "likelihood=student",
        ),
        *("metrics.fid_features=downsampled", "budget.epochs=2", "budget.evaluate_every=1", "ray.dashboard=false"),
    )
    (path,) = (folder / "results" / "tradeoff").iterdir()
    study = results.load(path)
    assert set(study.trials["status"]) == {"done"}
    assert set(study.trials["model"]) == {"ae", "cramer_wold_ae"}
    assert study.trials["fid_features"].unique().tolist() == ["downsampled:4x4"]
    assert study.trials[["label_gap", "label_gap_se", "test_label_gap", "test_label_gap_se"]].notna().all(axis=None)
    members = [json.loads(text) for text in study.trials["config"]]
    environment = json.loads((path / "environment.json").read_text())
    assert all(member["plugins"] == environment["plugins"] for member in members)
    assert list(environment["plugins"]) == ["my_package.parts"]
    assert dict(study.objectives) == {"fid": "min", "label_gap": "max"}
    # whoever reads it need not have the plug-in
    front = "import sys; from gimtune.analysis import front, load; s = load(sys.argv[1]); "
    front += "print(len(front(s.trials, s.objectives).rows))"
    done = subprocess.run(
        [sys.executable, "-c", front, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert int(done.stdout) >= 1


MISTAKES = (
    (["network=small_resnet", "network.depth=3"], "network.depth=3: small_resnet takes width, blocks"),
    (["network=small_resnet", "network.width=6"], "network=small_resnet network.width=6: num_channels (6) must be"),
    (["network=bigger"], "network=bigger: allowed are conv, mlp, resnet, small_resnet"),
    (["data=from_npz"], "data.path: missing; from_npz takes path"),
    (["data=from_npz", "data.path=nowhere.npz"], "nowhere.npz"),
    (["plugins=[no_such_module]"], "plugins=no_such_module: cannot be imported (ModuleNotFoundError"),
    (["plugins=3"], "plugins=3: a list of modules"),
    (
        ["metrics.fid_features=vgg"],
        "metrics.fid_features=vgg: allowed are values, inception, exported, classifier, random, downsampled",
    ),
    (["objectives={fid: min, migg: max}"], "objectives.migg: unknown metric; did you mean mi"),
    (["objectives={fid: min, label_gap: min}"], "objectives.label_gap=min: the metric is better at its max"),
)


def test_mistaken_options_and_missing_parts_are_named(stand):
    _, run = stand
    given = [arguments for arguments, _ in MISTAKES]
    script = "import json, sys; from gimtune.__main__ import main\n"
    script += "for a in json.loads(sys.argv[1]): print(main(['study=tradeoff', 'dry_run=true', *a]), file=sys.stderr)"
    lines = run("-c", script, json.dumps(given)).splitlines()
    assert lines[1::2] == ["2"] * len(MISTAKES), lines
    for (arguments, words), line in zip(MISTAKES, lines[::2], strict=True):
        assert words in line, arguments
