"""Notebooks are their text, without outputs; what they show of one trial is right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jupytext
import pandas as pd
import pytest

from gimtune.analysis.figures.members import static_course
from gimtune.analysis.figures.views import bracket, terms
from gimtune.results.load import newest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "analysis").glob("*.ipynb"))


def test_there_are_three_with_a_copy_each() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["front", "one_trial", "tradeoff"]
    for path in NOTEBOOKS:
        copy = ROOT / "docs" / "notebooks" / f"{path.stem}.md"
        pictures = copy.with_name(f"{path.stem}_files")
        assert sum(p.stat().st_size for p in (copy, *pictures.iterdir())) < 2 << 20
        for picture in pictures.iterdir():
            assert picture.name in copy.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_text_without_outputs(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    pair = jupytext.read(ROOT / "docs" / "notebooks" / f"{path.stem}.py")
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in found["cells"]]
    assert cells == [(cell.cell_type, cell.source) for cell in pair.cells], "run jupytext --sync docs/notebooks/*.py"
    for cell in found["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_newest_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GIMTUNE_RUN", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"under nowhere .*\$GIMTUNE_RUN"):
        newest("nowhere")
    for name in ("a/20260101-120000", "b/20260102-120000", "c/20260103-120000"):
        (tmp_path / "results" / name).mkdir(parents=True)
    for name in ("a/20260101-120000", "b/20260102-120000"):
        (tmp_path / "results" / name / "study.db").touch()
    assert newest() == tmp_path / "results" / "b" / "20260102-120000"
    (tmp_path / "analysis").mkdir()
    monkeypatch.chdir("analysis")
    assert newest() == tmp_path / "results" / "b" / "20260102-120000"
    monkeypatch.setenv("GIMTUNE_RUN", "elsewhere")
    assert newest() == Path("elsewhere")


ROW = {
    "trial": "t0",
    "restrictions": '["posterior_kl", "latent_js"]',
    "config": json.dumps({"restrictions": [["posterior", "kl", 0.5], ["latent", "js", 2.0]]}),
    "restriction/posterior_kl": 3.0,
    "test_restriction/posterior_kl": 3.1,
    "restriction/latent_js": 0.69,
    "critic_accuracy/latent_js": 1.0,
    "estimators": '{"restriction/posterior_kl": "closed form"}',
    "flags": '{"restriction/latent_js": "no estimate"}',
    "mi_lower": 4.0,
    "mi_q": 20.0,
    "mi_images": 360.0,
}


def test_terms_and_bracket_of_a_trial() -> None:
    found = terms(ROW)
    assert list(found["weight"]) == [0.5, 2.0]
    assert list(found["divergence"]) == [3.0, 0.69]
    assert list(found["flag"]) == ["", "no estimate"]
    assert list(found["estimator"]) == ["closed form", ""]
    between = bracket(ROW)
    assert list(between.index) == ["mi_lower", "mi_noised", "mi_upper", "mi_q", "ln N"]
    assert between.loc["ln N", "validation"] == pytest.approx(math.log(360))
    assert terms({"trial": "t1", "restrictions": "[]"}).empty
    with pytest.raises(ValueError, match="trial t0: column config is no JSON"):
        terms({**ROW, "config": "{"})


def test_course_of_a_trial() -> None:
    reports = pd.DataFrame({"trial": ["a", "a", "b"], "epoch": [2, 1, 1], "fid": [1.0, 2.0, 9.0], "mi_q": math.nan})
    figure = static_course(reports, "a")
    lines = [line for axes in figure.axes for line in axes.lines]
    assert [list(line.get_xdata()) for line in lines] == [[1, 2]]
    assert list(lines[0].get_ydata()) == [2.0, 1.0]
