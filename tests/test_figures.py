"""Figures of hand-made studies, what they are drawn from, and that they leave out what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image

from gimtune.analysis import Front, front
from gimtune.analysis.figures import views
from gimtune.analysis.figures.fronts import interactive_front, static_front
from gimtune.analysis.figures.gallery import FIGURES, figures_of
from gimtune.analysis.figures.look import PAPER, SCREEN
from gimtune.results.store import Store
from gimtune.training import samples as kept
from gimtune.vocabulary import Direction


def trials(**columns: object) -> pd.DataFrame:
    """Members of two models, two weights and two seeds; ``columns`` replace or add."""
    table = pd.DataFrame(
        {
            "trial": [f"t{i}" for i in range(8)],
            "study": "tradeoff",
            "model": ["vae"] * 4 + ["wae_mmd"] * 4,
            "side": "q",
            "likelihood_name": "bernoulli",
            "prior": "normal",
            "weight": [0.1, 0.1, 1.0, 1.0] * 2,
            "seed": [0, 1] * 4,
            "data": "digits",
            "status": "done",
            "fid": [50.0, 52.0, 30.0, 33.0, 80.0, 78.0, 60.0, 61.0],
            "probe_codes": [0.90, 0.91, 0.80, 0.81, 0.95, 0.94, 0.93, 0.92],
            "mi_q": np.linspace(5, 20, 8),
            "mi_noised": np.linspace(4, 12, 8),
            "mi_lower": np.linspace(3, 5.9, 8),
            "mi_upper": np.linspace(3.2, 11, 8),
            "likelihood_x": -np.linspace(30, 20, 8),
            "restriction": np.linspace(0.1, 3, 8),
            "restriction/posterior_kl": [3.0, 3.1, 9.0, 9.1] + [math.nan] * 4,
            "fid_features": "classifier:1",
            "flags": "{}",
        }
    )
    return table.assign(**columns)


STUDIES = {
    "usual": trials(),
    "nan": trials(mi_q=math.nan, mi_noised=[math.nan] * 4 + [1.0] * 4, prior=None, model=None),
    "one model, one seed": trials().iloc[[0, 2]],
    "collapsed": trials(mi_q=0.1, mi_noised=0.0),
    "flagged": trials(flags=json.dumps({"restriction/posterior_kl": "no estimate", "test_fid": "?"})),
    "side p": trials(side="p", likelihood_x=math.nan),
    "weight 0": trials(weight=0.0),
    "numbers alone": trials()[["trial", "status", "data", "fid_features", "fid", "probe_codes", "model"]],
    "sizes": trials(
        latent_dim=[2, 2, 2, 2, 8, 8, 8, 8],
        model="vae",
        assignment=['{"latent_dim": 2}'] * 4 + ['{"latent_dim": 8}'] * 4,
    ),
    "nothing": trials().iloc[:0],
    "unfinished": trials(status="running"),
}


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_is_drawn_or_is_none(name: str, tmp_path: Path) -> None:
    found = front(STUDIES[name])
    drawn = set()
    for key, kind in FIGURES.items():
        static, interactive = kind.static(found, tmp_path), kind.interactive(found, tmp_path)
        assert kind.title
        assert kind.caption
        if static is not None:
            drawn.add(key)
        if name == "usual" and static is not None and interactive is not None:
            static.draw_without_rendering()
            interactive.to_json()
    missing = {"samples", "codes", "neighbours", "latents", "courses"}
    assert ("sizes" in drawn) == (name == "sizes")
    missing |= {"sizes"}
    if name in ("usual", "flagged"):
        assert drawn == {*FIGURES} - missing
    if name in ("nothing", "unfinished"):
        assert drawn == {"front"}
    if name == "weight 0":
        assert not any(key.startswith("weights") for key in drawn)
    if name == "side p":
        assert "rate_distortion" not in drawn


def test_figures_follow_the_objectives(tmp_path: Path) -> None:
    table = trials()
    table = table.assign(energy=np.linspace(0.1, 1, 8), knn_codes=np.linspace(0.4, 0.9, 8))
    found = front(table, {"energy": "min", "knn_codes": "max"})
    kinds = figures_of(found.objectives)
    assert {*kinds} - {*FIGURES} == {"weights_energy", "weights_knn_codes"}
    for key in ("information", "mi", "weights_energy", "weights_knn_codes"):
        texts = [text.get_text() for text in kinds[key].static(found, tmp_path).findobj(Text)]
        assert any("Energy distance" in t or "nearest" in t for t in texts), key
        assert not any("Frechet" in t or "FID" in t or "Linear" in t for t in texts), key
    assert {**figures_of(front(table).objectives)} == {**FIGURES}


def test_three_objectives_and_no_distance(tmp_path: Path) -> None:
    table = trials(fid_features=["classifier:1", "inception"] * 4)
    found = front(table, ["mi_q", "probe_codes", "mi_lower"])
    for kind in FIGURES.values():
        kind.static(found, tmp_path)
        kind.interactive(found, tmp_path)
    # distances of two networks do not share an axis
    assert set(views.measured(found.points, ["fid"])["fid_features"]) == {"classifier:1"}
    assert len(views.measured(found.points, ["mi_q"])) == len(table)


def test_sizes_are_compared_at_their_own_best_weights_on_the_test_split(tmp_path: Path) -> None:
    rows = [
        # size, weight, seed, fid, test fid, test probe
        (2, 0.1, 0, 50, 55, 0.7),
        (2, 0.1, 1, 52, 57, 0.72),
        (2, 1.0, 0, 30, 33, 0.6),
        (2, 1.0, 1, 34, 35, 0.62),
        (8, 0.1, 0, 20, 21, 0.9),
        (8, 0.1, 1, 20, 23, 0.9),
        (8, 1.0, 0, 25, 1, 0.5),
        (8, 1.0, 1, 10, 2, 0.5),
    ]
    told = pd.DataFrame(rows, columns=["latent_dim", "weight", "seed", "fid", "test_fid", "test_probe_codes"])
    table = trials(**told, assignment=[json.dumps({"latent_dim": size}) for size in told["latent_dim"]], model="vae")
    found = front(table)
    shown = views.sizes(found.points, found.objectives).set_index("latent_dim")
    # of eight dimensions the second weight is the better one by the mean of seeds
    assert dict(shown["fid"]) == pytest.approx({2: 34, 8: 1.5})
    assert dict(shown["probe_codes"]) == pytest.approx({2: 0.61, 8: 0.5})
    assert dict(shown["given_up"]) == pytest.approx({2: 0.1, 8: 0.4})
    figure = FIGURES["sizes"].static(found, tmp_path)
    assert [axes.lines[0].get_ydata().tolist() for axes in figure.axes] == [
        pytest.approx(list(shown[key])) for key in ("fid", "probe_codes", "given_up")
    ]
    assert len(FIGURES["sizes"].interactive(found, tmp_path).data) == 3
    collapsed = table.assign(
        mi_q=np.where(told["latent_dim"] == 2, 0.1, 5), mi_noised=np.where(told["latent_dim"] == 2, 0.0, 5)
    )
    assert FIGURES["sizes"].static(front(collapsed), tmp_path) is None
    # objectives that are sought the other way
    turned = views.sizes(found.points, {"fid": Direction.MAX, "probe_codes": Direction.MIN})
    assert turned["fid"].tolist() == pytest.approx([56, 22])
    assert turned["given_up"].tolist() == pytest.approx([0, 0])
    # sizes are compared in what else is equal alone
    apart = table.assign(network=["mlp" if size == 2 else "conv" for size in told["latent_dim"]])
    assert FIGURES["sizes"].static(front(apart), tmp_path) is None


# Thinning


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40), st.integers(1, 30))
def test_thinning_keeps_the_front_and_every_model(rows: list[tuple[str, bool]], most: int) -> None:
    points = pd.DataFrame(rows, columns=["model", "on_front"]).astype({"on_front": bool})
    kept = views.thinned(points, most)
    best = points["on_front"]
    assert len(kept) == min(len(points), max(most, best.sum()))
    assert set(points.index[best]) <= set(kept.index)
    assert kept.index.is_monotonic_increasing
    pd.testing.assert_frame_equal(kept, views.thinned(points, most))
    left = points[~best]["model"].value_counts()
    counts = kept[~kept["on_front"]]["model"].value_counts().reindex(left.index, fill_value=0)
    cut = counts[counts < left]
    assert cut.empty or counts.max() <= cut.min() + 1


def many(count: int) -> Front:
    generator = np.random.default_rng(0)
    best = generator.uniform(size=count)
    table = pd.DataFrame({"fid": 10 + 100 * best + generator.exponential(20, count)})
    table = table.assign(probe_codes=0.5 + 0.4 * best, model=generator.choice(["vae", "aae"], count))
    table = table.assign(trial=table.index.astype(str), seed=0, data="digits", status="done", fid_features="f")
    return front(table.assign(study="large", prior="normal", weight=10 ** generator.uniform(-3, 1, count)))


def test_a_large_study_is_thinned_and_says_so(tmp_path: Path) -> None:
    found = many(20_000)
    figure = static_front(found)
    axes = figure.axes[0]
    offsets = np.vstack([c.get_offsets() for c in axes.collections])
    assert len(offsets) == PAPER
    assert {*map(tuple, found.rows[["fid", "probe_codes"]].to_numpy())} <= {*map(tuple, offsets)}
    assert f"({PAPER:,} of 20,000 drawn, the front whole)" in axes.get_title()
    drawn = interactive_front(found)
    assert sum(len(t.x) for t in drawn.data if t.mode == "markers") == SCREEN
    assert "20,000" in drawn.layout.title.text
    # as many different weights are gathered
    assert len(views.sweep(found.points, "fid")) == 20


# What figures are drawn from


def test_band_of_three_seeds() -> None:
    rows = [(0, 1.0, 0.5), (0, 3.0, 0.9), (1, 2.0, 0.6), (1, 3.0, 0.7), (2, 2.0, 0.4), (2, 4.0, 0.8)]
    table = pd.DataFrame(rows, columns=["seed", "fid", "probe_codes"])
    found = front(table.assign(model="vae", data="d", status="done", fid_features="f"))
    band = views.band(found)
    assert band is not None
    assert band.seeds == 3
    by = {x: row for x, *row in zip(band.x, band.best, band.median, band.worst, strict=True)}
    assert by[1.0] == pytest.approx([0.5, math.nan, math.nan], nan_ok=True)
    assert by[2.0] == pytest.approx([0.6, 0.5, 0.4])
    assert by[3.0] == pytest.approx([0.9, 0.7, 0.4])
    assert by[4.0] == pytest.approx([0.9, 0.8, 0.7])
    axes = static_front(found, band).axes[0]
    assert [line.get_linestyle() for line in axes.lines] == ["--", "-"]
    assert views.band(front(found.points.assign(seed=0))) is None
    assert views.band(front(found.points.assign(seed=range(6)))) is None


def test_sweep_is_mean_and_spread_over_seeds() -> None:
    table = trials(mi_q=[8.0] * 7 + [0.1])
    table.loc[0, "flags"] = json.dumps({"fid": "?"})
    found = views.sweep(front(table).points, "fid")
    assert list(found["mean"]) == [51.0, 31.5, 79.0, 60.5]
    assert list(found["members"]) == [2] * 4
    assert list(found["low"]) == pytest.approx([50.2, 30.3, 78.2, 60.1])
    assert list(found["collapsed"]) == [False, False, False, True]
    assert list(found["flagged"]) == [True, False, False, False]


def test_rates_and_what_has_none() -> None:
    table = trials(side=["q"] * 7 + ["p"], likelihood_name=["bernoulli"] * 5 + ["features", "gaussian", "bernoulli"])
    table.loc[4, "mi_q"] = math.nan
    found = views.rate_distortion(front(table).points)
    assert list(found.points["prior"]["rate"]) == [3.0, 3.1, 9.0, 9.1]
    assert list(found.points["information"]["rate"]) == list(table["mi_q"][:4])
    assert list(found.points["prior"]["distortion"]) == list(-table["likelihood_x"][:4])
    assert found.likelihood == "bernoulli"
    assert found.left_out == {
        "not of side q": 1,
        "likelihood of a critic's features": 1,
        "likelihood not bernoulli": 1,
        "no rate: no density of q(z|x)": 1,
    }


def test_flags_are_seen_and_checked() -> None:
    points = front(trials(flags=[json.dumps({"restriction/posterior_kl": "?"}), None, *["{}"] * 6])).points
    assert list(views.flagged(points, "restriction")) == [True] + [False] * 7
    assert list(views.flagged(points, "restriction/posterior_kl")) == [True] + [False] * 7
    assert not views.flagged(points, "fid").any()
    with pytest.raises(ValueError, match="trial t0: column flags is no JSON object"):
        views.flagged(points.assign(flags="[1"), "fid")


def test_flagged_rates_are_ringed(tmp_path: Path) -> None:
    figure = FIGURES["rate_distortion"].static(front(STUDIES["flagged"]), tmp_path)
    assert figure is not None
    ringed = [c for c in figure.axes[0].collections if c.get_sizes()[0] > 80 and not len(c.get_facecolor())]
    assert [len(c.get_offsets()) for c in ringed] == [4]
    assert any("flagged" in text.get_text() for text in figure.findobj(Text))


def test_chosen_are_the_ends_the_knee_and_some_between() -> None:
    x = np.linspace(0, 1, 30)
    table = pd.DataFrame({"fid": 1 + x, "probe_codes": x ** (1 / 8), "model": "vae", "trial": map(str, range(30))})
    found = front(table.assign(status="done", data="d", fid_features="f"))
    rows = views.chosen(found)
    assert len(rows) == 6
    assert {"0", "29"} <= {*rows["trial"]}
    assert rows["knee"].sum() == 1
    assert rows["fid"].is_monotonic_increasing


# Samples and codes


def test_codes_of_a_trial_make_a_map(tmp_path: Path) -> None:
    import torch

    codes = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 4.0, 0.1, 0.1, 0.1])
    path = tmp_path / "samples" / "t0-latents.npz"
    kept.save_codes(codes, torch.arange(50) % 10, path)
    found = views.latent_map(tmp_path, "t0")
    assert found is not None
    assert found.latent_dim == 5
    assert found.explained > 0.99
    assert np.abs(np.corrcoef(found.codes[:, 0], codes[:, 0])[0, 1]) > 0.999
    assert list(found.labels) == list(np.arange(50) % 10)
    kept.save_codes(codes[:, :2], torch.arange(50) % 10, path)
    plane = views.latent_map(tmp_path, "t0")
    assert plane is not None
    assert plane.explained == 1
    assert plane.codes == pytest.approx(codes[:, :2].half().numpy())


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


def test_damaged_and_hostile_samples_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    samples = tmp_path / "run" / "samples"
    samples.mkdir(parents=True)
    np.savez(samples / "t0-latents.npz", codes=np.array([Bomb(), Bomb()], dtype=object), labels=np.zeros(2))
    np.savez(samples / "t1-latents.npz", codes=np.zeros((3, 2)), labels=np.zeros(2))
    (samples / "t2-latents.npz").write_bytes(b"PK\x03\x04nonsense")
    (samples / "t3-latents.npz").write_bytes(b"nonsense")
    np.savez(tmp_path / "outside-latents.npz", codes=np.eye(2), labels=np.zeros(2))
    for trial in ("t0", "t1", "t2", "t3", "t4", "../../outside", str(tmp_path / "outside")):
        assert views.latent_map(tmp_path / "run", trial) is None
    assert not Path("exploded").exists()
    (samples / "t4.png").write_bytes(b"\x89PNG nonsense")
    Image.new("L", (8, 8)).save(samples / "t2.png")
    found = front(trials())
    assert {"t2", "t4"} <= {*found.rows["trial"]}
    figure = FIGURES["samples"].static(found, tmp_path / "run")
    assert figure is not None
    assert len(figure.axes) == 1


# Over training


def test_a_line_goes_from_the_first_evaluation_to_the_last_and_members_that_left_stay_in_its_mean(
    tmp_path: Path,
) -> None:
    table = trials(levelled=[1.0, 1.0, 1.0, 0.0] * 2, epoch=40)
    fids = {"t0": [60.0, 50.0], "t1": [80.0], "t2": [40.0, 30.0], "t3": [50.0, 33.0]}
    with Store(tmp_path / "study.db", create=True) as store:
        store.plan([{"trial": t} for t in table["trial"]])
        for trial, values in fids.items():
            for epoch, fid in enumerate(values, 1):
                store.report([{"trial": trial, "epoch": 20 * epoch, "fid": fid, "probe_codes": 0.5 + 0.1 * epoch}])
        reports = store.reports()
    rows = views.course(table, reports, "fid", "probe_codes")
    lines = dict(iter(rows.groupby("weight")))
    assert lines[0.1]["fid"].tolist() == [70.0, 65.0]
    assert lines[0.1]["probe_codes"].tolist() == pytest.approx([0.6, 0.65])
    assert lines[1.0]["fid"].tolist() == [45.0, 31.5]
    assert [lines[w]["levelled"].all() for w in (0.1, 1.0)] == [True, False]
    assert set(rows["model"]) == {"vae"}  # nothing was reported of the other
    found, kind = front(table), FIGURES["courses"]
    drawn, shown = kind.static(found, tmp_path), kind.interactive(found, tmp_path)
    assert drawn is not None
    assert shown is not None
    drawn.draw_without_rendering()
    assert [len(trace.x) for trace in shown.data] == [2, 2]
    assert [trace.marker.symbol[-1] for trace in shown.data] == ["circle", "circle-open"]
    assert views.some(range(100), 3) == [0, 50, 99]
