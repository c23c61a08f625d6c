"""`convert`: any source into a `CrystalStore`, streaming, with broken rows counted and named.

Rows are parsed and reduced in chunks, by worker processes where asked for, and written as they come (`spool.py`). All
files have temporary names until they are complete: a conversion that is killed leaves nothing under the store's name.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.entries import Entry
from euhedral.data.readers import DEFAULT_LIMIT_ATOMS, parse
from euhedral.data.sources import source_entries
from euhedral.data.spool import ConvertedChunk, Failure, Reduce, Tally, spool_batch, write_spool, write_store
from euhedral.data.worker import Unanswered
from euhedral.data.workers import map_chunks
from euhedral.errors import CrystalError, DataError, OutputError

CHUNK = 256


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did.

    Attributes:
        source: what was read.
        store: the file written.
        report: JSON lines beside it: one line a failure, the last line a summary.
        rows: rows of the source.
        kept: crystals in the store.
        failures: the rows in between with their reasons (the first 10,000; the report file has all).
        warnings: what was changed to fit: ids made unique, labels left out.
        seconds: wall time.
    """

    source: Path
    store: Path
    report: Path
    rows: int
    kept: int
    failures: tuple[Failure, ...]
    warnings: tuple[str, ...]
    seconds: float

    @property
    def failed(self) -> int:
        """Rows that were not kept."""
        return self.rows - self.kept

    def to_dict(self) -> dict[str, object]:
        """For JSON: paths as text, and the count of failures beside their list."""
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        return {**plain, "failed": self.failed}


def convert(
    source: str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    reduce: Reduce = "niggli",
    limit_atoms: int = DEFAULT_LIMIT_ATOMS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert a source into a store; rows that cannot be read are reported and never end it.

    Args:
        source: anything that `readers.read` reads.
        out: the store to write.
        workers: processes that parse and reduce; 1 works in this process.
        reduce: `niggli` keeps the Niggli-reduced primitive cell, `none` the cell as it is.
        limit_atoms: crystals with more atoms (as read) become failures.
        overwrite: replace an existing store once the new one is complete.
        progress: called with the rows and the failures so far.

    Raises:
        DataError: where nothing can be read at all; the report is written even then.
        OutputError: where the store exists already or cannot be written.
    """
    started = time.monotonic()
    source, out = Path(source), Path(out)
    _check_arguments(out, workers, reduce, overwrite)
    entries = source_entries(source, limit_atoms=limit_atoms)
    temporary = [out.with_name(f".{out.name}.{os.getpid()}.{part}.part") for part in ("spool", "report", "store")]
    spool, report_part, store_part = temporary
    report_path = out.with_name(f"{out.name}.report.jsonl")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tally = Tally()
        with report_part.open("w", encoding="utf-8") as report:
            chunks = map_chunks(
                _convert_chunk, _chunks(entries), (reduce, limit_atoms), workers=workers, on_loss=_lost_chunk
            )
            write_spool(spool, chunks, tally, report, progress)
            if not tally.kept:
                report.flush()
                os.replace(report_part, report_path)
                raise DataError(_nothing_kept(tally, source, report_path))
            write_store(spool, store_part, tally, reduce)
            result = ConversionReport(
                source=source,
                store=out,
                report=report_path,
                rows=tally.rows,
                kept=tally.kept,
                failures=tuple(tally.failures),
                warnings=tuple(tally.warnings()),
                seconds=time.monotonic() - started,
            )
            summary = {key: value for key, value in result.to_dict().items() if key != "failures"}
            report.write(json.dumps({"summary": summary}, ensure_ascii=False) + "\n")
        _publish(store_part, out, overwrite)
        os.replace(report_part, report_path)
    except OSError as error:
        raise OutputError(f"cannot write '{out}': {error.strerror or error}") from error
    finally:
        for path in temporary:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return result


def _convert_chunk(entries: list[Entry], reduce: Reduce, limit_atoms: int) -> ConvertedChunk:
    """Parse and reduce the crystals of a chunk; runs in a worker."""
    kept: list[tuple[int, str, CrystalBatch, dict[str, float | str]]] = []
    failures: list[tuple[int, str, str]] = []
    for number, entry in enumerate(entries):
        row = parse(entry, limit_atoms=limit_atoms)
        if row.crystal is None:
            failures.append((number, row.id, row.error or "unknown"))
        else:
            kept.append((number, row.id, row.crystal, row.labels))
    reduced, unreduced = _reduce_all([crystal for _, _, crystal, _ in kept], reduce)
    batch = spool_batch(
        CrystalBatch.concat(reduced), [name for _, name, _, _ in kept], [json.dumps(labels) for *_, labels in kept]
    )
    return ConvertedChunk(len(entries), batch.serialize().to_pybytes(), tuple(failures), unreduced)


def _lost_chunk(entries: list[Entry], failure: Unanswered) -> ConvertedChunk:
    """What remains of entries whose worker died, as by a fault in a library or for want of memory."""
    batch = spool_batch(CrystalBatch.empty(), [], [])
    lost = tuple((i, entry.id, f"it could not be read: {failure}") for i, entry in enumerate(entries))
    return ConvertedChunk(len(entries), batch.serialize().to_pybytes(), lost, 0)


def _reduce_all(crystals: list[CrystalBatch], reduce: Reduce) -> tuple[list[CrystalBatch], int]:
    """The reduced crystals, and how many could not be reduced and keep their cell."""
    if reduce == "none" or not crystals:
        return crystals, 0
    try:
        return [reduced_primitive(CrystalBatch.concat(crystals))], 0
    except CrystalError:
        pass  # One of them cannot be reduced: find it by reducing one at a time.
    reduced, unreduced = [], 0
    for crystal in crystals:
        try:
            reduced.append(reduced_primitive(crystal))
        except CrystalError:
            reduced.append(crystal)
            unreduced += 1
    return reduced, unreduced


def reduced_primitive(batch: CrystalBatch) -> CrystalBatch:
    """The Niggli-reduced primitive cell of each crystal (Křivý and Gruber, Acta Cryst. A 32, 297, 1976).

    Atoms stay where they are: nothing is idealised.

    Raises:
        CrystalError: where a crystal's translations cannot be found, as when atoms lie on each other.
    """
    from euhedral.crystal.geometry import niggli_reduce, primitive

    return niggli_reduce(primitive(batch)).validate()


def _chunks(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    while chunk := list(islice(entries, CHUNK)):
        yield chunk


def _check_arguments(out: Path, workers: int, reduce: str, overwrite: bool) -> None:
    if workers < 1:
        raise DataError(f"workers must be at least 1, got {workers}")
    if reduce not in get_args(Reduce):
        raise DataError(f"reduce must be 'niggli' or 'none', got '{reduce}'")
    if out.is_dir():
        raise OutputError(f"'{out}' is a folder; give the name of a file to write, such as {out / 'crystals.arrow'}")
    if out.exists() and not overwrite:
        raise OutputError(f"'{out}' exists already; choose another name or overwrite it (--overwrite)")


def _nothing_kept(tally: Tally, source: Path, report: Path) -> str:
    if not tally.rows:
        return f"'{source}' holds no rows"
    first = tally.failures[0]
    return (
        f"none of the {tally.rows} rows of '{source}' could be read; row {first.row} ('{first.id}'): {first.reason}. "
        f"All reasons are in '{report}'"
    )


def _publish(part: Path, out: Path, overwrite: bool) -> None:
    """Give the finished file its name in one step; without `overwrite` a file that appeared meanwhile is kept."""
    if overwrite:
        os.replace(part, out)
        return
    try:
        os.link(part, out)
    except FileExistsError as error:
        raise OutputError(f"'{out}' exists already; choose another name or overwrite it (--overwrite)") from error
    except OSError:  # a file system without hard links
        if out.exists():
            raise OutputError(f"'{out}' exists already; choose another name or overwrite it (--overwrite)") from None
        os.rename(part, out)
