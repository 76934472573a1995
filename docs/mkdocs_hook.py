"""What MkDocs does not do by itself: tables from the declarations, equations, and the pages of results."""

from __future__ import annotations

import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))

import tables


def on_config(config: Any) -> Any:
    """Equations are MathML, which needs no script; results stand in the navigation where there are any."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": _equation})
    results = {"Results": [*_results(), *next(s["Results"] for s in config.nav if "Results" in s)]}
    config.nav = [results if "Results" in section else section for section in config.nav]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Regions between ``<!-- NAME -->`` and ``<!-- end -->`` are made anew, as `tables` does in the files."""
    # those of pandas are then tables like all others, which scroll where there is no room
    return tables.filled(markdown).replace('<table border="1" class="dataframe">', "<table>")


def on_page_content(html: str, **_: Any) -> str:
    """Formulas between dollar signs."""
    return re.sub(r'<span class="arithmatex">\\\((.*?)\\\)</span>', lambda found: convert(unescape(found[1])), html)


def _results() -> list[str]:
    pages = sorted(path.relative_to(DOCS) for path in (DOCS / "results").rglob("*.md"))
    # the overview first, then page by page
    return [str(path) for path in sorted(pages, key=lambda path: (path != Path("results/index.md"), path))]


def _equation(source: str, *_: Any, **__: Any) -> str:
    lines = [line for line in re.split(r"\n\s*\n", source.strip()) if line]
    return '<div class="math">' + "".join(convert(line, display="block") for line in lines) + "</div>"
