from __future__ import annotations

import math

import pyarrow as pa
import pytest

from euhedral.data import labels as module
from euhedral.data.labels import LabelCensus, is_unknown, number_of


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (" 1.5 ", 1.5),
        ("-2e-3", -0.002),
        (".5", 0.5),
        ("True", 1.0),
        ("false", 0.0),
        (3.0, 3.0),
        ("InF", None),  # indium fluoride, not infinity
        ("NaN", None),
        ("1_000", None),
        ("", None),
        ("1e999", None),
        (math.nan, None),
        (None, None),
    ],
)
def test_numbers_are_told_from_texts(value: float | str | None, number: float | None) -> None:
    assert number_of(value) == number


@pytest.mark.parametrize(("value", "unknown"), [("", True), ("NaN", True), ("n/a", True), (None, True), ("InF", False)])
def test_unknown_values(value: str | None, unknown: bool) -> None:
    assert is_unknown(value) is unknown


def census(rows: list[dict[str, float | str]]) -> LabelCensus:
    counted = LabelCensus()
    for row in rows:
        counted.add(row)
    return counted


def test_types_ranges_and_arrays() -> None:
    rows: list[dict[str, float | str]] = [
        {"gap": "1.0", "formula": "InF", "empty": ""},
        {"gap": "", "formula": "NaCl", "empty": "nan", "late": 2.0},
        {"gap": "3.0", "formula": "2"},
    ]
    counted = census(rows)
    assert counted.fields == {
        "gap": pa.float64(),
        "formula": pa.string(),
        "empty": pa.float64(),
        "late": pa.float64(),
    }
    header = counted.header()
    assert header["gap"] == {"kind": "number", "known": 2, "min": 1.0, "mean": 2.0, "max": 3.0}
    assert header["formula"] == {"kind": "text", "known": 3}
    assert header["empty"] == {"kind": "number", "known": 0}
    assert [column.to_pylist() for column in counted.arrays(rows)] == [
        [1.0, None, 3.0],
        ["InF", "NaCl", "2"],
        [None, None, None],
        [None, 2.0, None],
    ]
    assert counted.warnings() == []


def test_a_rare_text_among_numbers_is_unknown_and_said() -> None:
    rows: list[dict[str, float | str]] = [{"gap": str(i)} for i in range(99)]
    counted = census([*rows, {"gap": "see note"}])
    assert counted.fields == {"gap": pa.float64()}
    assert counted.warnings() == ["label 'gap': 1 values that are no numbers became unknown"]


def test_too_many_labels_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COLUMNS", 3)
    counted = census([{f"k{i}": float(i)} for i in range(10)])
    assert list(counted.fields) == ["k0", "k1", "k2"]
    assert "k3" in counted.warnings()[0]
