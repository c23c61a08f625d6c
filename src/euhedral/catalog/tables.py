"""The tables of the catalogue, and how a crystal is packed into a column of bytes.

| table | a row | key |
|---|---|---|
| `schema_version` | the version of these tables | |
| `runs` | a set of crystals with the request and the versions that they came from | `id`; `key` is the digest of all of them |
| `crystals` | a crystal as it was given | `run_id`, `index` |
| `stages` | a stage that a run went through, in the order of `position` | `run_id`, `stage` |
| `columns` | a value that stages found: its kind, unit and meaning | `run_id`, `name` |
| `stage_results` | what a stage found out about a crystal | `run_id`, `index`, `stage` |
| `files` | a file that a stage made of a crystal: a curve, a picture | the same and `name` |
| `failures` | a crystal that could not be read or that a stage failed at, also if a later attempt succeeds | as of results |
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from euhedral.crystal.batch import MAX_ATOMIC_NUMBER, CrystalBatch
from euhedral.crystal.elements import SYMBOLS
from euhedral.crystal.formula import reduced_formula
from euhedral.errors import CrystalError

SCHEMA_VERSION = 2
FAILURES = frozenset({"failed", "time limit", "diverged"})
"""Outcomes of stages that are no verdict on a crystal; they are kept in the table `failures` too."""
CELL_BYTES, ATOM_BYTES = 9 * 8, 3 * 8 + 1

metadata = MetaData()
_Json = JSON().with_variant(JSONB(), "postgresql")


def _run_id() -> Column:
    return Column("run_id", Integer, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False)


def _crystal_key(table: str) -> ForeignKeyConstraint:
    target = ["crystals.run_id", "crystals.index"]
    return ForeignKeyConstraint(["run_id", "index"], target, ondelete="CASCADE", name=f"{table}_crystal")


schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("kind", String(64), nullable=False),
    Column("model", Text),
    Column("seed", BigInteger),
    Column("weights", String(64)),
    Column("request", _Json, nullable=False),
    Column("provenance", _Json, nullable=False),
    Column("crystals", Integer, nullable=False),
    Column("created", String(32), nullable=False),
)

crystals = Table(
    "crystals",
    metadata,
    _run_id(),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("hash", String(32), nullable=False),
    Column("formula", Text, nullable=False),
    Column("chemical_system", Text, nullable=False),
    Column("num_elements", Integer, nullable=False),
    Column("num_atoms", Integer, nullable=False),
    Column("volume", Float(53)),
    Column("density", Float(53)),
    Column("packed", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
Index("crystals_hash", crystals.c.hash)

stages = Table(
    "stages",
    metadata,
    _run_id(),
    Column("stage", String(64), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("config", _Json, nullable=False),
)

columns = Table(
    "columns",
    metadata,
    _run_id(),
    Column("name", String(128), primary_key=True),
    Column("stage", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("unit", Text, nullable=False, default=""),
    Column("meaning", Text, nullable=False, default=""),
)

stage_results = Table(
    "stage_results",
    metadata,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("stage", String(64), primary_key=True),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("outcome", String(64), nullable=False),
    Column("reason", Text),
    Column("values", _Json, nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("changed", Boolean, nullable=False),
    Column("packed", LargeBinary),
    _crystal_key("stage_results"),
    sqlite_with_rowid=False,
)

files = Table(
    "files",
    metadata,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("stage", String(64), primary_key=True),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("name", String(128), primary_key=True),
    Column("content", LargeBinary, nullable=False),
    _crystal_key("files"),
)

failures = Table(
    "failures",
    metadata,
    Column("run_id", Integer, primary_key=True, autoincrement=False),
    Column("stage", String(64), primary_key=True),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("outcome", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", String(32), nullable=False),
    _crystal_key("failures"),
    sqlite_with_rowid=False,
)


def pack(batch: CrystalBatch) -> list[bytes]:
    """Each crystal as bytes: cell (9 float64), coordinates (3 float64 an atom), atomic numbers (1 byte an atom).

    Little endian; every digit is kept. A crystal that could not be read has no atoms.

    Raises:
        CrystalError: on an atomic number outside 0 to 118.
    """
    if bool(((batch.species < 0) | (batch.species > MAX_ATOMIC_NUMBER)).any()):
        raise CrystalError(f"atomic numbers must be 0 to {MAX_ATOMIC_NUMBER}; the crystals hold others")
    cell = batch.cell.detach().cpu().double().numpy().astype("<f8")
    frac = batch.frac.detach().cpu().double().numpy().astype("<f8")
    species = batch.species.cpu().numpy().astype(np.uint8)
    ends = batch.num_atoms.cpu().cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    return [
        cell[i].tobytes() + frac[a:b].tobytes() + species[a:b].tobytes()
        for i, (a, b) in enumerate(zip(starts, ends, strict=True))
    ]


def unpack(packed: Sequence[bytes]) -> CrystalBatch:
    """The crystals that `pack` packed, float64."""
    if not packed:
        return CrystalBatch.empty().to(torch.float64)
    counts = [(len(one) - CELL_BYTES) // ATOM_BYTES for one in packed]
    cells = b"".join(one[:CELL_BYTES] for one in packed)
    fracs = b"".join(one[CELL_BYTES : len(one) - n] for one, n in zip(packed, counts, strict=True))
    species = b"".join(one[len(one) - n :] for one, n in zip(packed, counts, strict=True))
    return CrystalBatch(
        frac=torch.from_numpy(np.frombuffer(fracs, "<f8").astype(np.float64).reshape(-1, 3)),
        cell=torch.from_numpy(np.frombuffer(cells, "<f8").astype(np.float64).reshape(-1, 3, 3)),
        species=torch.from_numpy(np.frombuffer(species, np.uint8).astype(np.int64)),
        num_atoms=torch.tensor(counts, dtype=torch.int64),
    )


def content_hash(packed: bytes) -> str:
    """32 hexadecimal digits that two crystals share only if all their numbers are the same."""
    return hashlib.blake2b(packed, digest_size=16).hexdigest()


def crystal_rows(batch: CrystalBatch, names: Sequence[str]) -> list[dict]:
    """Rows of the table `crystals` at index 0, 1, ... without their run."""
    named: dict[bytes, tuple[str, str, int]] = {}
    volumes, densities = batch.volume.tolist(), batch.density.tolist()
    rows = []
    for index, (one, name) in enumerate(zip(pack(batch), names, strict=True)):
        count = (len(one) - CELL_BYTES) // ATOM_BYTES
        species = one[len(one) - count :]
        if species not in named:
            named[species] = _named(species)
        formula, system, elements = named[species]
        rows.append(
            {
                "index": index,
                "name": name,
                "hash": content_hash(one),
                "formula": formula,
                "chemical_system": system,
                "num_elements": elements,
                "num_atoms": count,
                "volume": _finite(volumes[index]) if count else None,
                "density": _finite(densities[index]) if count else None,
                "packed": one,
            }
        )
    return rows


def _named(species: bytes) -> tuple[str, str, int]:
    elements = sorted(SYMBOLS[z] for z in set(species))
    known = 0 not in species
    return (reduced_formula(list(species)) if known else "?"), "-".join(elements), len(elements)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
