"""Tables of the documentation are those of the declarations."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
tables = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)


@pytest.mark.parametrize("path", tables.FILES, ids=lambda path: path.name)
def test_tables_are_those_of_the_declarations(path):
    text = path.read_text()
    assert "<!-- models -->" in text
    assert tables.filled(text) == text, "run python docs/tables.py"


def test_a_changed_table_is_noticed():
    page = (ROOT / "docs" / "models.md").read_text()
    for name in tables.TABLES:
        assert f"<!-- {name} -->" in page
    assert tables.filled(page.replace("| `vae` | q |", "| `vae` | p |")) == page
