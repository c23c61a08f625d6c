"""The report in a real browser: every chart is drawn, in light, dark, on a phone and on paper, with no network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from euhedral.web.report import write_report
from web.pages import opened
from web.test_report import HOSTILE, crystals, report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="the tests in a browser need the package playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the tests in a browser need chromium")


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    return {
        "plain": write_report(folder / "plain", report(), crystals()),
        "hostile": write_report(folder / "hostile", report(HOSTILE), crystals()),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


def drawn(page: Page) -> int:
    return page.evaluate(
        "[...document.querySelectorAll('.drawing')].filter(d => d.querySelector('.main-svg .subplot.xy')).length"
    )


def fits(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("kind", ["plain", "hostile"])
def test_every_chart_is_drawn(pages, browser, kind):
    with opened(pages[kind], browser) as page:
        assert drawn(page) == page.locator(".drawing").count() == 7
        assert fits(page)
        page.locator(".drawing .nsewdrag").first.hover()
        page.wait_for_timeout(200)


def test_dark_charts_have_the_dark_colours_and_follow_a_change(pages, browser):
    read = "getComputedStyle(document.querySelector('.drawing .xtitle')).fill"
    with opened(pages["plain"], browser, color_scheme="dark") as page:
        dark = page.evaluate(read)
        page.emulate_media(color_scheme="light")
        page.wait_for_timeout(300)
        light = page.evaluate(read)
    assert dark == "rgb(232, 232, 229)" and light == "rgb(29, 31, 34)"


def test_a_phone_needs_no_sideways_scroll_of_the_page(pages, browser):
    with opened(
        pages["plain"], browser, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    ) as page:
        assert drawn(page) == 7 and fits(page)
        widths = page.evaluate("[...document.querySelectorAll('.chart')].map(c => c.getBoundingClientRect().right)")
        assert max(widths) <= 360


def test_charts_on_paper_are_light_and_fit_the_page(pages, browser):
    with opened(pages["plain"], browser, color_scheme="dark", viewport={"width": 688, "height": 1000}) as page:
        page.emulate_media(media="print")
        page.wait_for_timeout(300)
        assert fits(page) and drawn(page) == 7
        assert page.evaluate("getComputedStyle(document.querySelector('.drawing .xtitle')).fill") == "rgb(17, 17, 17)"
        assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_without_scripts_the_figures_and_tables_stay(pages, browser):
    with opened(pages["plain"], browser, java_script_enabled=False) as page:
        assert page.locator("table.figures td.own").first.text_content() == "65.43"
        assert page.locator("noscript").count() == 1
        page.locator(".chart summary").first.click()
        assert page.locator(".chart details table").first.is_visible()
