"""`CrystalStore`: crystals and their labels in one Arrow IPC file, memory mapped.

Layout: one row a crystal in record batches of `rows_per_batch` rows (the last may be shorter), so that the batch of row
`i` is `i // rows_per_batch` and nothing needs to be indexed at opening. The schema metadata holds a JSON summary.

| column | type | meaning |
|---|---|---|
| `id` | string | name of the crystal, unique in the store |
| `num_atoms` | int32 | atoms in the cell |
| `cell` | float32[9] | rows a, b, c in Å |
| `frac` | list of float32[3] | fractional coordinates in [0, 1) |
| `species` | list of uint8 | atomic numbers |
| `label:<name>` | float64 or string | a label, null where unknown |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyarrow import compute as pc

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import DataError

SCHEMA_VERSION = 1
METADATA_KEY = b"euhedral"
LABEL_PREFIX = "label:"
CRYSTAL_FIELDS: tuple[pa.Field, ...] = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("num_atoms", pa.int32(), nullable=False),
    pa.field("cell", pa.list_(pa.float32(), 9), nullable=False),
    pa.field("frac", pa.list_(pa.list_(pa.float32(), 3)), nullable=False),
    pa.field("species", pa.list_(pa.uint8()), nullable=False),
)

Indices: TypeAlias = Sequence[int] | NDArray[np.integer] | torch.Tensor | slice | int


@dataclass(frozen=True)
class _Views:
    """Numpy views into one record batch; nothing is copied."""

    num_atoms: NDArray[np.int32]
    first_atom: NDArray[np.int32]
    cell: NDArray[np.float32]
    frac: NDArray[np.float32]
    species: NDArray[np.uint8]


class CrystalStore:
    """Crystals with labels in a memory-mapped Arrow file; use `CrystalStore.open`.

    Opening reads the footer alone; rows are read from disk when they are asked for.
    """

    def __init__(self, path: Path, source: pa.MemoryMappedFile, reader: pa.RecordBatchFileReader, header: dict) -> None:
        self.path = path
        self._source = source
        self._reader = reader
        self._header = header
        self._length = int(header["crystals"])
        self._rows_per_batch = int(header["rows_per_batch"])
        self._views: dict[int, _Views] = {}

    @classmethod
    def open(cls, path: str | Path) -> CrystalStore:
        """Open a store that `convert` wrote, without loading it.

        Raises:
            DataError: where there is no such file, or it is not a store, is damaged, or of another schema version.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"no store at '{path}'; make one with: euhedral data convert SOURCE --out {path}")
        try:
            source = pa.memory_map(str(path), "r")
            reader = pa.ipc.open_file(source)
            metadata = reader.schema.metadata or {}
            header = json.loads(metadata[METADATA_KEY])
            version = header["schema_version"]
        except (pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"'{path}' is not a crystal store, or is damaged ({error}); convert the source again with "
                "euhedral data convert"
            ) from error
        if version != SCHEMA_VERSION:
            raise DataError(
                f"'{path}' has store version {version}, this program reads {SCHEMA_VERSION}; convert the source again"
            )
        store = cls(path, source, reader, header)
        store._check_header()
        return store

    def __len__(self) -> int:
        return self._length

    def __enter__(self) -> CrystalStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        # A data loader's worker opens the file again instead of receiving its contents.
        return CrystalStore.open, (self.path,)

    def close(self) -> None:
        """Let go of the file; tensors that were read stay valid."""
        self._views.clear()
        self.__dict__.pop("num_atoms", None)
        self._source.close()

    @cached_property
    def num_atoms(self) -> NDArray[np.int32]:
        """Atoms in each crystal, (crystals,), read only; read at first use (4 bytes a crystal)."""
        parts = [self._batch_views(i).num_atoms for i in range(self._reader.num_record_batches)]
        sizes = np.concatenate(parts) if len(parts) != 1 else parts[0]
        sizes.flags.writeable = False
        return sizes

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of all labels, numbers and texts."""
        return tuple(self._header["columns"])

    @property
    def numeric_column_names(self) -> tuple[str, ...]:
        """Names of the labels that are numbers, which `labels` gives."""
        return tuple(name for name, column in self._header["columns"].items() if column["kind"] == "number")

    def crystals(self, indices: Indices, *, dtype: torch.dtype = torch.float32) -> CrystalBatch:
        """The crystals at these positions, in the order asked for.

        Args:
            indices: positions 0..len-1 (negative ones count from the end), or a slice.
            dtype: of `frac` and `cell`; the file holds float32.

        Raises:
            IndexError: on a position outside the store.
        """
        rows = self._positions(indices)
        counts = np.empty(len(rows), dtype=np.int64)
        cell = np.empty((len(rows), 9), dtype=np.float32)
        pieces: list[tuple[NDArray[np.int64], _Views, NDArray[np.int64]]] = []
        for batch, places, local in self._by_batch(rows):
            views = self._batch_views(batch)
            counts[places] = views.num_atoms[local]
            cell[places] = views.cell[local]
            pieces.append((places, views, local))
        first = np.cumsum(counts) - counts
        frac = np.empty((int(counts.sum()), 3), dtype=np.float32)
        species = np.empty(len(frac), dtype=np.int64)
        for places, views, local in pieces:
            target = _ranges(first[places], counts[places])
            origin = _ranges(views.first_atom[local].astype(np.int64), counts[places])
            frac[target] = views.frac[origin]
            species[target] = views.species[origin]
        return CrystalBatch(
            frac=torch.from_numpy(frac).to(dtype),
            cell=torch.from_numpy(cell.reshape(-1, 3, 3)).to(dtype),
            species=torch.from_numpy(species),
            num_atoms=torch.from_numpy(counts),
        )

    def labels(self, name: str, indices: Indices | None = None) -> NDArray[np.float64]:
        """One numeric label of the crystals at these positions (all by default), NaN where unknown, (rows,).

        Raises:
            DataError: where the store has no label of this name, or it is a text.
        """
        if self._column(name)["kind"] != "number":
            raise DataError(f"label '{name}' of '{self.path}' is a text; read it with texts('{name}')")
        rows = self._positions(slice(None) if indices is None else indices)
        values = np.empty(len(rows), dtype=np.float64)
        for batch, places, local in self._by_batch(rows):
            column = self._reader.get_batch(batch).column(LABEL_PREFIX + name)
            values[places] = column.to_numpy(zero_copy_only=False)[local]
        return values

    def texts(self, name: str, indices: Indices | None = None) -> list[str | None]:
        """One text label of the crystals at these positions (all by default), None where unknown.

        Raises:
            DataError: where the store has no label of this name, or it is a number.
        """
        if self._column(name)["kind"] != "text":
            raise DataError(f"label '{name}' of '{self.path}' is a number; read it with labels('{name}')")
        return self._strings(LABEL_PREFIX + name, slice(None) if indices is None else indices)

    def ids(self, indices: Indices | None = None) -> list[str]:
        """Names of the crystals at these positions (all by default)."""
        return [str(name) for name in self._strings("id", slice(None) if indices is None else indices)]

    def summary(self) -> dict[str, Any]:
        """Counts, sizes, elements and labels with their ranges, as counted at conversion; reads no rows."""
        return {
            "path": str(self.path),
            "bytes": self.path.stat().st_size,
            **json.loads(json.dumps(self._header)),
        }

    def _column(self, name: str) -> dict[str, Any]:
        column = self._header["columns"].get(name)
        if column is None:
            raise DataError(f"'{self.path}' has no label '{name}'; it has: {', '.join(self.column_names) or 'none'}")
        return column

    def _strings(self, column: str, indices: Indices) -> list[str | None]:
        rows = self._positions(indices)
        found: list[str | None] = [None] * len(rows)
        for batch, places, local in self._by_batch(rows):
            values = pc.take(self._reader.get_batch(batch).column(column), pa.array(local)).to_pylist()
            for place, value in zip(places.tolist(), values, strict=True):
                found[place] = value
        return found

    def _positions(self, indices: Indices) -> NDArray[np.int64]:
        if isinstance(indices, slice):
            return np.arange(self._length, dtype=np.int64)[indices]
        rows = np.atleast_1d(np.asarray(indices))
        if rows.dtype == bool or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
            raise IndexError(f"expected positions as integers, got {rows.dtype}; use np.flatnonzero for a mask")
        rows = rows.astype(np.int64).reshape(-1)
        outside = (rows < -self._length) | (rows >= self._length)
        if outside.any():
            raise IndexError(f"crystal {int(rows[outside][0])} of a store of {self._length}")
        return np.where(rows < 0, rows + self._length, rows)

    def _by_batch(self, rows: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        batch = rows // self._rows_per_batch
        if len(rows) and (batch == batch[0]).all():
            return [(int(batch[0]), np.arange(len(rows)), rows - batch * self._rows_per_batch)]
        groups = []
        for number in np.unique(batch):
            places = np.flatnonzero(batch == number)
            groups.append((int(number), places, rows[places] - number * self._rows_per_batch))
        return groups

    def _batch_views(self, number: int) -> _Views:
        if number not in self._views:
            batch = self._reader.get_batch(number)
            frac, species = batch.column("frac"), batch.column("species")
            self._views[number] = _Views(
                num_atoms=batch.column("num_atoms").to_numpy(),
                first_atom=frac.offsets.to_numpy(),
                cell=batch.column("cell").values.to_numpy().reshape(-1, 9),
                frac=frac.values.values.to_numpy().reshape(-1, 3),
                species=species.values.to_numpy(),
            )
        return self._views[number]

    def _check_header(self) -> None:
        header = self._header
        expected = -(-self._length // self._rows_per_batch) if self._rows_per_batch > 0 else -1
        names = [f.name for f in CRYSTAL_FIELDS] + [LABEL_PREFIX + name for name in header.get("columns", {})]
        if expected != self._reader.num_record_batches or names != self._reader.schema.names:
            raise DataError(f"'{self.path}' is damaged: its header does not fit its contents; convert the source again")


def _ranges(first: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """`first[i], ..., first[i] + counts[i] - 1` for every i, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(first - (ends - counts), counts)
