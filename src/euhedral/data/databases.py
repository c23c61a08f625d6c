"""Entries of ASE databases: SQLite, JSON, and the LMDB that OMat24 is published in. Nothing is ever unpickled.

An `.aselmdb` file is an LMDB environment whose keys are the row numbers in ASCII (and `nextid`, `deleted_ids`,
`metadata`) and whose values are zlib-compressed JSON of an ASE row: `numbers`, `positions`, `cell`, `pbc`, results such
as `energy`, `key_value_pairs` and `data` (Barroso-Luque et al., Open Materials 2024, arXiv:2410.12771).
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from euhedral.data.entries import Entry, id_and_labels
from euhedral.data.parsers import plain_array, scalars, with_energy_per_atom
from euhedral.errors import DataError

MAX_ROW_BYTES = 256 * 2**20
RESERVED_KEYS = (b"nextid", b"deleted_ids", b"metadata")
RESULTS = ("energy", "free_energy", "magmom")


def sqlite_entries(path: Path) -> Iterator[Entry]:
    """Rows of an ASE SQLite database, opened read-only.

    Raises:
        DataError: where the file is not such a database.
    """
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    columns = "id, numbers, positions, cell, pbc, energy, free_energy, magmom, key_value_pairs, data"
    try:
        # SQLite stores text in whatever encoding it was given; bytes that are no UTF-8 must not end the reading.
        connection.text_factory = lambda data: data.decode("utf-8", errors="replace")
        rows = connection.execute(f"SELECT {columns} FROM systems ORDER BY id")
        while True:
            try:
                row = rows.fetchone()
            except sqlite3.DatabaseError as error:
                yield Entry(path.stem, error=f"the database is damaged: {error}; the rest was not read")
                return
            if row is None:
                return
            yield _sqlite_entry(row)
    except sqlite3.DatabaseError as error:
        raise DataError(f"'{path}' is not an ASE database: {error}; expected SQLite with a table 'systems'") from error
    finally:
        connection.close()


def _sqlite_entry(row: tuple[Any, ...]) -> Entry:
    number, numbers, positions, cell, pbc, *results, pairs, data = row
    try:
        item = {
            "numbers": np.frombuffer(numbers, "<i4"),
            "positions": np.frombuffer(positions, "<f8").reshape(-1, 3),
            "cell": np.frombuffer(cell, "<f8").reshape(3, 3),
            "pbc": [bool(int(pbc) >> axis & 1) for axis in range(3)],
            **{name: value for name, value in zip(RESULTS, results, strict=True) if value is not None},
            "key_value_pairs": json.loads(pairs or "{}"),
            "data": _sqlite_data(data),
        }
    except (TypeError, ValueError, RecursionError) as error:
        return Entry(str(number), error=f"the row is damaged: {error}")
    return ase_entry(item, str(number))


def _sqlite_data(data: bytes | str | None) -> Any:
    """The JSON of the `data` column; since version 9 of the format, arrays come first and an offset leads to it."""
    if isinstance(data, bytes):
        return json.loads(data[int.from_bytes(data[:8], "little") :] or "{}")
    return json.loads(data or "{}")


def lmdb_entries(path: Path) -> Iterator[Entry]:
    """Rows of an `.aselmdb` file, or of a folder with a `data.mdb`, in the order of their numbers.

    Raises:
        DataError: where the file is no LMDB environment.
    """
    import lmdb

    try:
        environment = lmdb.open(
            str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, meminit=False, max_dbs=0
        )
    except (lmdb.Error, OSError) as error:
        raise DataError(f"'{path}' is not an LMDB database: {error}") from error
    with environment, environment.begin() as transaction:
        cursor = transaction.cursor()
        keys = [bytes(key) for key in cursor.iternext(keys=True, values=False)]
        numbered = np.sort(np.array([int(key) for key in keys if key.isdigit() and len(key) < 18], dtype=np.int64))
        for key in keys:
            if not (key.isdigit() and len(key) < 18) and key not in RESERVED_KEYS:
                yield Entry(repr(key), error="the key is no row number; expected the layout of ASE's LMDB backend")
        for number in numbered.tolist():
            value = transaction.get(str(number).encode("ascii"))
            if value is None:
                yield Entry(str(number), error="the key of this row is not in its plain form")
                continue
            yield _lmdb_entry(bytes(value), str(number))


def _lmdb_entry(value: bytes, name: str) -> Entry:
    if value[:1] == b"\x80":
        return Entry(name, error="the row is pickled, which can run code when read; expected zlib-compressed JSON")
    try:
        decompressor = zlib.decompressobj()
        text = decompressor.decompress(value, MAX_ROW_BYTES)
        if not decompressor.eof:
            too_large = bool(decompressor.unconsumed_tail)
            return Entry(name, error=f"more than {MAX_ROW_BYTES // 2**20} MiB" if too_large else "the row ends early")
        item = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        return Entry(name, error=f"not zlib-compressed JSON: {error}")
    return ase_entry(item, name)


def ase_json_entries(document: Mapping[str, Any]) -> Iterator[Entry]:
    """Rows of an ASE JSON database, already parsed."""
    for number in document["ids"]:
        yield ase_entry(document.get(str(number)), str(number))


def ase_entry(item: Any, name: str) -> Entry:
    """One ASE row; labels are its energies, key-value pairs and the scalars of its `data`."""
    if not isinstance(item, Mapping) or not {"numbers", "positions", "cell"} <= set(item):
        return Entry(name, error="no crystal: expected numbers, positions and cell")
    labels: dict[str, float | str] = {}
    for source in (item.get("data"), item.get("key_value_pairs")):
        if isinstance(source, Mapping):
            labels |= scalars(source)
    labels |= scalars({key: item[key] for key in RESULTS if key in item})
    crystal_id, labels = id_and_labels(labels, name)
    try:
        num_atoms = int(plain_array(item["numbers"]).size)
    except (TypeError, ValueError) as error:
        return Entry(name, error=f"atomic numbers cannot be read: {error}")
    labels = with_energy_per_atom(labels, num_atoms)
    payload = {key: item[key] for key in ("numbers", "positions", "cell", "pbc") if key in item}
    return Entry(crystal_id, "ase", payload, labels)
