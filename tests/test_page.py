"""The report page, in a browser: it renders, hovers, pins and sorts, fetches nothing, and runs no one else's code."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import hashlib
import io
import itertools
import json
import math
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from helpers import combinations
from PIL import Image
from sklearn import datasets
from test_analysis import SCRIPT, member, study, write

from gimtune.analysis import front
from gimtune.analysis.__main__ import main
from gimtune.analysis.export.report import verdicts_of, write_report
from gimtune.analysis.export.reproduce import command
from gimtune.analysis.page import pictures, points
from gimtune.analysis.page.page import _beside
from gimtune.analysis.statistics.attainment import mean_front
from gimtune.analysis.statistics.verdicts import Claim, Verdict
from gimtune.results.load import Study
from gimtune.study import composition, resolve
from gimtune.vocabulary import Member, Status

#: Drawn at most, of studies with more.
POINTS = 300


@contextmanager
def opened(browser: Any, path: Path, width: int = 1280) -> Iterator[Any]:
    """The page, which must neither complain, nor fetch, nor ask."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(400_000)  # the test's own limit is the one that counts on a busy machine
    trouble: list[str] = []
    asked: list[str] = []
    page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda r: None if r.url.startswith(("data:", "blob:")) else asked.append(r.url))
    try:
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        yield page
        page.wait_for_timeout(100)
    finally:
        page.close()
    assert trouble == []
    assert asked == [path.as_uri()]


def until(page: Any, holds: str) -> None:
    """Waits for an expression to be true; playwright's own way is refused by the page's policy."""
    deadline = time.monotonic() + 300
    while not page.evaluate(holds):
        assert time.monotonic() < deadline, holds
        page.wait_for_timeout(100)


def place(page: Any, trial: str) -> tuple[float, float]:
    """Where a trial stands in the chart, on the screen."""
    return page.evaluate(
        """async trial => {
            const chart = document.getElementById("front");
            const single = document.querySelector("input[value=trials]");
            if (!single.checked) single.click();
            chart.scrollIntoView();
            // the page hears of it a frame later, and hides what the mouse had brought up
            for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
            const box = chart.getBoundingClientRect(), i = data.trial.indexOf(trial);
            const {xaxis, yaxis} = chart._fullLayout;
            const [x, y] = data.objectives.map(([key]) => data.values[key][i]);
            return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
        }""",
        trial,
    )


def hover(page: Any, trial: str) -> tuple[float, float]:
    """Moves to a trial, as a hand does, until it is described."""
    x, y = place(page, trial)
    deadline = time.monotonic() + 120
    while page.locator("#hover").is_hidden():
        assert time.monotonic() < deadline
        page.mouse.move(x + 2, y)
        page.mouse.move(x, y)
        page.wait_for_timeout(200)
    return x, y


def picture(path: Path, brightness: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.full((80, 80), brightness, dtype=np.uint8)
    grid[::10] = 76
    Image.fromarray(grid.repeat(5, 0).repeat(5, 1)).save(path)


@pytest.fixture
def trained(tmp_path: Path) -> Study:
    """Ten members with configurations of their own, samples, one that is flagged and one that failed."""
    found = resolve.members(composition.load(["models=[vae,wae_mmd,aae]", "space.seed={grid: [0, 1]}"]))
    rows = []
    for i, one in enumerate(found[:10]):
        row = member(i, trial=one.trial, model=one.model, config=one.to_json(), weight=one.weight, seed=one.seed)
        row["assignment"] = json.dumps(dict(one.assignment))
        row |= {"fid": 10.0 + 10 * i, "fid_se": 1.6, "probe_codes": 0.5 + 0.04 * i, "mi_q": 0.1 if i == 3 else 8.0}
        rows.append(row)
        picture(tmp_path / "run" / "samples" / f"{one.trial}.png", 20 * i)
        picture(tmp_path / "run" / "samples" / f"{one.trial}-reconstructed.png", 255 - 20 * i)
    rows[0]["flags"] = json.dumps({"restriction/posterior_kl": "its critic tells every example apart"})
    rows[9] |= {"status": Status.FAILED, "error": "RuntimeError: out of memory"}
    return study(tmp_path / "run", rows)


# The page


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_renders_without_the_network(browser: Any, trained: Study, width: int) -> None:
    (trained.run / "environment.json").write_text(json.dumps({"python": "3.11.7", "packages": {"ray": "2.60.0"}}))
    with opened(browser, write_report([trained]), width) as page:
        text = page.inner_text("body")
        order = ["means over seeds", "on the front", "Verdicts on the claims", "other planes", "Front:", "Environment"]
        places = [text.index(part) for part in order]
        assert places == sorted(places)
        assert page.locator(".claims li").count() == 15
        assert "ray 2.60.0" in text
        assert "RuntimeError: out of memory" in text
        page.locator("input[value=trials]").check()
        assert page.locator("#front .points path.point").count() == 9
        # tables scroll in their boxes, the page does not
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        rows = page.locator("table.sortable").first.locator("tbody tr")
        for mark, number in (("flagged", 0), ("collapsed", 3)):
            marked = rows.filter(has_text=mark).locator("button").all_inner_texts()
            assert marked == [trained.trials["trial"][number]]


def test_hover_shows_the_configuration_metrics_and_samples(browser: Any, trained: Study) -> None:
    row = trained.trials.iloc[2]
    with opened(browser, write_report([trained])) as page:
        assert not page.is_visible("#hover")
        hover(page, row["trial"])
        text = page.inner_text("#hover")
        for part in (row["trial"], f"weight {row['weight']:g}", "FID\t30 ± 2\t55", "on codes\t0.58\t0.88", "epoch 4"):
            assert part in text
        assert "fid_floor" not in text  # all of its numbers are where it is pinned
        assert page.evaluate("document.getElementById('hover').clientHeight") < 400
        until(page, "document.querySelector('#hover img').naturalWidth == 80")
        page.mouse.move(5, 5)
        page.wait_for_selector("#hover", state="hidden")


def test_click_pins_compares_and_unpins(browser: Any, trained: Study) -> None:
    first, second = trained.trials["trial"][:2]
    with opened(browser, write_report([trained])) as page:
        page.mouse.click(*hover(page, first))
        page.wait_for_selector("#pinned:not([hidden])")
        page.locator("table button.pin", has_text=second).click()
        until(page, "document.querySelector('#pinned tr').cells.length == 3")
        cells = page.locator("#pinned thead th[scope=col]")
        assert [first in cells.nth(0).inner_text(), second in cells.nth(1).inner_text()] == [True, True]
        assert page.locator("#pinned img").count() == 4
        until(page, "[...document.querySelectorAll('#pinned img')].every((i) => i.naturalWidth > 0)")
        assert all(page.evaluate("[...document.querySelectorAll('#pinned img')].map((i) => i.naturalWidth > 0)"))
        assert "its critic tells every example apart" in page.inner_text("#pinned")
        lines = page.locator("#pinned code.line").all_inner_texts()
        assert [trial_of(line) for line in lines] == [first, second]
        assert page.locator("table button.pin[aria-pressed=true]").count() == 2
        assert page.inner_text("#bar") == "2 pinned: compare side by side"
        page.locator("#bar button").click()
        assert page.locator("dialog[open] figure").count() == 2
        page.locator("dialog button", has_text="numbers").click()
        assert page.locator("dialog[open]").count() == 0
        page.mouse.click(*hover(page, first))
        assert page.locator("#pinned thead th[scope=col]").count() == 1
        page.locator("button.unpin").click()
        assert not page.is_visible("#pinned")
        assert page.locator("button.pin[aria-pressed=true]").count() == 0


def test_columns_sort(browser: Any, trained: Study) -> None:
    with opened(browser, write_report([trained])) as page:
        table = page.locator("table.sortable").first
        heads = table.locator("th")
        names = [text.split(" ↕")[0].strip() for text in heads.all_inner_texts()]
        for name in ("fid", "model"):
            column = names.index(name)

            def shown(column: int = column) -> list[str]:
                return [row.locator("td").nth(column).inner_text() for row in table.locator("tbody tr").all()]

            key = (lambda text: float(text.split(" ±")[0])) if name == "fid" else str
            heads.nth(column).locator("button").click()
            assert heads.nth(column).get_attribute("aria-sort") == "ascending"
            assert [*map(key, shown())] == sorted(map(key, shown()))
            heads.nth(column).locator("button").click()
            assert heads.nth(column).get_attribute("aria-sort") == "descending"
            assert [*map(key, shown())] == sorted(map(key, shown()), reverse=True)
            assert table.locator("th[aria-sort]").count() == 1


def test_several_runs_on_one_front(browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, better in (("a", 0.0), ("b", 0.05)):
        rows = [member(i, fid=10.0 * (i + 1), probe_codes=0.5 + better + 0.1 * i, seed=i % 2) for i in range(4)]
        study(tmp_path / name, rows)
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "a less b: -" in out
    assert "report.html" in out
    assert not (tmp_path / "b" / "report.html").exists()
    with opened(browser, tmp_path / "a" / "report.html") as page:
        assert "a less b: -" in page.inner_text("body")
        runs = page.locator("figure.table", has_text="By run").locator("tbody tr")
        assert [row.split("\t")[:4] for row in runs.all_inner_texts()] == [["b", "4", "4", "4"], ["a", "4", "4", "0"]]
        page.locator("#difference").scroll_into_view_if_needed()
        page.wait_for_selector("#difference .fills path", state="attached")


def spread(random: np.random.Generator, configurations: int, seeds: int = 3) -> list[dict[str, Any]]:
    """Members of configurations along a trade-off, with seeds around it."""
    rows = []
    for i in range(configurations):
        at = i / configurations
        for seed in range(seeds):
            fid, probe = 20 + 200 * at + 9 * random.normal(), 0.5 + 0.4 * np.sqrt(at) + 0.01 * random.normal()
            what = {"model": ("vae", "aae", "alice")[i % 3], "weight": 1.0 + i // 3, "seed": seed}
            config = json.dumps({"model": what["model"], "weight": what["weight"], "seed": seed})
            rows.append(member(len(rows), trial=f"t{len(rows)}", fid=fid, probe_codes=probe, config=config, **what))
    return rows


@pytest.fixture
def many(tmp_path: Path) -> Study:
    return study(tmp_path / "run", spread(np.random.default_rng(1), 12))


SHOWN = "current.map((p) => p.members.map((i) => data.trial[i]))"


def test_points_beyond_the_axes_are_told(browser: Any, tmp_path: Path) -> None:
    rows = spread(np.random.default_rng(1), 12, seeds=1)
    far = member(len(rows), trial="far", model="vae", weight=99.0, fid=9e4, probe_codes=0.1, mi_q=0.1, seed=0)
    with opened(browser, write_report([study(tmp_path / "run", [*rows, far])])) as page:
        page.wait_for_selector("#beyond")
        assert page.inner_text("#beyond").startswith("1 beyond the axes.")
        page.evaluate("filters.off.weight.add('99'); drawAll()")
        page.wait_for_selector("#beyond", state="hidden")
        page.evaluate("filters.off.weight.clear(); drawAll()")
        page.wait_for_selector("#beyond")
        page.locator("#beyond button").press("Enter")
        page.wait_for_selector("#beyond", state="hidden")
        assert page.evaluate("document.getElementById('front')._fullLayout.xaxis.range[1] > Math.log10(9e4)")
        page.evaluate("drawAll()")
        page.wait_for_timeout(500)
        assert page.locator("#beyond").is_hidden()  # it stays so


def test_a_point_is_the_mean_of_its_seeds_and_filters_leave_what_they_say(browser: Any, many: Study) -> None:
    means = mean_front(many.trials, generator=np.random.default_rng(0)).points
    with opened(browser, write_report([many])) as page:
        assert page.evaluate(f"{SHOWN}.map((m) => m.length)") == [3] * 12
        found = page.evaluate("current.map((p) => [p.value('fid'), p.value('probe_codes'), ...p.reach('fid')])")
        fid, probe = means["fid"], means["probe_codes"]
        expected = np.stack([fid, probe, fid - means["fid_low"], means["fid_high"] - fid], 1)
        np.testing.assert_allclose(sorted(found), sorted(expected.tolist()), rtol=1e-3, atol=2e-3)
        front_of = page.evaluate("best(current).map((p) => p.value('fid'))")
        np.testing.assert_allclose(front_of, sorted(means.loc[means["on_front"], "fid"]), rtol=1e-3)
        assert f"12 configurations drawn, {len(front_of)} on their front" in page.inner_text("#shown")
        assert page.locator("#front .errorbars path").count() == 2 * len(front_of)
        # the picture is about the data
        low, high = page.evaluate("document.getElementById('front')._fullLayout.xaxis.range.map((end) => 10 ** end)")
        assert 0.5 * fid.min() < low < fid.min() < fid.max() < high < 1.5 * fid.max()
        page.locator("summary", has_text="model").click()
        page.locator("input[name=model][value=vae]").uncheck()
        assert page.inner_text("summary >> text=model").startswith("model: aae, alice")
        assert page.evaluate("current.length") == 8
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.textContent").startswith("model: aae, alice")
        page.locator("summary", has_text="seed").click()
        page.locator("input[name=seed][value='0']").uncheck()
        rows = many.trials[(many.trials["model"] != "vae") & (many.trials["seed"] != 0)]
        assert sorted(itertools.chain(*page.evaluate(SHOWN))) == sorted(rows["trial"])
        # two seeds of three: an interval of all of them would be another mean's
        assert page.evaluate("current.every((p) => p.reach('fid').every((end) => end === 0))")
        page.locator("button[type=reset]").click()
        until(page, "current.length == 12")


def test_what_is_told_of_a_mean_is_the_means(browser: Any, many: Study) -> None:
    with opened(browser, write_report([many])) as page:
        page.locator("#front").focus()
        page.keyboard.press("ArrowRight")
        until(page, "!document.getElementById('hover').hidden")
        text = page.inner_text("#hover")
        assert "mean of 3 seeds" in text
        value, low, high = page.evaluate("(({value, reach}) => [value('fid'), ...reach('fid')])(best(current)[0])")
        found = re.search(r"FID\t([\d.]+) \[([\d.]+), ([\d.]+)\]", text)
        assert found
        np.testing.assert_allclose([*map(float, found.groups())], [value, value - low, value + high], rtol=1e-3)


def test_all_that_is_drawn_is_a_table_too(browser: Any, many: Study) -> None:
    with opened(browser, write_report([many])) as page:
        rows = page.locator("#all tbody tr")
        assert rows.count() == 0  # it is made when it is opened
        page.locator("#all summary").click()
        until(page, "document.querySelectorAll('#all tbody tr').length == 12")
        column = "[...document.querySelectorAll('#all tbody tr')].map((row) => parseFloat(row.cells[4].textContent))"
        fid = page.evaluate(column)
        assert fid == sorted(fid)
        assert page.locator("#all tbody tr", has_text="yes").count() == page.evaluate("best(current).length")
        page.locator("#all th button", has_text="FID").click()
        assert page.evaluate(column) == fid[::-1]
        assert page.evaluate("document.activeElement.textContent") == "FID"
        page.evaluate("filters.off.model.add('vae'); drawAll()")
        assert rows.count() == 8
        rows.last.locator("button.pin").click()
        page.wait_for_selector("#pinned:not([hidden])")
        assert rows.last.locator("button.pin").get_attribute("aria-pressed") == "true"


def test_a_click_in_the_legend_is_one_in_the_menu_of_models(browser: Any, many: Study) -> None:
    with opened(browser, write_report([many])) as page:
        entry = page.locator("#front .legend .traces", has_text="alice").locator(".legendtoggle")
        entry.click()
        until(page, "current.length == 8")
        assert page.inner_text("summary >> text=model") == "model: aae, vae"
        assert page.inner_text("#shown").startswith("8 configurations drawn")
        # two clicks within 300 ms are one double click
        page.wait_for_timeout(400)
        entry.click()
        until(page, "current.length == 12")
        page.wait_for_timeout(400)
        entry.dblclick()
        until(page, "current.length == 4")
        assert page.inner_text("summary >> text=model") == "model: alice"
        page.wait_for_timeout(400)
        entry.dblclick()
        until(page, "current.length == 12")


def test_what_else_varies_in_a_study_can_be_left_out(browser: Any, tmp_path: Path) -> None:
    rows = spread(np.random.default_rng(1), 4, seeds=2)
    sizes = (2, 8)
    rows = [
        {**row, "trial": f"{size}{row['trial']}", "latent_dim": size, "assignment": json.dumps({"latent_dim": size})}
        for size in sizes
        for row in rows
    ]
    with opened(browser, write_report([study(tmp_path / "run", rows)])) as page:
        assert page.evaluate("current.length") == 8
        page.locator("summary", has_text="latent dim").click()
        page.locator("input[name=latent_dim][value='2']").uncheck()
        assert page.inner_text("summary >> text=latent dim") == "latent dim: 8"
        shown = [*itertools.chain(*page.evaluate(SHOWN))]
        assert sorted(shown) == sorted(row["trial"] for row in rows if row["latent_dim"] == 8)


def test_what_is_marked_in_one_plane_is_marked_in_all(browser: Any, many: Study) -> None:
    with opened(browser, write_report([many])) as page:
        page.locator("#plane0").scroll_into_view_if_needed()
        page.wait_for_selector("#plane0 .points path", state="attached")
        page.locator("#plane0-x").select_option("fid")
        assert " against FID. Arrow keys" in str(page.locator("#plane0").get_attribute("aria-label"))
        box = page.evaluate(
            """() => { const chart = document.getElementById("plane0"), {left, top} = chart.getBoundingClientRect();
            const {xaxis, yaxis} = chart._fullLayout;
            return [left + xaxis._offset, top + yaxis._offset, xaxis._length, yaxis._length]; }"""
        )
        x, y, width, height = box
        page.mouse.move(x + 2, y + 2)
        page.mouse.down()
        page.mouse.move(x + width / 2, y + height / 2, steps=5)
        page.mouse.move(x + width / 2, y + height - 2, steps=5)
        page.mouse.up()
        page.wait_for_selector("#unmark:not([hidden])")
        chosen = {*page.evaluate("[...marked].map((i) => data.trial[i])")}
        middle = page.evaluate(
            "(() => { const axis = document.getElementById('plane0')._fullLayout.xaxis;"
            " return axis.p2d(axis._length / 2); })()"
        )
        means = mean_front(many.trials, generator=np.random.default_rng(0)).points
        within = means[means["fid"] < middle]
        assert 0 < len(within) < len(means)
        pairs = {*zip(within["model"], within["weight"], strict=True)}
        rows = many.trials
        assert chosen == {
            t for t, *pair in zip(rows["trial"], rows["model"], rows["weight"], strict=True) if (*pair,) in pairs
        }
        for name in ("front", "plane0"):
            count = page.evaluate(
                f"document.getElementById('{name}').data.flatMap((t) => t.selectedpoints || []).length"
            )
            assert count == len(within)
        page.locator("#unmark").click()
        until(page, "document.getElementById('front').data.every((t) => !t.selectedpoints)")


def test_pictures_side_by_side_at_size_and_by_keys(browser: Any, trained: Study) -> None:
    with opened(browser, write_report([trained])) as page:
        page.locator("input[value=trials]").check()
        page.locator("#front").focus()
        said = []
        for key in ("ArrowRight", "Enter", "ArrowRight", "Enter"):
            before = page.inner_text("#said")
            page.keyboard.press(key)
            until(page, f"document.getElementById('said').textContent != {json.dumps(before)}")
            until(page, "!document.getElementById('hover').hidden")
            said.append(page.inner_text("#said"))
        first, second = trained.trials.sort_values("fid")["trial"][:2]
        assert "FID 10 ± 1.6 (standard error)," in said[0]
        assert "FID 20 ± 1.6 (standard error)," in said[2]
        assert said[1::2] == [f"{first} pinned", f"{second} pinned"]
        page.locator("#pinned .opener").first.press("Enter")
        assert page.locator("dialog[open] figure").count() == 2
        until(page, "[...document.querySelectorAll('dialog img')].every((i) => i.clientWidth > 300)")
        page.locator("dialog select").select_option("reconstructed")
        until(page, "[...document.querySelectorAll('dialog img')].every((i) => i.naturalWidth == 80)")
        shade = (
            "(i) => { const c = document.createElement('canvas'), g = c.getContext('2d'); g.drawImage(i, 0, 0);"
            " return g.getImageData(5, 5, 1, 1).data[0]; }"
        )
        shades = page.evaluate(f"[...document.querySelectorAll('dialog img')].map({shade})")
        assert np.abs(np.array(shades) - [255, 235]).max() <= 8
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0


def test_dark_and_light_by_the_system_and_by_choice(browser: Any, trained: Study) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    drawn_on = "document.getElementById('front')._fullLayout.paper_bgcolor"
    with opened(browser, write_report([trained])) as page:
        light = page.evaluate(f"[{paper}, {drawn_on}]")
        page.emulate_media(color_scheme="dark")
        until(page, f"{drawn_on} != '{light[1]}'")
        dark = page.evaluate(f"[{paper}, {drawn_on}]")
        assert dark[0] != light[0]
        page.locator("#theme").click()
        assert page.evaluate(f"[{paper}, {drawn_on}]") == light
        page.emulate_media(color_scheme="light")
        page.locator("#theme").click()
        assert page.evaluate(f"[{paper}, {drawn_on}]") == dark


def test_figures_are_saved_as_svg_and_pdf(browser: Any, many: Study, tmp_path: Path) -> None:
    with opened(browser, write_report([many])) as page:
        with page.expect_download() as loaded:
            page.locator("button[data-figure=front][data-save=svg]").click()
        loaded.value.save_as(tmp_path / "front.svg")
        tree = ElementTree.parse(tmp_path / "front.svg")
        assert len([one for one in tree.iter() if "point" in one.get("class", "").split()]) >= 12
        assert "probe accuracy" in (tmp_path / "front.svg").read_text(encoding="utf-8")
        page.evaluate("window.print = () => { window.printed = true; }")
        page.locator("button[data-figure=front][data-save=pdf]").click()
        until(page, "window.printed")
        pdf = page.pdf(prefer_css_page_size=True)
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert not page.evaluate("document.documentElement.classList.contains('printing')")
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type ?/Page\b", pdf)) == 1
    assert b"/Subtype /Image" not in pdf  # lines, no pixels
    wide, high = map(float, re.search(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", pdf).groups())  # type: ignore[union-attr]
    assert 1.5 < wide / high < 3


def test_three_hundred_members_with_pictures_are_three_megabytes_at_most(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = spread(random, 100)
    found = resolve.members(composition.load(["models=[vae]"]))[0]
    one = {"config": found.to_json(), "assignment": json.dumps(dict(found.assignment))}
    digits = datasets.load_digits().images
    for row in rows:
        row |= one | {"config": one["config"].replace('"seed":0', f'"seed":{row["seed"]}')}
        for kind in ("", "-reconstructed"):
            # digits with noise, as a model leaves it: noise alone could not be compressed
            chosen = digits[random.integers(len(digits), size=100)].reshape(10, 10, 8, 8).transpose(0, 2, 1, 3)
            grid = np.clip(chosen.reshape(80, 80) * 15.9 + 12 * random.normal(size=(80, 80)), 0, 255).astype(np.uint8)
            path = tmp_path / "run" / "samples" / f"{row['trial']}{kind}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grid.repeat(5, 0).repeat(5, 1)).save(path)
    path = write_report([study(tmp_path / "run", rows)])
    told = drawn(path)
    assert len(told) == 300
    assert all(point["samples"] and point["reconstructed"] for point in told)
    assert path.stat().st_size < 3_000_000


def clothes(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A grid of blurred patches as large as MNIST's images, with its frames, which alone have this brightness."""
    images = random.integers(100, 256, size=(rows, columns, 7, 7)).repeat(4, 2).repeat(4, 3)
    framed = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=76)
    return framed.transpose(0, 2, 1, 3).reshape(rows * 30, columns * 30).astype(np.uint8)


def test_grids_without_room_are_cut_between_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    grids = {"samples": (8, 8), "reconstructed": (8, 8), "traversals": (9, 8), "neighbours": (4, 10)}
    (tmp_path / "samples").mkdir()
    for i in range(10):
        for kind, (rows, columns) in grids.items():
            name = f"t{i}" + ("" if kind == "samples" else f"-{kind}")
            Image.fromarray(clothes(random, rows, columns)).save(tmp_path / "samples" / f"{name}.png")
    wanted = [
        (f"m{i}", tmp_path, f"t{i % 10}", kind)
        for i in range(300)
        for kind in grids
        if kind in pictures.COMMON or i < 5
    ]
    found = pictures.gathered(wanted)
    assert found.left_out == 0
    assert sum(map(len, found.strips)) < pictures.ROOM
    strips = [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L")) for text in found.strips]
    for i in range(300):
        assert found.places[f"m{i}"].keys() == ({*grids} if i < 5 else {*pictures.COMMON})
        for kind, (strip, top, width, height) in found.places[f"m{i}"].items():
            assert (height % 30, width % 30) == (0, 0)
            if kind in pictures.COMMON:
                assert (height < 240, height % 60) == (True, 0)
            else:
                assert (height, width) == (30 * grids[kind][0], 30 * grids[kind][1])
            shown = strips[strip][top : top + height, :width]
            # the last lines are frame: no image is cut
            assert max(shown[-1].max(), shown[:, -1].max()) < 150
    few = pictures.gathered([one for one in wanted if one[0] in ("m0", "m1")])
    assert few.places["m0"]["samples"][2:] == (240, 240)
    monkeypatch.setattr(pictures, "ROOM", 100_000)
    short = pictures.gathered(wanted)
    assert short.left_out
    assert all("samples" in kinds for kinds in short.places.values())


@pytest.mark.slow
def test_ten_thousand_trials_are_drawn(browser: Any, tmp_path: Path) -> None:
    rows = spread(np.random.default_rng(0), 2500, seeds=4)
    # verdicts have their own tests, and take longer
    others = [verdicts_of(study(tmp_path / "few", rows[:36]))]
    with opened(browser, write_report([study(tmp_path / "run", rows)], verdicts=others)) as page:
        assert page.evaluate("current.length") == 2500
        assert page.evaluate("[...visible]") == ["front"]  # planes wait until they are seen
        assert page.evaluate("details.size") == 0
        page.locator("input[value=trials]").check()
        until(page, "current.length == 10000")
        assert page.locator("#front .points path").count() >= 10_000
        last = page.evaluate("point(9999)")
        assert last["trial"] == page.evaluate("data.trial[9999]")
        assert page.evaluate("details.size") == 1


def test_runs_that_do_not_compare_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path / "a", [member(0)])
    study(tmp_path / "b", [member(0, data="mnist")])
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "data is mixed: digits (1 trials), mnist (1 trials)" in capsys.readouterr().err
    assert not (tmp_path / "a" / "report.html").exists()


def test_many_trials_are_thinned_and_the_front_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "POINTS", POINTS)
    random = np.random.default_rng(0)
    values = random.random((POINTS + 200, 2)).tolist()
    many = study(tmp_path, [member(i, trial=f"t{i}", fid=x, probe_codes=y) for i, (x, y) in enumerate(values)])
    text = write_report([many]).read_text(encoding="utf-8")
    assert f"{POINTS} of {POINTS + 200} trials are drawn: the front," in text
    found = {point["trial"] for point in drawn(tmp_path / "report.html")}
    assert found == {*core(tmp_path / "report.html")["trial"]}
    assert len(found) == POINTS
    assert set(front(many.trials).rows["trial"]) <= found


# How to train a member anew


def trial_of(line: str) -> str:
    """The one member that a line runs."""
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "gimtune"]
    (found,) = resolve.members(composition.load(words[3:]))
    return found.trial


def line(one: Member, stated: Any = None) -> str:
    """The line of a member of a study that stated itself so."""
    return command(one.trial, one.to_json(), json.dumps(dict(one.assignment)), stated or {})


STUDIES = {
    "a weight of its own": ["models=[beta_vae]", "space.weight=0.1234567890123", "space.seed=7"],
    "parameters of its own": ["models=[info_vae]", "space.lambda={grid: [3.7, 100]}", "space.alpha={grid: [0, 0.3]}"],
    "a swept restriction": ["study=restrictions"],
    "a model of the study's own": ["model=sliced_wae", "space.weight={grid: [0, 0.1, 7]}"],
    "a critic's settings": ["models=[aae]", "critic.steps=3", "critic.spectral_norm=true", "critic.learning_rate=1e-7"],
    "another domain": ["models=[cyclegan]", "data=mnist", "data.pair=fashion_mnist", "network=conv"],
    "a prior with options": ["models=[vae]", "prior=mixture", "study=search", "search.trials=3"],
    "a learning rate of its own": ["models=[vae]", "space.learning_rate={grid: [1e-4, 0.003]}", "space.batch_size=32"],
    "a model that says all": [
        "models=[{name: own, side: q, encoder: deterministic, likelihood: gaussian, restrictions: "
        "[{match: latent, divergence: js, weight: 0.3}, {match: latent, divergence: mmd, weight: 7}]}, vae]",
    ],
}


@pytest.mark.parametrize("overrides", STUDIES.values(), ids=STUDIES)
def test_a_members_line_yields_the_member(overrides: list[str]) -> None:
    chosen = composition.load(overrides)
    found = resolve.members(chosen)
    for one in found[:: max(1, len(found) // 2)]:
        assert trial_of(line(one, yaml.safe_load(composition.dump(chosen)))) == one.trial


def test_the_plug_ins_of_a_member_are_named() -> None:
    one = dataclasses.replace(resolve.members(composition.load(["models=[vae]"]))[0], plugins={"own.parts": "0a1b"})
    assert "plugins=[own.parts]" in shlex.split(line(one))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "prior"), [*combinations()])
def test_every_models_line_yields_it(model: str, prior: str) -> None:
    space = [f"space.prior={prior}", "space.weight=0.3", "space.latent_dim=74", "space.seed=3"]
    (one,) = resolve.members(composition.load([f"models=[{model}]", *space]))
    assert trial_of(line(one)) == one.trial


@pytest.mark.slow
def test_the_line_is_taken_by_the_command_line() -> None:
    one = resolve.members(composition.load(["models=[wae_gan]"]))[3]
    words = shlex.split(line(one))
    done = subprocess.run([sys.executable, *words[1:], "dry_run=true"], capture_output=True, text=True, check=True)
    assert "1 members in 1 packs" in done.stdout
    assert "wae_gan" in done.stdout


def test_a_configuration_that_is_not_the_members_gives_no_line() -> None:
    one = resolve.members(composition.load(["models=[vae]"]))[0]
    text, chosen = one.to_json(), json.dumps(dict(one.assignment))
    with pytest.raises(ValueError, match="not the one it was named after"):
        command(one.trial, text.replace('"learning_rate":0.003', '"learning_rate":2.0'), chosen, {})
    for bad in ("", "[1", "{}", "5", text[:-1]):
        with pytest.raises(ValueError, match="cannot be read"):
            command(one.trial, bad, chosen, {})
    for bad, why in ((None, "not recorded"), (math.nan, "not recorded"), ("[1", "cannot be read"), ("{}", "be read")):
        with pytest.raises(ValueError, match=f"space that it came from|{why}"):
            command(one.trial, text, bad, {})
    for name in ("$(touch /tmp/x)", "x,seed=1", "a b", "'", "x\n", "-h"):
        with pytest.raises(ValueError, match="cannot stand in a command line"):
            command(one.trial, text, json.dumps({"model": name}), {})
        with pytest.raises(ValueError, match="cannot stand in a command line"):
            command(one.trial, text, json.dumps({"model": "vae", name: 1}), {})


# Run folders that somebody tampered with


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def core(path: Path) -> dict[str, Any]:
    """What a page draws from."""
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert found
    return unpacked(found[1])


def drawn(path: Path) -> list[dict[str, Any]]:
    """What a page tells of its points, and its pictures of each."""
    parts = re.findall(r'class="details">(.*?)</script>', path.read_text(encoding="utf-8"))
    told = [point for part in parts for point in unpacked(part)]
    shown = core(path)["pictures"]
    return [point | {kind: shown.get(str(i), {}).get(kind) for kind in pictures.KINDS} for i, point in enumerate(told)]


def test_scripts_in_names_are_text(browser: Any, tmp_path: Path) -> None:
    evil = SCRIPT + "<img src=x onerror=alert(2)>"
    names = dict.fromkeys(("model", "prior", "study", "data", "network", "fid_features", "likelihood_name"), evil)
    notes = {column: json.dumps({evil: evil, "fid": evil}) for column in ("flags", "reasons")}
    rows = [member(i, **names, **notes, fid=float(i + 1), probe_codes=i / 4, config=evil) for i in range(3)]
    rows.append(member(3, **{**names, "trial": f"{evil}.."}, status=Status.FAILED, error=evil))
    for row in rows[:3]:
        row["trial"] = f"{evil}{row['trial']}"
    run = tmp_path / "<img src=x onerror=alert(4)>"
    store = write(run, rows)
    store.annotate(name=evil, classifier_test_accuracy=evil)
    store.close()
    with sqlite3.connect(run / "study.db") as db:
        quoted = evil.replace('"', '""')
        db.execute(f'ALTER TABLE trials ADD COLUMN "{quoted}" REAL')
        db.execute(f'UPDATE trials SET "{quoted}"=1')
    db.close()
    (run / "environment.json").write_text(json.dumps({evil: evil, "packages": {evil: evil}}))
    (run / "config.yaml").write_text(json.dumps({"space": {evil: evil}}))
    with opened(browser, write_report([run])) as page:
        hover(page, rows[0]["trial"])
        for button in page.locator("table button.pin").all():
            button.click()
        until(page, "document.querySelector('#pinned tr').cells.length == 4")
        for where in ("#hover", "#pinned", ".sortable >> nth=0", ".environment", "h1"):
            assert "<script>alert(1)</script>" in page.inner_text(where)
        handlers = (
            "[...document.querySelectorAll('*')].filter((e) => e.getAttributeNames().some((n) => n.startsWith('on')))"
        )
        assert page.evaluate(f"{handlers}.length") == 0
        policy = page.locator("meta[http-equiv]").get_attribute("content")
        own = page.locator("script:not([type])").evaluate_all("of => of.map((script) => script.textContent)")
        digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in own]
        assert len(own) == 2
        assert all(f"'sha256-{digest}'" in policy for digest in digests)
        assert page.locator("img[src^=x]").count() == 0


def test_names_that_leave_the_folder_and_pictures_that_are_none(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    picture(tmp_path / "secret.png", 99)
    good = run / "samples" / "t05.png"
    picture(good, 50)
    names = ["../../secret", "../../../secret", str(tmp_path / "secret"), "t03", "t04", "t05", "t06", "..", ""]
    (run / "samples" / "t03.png").symlink_to(tmp_path / "secret.png")
    (run / "samples" / "t04.png").write_bytes(b"<svg onload=alert(1)>")
    # a header that promises 100,000 x 100,000 pixels
    broken = bytearray(good.read_bytes())
    broken[16:24] = (100_000).to_bytes(4, "big") * 2
    (run / "samples" / "t06.png").write_bytes(broken)
    found = drawn(write_report([study(run, [member(i, trial=name) for i, name in enumerate(names)])]))
    assert len(found) == len(names)
    assert [point["trial"] for point in found if point["samples"]] == ["t05"]
    assert not any(point["reconstructed"] for point in found)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"[" * 99_999, b"null", None])
def test_an_environment_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    one = study(tmp_path, [member(0)])
    if content is None:
        (tmp_path / "environment.json").mkdir()
    else:
        (tmp_path / "environment.json").write_bytes(content)
    text = write_report([one]).read_text(encoding="utf-8")
    assert re.search("environment.json cannot be read: it is no JSON object|has no environment.json", text)
    assert text.rstrip().endswith("</html>")


ABSURD = {
    "fid=1.7e308, probe_codes=-1.7e308": "no fid: beyond 1e+100",
    "fid=9e999": "no fid: infinite",
    "fid=NULL, reasons=NULL": "no fid: NaN, no reason recorded",
    "weight=9e999, seed=-9223372036854775808, epoch=9223372036854775807": "",
    "latent_dim=9223372036854775807": "codes of 9223372036854775807 dimensions, not 8",
    "trial=NULL, model=NULL, prior=NULL, network=NULL, restrictions=NULL, config=NULL": "",
    "mi_q=9e999, active_units=-9e999, test_fid=1e300, seconds=-5": "",
    "restrictions=replace(hex(zeroblob(50000)), '00', '['), config=replace(hex(zeroblob(50000)), '00', '[')": "",
    "error=hex(zeroblob(100000)), model=char(27) || '[31m' || char(0)": "",
}


@pytest.mark.parametrize("change", ABSURD)
def test_absurd_values_are_left_out_or_shown(tmp_path: Path, change: str) -> None:
    study(tmp_path, [member(i, fid=5.0 + i) for i in range(3)])
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute(f"UPDATE trials SET {change} WHERE trial='t00'")
    db.close()
    path = write_report([tmp_path])
    assert len(drawn(path)) == (2 if ABSURD[change] else 3)
    assert ABSURD[change] in path.read_text(encoding="utf-8")


def test_a_page_is_whole_or_absent(tmp_path: Path) -> None:
    one = study(tmp_path, [member(0)])
    before = write_report([one]).read_bytes()
    with sqlite3.connect(tmp_path / "study.db") as db:
        db.execute("UPDATE trials SET flags='['")
    db.close()
    with pytest.raises(ValueError, match="trial t00: column flags is no JSON object"):
        write_report([tmp_path])
    assert (tmp_path / "report.html").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "study.db"}


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (("holds", "", "", ""), "The same by the probe on means."),
        (
            ("holds", "holds", "holds", "undecided"),
            "The same by the probe on means, with collapsed, stopped and diverged members, on the validation split at "
            "half of the budget. On the validation split at the whole budget: undecided.",
        ),
        (("", "", "", ""), ""),
    ],
)
def test_other_verdicts_of_a_claim_are_told_apart_where_they_differ(others: tuple[str, ...], told: str) -> None:
    nothing = dict.fromkeys(Claim._fields, 0.0) | {"verdict": Verdict.HOLDS}
    fields = ("with_means", "with_left_out", "at_half", "at_whole")
    claim = Claim(**{**nothing, **dict(zip(fields, others, strict=True))})  # type: ignore[arg-type]
    assert _beside(claim) == told
