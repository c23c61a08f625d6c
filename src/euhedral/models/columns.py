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

        Raises:
            RequestError: for a text where numbers are asked for, a number out of all range, or an unknown class.
        """
        if self.classes:
            if str(value) not in self.classes:
                hint = nearest(str(value), self.classes)
                raise RequestError(f"{self.name} has no class {str(value)!r}{hint}; it has {', '.join(self.classes)}")
            return float(self.classes.index(str(value)))
        if isinstance(value, str) or not math.isfinite(value):
            raise RequestError(f"{self.name} is a number, such as {self.mean:.3g}; not {value!r}")
        return float(value)


def position_of(columns: Sequence[Column], name: str) -> int | None:
    """Where a column stands, or None."""
    names = [column.name for column in columns]
    return names.index(name) if name in names else None
