"""The demo's report in a real browser: the slider against the table of verdicts, requests, accessibility, pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

import normgate
from normgate import Gate, demo
from normgate.data.demo import demo_set
from normgate.report import evaluation_report
from normgate.screening import screen
from samples import PREPROCESSING, random_records, small_network

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser; on Debian: sudo apt-get install chromium")
SETS = {"known images": "test", **{name: name for name in demo.OUTLIERS}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # A fresh profile each time; root cannot have Chromium's sandbox.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def tables(demo_run: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Verdicts of the demo's gate on the sets of its report, as `normgate screen` writes them."""
    folder, place = demo_run[0], tmp_path_factory.mktemp("verdicts")
    gate = Gate.load(folder / "gate", device="cpu")
    found = {}
    for name, part in SETS.items():
        screen(gate, demo_set(part), place / f"{part}.parquet")
        found[name] = pq.read_table(place / f"{part}.parquet")
    return found


def small_gate() -> Gate:
    return Gate.calibrate(
        small_network(),
        preprocessing=PREPROCESSING,
        train=random_records(60, 1),
        tuning=random_records(60, 2),
        calibration=random_records(120, 3),
        score="mahalanobis",
    )


def opened(browser: Browser, path: Path, complaints: list[str], **options: Any) -> Page:
    """The page, and in `complaints` whatever it asked for or the browser refused."""
    page = browser.new_context(**options).new_page()
    page.on("request", lambda request: complaints.append(request.url) if "file:" not in request.url[:5] else None)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    return page


def without_pictures(complaints: list[str]) -> list[str]:
    """Requests that leave the page: pictures that are in it have an address of their own."""
    return [text for text in complaints if not text.startswith("data:")]


def moved(page: Page, position: int) -> None:
    page.locator("#slider").evaluate(
        "(slider, to) => { slider.value = to; slider.dispatchEvent(new Event('input')); }", position
    )


def counts(page: Page) -> dict[str, tuple[int, int]]:
    """Images and rejected images of each set, as the page shows them."""
    rows = page.locator("#counts tbody tr").all()
    names = [row.locator("bdi").inner_text() for row in rows]
    cells = [[int(row.locator("td").nth(i).inner_text()) for i in (0, 1)] for row in rows]
    return {name: (images, rejected) for name, (images, rejected) in zip(names, cells, strict=True)}


def test_the_slider_counts_what_the_tables_hold(
    browser: Browser, demo_run: tuple[Path, Any], tables: dict[str, Any]
) -> None:
    complaints: list[str] = []
    page = opened(browser, demo_run[0] / "report.html", complaints)
    gate = Gate.load(demo_run[0] / "gate", device="cpu")
    last = int(page.locator("#slider").get_attribute("max") or 0)
    levels = [level / (gate.calibration.n + 1) for level in range(gate.calibration.n + 1)]
    assert last == len(levels) - 1
    start = int(page.locator("#slider").input_value())
    for name, (images, rejected) in counts(page).items():
        assert (images, rejected) == (len(tables[name]), tables[name]["accepted"].to_pylist().count(False))
    for position in (0, 1, start - 1, start + 1, last // 2, last):
        moved(page, position)
        for name, (_, rejected) in counts(page).items():
            assert rejected == (tables[name]["p_value"].to_numpy() <= levels[position]).sum()
        shown = page.locator('[data-follow="rejected"] li:visible').evaluate_all(
            "cards => cards.map(c => +c.dataset.p)"
        )
        assert all(p <= levels[position] for p in shown)
        for details in page.locator("details.set").all():
            details.evaluate("element => { element.open = true; }")
        missed = page.locator('[data-follow="accepted"] li:visible').evaluate_all(
            "cards => cards.map(c => +c.dataset.p)"
        )
        assert all(p > levels[position] for p in missed)
        accepted = [(tables[name]["p_value"].to_numpy() > levels[position]).any() for name in demo.OUTLIERS]
        assert bool(missed) == any(accepted)
    page.get_by_role("button", name="Back to the start").click()
    assert int(page.locator("#slider").input_value()) == start
    assert without_pictures(complaints) == []


def test_the_slider_obeys_the_keyboard_and_speaks(browser: Browser, demo_run: tuple[Path, Any]) -> None:
    page = opened(browser, demo_run[0] / "report.html", [])
    slider = page.get_by_role("slider", name="Expected false-alarm rate")
    slider.focus()
    before = int(slider.input_value())
    page.keyboard.press("ArrowRight")
    assert int(slider.input_value()) == before + 1
    assert slider.get_attribute("aria-valuetext") == page.locator("#promised").inner_text()


def test_the_line_stands_at_the_threshold(browser: Browser, demo_run: tuple[Path, Any]) -> None:
    """It covers the dashed one that the chart has at the gate's threshold, on every screen."""
    for width in (1200, 375):
        page = opened(browser, demo_run[0] / "report.html", [], viewport={"width": width, "height": 800})
        plot = page.locator(".plot[data-low]:visible")
        line = plot.locator(".marker").bounding_box()
        dashed = plot.locator("svg line[stroke-dasharray='4,3']").first.bounding_box()
        assert line is not None
        assert dashed is not None
        assert abs(line["x"] - dashed["x"]) < 2


def test_nothing_leaves_the_page_and_nothing_is_evaluated(browser: Browser, demo_run: tuple[Path, Any]) -> None:
    complaints: list[str] = []
    page = opened(browser, demo_run[0] / "report.html", complaints)
    page.locator("#gate").scroll_into_view_if_needed()
    assert without_pictures(complaints) == []
    tried = """() => new Promise(resolve => {
        document.addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
        const script = document.createElement("script"); script.textContent = "window.ran = true";
        document.body.append(script); setTimeout(() => resolve("allowed"), 1000); })"""
    assert page.evaluate(tried) == "script-src-elem"
    assert page.evaluate("window.ran") is None
    assert page.evaluate("fetch('https://example.org').then(() => 'allowed', () => 'refused')") == "refused"


def test_hostile_names_are_shown_and_never_run(browser: Browser, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"
    gate, known, odd = small_gate(), random_records(50, 5), [np.full((8, 8, 3), i, np.uint8) for i in range(30)]
    evaluation = normgate.evaluate(gate, known, {hostile: odd}, scores=["norm"], keep_features=True)
    evaluation_report(gate, evaluation, {"id": known, hostile: odd}, tmp_path / "r.html")
    complaints: list[str] = []
    page = opened(browser, tmp_path / "r.html", complaints)
    assert page.locator("#counts bdi").nth(1).inner_text() == hostile
    assert without_pictures(complaints) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(browser: Browser, demo_run: tuple[Path, Any], scheme: str) -> None:
    page = opened(browser, demo_run[0] / "report.html", [], color_scheme=scheme)
    for details in page.locator("details.set").all():
        details.evaluate("element => { element.open = true; }")
    found = Axe().run(page).response["violations"]
    said = [f"{item['id']}: {item['help']}: {item['nodes'][0]['html'][:200]}" for item in found]
    assert [line for line, item in zip(said, found, strict=True) if item["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize("width", [320, 375, 768])
def test_a_phone_needs_no_sideways_scrolling(
    browser: Browser, demo_run: tuple[Path, Any], tmp_path: Path, width: int
) -> None:
    name = "a-name-that-never-ends-" * 8
    gate, known, odd = small_gate(), random_records(50, 5), [np.full((8, 8, 3), i, np.uint8) for i in range(30)]
    evaluation = normgate.evaluate(gate, known, {name: odd}, scores=["norm"], keep_features=True)
    evaluation_report(gate, evaluation, {"id": known, name: odd}, tmp_path / "r.html")
    for path in (demo_run[0] / "report.html", tmp_path / "r.html"):
        page = opened(browser, path, [], viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".plot.narrow").first.is_visible()
        assert not page.locator(".plot.wide").first.is_visible()
        page.set_viewport_size({"width": 880, "height": 800})
        assert page.locator(".plot.wide").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 880


def test_paper_shows_every_list_and_the_wide_charts(browser: Browser, demo_run: tuple[Path, Any]) -> None:
    page = opened(browser, demo_run[0] / "report.html", [], viewport={"width": 718, "height": 1000})
    page.emulate_media(media="print")
    assert page.locator(".plot.wide").first.is_visible()
    for details in page.locator("details.set").all():
        shown = details.locator("li:not([hidden])")
        assert shown.first.is_visible()
        assert shown.last.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 718


def test_pictures(browser: Browser, demo_run: tuple[Path, Any], screenshots: Path) -> None:
    """As the README shows them; and paper has neither the slider nor a dark ground."""
    for scheme in ("light", "dark"):
        size = {"width": 1100, "height": 1500}
        page = opened(browser, demo_run[0] / "report.html", [], viewport=size, color_scheme=scheme)
        page.screenshot(path=screenshots / f"report-{scheme}.png")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.get_by_role("button").is_visible()
    assert page.pdf().startswith(b"%PDF")
