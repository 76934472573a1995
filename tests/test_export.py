"""Tables and references for a paper: every source has an entry, and no name is a command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_analysis import SCRIPT, member, study

from gimtune.analysis import front
from gimtune.analysis.export import references
from gimtune.analysis.export.latex import escape, front_table
from gimtune.analysis.export.references import ALWAYS, SEARCH, bibliography, entries, keys
from gimtune.analysis.tables import with_error
from gimtune.results.load import Study, load
from gimtune.results.store import Store
from gimtune.study.schema import SEQUENTIAL
from gimtune.tuning import launch
from gimtune.vocabulary import METRICS

PARTS = launch._sources()
#: Sources of parts and metrics, and of what is neither.
SOURCES = {
    **{f"{kind} {name}": text for kind, found in PARTS.items() for name, text in found.items() if name != "ae"},
    **{f"column {key}": metric.source for key, metric in METRICS.items() if metric.source},
    **SEARCH,
    "always": ALWAYS,
}


@pytest.mark.parametrize("what", SOURCES)
def test_every_source_has_an_entry(what: str) -> None:
    if "our reading" in SOURCES[what]:
        assert what.startswith(("model ", "restriction "))
        return
    assert keys(SOURCES[what])
    assert set(keys(SOURCES[what])) <= set(entries())


def test_tables_name_what_there_is() -> None:
    assert {*SEQUENTIAL, "mo_asha"} == set(SEARCH)


def test_entries_are_well_formed_and_all_are_used() -> None:
    text = Path(references.__file__).with_name("references.bib").read_text(encoding="utf-8")
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


def cited(one: Study) -> set[str]:
    return set(re.findall(r"^@\w+\{(\w+),", bibliography(one), re.M))


def test_a_study_cites_what_it_used(tmp_path: Path) -> None:
    rows = [member(0), member(1, model="aae", restrictions='["latent_js"]'), member(2, model="own", prior="vamp")]
    one = study(tmp_path, rows)
    assert cited(one) == {*keys(ALWAYS)}
    with Store(tmp_path / "study.db", create=True) as store:
        store.annotate(sources=json.dumps(PARTS))
    one = load(tmp_path)
    used = {"kingma2014", "makhzani2016", "goodfellow2014", "tomczak2018", "heusel2017", "alpaydin1998", "lecun1998"}
    assert used <= cited(one)
    assert not {"tolstikhin2018", "schmucker2021", "xiao2017", "mao2017"} & cited(one)
    (tmp_path / "config.yaml").write_text("search: {sampler: nsga2}\nscheduler: {name: mo_asha}\n")
    assert cited(one) >= used | {"deb2002", "akiba2019", "schmucker2021"}


@pytest.mark.parametrize("sources", ["[", "[1]", '{"model": 5, "prior": {"normal": [1]}}', '{"data": null}'])
def test_sources_that_are_none_are_left_out(tmp_path: Path, sources: str) -> None:
    study(tmp_path, [member(0, fid_features=None, restrictions="[5, null]")])
    with Store(tmp_path / "study.db", create=True) as store:
        store.annotate(sources=sources)
    assert {*keys(ALWAYS)} <= cited(load(tmp_path))


def test_values_stand_with_their_errors() -> None:
    row = {"fid": 12.345, "fid_se": 0.678, "probe_codes": 0.9, "probe_codes_se": float("nan"), "kid_se": 1.0}
    assert [with_error(row, key).text for key in ("fid", "probe_codes", "kid")] == ["12.35 \u00b1 0.7", "0.9", "-"]
    assert escape(with_error(row, "fid").text) == r"12.35 $\pm$ 0.7"
    assert with_error(row, "fid").key == 12.345


def test_a_latex_table_has_its_columns_and_no_commands_of_others(tmp_path: Path) -> None:
    evil = SCRIPT + r"\input{/etc/passwd} 50% $x^2$ ~ #1 a&b"
    rows = [member(i, model=evil, prior="a_b", fid=10.0 + i, probe_codes=0.5 + i / 10) for i in range(2)]
    rows[0] |= {"mi_q": 0.1, "flags": '{"restriction/joint_js": "doubt"}'}
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
    assert "probe codes $\\uparrow$" in text
    assert "FID by classifier" in text
    assert "; 2 seeds" in text
    plain = text.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
