"""The catalogue's crystals as one table: which columns there are, and the statement that filters, sorts and reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, and_, cast, func, select

from euhedral.catalog.tables import columns, crystals, stage_results, stages
from euhedral.catalog.where import FilterColumn, named_columns, unknown_column, where_clause
from euhedral.errors import RequestError

if TYPE_CHECKING:
    import pyarrow as pa

_BASE = {
    "run": (crystals.c.run_id, "integer", "", "run in the catalogue"),
    "index": (crystals.c.index, "integer", "", "position in the run"),
    "name": (crystals.c.name, "text", "", "name that the crystal came with"),
    "formula": (crystals.c.formula, "text", "", "reduced formula"),
    "chemical_system": (crystals.c.chemical_system, "text", "", "elements by alphabet, with hyphens"),
    "num_elements": (crystals.c.num_elements, "integer", "", "different elements"),
    "num_atoms": (crystals.c.num_atoms, "integer", "", "atoms in the cell; 0 where the crystal could not be read"),
    "volume": (crystals.c.volume, "number", "Å³", "volume of the cell as it was given"),
    "density": (crystals.c.density, "number", "g/cm³", "density as it was given"),
    "hash": (crystals.c.hash, "text", "", "digest of the crystal as it was given"),
}
RESERVED = tuple(_BASE)
"""Columns that every crystal has."""
_OF_STAGE = {
    "outcome": ("text", "", "outcome of the stage {}"),
    "reason": ("text", "", "reason of that outcome"),
    "seconds": ("number", "s", "wall time of the stage {}"),
}


@dataclass(frozen=True, kw_only=True)
class QueryColumn:
    """A column of the table.

    Attributes:
        name: as users write it.
        kind: 'number', 'integer', 'text', 'bool' or 'unknown' (nobody has given it a value yet).
        unit: empty where there is none.
        meaning: for people.
        stages: whose results hold it; several where runs have it from different stages.
        key: name in a stage's values; empty for its outcome, reason and seconds.
    """

    name: str
    kind: str
    unit: str = ""
    meaning: str = ""
    stages: tuple[str, ...] = ()
    key: str = ""


@dataclass
class _Statement:
    """The stages that were joined so far, by name."""

    joined: dict[str, Any] = field(default_factory=dict)

    def element(self, column: QueryColumn) -> ColumnElement:
        if not column.stages:
            return _BASE[column.name][0]
        parts = [self._of_stage(stage, column) for stage in column.stages]
        return parts[0] if len(parts) == 1 else func.coalesce(*parts)

    def results(self, stage: str) -> Any:
        if stage not in self.joined:
            self.joined[stage] = stage_results.alias(f"stage_{len(self.joined)}")
        return self.joined[stage]

    def _of_stage(self, stage: str, column: QueryColumn) -> ColumnElement:
        results = self.results(stage)
        if not column.key:
            return results.c[column.name.removeprefix(f"{_identifier(stage)}_")]
        value = results.c["values"][column.key]
        if column.kind == "text":
            return value.as_string()
        if column.kind == "bool":
            return value.as_boolean()
        if column.kind == "integer":
            return cast(value.as_string(), BigInteger)  # as_integer would have 32 bits on a server
        return value.as_float()

    def join(self, statement: Select) -> Select:
        source: Any = crystals
        for stage, results in self.joined.items():
            same = and_(
                results.c.run_id == crystals.c.run_id, results.c.index == crystals.c.index, results.c.stage == stage
            )
            source = source.outerjoin(results, same)
        return statement.select_from(source)


def stage_columns(stage: str, names: Iterable[str]) -> list[str]:
    """The columns that a stage with these values has in the table."""
    return [*names, *(f"{_identifier(stage)}_{what}" for what in _OF_STAGE)]


def query_columns(connection: Connection, run: int | None) -> dict[str, QueryColumn]:
    """Every column of a run, or of all runs, by name: those of all crystals, then stage by stage."""
    found = {
        name: QueryColumn(name=name, kind=kind, unit=unit, meaning=meaning)
        for name, (_, kind, unit, meaning) in _BASE.items()
    }
    chosen = select(stages.c.stage, func.min(stages.c.position)).group_by(stages.c.stage)
    valued = select(columns).order_by(columns.c.run_id, columns.c.name)
    if run is not None:
        chosen, valued = chosen.where(stages.c.run_id == run), valued.where(columns.c.run_id == run)
    values = connection.execute(valued).all()
    for stage, _ in sorted(connection.execute(chosen).all(), key=lambda row: (row[1], row[0])):
        for row in values:
            if row.stage == stage:
                found[row.name] = _merged(found.get(row.name), row)
        for name, (kind, unit, meaning) in zip(stage_columns(stage, ()), _OF_STAGE.values(), strict=True):
            if name not in found:
                found[name] = QueryColumn(
                    name=name, kind=kind, unit=unit, meaning=meaning.format(stage), stages=(stage,)
                )
    return found


def query_batches(
    connection: Connection,
    run: int | None,
    *,
    where: str | None,
    sort: str | None,
    columns: Sequence[str] | None,
    limit: int | None,
    rows: int,
) -> Iterator[pa.RecordBatch]:
    """The rows of `Catalogue.batches`."""
    import pyarrow as pa

    known = query_columns(connection, run)
    chosen = [_known(known, name) for name in (columns if columns is not None else known)]
    if limit is not None and limit < 0:
        raise RequestError(f"at most {limit} rows cannot be given; limit must be 0 or more")
    statement = _statement(known, chosen, run, where, sort, limit)
    schema = pa.schema([pa.field(c.name, _arrow(c.kind), metadata=_described(c)) for c in chosen])
    result = connection.execution_options(yield_per=rows).execute(statement)
    empty = True
    for part in result.partitions(rows):
        empty = False
        yield _record_batch([tuple(row) for row in part], chosen, schema)
    if empty:
        yield _record_batch([], chosen, schema)


def _statement(
    known: Mapping[str, QueryColumn],
    chosen: Sequence[QueryColumn],
    run: int | None,
    where: str | None,
    sort: str | None,
    limit: int | None,
) -> Select:
    parts = _Statement()
    statement = select(*(parts.element(column).label(f"c{i}") for i, column in enumerate(chosen)))
    if not chosen:
        raise RequestError("a table needs at least one column")
    if run is not None:
        statement = statement.where(crystals.c.run_id == run)
    if where is not None:
        named = named_columns(where)
        if unknown := next((name for name in named if name not in known), None):
            raise unknown_column(unknown, list(known), in_filter=True)
        usable = {name: FilterColumn(kind=known[name].kind, element=parts.element(known[name])) for name in named}
        statement = statement.where(where_clause(where, usable))
    for name, falling in sorting(sort):
        element = parts.element(_known(known, name))
        statement = statement.order_by((element.desc() if falling else element.asc()).nulls_last())
    statement = statement.order_by(crystals.c.run_id, crystals.c.index)
    return parts.join(statement if limit is None else statement.limit(limit))


def _record_batch(rows: Sequence[tuple], chosen: Sequence[QueryColumn], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    given = list(zip(*rows, strict=True)) if rows else [() for _ in chosen]
    arrays = []
    for values, column, field_ in zip(given, chosen, schema, strict=True):
        if column.kind == "bool":
            values = [None if value is None else bool(value) for value in values]
        elif column.kind == "text":  # numbers where some crystals have a text and others a number
            values = [None if value is None else str(value) for value in values]
        arrays.append(pa.array(values, type=field_.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def sorting(sort: str | None) -> list[tuple[str, bool]]:
    """Columns of `--sort`, each with whether it falls. Raises RequestError where a name is missing."""
    names = [part.strip() for part in (sort or "").split(",")] if sort else []
    if any(not name.lstrip("-") for name in names):
        raise RequestError(f"--sort takes columns with commas between, such as e_above_hull,-density, not {sort!r}")
    return [(name.removeprefix("-").strip(), name.startswith("-")) for name in names]


def _known(known: Mapping[str, QueryColumn], name: str) -> QueryColumn:
    if name not in known:
        raise unknown_column(name, list(known))
    return known[name]


def _merged(before: QueryColumn | None, row: Any) -> QueryColumn:
    """One column where several runs have it, be it from different stages or of different kinds."""
    kind, holders = row.kind, (row.stage,)
    if before is not None:
        holders = tuple(dict.fromkeys((*before.stages, row.stage)))
        kinds = {before.kind, row.kind} - {"unknown"}
        kind = (
            next(iter(kinds), "unknown") if len(kinds) < 2 else "number" if kinds == {"integer", "number"} else "text"
        )
    unit, meaning = row.unit or (before.unit if before else ""), row.meaning or (before.meaning if before else "")
    return QueryColumn(name=row.name, kind=kind, unit=unit, meaning=meaning, stages=holders, key=row.name)


def _identifier(stage: str) -> str:
    return stage.replace("-", "_")


def _described(column: QueryColumn) -> dict[str, str]:
    return {key: text for key, text in (("unit", column.unit), ("meaning", column.meaning)) if text}


def _arrow(kind: str) -> Any:
    import pyarrow as pa

    return {"integer": pa.int64(), "text": pa.string(), "bool": pa.bool_()}.get(kind, pa.float64())
