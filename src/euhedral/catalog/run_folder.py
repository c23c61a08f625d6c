"""A run's folder: CIF files, one extxyz, a parquet table and a summary, written as crystals come.

Every file is whole at any moment, also after Ctrl-C or kill -9: CIF files, table and summary are moved into place, and
frames are appended to the extxyz in one write each. The CIF files are the record from which a run goes on.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from dataclasses import fields as fields_of
from pathlib import Path
from typing import IO, Any

from euhedral.catalog.records import CrystalRecord, describe
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.symmetry_worker import SymmetryWorker
from euhedral.errors import OutputError
from euhedral.sample.request import GenerationRequest

SUMMARY, TABLE, FRAMES, CIFS, LOG = "summary.json", "crystals.parquet", "crystals.extxyz", "cif", "records.jsonl"
SECONDS_BETWEEN_TABLES = 10.0
_REDRAWN = "redrawn"


class RunFolder:
    """Writes one run; use as a context manager.

    Attributes:
        path: the folder.
        records: what was written so far, in the order of writing.
        redrawn: draws that were thrown away on the way.
    """

    def __init__(
        self, path: Path, request: Mapping[str, Any], *, overwrite: bool = False, resume: bool = False
    ) -> None:
        self.path = path
        self.records: list[CrystalRecord] = []
        self.redrawn = 0
        self._request = dict(request)
        self._symmetry = SymmetryWorker()
        self._started = self._table_written = time.time()
        self._open_files(overwrite=overwrite, resume=resume)

    def _open_files(self, *, overwrite: bool, resume: bool) -> None:
        with refused_writes(self.path):
            used = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
            if used and not (self.path / SUMMARY).is_file():
                raise OutputError(
                    f"{self.path} exists and is no Euhedral run (no {SUMMARY} in it); choose another --out"
                )
            if used and not (overwrite or resume):
                raise OutputError(
                    f"{self.path} exists and is not empty; choose another --out, or pass --overwrite or --resume"
                )
            if used and overwrite:
                self._remove_own_files()
            if used and resume:
                self._read_back()
            (self.path / CIFS).mkdir(parents=True, exist_ok=True)
            self._write_summary({}, "running")

    def _remove_own_files(self) -> None:
        for name in (SUMMARY, TABLE, FRAMES, LOG, "index.html"):
            (self.path / name).unlink(missing_ok=True)
        for file in (self.path / CIFS).glob("*.cif"):
            file.unlink()

    def _read_back(self) -> None:
        """Take up an interrupted run: keep the crystals whose record and CIF are both whole."""
        summary = self.path / SUMMARY
        try:
            before = json.loads(summary.read_text())["request"]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{summary} cannot be read ({error}); choose another --out") from None
        # A run may be older than a field that this version has: what it did not ask for, it left at its default.
        plain = {one.name: one.default for one in fields_of(GenerationRequest)}
        changed = sorted(
            k for k in {*before, *self._request} if before.get(k, plain.get(k)) != self._request.get(k, plain.get(k))
        )
        if changed:
            raise OutputError(f"{self.path} belongs to another request (different: {', '.join(changed)})")
        known = {file.stem for file in (self.path / CIFS).glob("*.cif")}
        kept: dict[int, CrystalRecord] = {}
        for line in _whole_lines(self.path / LOG):
            fields = json.loads(line)
            if _REDRAWN in fields:
                self.redrawn += fields[_REDRAWN]
                continue
            record = CrystalRecord(**fields)
            if record.name in known:
                kept[record.index] = record
        self.records = list(kept.values())
        for stem in known - {record.name for record in self.records}:
            (self.path / CIFS / f"{stem}.cif").unlink()
        self._rewrite_frames()

    def _rewrite_frames(self) -> None:
        """Frames may exist of crystals whose record was cut off: write those of the kept ones anew."""
        from euhedral.crystal.convert import from_cif

        texts = [(self.path / CIFS / f"{record.name}.cif").read_text() for record in self.records]
        frames = "".join(_frame(from_cif(t), r) for t, r in zip(texts, self.records, strict=True))
        lines = _log_lines(self.records, self.redrawn)
        replace_file(self.path / FRAMES, frames.encode())
        replace_file(self.path / LOG, lines.encode())

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._symmetry.close()
        if kind is not None:
            with contextlib.suppress(OutputError):
                self.finish({}, status="interrupted" if kind is KeyboardInterrupt else "failed")

    @property
    def written(self) -> frozenset[int]:
        """Positions of the crystals on disk."""
        return frozenset(record.index for record in self.records)

    def add(self, crystals: CrystalBatch, indices: Sequence[int], *, redrawn: int = 0) -> list[CrystalRecord]:
        """Write crystals that are not there yet, and count draws that were thrown away for them.

        Frames are those of the CIF files, in their orientation and with their digits, so that a run that was interrupted
        and one that was not leave the same files.

        Raises:
            OutputError: where the disk is full or not writable.
        """
        from euhedral.crystal.convert import from_cif, to_cif

        missing = [k for k, index in enumerate(indices) if index not in self.written]
        fresh = crystals[missing]
        records = describe(fresh, [indices[k] for k in missing], self._symmetry)
        with refused_writes(self.path):
            texts = [to_cif(crystal, record.name) for crystal, record in zip(fresh, records, strict=True)]
            for text, record in zip(texts, records, strict=True):
                replace_file(self.path / CIFS / f"{record.name}.cif", text.encode())
            _append(self.path / FRAMES, "".join(_frame(from_cif(t), r) for t, r in zip(texts, records, strict=True)))
            _append(self.path / LOG, _log_lines(records, redrawn))
            self.records += records
            self.redrawn += redrawn
            if time.time() - self._table_written > SECONDS_BETWEEN_TABLES:
                self._write_table()
        return records

    def finish(self, facts: Mapping[str, Any], *, status: str = "complete") -> Path:
        """Write the table and the summary with further facts; returns the summary's path."""
        with refused_writes(self.path):
            self._write_table()
            return self._write_summary(facts, status)

    def cif(self, record: CrystalRecord) -> str:
        """Text of a crystal's CIF file."""
        return (self.path / CIFS / f"{record.name}.cif").read_text()

    def crystals(self) -> CrystalBatch:
        """All crystals on disk, by position."""
        from euhedral.crystal.convert import from_cif

        ordered = sorted(self.records, key=lambda record: record.index)
        return CrystalBatch.concat([from_cif(self.cif(record)) for record in ordered])

    def _write_table(self) -> None:
        import pyarrow
        import pyarrow.parquet

        rows = [{**asdict(record), "cif": self.cif(record)} for record in sorted(self.records, key=lambda r: r.index)]
        buffer = io.BytesIO()
        schema = pyarrow.schema([(name, _ARROW[kind]()) for name, kind in _columns().items()])
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), buffer)
        replace_file(self.path / TABLE, buffer.getvalue())
        self._table_written = time.time()

    def _write_summary(self, facts: Mapping[str, Any], status: str) -> Path:
        document = {
            "status": status,
            "request": self._request,
            "crystals": len(self.records),
            "seconds": round(time.time() - self._started, 3),
            **facts,
        }
        replace_file(self.path / SUMMARY, (json.dumps(document, indent=1) + "\n").encode())
        return self.path / SUMMARY


def free_folder(parent: Path, stem: str) -> Path:
    """The first of stem-001, stem-002, ... that does not exist."""
    number = 1
    while (parent / f"{stem}-{number:03d}").exists():
        number += 1
    return parent / f"{stem}-{number:03d}"


def _columns() -> dict[str, str]:
    return {**{name: str(kind) for name, kind in CrystalRecord.__annotations__.items()}, "cif": "str"}


def _arrow(name: str) -> Any:
    import pyarrow

    return getattr(pyarrow, name)()


_ARROW = {"int": lambda: _arrow("int64"), "float": lambda: _arrow("float64"), "str": lambda: _arrow("string")}


def _frame(crystal: CrystalBatch, record: CrystalRecord) -> str:
    """One extended XYZ frame."""
    from ase.io import write

    atoms = crystal.to_ase()[0]
    atoms.info = {"name": record.name, "space_group": record.space_group, "formula": record.formula}
    text = io.StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue()


def _log_lines(records: Sequence[CrystalRecord], redrawn: int) -> str:
    """A line for each record, and one last for what was thrown away: where it is cut off, all of it is drawn again."""
    lines: list[dict[str, Any]] = [asdict(record) for record in records]
    return "".join(json.dumps(line) + "\n" for line in [*lines, *([{_REDRAWN: redrawn}] if redrawn else [])])


def _whole_lines(file: Path) -> list[str]:
    """Lines that end; the last one of a killed run may not."""
    if not file.is_file():
        return []
    return file.read_text().split("\n")[:-1]


def _append(file: Path, text: str) -> None:
    with file.open("ab", buffering=0) as stream:
        _write_all(stream, text.encode())


def _write_all(stream: IO[bytes], content: bytes) -> None:
    if content and stream.write(content) != len(content):
        raise OSError("the disk took only part of what was written")


def replace_file(file: Path, content: bytes) -> None:
    """Write a file beside its place and move it there, so that it is whole at any moment."""
    temporary = file.with_name(f".{file.name}.partial")
    temporary.write_bytes(content)
    os.replace(temporary, file)


@contextlib.contextmanager
def refused_writes(path: Path) -> Iterator[None]:
    """Turn what a disk refuses into an OutputError that names the folder."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write to {path}: {error.strerror or error}; what was written before is whole"
        ) from None
