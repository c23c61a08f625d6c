"""Labels of a conversion: which columns there are, which are numbers, and what a store's header says of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

MAX_COLUMNS = 500
# A column with a rare text among its numbers ("n/a (see notes)") stays a column of numbers.
NUMBER_SHARE = 0.95

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_UNKNOWN = frozenset({"", "nan", "none", "null", "n/a", "na", "<na>"})
_TRUTH = {"true": 1.0, "false": 0.0}


def number_of(value: float | str | None) -> float | None:
    """The finite number that a label's value is, or None.

    Formulas such as "InF" and "NaN" are no numbers, though `float` takes them for infinity and not-a-number.
    """
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in _TRUTH:
            return _TRUTH[text.lower()]
        if not _NUMBER.fullmatch(text):
            return None
        value = float(text)
    return float(value) if math.isfinite(value) else None


def is_unknown(value: float | str | None) -> bool:
    """Whether a value says that nothing is known (empty, NaN, None)."""
    if isinstance(value, str):
        return value.strip().lower() in _UNKNOWN
    return value is None or math.isnan(value)


@dataclass
class _Column:
    numbers: int = 0
    texts: int = 0
    total: float = 0.0
    smallest: float = math.inf
    largest: float = -math.inf

    @property
    def is_number(self) -> bool:
        return self.numbers > 0 and self.numbers >= NUMBER_SHARE * (self.numbers + self.texts)


class LabelCensus:
    """Counts the values of every label while rows stream by."""

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._left_out: Counter[str] = Counter()

    def add(self, labels: Mapping[str, float | str]) -> None:
        """Count one row."""
        for name, value in labels.items():
            column = self._columns.get(name)
            if column is None:
                if len(self._columns) >= MAX_COLUMNS:
                    if name in self._left_out or len(self._left_out) < MAX_COLUMNS:
                        self._left_out[name] += 1
                    continue
                column = self._columns[name] = _Column()
            number = number_of(value)
            if number is not None:
                column.numbers += 1
                column.total += number
                column.smallest = min(column.smallest, number)
                column.largest = max(column.largest, number)
            elif not is_unknown(value):
                column.texts += 1

    @property
    def fields(self) -> dict[str, pa.DataType]:
        """Arrow type of each label, in the order of appearance."""
        return {name: pa.float64() if c.is_number or not c.texts else pa.string() for name, c in self._columns.items()}

    def header(self) -> dict[str, dict[str, Any]]:
        """For a store's header: kind, known values, and the range of numbers."""
        described: dict[str, dict[str, Any]] = {}
        for name, kind in self.fields.items():
            column = self._columns[name]
            if kind == pa.string():
                described[name] = {"kind": "text", "known": column.texts + column.numbers}
            else:
                described[name] = {"kind": "number", "known": column.numbers}
                if column.numbers:
                    mean = column.total / column.numbers
                    described[name] |= {"min": column.smallest, "mean": mean, "max": column.largest}
        return described

    def warnings(self) -> list[str]:
        """Values and columns that the store does not hold."""
        found = [
            f"label '{name}': {column.texts} values that are no numbers became unknown"
            for name, column in self._columns.items()
            if column.is_number and column.texts
        ]
        if self._left_out:
            found.append(
                f"more than {MAX_COLUMNS} labels; left out, among others: {', '.join(list(self._left_out)[:5])}"
            )
        return found

    def arrays(self, rows: list[dict[str, float | str]]) -> list[pa.Array]:
        """The label columns of these rows."""
        columns = []
        for name, kind in self.fields.items():
            values = [row.get(name) for row in rows]
            if kind == pa.string():
                texts = [None if v is None or v == "" else v if isinstance(v, str) else f"{v:.15g}" for v in values]
                columns.append(pa.array(texts, pa.string()))
            else:
                columns.append(pa.array([number_of(value) for value in values], pa.float64()))
        return columns
