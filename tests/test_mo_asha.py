"""Multi-objective successive halving, fed by hand and held against definitions written out in plain Python."""

import math
import pickle
import random
import re
import sqlite3
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import moocore
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gimtune.results.store import Store
from gimtune.tuning.mo_asha import PRIORITIES, Rungs, farthest_first, fronts, goes_on, scalarised_place

OBJECTIVES = {"fid": "min", "probe_codes": "max"}
METRICS = ("fid", "probe_codes", "mi_q")
BAD = (math.nan, math.inf, -math.inf)
REDUCTIONS = st.sampled_from([1.3, 2, 2.5, 3, 4])


def history(seed, least=1, most=10):
    """Rows of a rung in the order of arrival, one to three objectives, with ties, duplicates and what is not finite."""
    rng = np.random.default_rng(seed)
    size, width, levels, bad = rng.integers(least, most, endpoint=True), rng.integers(1, 4), *rng.integers(0, 3, 2)
    rows = rng.integers(-2, (1, 4, 1000)[levels], (size, width)).astype(float)
    rows[rng.random((size, width)) < (0, 0.1, 0.5)[bad]] = rng.choice(BAD)
    copies = rng.random(size) < 0.2
    rows[copies] = rows[rng.integers(0, size, copies.sum())]
    return [tuple(row) for row in rows.tolist()]


# ten at once and by a seed: much faster than number by number, which shrinks better and which one test does
SEEDS = st.integers(0, 2**32 - 1)
HISTORIES = SEEDS.map(lambda seed: [history([seed, i]) for i in range(10)])
ANY = st.one_of(st.integers(0, 3).map(float), st.floats())


def finite(row):
    return all(map(math.isfinite, row))


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def peeled(rows):
    """Front of every row by the definition: take away what nothing dominates, again and again."""
    front = [len(rows)] * len(rows)
    left = [i for i, row in enumerate(rows) if finite(row)]
    level = 0
    while left:
        best = [i for i in left if not any(dominates(rows[j], rows[i]) for j in left)]
        for i in best:
            front[i] = level
        left = [i for i in left if i not in best]
        level += 1
    return front


def net(points, number=float):
    """Order of points, duplicates last, by trying them all in every step."""
    points = [tuple(map(number, p)) for p in points]
    spans = [max(c) / 2 - min(c) / 2 or 1 for c in zip(*points, strict=True)]

    def squared(a, b):
        gaps = [(x / 2 - y / 2) / s for x, y, s in zip(a, b, spans, strict=True)]
        return sum(gap * gap for gap in gaps)

    left = sorted(range(len(points)), key=lambda i: points[i])
    order = [left.pop(0)]
    while left:
        far = [min(squared(points[i], points[j]) for j in order) for i in left]
        order.append(left.pop(far.index(max(far))))
    return order


def place(rows):
    """Place of the last row: front by front, by the net within; equal rows share the first's, bad ones come last."""
    if not finite(rows[-1]):
        return len(rows)
    front = peeled(rows)
    own = [i for i in range(len(rows)) if front[i] == front[-1]]
    ordered = [rows[own[i]] for i in net([rows[i] for i in own])]
    return sum(f < front[-1] for f in front) + 1 + ordered.index(rows[-1])


def expected(rows, reduction):
    return len(rows) == 1 or (peeled(rows)[-1] == 0) or place(rows) <= math.floor(len(rows) / reduction)


def minimised(rows, directions):
    return [tuple(-x if d == "max" else x for x, d in zip(row, directions, strict=True)) for row in rows]


def one_rung(directions, **options):
    """A scheduler whose only rung stands at the first epoch."""
    return Rungs(dict(zip(METRICS, directions, strict=False)), max_epochs=2, **options)


def feed(rungs, rows, names=None, epoch=1):
    names = names or [f"m{i}" for i in range(len(rows))]
    return [rungs.report(n, epoch, dict(zip(METRICS, row, strict=False))) for n, row in zip(names, rows, strict=True)]


def seen(rungs):
    """All that a scheduler remembers; as text, in which a NaN equals itself."""
    return repr((rungs.recorded, rungs.stopped))


# the rule


def check_fronts(rows):
    found = fronts(np.array(rows))
    assert found.tolist() == peeled(rows)
    good = np.array([finite(row) for row in rows])
    if good.any():
        assert found[good].tolist() == moocore.pareto_rank(np.array(rows)[good]).tolist()
    assert (found[~good] > found[good].max(initial=-1)).all()


@settings(max_examples=200)
@given(HISTORIES)
@example([[(math.nan,)], [(1.0, 1.0), (1.0, 1.0), (1.0, 2.0), (-math.inf, -math.inf)]])
def test_fronts_are_those_of_the_definition_and_of_moocore(histories):
    for rows in histories:
        check_fronts(rows)


@settings(max_examples=200)
@given(st.lists(st.tuples(ANY, ANY), min_size=1, max_size=6), REDUCTIONS)
def test_any_floats_are_ranked_by_the_definition(rows, reduction):
    check_fronts(rows)
    assert goes_on(np.array(rows), reduction) == expected(rows, reduction)


@settings(max_examples=150)
@given(HISTORIES, REDUCTIONS, st.lists(st.sampled_from(["min", "max"]), min_size=3, max_size=3))
def test_every_decision_of_a_history_is_that_of_the_definition(histories, reduction, directions):
    for rows in histories:
        own = directions[: len(rows[0])]
        decisions = feed(one_rung(own, reduction=reduction), rows)
        inside = minimised(rows, own)
        assert decisions == [expected(inside[: i + 1], reduction) for i in range(len(rows))]


@settings(max_examples=150)
@given(SEEDS, REDUCTIONS)
def test_decisions_in_large_rungs_are_those_of_the_definition(seed, reduction):
    rows = history(seed, 20, 45)
    assert goes_on(np.array(rows), reduction) == expected(rows, reduction)


@settings(max_examples=150)
@given(HISTORIES, REDUCTIONS, st.sampled_from(PRIORITIES), SEEDS)
def test_what_dominates_its_rung_never_stops(histories, reduction, priority, seed):
    for rows in histories:
        good = [row for row in rows if finite(row)] or [(0.0,) * len(rows[0])]
        # at least as good in all, better in one
        best = tuple(min(column) - (i == seed % len(rows[0])) for i, column in enumerate(zip(*good, strict=True)))
        rungs = one_rung(["min"] * len(best), reduction=reduction, priority=priority, seed=seed)
        feed(rungs, rows)
        assert feed(rungs, [best], ["best"]) == [True]


@settings(max_examples=150)
@given(HISTORIES, REDUCTIONS, st.sampled_from(PRIORITIES), SEEDS)
def test_the_front_of_the_rung_always_goes_on(histories, reduction, priority, seed):
    for rows in histories:
        rungs = one_rung(["min"] * len(rows[0]), reduction=reduction, priority=priority, seed=seed)
        for i, decision in enumerate(feed(rungs, rows)):
            beaten = any(dominates(row, rows[i]) for row in rows[:i] if finite(row))
            assert decision or beaten or not finite(rows[i])


@settings(max_examples=150)
@given(SEEDS, st.sampled_from(PRIORITIES), REDUCTIONS, st.booleans())
def test_the_worst_of_a_large_rung_stops(seed, priority, reduction, diverged):
    rows = history(seed, 9, 20)
    if not diverged:
        rows = [tuple(x if math.isfinite(x) else 0.0 for x in row) for row in rows]
    worst = tuple(math.nan if diverged else max(column) + 1 for column in zip(*rows, strict=True))
    rungs = one_rung(["min"] * len(worst), reduction=reduction, priority=priority, seed=seed)
    feed(rungs, rows)
    assert feed(rungs, [worst], ["worst"]) == [False]


@settings(max_examples=150)
@given(HISTORIES, REDUCTIONS, st.sampled_from(PRIORITIES), SEEDS)
def test_the_order_of_earlier_arrivals_does_not_matter(histories, reduction, priority, seed):
    for rows in histories:
        *earlier, last = [(f"m{i}", row) for i, row in enumerate(rows)]
        decisions = set()
        for order in (earlier, random.Random(seed).sample(earlier, len(earlier))):
            rungs = one_rung(["max", "min", "min"][: len(rows[0])], reduction=reduction, priority=priority, seed=seed)
            names, values = zip(*order, last, strict=True)
            decisions.add(feed(rungs, values, names)[-1])
        assert len(decisions) == 1


@settings(max_examples=150)
@given(SEEDS, st.integers(1, 20), REDUCTIONS, st.sampled_from(PRIORITIES), st.booleans())
def test_one_objective_is_plain_successive_halving(seed, size, reduction, priority, largest):
    values = np.random.default_rng(seed).permutation(size).tolist()
    decisions = feed(
        one_rung(["max" if largest else "min"], reduction=reduction, priority=priority), [(v,) for v in values]
    )
    for i, decision in enumerate(decisions):
        ranked = sorted(values[: i + 1], reverse=largest)
        assert decision == (values[i] in ranked[: max(1, math.floor((i + 1) / reduction))])


def test_a_rung_already_in_order():
    # on these two Syne Tune at d9970f2 decides the other way (shared/ray.md, section 6)
    line = [(float(i), float(i)) for i in range(1, 10)]
    assert goes_on(np.array([*line[:8], (0.0, 0.0)]), 3)
    assert not goes_on(np.array([line[8], *line[:8]]), 3)


@pytest.mark.parametrize(
    ("directions", "lasts"),
    [
        (("min", "max"), {(2.0, 0.5): False, (0.5, 0.5): True, (2.0, 0.7): True, (1.0, 0.6): True}),
        (("min", "min"), {(2.0, 0.5): True, (0.5, 0.5): True, (2.0, 0.7): False, (1.0, 0.6): True}),
        (("max", "max"), {(2.0, 0.5): True, (0.5, 0.5): False, (2.0, 0.7): True, (1.0, 0.6): True}),
    ],
)
def test_directions_count(directions, lasts):
    for last, goes in lasts.items():
        assert feed(one_rung(directions), [(1.0, 0.6), last]) == [True, goes]


# the epsilon-net


@settings(max_examples=150)
@given(SEEDS, st.integers(1, 8))
def test_the_net_is_that_of_the_definition_in_exact_arithmetic(seed, size):
    points = [divmod(cell, 5) for cell in np.random.default_rng(seed).permutation(25)[:size].tolist()]
    ordered = sorted(points)
    found = [ordered[i] for i in farthest_first(np.array(ordered, dtype=float))]
    assert found == [points[i] for i in net(points, Fraction)]


def test_a_net_known_by_hand():
    # on a line, after both ends the middle; the second objective's unit does not matter
    for unit in (1.0, 1e-6, 1e6):
        points = np.array([(x, -unit * x) for x in (0.0, 1.0, 5.0, 8.0, 10.0)])
        assert list(farthest_first(points)) == [0, 4, 2, 3, 1]


def test_a_front_is_cut_at_its_crowded_part():
    # one row on the front, four behind it on one front of their own: kept are three of the six
    behind = [(1.0, 4.0), (4.0, 1.0), (1.1, 3.9), (1.2, 3.8)]
    decisions = {}
    for last in behind:
        rows = [(0.0, 0.0), (9.0, 9.0), *(p for p in behind if p != last), last]
        decisions[last] = goes_on(np.array(rows), 2)
    assert decisions == {(1.0, 4.0): True, (4.0, 1.0): True, (1.1, 3.9): False, (1.2, 3.8): False}


def test_duplicates_stand_together_and_take_no_place_of_others():
    rows = [(0.0, 0.0), (1.0, 4.0), (1.0, 4.0), (1.0, 4.0), (4.0, 1.0), (9.0, 9.0)]
    decisions = {
        row: goes_on(np.array([*(r for i, r in enumerate(rows) if i != rows.index(row)), row]), 2) for row in rows
    }
    assert decisions == {(0.0, 0.0): True, (1.0, 4.0): True, (4.0, 1.0): True, (9.0, 9.0): False}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("priority", PRIORITIES)
def test_extreme_values_overflow_nothing(priority):
    rungs = one_rung(["min", "min"], priority=priority, reduction=2)
    big, small = 1.7e308, 5e-324
    rows = [(-big, big), (big, -big), (0.0, 0.0), (small, small), (big, big), (-0.0, 0.0), (big, big)]
    decisions = feed(rungs, rows)
    assert decisions[:3] == [True, True, True]
    # zeros are equal, whatever their sign; so are the last two
    assert [decisions[i] for i in (4, 5, 6)] == [False, True, False]
    assert list(farthest_first(np.array([(-big, big), (small, small), (big, -big)]))) == [0, 2, 1]


def test_zeros_of_either_sign_are_one_point():
    # on the second front, of which one place is kept: that of the net's first point
    zeros = [(0.0, 0.0), (-0.0, -0.0), (0.0, -0.0)]
    rows = [(-1.0, -1.0), (5.0, -0.5), (9.0, 9.0), *zeros]
    for last in zeros:
        assert goes_on(np.array([*rows, last]), 3)
    assert not goes_on(np.array([*rows, (5.0, -0.5)]), 3)


# scalarisation


def scores(rows, weights):
    """The augmented Chebyshev function of every row."""
    columns = list(zip(*rows, strict=True))
    lows, spans = [min(c) / 2 for c in columns], [max(c) / 2 - min(c) / 2 or 1 for c in columns]
    parts = [[w * ((x / 2 - low) / s) for w, x, low, s in zip(weights, row, lows, spans, strict=True)] for row in rows]
    return [max(p) + 0.05 * sum(p) for p in parts]


@settings(max_examples=50)
@given(HISTORIES, st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_places_by_scalarisation(histories, weights):
    for rows in histories:
        good = [row for row in rows if finite(row)] or [(0.0,) * len(rows[0])]
        own = weights[: len(rows[0])]
        *others, last = scores(good, own)
        # what is not finite changes nothing
        for bad in ([], [(math.inf,) * len(own)]):
            assert scalarised_place(np.array(bad + good), np.array(own)) == 1 + sum(score < last for score in others)


def weights_of(seed, member, **options):
    return Rungs(OBJECTIVES, max_epochs=9, priority="scalarisation", seed=seed, **options)._weights(member)


def test_weights_are_a_members_own_and_spread_over_the_simplex():
    drawn = np.array([weights_of(0, f"m{i}") for i in range(2000)])
    assert np.allclose(drawn.sum(axis=1), 1)
    # uniform on (0, 1) with two objectives: mean 1/2, variance 1/12; five standard errors
    assert abs(drawn[:, 0].mean() - 0.5) < 5 * math.sqrt(1 / 12 / 2000)
    assert abs(drawn[:, 0].var() - 1 / 12) < 5 * math.sqrt(1 / 180 / 2000)
    assert (weights_of(0, "m0", reduction=2) == drawn[0]).all()
    assert (weights_of(1, "m0") != drawn[0]).all()


def test_the_seed_of_the_weights_decides():
    # three rows of one front behind another row: who of them is kept depends on the weights
    rows = [(0.0, 0.0), (1.0, 5.0), (5.0, 1.0), (3.0, 3.0), (9.0, 9.0), (1.0, 5.5)]
    last = {feed(one_rung(["min", "min"], priority="scalarisation", seed=s, reduction=2), rows)[-1] for s in range(30)}
    assert last == {True, False}


# what is not finite


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("bad", BAD)
def test_a_rung_of_nothing_finite_lets_the_first_go_on_alone(bad, priority):
    rungs = Rungs(OBJECTIVES, max_epochs=9, priority=priority)
    assert feed(rungs, [(bad, 0.5), (1.0, bad), (bad, bad), (bad, 0.1)]) == [True, False, False, False]
    # the first finite one is the front
    assert feed(rungs, [(1e9, 0.0)], ["finite"]) == [True]
    assert feed(rungs, [(-math.inf, 1.0)], ["too good"]) == [False]


def test_none_and_absent_count_as_nan():
    rungs = Rungs(OBJECTIVES, max_epochs=9)
    feed(rungs, [(1.0, 0.5)])
    assert not rungs.report("none", 1, {"fid": None, "probe_codes": 1.0})
    assert not rungs.report("absent", 1, {"fid": 0.0})
    assert repr(rungs.recorded[1]) == "{'m0': (1.0, 0.5), 'none': (nan, 1.0), 'absent': (0.0, nan)}"


def test_members_that_are_not_finite_count_as_beaten():
    rows = [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]
    assert not goes_on(np.array(rows[:2] * 1), 2)
    assert goes_on(np.array([rows[0], (math.nan, 0.0), (math.nan, 0.0), rows[1]]), 2)
    assert not goes_on(np.array([rows[0], rows[1], (math.nan, 0.0), rows[2]]), 2)


# the memory


@pytest.mark.parametrize(
    ("grace", "reduction", "max_epochs", "epochs"),
    [
        (1, 3, 100, (1, 3, 9, 27, 81)),
        (1, 3, 81, (1, 3, 9, 27)),
        (1, 3, 82, (1, 3, 9, 27, 81)),
        (2, 2.5, 40, (2, 5, 13, 32)),
        (10, 1.1, 16, (10, 11, 13, 14, 15)),
        (100, 1.1, 120, (100, 110)),
        (1, 1.1, 6, (1, 2, 3, 4, 5)),
        (3, 1 + 1e-15, 6, (3, 4, 5)),
        (5, 1e308, 2000, (5,)),
        (5, 10**400, 2000, (5,)),
        (1, 3, 2, (1,)),
    ],
)
def test_rungs_stand_at_powers_of_the_reduction(grace, reduction, max_epochs, epochs):
    assert Rungs(OBJECTIVES, grace=grace, reduction=reduction, max_epochs=max_epochs).epochs == epochs


def test_before_the_first_rung_nothing_is_recorded():
    rungs = Rungs(OBJECTIVES, max_epochs=9, grace=3)
    assert feed(rungs, [(1.0, 0.5), (2.0, 0.4)], epoch=2) == [True, True]
    assert rungs.recorded == {3: {}}


def test_the_first_report_at_or_after_a_rung_counts():
    rungs = Rungs(OBJECTIVES, max_epochs=20, grace=3)
    feed(rungs, [(5.0, 0.5)], epoch=4)
    feed(rungs, [(1.0, 0.9)], epoch=6)
    assert rungs.recorded == {3: {"m0": (5.0, 0.5)}, 9: {}}


def test_a_report_past_several_rungs_is_recorded_in_all_and_decided_by_the_last():
    rungs = Rungs(OBJECTIVES, max_epochs=20)
    feed(rungs, [(1.0, 0.9), (0.5, 0.95)], ["a", "b"], epoch=1)
    # worst at the rungs of epochs 1 and 3, and the first at the one of epoch 9
    assert rungs.report("late", 10, {"fid": 2.0, "probe_codes": 0.1})
    assert {epoch: list(rung) for epoch, rung in rungs.recorded.items()} == {
        1: ["a", "b", "late"],
        3: ["late"],
        9: ["late"],
    }
    assert not rungs.report("later", 12, {"fid": 3.0, "probe_codes": 0.1})
    assert rungs.stopped == {"later": 9}


def test_a_stop_is_final_and_a_way_is_walked_twice():
    rungs = Rungs(OBJECTIVES, max_epochs=20)
    way = [(1, 5.0), (2, 5.0), (3, 5.0)]
    assert [rungs.report("a", e, {"fid": f, "probe_codes": 0.5}) for e, f in way] == [True, True, True]
    assert [rungs.report("b", e, {"fid": f - (e < 3), "probe_codes": 0.5 - 0.1 * (e == 3)}) for e, f in way] == [
        True,
        True,
        False,
    ]
    before = seen(rungs)
    # started again from a checkpoint, with any values
    assert [rungs.report("b", e, {"fid": 0.0, "probe_codes": 1.0}) for e in (1, 2, 3, 4, 9, 20)] == [
        *(True, True),
        *(False, False, False, False),
    ]
    assert rungs.stopped == {"b": 3}
    assert seen(rungs) == before


@pytest.mark.parametrize("epoch", [20, 25])
def test_a_member_at_its_end_is_not_stopped(epoch):
    rungs = Rungs(OBJECTIVES, max_epochs=20)
    feed(rungs, [(1.0, 0.5)], epoch=epoch)
    assert feed(rungs, [(2.0, 0.4)], ["worse"], epoch=epoch) == [True]
    assert "worse" in rungs.recorded[9]
    assert not rungs.stopped


def reports(seed):
    """Rows of a table ``reports``: few members, any epochs, some twice."""
    rng = np.random.default_rng(seed)
    values = history([seed, 1], 1, 40)
    return [
        {
            "trial": f"m{rng.integers(8)}",
            "epoch": int(rng.integers(1, 31)),
            **dict(zip(METRICS, (*row, *row), strict=False)),
            "reasons": None,
        }
        for row in values
    ]


@settings(max_examples=150)
@given(SEEDS.map(reports), st.sampled_from(PRIORITIES))
def test_rebuilt_memory_is_the_one_fed_by_hand_and_repeats_do_nothing(rows, priority):
    by_hand = Rungs(OBJECTIVES, max_epochs=28, grace=2, reduction=2, priority=priority)
    decisions = []
    for row in rows:
        decisions.append(by_hand.report(row["trial"], row["epoch"], row))
        before = seen(by_hand)
        assert by_hand.report(row["trial"], row["epoch"], {"fid": 0.0}) == decisions[-1]
        assert seen(by_hand) == before
    rebuilt = Rungs(OBJECTIVES, max_epochs=28, grace=2, reduction=2, priority=priority)
    rebuilt.report("of another life", 2, {})
    # NaN is NULL in the store
    rebuilt.rebuild({k: None if v != v else v for k, v in row.items()} for row in rows)
    assert seen(rebuilt) == seen(by_hand)
    assert seen(pickle.loads(pickle.dumps(by_hand))) == seen(by_hand)
    # and they stay the same
    more = {"fid": 2.0, "probe_codes": 2.0}
    assert rebuilt.report("new", 28, more) == by_hand.report("new", 28, more)
    # every decision once more, and backwards: a stopped member's at and after its rung
    for row in reversed(rows):
        assert by_hand.report(row["trial"], row["epoch"], {}) == (
            row["epoch"] < by_hand.stopped.get(row["trial"], math.inf)
        )


def test_the_memory_comes_back_from_a_real_store(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"m{i}" for i in range(9)]
    by_hand = Rungs(OBJECTIVES, max_epochs=10)
    with Store(tmp_path / "study.db", create=True) as store:
        store.plan({"trial": name, "config": "{}"} for name in names)
        for epoch in (1, 2, 3, 2, 3, 9):  # 2 and 3 twice: a worker was killed, its last evaluations came again
            for name in rng.permutation(names).tolist():
                key = np.random.default_rng([epoch, names.index(name)])
                values = {"fid": math.nan if name == "m4" else key.random(), "probe_codes": key.random()}
                if by_hand.stopped.get(name, 99) > epoch:
                    store.report([{"trial": name, "epoch": epoch, **values}])
                    by_hand.report(name, epoch, values)
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT * FROM reports ORDER BY rowid")]
    db.close()
    rebuilt = Rungs(OBJECTIVES, max_epochs=10)
    rebuilt.rebuild(rows)
    assert seen(rebuilt) == seen(by_hand)
    assert 0 < len(by_hand.stopped) < len(names)


# options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"grace": 0},
            "scheduler.grace=0: allowed are whole numbers from 1 and below budget.epochs=20, so that there is a rung",
        ),
        ({"grace": 20}, "scheduler.grace=20: allowed are"),
        ({"grace": 1.5}, "scheduler.grace=1.5: allowed are whole numbers"),
        ({"grace": True}, "scheduler.grace=True: allowed are whole numbers"),
        ({"reduction": 1}, "scheduler.reduction=1: allowed are finite numbers above 1"),
        ({"reduction": math.nan}, "scheduler.reduction=nan: allowed are"),
        ({"reduction": math.inf}, "scheduler.reduction=inf: allowed are"),
        ({"reduction": "3"}, "scheduler.reduction=3: allowed are"),
        ({"reduction": True}, "scheduler.reduction=True: allowed are"),
        ({"priority": "crowding"}, "scheduler.priority=crowding: allowed are epsilon_net, scalarisation"),
        ({"max_epochs": 0}, "budget.epochs=0: allowed are whole numbers from 1"),
        ({"seed": -1}, "seed=-1: allowed are whole numbers from 0"),
        ({"objectives": {}}, "objectives={}: allowed are one metric or more"),
        ({"objectives": {"fid": "down"}}, "objectives.fid=down: allowed are min, max"),
        ({"objectives": {"fid": "none"}}, "objectives.fid=none: allowed are min, max"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}[^\n]*$"):
        Rungs(**{"objectives": OBJECTIVES, "max_epochs": 20, **options})


# purity


def test_no_ray_no_torch_no_global_random_state():
    program = """
import random, sys
import numpy as np
states = random.getstate(), np.random.get_state()[1].tolist()
from gimtune.tuning.mo_asha import Rungs
for priority in ("epsilon_net", "scalarisation"):
    rungs = Rungs({"fid": "min", "mi_q": "max"}, max_epochs=9, priority=priority)
    print([rungs.report(str(i), 1, {"fid": i * 7 % 5, "mi_q": i * 3 % 7}) for i in range(30)])
assert states == (random.getstate(), np.random.get_state()[1].tolist())
assert not {"ray", "torch", "optuna", "pandas"} & set(sys.modules)
"""
    root = Path(__file__).parents[1]
    runs = [
        subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert "True" in runs[0]
    assert "False" in runs[0]


CONSTRAINED = {"probe_codes": {"min": 0.8}}


@pytest.mark.parametrize("priority", ["epsilon_net", "scalarisation"])
def test_infeasible_members_stand_behind_feasible_ones(priority):
    objectives = {"fid": "min", "probe_codes": "max"}
    rungs = Rungs(objectives, max_epochs=9, grace=3, reduction=2, priority=priority, constraints=CONSTRAINED)
    assert rungs.report("first", 3, {"fid": 50.0, "probe_codes": 0.85})
    # it dominates nobody and nobody dominates it: on the front, were it feasible
    assert not rungs.report("beyond", 3, {"fid": 1.0, "probe_codes": 0.5})
    # feasible ones are judged as if the infeasible were not there, but as one of four
    assert rungs.report("better", 3, {"fid": 40.0, "probe_codes": 0.9})
    assert rungs.recorded[3]["beyond"] == (1.0, 0.5)


def test_where_nobody_is_feasible_the_nearest_go_on():
    rungs = Rungs({"fid": "min", "probe_codes": "max"}, max_epochs=9, grace=3, reduction=2, constraints=CONSTRAINED)
    accuracies = [0.5, 0.3, 0.7, 0.2, 0.75, 0.6]
    going = [rungs.report(f"m{i}", 3, {"fid": float(i), "probe_codes": a}) for i, a in enumerate(accuracies)]
    # place among those so far, at most half of them; the first has nobody to be compared with
    places = [sorted(accuracies[: i + 1], reverse=True).index(a) + 1 for i, a in enumerate(accuracies)]
    assert going == [i == 0 or place <= (i + 1) // 2 for i, place in enumerate(places)]


def test_a_constraint_without_a_value_is_behind_all():
    rungs = Rungs({"fid": "min", "mi_q": "max"}, max_epochs=9, grace=3, reduction=1.5, constraints=CONSTRAINED)
    assert rungs.report("a", 3, {"fid": 2.0, "mi_q": 1.0, "probe_codes": 0.1})
    assert not rungs.report("b", 3, {"fid": 1.0, "mi_q": 2.0, "probe_codes": None})
    assert rungs.report("c", 3, {"fid": 9.0, "mi_q": 0.0, "probe_codes": 0.2})


def test_constraints_that_all_keep_change_no_decision():
    source = np.random.default_rng(0)
    plain, bound = (
        Rungs({"fid": "min", "probe_codes": "max"}, max_epochs=27, grace=1, constraints=constraints)
        for constraints in (None, {"fid": {"max": 2.0}})
    )
    for i in range(200):
        values = {"fid": source.random(), "probe_codes": source.random()}
        epoch = int(source.choice([1, 3, 9]))
        assert plain.report(f"m{i}", epoch, values) == bound.report(f"m{i}", epoch, values)
