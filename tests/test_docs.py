"""Tables of the documentation are those of the declarations."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from gimtune.parts import registries
from gimtune.study.schema import keys
from gimtune.vocabulary import METRICS

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


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
    commands, metrics, parts = (tables.filled(path.read_text()) for path in tables.BUILT)
    assert all(f"| `{key}` |" in commands for key in keys())
    assert all(f"| `{key}` |" in metrics for key in METRICS)
    for kind, registry in registries().items():
        rows = parts.partition(f"## {kind}\n")[2].partition("\n## ")[0]
        assert all(f"| `{registry.label(key)}` |" in rows for key in registry), kind


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
