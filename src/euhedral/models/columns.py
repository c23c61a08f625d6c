"""Columns of the user's own data that adapters condition on: numbers, or classes by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from euhedral.config import nearest
from euhedral.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        name: of the column.
        mean: of its numbers in training.
        std: their standard deviation.
        classes: its texts, in order; empty for a column of numbers.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    classes: tuple[str, ...] = ()

    def encoded(self, value: float | str) -> float:
        """A value as adapters read it: the number itself, or the position of its class.

        A number asks for the class that is written as one of its value, such as the class '1' among '1' and '2D'.

        Raises:
            RequestError: for a text where numbers are asked for, a number out of all range, an unknown class, or a
                number that several classes are written as.
        """
        if self.classes:
            text = value if isinstance(value, str) else self._class_of(value)
            if text not in self.classes:
                hint = nearest(text, self.classes)
                raise RequestError(f"{self.name} has no class {text!r}{hint}; it has {', '.join(self.classes)}")
            return float(self.classes.index(text))
        if isinstance(value, str) or not math.isfinite(value):
            raise RequestError(f"{self.name} is a number, such as {self.mean:.3g}; not {value!r}")
        return float(value)

    def _class_of(self, value: float) -> str:
        found = [text for text in self.classes if _number(text) == value]
        if len(found) > 1:
            raise RequestError(f"{self.name} of {value:g} may be the class {' or '.join(found)}; give its text")
        return found[0] if found else f"{value:g}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def position_of(columns: Sequence[Column], name: str) -> int | None:
    """Where a column stands, or None."""
    names = [column.name for column in columns]
    return names.index(name) if name in names else None
