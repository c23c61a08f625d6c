"""Pages as tests read them: what is in their text, and what a browser says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as OpenPage


class Page(HTMLParser):
    """Elements, their attributes, the text outside scripts, and the scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self._raw: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag in ("script", "style"):
            self._raw = tag
            if tag == "script":
                self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        if tag == self._raw:
            self._raw = None

    def handle_data(self, data):
        if self._raw == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self._raw is None:
            self.text.append(data)

    def data(self) -> Any:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "data"))


@contextmanager
def opened(path: Path, browser: Browser, **options) -> Iterator[OpenPage]:
    """A page in a browser; leaving it checks that nothing was logged, requested or run that should not be."""
    noise: list[str] = []
    context = browser.new_context(**({"viewport": {"width": 1200, "height": 850}} | options))
    page = context.new_page()
    page.on("console", lambda message: noise.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: noise.append(f"error: {error}"))
    page.on("request", lambda request: noise.append(f"request: {request.url[:100]}"))
    page.goto(path.as_uri())
    yield page
    hacked = page.evaluate("window.hacked") if options.get("java_script_enabled", True) else None
    context.close()
    own = f"request: {path.as_uri()}"
    assert [line for line in noise if line != own and not line.startswith(("request: data:", "request: blob:"))] == []
    assert hacked is None
