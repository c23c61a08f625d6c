"""Some rows of a store as a store of their own, and any source as a store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from euhedral.data.convert import ConversionReport, convert
from euhedral.data.spool import ROWS_PER_BATCH
from euhedral.data.store import LABEL_PREFIX, METADATA_KEY, CrystalStore
from euhedral.errors import DataError


def open_as_store(
    source: Path, folder: Path, *, name: str = "source", workers: int = 1
) -> tuple[CrystalStore, ConversionReport | None]:
    """A store as it is, or a source converted into `folder/name.arrow` with the report of that.

    Raises:
        DataError: where nothing can be read.
    """
    if source.is_file():
        with source.open("rb") as stream:
            if stream.read(6) == b"ARROW1":
                return CrystalStore.open(source), None
    try:
        report = convert(source, folder / f"{name}.arrow", workers=workers)
    except DataError as error:
        # The report that its message points to goes with the temporary folder; the first reason is in the message.
        raise DataError(str(error).partition(" All reasons are in")[0]) from error
    return CrystalStore.open(report.store), report


def write_rows(store: Path, rows: NDArray[np.int64], out: Path) -> None:
    """Copy some rows of a store, in ascending order, into a store of their own with the same labels."""
    rows = np.sort(rows)
    with pa.memory_map(str(store)) as mapped:
        reader = pa.ipc.open_file(mapped)
        header = json.loads(reader.schema.metadata[METADATA_KEY])
        per_batch = int(header["rows_per_batch"])

        labels = [LABEL_PREFIX + name for name in header["columns"]]
        facts = _taken(reader, rows, per_batch, ["num_atoms", "species", *labels])
        sizes = facts.column("num_atoms").to_numpy()
        described = {}
        for name, column in header["columns"].items():
            values = facts.column(LABEL_PREFIX + name)
            described[name] = {"kind": column["kind"], "known": len(values) - values.null_count}
            if column["kind"] == "number" and described[name]["known"]:
                known = values.drop_null().to_numpy()
                described[name] |= {"min": float(known.min()), "mean": float(known.mean()), "max": float(known.max())}
        header |= {
            "crystals": len(rows),
            "atoms": int(sizes.sum()),
            "rows_per_batch": ROWS_PER_BATCH,
            "num_atoms": {"min": int(sizes.min()), "mean": float(sizes.mean()), "max": int(sizes.max())},
            "elements": np.unique(facts.column("species").combine_chunks().values.to_numpy()).tolist(),
            "columns": described,
        }
        schema = reader.schema.with_metadata({METADATA_KEY: json.dumps(header, ensure_ascii=False).encode()})
        with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for start in range(0, len(rows), ROWS_PER_BATCH):
                chunk = _taken(reader, rows[start : start + ROWS_PER_BATCH], per_batch, schema.names).combine_chunks()
                writer.write_batch(chunk.replace_schema_metadata(schema.metadata).to_batches()[0])
    with out.open("rb+") as written:
        os.fsync(written.fileno())


def _taken(reader: pa.RecordBatchFileReader, rows: NDArray[np.int64], per_batch: int, columns: list[str]) -> pa.Table:
    """These rows, ascending, read batch by batch."""
    batches = []
    for number in np.unique(rows // per_batch).tolist():
        local = rows[rows // per_batch == number] - number * per_batch
        batches.append(reader.get_batch(number).select(columns).take(pa.array(local)))
    return pa.Table.from_batches(batches)
