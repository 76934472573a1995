"""Ranks, contributions, attainment and means against brute force, on sets with ties, duplicates, NaN and infinities."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence

import moocore
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gimtune.analysis import front
from gimtune.analysis.statistics.attainment import attainment, attainment_difference, configuration, mean_front
from gimtune.results.constraints import marked
from gimtune.results.pareto import collapsed, contributions, dominance_rank, fronts_by

KEYS = ["fid", "probe_codes", "mi_q"]
SIGNS = {"fid": 1, "probe_codes": -1, "mi_q": -1}
Costs = tuple[float, ...]

small = st.one_of(st.integers(0, 5).map(float), st.sampled_from([math.nan, math.inf]))
points = st.lists(st.tuples(small, small, small), max_size=9)
two_or_three = st.tuples(st.permutations(KEYS), st.integers(2, 3)).map(lambda chosen: chosen[0][: chosen[1]])
with_seeds = st.lists(st.tuples(small, small, small, st.integers(0, 3)), max_size=14)


def frame(values: Sequence[tuple[float, ...]]) -> pd.DataFrame:
    width = len(values[0]) if values else 3
    trials = pd.DataFrame(values, columns=[*KEYS, "seed"][:width], dtype=float)
    return trials.assign(status="done", data="d", fid_features="f")


def costs(trials: pd.DataFrame, keys: Sequence[str]) -> dict[int, Costs]:
    """Of the rows that count, to minimise."""
    rows = {int(i): tuple(SIGNS[k] * float(trials.loc[i, k]) for k in keys) for i in trials.index}
    return {i: c for i, c in rows.items() if np.isfinite(c).all()}


def attains(z: Costs, by: Costs) -> bool:
    return all(b <= a for a, b in zip(z, by, strict=True))


def dominates(a: Costs, b: Costs) -> bool:
    return attains(b, a) and a != b


def volume(found: Sequence[Costs], corner: Costs) -> float:
    """Of the union of the boxes between points and the corner, by the cells of their grid."""
    grid = [sorted({c, *(p[i] for p in found if p[i] < c)}) for i, c in enumerate(corner)]
    cells = [[*zip(*cell, strict=True)] for cell in itertools.product(*(itertools.pairwise(g) for g in grid))]
    inside = [(low, high) for low, high in cells if any(attains(low, p) for p in found)]
    return sum(math.prod(h - x for x, h in zip(low, high, strict=True)) for low, high in inside)


def on_scales(found: Sequence[Costs], keys: Sequence[str]) -> list[Costs]:
    """As they count in a hypervolume: distances by log(1 + distance)."""
    return [tuple(math.log1p(c) if k == "fid" else c for c, k in zip(p, keys, strict=True)) for p in found]


def seeds(trials: pd.DataFrame, kept: dict[int, Costs]) -> dict[float, list[Costs]]:
    found: dict[float, list[Costs]] = {}
    for i, c in kept.items():
        found.setdefault(float(trials.loc[i, "seed"]), []).append(c)
    return found


def share(sets: dict[float, list[Costs]], z: Costs) -> float:
    return sum(any(attains(z, p) for p in found) for found in sets.values()) / len(sets)


# One set of points


@given(points, two_or_three)
def test_rank_is_the_number_of_fronts_to_peel_off(values: list[Costs], keys: list[str]) -> None:
    trials = frame(values)
    left, ranks = costs(trials, keys), {}
    for rank in itertools.count():
        if not left:
            break
        best = {i for i, p in left.items() if not any(dominates(q, p) for q in left.values())}
        ranks |= dict.fromkeys(best, rank)
        left = {i: p for i, p in left.items() if i not in best}
    found = dominance_rank(front(trials, keys))
    assert found.to_dict() == ranks


@given(points, two_or_three, st.booleans())
def test_contributions_are_what_is_lost_without_the_row(values: list[Costs], keys: list[str], pinned: bool) -> None:
    trials = frame(values)
    best = front(trials, keys, reference=dict.fromkeys(keys, 3.0) if pinned else None)
    found = contributions(best)
    assert list(found.index) == list(best.rows.index)
    rows = costs(best.rows, keys)
    corner = tuple(SIGNS[k] * best.reference[k] for k in keys)
    if not rows:
        return
    spread = [max(c) - min(c) or 1.0 for c in zip(*rows.values(), strict=True)]
    scaled = {i: tuple(c / s for c, s in zip(p, spread, strict=True)) for i, p in rows.items()}
    for i, p in rows.items():
        others = [q for j, q in rows.items() if j != i]
        (end,) = on_scales([corner], keys)
        lost = volume(on_scales([*rows.values()], keys), end) - volume(on_scales(others, keys), end)
        assert found.loc[i, "hypervolume"] == pytest.approx(lost, abs=1e-9)
        rest = [q for j, q in scaled.items() if j != i]
        if not rest:
            assert found.loc[i, "epsilon"] == math.inf
            continue
        assert found.loc[i, "epsilon"] == pytest.approx(moocore.epsilon_additive(rest, ref=[*scaled.values()]))
        near = min(max(a - b for a, b in zip(q, scaled[i], strict=True)) for q in rest)
        assert found.loc[i, "epsilon"] == pytest.approx(max(near, 0))
        assert (p in others) <= (found.loc[i, "epsilon"] == found.loc[i, "hypervolume"] == 0)


@given(points)
def test_knee_is_furthest_from_the_line_between_the_ends(values: list[Costs]) -> None:
    best = front(frame(values), KEYS[:2])
    rows, knee = costs(best.rows, KEYS[:2]), contributions(best)["knee"]
    if len(set(rows.values())) < 2:
        assert knee.sum() == len(set(rows.values()))
        return
    (x0, y0), (x1, y1) = min(rows.values()), max(rows.values())
    # twice the area of the triangle with the ends, in units of the range; positive towards the ideal point
    height = {i: ((x1 - x0) * (y0 - y) - (y0 - y1) * (x - x0)) / (x1 - x0) / (y0 - y1) for i, (x, y) in rows.items()}
    highest = max(height.values())
    if highest <= 1e-9:
        assert not knee.any()
    else:
        (at,) = knee.index[knee]
        assert height[at] == pytest.approx(highest)


def test_collapse_of_a_front_to_nothing_and_to_one_point() -> None:
    nothing = front(frame([]))
    assert contributions(nothing).empty
    assert dominance_rank(nothing).empty
    one = contributions(front(frame([(2.0, 0.5, 1.0)])))
    assert one.to_dict("list") == {
        "hypervolume": [pytest.approx(0.5 * math.log(3.2 / 3))],
        "epsilon": [math.inf],
        "knee": [True],
    }


# Over seeds


@given(with_seeds, two_or_three)
def test_surfaces_bound_what_some_half_and_all_seeds_attain(values: list[Costs], keys: list[str]) -> None:
    trials = frame(values)
    found, sets = attainment(trials, keys), seeds(trials, costs(trials, keys))
    assert sum(found.sets.values()) == sum(map(len, sets.values()))
    assert len(found.sets) == len(sets)
    if not sets:
        assert found.surfaces.empty
        return
    surfaces = {
        str(name): [tuple(SIGNS[k] * v for k, v in zip(keys, p, strict=True)) for p in group[keys].to_numpy()]
        for name, group in found.surfaces.groupby("surface")
    }
    assert set(surfaces) == {"best", "median", "worst"}
    grid = [sorted({p[i] for s in sets.values() for p in s}) for i in range(len(keys))]
    for z in itertools.product(*grid):
        attained = share(sets, z)
        for name, least in (("best", 1 / len(sets)), ("median", 0.5), ("worst", 1.0)):
            assert any(attains(z, p) for p in surfaces[name]) == (attained >= least - 1e-9)
    for corners in surfaces.values():  # no corner says what another says
        assert not any(attains(p, q) for p, q in itertools.permutations(corners, 2))
        assert corners == sorted(corners)


@given(with_seeds, with_seeds, st.permutations(KEYS[:2]))
def test_difference_is_that_of_the_shares_that_attain(x: list[Costs], y: list[Costs], keys: list[str]) -> None:
    studies = [frame(x), frame(y)]
    sets = [seeds(t, costs(t, keys)) for t in studies]
    if not all(sets):
        which = "second" if sets[0] else "first"
        with pytest.raises(ValueError, match=f"the {which} study has no finished trial"):
            attainment_difference(*studies, keys)
        return
    found = attainment_difference(*studies, keys)
    signs = [SIGNS[k] for k in keys]
    corner = tuple(s * found.reference[k] for k, s in zip(keys, signs, strict=True))
    rectangles = found.rectangles[[f"{k}_{end}" for end in ("from", "to") for k in keys]].to_numpy() * [*signs, *signs]
    grid = [sorted({p[i] for half in sets for s in half.values() for p in s}) for i in range(2)]
    for z in itertools.product(*grid):
        inside = [bool((r[:2] <= z).all() and (z < r[2:]).all()) for r in rectangles]
        here = found.rectangles.loc[inside, "difference"]
        assert len(here) <= 1
        assert here.sum() == pytest.approx(share(sets[0], z) - share(sets[1], z), abs=1e-9)
    (end,) = on_scales([corner], keys)
    means = [np.mean([volume(on_scales(s, keys), end) for s in half.values()]) for half in sets]
    assert found.hypervolume == pytest.approx(means[0] - means[1])
    corners = np.minimum(rectangles, [*corner, *corner])
    within = np.array([[*on_scales([r[:2]], keys)[0], *on_scales([r[2:]], keys)[0]] for r in corners]).reshape(-1, 4)
    areas = (within[:, 2] - within[:, 0]) * (within[:, 3] - within[:, 1])
    assert (areas * found.rectangles["difference"]).sum() == pytest.approx(found.hypervolume)


def test_surfaces_do_not_depend_on_the_order_of_rows_or_the_names_of_seeds() -> None:
    generator = np.random.default_rng(0)
    trials = frame([(*map(float, generator.integers(0, 9, 3)), float(i % 4)) for i in range(40)])
    expected = attainment(trials).surfaces
    shuffled = trials.sample(frac=1, random_state=1).assign(seed=lambda t: t["seed"].map({0: 7, 1: -2, 2: 100, 3: 5}))
    pd.testing.assert_frame_equal(attainment(shuffled).surfaces, expected)


def test_refusals_of_surfaces() -> None:
    trials = frame([(1.0, 2.0, 3.0, 0.0)]).assign(likelihood=1.0, loss=1.0)
    with pytest.raises(ValueError, match="surfaces take two or three"):
        attainment(trials, [*KEYS, "loss"])
    with pytest.raises(ValueError, match="a difference takes two"):
        attainment_difference(trials, trials, KEYS)
    with pytest.raises(ValueError, match="lack the column fold"):
        attainment(trials, over="fold")
    with pytest.raises(ValueError, match="data is mixed"):
        attainment_difference(trials, trials.assign(data="other"))
    assert attainment(trials, over="data").sets == {"d": 1}


# Means


def config(seed: int, **settings: float) -> str:
    return json.dumps({**settings, "data": {"name": "d", "seed": seed}, "seed": seed, "shuffle_seed": 3 * seed})


def test_a_configuration_is_all_but_the_seeds() -> None:
    rows = [{"weight": w, "config": config(s, rate=r)} for w in (1.0, 2.0) for r in (0.1, 0.2) for s in (0, 11)]
    assert configuration(pd.DataFrame(rows)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert configuration(pd.DataFrame({"config": [None, None], "model": ["a", None]})).tolist() == [0, 1]
    assert configuration(pd.DataFrame()).empty


@given(st.lists(st.tuples(small, small, st.integers(0, 4)), max_size=14), st.integers(0, 99))
def test_means_their_front_and_their_intervals(values: list[tuple[float, float, int]], seed: int) -> None:
    trials = pd.DataFrame(values, columns=["fid", "probe_codes", "weight"], dtype=float)
    trials = trials.assign(status="done", data="d", fid_features="f", config=[config(i) for i in range(len(trials))])
    found = mean_front(trials, generator=np.random.default_rng(seed), draws=60)
    kept = costs(trials, KEYS[:2])
    groups: dict[float, list[Costs]] = {}
    for i, c in kept.items():
        groups.setdefault(float(trials.loc[i, "weight"]), []).append(c)
    means = {
        w: (math.expm1(np.mean([math.log1p(c) for c, _ in g])), np.mean([c for _, c in g])) for w, g in groups.items()
    }
    several = any(len(g) > 1 for g in groups.values())
    best = {w for w, m in means.items() if not any(dominates(o, m) for o in means.values())}
    table = found.points.set_index("weight")
    assert table["seeds"].to_dict() == {w: len(g) for w, g in groups.items()}
    assert set(table.index[table["on_front"].astype(bool)]) == best
    for w, (fid, cost) in means.items():
        row = table.loc[w]
        assert (row["fid"], row["probe_codes"]) == pytest.approx((fid, -cost))
        if several:
            assert row["fid_low"] <= row["fid_high"]
            assert 0 <= row["front_share"] <= 1 + 1e-9
        else:  # nothing says how seeds differ
            assert math.isnan(row["fid_low"])
            assert math.isnan(row["front_share"])
    if groups:
        (corner,) = on_scales([(found.reference["fid"], -found.reference["probe_codes"])], KEYS[:2])
        whole = volume(on_scales([*means.values()], KEYS[:2]), corner)
        assert found.hypervolume <= 2 * whole + 1e-9 if several else found.hypervolume == pytest.approx(whole)
    again = mean_front(trials, generator=np.random.default_rng(seed), draws=60)
    pd.testing.assert_frame_equal(again.points, found.points)


def test_intervals_of_means_cover_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    for number, expected in ((2, 0.95), (5, 0.95)):
        rows = [
            {"fid": 5 + generator.normal(), "probe_codes": 0.5, "weight": w, "config": config(s)}
            for w in range(400)
            for s in range(number)
        ]
        trials = pd.DataFrame(rows).assign(status="done", data="d", fid_features="f")
        points = mean_front(trials, generator=generator).points
        assert np.mean(points["fid_low"].le(5) & points["fid_high"].ge(5)) == pytest.approx(expected, abs=0.04)


def test_share_on_the_front_tells_luck_from_merit() -> None:
    # two that differ by less than their seeds do, and one that is worse than both in each of its seeds
    fid = {0.0: [1.0, 3.0, 2.0], 1.0: [2.2, 1.2, 3.2], 2.0: [8.0, 9.0, 7.0]}
    rows = [{"fid": f, "probe_codes": 0.5, "weight": w, "config": config(s)} for w in fid for s, f in enumerate(fid[w])]
    trials = pd.DataFrame(rows).assign(status="done", data="d", fid_features="f")
    found = mean_front(trials, generator=np.random.default_rng(0))
    assert found.points["on_front"].tolist() == [True, False, False]
    first, second, third = found.points["front_share"]
    assert 0.5 < first < 0.8
    assert 0.2 < second < 0.5
    assert third == 0
    assert found.low < found.hypervolume < found.high


def test_collapse_is_judged_by_information():
    rows = {
        # active units by the scale of codes, and nearly no information; and the other way round
        "drowned": {"mi_q": 0.3, "mi_upper": 0.35, "active_units": 8.0},
        "small": {"mi_q": 9.0, "mi_upper": 8.0, "active_units": 0.0},
        # both are upper estimates: the smaller decides
        "clusters": {"mi_q": 0.7, "mi_upper": 0.4, "active_units": 8.0},
        "few images": {"mi_q": 0.1, "mi_upper": 2.0, "active_units": 0.0},
        # a deterministic encoder's is infinite
        "deterministic": {"mi_noised": 18.0, "active_units": 0.0},
        "constant": {"mi_noised": 0.2, "active_units": 3.0},
        # an estimate from samples that failed says nothing; one around zero does
        "failed": {"mi_q": -105.4, "mi_noised": 1.7, "active_units": 8.0},
        "nothing": {"mi_q": -0.1, "mi_noised": 0.6, "active_units": 8.0},
        # nothing is known but this
        "earlier": {"active_units": 0.0},
        "code": {"active_units": 2.0},
    }
    trials = pd.DataFrame(rows.values(), index=[*rows])
    found = collapsed(trials)
    assert [*found[found].index] == ["drowned", "clusters", "few images", "constant", "nothing", "earlier"]
    assert not collapsed(pd.DataFrame({"fid": [1.0]})).any()


def alike(**columns):
    """Three rows that end well, on one front but for what is said."""
    rows = {"fid": [1.0, 2.0, 3.0], "probe_codes": [0.5, 0.7, 0.9], "status": "done", "data": "d", "fid_features": "f"}
    return pd.DataFrame({**rows, **columns})


@pytest.mark.parametrize(
    ("column", "values", "option"),
    [
        ("fid_samples", [10_000.0, 10_000.0, 360.0], "--samples"),
        ("fid_reference_samples", [360.0, 360.0, 10_000.0], "--reference-samples"),
        ("fid_reference", ["a", "a", None], "--reference"),
    ],
)
def test_a_front_refuses_what_was_measured_otherwise(column, values, option):
    trials = alike(**{column: values})
    with pytest.raises(ValueError, match=f"{column} is mixed: .*Choose one with {option}"):
        front(trials)
    first = f"{values[0]:g}" if column != "fid_reference" else "a"
    assert len(front(trials, only={column: first}).points) == 2
    # the probe has nothing to do with generated images
    assert len(front(trials.assign(mi_q=1.0), ["probe_codes", "mi_q"]).points) == 3


def test_codes_of_another_size_do_not_stand_on_the_front():
    trials = alike(latent_dim=[8, 8, 64])
    best = front(trials)
    assert best.rows["latent_dim"].tolist() == [8, 8]
    assert best.left_out == {"codes of 64 dimensions, not 8": 1}
    assert len(front(trials, only={"latent_dim": "all"}).rows) == 3
    assert front(trials, only={"latent_dim": "64"}).rows["latent_dim"].tolist() == [64]
    assert {name: len(f.points) for name, f in fronts_by(trials, "latent_dim").items()} == {"8": 2, "64": 1}


def test_sizes_of_codes_that_a_study_asks_for_share_a_front():
    asked = [json.dumps({"latent_dim": size}) for size in (4, 8, 8)]
    best = front(alike(latent_dim=[4, 8, 64], assignment=asked))
    assert best.rows["latent_dim"].tolist() == [4, 8]
    # a study of nothing but images has a front of these
    assert len(front(alike(latent_dim=64, assignment=asked[1])).points) == 3


@given(values=points, bound=st.integers(0, 5).map(float), keys=two_or_three)
def test_infeasible_members_are_on_no_front_and_are_counted(values, bound, keys):
    trials = frame(values)
    bounds = {"probe_codes": {"min": bound}, "mi_q": {"max": 4.0}}
    whole = front(marked(trials, bounds), keys)
    feasible = trials[(trials["probe_codes"] >= bound) & (trials["mi_q"] <= 4)]
    alone = front(feasible, keys)
    assert whole.rows.index.tolist() == alone.rows.index.tolist()
    assert whole.hypervolume == pytest.approx(alone.hypervolume, nan_ok=True)
    without = sum(np.isfinite(row).all() for row in trials.drop(feasible.index)[list(keys)].to_numpy(dtype=float))
    assert sum(count for why, count in whole.left_out.items() if why.startswith("infeasible (")) == without


def test_why_a_member_is_infeasible_is_said():
    trials = frame([(1.0, 0.5, 9.0), (2.0, 0.9, 1.0), (1.5, math.nan, 1.0)])
    why = marked(trials, {"probe_codes": {"min": 0.8}, "mi_q": {"max": 4.0}})["infeasible"].tolist()
    assert why == [
        "infeasible (probe_codes below 0.8 and mi_q above 4)",
        None,
        "infeasible (probe_codes below 0.8)",
    ]
    assert "infeasible" not in marked(trials, {})
