"""`Catalogue`: every crystal, request, stage result and failure in one SQL database, SQLite or PostgreSQL.

Each method is one transaction: a process that is killed leaves all of a call or nothing of it, and the same call can be
made again, since runs are known by their content and results by run, stage and crystal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, and_, exc, func, select

from euhedral.catalog import tables
from euhedral.catalog.database_engine import Database
from euhedral.catalog.database_rows import (
    ORIGINAL,
    READ,
    Run,
    StageProgress,
    check_names,
    check_owner,
    column_rows,
    conflict_free,
    failure_rows,
    file_rows,
    plain,
    plain_text,
    result_row,
    upsert,
)
from euhedral.catalog.database_table import query_batches, query_columns
from euhedral.errors import OutputError, RequestError

if TYPE_CHECKING:
    import pyarrow as pa

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.stage import Column, StageRecord, Value

ROWS_AT_ONCE = 10_000
INDICES_AT_ONCE = 5_000


class Catalogue:
    """A catalogue, open; use as a context manager.

    Args:
        target: a run folder (its catalog.sqlite), a file, or a URL such as postgresql://user@host/name.
        create: make it where there is none; else it need not be writable.

    Raises:
        DataError: where it is missing (and not to be made), damaged, no catalogue or of another version.
        OutputError: where it cannot be made or reached. Every method raises these two as well.
    """

    def __init__(self, target: str | Path, *, create: bool = True) -> None:
        self._database = Database(target, create=create)
        self._kinds: dict[int, dict[str, tuple[str, str]]] = {}
        self._announced: set[tuple[int, str, int]] = set()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return str(self._database.place)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def add_run(
        self,
        *,
        kind: str,
        request: Mapping[str, Any],
        provenance: Mapping[str, Any],
        crystals: CrystalBatch,
        names: Sequence[str],
        reasons: Sequence[str | None] | None = None,
    ) -> int:
        """Take in crystals; the same kind, request and crystals give the run that is there already.

        Args:
            kind: what made them.
            request: what was asked for, as plain values; `model`, `seed` and `weights` are kept as columns too.
            provenance: versions and whatever else the crystals depend on; not part of what makes a run the same.
            crystals: their positions become their indices.
            names: one a crystal.
            reasons: why a crystal could not be read (it has no atoms then), else None; kept as failures.

        Returns:
            The run's id.

        Raises:
            RequestError: where there are not as many names or reasons as crystals, or no crystals.
        """
        if not len(crystals):
            raise RequestError("a run needs at least one crystal")
        for what, given in (("names", names), ("reasons", reasons)):
            if given is not None and len(given) != len(crystals):
                raise RequestError(f"{len(given)} {what} were given for {len(crystals)} crystals")
        asked = plain(request)
        row = {
            "key": _run_key(kind, asked, crystals),
            "kind": kind,
            **{name: asked.get(name) for name in ("model", "seed", "weights")},
            "request": asked,
            "provenance": plain(provenance),
            "crystals": len(crystals),
            "created": _now(),
        }
        with self._database.writing() as connection:
            insert = conflict_free(connection, tables.runs, ["key"]).values(row).returning(tables.runs.c.id)
            run = connection.execute(insert).scalar()
            if run is None:
                return connection.execute(select(tables.runs.c.id).where(tables.runs.c.key == row["key"])).scalar_one()
            for rows in _crystal_rows(run, crystals, names):
                connection.execute(tables.crystals.insert(), rows)
            unread = [(index, reason) for index, reason in enumerate(reasons or ()) if reason]
            rows = failure_rows(run, READ, [(index, "failed", reason) for index, reason in unread], _now())
            if rows:
                connection.execute(tables.failures.insert(), rows)
        return run

    def add_stage(
        self,
        run: int,
        *,
        stage: str,
        version: int,
        config: Any = None,
        columns: Mapping[str, Column] | None = None,
    ) -> None:
        """Announce a stage, which `record` does too but without config, units and meanings.

        Stages keep the order in which they were first announced. An earlier config and version are replaced; results that
        were found with them stay until `forget` or until they are recorded again.

        Raises:
            RequestError: on a name that is no name, a column of another stage, or an unknown run.
        """
        check_names(stage, columns or {})
        self.run(run)
        given = plain(asdict(config) if is_dataclass(config) and not isinstance(config, type) else config or {})
        with self._database.writing() as connection:
            self._place_stage(connection, run, stage, version, given)
            known = self._known_kinds(connection, run)
            for name, column in (columns or {}).items():
                owner, kind = known.get(name, (stage, "unknown"))
                check_owner(name, owner, stage)
                row = {"run_id": run, "name": name, "stage": stage, "kind": kind}
                row |= {"unit": column.unit, "meaning": column.meaning}
                upsert(connection, tables.columns, [row])
        self._kinds.pop(run, None)

    def record(self, run: int, stage: str, version: int, records: Sequence[StageRecord]) -> None:
        """Keep what a stage found out, in one transaction; what it found out of the same crystals before is replaced.

        Values that are None, NaN or infinite are not known and are left out.

        Raises:
            RequestError: on a crystal that the run has not, or a column that belongs to another stage.
        """
        if not records:
            return
        check_names(stage, {name for record in records for name in record.values})
        rows = [result_row(run, stage, version, record) for record in records]
        made = file_rows(run, stage, records)
        failed = [(row["index"], row["outcome"], row["reason"]) for row in rows if row["outcome"] in tables.FAILURES]
        try:
            with self._database.writing() as connection:
                if (run, stage, version) not in self._announced:
                    self._place_stage(connection, run, stage, version, None)
                known = self._kinds.get(run) or self._known_kinds(connection, run)
                fresh = column_rows(run, stage, [row["values"] for row in rows], known)
                for row in fresh:
                    check_owner(row["name"], known.get(row["name"], (stage, ""))[0], stage)
                if fresh:
                    upsert(connection, tables.columns, fresh)
                upsert(connection, tables.stage_results, rows)
                self._replace_files(connection, run, stage, [row["index"] for row in rows], made)
                if failed:
                    upsert(connection, tables.failures, failure_rows(run, stage, failed, _now()))
        except OutputError as error:
            if isinstance(error.__cause__, exc.IntegrityError):
                raise RequestError(f"run {run} of '{self}' has not all of the crystals that were recorded") from None
            raise
        self._announced.add((run, stage, version))
        self._kinds[run] = {**known, **{row["name"]: (stage, row["kind"]) for row in fresh}}

    def forget(self, run: int, stage: str) -> None:
        """Remove what a stage and all later ones found out, since another config or version would find something else."""
        position = next((s.position for s in self.stages(run) if s.stage == stage), None)
        if position is None:
            return
        with self._database.writing() as connection:
            later = select(tables.stages.c.stage).where(
                tables.stages.c.run_id == run, tables.stages.c.position >= position
            )
            for table in (tables.stage_results, tables.files, tables.columns, tables.failures, tables.stages):
                chosen = list(connection.execute(later).scalars())
                connection.execute(table.delete().where(table.c.run_id == run, table.c.stage.in_(chosen)))
        self._announced.clear()
        self._kinds.pop(run, None)

    def crystals(self, run: int, indices: Sequence[int] | None = None, stage: str | None = None) -> CrystalBatch:
        """Crystals of a run, float64.

        Args:
            run: its id.
            indices: which, in this order; all by default.
            stage: as this stage left them, or ORIGINAL; the newest form by default.

        Raises:
            RequestError: on a run, crystal or stage that is not there.
        """
        packed: dict[int, bytes] = {}
        with self._database.reading() as connection:
            for rows in self._parts(connection, tables.crystals, run, indices, tables.crystals.c.packed):
                packed.update((row.index, row.packed) for row in rows)
            results = tables.stage_results
            for name in self._stages_until(connection, run, stage):
                changed = and_(results.c.stage == name, results.c.changed)
                for rows in self._parts(connection, results, run, indices, results.c.packed, where=changed):
                    packed.update((row.index, row.packed) for row in rows)
        _check_indices(run, packed, indices)
        return tables.unpack([packed[i] for i in (sorted(packed) if indices is None else indices)])

    def unfinished(self, run: int, stage: str, version: int | None = None) -> list[int]:
        """Indices of the crystals without a result of a stage (of this version, if given), in order.

        Crystals that could not be read are not among them: no stage can do anything for them.
        """
        self.run(run)
        results = tables.stage_results
        found = select(results.c.index).where(results.c.run_id == run, results.c.stage == stage)
        if version is not None:
            found = found.where(results.c.version == version)
        wanted = select(tables.crystals.c.index).where(tables.crystals.c.run_id == run, tables.crystals.c.num_atoms > 0)
        with self._database.reading() as connection:
            done = set(connection.execute(found).scalars())
            return [i for i in connection.execute(wanted.order_by(tables.crystals.c.index)).scalars() if i not in done]

    def outcomes(self, run: int, stage: str, indices: Sequence[int] | None = None) -> dict[int, str]:
        """Outcome of a stage by crystal; those that it has no result of are missing."""
        results = tables.stage_results
        with self._database.reading() as connection:
            of_stage = results.c.stage == stage
            parts = self._parts(connection, results, run, indices, results.c.outcome, where=of_stage)
            return {row.index: row.outcome for rows in parts for row in rows}

    def values(self, run: int, indices: Sequence[int] | None = None) -> list[dict[str, Value]]:
        """Values of all stages together, one mapping a crystal, in the order of `indices` (all by default)."""
        results = tables.stage_results
        found: dict[int, dict[str, Value]] = {}
        with self._database.reading() as connection:
            for rows in self._parts(connection, tables.crystals, run, indices):
                found.update((row.index, {}) for row in rows)
            # Stage by stage, which the key answers for some crystals without reading those of the whole run.
            for name in self._stages_until(connection, run, None):
                of_stage = results.c.stage == name
                for rows in self._parts(connection, results, run, indices, results.c["values"], where=of_stage):
                    for index, given in rows:
                        found[index].update(given)
        _check_indices(run, found, indices)
        return [found[i] for i in (sorted(found) if indices is None else indices)]

    def files(self, run: int, indices: Sequence[int] | None = None) -> Iterator[tuple[int, str, str, bytes]]:
        """(index, stage, name, content) of the files that stages made of crystals (all by default)."""
        table = tables.files
        with self._database.reading() as connection:
            for rows in self._parts(connection, table, run, indices, table.c.stage, table.c.name, table.c.content):
                for row in rows:
                    yield tuple(row)

    def failures(self, run: int) -> list[tuple[int, str, str, str]]:
        """(index, stage, outcome, reason) of all that went wrong, also where a later attempt succeeded.

        Crystals that could not be read failed at the stage 'read'.
        """
        table = tables.failures
        chosen = select(table.c.index, table.c.stage, table.c.outcome, table.c.reason).where(table.c.run_id == run)
        with self._database.reading() as connection:
            return [tuple(row) for row in connection.execute(chosen.order_by(table.c.index, table.c.stage))]

    def runs(self) -> list[Run]:
        """All runs by id."""
        with self._database.reading() as connection:
            rows = connection.execute(select(tables.runs).order_by(tables.runs.c.id)).mappings()
            return [Run(**row) for row in rows]

    def run(self, run: int) -> Run:
        """One run. Raises RequestError where there is none of this id."""
        with self._database.reading() as connection:
            row = connection.execute(select(tables.runs).where(tables.runs.c.id == run)).mappings().first()
            if row is None:
                known = list(connection.execute(select(tables.runs.c.id).order_by(tables.runs.c.id)).scalars())
                shown = ", ".join(map(str, known[:20])) + (", ..." if len(known) > 20 else "")
                raise RequestError(f"'{self}' has no run {run}; it has: {shown or 'none'}")
            return Run(**row)

    def stages(self, run: int) -> list[StageProgress]:
        """How far a run is, by stage in order."""
        table, results = tables.stages, tables.stage_results
        counts = select(results.c.stage, results.c.outcome, func.count(), func.sum(results.c.seconds))
        counts = counts.where(results.c.run_id == run).group_by(results.c.stage, results.c.outcome)
        with self._database.reading() as connection:
            rows = connection.execute(select(table).where(table.c.run_id == run).order_by(table.c.position)).all()
            counted = connection.execute(counts.order_by(results.c.outcome)).all()
        return [
            StageProgress(
                stage=row.stage,
                position=row.position,
                version=row.version,
                config=row.config,
                outcomes={outcome: number for stage, outcome, number, _ in counted if stage == row.stage},
                seconds=float(sum(seconds for stage, _, _, seconds in counted if stage == row.stage)),
            )
            for row in rows
        ]

    def columns(self, run: int | None = None) -> dict[str, tuple[str, str, str]]:
        """(kind, unit, meaning) of every column that `table` can give, by name."""
        with self._database.reading() as connection:
            return {c.name: (c.kind, c.unit, c.meaning) for c in query_columns(connection, run).values()}

    def table(
        self,
        run: int | None = None,
        where: str | None = None,
        sort: str | None = None,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> pa.Table:
        """Crystals as rows, with what all stages found out about them as columns.

        Args:
            run: its id; all runs by default.
            where: a filter, see `catalog.where`.
            sort: names of columns with commas between; a minus in front sorts from the largest down. What is not known
                comes last; crystals that tie stand by run and index.
            columns: their names, in order; all by default.
            limit: rows at most.

        Raises:
            RequestError: on a filter that cannot be read, or a column or run that is not there.
        """
        import pyarrow as pa

        batches = list(self.batches(run, where=where, sort=sort, columns=columns, limit=limit))
        return pa.Table.from_batches(batches)

    def batches(
        self,
        run: int | None = None,
        *,
        where: str | None = None,
        sort: str | None = None,
        columns: Sequence[str] | None = None,
        limit: int | None = None,
        rows: int = ROWS_AT_ONCE,
    ) -> Iterator[pa.RecordBatch]:
        """The same rows as `table` in pieces of at most `rows`, all of one state of the catalogue; one piece at least."""
        if run is not None:
            self.run(run)
        with self._database.reading() as connection:
            yield from query_batches(connection, run, where=where, sort=sort, columns=columns, limit=limit, rows=rows)

    def _replace_files(
        self, connection: Connection, run: int, stage: str, indices: Sequence[int], rows: Sequence[dict[str, Any]]
    ) -> None:
        """Keep the files of crystals in place of those that the stage had made of them before."""
        table = tables.files
        of_stage = and_(table.c.run_id == run, table.c.stage == stage)
        for start in range(0, len(indices), INDICES_AT_ONCE):
            part = list(indices[start : start + INDICES_AT_ONCE])
            connection.execute(table.delete().where(of_stage, table.c.index.in_(part)))
        if rows:
            connection.execute(table.insert(), list(rows))

    def _place_stage(
        self, connection: Connection, run: int, stage: str, version: int, config: dict[str, Any] | None
    ) -> None:
        """Keep a stage's place in the order of stages; a config of None leaves the one that is there."""
        table = tables.stages
        places = dict(connection.execute(select(table.c.stage, table.c.position).where(table.c.run_id == run)).all())
        place = places.get(stage, max(places.values(), default=-1) + 1)
        row = {"run_id": run, "stage": stage, "position": place, "version": version, "config": config or {}}
        kept = ("config",) if config is None else ()
        upsert(connection, table, [row], keep=("position", *kept))

    def _known_kinds(self, connection: Connection, run: int) -> dict[str, tuple[str, str]]:
        table = tables.columns
        rows = connection.execute(select(table.c.name, table.c.stage, table.c.kind).where(table.c.run_id == run))
        return {name: (stage, kind) for name, stage, kind in rows}

    def _stages_until(self, connection: Connection, run: int, stage: str | None) -> list[str]:
        if stage == ORIGINAL:
            return []
        chosen = select(tables.stages.c.stage).where(tables.stages.c.run_id == run).order_by(tables.stages.c.position)
        names = list(connection.execute(chosen).scalars())
        if stage is None:
            return names
        if stage not in names:
            raise RequestError(
                f"run {run} has not been through a stage '{stage}'; it has: {', '.join(names) or 'none'}"
            )
        return names[: names.index(stage) + 1]

    def _parts(
        self,
        connection: Connection,
        table: Any,
        run: int,
        indices: Sequence[int] | None,
        *more: ColumnElement,
        where: ColumnElement | None = None,
    ) -> Iterator[Any]:
        """Rows (index, *more) of one run, in parts that a statement can name."""
        chosen = select(table.c.index, *more).where(table.c.run_id == run)
        if where is not None:
            chosen = chosen.where(where)
        if indices is None:
            yield connection.execute(chosen)
            return
        for start in range(0, len(indices), INDICES_AT_ONCE):
            part = [int(i) for i in indices[start : start + INDICES_AT_ONCE]]
            yield connection.execute(chosen.where(table.c.index.in_(part)))


def _run_key(kind: str, request: Mapping[str, Any], crystals: CrystalBatch) -> str:
    digest = hashlib.sha256(json.dumps([kind, request], sort_keys=True).encode())
    for start in range(0, len(crystals), ROWS_AT_ONCE):
        for one in tables.pack(crystals[start : start + ROWS_AT_ONCE]):
            digest.update(tables.content_hash(one).encode())
    return digest.hexdigest()


def _crystal_rows(run: int, crystals: CrystalBatch, names: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(crystals), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        rows = tables.crystal_rows(crystals[part], [plain_text(name) for name in names[part]])
        yield [{**row, "run_id": run, "index": start + row["index"]} for row in rows]


def _check_indices(run: int, found: Mapping[int, Any], indices: Sequence[int] | None) -> None:
    if missing := [i for i in indices or () if i not in found]:
        raise RequestError(f"run {run} has no crystal {missing[0]}")
    if indices is None and not found:
        raise RequestError(f"there is no run {run}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
