"""Picture of a run's gallery for the README.

    euhedral generate --formula SrTiO3 --z 1 -n 8 --out run && python docs/gallery_picture.py run docs/gallery.png

Needs the package playwright and a Chromium browser on the PATH.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of `euhedral generate`")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("--width", type=int, default=1180)
    parser.add_argument("--height", type=int, default=780)
    arguments = parser.parse_args()
    page_file = arguments.run / "index.html"
    browser_file = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not page_file.is_file() or browser_file is None:
        raise SystemExit(f"needs {page_file} and Chromium on the PATH")

    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_file, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": arguments.width, "height": arguments.height})
        page.goto(page_file.resolve().as_uri())
        page.wait_for_timeout(1500)
        page.screenshot(path=arguments.picture)
        browser.close()


if __name__ == "__main__":
    main()
