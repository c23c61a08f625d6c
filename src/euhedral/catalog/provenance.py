"""Crystals that exist already, taken into a catalogue with all that is known of where they came from.

A run of `euhedral generate` brings its request, model, seed, weights and versions; any other source brings its name, its
SHA-256 where it is a file, and the scalars that came with its crystals as columns `given_...`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.catalog.run_folder import CIFS, LOG, SUMMARY
from euhedral.errors import CrystalError, DataError, OutputError

if TYPE_CHECKING:
    from euhedral.catalog.database import Catalogue
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.data.samples import Samples

GENERATED, GIVEN = "generated", "given"
"""Stages that hold what was known of crystals before the catalogue: from the run's table, from their source."""
GIVEN_PREFIX = "given_"
CHUNK = 5_000
_OF_TABLE = {
    "space_group": ("", "number of the space group at symprec 0.1 Å, 0 where none was found"),
    "space_group_symbol": ("", "its Hermann-Mauguin symbol"),
    "smallest_distance": ("Å", "smallest distance between two atoms, periodic images included"),
}
"""Columns of a run's records that the catalogue does not find itself: unit and meaning."""
_NOT_PROVENANCE = frozenset({"request", "crystals"})


def import_source(
    catalogue: Catalogue, source: str | Path, *, partial: bool = False, workers: int = 1, limit_atoms: int = 10_000
) -> int:
    """Take in a run folder or any other source of crystals; the same source again changes nothing.

    Args:
        catalogue: to take them into.
        source: a run folder, or anything that `data.samples.read_samples` reads.
        partial: take in a run that was not finished too.
        workers: processes that parse a large source.
        limit_atoms: crystals with more atoms count as not read.

    Returns:
        The run's id in the catalogue.

    Raises:
        DataError: where nothing can be read.
        OutputError: where a run is not finished, and as every method of the catalogue.
    """
    source = Path(source)
    if (source / SUMMARY).is_file() and (source / LOG).is_file():
        return import_run(catalogue, source, partial=partial)
    from euhedral.data.samples import read_samples

    samples = read_samples(source, workers=workers, limit_atoms=limit_atoms)
    return import_samples(catalogue, samples, source)


def import_run(catalogue: Catalogue, folder: str | Path, *, partial: bool = False) -> int:
    """Take in a folder that `euhedral generate` wrote, which is left as it is. Arguments and errors as `import_source`."""
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.stage import Column

    folder = Path(folder)
    summary = _summary(folder)
    if summary["status"] != "complete" and not partial:
        raise OutputError(
            f"the run in {folder} is not finished (status {summary['status']}): go on with it by euhedral generate --resume, "
            "or take in what is there with --partial"
        )
    records, crystals, reasons = _recorded(folder)
    if not records:
        raise DataError(f"the run in {folder} holds no crystals")
    facts = {name: value for name, value in summary.items() if name not in _NOT_PROVENANCE}
    run = catalogue.add_run(
        kind="generate",
        request=summary["request"],
        provenance={**facts, "source": str(folder.absolute())},
        crystals=CrystalBatch.concat(crystals),
        names=[str(record["name"]) for record in records],
        reasons=reasons,
    )
    described = {name: Column(unit=unit, meaning=meaning) for name, (unit, meaning) in _OF_TABLE.items()}
    catalogue.add_stage(run, stage=GENERATED, version=1, columns=described)
    _record(catalogue, run, GENERATED, [{name: record.get(name) for name in _OF_TABLE} for record in records])
    return run


def import_samples(catalogue: Catalogue, samples: Samples, source: Path) -> int:
    """Take in crystals that were read from a source, those that could not be read with the reason why."""
    from euhedral.catalog.versions import versions
    from euhedral.data.download import sha256_of

    provenance: dict[str, Any] = {"source": str(source.absolute()), "versions": versions()}
    if source.is_file():
        provenance["sha256"] = sha256_of(source)
    run = catalogue.add_run(
        kind="import",
        request={"source": source.name},
        provenance=provenance,
        crystals=samples.crystals,
        names=samples.ids,
        reasons=samples.reasons,
    )
    _record(catalogue, run, GIVEN, [_given(labels) for labels in samples.labels])
    return run


def _record(catalogue: Catalogue, run: int, stage: str, values: list[dict[str, Any]]) -> None:
    from euhedral.screen.stage import PASSED, StageRecord

    records = [StageRecord(index=i, outcome=PASSED, values=found) for i, found in enumerate(values) if found]
    for start in range(0, len(records), CHUNK):
        catalogue.record(run, stage, 1, records[start : start + CHUNK])


def _given(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Labels under names that columns can have; numbers that came as text are numbers."""
    from euhedral.data.labels import is_unknown, number_of

    found: dict[str, Any] = {}
    for name, value in labels.items():
        column = GIVEN_PREFIX + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:100]
        if not is_unknown(value) and column not in found:
            number = number_of(value)
            found[column] = value if number is None else number
    return found


def _summary(folder: Path) -> dict[str, Any]:
    file = folder / SUMMARY
    try:
        summary = json.loads(file.read_text())
        whole = isinstance(summary["request"], dict) and isinstance(summary["status"], str)
    except FileNotFoundError:
        raise DataError(f"{folder} is no run of euhedral generate: no {SUMMARY} in it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    if not whole:
        raise DataError(f"{file} is no summary of euhedral generate")
    return summary


def _recorded(folder: Path) -> tuple[list[dict[str, Any]], list[CrystalBatch], list[str | None]]:
    """Records of the run's crystals in order, with the crystals, and why one cannot be read."""
    from euhedral.crystal.convert import from_cif

    try:
        # The last line of a run that was killed may have no end.
        lines = (folder / LOG).read_text().split("\n")[:-1]
        by_index = {int(record["index"]): record for record in map(json.loads, lines)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / LOG} cannot be read: {error}") from None
    records, crystals, reasons = [], [], []
    for _, record in sorted(by_index.items()):
        reason = None
        try:
            crystals.append(from_cif((folder / CIFS / f"{record['name']}.cif").read_text()))
        except (OSError, UnicodeError, CrystalError) as error:
            crystals.append(_unreadable())
            reason = str(error)
        records.append({k: v for k, v in record.items() if not (isinstance(v, float) and not math.isfinite(v))})
        reasons.append(reason)
    return records, crystals, reasons


def _unreadable() -> CrystalBatch:
    import torch

    from euhedral.crystal.batch import CrystalBatch

    none = torch.zeros(0, dtype=torch.int64)
    frac, cell = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(1, 3, 3, dtype=torch.float64)
    return CrystalBatch(frac=frac, cell=cell, species=none, num_atoms=torch.zeros(1, dtype=torch.int64))
