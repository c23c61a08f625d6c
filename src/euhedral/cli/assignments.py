"""Options of the form NAME=VALUE."""

from __future__ import annotations

from collections.abc import Iterable

from euhedral.errors import RequestError


def parse_targets(texts: Iterable[str], *, option: str) -> dict[str, float | str]:
    """'band_gap=2.0' as a number and 'ordering=FM' as a text, by name.

    Raises:
        RequestError: on anything else, or a name that comes twice.
    """
    found: dict[str, float | str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (equals and name and value) or name in found:
            raise RequestError(f"{option} takes NAME=VALUE, each name once, e.g. band_gap=2.0; got {text!r}")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = value
    return found


def parse_assignments(texts: Iterable[str], *, option: str) -> dict[str, float]:
    """'band_gap=2.0' and the like as a mapping of numbers.

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
