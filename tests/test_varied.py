"""What varies in a study beside what every row says: found, shown where rows are told apart, never pooled over."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from rich.console import Console
from test_analysis import member, write
from test_page import drawn

from gimtune.analysis import Study, front, fronts_by, load
from gimtune.analysis.export.latex import front_table
from gimtune.analysis.export.report import print_front, write_report
from gimtune.analysis.figures.fronts import interactive_front
from gimtune.analysis.figures.gallery import FIGURES
from gimtune.analysis.figures.views import sweep
from gimtune.analysis.statistics.attainment import configuration, mean_front
from gimtune.analysis.statistics.claims import claims
from gimtune.analysis.status import standing
from gimtune.analysis.watch import render
from gimtune.results import varied as module
from gimtune.results.load import pooled
from gimtune.results.varied import parameters, varied, with_varied
from gimtune.vocabulary import Status

CONFIG: dict[str, Any] = {
    "batch_size": 64,
    "critic": {},
    "data": {"name": "digits", "seed": 0},
    "learning_rate": 1e-3,
    "model": "vae",
    "network": {"name": "mlp", "hidden": [128]},
    "prior": {"name": "normal", "scale": 1.0},
    "seed": 0,
    "weight": 1.0,
}


def configured(**changes: Any) -> dict[str, Any]:
    """A configuration with changes by dotted name, its dots written as two underscores."""
    found = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (found[section] if section else found)[key] = value
    return found


def frame(*configurations: Any, **columns: Any) -> pd.DataFrame:
    texts = [json.dumps(c, sort_keys=True, separators=(",", ":")) for c in configurations]
    return with_varied(pd.DataFrame({"config": texts, **columns}))


# What is found


def test_what_differs_by_the_model_alone_is_no_column() -> None:
    other = {"model": "infogan", "sigma_start": 1.0, "restore": "objectives"}
    rows = [configured(sigma_start=0.03, restore="loss"), configured(**other)]
    assert varied(frame(*rows)) == ()
    assert varied(frame(*rows, configured(sigma_start=0.1, restore="loss"))) == ("sigma_start",)


def test_keys_with_more_than_one_value_are_columns() -> None:
    found = frame(
        configured(learning_rate=1e-3, network__hidden=[64, 64], critic__steps=2, seed=1, data__seed=1),
        configured(learning_rate=1e-4, critic__steps=None, weight=3.0, critic__spectral_norm=True),
        configured(critic__steps=5, batch_size=32),
    )
    assert varied(found) == ("batch_size", "critic.steps", "learning_rate", "network.hidden")
    assert found["learning_rate"].tolist() == [1e-3, 1e-4, 1e-3]
    assert found["batch_size"].tolist() == [64, 64, 32]
    assert found["network.hidden"].tolist() == ["[64, 64]", "[128]", "[128]"]
    assert found["critic.steps"].isna().tolist() == [False, True, False]


def test_options_of_a_part_vary_among_those_of_its_name() -> None:
    one, other = {"name": "mixture", "components": 4}, {"name": "laplace", "scale": 2.0}
    assert varied(frame(configured(), configured(prior=one), configured(prior=other))) == ()
    found = frame(configured(), configured(prior=other), configured(prior={**other, "scale": 3.0}))
    assert varied(found) == ("prior.scale",)
    assert found["prior.scale"].tolist() == [1.0, 2.0, 3.0]


def test_parameters_of_models_are_told_where_they_vary() -> None:
    chosen = [{"model": m, "alpha": a, "weight": w} for m, a, w in (("vae", 0, 1), ("info", 0, 1), ("info", 0.3, 2))]
    found = with_varied(pd.DataFrame({"assignment": map(json.dumps, chosen), "model": ["vae", "info", "info"]}))
    assert (varied(found), parameters(found)) == (("alpha",), ("alpha",))
    assert found["alpha"].isna().tolist() == [True, False, False]
    assert found["alpha"].tolist()[1:] == [0, 0.3]


def test_columns_that_are_there_stay() -> None:
    found = frame(configured(fid=1, mi_gap=2, epochs=3), configured(fid=2, mi_gap=3, epochs=4), fid=[7.0, 8.0])
    assert varied(found) == ("epochs",)
    assert found["fid"].tolist() == [7.0, 8.0]


@pytest.mark.parametrize("text", ["", "5", "[1", "{}", "null", "[" * 99_999, '{"a": {"b": {"c": 1}}}', None])
def test_configurations_that_are_none(text: str | None) -> None:
    rows = pd.DataFrame({"config": [text, json.dumps(CONFIG)], "assignment": [text, "{}"], "model": "vae"})
    assert varied(with_varied(rows)) == ()
    assert varied(with_varied(pd.DataFrame())) == ()
    assert varied(with_varied(pd.DataFrame({"fid": [1.0]}))) == ()


def test_members_that_differ_in_seed_and_weight_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand then take a fraction of a second; counted, since clocks of a busy machine say little."""
    seen = []
    monkeypatch.setattr(module, "_parsed", lambda text, inner=module._parsed: (seen.append(text), inner(text))[1])
    members = [
        configured(seed=i, weight=0.1 * i, learning_rate=rate, restrictions=[["latent", "js", 0.1 * i]])
        for i in range(50)
        for rate in (0.1, 0.2)
    ]
    assert varied(frame(*members)) == ("learning_rate",)
    assert len(seen) == 2


def test_fronts_and_their_parts_remember_what_varies() -> None:
    rows = frame(*(configured(learning_rate=0.1 * (i + 1)) for i in range(4)), fid=[1.0, 2.0, 3.0, 4.0])
    rows = rows.assign(probe_codes=[0.1, 0.3, 0.2, 0.4], model=list("aabb"), status="done", data="d")
    best = front(rows.assign(fid_features="f"))
    groups = fronts_by(rows.assign(fid_features="f"), "model")
    for part in (best.points, best.rows, *(table for group in groups.values() for table in group[1:3])):
        assert varied(part) == ("learning_rate",)


# Where it is shown


@pytest.fixture
def swept(tmp_path: Path) -> Study:
    """Two learning rates, two alphas of one of the two models, two weights and two seeds; one failed, one runs."""
    rows = []
    for i in range(32):
        model, rate, alpha = ("vae", "info_vae")[i // 16], (1e-3, 2.5e-4)[i // 8 % 2], (0.125, 0.5)[i // 4 % 2]
        weight, seed = (0.1, 1.0)[i // 2 % 2], i % 2
        chosen = {"model": model, "weight": weight, "seed": seed, "alpha": alpha if model == "info_vae" else 0.125}
        one = member(i, model=model, weight=weight, seed=seed, fid=10.0 + i, probe_codes=0.3 + i / 64)
        text = json.dumps(configured(model=model, learning_rate=rate, seed=seed, weight=weight), sort_keys=True)
        if model == "vae" and i // 4 % 2:
            one |= {"weight": weight + 1}
        rows.append({**one, "config": text, "assignment": json.dumps(chosen)})
    rows[4]["status"], rows[20]["status"], rows[20]["error"] = Status.RUNNING, Status.FAILED, "RuntimeError"
    write(tmp_path / "run", rows).close()
    return load(tmp_path / "run")


def test_rows_differ_in_every_table(swept: Study) -> None:
    assert swept.varied == ("learning_rate", "alpha")
    text = io.StringIO()
    print_front(swept, Console(file=text, width=200))
    printed = text.getvalue()
    written = write_report([swept])
    page = written.read_text(encoding="utf-8")
    table = front_table(front(swept.trials))
    for shown in (printed, page):
        assert "By learning_rate, from the same reference point" in shown
        assert "By alpha" not in shown
    assert "learning rate" in table
    for shown in (printed, page, table):
        assert "alpha" in shown
        for value in ("0.001", "0.00025", "0.125", "0.5"):
            assert value in shown
    pins = drawn(written)
    assert {dict(map(tuple, point["setting"])).get("alpha") for point in pins} == {"0.125", "0.5", None}
    assert not any(key == "alpha" for point in pins for key, *_ in point["metrics"])
    status = io.StringIO()
    Console(file=status, width=200).print(render(standing(swept.run)))
    (running,) = [row for row in status.getvalue().splitlines() if row.startswith("t04")]
    (failed,) = [row for row in status.getvalue().splitlines() if row.startswith("t20")]
    assert "0.001" in running
    assert "0.5" in failed


def test_hover_tells_it(swept: Study) -> None:
    told = [
        text.replace("<br>", " ")
        for trace in interactive_front(front(swept.trials)).data
        for text in trace.hovertext or ()
    ]
    assert all("learning_rate 0.00" in text for text in told)
    assert any("alpha 0.5" in text for text in told)


def test_configurations_are_not_pooled_over_it(swept: Study) -> None:
    assert configuration(swept.trials).nunique() == 16
    means = mean_front(swept.trials, generator=np.random.default_rng(0)).points
    assert len(means) == 16
    assert not means[["model", "weight", "learning_rate", "alpha"]].duplicated().any()
    assert claims(swept.trials, np.random.default_rng(0), redraws=2).configurations == 16


def test_claims_compare_what_is_alike_in_it() -> None:
    # best of each model by its learning rate: 10 and 110.02 of the VAE, 20.01 and 120.03 of the WAE
    rows = []
    for i in range(24):
        model, rate = ("vae", "wae")[i % 2], i // 2 % 2
        fid = 10.0 + 100 * rate + 10 * (i % 2) + i / 100
        key = ("posterior_kl", "latent_mmd")[i % 2]
        config = json.dumps(configured(learning_rate=(1e-4, 1e-3)[rate], weight=float(i)))
        rows.append({"model": model, "restrictions": json.dumps([key]), "weight": i, "test_fid": fid, "config": config})
    trials = pd.DataFrame(rows).assign(status="done", data="d", fid_features="f", seed=0, prior="normal", latent_dim=8)
    trials["fid"] = trials["test_fid"]
    apart, together = (
        next(c for c in claims(t, np.random.default_rng(0), redraws=0).claims if c.key == "c_generation")
        for t in (with_varied(trials), trials)
    )
    assert apart.value == pytest.approx(np.mean(np.log([20.01 / 10, 120.03 / 110.02])))
    assert together.value == pytest.approx(np.log(20.01 / 10))


def test_a_line_for_each_value(swept: Study, tmp_path: Path) -> None:
    found = front(swept.trials)
    lines = {model: {*part["line"]} for model, part in sweep(found.points, "fid").groupby("model")}
    rates = {"normal, learning_rate 0.001", "normal, learning_rate 0.00025"}
    assert lines["vae"] == rates
    assert lines["info_vae"] == {f"{rate}, alpha {alpha}" for rate in rates for alpha in ("0.125", "0.5")}
    figure = FIGURES["weights_fid"].static(found, tmp_path)
    assert figure is not None
    assert "normal, learning_rate 0.001, alpha 0.5" in {text.get_text() for text in figure.findobj(Text)}
    drawn = FIGURES["weights_fid"].interactive(found, tmp_path)
    assert drawn is not None
    assert rates <= {trace.name for trace in drawn.data}


def test_many_values_are_averaged_and_it_is_said(tmp_path: Path) -> None:
    rates = np.geomspace(1e-4, 1e-2, 12)
    rows = frame(*(configured(learning_rate=rate) for rate in rates), fid=np.arange(12.0), weight=[0.1, 1.0] * 6)
    rows = rows.assign(probe_codes=0.5, model="vae", prior="normal", status="done", data="d", fid_features="f", seed=0)
    found = front(rows)
    assert {*sweep(found.points, "fid")["line"]} == {"normal"}
    figure = FIGURES["weights_fid"].static(found, tmp_path)
    assert figure is not None
    assert any("averaged over learning_rate" in text.get_text() for text in figure.findobj(Text))


def test_a_key_that_differs_between_runs_alone_is_found(tmp_path: Path) -> None:
    for name, size in (("a", 64), ("b", 32)):
        text = json.dumps(configured(batch_size=size))
        write(tmp_path / name, [member(i, fid=10.0 + i, config=text) for i in range(3)]).close()
    runs = [load(tmp_path / name) for name in "ab"]
    assert [run.varied for run in runs] == [(), ()]
    _, trials = pooled(runs)
    assert varied(trials) == ("batch_size",)
    assert trials["batch_size"].tolist() == [64] * 3 + [32] * 3
