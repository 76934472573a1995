"""Tables and references for a paper: every source has an entry, and no name is a command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_analysis import SCRIPT, member, study

from gimtune.algebra.models import MODELS
from gimtune.algebra.priors import PRIORS as DECLARED
from gimtune.algebra.restrictions import RESTRICTIONS
from gimtune.analysis import front
from gimtune.analysis.export.latex import escape, front_table
from gimtune.analysis.export.references import (
    ALWAYS,
    CRITICS,
    DATA,
    PRIORS,
    SEARCH,
    bibliography,
    entries,
    keys,
    source,
)
from gimtune.study.schema import SEQUENTIAL
from gimtune.vocabulary import METRICS

ROOT = Path(__file__).parents[1]
#: Sources of declarations, and of what analysis.references adds.
SOURCES = {
    **{f"model {name}": model.source for name, model in MODELS.items() if name != "ae"},
    **{f"metric {key}": metric.source for key, metric in METRICS.items() if metric.source},
    **{f"restriction {match}/{name}": declared.source for (match, name), declared in RESTRICTIONS.items()},
    **{f"{name}": text for table in (PRIORS, DATA, SEARCH, CRITICS) for name, text in table.items()},
    "always": ALWAYS,
}


@pytest.mark.parametrize("what", SOURCES)
def test_every_source_has_an_entry(what: str) -> None:
    if "our reading" in SOURCES[what]:
        assert what.startswith(("model ", "restriction "))
        return
    assert keys(SOURCES[what])
    assert set(keys(SOURCES[what])) <= set(entries())


def test_restrictions_are_cited_as_they_are_declared() -> None:
    for (match, name), declared in RESTRICTIONS.items():
        cited = keys(source(f"{match}_{name}"))
        assert set(cited) <= set(keys(declared.source))
        assert cited or "our reading" in declared.source


def test_tables_name_what_there_is() -> None:
    assert set(PRIORS) <= set(DECLARED)
    assert {*SEQUENTIAL, "mo_asha"} == set(SEARCH)


def test_entries_are_well_formed_and_all_are_used() -> None:
    text = (ROOT / "analysis" / "references.bib").read_text(encoding="utf-8")
    assert text.isascii()
    assert len(entries()) == text.count("@")
    assert {key for text in SOURCES.values() for key in keys(text)} >= set(entries())
    for key, entry in entries().items():
        assert re.match(r"@(article|inproceedings|misc)\{\w+,\n", entry)
        assert entry.count("{") == entry.count("}")
        fields = dict(re.findall(r"^  (\w+) = \{(.*?)\},?$", entry.replace("\n    ", " "), re.M))
        assert {"author", "title", "year"} <= set(fields)
        assert key.endswith(fields["year"])
        # the key is the first author's name
        first = re.sub(r"[^a-z]", "", fields["author"].split(",")[0].lower())
        assert first.endswith(key[:-4]), key


def test_a_study_cites_what_it_used(tmp_path: Path) -> None:
    rows = [member(0), member(1, model="aae", restrictions='["latent_js"]'), member(2, model="own", prior="vamp")]
    one = study(tmp_path, rows)
    cited = set(re.findall(r"^@\w+\{(\w+),", bibliography(one), re.M))
    assert {"kingma2014", "makhzani2016", "goodfellow2014", "tomczak2018", "heusel2017", "alpaydin1998"} <= cited
    assert not {"tolstikhin2018", "schmucker2021", "lecun1998"} & cited
    (tmp_path / "config.yaml").write_text("search: {sampler: nsga2}\nscheduler: {name: mo_asha}\n")
    more = set(re.findall(r"^@\w+\{(\w+),", bibliography(one), re.M))
    assert more - cited == {"deb2002", "akiba2019", "schmucker2021"}


def test_a_latex_table_has_its_columns_and_no_commands_of_others(tmp_path: Path) -> None:
    evil = SCRIPT + r"\input{/etc/passwd} 50% $x^2$ ~ #1 a&b"
    rows = [member(i, model=evil, prior="a_b", fid=10.0 + i, probe_accuracy=0.5 + i / 10) for i in range(2)]
    rows[0] |= {"active_units": 0, "flags": '{"restriction/joint_js": "doubt"}'}
    text = front_table(front(study(tmp_path, rows).trials))
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == 2
    assert text.count("\n    model &") == 1
    for line in body:
        assert line.endswith(r" \\")
        assert len(re.split(r"(?<!\\)&", line)) == 9
        assert escape(evil) in line
        assert not re.search(r"(?<!\\)[#%~]|\\input", line)
    assert r"$^{\ast}$$^{\dagger}$" in body[0]
    assert "ast" not in body[1]
    assert "probe accuracy $\\uparrow$" in text
    plain = text.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
