"""Tables of the documentation are those of the declarations."""

import importlib.util
import math
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import optimize

from gimtune import register
from gimtune.analysis.statistics.claims import claims
from gimtune.parts import registries
from gimtune.study.composition import load
from gimtune.study.schema import keys
from gimtune.vocabulary import METRICS

ROOT = Path(__file__).parents[1]


def script(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables, results = script("tables"), script("results")


@pytest.mark.parametrize("path", tables.FILES, ids=lambda path: path.name)
def test_tables_are_those_of_the_declarations(path):
    text = path.read_text()
    assert "<!-- end -->" in text
    assert tables.filled(text) == text, "run python docs/tables.py"


def test_a_changed_table_is_noticed():
    pages = [path.read_text() for path in (*tables.FILES, *tables.BUILT)]
    for name in tables.TABLES:
        assert any(f"<!-- {name} -->" in page for page in pages)
    page = (ROOT / "docs" / "reference" / "models.md").read_text()
    assert tables.filled(page.replace("| `vae` | q |", "| `vae` | p |")) == page


def test_the_reference_names_all_there_is():
    commands, metrics, parts = (tables.filled(path.read_text()) for path in tables.BUILT[:3])
    assert all(f"| `{key}` |" in commands for key in keys())
    assert all(f"| `{key}` |" in metrics for key in METRICS)
    for kind in register.__all__:
        registry = registries()[kind]
        rows = parts.partition(f"## {kind}\n")[2].partition("\n## ")[0]
        assert all(f"| `{registry.label(key)}` |" in rows for key in registry), kind


def test_the_worked_world_is_the_best_of_its_kind():
    """The loss of its page, minimised by search over the encoder's slope and noise, the decoder's slope at its best."""
    rows = [line.strip("| ").split(" | ") for line in tables.world().splitlines()[2:]]
    for beta, share, information, _, loss, _, identity, *_ in ([float(cell) for cell in row] for row in rows):

        def of(found, beta=beta):
            slope, noise = found[0], math.exp(found[1])
            w = slope / (slope**2 + noise**2)
            error = (1 - w * slope) ** 2 + w**2 * noise**2
            rate = 0.5 * (slope**2 + noise**2 - 1) - math.log(noise)
            return 0.5 * (error / 0.1 + math.log(2 * math.pi * 0.1)) + beta * rate

        best = optimize.minimize(of, (0.7, -0.5), method="Nelder-Mead", options={"fatol": 1e-12, "xatol": 1e-8})
        slope, noise = best.x[0], math.exp(best.x[1])
        digits = 0.01  # the page has three
        assert best.fun == pytest.approx(loss, rel=digits)
        assert noise**2 / (slope**2 + noise**2) == pytest.approx(share, rel=digits)
        assert 0.5 * math.log1p(slope**2 / noise**2) == pytest.approx(information, rel=digits, abs=1e-3)
        assert identity == information


COMMAND = re.compile(r"^python -m gimtune (study=.*)$", re.M)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "tutorials").glob("*.md")), ids=lambda p: p.name)
def test_commands_of_the_tutorials_are_understood(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in COMMAND.findall(path.read_text().replace("\\\n", " ")):
        words = [word for word in shlex.split(command) if not word.startswith("reuse=")]
        assert load(words).name == "first"


def test_the_pages_of_the_site_are_there():
    """What it warns of is said by its own session; a page that no page leads to is noticed here."""
    site = yaml.safe_load(re.sub(r"!!python\S*", "", (ROOT / "mkdocs.yml").read_text()))
    named = re.findall(r"[\w/]+\.md", yaml.safe_dump(site["nav"]))
    there = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in there if not page.startswith("results/")} == set(named)


PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_are_there(path):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        assert "://" in target or (path.parent / target).is_file(), target


@pytest.mark.parametrize("path", [p for p in PAGES if p.parent.name != "notebooks"], ids=lambda p: p.name)
def test_files_that_are_named_are_there(path):
    for named in re.findall(r"`((?:gimtune|analysis|studies|tests|benchmarks|docs)/[\w./-]*)`", path.read_text()):
        assert (ROOT / named).exists(), named


def test_the_version_is_one():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == version
    assert {"title", "authors", "message"} <= set(citation)
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "images").rglob("*.png"):  # those of notebooks are bounded where they are made
        assert picture.stat().st_size < 300_000, picture.name


def test_names_in_docstrings_are_there():
    named = {}
    for folder in ("gimtune", "analysis", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            named |= dict.fromkeys(re.findall(r"`(gimtune\.[\w.]*\w)`", path.read_text()))
    assert len(named) > 20
    for name in named:
        words = name.split(".")
        found = importlib.import_module(words[0])
        for k, word in enumerate(words[1:], 1):
            if not hasattr(found, word):
                importlib.import_module(".".join(words[: k + 1]))
            found = getattr(found, word)


def test_results_pages_are_those_of_their_tables():
    for path, text in results.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run python docs/results.py"


def test_a_changed_number_is_noticed(tmp_path, monkeypatch):
    """A row of the front that is another gives another page."""
    for item in results.FOLDER.iterdir():
        (shutil.copytree if item.is_dir() else shutil.copy)(item, tmp_path / item.name)
    before = results.pages()
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    name = next(iter(tmp_path.glob("*/run.json"))).parent.name
    trials = pd.read_parquet(tmp_path / name / "trials.parquet")
    trials["test_fid"] += 1
    trials.to_parquet(tmp_path / name / "trials.parquet", index=False)
    after = results.pages()
    assert after[tmp_path / name / "index.md"] != before[ROOT / "docs" / "results" / name / "index.md"]


@pytest.mark.parametrize("kept", sorted(results.FOLDER.glob("*/claims.csv")), ids=lambda path: path.parent.name)
def test_verdicts_that_are_kept_are_those_of_the_rows_that_are_kept(kept):
    rows = pd.read_parquet(kept.parent / "trials.parquet")
    found = claims(rows, np.random.default_rng(0), redraws=0, beside=False)
    stated = pd.read_csv(kept).set_index("key")
    assert [c.key for c in found.claims] == [*stated.index]
    for claim in found.claims:
        assert claim.verdict == stated["verdict"][claim.key]
        assert claim.value == pytest.approx(stated["value"][claim.key], rel=1e-6, nan_ok=True), claim.key
