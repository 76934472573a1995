"""Verdicts on studies whose truth is known, effects against brute force, and studies that are small, odd or broken."""

from __future__ import annotations

import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from gimtune.analysis.__main__ import main
from gimtune.analysis.export.report import print_verdicts
from gimtune.analysis.statistics import claims as module
from gimtune.analysis.statistics.claims import Claim, Verdict, Verdicts, claims
from gimtune.analysis.statistics.effects import FEWEST, MEASURED
from gimtune.analysis.statistics.measures import CALIPER
from gimtune.results.store import Store
from gimtune.vocabulary import Status

FAMILIES = {"vae": "posterior_kl", "avb": "posterior_kl_contrast", "wae": "latent_mmd", "aae": "latent_js"}
MODELS = {**FAMILIES, "infogan": "data_js", "alice": "joint_js"}
KEYS = [key for key, *_ in module._CLAIMS]
HOLDS, UNDECIDED = Verdict.HOLDS, Verdict.UNDECIDED
Numbers = np.ndarray


def study(values: dict[str, Numbers], seeds: int, generator: np.random.Generator, noise: float = 0.25) -> pd.DataFrame:
    """Members of the configurations whose true values are given, in units of a standard deviation, by model and weight.

    What differs between seeds is ``noise``, and between the splits of one trained model a third of it.
    """
    number = len(values["fid"])
    models = np.resize([*MODELS], number)
    trials = pd.DataFrame({"model": np.repeat(models, seeds), "weight": np.repeat(np.arange(number), seeds)})
    seed = np.tile(np.arange(seeds), number)
    trials = trials.assign(seed=seed, restrictions=[json.dumps([MODELS[m]]) for m in trials["model"]], side="q")
    trials = trials.assign(prior="normal", latent_dim=8, data="digits", network="mlp", likelihood_name="bernoulli")
    trials = trials.assign(status="done", fid_features="classifier", mi_q=8.0, config=None)
    scale = {"fid": (100, 12), "fid_expost": (80, 8), "probe_codes": (0.8, 0.04), "likelihood_x": (-20, 2)}
    for key, true in values.items():
        middle, unit = scale.get(key, (10, 2))
        run = np.repeat(true, seeds) + noise * generator.normal(size=len(trials))
        for column in (key, f"test_{key}"):
            trials[column] = middle + unit * (run + noise / 3 * generator.normal(size=len(trials)))
    return trials.assign(**{c: trials[c].round(3) for c in trials if c.endswith("probe_codes")})


def world(kind: str, generator: np.random.Generator, weights: int = 10) -> pd.DataFrame:
    number = weights * len(MODELS)
    draw = dict(
        zip(
            ("information", "fid", "probe_codes", "mi", "likelihood_x"),
            generator.normal(size=(5, number)),
            strict=True,
        )
    )
    information = draw.pop("information")
    if kind == "trade-off":  # information makes codes better and samples worse; families differ in how much they keep
        family = {"posterior": 0.0, "latent": 1.5, "data": -2.0, "joint": -2.0}
        kept = np.array([family[MODELS[m].partition("_")[0]] for m in np.resize([*MODELS], number)])
        total = information + kept
        values = {"fid": total, "fid_expost": total, "probe_codes": total, "mi_noised": total + kept}
        values["likelihood_x"] = information
    elif kind == "mismatch":  # information makes codes better and further from the prior, and samples no worse
        other = draw["fid"]
        values = {"fid": other + 2 * information, "fid_expost": other, "probe_codes": information}
        values |= {"mi_noised": draw["mi"], "likelihood_x": draw["likelihood_x"]}
    else:
        values = {**draw, "mi_noised": draw.pop("mi"), "fid_expost": draw["fid"]}
        values.pop("mi", None)
    if kind == "luck":  # nothing but seeds
        values = {key: 0 * v for key, v in values.items()}
    return study({**values, "mi_lower": values["mi_noised"]}, 2, generator)


#: What each world was made to show; what is not named has no effect in it. Along a front of configurations that differ
#: a trade-off is there by construction.
TRUE = {
    "trade-off": {k: True for k in KEYS if not k.startswith("f_mismatch")},
    "none": {"a_front": None, "a_fronts": None},
    "mismatch": dict.fromkeys(
        ("a_overall", "a_within", "a_front", "a_fronts", "f_mismatch", "f_mismatch_within"), True
    ),
    "luck": {},
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "studies"), [("trade-off", 100), ("none", 200), ("mismatch", 200), ("luck", 100)])
def test_verdicts_are_right_in_95_of_100_studies(kind: str, studies: int) -> None:
    right = dict.fromkeys(KEYS, 0)
    decided = silent = 0
    for number in range(studies):
        generator = np.random.default_rng([number, 77])
        for claim in claims(world(kind, generator), generator, draws=400).claims:
            true = TRUE[kind].get(claim.key, False)
            right[claim.key] += true is None or (claim.verdict is HOLDS) == true
            if true is False:
                silent, decided = silent + 1, decided + (claim.verdict is not UNDECIDED)
    assert min(right.values()) >= 0.95 * studies, right
    # and on either side of nothing, since an interval at 95 % has two
    assert decided <= 0.05 * silent


# Effects against brute force

known = st.one_of(st.integers(0, 4).map(float), st.just(math.nan))
fine = st.one_of(st.integers(0, 30).map(float), st.just(math.nan))
rows = st.lists(st.tuples(known, known, st.sampled_from([*MODELS]), st.sampled_from("ab")), min_size=20, max_size=40)


def one_seed(values: list[tuple[float, float, str, str]], x: str, y: str) -> pd.DataFrame:
    trials = pd.DataFrame(values, columns=[f"test_{x}", f"test_{y}", "model", "prior"])
    trials = trials.assign(weight=range(len(trials)), restrictions=[json.dumps([MODELS[m]]) for m in trials["model"]])
    return trials.assign(status="done", data="d", fid_features="f", seed=0, likelihood_name="gaussian", latent_dim=2)


def answers(trials: pd.DataFrame, **options: Any) -> dict[str, Claim]:
    found = claims(trials, np.random.default_rng(0), **{"draws": 50, **options})
    assert [c.key for c in found.claims] == KEYS
    return {c.key: c for c in found.claims}


def tau(pairs: list[tuple[tuple[float, float], tuple[float, float]]]) -> float:
    """Tau-b over given pairs of points."""
    signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in pairs]
    x, y = (sum(s[i] != 0 for s in signs) for i in (0, 1))
    return sum(s * t for s, t in signs) / math.sqrt(x * y) if x * y else math.nan


@settings(max_examples=25)
@given(rows)
def test_rank_correlations(values: list[tuple[float, float, str, str]]) -> None:
    found = answers(one_seed(values, "mi_noised", "probe_codes"))
    points = [(x, y, m) for x, y, m, _ in values if math.isfinite(x + y)]
    if math.isfinite(found["e_overall"].value):
        expected = stats.kendalltau(*zip(*(p[:2] for p in points), strict=True)).statistic
        assert found["e_overall"].value == pytest.approx(expected)
    if math.isfinite(found["e_within"].value):
        pairs = [(a[:2], b[:2]) for a, b in itertools.combinations(points, 2) if a[2] == b[2]]
        assert found["e_within"].value == pytest.approx(tau(pairs))


@settings(max_examples=25)
@given(rows)
def test_better_is_counted_over_pairs_of_one_setting(values: list[tuple[float, float, str, str]]) -> None:
    found = answers(one_seed(values, "fid", "probe_codes"))
    points = [(f, p, MODELS[m].partition("_"), prior) for f, p, m, prior in values]

    def delta(column: int, ours: set[str], theirs: set[str], sign: int) -> float:
        pairs = [
            (i, j, sign * np.sign(a[column] - b[column]))
            for (i, a), (j, b) in itertools.product(enumerate(points), repeat=2)
            if a[2][0] in ours and b[2][0] in theirs and a[3] == b[3] and math.isfinite(a[column] + b[column])
        ]
        enough = all(len({p[side] for p in pairs}) >= FEWEST for side in (0, 1))
        return float(np.mean([p[2] for p in pairs])) if enough else math.nan

    gan, vae, wae = {"data", "joint"}, {"posterior"}, {"latent"}
    expected = {
        "c_generation": [delta(0, vae, wae, -1)],
        "c_representation": [delta(1, wae, vae, 1)],
        "d_generation": [delta(0, gan, vae, -1), delta(0, gan, wae, -1)],
        "d_representation": [delta(1, gan, vae, -1), delta(1, gan, wae, -1)],
    }
    for key, deltas in expected.items():
        least = min((d for d in deltas if math.isfinite(d)), default=math.nan)
        if "too few pairs that differ" not in found[key].note:  # else the bootstrap often draws none
            assert found[key].value == pytest.approx(least, nan_ok=True)


@given(
    st.lists(st.tuples(fine, known, st.sampled_from(["vae", "wae"]), st.sampled_from("ab")), min_size=20, max_size=40)
)
def test_information_is_compared_at_equal_likelihood(values: list[tuple[float, float, str, str]]) -> None:
    found = answers(one_seed(values, "likelihood_x", "mi_noised"))["b_likelihood"]
    width = CALIPER * np.std([v[0] for v in values if math.isfinite(v[0])] or [0.0])
    differences = [
        a[1] - b[1]
        for a, b in itertools.product(values, values)
        if (a[2], b[2], a[3]) == ("wae", "vae", b[3]) and abs(a[0] - b[0]) <= width and math.isfinite(a[1] - b[1])
    ]
    if math.isfinite(found.value):
        assert found.value == pytest.approx(np.mean(differences))
        assert f"over {len(differences)} pairs" in found.note


def test_intervals_are_those_of_drawing_configurations_anew() -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=40)
    points = np.column_stack([x, x + generator.normal(size=40)])
    trials = one_seed([(a, b, "vae", "a") for a, b in points], "mi_noised", "probe_codes")
    found = answers(trials, draws=4000)["e_overall"]
    drawn = [stats.kendalltau(*points[generator.integers(0, 40, 40)].T).statistic for _ in range(4000)]
    tail = stats.norm.cdf(-math.sqrt(40 / 39) * stats.t.ppf(0.975, 39))
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [tail, 1 - tail]), abs=0.025)
    assert 0.97 * tail < 0.025


def test_seeds_are_one_configuration() -> None:
    trials = world("trade-off", np.random.default_rng(0))
    once = claims(trials[trials["seed"] == 0], np.random.default_rng(1), draws=50)
    both = claims(pd.concat([trials, trials.assign(seed=trials["seed"] + 2)]), np.random.default_rng(1), draws=50)
    assert (once.trials, once.configurations) == (60, 60)
    assert (both.trials, both.configurations) == (240, 60)
    # the same numbers again are no further evidence
    same = claims(trials, np.random.default_rng(1), draws=50)
    pd.testing.assert_series_equal(both.table()["low"].drop([2, 3]), same.table()["low"].drop([2, 3]))


# What counts


def test_what_is_left_out_is_counted() -> None:
    trials = world("trade-off", np.random.default_rng(0))
    before = answers(trials)["a_overall"]
    bad = trials.head(5).assign(
        status=["diverged", "failed", "running", "planned", "stopped"],
        test_fid=1.0,
        test_probe_codes=0.0,
        weight=-1.0,
    )
    collapsed = trials.head(3).assign(mi_q=0.1, weight=-2.0, test_fid=1e6, test_probe_codes=0.1)
    found = claims(pd.concat([trials, bad.head(4), collapsed]), np.random.default_rng(0), draws=50)
    assert found.left_out == {"collapsed": 3, "unfinished": 2, "diverged": 1, "failed": 1}
    assert found.claims[0] == before
    assert claims(pd.concat([trials, bad]), np.random.default_rng(0), draws=50).trials == len(trials) + 1
    assert found.table()["left_out"].unique().tolist() == ["3 collapsed, 2 unfinished, 1 diverged, 1 failed"]


def test_data_sets_and_features_are_never_compared() -> None:
    # within each there is none, and between them a perfect trade-off
    trials = world("none", np.random.default_rng(2))
    moved = [trials, trials.assign(data="mnist"), trials.assign(fid_features="inception")]
    moved = [t.assign(**{c: t[c] + 1e3 * i for c in ("test_fid", "test_probe_codes")}) for i, t in enumerate(moved)]
    alone, mixed = answers(trials)["a_overall"], answers(pd.concat(moved))["a_overall"]
    assert mixed.value == pytest.approx(alone.value)
    assert mixed.configurations == 3 * alone.configurations
    chosen = answers(pd.concat(moved), only={"data": "mnist"})["a_overall"]
    assert (chosen.value, chosen.configurations) == (pytest.approx(alone.value), alone.configurations)


def test_splits() -> None:
    trials = world("trade-off", np.random.default_rng(0))
    trials["fid"] *= -1
    trials["fid"] += 300
    assert answers(trials)["a_overall"].verdict is HOLDS
    assert answers(trials, split="validation")["a_overall"].verdict is Verdict.DOES_NOT_HOLD
    with pytest.raises(ValueError, match="split train: allowed: test, validation"):
        answers(trials, split="train")
    with pytest.raises(ValueError, match="lack the column colour"):
        answers(trials, only={"colour": "red"})


def test_a_front_of_one_seed_and_one_split_says_nothing() -> None:
    trials = world("none", np.random.default_rng(0))
    single = trials[trials["seed"] == 0]
    on_test, on_itself = answers(single), answers(single, split="validation")
    assert "the trained models that chose it" in on_test["a_fronts"].note
    assert "by construction" in on_itself["a_fronts"].note
    assert on_itself["a_fronts"].verdict is UNDECIDED
    assert "2 folds of the seeds" in answers(trials)["a_fronts"].note


def test_a_large_study_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = world("trade-off", np.random.default_rng(0))
    monkeypatch.setattr(module, "MOST", 40)
    found = claims(trials, np.random.default_rng(0), draws=50)
    assert (found.configurations, found.trials) == (40, 80)
    assert found.left_out == {"thinned out, leaving 40 configurations": 40}
    assert found.claims[0].verdict is HOLDS


def test_the_same_generator_gives_the_same_verdicts() -> None:
    trials = world("none", np.random.default_rng(0))
    first, second, other = (claims(trials, np.random.default_rng(s), draws=50).table() for s in (0, 0, 1))
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_series_equal(first["value"], other["value"])
    assert (first["low"] != other["low"]).any()


# Small, odd and broken studies

odd = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(-1, 3).map(float))
RESTRICTIONS = [json.dumps([k]) for k in MODELS.values()] + [
    "[]",
    "[1]",
    "{}",
    "",
    "[1",
    None,
    '["latent_js", "data_js"]',
]


@given(st.data())
def test_any_study_is_answered(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 12))
    columns = {
        "status": st.sampled_from([*map(str, Status)] + ["done"] * 12),
        "restrictions": st.sampled_from(RESTRICTIONS),
        "model": st.sampled_from(["vae", "wae", None]),
        "weight": odd,
        "seed": st.sampled_from([0, 1, None]),
        "active_units": st.sampled_from([8, 0, None]),
        "mi_q": st.sampled_from([8, 0.1, None]),
        **{p + key: odd for p in ("", "test_") for key in MEASURED},
    }
    left = data.draw(st.sets(st.sampled_from([c for c in columns if c != "status"]), max_size=4))
    trials = pd.DataFrame(
        {c: [data.draw(s) for _ in range(size)] for c, s in columns.items() if c not in left} if size else {}
    )
    for split in ("test", "validation"):
        found = claims(trials, np.random.default_rng(0), split=split, draws=20)
        assert found.trials + sum(found.left_out.values()) == len(trials)
        for claim in found.claims:
            assert claim.note
            assert claim.configurations <= claim.trials <= found.trials
            if math.isnan(claim.value):
                assert claim.verdict is UNDECIDED
                assert claim.configurations == 0
            else:
                assert claim.low <= claim.high
                assert claim.configurations >= FEWEST
                assert (claim.verdict is HOLDS) == (claim.low > 0)
        print_verdicts(found, Console(file=io.StringIO()))


def test_reasons_of_studies_that_are_too_small() -> None:
    assert {c.note for c in answers(pd.DataFrame()).values()} == {"no trial has ended well"}
    trials = world("trade-off", np.random.default_rng(0))
    few = answers(trials.head(8))
    assert few["a_overall"].note == "too few configurations: 4, of 5 needed"
    assert few["c_generation"].note == "too few that can be paired: 2 VAE, 2 WAE, of 5 needed"
    assert answers(trials.drop(columns="test_fid_expost"))["f_mismatch"].note == "no trial has test_fid_expost"
    assert answers(trials.assign(test_mi_noised=math.nan))["e_overall"].note == "no trial has test_mi_noised"
    assert answers(trials.assign(test_fid=1.0))["a_overall"].note == "too few configurations: 0, of 5 needed"
    without = answers(trials[~trials["model"].isin(["wae", "aae"])])["d_generation"]
    assert without.verdict is HOLDS
    assert without.note.endswith("too few that can be paired: 0 GAN-side, 0 latent, of 5 needed")


# What is printed and written


def shown(found: Verdicts) -> list[str]:
    text = io.StringIO()
    print_verdicts(found, Console(file=text, width=110))
    return text.getvalue().splitlines()


def test_table_fits_and_says_what_was_found() -> None:
    found = claims(world("trade-off", np.random.default_rng(0)), np.random.default_rng(0), draws=400)
    lines = shown(found)
    assert max(map(len, lines)) <= 110
    assert len(lines) == 3 + len(KEYS) + 1  # a line for each
    assert "Claims, on the test split" in lines[0]
    claim = found.claims[0]
    (line,) = [x for x in lines if "better FID, lower probe accuracy  " in x]
    assert line.split()[-5:] == [f"{claim.value:+.2f}", f"{claim.low:+.2f}", "to", f"{claim.high:+.2f}", "60"]
    assert lines[-1] == "from 120 trials of 60 configurations; left out: none"


def test_command_line_prints_verdicts_and_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = world("trade-off", np.random.default_rng(0)).assign(trial=lambda t: [f"t{i}" for i in t.index])
    with Store(tmp_path / "study.db", create=True) as store:
        planned = ["trial", "model", "weight", "seed", "restrictions", "side", "prior", "latent_dim", "data", "network"]
        metrics = [c for c in trials if c.removeprefix("test_") in MEASURED] + ["mi_q", "fid_features"]
        store.plan(trials[planned].to_dict("records"))
        store.report(trials[["trial", *metrics]].assign(epoch=1).to_dict("records"))
        store.mark(trials["trial"], Status.DONE)
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.index("Pareto front") < out.index("Claims, on the test split") < out.index("claims.csv")
    written = pd.read_csv(tmp_path / "claims.csv")
    assert written["key"].tolist() == KEYS
    assert [*written] == [*Claim._fields, "split", "level", "left_out"]
    assert written.set_index("key").loc["a_overall", "verdict"] == "holds"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
