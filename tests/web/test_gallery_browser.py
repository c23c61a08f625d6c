"""The gallery in a real browser: turning, filter and order, keyboard, no network, no errors, and life without WebGL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.web.gallery import Card, write_gallery
from web.pages import opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="the tests in a browser need the package playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the tests in a browser need chromium")

HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script></script><svg onload=window.hacked=1>"
SOFTWARE_GL = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
NO_GL = ["--no-sandbox", "--disable-gpu", "--disable-3d-apis"]


def card(index: int, cation: int, anion: int, formula: str, **changes) -> Card:
    frac = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    crystal = CrystalBatch.from_crystals(
        [(4.1 * torch.eye(3, dtype=torch.float64), frac, torch.tensor([cation, anion]))]
    )
    values = {
        "name": f"{index:04d}",
        "cif": f"data_{index}",
        "space_group_symbol": "P m -3 m",
        "space_group_number": 221,
        "density": float(10 - index % 7),
        "smallest_distance": 3.5,
        "extra": {},
    }
    return Card(
        formula=formula, num_atoms=2, volume=68.9, cif_file=f"{index}.cif", crystal=crystal, **(values | changes)
    )


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Path:
    kinds = [(55, 17, "CsCl"), (28, 13, "NiAl"), (29, 30, "CuZn"), (57, 47, "LaAg"), (27, 13, "CoAl")]
    cards = [card(i, *kinds[i % 5]) for i in range(60)]
    cards[3] = card(3, 57, 47, HOSTILE, name=HOSTILE, extra={HOSTILE: HOSTILE}, space_group_symbol=HOSTILE)
    cards[4] = card(4, 27, 13, "CoAl", density=float("nan"))
    facts = {"Seed": HOSTILE}
    return write_gallery(tmp_path_factory.mktemp("gallery"), cards, title=HOSTILE, subtitle=HOSTILE, facts=facts)


@pytest.fixture(scope="module")
def browsers() -> Iterator[dict[bool, Browser]]:
    """One browser with WebGL in software (True) and one without any (False)."""
    with sync_api.sync_playwright() as playwright:
        launch = playwright.chromium.launch
        found = {gl: launch(executable_path=CHROMIUM, args=SOFTWARE_GL if gl else NO_GL) for gl in (True, False)}
        yield found
        for browser in found.values():
            browser.close()


def texts(page: Page) -> list[str]:
    return page.locator(".card:visible h2").all_text_contents()


def count(page: Page, expected: str) -> None:
    sync_api.expect(page.locator("#count")).to_have_text(expected)


def test_cells_turn_under_the_mouse_with_one_canvas_for_all(gallery, browsers):
    with opened(gallery, browsers[True]) as page:
        picture = page.locator(".picture").nth(0)
        picture.hover()
        picture.locator("canvas").wait_for()
        page.wait_for_timeout(300)
        before, box = picture.screenshot(), picture.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 70, y + 25, steps=5)
        page.mouse.up()
        page.wait_for_timeout(300)
        turned = picture.screenshot()
        assert turned != before
        assert not page.evaluate("document.getElementById('large').open"), "turning is not pressing"
        for other in (1, 2, 5):
            page.locator(".picture").nth(other).hover()
            page.locator(".picture").nth(other).locator("canvas").wait_for()
        assert page.locator("canvas").count() == 1
        assert picture.locator("img.snapshot").count() == 1, "a cell that was turned keeps its view"
        scrolled = page.evaluate("scrollY")
        page.mouse.wheel(0, 300)
        page.wait_for_function("before => scrollY > before", arg=scrolled)  # the wheel scrolls the page over a card


def test_large_view_by_mouse_and_keyboard(gallery, browsers):
    with opened(gallery, browsers[True], color_scheme="dark") as page:
        page.locator(".open").nth(0).focus()
        page.keyboard.press("Enter")
        page.locator("#large canvas").wait_for()
        stage, title = page.locator(".stage"), page.locator("#large-formula")
        assert title.text_content() == "CsCl"
        assert page.locator("#large dd").all_text_contents()[0] == "Pm3m (221)"
        page.wait_for_timeout(300)
        views = {stage.screenshot()}
        stage.focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(200)
        views.add(stage.screenshot())
        page.locator("[data-view=b]").click()
        page.wait_for_timeout(200)
        views.add(stage.screenshot())
        page.locator("#filling").click()
        page.wait_for_timeout(200)
        views.add(stage.screenshot())
        assert len(views) == 4
        page.keyboard.press("PageDown")
        assert title.text_content() == "NiAl"
        assert page.locator("#large-cif").get_attribute("href") == "1.cif"
        page.locator("#copy").click()
        sync_api.expect(page.locator("#notice")).to_contain_text("clipboard")
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.closest('.card').dataset.index") == "1"
        assert page.locator("canvas").count() == 1
        red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(red, green, blue) < 40, "dark where the system is dark"


def test_the_viewer_follows_the_focus_although_the_mouse_rests_on_a_card(gallery, browsers):
    with opened(gallery, browsers[True]) as page:
        page.locator(".picture").nth(0).hover()
        page.locator(".picture").nth(0).locator("canvas").wait_for()
        page.locator("a.cif").nth(0).focus()
        page.keyboard.press("Tab")
        second = page.locator(".picture").nth(1)
        second.locator("canvas").wait_for()
        page.wait_for_timeout(500)
        assert second.locator("canvas").count() == 1
        before = second.screenshot()
        page.keyboard.press("ArrowUp")
        page.wait_for_timeout(200)
        assert second.screenshot() != before


def test_filter_order_and_legend(gallery, browsers):
    with opened(gallery, browsers[True]) as page:
        count(page, "60 crystals")
        page.locator("#filter").fill("Al Ni")
        count(page, "12 of 60 crystals")
        assert set(texts(page)) == {"NiAl"}
        page.locator("#filter").fill("Cl")
        count(page, "12 of 60 crystals")
        page.locator("#filter").fill("cs")  # no symbol in this spelling: a part of a formula
        count(page, "12 of 60 crystals")
        page.locator("#filter").fill("221")
        count(page, "60 crystals")
        page.locator("#filter").fill("nothing of the kind")
        count(page, "0 of 60 crystals")
        page.locator("#clear").click()
        page.locator(".element[data-symbol=Al]").click()
        count(page, "24 of 60 crystals")
        page.locator(".element[data-symbol=Al]").click()
        page.locator("#order").select_option("formula")
        found = [text for text in texts(page) if not text.startswith("<")]
        assert found == sorted(found)
        page.locator("#order").select_option("density")
        densities = [line.split()[0] for line in page.locator(".card dl div:nth-child(2) dd").all_text_contents()]
        assert densities[-1] == "–" and [float(d) for d in densities[:-1]] == sorted(map(float, densities[:-1]))
        page.locator("#reverse").click()
        densities = [line.split()[0] for line in page.locator(".card dl div:nth-child(2) dd").all_text_contents()]
        assert densities[-1] == "–" and float(densities[0]) == 10.0


def test_without_webgl_the_drawings_stay(gallery, browsers):
    with opened(gallery, browsers[False]) as page:
        page.locator(".picture").nth(0).hover()
        page.wait_for_timeout(300)
        assert page.locator("canvas").count() == 0
        assert page.locator(".picture svg").count() == 60
        assert page.locator(".picture svg").nth(0).evaluate("e => getComputedStyle(e).opacity") == "1"
        page.locator(".open").nth(0).click()
        sync_api.expect(page.locator("#notice")).to_contain_text("needs WebGL")
        assert page.locator(".stage svg").is_visible() and not page.locator("#save").is_visible()


def test_without_scripts_the_drawings_and_links_stay(gallery, browsers):
    with opened(gallery, browsers[False], java_script_enabled=False) as page:
        assert page.locator(".picture svg").count() == 60 and page.locator("a.cif").count() == 60
        assert page.locator("#filter").is_hidden()
