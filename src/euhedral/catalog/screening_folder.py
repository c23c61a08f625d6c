"""What a screening leaves in its folder beside the catalogue: ranked CIF files, a table, a summary, inputs for DFT."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.catalog.database_engine import FILE
from euhedral.catalog.database_rows import READ
from euhedral.catalog.database_table import sorting, stage_columns
from euhedral.catalog.dft_inputs import write_dft_inputs
from euhedral.catalog.folder_lock import LOCK
from euhedral.catalog.run_folder import refused_writes, replace_file
from euhedral.catalog.screening import FunnelStep, funnel
from euhedral.catalog.where import named_columns, unknown_column
from euhedral.errors import OutputError
from euhedral.screen.novelty_stage import PROTOCOL
from euhedral.screen.ranking import FORMULA, ranked, score
from euhedral.screen.stage import PASSED

if TYPE_CHECKING:
    from euhedral.catalog.database import Catalogue
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.data.samples import Samples
    from euhedral.screen.stage import Stage, Value

MOST_REASONS = 20
"""Crystals that could not be read whose reasons are in the summary."""
RANKED, TABLE, SUMMARY, INPUTS, FILES = "ranked", "crystals.parquet", "summary.json", "dft", "properties"


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """The crystals that are left, the best first.

    Attributes:
        rows: all columns of each, and its `score` in eV/atom.
        crystals: as the last stage left them.
        names: of their files, without ending.
        order: by what they are sorted, in words.
    """

    rows: Sequence[Mapping[str, Value]]
    crystals: CrystalBatch
    names: Sequence[str]
    order: str


def rank(
    catalogue: Catalogue, run: int, alive: Sequence[int], *, where: str | None = None, sort: str | None = None
) -> Ranking:
    """Order the crystals that no stage stopped.

    Args:
        catalogue: that has the run.
        run: its id.
        alive: indices of the crystals.
        where: a filter of the catalogue's language, over them.
        sort: names of columns; the score of `screen.ranking` where not given.

    Raises:
        RequestError: on a filter that cannot be read, or an unknown column.
    """
    left = set(alive)
    rows = [row for row in catalogue.table(run, where=where, sort=sort).to_pylist() if row["index"] in left]
    if sort is None:
        rows = [rows[i] for i in ranked(rows)]
    rows = [{**row, "score": score(row)} for row in rows]
    # Without the parentheses of formulas, which shells take for their own.
    names = [f"{place:04d}_{re.sub(r'[^A-Za-z0-9]', '_', row['formula'])}" for place, row in enumerate(rows, start=1)]
    crystals = catalogue.crystals(run, [row["index"] for row in rows]) if rows else _none()
    return Ranking(rows=rows, crystals=crystals, names=names, order=FORMULA if sort is None else f"sorted by {sort}")


def check_columns(
    catalogue: Catalogue, run: int, stages: Sequence[Stage], *, where: str | None = None, sort: str | None = None
) -> None:
    """Refuse columns of a filter or an order that `rank` will not find once the stages have been through.

    Raises:
        RequestError: naming the nearest ones.
    """
    known = [*catalogue.columns(run), *(name for stage in stages for name in stage_columns(stage.name, stage.columns))]
    known = list(dict.fromkeys(known))
    named = named_columns(where) if where is not None else []
    for name, in_filter in (*((name, True) for name in named), *((name, False) for name, _ in sorting(sort))):
        if name not in known:
            raise unknown_column(name, known, in_filter=in_filter)


def write_results(
    folder: Path,
    catalogue: Catalogue,
    run: int,
    ranking: Ranking,
    *,
    codes: Sequence[str] = (),
    top: int = 20,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ranked CIF files, the table of all crystals, inputs for DFT of the `top` best, and the summary, which is returned.

    Raises:
        OutputError: where the folder cannot be written.
    """
    from euhedral.crystal.convert import to_cif

    ranked_folder = folder / RANKED
    with refused_writes(folder):
        ranked_folder.mkdir(parents=True, exist_ok=True)
        wanted = {f"{name}.cif" for name in ranking.names}
        for file in ranked_folder.glob("[0-9]*_*.cif"):
            if file.name not in wanted:
                file.unlink()
        for crystal, name in zip(ranking.crystals, ranking.names, strict=True):
            replace_file(ranked_folder / f"{name}.cif", to_cif(crystal, name).encode())
        replace_file(folder / TABLE, _parquet(catalogue, run))
        _write_files(folder / FILES, catalogue, run, ranking)
    problems = {}
    if codes:
        problems = write_dft_inputs(ranking.crystals[:top], ranking.names[:top], folder / INPUTS, codes=codes)
    summary = summarize(catalogue, run, ranking) | {"dft_problems": problems} | dict(facts or {})
    with refused_writes(folder):
        replace_file(folder / SUMMARY, (json.dumps(summary, indent=1, allow_nan=False) + "\n").encode())
    return summary


def summarize(catalogue: Catalogue, run: int, ranking: Ranking) -> dict[str, Any]:
    """Counts by stage, shares of S.U.N. and M.S.U.N. among all crystals of the run, settings and ranking."""
    about = catalogue.run(run)
    total = about.crystals
    steps = funnel(catalogue, run)
    unread = _unread(catalogue, run)
    return {
        "crystals": total,
        "unreadable": len(unread),
        "unreadable_reasons": dict(unread[:MOST_REASONS]),
        "stages": [asdict(step) for step in steps],
        "settings": {found.stage: {"version": found.version, **found.config} for found in catalogue.stages(run)},
        "discovery": _discovery(catalogue, run, total, steps),
        "left": len(ranking.rows),
        "order": ranking.order,
        "provenance": about.provenance,
    }


def check_folder(folder: Path) -> None:
    """Make the folder, or see that it is one of a screening. Raises OutputError where something else is in it."""
    with refused_writes(folder):
        used = folder.exists() and (not folder.is_dir() or any(file.name != LOCK for file in folder.iterdir()))
        if used and not any((folder / name).is_file() for name in (FILE, SUMMARY)):
            raise OutputError(f"{folder} exists and holds no screening; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)


def open_run(catalogue: Catalogue, samples: Samples, source: Path, *, alone: bool) -> int:
    """The run of these crystals in the catalogue, made where it is not there yet.

    Args:
        catalogue: to keep it in.
        samples: crystals, as they were read.
        source: where from; a run's own request becomes this one's.
        alone: whether the catalogue may hold no other run.

    Raises:
        OutputError: where it must not and does.
    """
    from euhedral.catalog.versions import versions

    summary = source / SUMMARY
    request: dict[str, Any] = {"samples": source.name}
    if summary.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            request |= json.loads(summary.read_text())["request"]
    if alone and (before := catalogue.runs()):
        if len(before) == 1 and before[0].request == request and _same(catalogue, before[0].id, samples.crystals):
            return before[0].id
        raise OutputError(f"{catalogue} belongs to other crystals; choose another --out")
    return catalogue.add_run(
        kind="screen",
        request=request,
        provenance={"source": str(source), "versions": versions()},
        crystals=samples.crystals,
        names=samples.ids,
        reasons=samples.reasons,
    )


def _same(catalogue: Catalogue, run: int, crystals: CrystalBatch) -> bool:
    """Whether the run has exactly these crystals."""
    from euhedral.catalog.database import ORIGINAL

    kept = catalogue.crystals(run, stage=ORIGINAL)
    given = crystals.to(kept.frac.dtype)
    return all(getattr(kept, name).equal(getattr(given, name)) for name in ("num_atoms", "species", "cell", "frac"))


def _unread(catalogue: Catalogue, run: int) -> list[tuple[str, str]]:
    """Names of the crystals that could not be read, with the reasons."""
    reasons = {index: reason for index, stage, _, reason in catalogue.failures(run) if stage == READ}
    if not reasons:
        return []
    rows = catalogue.table(run, where="num_atoms = 0", columns=["index", "name"]).to_pylist()
    return [(row["name"], reasons[row["index"]]) for row in rows if row["index"] in reasons]


def _discovery(catalogue: Catalogue, run: int, total: int, steps: Sequence[FunnelStep]) -> dict[str, Any] | None:
    """Shares among all; a crystal that never came to the stage of novelty is no discovery. None where that is not known."""
    if "novelty" not in {step.stage for step in steps}:
        return None
    values = catalogue.values(run)
    passed = [values[i] for i, outcome in catalogue.outcomes(run, "novelty").items() if outcome == PASSED]
    told: dict[str, Any] = {"protocol": PROTOCOL}
    for name in ("sun", "msun"):
        met = None if any(found.get(name) is None for found in passed) else sum(bool(found[name]) for found in passed)
        told[name] = None if met is None else met / total
        told[f"{name}_crystals"] = met
    return told


def _write_files(folder: Path, catalogue: Catalogue, run: int, ranking: Ranking) -> None:
    """What stages made of the crystals that are left, as RANK_FORMULA/NAME; files of an earlier ranking are removed."""
    names = {int(row["index"] or 0): name for row, name in zip(ranking.rows, ranking.names, strict=True)}
    written = set()
    for index, _, name, content in catalogue.files(run, list(names)) if names else ():
        target = folder / names[index] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, content)
        written.add(target)
    for file in folder.glob("[0-9]*_*/*"):
        if file not in written:
            file.unlink()
    for emptied in folder.glob("[0-9]*_*"):
        if emptied.is_dir() and not any(emptied.iterdir()):
            emptied.rmdir()


def _parquet(catalogue: Catalogue, run: int) -> bytes:
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(catalogue.table(run), buffer)
    return buffer.getvalue()


def _none() -> CrystalBatch:
    from euhedral.crystal.batch import CrystalBatch

    return CrystalBatch.empty()
