from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from euhedral.data.values import read_column, read_values, values_of_labels
from euhedral.errors import DataError

IDS = ("a", "b", "c")


def table(tmp_path: Path, text: str) -> Path:
    (tmp_path / "e.csv").write_text(text)
    return tmp_path / "e.csv"


@pytest.mark.parametrize(
    "text",
    [
        "index,e_above_hull\n2,0.5\n0,-0.1\n",
        "id,e_above_hull,x\nc,0.5,1\na,-0.1,\n",
        "name,e_above_hull\nc,0.5\na,-0.1\nb,nan\n",
    ],
)
def test_energies_by_index_or_id(tmp_path: Path, text: str) -> None:
    np.testing.assert_array_equal(read_values(table(tmp_path, text), IDS), [-0.1, np.nan, 0.5])


def test_other_forms_of_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with gzip.open(tmp_path / "e.csv.gz", "wt") as stream:
        stream.write("index,e_above_hull\n1,0.25\n")
    pq.write_table(pa.table({"index": [1], "e_above_hull": [0.25]}), tmp_path / "e.parquet")
    for name in ("e.csv.gz", "e.parquet"):
        np.testing.assert_array_equal(read_values(tmp_path / name, IDS), [np.nan, 0.25, np.nan])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no values"),
        ("index,energy\n0,1\n", "no column 'e_above_hull'"),
        ("formula,e_above_hull\nNaCl,1\n", "neither a column 'index' nor 'id'"),
        ("index,e_above_hull\n0,1\n0,2\n", "more than one value for sample 0"),
        ("index,e_above_hull\n3,1\n", "1 of 1 rows for samples that are not there"),
        ("index,e_above_hull\n-1,1\n", "not a position"),
        ("id,e_above_hull\nz,1\n", "called like a, b, c"),
        ("id,e_above_hull\na,low\n", "not a number: 'low'"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_values(table(tmp_path, text), IDS)


def test_a_name_of_several_samples(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="several samples are called 'a'"):
        read_values(table(tmp_path, "id,e_above_hull\na,1\n"), ("a", "a"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_values(tmp_path / "x.csv", IDS)
    (tmp_path / "x.parquet").write_text("x")
    with pytest.raises(DataError, match="not a parquet"):
        read_values(tmp_path / "x.parquet", IDS)
    (tmp_path / "x.csv.gz").write_text("x")
    with pytest.raises(DataError, match="not a CSV"):
        read_values(tmp_path / "x.csv.gz", IDS)


def test_energies_that_came_as_labels() -> None:
    assert values_of_labels([{}, {"band_gap": 1.0}]) is None
    found = values_of_labels([{"e_above_hull": "0.5"}, {}, {"e_above_hull": -0.25}])
    assert found is not None
    np.testing.assert_array_equal(found, [0.5, np.nan, -0.25])


def test_another_column(tmp_path: Path) -> None:
    path = table(tmp_path, "id,band_gap,e_above_hull\nc,2.5,0\na,,0\n")
    np.testing.assert_array_equal(read_values(path, IDS, "band_gap"), [np.nan, np.nan, 2.5])
    np.testing.assert_array_equal(read_column(path, "band_gap"), [2.5, np.nan])
    found = values_of_labels([{"band_gap": "1.5"}, {"e_above_hull": 1.0}], "band_gap")
    assert found is not None
    np.testing.assert_array_equal(found, [1.5, np.nan])


def test_a_column_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'band_gap'"):
        read_column(table(tmp_path, "e_above_hull\n1\n"), "band_gap")
    with pytest.raises(DataError, match="row 1 is not a number: 'low'"):
        read_column(table(tmp_path, "e_above_hull\n1\nlow\n"), "e_above_hull")
    with pytest.raises(DataError, match="holds no values"):
        read_column(table(tmp_path, "e_above_hull\n"), "e_above_hull")
