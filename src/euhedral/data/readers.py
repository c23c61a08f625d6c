"""`read`: any source, row by row; a row that cannot be read is a row with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.entries import Entry, id_and_labels, json_entry
from euhedral.data.parsers import parse_ase_row, parse_cif, parse_extxyz, parse_poscar, parse_pymatgen
from euhedral.data.sources import source_entries
from euhedral.errors import CrystalError, DataError

DEFAULT_LIMIT_ATOMS = 1000
MAX_REASON = 300


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        crystal: a batch of one crystal in float64, or None where it could not be read.
        id: name of the crystal in the source; not always unique.
        labels: scalars that came with it; texts of a CSV are not yet turned into numbers.
        error: why there is no crystal.
    """

    crystal: CrystalBatch | None
    id: str
    labels: dict[str, float | str]
    error: str | None


def read(
    path: str | Path,
    *,
    on_error: Literal["record", "skip", "raise"] = "record",
    limit_atoms: int = DEFAULT_LIMIT_ATOMS,
) -> Iterator[Row]:
    """Read the crystals of a file, zip or folder one after the other.

    Formats: CSV of the published benchmarks (column `cif`, or `structure` with pymatgen JSON), CIF, POSCAR, extended
    XYZ and pymatgen JSON, each also gzipped; zips and folders of them; ASE databases in SQLite, JSON and LMDB.

    Args:
        path: what to read.
        on_error: give rows without a crystal (`record`), leave them out (`skip`), or raise at the first (`raise`).
        limit_atoms: crystals with more atoms are errors.

    Raises:
        DataError: where nothing can be read at all; with `on_error="raise"` also at the first broken row.
    """
    for number, entry in enumerate(source_entries(Path(path), limit_atoms=limit_atoms)):
        row = parse(entry, limit_atoms=limit_atoms)
        if row.error is None or on_error == "record":
            yield row
        elif on_error == "raise":
            raise DataError(f"row {number} ('{row.id}') of '{path}': {row.error}")


def parse(entry: Entry, *, limit_atoms: int = DEFAULT_LIMIT_ATOMS) -> Row:
    """Turn an entry into a row; never raises on what the entry holds."""
    if entry.error is not None:
        return Row(None, entry.id, entry.labels, _reason(entry.error))
    try:
        crystal, labels = _parsed(entry, limit_atoms)
        if int(crystal.num_atoms[0]) > limit_atoms:
            raise CrystalError(f"{int(crystal.num_atoms[0])} atoms, more than the limit of {limit_atoms}")
        crystal.validate()
    except CrystalError as error:
        return Row(None, entry.id, entry.labels, _reason(str(error)))
    except Exception as error:
        # A parser can fail on hostile text in ways that cannot be listed; every one is recorded as the row's reason.
        return Row(None, entry.id, entry.labels, _reason(f"{type(error).__name__}: {error}"))
    name = entry.id
    if entry.kind == "extxyz":
        name, labels = id_and_labels(labels, entry.id)
    return Row(crystal, name, labels, None)


def _parsed(entry: Entry, limit_atoms: int) -> tuple[CrystalBatch, dict[str, float | str]]:
    if entry.kind == "cif":
        return parse_cif(entry.payload, limit_atoms=limit_atoms), entry.labels
    if entry.kind == "poscar":
        return parse_poscar(entry.payload, limit_atoms=limit_atoms), entry.labels
    if entry.kind == "extxyz":
        crystal, labels = parse_extxyz(entry.payload)
        return crystal, {**labels, **entry.labels}
    if entry.kind == "pymatgen":
        return parse_pymatgen(entry.payload), entry.labels
    if entry.kind == "pymatgen-text":
        import json

        nested = json_entry(json.loads(entry.payload), entry.id)
        if nested.error:
            raise CrystalError(nested.error)
        return parse_pymatgen(nested.payload), entry.labels
    if entry.kind == "ase":
        return parse_ase_row(entry.payload), entry.labels
    raise CrystalError(f"no parser for entries of kind {entry.kind}")


def _reason(text: str) -> str:
    """One line of at most 300 characters."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"
