"""What a catalogue holds as files that other programs read.

| ending | holds |
|---|---|
| `.cif` | one file, a block a crystal |
| none | a folder with a CIF file a crystal and the table as `crystals.tsv` |
| `.extxyz`, `.xyz` | frames, with the columns in their header lines |
| `.csv`, `.parquet` | the table, with a column `cif` |
| `.db` | an ASE database, with the columns as key-value pairs and all of them under `data` |
| `.json` | a list of {"id", "structure", columns...}, the structure as pymatgen writes it |

The files are whole or not there: they are written beside their place and moved into it. Crystals that could not be read
have no structure; they are rows of tables and are left out of the other forms.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from euhedral.catalog.export_formats import WRITERS, Row
from euhedral.errors import OutputError, RequestError

if TYPE_CHECKING:
    from euhedral.catalog.database import Catalogue
    from euhedral.crystal.batch import CrystalBatch

ROWS_AT_ONCE = 2_000
NEEDED = ("run", "index", "name", "formula", "num_atoms")
"""Columns without which crystals cannot be found or named; read even where they are not asked for."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: file or folder.
        crystals: written.
        left_out: crystals that could not be read and that the format has no place for.
    """

    path: Path
    crystals: int
    left_out: int


def export(
    catalogue: Catalogue,
    out: str | Path,
    *,
    run: int | None = None,
    where: str | None = None,
    sort: str | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    stage: str | None = None,
    structures: bool = True,
) -> Exported:
    """Write crystals and columns in the format that the ending of `out` names.

    Args:
        catalogue: to read.
        out: see the table above; never overwritten.
        run: its id; all runs by default.
        where: filter, as for `Catalogue.table`.
        sort: order, as for `Catalogue.table`.
        columns: names; all by default.
        limit: crystals at most.
        stage: crystals as this stage left them, or 'original'; the newest form by default.
        structures: whether tables get the column `cif`.

    Raises:
        OutputError: where `out` exists, has another ending or cannot be written.
        RequestError: on a filter, column, run or stage that is not there.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise OutputError(f"cannot export to '{suffix}'; use {', '.join(s or 'a folder' for s in WRITERS)}")
    if path.exists():
        raise OutputError(f"{path} exists; choose another name or remove it first")
    _check_stage(catalogue, run, stage)
    wanted = list(columns) if columns is not None else list(catalogue.columns(run))
    read = list(dict.fromkeys((*wanted, *NEEDED)))
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    written = left_out = 0
    with _whole(path, temporary), WRITERS[suffix](temporary, wanted, structures=structures) as writer:
        for batch in catalogue.batches(run, where=where, sort=sort, columns=read, limit=limit, rows=ROWS_AT_ONCE):
            rows = batch.to_pylist()
            if not writer.tabular:
                left_out += sum(row["num_atoms"] == 0 for row in rows)
                rows = [row for row in rows if row["num_atoms"]]
            crystals = _crystals(catalogue, rows, stage) if structures or not writer.tabular else None
            writer.write(batch.select(wanted), rows, crystals)
            written += len(rows)
    return Exported(path=path, crystals=written, left_out=left_out)


def _check_stage(catalogue: Catalogue, run: int | None, stage: str | None) -> None:
    from euhedral.catalog.database import ORIGINAL

    runs = [found.id for found in catalogue.runs()] if run is None else [run]
    known = dict.fromkeys(found.stage for one in runs for found in catalogue.stages(one))
    if stage not in (None, ORIGINAL, *known):
        raise RequestError(f"there is no stage '{stage}'; there are: {', '.join((ORIGINAL, *known))}")


def _crystals(catalogue: Catalogue, rows: Sequence[Row], stage: str | None) -> list[CrystalBatch]:
    """One crystal a row; rows of several runs may be mixed."""
    from euhedral.catalog.database import ORIGINAL

    found: dict[tuple[int, int], CrystalBatch] = {}
    for run in dict.fromkeys(row["run"] for row in rows):
        indices = [row["index"] for row in rows if row["run"] == run]
        # Of several runs some may not have been through the stage; their crystals are as they were given.
        through = stage in (None, ORIGINAL) or any(progress.stage == stage for progress in catalogue.stages(run))
        chosen = catalogue.crystals(run, indices, stage if through else ORIGINAL)
        found.update(((run, index), crystal) for index, crystal in zip(indices, chosen, strict=True))
    return [found[row["run"], row["index"]] for row in rows]


@contextlib.contextmanager
def _whole(path: Path, temporary: Path) -> Iterator[None]:
    """Move what was written into place, or remove it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; nothing is left of it") from None
    except sqlite3.Error as error:  # of an ASE database
        raise OutputError(f"cannot write {path}: {error}; nothing is left of it") from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
