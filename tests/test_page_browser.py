"""The server's page, driven in a real browser: Chromium by Playwright, where both are installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy_export import toy_export

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the system's chromium"),
]

SIZES = {"phone": (390, 844), "desk": (1280, 800)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(toy_export(tmp_path_factory.mktemp("export")), "--watch", "0") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(params=SIZES)
def page(browser: Any, server: LiveServer, request: pytest.FixtureRequest) -> Iterator[Any]:
    width, height = SIZES[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    opened.goto(f"http://127.0.0.1:{server.port}/")
    opened.wait_for_selector("#found li")
    yield opened
    context.close()
    assert errors == []


def search(page: Any, text: str) -> list[str]:
    """The titles found."""
    with page.expect_response(lambda answer: "/items?" in answer.url):
        page.fill("#find", text)
    page.wait_for_timeout(50)
    return page.locator("#found .title").all_inner_texts()


def press(page: Any, where: str) -> None:
    with page.expect_response("**/recommend"):
        page.locator(where).first.click()
    page.wait_for_timeout(50)


def test_search_by_key_misspelt_title_and_attribute(page):
    assert search(page, "i05") == ["Black Mirror (1994)"]
    assert search(page, "Blak Miror") == ["Black Mirror (1994)"]
    assert "spelt alike" in page.inner_text("#nothing")
    assert all("Rug" in one for one in search(page, "rug"))
    assert page.locator("#nothing").is_hidden()
    assert search(page, "<b>no such thing</b>") == []
    assert "Nothing found for “<b>no such thing</b>”" in page.inner_text("#nothing")


def test_a_session_its_list_and_its_link(page, server):
    search(page, "i03")
    press(page, "#found button")
    titles = page.locator("#list .title").all_inner_texts()
    assert titles[:2] == ["White Clock (1993)", "Black Mirror (1994)"]
    assert "i04 · Clock · 4" in page.inner_text("#list li:first-child")
    assert page.locator("#legend").is_hidden()
    press(page, "#list button")
    assert page.locator("#legend").is_visible()
    assert page.locator("#list .new").count() == 1
    assert "Model llm4sbr, version" in page.inner_text("#model")
    link = page.get_attribute("#link", "href")
    other = page.context.new_page()
    other.goto(f"http://127.0.0.1:{server.port}/{link}")
    other.wait_for_selector("#list li")
    assert other.locator("#session .title").all_inner_texts() == ["Green Table (1992)", "White Clock (1993)"]
    other.close()
    press(page, "#session button")  # takes the first click out
    assert page.locator("#session .title").all_inner_texts() == ["White Clock (1993)"]
    page.click("#clear")
    assert page.locator("#session li").count() == 0


def test_filters(page):
    search(page, "i03")
    press(page, "#found button")
    page.click("summary")
    with page.expect_response("**/recommend"):
        page.check("#filter-in_stock")
    with page.expect_response("**/recommend"):
        page.fill("[id='filter-price from']", "10")
        page.keyboard.press("Tab")
    page.wait_for_timeout(50)
    assert [one.split(" · ")[0] for one in page.locator("#list .facts").all_inner_texts()] == [
        f"i{id}" for id in (10, 12, 14, 16, 18)
    ]
    assert "6 items pass the filters" in page.inner_text("#status")
    with page.expect_response("**/recommend"):
        page.select_option("#filter-category", "Lamp")
    page.wait_for_timeout(50)
    assert "no item passes" in page.inner_text("#status")
    page.reload()
    page.wait_for_selector("#filters input")
    assert page.is_checked("#filter-in_stock")
    assert page.input_value("#filter-category") == "Lamp"
    assert page.input_value("[id='filter-price from']") == "10"


def test_nothing_overflows_and_the_list_is_in_view(page):
    press(page, "#found button")
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#list li").nth(2).bounding_box()
    assert box["y"] + box["height"] <= page.viewport_size["height"]
