"""Entries: what is read of a crystal before it is parsed; cheap to make, so that parsing can go to worker processes.

Here are the formats that are text: CIF, POSCAR, extended XYZ, pymatgen JSON and CSV. Every reader is a generator over a
binary stream; what it cannot read becomes an entry with an `error`, and reading goes on.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Literal, TypeAlias

from euhedral.data.parsers import cif_blocks, extxyz_frames, scalars, with_energy_per_atom
from euhedral.errors import DataError

Kind: TypeAlias = Literal["cif", "poscar", "extxyz", "pymatgen", "pymatgen-text", "ase"]
TextKind: TypeAlias = Literal["cif", "poscar", "extxyz", "json", "jsonl", "csv"]

MAX_TEXT_BYTES = 64 * 2**20
MAX_JSON_BYTES = 2 * 2**30
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, OSError, UnicodeError)

STRUCTURE_COLUMNS: dict[str, Kind] = {
    "cif": "cif",
    "cif.conv": "cif",
    "structure": "pymatgen-text",
    "poscar": "poscar",
}
ID_NAMES = ("material_id", "mp_id", "mp-id", "entry_id", "structure_id", "jid", "sid", "id", "identifier", "name")
RENAMED_LABELS = {"spacegroup.number": "space_group"}


@dataclass(frozen=True)
class Entry:
    """One crystal as it was found: its name, labels and unparsed payload, or the reason why there is none."""

    id: str
    kind: Kind | None = None
    payload: Any = None
    labels: dict[str, float | str] = field(default_factory=dict)
    error: str | None = None


def text_entries(kind: TextKind, stream: IO[bytes], name: str, *, limit_atoms: int) -> Iterator[Entry]:
    """All entries of one text file.

    Args:
        kind: its format.
        stream: opened for reading bytes, already decompressed.
        name: what its crystals are called when they have no name of their own.
        limit_atoms: frames with more atoms are skipped without being held in memory.

    Raises:
        DataError: on a CSV without a column of structures or a JSON without any.
    """
    try:
        if kind == "csv":
            yield from _csv_entries(stream, name)
        elif kind == "extxyz":
            yield from _extxyz_entries(stream, name, limit_atoms)
        elif kind == "jsonl":
            yield from _jsonl_entries(stream, name)
        elif kind == "json":
            yield from _json_entries(_whole(stream, MAX_JSON_BYTES), name)
        elif kind == "cif":
            blocks = cif_blocks(_whole(stream, MAX_TEXT_BYTES))
            for block, text in blocks:
                yield Entry(name if len(blocks) == 1 else f"{name}:{block}", "cif", text)
        else:
            yield Entry(name, "poscar", _whole(stream, MAX_TEXT_BYTES))
    except DAMAGED as error:
        yield Entry(name, error=f"the file is damaged or ends early: {error or type(error).__name__}")
    except (_TooLong, csv.Error) as error:
        yield Entry(name, error=_told(error))


def _told(error: Exception) -> str:
    """What is wrong, in place of the advice to programmers that the csv module gives."""
    if "new-line character seen in unquoted field" in str(error):
        return "a line break within a field that is not in double quotes"
    return str(error)


class _TooLong(Exception):
    """A text longer than is safe to hold in memory."""


def _whole(stream: IO[bytes], limit: int) -> str:
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise _TooLong(f"larger than {limit // 2**20} MiB when decompressed; not read")
    if not data.strip():
        raise _TooLong("the file is empty")
    return data.decode("utf-8-sig", errors="replace")


def _lines(stream: IO[bytes]) -> Iterator[str]:
    first = True
    while line := stream.readline(MAX_TEXT_BYTES + 1):
        if len(line) > MAX_TEXT_BYTES:
            raise _TooLong(f"a line is longer than {MAX_TEXT_BYTES // 2**20} MiB; the rest of the file was not read")
        yield line.decode("utf-8-sig" if first else "utf-8", errors="replace")
        first = False
    if first:
        raise _TooLong("the file is empty")


def _csv_entries(stream: IO[bytes], name: str) -> Iterator[Entry]:
    # The published files hold CIFs longer than the csv module's default of 128 KiB a field.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_TEXT_BYTES))
    rows = csv.reader(_lines(stream))
    header = [column.strip() for column in next(rows, [])]
    column = next((c for c in STRUCTURE_COLUMNS if c in header), None)
    if column is None:
        raise DataError(
            f"'{name}' has no column of structures: expected one of {', '.join(STRUCTURE_COLUMNS)}, "
            f"got {', '.join(header[:20]) or 'no header'}"
        )
    id_column = next((c for c in ID_NAMES if c in header), None)
    dropped = {id_column, "", *STRUCTURE_COLUMNS, *(c for c in header if c.startswith("Unnamed:"))}
    number = -1
    while True:
        number += 1
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Entry(str(number), error=f"not a row of a CSV: {_told(error)}")
            continue
        if not fields:
            number -= 1
            continue
        if len(fields) != len(header):
            yield Entry(str(number), error=f"{len(fields)} fields where the header has {len(header)}")
            continue
        values = dict(zip(header, fields, strict=True))
        crystal_id = (values.get(id_column, "") if id_column else "").strip() or str(number)
        labels = {RENAMED_LABELS.get(c, c): text.strip() for c, text in values.items() if c not in dropped}
        labels = {c: text for c, text in labels.items() if text and text[0] not in "[{"}
        if not values[column].strip():
            yield Entry(crystal_id, labels=dict(labels), error=f"column '{column}' is empty")
        else:
            yield Entry(crystal_id, STRUCTURE_COLUMNS[column], values[column], scalars(labels))


def _extxyz_entries(stream: IO[bytes], name: str, limit_atoms: int) -> Iterator[Entry]:
    for number, (frame, error) in enumerate(extxyz_frames(_lines(stream), limit_atoms=limit_atoms)):
        yield Entry(f"{name}:{number}", None if error else "extxyz", frame, error=error)


def _json_entries(text: str, name: str) -> Iterator[Entry]:
    from euhedral.data.databases import ase_json_entries

    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"'{name}' is not JSON: {error or 'nested too deeply'}") from error
    if isinstance(document, Mapping) and "nextid" in document and "ids" in document:
        yield from ase_json_entries(document)
        return
    for number, (key, item) in enumerate(_items(document, name)):
        yield json_entry(item, key or f"{name}:{number}")


def _items(document: Any, name: str) -> Iterable[tuple[str | None, Any]]:
    if isinstance(document, list):
        return ((None, item) for item in document)
    if isinstance(document, Mapping):
        if "lattice" in document or "structure" in document:
            return [(name, document)]
        for key in ("structures", "entries", "data"):
            if isinstance(document.get(key), list):
                return ((None, item) for item in document[key])
        if document and all(isinstance(item, Mapping) for item in document.values()):
            return ((str(key), item) for key, item in document.items())
    raise DataError(
        f"'{name}' holds no structures: expected a list of pymatgen Structure or ComputedStructureEntry dicts, "
        f"got {type(document).__name__}"
    )


def _jsonl_entries(stream: IO[bytes], name: str) -> Iterator[Entry]:
    for number, line in enumerate(_lines(stream)):
        if not line.strip():
            continue
        try:
            yield json_entry(json.loads(line), f"{name}:{number}")
        except (ValueError, RecursionError) as error:
            yield Entry(f"{name}:{number}", error=f"not JSON: {error or 'nested too deeply'}")


def json_entry(item: Any, name: str) -> Entry:
    """One pymatgen Structure dict, or any dict with one under `structure`, whose other scalars are the labels."""
    if not isinstance(item, Mapping):
        return Entry(name, error=f"expected a dict of a structure, got {type(item).__name__}")
    structure = item if "lattice" in item else item.get("structure")
    if not isinstance(structure, Mapping) or "sites" not in structure or "lattice" not in structure:
        return Entry(name, error="no structure: expected a dict with 'lattice' and 'sites', or one under 'structure'")
    labels: dict[str, float | str] = {}
    for source in (structure.get("properties"), item.get("data"), item):
        if isinstance(source, Mapping):
            labels |= with_energy_per_atom(source, len(structure["sites"]))
    for key in ("@module", "@class", "@version"):
        labels.pop(key, None)
    # The net charge of a Structure dict is a setting of the cell, no measured label.
    if structure is item:
        labels.pop("charge", None)
    crystal_id, labels = id_and_labels(labels, name)
    return Entry(crystal_id, "pymatgen", {"lattice": structure["lattice"], "sites": structure["sites"]}, labels)


def id_and_labels(found: Mapping[str, float | str], name: str) -> tuple[str, dict[str, float | str]]:
    """The id that a crystal has among its scalars, or `name`; and the remaining scalars under this program's names."""
    own = next((found[key] for key in ID_NAMES if found.get(key)), name)
    labels = {RENAMED_LABELS.get(key, key): value for key, value in found.items() if key not in ID_NAMES}
    return own if isinstance(own, str) else f"{own:.0f}", labels
