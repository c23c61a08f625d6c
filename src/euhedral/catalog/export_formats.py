"""The formats that a catalogue is exported to; each writes pieces as they come, into a file that is not in place yet."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from euhedral.crystal.batch import CrystalBatch

CIF = "cif"
"""Column of tables that holds crystals."""
TABLE = "crystals.tsv"
"""The table in a folder of CIF files."""
Row = Mapping[str, Any]
_KEPT_BY_ASE = frozenset({"volume", "mass", "age"})


class Writer(ABC):
    """One format; a context manager, so that the file is closed before it is moved into place.

    Attributes:
        tabular: whether rows without a crystal have a place in it.
    """

    tabular = False

    def __init__(self, path: Path, columns: Sequence[str], *, structures: bool) -> None:
        self._path = path
        self._columns = columns
        self._structures = structures
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Writer:
        self._begin()
        return self

    def __exit__(self, *raised: Any) -> None:
        with self._open:
            if raised[0] is None:
                self._end()

    @abstractmethod
    def _begin(self) -> None:
        """Open the file."""

    def _end(self) -> None:  # noqa: B027 - most formats have nothing to say at the end
        """Write what belongs at the end."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch, rows: Sequence[Row], crystals: Sequence[CrystalBatch] | None) -> None:
        """Write some crystals: their wanted columns, rows with at least what names them, and the crystals."""

    def _values(self, row: Row) -> dict[str, Any]:
        """The wanted columns that are known of a crystal."""
        return {name: row[name] for name in self._columns if row[name] is not None}

    def _text_file(self, path: Path) -> Any:
        return self._open.enter_context(path.open("w", encoding="utf-8", newline=""))


class _CifFile(Writer):
    def _begin(self) -> None:
        self._file = self._text_file(self._path)

    def write(self, batch: pa.RecordBatch, rows: Sequence[Row], crystals: Sequence[CrystalBatch] | None) -> None:
        from euhedral.crystal.convert import to_cif

        for row, crystal in zip(rows, crystals or (), strict=True):
            self._file.write(to_cif(crystal, _file_name(row)))


class _CifFolder(Writer):
    def _begin(self) -> None:
        self._path.mkdir()
        # Readers of folders take a CSV for a source of crystals.
        self._table = csv.writer(self._text_file(self._path / TABLE), delimiter="\t", lineterminator="\n")
        self._table.writerow([*self._columns, "file"])

    def write(self, batch: pa.RecordBatch, rows: Sequence[Row], crystals: Sequence[CrystalBatch] | None) -> None:
        from euhedral.crystal.convert import to_cif

        for row, crystal in zip(rows, crystals or (), strict=True):
            name = _file_name(row)
            (self._path / f"{name}.cif").write_text(to_cif(crystal, name))
            self._table.writerow([*(row[column] for column in self._columns), f"{name}.cif"])


class _Extxyz(Writer):
    def _begin(self) -> None:
        self._file = self._text_file(self._path)

    def write(self, batch: pa.RecordBatch, rows: Sequence[Row], crystals: Sequence[CrystalBatch] | None) -> None:
        from ase.io import write

        for row, crystal in zip(rows, crystals or (), strict=True):
            atoms = crystal.to_ase()[0]
            atoms.info = {"name": row["name"], **self._values(row)}
            text = io.StringIO()
            write(text, atoms, format="extxyz")
            self._file.write(text.getvalue())


class _Csv(Writer):
    tabular = True

    def _begin(self) -> None:
        names = [*self._columns, CIF] if self._structures else list(self._columns)
        file = self._text_file(self._path)
        self._table = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        self._table.writeheader()

    def write(self, batch: pa.RecordBatch, rows: Sequence[Row], crystals: Sequence[CrystalBatch] | None) -> None:
        texts = _cifs(rows, crystals)
        self._table.writerows({**row, CIF: text} for row, text in zip(rows, texts, strict=True))


class _Parquet(Writer):
    tabular = True

    def _begin(self) -> None:
        self._writer: Any = None

    def write(self, batch: pa.RecordBatch, rows: Sequence[Row], crystals: Sequence[CrystalBatch] | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet

        table = pa.Table.from_batches([batch])
        if self._structures:
            table = table.append_column(CIF, pa.array(_cifs(rows, crystals), pa.string()))
        if self._writer is None:
            self._writer = self._open.enter_context(pyarrow.parquet.ParquetWriter(self._path, table.schema))
        self._writer.write_table(table)


class _AseDatabase(Writer):
    def _begin(self) -> None:
        from ase.db import connect

        self._database: Any = connect(self._path, type="db", append=False)
        self._open.enter_context(self._database)  # one transaction

    def write(self, batch: pa.RecordBatch, rows: Sequence[Row], crystals: Sequence[CrystalBatch] | None) -> None:
        for row, crystal in zip(rows, crystals or (), strict=True):
            values = self._values(row)
            pairs = {name: value for name, value in values.items() if _fits_ase(name, value)}
            self._database.write(crystal.to_ase()[0], key_value_pairs=pairs, data=values)


class _PymatgenJson(Writer):
    def _begin(self) -> None:
        self._file = self._text_file(self._path)
        self._before = "[\n"

    def _end(self) -> None:
        self._file.write("[]\n" if self._before == "[\n" else "\n]\n")

    def write(self, batch: pa.RecordBatch, rows: Sequence[Row], crystals: Sequence[CrystalBatch] | None) -> None:
        for row, crystal in zip(rows, crystals or (), strict=True):
            item = {"id": row["name"], "structure": crystal.to_pymatgen()[0].as_dict(), **self._values(row)}
            self._file.write(self._before + json.dumps(item))
            self._before = ",\n"


def _file_name(row: Row) -> str:
    return f"{row['run']}_{row['index']:06d}_{row['formula']}"


def _cifs(rows: Sequence[Row], crystals: Sequence[CrystalBatch] | None) -> list[str | None]:
    from euhedral.crystal.convert import to_cif

    if crystals is None:
        return [None] * len(rows)
    pairs = zip(rows, crystals, strict=True)
    return [to_cif(crystal, _file_name(row)) if row["num_atoms"] else None for row, crystal in pairs]


def _fits_ase(name: str, value: Any) -> bool:
    """Whether ASE takes a column as a key-value pair: it keeps some names for itself, and texts that read as numbers."""
    from ase.db.core import reserved_keys, str_represents

    kinds: tuple[Any, ...] = (bool, int, float)
    if name in reserved_keys or name in _KEPT_BY_ASE:
        return False
    return not isinstance(value, str) or not any(str_represents(value, kind) for kind in kinds)


WRITERS: dict[str, type[Writer]] = {
    ".cif": _CifFile,
    "": _CifFolder,
    ".extxyz": _Extxyz,
    ".xyz": _Extxyz,
    ".csv": _Csv,
    ".parquet": _Parquet,
    ".db": _AseDatabase,
    ".json": _PymatgenJson,
}
