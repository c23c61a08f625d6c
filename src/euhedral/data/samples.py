"""Crystals that anybody's model wrote, at their own positions: one that cannot be read keeps its place and its reason.

Besides what `readers.read` reads (CIF, POSCAR, extxyz, pymatgen JSON, CSV, zips, folders, ASE databases) these are stores
(`.arrow`), run folders of `euhedral generate`, their `crystals.parquet`, and `.pt` files of tensors. What must be parsed
is parsed in processes, which are ended where a crystal takes too long or too much memory.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.entries import Entry
from euhedral.data.readers import DEFAULT_LIMIT_ATOMS, parse
from euhedral.data.sources import ENDINGS, kind_of, source_entries
from euhedral.data.tensors import TENSOR_ENDINGS, read_tensors
from euhedral.data.worker import Unanswered, Worker
from euhedral.data.workers import ask_divided, map_chunks, results
from euhedral.errors import ConfigError, CrystalError, DataError

CHUNK = 256
WORTH_PROCESSES = 4 * CHUNK
"""Sources of fewer crystals are read faster by one process than several start."""
SECONDS_TO_READ = 30.0
"""A crystal that can be read is so within milliseconds."""
STORE_MAGIC = b"ARROW1"
Labels = dict[str, float | str]
_Plain = tuple[Any, Any, Any] | None
_Told = tuple[str, str | None, Labels]
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Crystals with their names; a crystal that could not be read is a batch entry of no atoms and a zero cell.

    Attributes:
        crystals: float64; with several draws the second follows the first, each in the order of the references.
        ids: name of each crystal in its source, not always unique.
        reasons: why a crystal could not be read, else None.
        labels: scalars that came with each crystal; those of a table are still texts.
        draws: predictions for each reference that the crystals consist of.
        source: for people.
    """

    crystals: CrystalBatch
    ids: tuple[str, ...]
    reasons: tuple[str | None, ...]
    labels: tuple[Labels, ...] = ()
    draws: int = 1
    source: str = ""

    def __len__(self) -> int:
        return len(self.crystals)

    def draw(self, number: int) -> CrystalBatch:
        """The crystals of one draw, in the order of the references."""
        count = len(self) // self.draws
        return self.crystals[number * count : (number + 1) * count]


def read_samples(
    path: str | Path,
    *,
    workers: int = 1,
    limit_atoms: int = DEFAULT_LIMIT_ATOMS,
    seconds_per_crystal: float = SECONDS_TO_READ,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Read all crystals of a source.

    Args:
        path: file, zip or folder.
        workers: processes that parse, for large sources.
        limit_atoms: crystals with more atoms count as not read.
        seconds_per_crystal: a crystal whose parsing takes longer counts as not read.
        progress: called with (crystals read, 0), since the total is not known.

    Raises:
        ConfigError: on a time limit that is not positive.
        DataError: where nothing can be read at all, or the source holds no crystals.
        EuhedralError: if processes cannot be started.
    """
    if not seconds_per_crystal > 0:
        raise ConfigError(f"seconds_per_crystal must be positive, not {seconds_per_crystal}")
    path = Path(path)
    reading = _Reading(source=str(path), workers=workers, limit=limit_atoms, seconds=seconds_per_crystal, told=progress)
    if path.suffix.lower() in TENSOR_ENDINGS:
        samples = joined([from_batch(batch, source=str(path)) for batch in read_tensors(path)], as_draws=True)
    elif is_store(path):
        samples = _from_store(path)
    elif path.suffix.lower() == ".parquet":
        samples = _parsed(_parquet_entries(path), reading)
    elif path.is_file() and kind_of(path.name) is None:
        raise DataError(
            f"'{path}' is of no known format; known endings: {', '.join(ENDINGS)} (also with .gz), POSCAR*, .arrow (a store), "
            f".parquet, {', '.join(TENSOR_ENDINGS)}"
        )
    else:
        samples = _parsed(source_entries(path, limit_atoms=limit_atoms), reading)
    if not len(samples):
        raise DataError(f"'{path}' holds no crystals")
    return limited(samples, limit_atoms)


def limited(samples: Samples, limit_atoms: int) -> Samples:
    """The samples, in which crystals of more atoms count as not read; wherever they came from."""
    crystals = samples.crystals
    large = crystals.num_atoms > limit_atoms
    if not bool(large.any()):
        return samples
    reasons = (
        f"{atoms} atoms, more than the limit of {limit_atoms}" if atoms > limit_atoms else reason
        for atoms, reason in zip(crystals.num_atoms.tolist(), samples.reasons, strict=True)
    )
    kept = ~large[crystals.owner]
    smaller = CrystalBatch(
        frac=crystals.frac[kept],
        cell=crystals.cell.masked_fill(large[:, None, None], 0.0),
        species=crystals.species[kept],
        num_atoms=crystals.num_atoms.masked_fill(large, 0),
    )
    return replace(samples, crystals=smaller, reasons=tuple(reasons))


def is_store(path: Path) -> bool:
    """Whether a file begins as a store does."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(STORE_MAGIC)) == STORE_MAGIC


def from_batch(batch: CrystalBatch, *, source: str = "CrystalBatch") -> Samples:
    """A batch as samples; whatever is wrong with its crystals is for the judges to say."""
    return Samples(
        crystals=batch.to("cpu").to(torch.float64),
        ids=tuple(str(i) for i in range(len(batch))),
        reasons=(None,) * len(batch),
        labels=({},) * len(batch),
        source=source,
    )


def from_objects(objects: Iterable[Any], *, source: str = "objects") -> Samples:
    """pymatgen Structures, ASE Atoms or batches, one by one; what cannot be converted keeps its place and reason.

    Raises:
        DataError: on an object of another kind.
    """
    batches: list[CrystalBatch] = []
    reasons: list[str | None] = []
    for number, item in enumerate(objects):
        try:
            converted = _converted(item, number)
            batches.append(converted.to("cpu").to(torch.float64))
            reasons += [None] * len(converted)
        except CrystalError as error:
            batches.append(_placeholder())
            reasons.append(str(error))
    samples = from_batch(CrystalBatch.concat(batches), source=source)
    return Samples(
        crystals=samples.crystals, ids=samples.ids, reasons=tuple(reasons), labels=samples.labels, source=source
    )


def joined(parts: Sequence[Samples], *, as_draws: bool) -> Samples:
    """Several samples one after the other; as draws of the same references they must be equally many.

    Raises:
        DataError: on draws of different numbers of crystals, or no parts.
    """
    if not parts:
        raise DataError("there are no samples to join")
    sizes = [len(part) // part.draws for part in parts]
    if as_draws and len(set(sizes)) > 1:
        raise DataError(f"draws for the same references must be equally many, but they have {sizes} crystals")
    return Samples(
        crystals=CrystalBatch.concat([part.crystals for part in parts]),
        ids=tuple(chain.from_iterable(part.ids for part in parts)),
        reasons=tuple(chain.from_iterable(part.reasons for part in parts)),
        labels=tuple(chain.from_iterable(part.labels for part in parts)),
        draws=sum(part.draws for part in parts) if as_draws else 1,
        source=", ".join(dict.fromkeys(part.source for part in parts)),
    )


def _converted(item: Any, number: int) -> CrystalBatch:
    if isinstance(item, CrystalBatch):
        return item
    if hasattr(item, "lattice") and hasattr(item, "sites"):
        return CrystalBatch.from_pymatgen([item])
    if hasattr(item, "get_scaled_positions"):
        return CrystalBatch.from_ase([item])
    raise DataError(
        f"object {number} is a {type(item).__name__}; expected a CrystalBatch, a pymatgen Structure or ASE Atoms"
    )


def _placeholder() -> CrystalBatch:
    return CrystalBatch(
        frac=torch.zeros(0, 3, dtype=torch.float64),
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        species=torch.zeros(0, dtype=torch.int64),
        num_atoms=torch.zeros(1, dtype=torch.int64),
    )


def _from_store(path: Path) -> Samples:
    from euhedral.data.store import CrystalStore

    with CrystalStore.open(path) as store:
        batch, ids = store.crystals(slice(None), dtype=torch.float64), tuple(store.ids())
        columns: dict[str, Sequence[float | str | None]] = {
            name: store.labels(name).tolist() if name in store.numeric_column_names else store.texts(name)
            for name in store.column_names
        }
    labels = tuple(
        {name: value for name, values in columns.items() if (value := values[i]) is not None and value == value}
        for i in range(len(batch))
    )
    return Samples(crystals=batch, ids=ids, reasons=(None,) * len(batch), labels=labels, source=str(path))


def _parquet_entries(path: Path) -> Iterator[Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"no file '{path}'")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{path}' is not a parquet file, or is damaged: {error}") from None
    if "cif" not in table.column_names:
        raise DataError(f"'{path}' has no column 'cif'; it has: {', '.join(table.column_names) or 'none'}")
    names = table.column("name").to_pylist() if "name" in table.column_names else range(table.num_rows)
    for name, text in zip(names, table.column("cif").to_pylist(), strict=True):
        if isinstance(text, str):
            yield Entry(str(name), "cif", text)
        else:
            yield Entry(str(name), error="column 'cif' is empty")


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """How a source is parsed; fields as the arguments of `read_samples`."""

    source: str
    workers: int
    limit: int
    seconds: float
    told: Callable[[int, int], None] | None

    def parts(self, entries: Iterator[Entry]) -> Iterator[tuple[list[_Plain], list[_Told]]]:
        """What the entries hold, in their order."""
        first = list(islice(entries, WORTH_PROCESSES))
        chunks = self._chunks(chain(first, entries))
        if self.workers > 1 and len(first) == WORTH_PROCESSES:
            limits = {"workers": self.workers, "seconds": self.seconds}
            yield from map_chunks(_parse_chunk, chunks, (), on_loss=_lost_chunk, **limits)
            return
        for chunk in chunks:
            with _ONE_AT_A_TIME:
                answers = ask_divided(_reader(), chunk, self.seconds)
            yield from results(answers, _lost_chunk)

    def _chunks(self, entries: Iterator[Entry]) -> Iterator[list[tuple[Entry, int]]]:
        while chunk := [(entry, self.limit) for entry in islice(entries, CHUNK)]:
            yield chunk


@cache
def _reader() -> Worker:
    """The one process that small sources are parsed in; it stays, since it takes longer to start than they to be read."""
    reader = Worker(_parse_chunk)
    atexit.register(reader.close)
    return reader


def _parsed(entries: Iterator[Entry], reading: _Reading) -> Samples:
    crystals: list[_Plain] = []
    names: list[_Told] = []
    for part, told in reading.parts(entries):
        crystals += part
        names += told
        if reading.told is not None:
            reading.told(len(crystals), 0)
    empty = (np.zeros((3, 3)), np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    triples = [tuple(torch.from_numpy(array) for array in crystal or empty) for crystal in crystals]
    return Samples(
        crystals=CrystalBatch.from_crystals([(cell, frac, species) for cell, frac, species in triples]),
        ids=tuple(name for name, _, _ in names),
        reasons=tuple(reason for _, reason, _ in names),
        labels=tuple(labels for _, _, labels in names),
        source=reading.source,
    )


def _parse_chunk(entries: list[tuple[Entry, int]]) -> tuple[list[_Plain], list[_Told]]:
    """Body of a worker process: arrays and names of entries, each with its limit of atoms; arrays, since tensors would
    travel between processes as open files."""
    crystals: list[_Plain] = []
    names = []
    for entry, limit_atoms in entries:
        row = parse(entry, limit_atoms=limit_atoms)
        crystal = row.crystal
        crystals.append(
            None if crystal is None else (crystal.cell[0].numpy(), crystal.frac.numpy(), crystal.species.numpy())
        )
        names.append((row.id, row.error, row.labels))
    return crystals, names


def _lost_chunk(entries: list[tuple[Entry, int]], failure: Unanswered) -> tuple[list[_Plain], list[_Told]]:
    reason = f"it could not be read: {failure}"
    return [None] * len(entries), [(entry.id, reason, entry.labels) for entry, _ in entries]
