"""Options of the form NAME=NUMBER."""

from __future__ import annotations

from collections.abc import Iterable

from euhedral.errors import RequestError


def parse_assignments(texts: Iterable[str], *, option: str) -> dict[str, float]:
    """'band_gap=2.0' and the like as a mapping.

    Raises:
        RequestError: on anything else, or a name that comes twice.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = None
        if not equals or number is None or not name.strip() or name.strip() in found:
            raise RequestError(f"{option} takes NAME=VALUE, each name once, e.g. band_gap=2.0; got {text!r}")
        found[name.strip()] = number
    return found
