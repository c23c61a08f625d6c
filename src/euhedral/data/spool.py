"""Writing a store in two passes: chunks go to a spool as they come; when all are read the types of the labels are known
and the spool is copied into the store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.labels import LabelCensus
from euhedral.data.store import CRYSTAL_FIELDS, LABEL_PREFIX, METADATA_KEY, SCHEMA_VERSION

Reduce: TypeAlias = Literal["niggli", "none"]
ROWS_PER_BATCH = 4096
MAX_FAILURES_IN_MEMORY = 10_000
SPOOL_SCHEMA = pa.schema([*CRYSTAL_FIELDS, pa.field("labels", pa.string(), nullable=False)])


@dataclass(frozen=True)
class Failure:
    """A row that did not make it into the store, and why."""

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class ConvertedChunk:
    """What a worker gives back of a chunk.

    Attributes:
        rows: entries that it was given.
        batch: the crystals as a record batch of the spool, serialised by Arrow.
        failures: (row in the chunk, id, reason) of the others.
        unreduced: crystals whose cell could not be reduced.
    """

    rows: int
    batch: bytes
    failures: tuple[tuple[int, str, str], ...]
    unreduced: int


def spool_batch(batch: CrystalBatch, ids: list[str], labels: list[str]) -> pa.RecordBatch:
    """Crystals, their names and their labels (JSON objects) as rows of the spool; the floats become float32."""
    frac = batch.frac.to(torch.float32).numpy().reshape(-1, 3)
    frac = np.where(frac >= 1, np.float32(0), frac)  # 1 - 1e-9 rounds to 1 in float32
    counts = batch.num_atoms.numpy().astype(np.int32)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    frac_values = pa.FixedSizeListArray.from_arrays(pa.array(frac.reshape(-1)), 3)
    cell = pa.array(batch.cell.to(torch.float32).numpy().reshape(-1))
    columns = [
        pa.array(ids, pa.string()),
        pa.array(counts),
        pa.FixedSizeListArray.from_arrays(cell, 9),
        pa.ListArray.from_arrays(offsets, frac_values),
        pa.ListArray.from_arrays(offsets, pa.array(batch.species.numpy().astype(np.uint8))),
        pa.array(labels, pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SPOOL_SCHEMA)


class Tally:
    """What is counted while rows stream by."""

    def __init__(self) -> None:
        self.rows = 0
        self.kept = 0
        self.atoms = 0
        self.sizes: dict[int, int] = {}
        self.elements = np.zeros(256, dtype=np.int64)
        self.census = LabelCensus()
        self.failures: list[Failure] = []
        self.renamed = 0
        self.unreduced = 0
        self._seen: dict[int, int] = {}

    def unique(self, name: str) -> str:
        """The name, with `#2`, `#3`, ... from its second appearance on."""
        times = self._seen[hash(name)] = self._seen.get(hash(name), 0) + 1
        self.renamed += times > 1
        candidate = name
        while times > 1:
            candidate = f"{name}#{times}"
            if hash(candidate) not in self._seen:
                self._seen[hash(candidate)] = 1
                break
            times = self._seen[hash(name)] = times + 1
        return candidate

    def warnings(self) -> list[str]:
        """What was changed to fit the store."""
        found = self.census.warnings()
        if self.renamed:
            found.insert(0, f"{self.renamed} ids had occurred before; '#2', '#3', ... was added to them")
        if self.unreduced:
            found.append(f"{self.unreduced} crystals keep their given cell, because no primitive cell could be found")
        return found

    def header(self, reduce: Reduce) -> dict[str, object]:
        """The summary that the store carries in its metadata."""
        sizes = np.array(list(self.sizes))
        return {
            "schema_version": SCHEMA_VERSION,
            "crystals": self.kept,
            "atoms": self.atoms,
            "rows_per_batch": ROWS_PER_BATCH,
            "reduce": reduce,
            "num_atoms": {"min": int(sizes.min()), "mean": self.atoms / self.kept, "max": int(sizes.max())},
            "elements": np.flatnonzero(self.elements).tolist(),
            "columns": self.census.header(),
        }


def write_spool(
    spool: Path,
    chunks: Iterator[ConvertedChunk],
    tally: Tally,
    report: TextIO,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write chunks as they come, failures into the report, and count everything in `tally`."""
    with pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_stream(sink, SPOOL_SCHEMA) as writer:
        for chunk in chunks:
            batch = pa.ipc.read_record_batch(pa.py_buffer(chunk.batch), SPOOL_SCHEMA)
            for number, name, reason in chunk.failures:
                failure = Failure(tally.rows + number, name, reason)
                report.write(json.dumps(asdict(failure), ensure_ascii=False) + "\n")
                if len(tally.failures) < MAX_FAILURES_IN_MEMORY:
                    tally.failures.append(failure)
            ids = pa.array([tally.unique(name) for name in batch.column("id").to_pylist()], pa.string())
            for text in batch.column("labels").to_pylist():
                tally.census.add(json.loads(text))
            species = batch.column("species").values.to_numpy()
            tally.elements += np.bincount(species, minlength=256)
            tally.atoms += len(species)
            for size in np.unique(batch.column("num_atoms").to_numpy()).tolist():
                tally.sizes[size] = 1
            tally.rows += chunk.rows
            tally.unreduced += chunk.unreduced
            tally.kept += batch.num_rows
            if batch.num_rows:
                writer.write_batch(batch.set_column(0, SPOOL_SCHEMA.field(0), ids))
            if progress is not None:
                progress(tally.rows, tally.rows - tally.kept)


def write_store(spool: Path, out: Path, tally: Tally, reduce: Reduce) -> None:
    """Copy the spool into a store in batches of `ROWS_PER_BATCH` rows, with one column a label."""
    labels = [pa.field(LABEL_PREFIX + name, kind) for name, kind in tally.census.fields.items()]
    header = json.dumps(tally.header(reduce), ensure_ascii=False).encode()
    schema = pa.schema([*CRYSTAL_FIELDS, *labels], metadata={METADATA_KEY: header})
    with (
        pa.memory_map(str(spool)) as source,
        pa.OSFile(str(out), "wb") as sink,
        pa.ipc.open_stream(source) as reader,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for table in _rebatched(reader):
            rows = [json.loads(text) for text in table.column("labels").to_pylist()]
            columns = [table.column(field.name).combine_chunks() for field in CRYSTAL_FIELDS]
            writer.write_batch(pa.RecordBatch.from_arrays(columns + tally.census.arrays(rows), schema=schema))
    with out.open("rb+") as written:
        os.fsync(written.fileno())


def _rebatched(reader: pa.RecordBatchStreamReader) -> Iterator[pa.Table]:
    """Tables of exactly `ROWS_PER_BATCH` rows, the last one shorter: a row's batch is then known by division."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in reader:
        held.append(batch)
        count += batch.num_rows
        while count >= ROWS_PER_BATCH:
            table = pa.Table.from_batches(held)
            yield table.slice(0, ROWS_PER_BATCH)
            held = table.slice(ROWS_PER_BATCH).to_batches()
            count -= ROWS_PER_BATCH
    if count:
        yield pa.Table.from_batches(held)
