"""Numbers of samples from a table: columns `id` or `index`, and one of the values, e.g. `e_above_hull` in eV/atom."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from euhedral.data.labels import is_unknown, number_of
from euhedral.errors import DataError

HULL_COLUMN = "e_above_hull"
_COLUMN_OF_NAMES = ("id", "name", "material_id")
_UNMATCHED_NAMED = 3


def read_values(path: str | Path, ids: Sequence[str], column: str = HULL_COLUMN) -> NDArray[np.float64]:
    """The value of each sample, NaN where the table has none, (samples,).

    Args:
        path: a CSV (also gzipped) or parquet file with a column `index` (position of the sample from 0) or `id`.
        ids: names of the samples in their order, for a table by `id`.
        column: which values.

    Raises:
        DataError: where the table cannot be read, names a sample twice or one that is not there, or holds something that
            is not a number.
    """
    path = Path(path)
    values = np.full(len(ids), np.nan)
    places, seen = _places(ids), set()
    unmatched: list[str] = []
    rows = 0
    for row in _rows(path, column):
        rows += 1
        place, name = _place(row, places, len(ids), path)
        if place is None:
            unmatched.append(name)
        elif place in seen:
            raise DataError(f"'{path}' has more than one value for sample {name}")
        else:
            seen.add(place)
            values[place] = _number(row[column], f"'{path}': {column} of sample {name}")
    if not rows:
        raise DataError(f"'{path}' holds no values")
    if unmatched:
        named = ", ".join(unmatched[:_UNMATCHED_NAMED])
        raise DataError(
            f"'{path}' has {len(unmatched)} of {rows} rows for samples that are not there ({named}, ...); "
            f"samples are called like {', '.join(ids[:_UNMATCHED_NAMED])}, or count from 0 in a column 'index'"
        )
    return values


def read_column(path: str | Path, column: str) -> NDArray[np.float64]:
    """All values of a column of a table in their order, NaN where one is unknown; for crystals that are not at hand.

    Raises:
        DataError: where the table cannot be read, has no row or not this column, or holds something that is not a number.
    """
    path = Path(path)
    values = [_number(row[column], f"'{path}': {column} of row {i}") for i, row in enumerate(_rows(path, column))]
    if not values:
        raise DataError(f"'{path}' holds no values")
    return np.array(values, dtype=np.float64)


def values_of_labels(
    labels: Sequence[Mapping[str, float | str]], column: str = HULL_COLUMN
) -> NDArray[np.float64] | None:
    """The values that came with the samples as labels, or None where no sample has one."""
    found = [number_of(label.get(column)) for label in labels]
    if all(value is None for value in found):
        return None
    return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


def _places(ids: Sequence[str]) -> dict[str, int | None]:
    """Position of each name; None for one that several samples have."""
    places: dict[str, int | None] = {}
    for i, name in enumerate(ids):
        places[name] = None if name in places else i
    return places


def _place(row: Mapping[str, Any], places: Mapping[str, int | None], count: int, path: Path) -> tuple[int | None, str]:
    if "index" in row:
        text = str(row["index"]).strip()
        if not text.isdecimal():
            raise DataError(f"'{path}': index {text!r} is not a position counted from 0")
        return (int(text) if int(text) < count else None), text
    column = next((name for name in _COLUMN_OF_NAMES if name in row), None)
    if column is None:
        raise DataError(f"'{path}' has neither a column 'index' nor 'id'; it has: {', '.join(row)}")
    name = str(row[column]).strip()
    if name in places and places[name] is None:
        raise DataError(f"'{path}': several samples are called '{name}'; give a column 'index' instead")
    return places.get(name), name


def _number(value: Any, what: str) -> float:
    number = number_of(value)
    if number is None and not is_unknown(value):
        raise DataError(f"{what} is not a number: {value!r}")
    return math.nan if number is None else number


def _rows(path: Path, column: str) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise DataError(f"no file '{path}'")
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    for row in rows:
        if column not in row:
            raise DataError(f"'{path}' has no column '{column}'; it has: {', '.join(map(str, row))}")
        yield row


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with cast(IO[str], opener(path, "rt", encoding="utf-8-sig", newline="")) as stream:
            yield from csv.DictReader(stream)
    except (OSError, EOFError, UnicodeError, csv.Error) as error:
        raise DataError(f"'{path}' is not a CSV that can be read: {error}") from None


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{path}' is not a parquet file, or is damaged: {error}") from None
    yield from table.to_pylist()
