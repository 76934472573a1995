"""Fronts and hypervolumes against brute force, refusals, and stores that are running, broken or tampered with."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from rich.console import Console

from gimtune.analysis import Study, directions, front, fronts_by, load
from gimtune.analysis.__main__ import main
from gimtune.analysis.export import report
from gimtune.analysis.export.report import export, print_front
from gimtune.analysis.figures.fronts import interactive_front, static_front
from gimtune.analysis.figures.gallery import FIGURES, figures_of
from gimtune.analysis.figures.look import STYLES, style
from gimtune.results.load import once, pooled
from gimtune.results.store import Store, Value
from gimtune.vocabulary import Status

GOOD: dict[str, Value] = {
    "epoch": 4,
    "fid": 50.0,
    "probe_codes": 0.9,
    "test_fid": 55.0,
    "test_probe_codes": 0.88,
    "mi_q": 9.0,
    "mi_lower": 6.0,
    "restriction": 3.0,
    "restriction/posterior_kl": 3.0,
    "fid_floor": 2.0,
    "fid_expost": 30.0,
    "active_units": 8,
    "fid_features": "classifier",
}


def member(i: int, status: Status = Status.DONE, error: str | None = None, **changes: Value) -> dict[str, Value]:
    """One member as a flat row; `write` splits it into plan, report and end."""
    identity = {
        "trial": f"t{i:02d}",
        "study": "tradeoff",
        "model": "vae",
        "side": "q",
        "restrictions": json.dumps(["posterior_kl"]),
        "likelihood_name": "bernoulli",
        "prior": "normal",
        "weight": 1.0,
        "latent_dim": 8,
        "seed": i,
        "data": "digits",
        "network": "mlp",
        "config": json.dumps({"model": "vae"}),
        "assignment": None,
    }
    return {**identity, **GOOD, **changes, "status": status, "error": error}


def write(run: Path, members: list[dict[str, Value]]) -> Store:
    run.mkdir(parents=True, exist_ok=True)
    store = Store(run / "study.db", create=True)
    store.annotate(study="tradeoff")
    planned = [*list(member(0))[:14]]
    store.plan([{k: m[k] for k in planned} for m in members])
    for m in members:
        status = Status(str(m["status"]))
        if status is not Status.PLANNED:
            store.report([{k: v for k, v in m.items() if k == "trial" or k not in (*planned, "status", "error")}])
        if status not in (Status.PLANNED, Status.RUNNING):
            store.mark([str(m["trial"])], status, None if m["error"] is None else str(m["error"]))
    return store


def study(run: Path, members: list[dict[str, Value]]) -> Study:
    write(run, members).close()
    return load(run)


MIXED = [
    member(0, fid=10.0, probe_codes=0.80),
    member(1, fid=20.0, probe_codes=0.90, model="ae", prior="mixture"),
    member(2, fid=20.0, probe_codes=0.90, status=Status.STOPPED),
    member(3, fid=30.0, probe_codes=0.85, model="ae"),
    member(4, fid=5.0, probe_codes=0.20, mi_q=0.1),
    member(5, fid=1.0, status=Status.RUNNING),
    member(6, status=Status.PLANNED),
    member(7, fid=1.0, status=Status.FAILED, error="RuntimeError: out of [bold]memory[/nope]\x1b[31m"),
    member(8, fid=None, status=Status.DIVERGED, error="loss was nan at step 812"),
    member(9, fid=None, reasons=json.dumps({"fid": "the decoder's images are constant"})),
    member(10, probe_codes=None),
    member(11, fid=math.inf),
]
ENDED_WELL = 5


@pytest.fixture(autouse=True)
def front_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One figure: the others have their own tests, and take longer to draw."""
    monkeypatch.setattr(report, "figures_of", lambda objectives: {"front": FIGURES["front"]})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "run", MIXED).close()
    return tmp_path / "run"


# Fronts and hypervolumes


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def volume(points: list[tuple[float, ...]], corner: tuple[float, ...]) -> float:
    """Of the union of boxes between minimised points and the corner, by counting the cells of their grid."""
    grid = [sorted({c, *(p[i] for p in points if p[i] < c)}) for i, c in enumerate(corner)]
    total = 0.0
    for cell in itertools.product(*(itertools.pairwise(g) for g in grid)):
        if any(all(x <= low for x, (low, _) in zip(p, cell, strict=True)) for p in points):
            total += math.prod(high - low for low, high in cell)
    return total


small = st.one_of(st.integers(0, 5).map(float), st.just(math.nan), st.just(math.inf))
KEYS = ["fid", "probe_codes", "mi_q"]


@given(st.lists(st.tuples(small, small, small), max_size=9), st.permutations(KEYS), st.integers(2, 3), st.booleans())
def test_front_and_hypervolume_equal_brute_force(
    values: list[tuple[float, ...]], order: list[str], size: int, pinned: bool
) -> None:
    keys = order[:size]
    trials = pd.DataFrame(values, columns=KEYS, dtype=float).assign(status="done", data="d", fid_features="f")
    found = front(trials, keys, reference=dict.fromkeys(keys, 3.0) if pinned else None)
    sign = [1 if key == "fid" else -1 for key in keys]
    kept = {
        i: tuple(s * v for s, v in zip(sign, row, strict=True))
        for i, row in enumerate(trials[keys].to_numpy())
        if np.isfinite(row).all()
    }
    best = {i for i, p in kept.items() if not any(dominates(q, p) for q in kept.values())}
    assert set(found.rows.index) == best
    assert set(found.points.index) == set(kept)
    assert len(found.points) + sum(found.left_out.values()) == len(trials)
    first = found.rows[keys[0]] * sign[0]
    assert first.is_monotonic_increasing
    if kept:
        corner = tuple(s * found.reference[key] for s, key in zip(sign, keys, strict=True))
        # distances count by log(1 + distance)
        *points, corner = (
            tuple(math.log1p(c) if key == "fid" else c for c, key in zip(p, keys, strict=True))
            for p in (*kept.values(), corner)
        )
        assert found.hypervolume == pytest.approx(volume(points, corner))
    else:
        assert found.hypervolume == 0


@given(st.lists(st.tuples(small, small, st.sampled_from("abc")), min_size=1, max_size=9))
def test_fronts_by_share_one_reference_point(values: list[tuple[float, float, str]]) -> None:
    trials = pd.DataFrame(values, columns=["fid", "probe_codes", "model"])
    trials = trials.assign(status="done", data="d", fid_features="f")
    whole, groups = front(trials), fronts_by(trials, "model")
    assert set(groups) == set(trials["model"])
    assert sum(len(g.points) for g in groups.values()) == len(whole.points)
    for group in groups.values():
        assert group.reference == pytest.approx(whole.reference, nan_ok=True)
        assert group.hypervolume <= whole.hypervolume + 1e-9


def test_no_rows_at_all() -> None:
    for trials in (pd.DataFrame(), front(pd.DataFrame()).points):
        found = front(trials)
        assert (len(found.rows), found.hypervolume, found.left_out) == (0, 0.0, {})
        assert math.isnan(found.reference["fid"])
        # what an empty front says of its corner is no corner: the next one finds its own
        full = pd.DataFrame([{"fid": 2.0, "probe_codes": 0.5, "status": "done", "data": "d", "fid_features": "f"}])
        assert front(full, reference=found.reference).hypervolume == pytest.approx(math.log(3.2 / 3) * 0.5)
        assert fronts_by(trials, "model") == {}


def test_considered_rows_and_reasons(run: Path) -> None:
    found = front(load(run).trials)
    assert list(found.rows["trial"]) == ["t04", "t00", "t01", "t02"]  # equal points both stay; stopped is finished
    assert list(found.rows["collapsed"]) == [True, False, False, False]
    assert len(found.points) == ENDED_WELL
    assert found.left_out == {
        "unfinished": 2,
        "failed": 1,
        "diverged": 1,
        "no fid: the decoder's images are constant": 1,
        "no probe_codes: NaN, no reason recorded": 1,
        "no fid: infinite": 1,
    }
    assert found.reference == {"fid": 32.5, "probe_codes": 0.0}


def test_the_corner_is_what_is_reached_without_a_model(tmp_path: Path) -> None:
    members = [member(0, fid=10.0, probe_codes=0.8), member(1, fid=2.0, probe_codes=0.5, model="ae")]
    ends: dict[str, Value] = {"fid_worst": 1500.0, "probe_chance": 0.1}
    found = fronts_by(study(tmp_path, [{**m, **ends} for m in members]).trials, "model")
    assert found["ae"].reference == {"fid": 1500.0, "probe_codes": 0.1}
    assert found["vae"].hypervolume == pytest.approx(math.log(1501 / 11) * 0.7)
    # whoever is best stays so if the corner were elsewhere, and if one hopeless member is added
    for worst in (500.0, 1500.0, 5000.0):
        corner = {"fid": worst, "probe_codes": 0.1}
        again = fronts_by(study(tmp_path / str(worst), members).trials, "model", reference=corner)
        assert again["vae"].hypervolume > again["ae"].hypervolume


def test_pinned_reference_makes_hypervolume_grow_with_the_study(run: Path) -> None:
    trials = load(run).trials
    pinned = front(trials.head(2)).reference
    volumes = [front(trials.head(n), reference=pinned).hypervolume for n in range(1, len(trials) + 1)]
    assert volumes == sorted(volumes)


# Refusals


@pytest.mark.parametrize(
    ("objectives", "says"),
    [
        (["fid", "beauty"], "beauty: no such metric; there are likelihood"),
        (["fid", "mi_gap"], "mi_gap: it only describes; say mi_gap=min or mi_gap=max"),
        (["fid", "test_probe_codes"], "chosen on the validation split; use probe_codes"),
        ({"fid": "max", "mi_q": "max"}, "fid: direction 'max'; allowed: min"),
        ({"fid": "down", "mi_q": "max"}, "fid: direction 'down'; allowed: min"),
        (["fid"], "two or more"),
    ],
)
def test_bad_objectives(objectives: dict[str, str] | list[str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        directions(objectives)


def test_a_describing_metric_takes_the_direction_given() -> None:
    assert directions({"mi_gap": "min", "mi_q": ""}) == {"mi_gap": "min", "mi_q": "max"}


@pytest.mark.parametrize(
    ("column", "values", "option"),
    [("data", ("digits", "mnist"), "--data"), ("fid_features", ("classifier", "inception"), "--features")],
)
def test_mixes_are_refused_until_one_is_chosen(
    tmp_path: Path, column: str, values: tuple[str, str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [member(i, **{column: values[i > 3]}) for i in range(6)]
    trials = study(tmp_path, members).trials
    with pytest.raises(
        ValueError, match=rf"{column} is mixed: {values[0]} \(4 trials\), {values[1]} \(2 trials\).*{option}"
    ):
        front(trials)
    found = front(trials, only={column: values[1]})
    assert (len(found.points), found.left_out) == (2, {f"{column} not {values[1]}": 4})
    assert [len(g.points) for g in fronts_by(trials, "model", only={column: values[1]}).values()] == [2]
    with pytest.raises(ValueError, match=f"{column}=cifar: no trial has it; there are {values[0]}, {values[1]}"):
        front(trials, only={column: "cifar"})
    assert main([str(tmp_path)]) == 2
    assert f"Choose one with {option}" in capsys.readouterr().err
    assert main([str(tmp_path), option, values[1]]) == 0


def test_features_may_be_mixed_where_no_distance_is_an_objective(tmp_path: Path) -> None:
    trials = study(tmp_path, [member(0, fid_features="inception"), member(1)]).trials
    assert len(front(trials, ["mi_q", "probe_codes"]).points) == 2


# Stores


def test_running_study_is_read_beside_its_writer(tmp_path: Path) -> None:
    store = write(tmp_path, MIXED[:6])
    assert len(front(load(tmp_path).trials).points) == ENDED_WELL
    store.mark(["t05"], Status.DONE)
    assert len(front(load(tmp_path).trials).points) == ENDED_WELL + 1
    store.close()
    read = load(tmp_path)
    assert (len(read.reports), read.meta["study"]) == (6, "tradeoff")


TAMPERED = {
    "DROP TABLE reports": "no such table: reports",
    "ALTER TABLE trials DROP COLUMN model": "table trials lacks model",
    "ALTER TABLE reports RENAME COLUMN epoch TO time": "epoch",
    "UPDATE trials SET fid='<b>low</b>' WHERE trial='t00'": "column fid holds text where numbers belong",
    "UPDATE trials SET fid='low'": "column fid holds text where numbers belong",
    "UPDATE trials SET model=x'00ff'": "column model holds numbers where text belongs",
    "UPDATE trials SET status='great' WHERE trial='t00'": "status 'great' is none of planned",
    "UPDATE meta SET value='99'": "format '99'; this version reads 3, 4 and 5",
    "UPDATE trials SET reasons='[1' WHERE trial='t09'": "trial t09: column reasons is no JSON object",
    "UPDATE trials SET reasons='5' WHERE trial='t09'": "trial t09: column reasons is no JSON object",
    "UPDATE trials SET flags='{' WHERE trial='t00'": "trial t00: column flags is no JSON object",
    "UPDATE trials SET flags='[1]' WHERE trial='t00'": "trial t00: column flags is no JSON object",
    "INSERT INTO meta VALUES ('objectives', '[')": "objectives '[' are no mapping",
    "INSERT INTO meta VALUES ('objectives', '{\"fid\": 1}')": "are no mapping of a metric to min or max",
    'INSERT INTO meta VALUES (\'objectives\', \'{"fid": "min", "beauty": "max"}\')': "beauty: no such metric",
}


@pytest.mark.parametrize("statement", TAMPERED)
def test_tampered_store_is_a_clear_error(run: Path, statement: str, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(run / "study.db") as db:
        db.execute(statement)
    db.close()
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert TAMPERED[statement] in error
    assert error.count("\n") <= 2


def test_no_run_folder_and_broken_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run folder \(it needs study\.db\)"):
        load(run / "nowhere")
    with pytest.raises(FileNotFoundError, match=f"runs in it: {run}"):
        load(run.parent)
    whole = (run / "study.db").read_bytes()
    (run / "study.db").write_bytes(b"nonsense" * 999)
    with pytest.raises(ValueError, match="not a results store"):
        load(run)
    (run / "study.db").write_bytes(whole[: len(whole) // 2])
    assert main([str(run)]) == 2
    assert "Traceback" not in capsys.readouterr().err


# What is written and printed

SCRIPT = "<script>alert(1)</script>$\\frac[/red]"


def test_export_writes_everything_and_only_that(run: Path) -> None:
    paths = export(run)
    assert [str(p.relative_to(run)) for p in paths.values()] == list(paths)
    assert {p for p in run.rglob("*") if p.is_file()} == {*paths.values(), run / "study.db"}
    assert pyarrow.parquet.read_table(paths["trials.parquet"]).num_rows == len(MIXED)
    for table in (pd.read_csv(paths["pareto.csv"]), pd.read_parquet(paths["tables/front.parquet"])):
        assert list(table["trial"]) == ["t04", "t00", "t01", "t02"]
    assert paths["tables/front.tex"].read_text(encoding="utf-8").startswith(r"\begin{table}")
    assert "@inproceedings{fonseca2006," in paths["tables/references.bib"].read_text(encoding="utf-8")
    assert paths["report.html"].read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert paths["figures/front.png"].read_bytes().startswith(b"\x89PNG")
    assert paths["figures/front.pdf"].read_bytes().startswith(b"%PDF")
    page = paths["figures/front.html"].read_text(encoding="utf-8")
    assert re.findall("<script[^>]+src=[^>]+>", page) == ['<script charset="utf-8" src="plotly.min.js">']
    assert paths["figures/plotly.min.js"].read_text(encoding="utf-8").startswith("/**\n* plotly.js v")


def test_export_keeps_the_table_when_the_front_is_refused(tmp_path: Path) -> None:
    mixed = study(tmp_path, [member(0), member(1, data="mnist")])
    with pytest.raises(ValueError, match="data is mixed"):
        export(mixed)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".parquet"] == ["trials.parquet"]


@pytest.mark.parametrize("members", [[], MIXED[5:], [member(0, mi_q=0.1)], [member(0, model=None, prior=None)]])
def test_odd_studies_export_and_print(tmp_path: Path, members: list[dict[str, Value]]) -> None:
    odd = study(tmp_path, members)
    print_front(odd, Console(file=io.StringIO()), paths=export(odd))


def test_names_from_the_study_are_text_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "figures_of", figures_of)
    members = [
        member(i, model=SCRIPT, study=SCRIPT, prior=SCRIPT, fid_features=SCRIPT, fid=float(i + 1), mi_noised=float(i))
        for i in range(3)
    ]
    nasty = study(tmp_path, [*members, member(3, model=SCRIPT, status=Status.FAILED, error=SCRIPT)])
    pages = [path for path in export(nasty).values() if path.suffix == ".html"]
    assert len(pages) > 5
    assert not any("<script>alert" in page.read_text(encoding="utf-8") for page in pages)
    drawn = interactive_front(front(nasty.trials))
    shown = [t for trace in drawn.data for t in (trace.name, *(trace.hovertext or ()))]
    shown += [drawn.layout.title.text, drawn.layout.xaxis.title.text]
    assert not any("<script" in text for text in shown)
    assert any("&lt;script&gt;alert(1)" in text for text in shown)
    assert SCRIPT in printed(nasty)


def printed(read: Study, paths: dict[str, Path] | None = None) -> str:
    text = io.StringIO()
    print_front(read, Console(file=text, width=120), paths=paths)
    return text.getvalue()


def test_printed_summary(run: Path) -> None:
    text = printed(load(run), paths={"x": run / "trials.parquet"})
    assert max(map(len, text.splitlines()[:-1])) <= 120
    assert "4 of 5 trials" in text
    assert "from the reference point fid 32.5, probe_codes 0" in text
    assert "collapsed" in text
    assert "5 of 12 trials considered; left out: 2 unfinished, 1 failed" in text
    assert "loss was nan at step 812" in text
    assert "out of [bold]memory[/nope]" in text
    assert "\x1b" not in text
    assert text.splitlines()[-1] == str(run / "trials.parquet")


def test_printed_front_marks_what_is_not_to_be_trusted(tmp_path: Path) -> None:
    why = "its critic tells every example apart: no estimate"
    doubtful = member(1, fid=60.0, probe_codes=0.95, flags=json.dumps({"restriction/joint_js": why}))
    text = printed(study(tmp_path, [member(0), doubtful]))
    lines = text.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.strip() == "flagged")
    assert lines[at - 1].startswith("t01")
    assert f"flagged: restriction/joint_js: {why}" in text


def test_command_line_chooses_objectives(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--objectives", "mi_q", "fid=min"]) == 0
    assert "reference point mi_q" in capsys.readouterr().out
    assert main([str(run), "--objectives", "mi_q", "fid=max"]) == 2
    assert capsys.readouterr().err == "objective fid: direction 'max'; allowed: min\n"


def test_needs_neither_torch_nor_ray() -> None:
    code = "import sys, analysis.__main__; print(sorted({'torch', 'ray', 'matplotlib.pyplot'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Figures


def test_styles_are_fixed_and_distinct() -> None:
    assert len({s.marker for s in STYLES.values()}) == len({s.symbol for s in STYLES.values()}) == len(STYLES) == 16
    custom = style("my_model")
    assert custom == style("my_model")
    assert custom not in STYLES.values()


def test_figures_show_every_point_and_the_front_as_steps(run: Path) -> None:
    found = front(load(run).trials)
    figure = static_front(found)
    axes = figure.axes[0]
    assert sum(len(c.get_offsets()) for c in axes.collections) == ENDED_WELL
    (line,) = axes.lines
    assert line.get_drawstyle() == "steps-post"
    assert list(line.get_xdata()) == list(found.rows["fid"])
    assert {"ae", "vae", "front", "FID (classifier features, lower is better)"} <= {
        t.get_text() for t in figure.findobj(Text)
    }
    drawn = interactive_front(found)
    markers = [t for t in drawn.data if t.mode == "markers"]
    assert sum(len(t.x) for t in markers) == ENDED_WELL
    hollow = [t for t in markers if t.marker.symbol.endswith("-open")]
    assert [list(t.x) for t in hollow] == [[5.0]]
    assert "collapsed" in hollow[0].hovertext[0]
    for part in ("prior normal", "weight 1", "probe_codes", "test 55", "restriction/posterior_kl"):
        assert part in hollow[0].hovertext[0]


def test_collapsed_points_do_not_stretch_the_axes(tmp_path: Path) -> None:
    members = [member(i, fid=10.0 + i, probe_codes=0.9 + i / 100) for i in range(3)]
    found = front(study(tmp_path, [*members, member(3, fid=900.0, probe_codes=0.1, mi_q=0.1)]).trials)
    axes = static_front(found).axes[0]
    assert axes.get_xlim()[1] < 13
    assert axes.get_ylim()[0] > 0.89


def test_three_objectives_have_a_front_but_no_line(run: Path) -> None:
    found = front(load(run).trials, ["fid", "probe_codes", "mi_q"])
    assert found.hypervolume > 0
    assert not static_front(found).axes[0].lines


def test_a_member_of_two_runs_stands_once_on_their_front(tmp_path, capsys):
    shared = [member(0, fid=10.0, probe_codes=0.8), member(1, fid=20.0, probe_codes=0.9)]
    write(tmp_path / "a", shared).close()
    # grown by one, and one that came out otherwise on another machine
    write(
        tmp_path / "b",
        [shared[0], {**shared[1], "fid": 20.5, "probe_codes": 0.91}, member(2, fid=5.0, probe_codes=0.7)],
    ).close()
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert "Pareto front on the validation split: 4 of 4 trials" in said
    assert said.count("t00") == 1
    assert said.count("t01") == 2
    told = "1 member of several runs stands once, under the first"
    assert told in said
    assert told in (tmp_path / "a" / "report.html").read_text()
    # each run's own front has it
    labels, every = pooled([load(tmp_path / name) for name in "ab"])
    assert every.groupby("run").size().to_dict() == dict(zip(labels, (2, 3), strict=True))


def test_a_metric_that_was_added_in_one_run_does_not_count_its_members_twice(tmp_path):
    shared = member(0, fid=10.0, probe_codes=0.8)
    write(tmp_path / "a", [shared]).close()
    write(tmp_path / "b", [{**shared, "kid": 3.0}, member(1, fid=5.0, probe_codes=0.7)]).close()
    for order in ("ab", "ba"):
        rows, told = once(pooled([load(tmp_path / name) for name in order])[1])
        assert told == "1 member of several runs stands once, under the first"
        assert len(rows) == 2
        assert rows.loc[rows["trial"] == shared["trial"], "kid"].tolist() == [3.0]
