"""The page in a real browser: verdicts of the gate, nothing from elsewhere, the token, accessibility, pictures."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

import normgate
from normgate.data.demo import demo_set
from normgate.data.sources import load
from normgate.serving import Options, create_application

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser; on Debian: sudo apt-get install chromium")
TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # A fresh profile each time; root cannot have Chromium's sandbox.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@contextlib.contextmanager
def served(gate: Path, **options: Any) -> Iterator[str]:
    """The address of a server in a thread."""
    application = create_application(gate, Options(runtime="torch", **options))
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def opened(browser: Browser, address: str, complaints: list[str], **options: Any) -> Page:
    """The page, and in `complaints` whatever it asked of others or the browser refused."""
    page = browser.new_context(**options).new_page()
    page.on(
        "request", lambda one: None if one.url.startswith((address, "blob:", "data:")) else complaints.append(one.url)
    )
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    return page


def judged(page: Page, *images: dict[str, Any]) -> None:
    before = page.locator("#cards > li").count()
    page.locator("#files").set_input_files(list(images))
    expect(page.locator("#cards > li")).to_have_count(before + len(images))
    expect(page.locator("#said")).not_to_contain_text("Judging")


def file(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def test_cards_say_what_the_gate_says(browser: Browser, gate_folder: Path, files: list[bytes]) -> None:
    gate = normgate.Gate.load(gate_folder, device="cpu")
    complaints: list[str] = []
    with served(gate_folder) as address:
        page = opened(browser, address, complaints)
        hostile = "<img src=x onerror=alert(1)>.png"
        for image in files[:4]:
            judged(page, file(hostile, image))
            verdict = gate([image])[0]
            card = page.locator("#cards > li").first
            assert card.locator(".name").inner_text() == hostile
            said = card.locator(".verdict").inner_text()
            assert said == (
                f"Accepted: {verdict.label}" if verdict.accepted else "Rejected: unlike the training images"
            )
            facts = card.locator(".facts dd").all_inner_texts()
            assert facts[0] == verdict.label
            assert float(facts[2]) == pytest.approx(verdict.score, rel=1e-3)
            assert float(facts[3]) == pytest.approx(verdict.p_value, rel=1e-2)
            own, threshold = (card.locator(f"svg .{name}").get_attribute("x1") for name in ("own", "threshold"))
            assert own is not None
            assert threshold is not None
            assert (float(own) >= float(threshold)) == verdict.accepted
            assert card.locator("svg rect").count() == 60
            assert not card.locator(".near").is_visible()
        assert page.locator("#said").inner_text() == said
        judged(page, file("broken.png", b"no image"), file("whole.png", files[5]))
        assert page.locator("#said").inner_text() == "2 images judged."
        assert "not an image" in page.locator("#cards > li").nth(1).locator(".verdict").inner_text()
    # What the browser itself says of a picture that is none, and of the 422.
    assert [text for text in complaints if "422" not in text] == []


def test_dropping_an_image_and_what_misses(browser: Browser, gate_folder: Path, files: list[bytes]) -> None:
    with served(gate_folder) as address:
        page = opened(browser, address, [])
        dropping = """([selector, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
            const event = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
            document.querySelector(selector).dispatchEvent(event);
            return event.defaultPrevented;
        }"""
        expect(page.locator("#drop")).to_be_visible()
        assert page.evaluate(dropping, ["#drop", list(files[0])])
        expect(page.locator("#cards .name")).to_have_text("dropped.png")
        expect(page.locator("#cards .verdict")).to_contain_text("ed: ")
        assert page.evaluate(dropping, ["h1", list(files[0])])
        assert page.locator("#cards > li").count() == 1


def test_the_token_is_asked_for(browser: Browser, gate_folder: Path, files: list[bytes]) -> None:
    with served(gate_folder, token=TOKEN) as address:
        page = opened(browser, address, [])
        expect(page.get_by_label("Access token")).to_be_focused()
        assert not page.locator("#drop").is_visible()
        page.keyboard.type("not the token")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_have_text("This is not the token.")
        page.get_by_label("Access token").fill(TOKEN)
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_label("Access token")).not_to_be_visible()
        judged(page, file("a.png", files[0]))
        assert "ed: " in page.locator("#cards .verdict").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_narrow_and_pictured(
    browser: Browser, demo_run: tuple[Path, Any], screenshots: Path, scheme: str
) -> None:
    name = next(iter(demo_set("test"))).id
    records = {part: load(demo_set(part)) for part in ("test", "far-waste")}
    with served(demo_run[0] / "gate") as address:
        complaints: list[str] = []
        page = opened(browser, address, complaints, color_scheme=scheme, viewport={"width": 1000, "height": 1100})
        expect(page.locator("#drop")).to_be_visible()
        judged(page, file("carton.webp", records["far-waste"][0].payload))
        judged(page, file(f"{name}.webp", records["test"][0].payload))
        page.screenshot(path=screenshots / f"server-{scheme}.png")
        found = Axe().run(page).response["violations"]
        assert [f"{item['id']}: {item['nodes'][0]['html'][:200]}" for item in found] == []
        page.set_viewport_size({"width": 320, "height": 800})
        judged(page, file("a-name-that-never-ends-" * 8, records["test"][1].payload))
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert complaints == []


def test_neighbours_are_shown(browser: Browser, photo_gate: Path, class_folders: Path, screenshots: Path) -> None:
    with served(photo_gate, neighbours=str(class_folders)) as address:
        page = opened(browser, address, [])
        expect(page.locator("#drop")).to_be_visible()
        judged(page, file("03.png", (class_folders / "cat" / "03.png").read_bytes()))
        near = page.locator("#cards .near li")
        assert near.count() == 4
        assert "cosine 1.00" in near.first.inner_text()
        assert near.first.locator("img").evaluate("image => image.naturalWidth") == 12
        page.screenshot(path=screenshots / "server-neighbours.png")
