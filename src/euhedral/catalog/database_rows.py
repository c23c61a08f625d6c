"""Rows of the catalogue's tables from what stages found out, and how they replace what was there."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table

from euhedral.catalog.database_table import RESERVED
from euhedral.catalog.tables import pack
from euhedral.errors import RequestError

if TYPE_CHECKING:
    from euhedral.screen.stage import StageRecord, Value

ORIGINAL = "original"
"""Stands for a stage where crystals are wanted as they were given."""
READ = "read"
"""Stands for a stage in the failures of crystals that could not be read."""
LARGEST_WHOLE = 2**63
"""Databases keep smaller whole numbers with all their digits."""
_STAGE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_FILE_NAME = re.compile(r"[a-z][a-z0-9_-]{0,99}(\.[a-z0-9]{1,9}){1,2}")
_COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]{0,127}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A set of crystals and where they came from.

    Attributes:
        id: its number in this catalogue.
        key: digest of kind, request and crystals: the same in every catalogue.
        kind: what made it, e.g. 'generate' or 'import'.
        model: name of the model, None where there was none.
        seed: of the request, None where there was none.
        weights: SHA-256 of the model's weights.
        request: what was asked for.
        provenance: versions, device, source.
        crystals: how many, those that could not be read included.
        created: UTC, ISO 8601.
    """

    id: int
    key: str
    kind: str
    model: str | None
    seed: int | None
    weights: str | None
    request: dict[str, Any]
    provenance: dict[str, Any]
    crystals: int
    created: str


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """How far a run is in a stage; fields as in the tables.

    Attributes:
        stage: its name.
        position: 0 for the first stage that the run went through.
        version: of the stage, when it was last announced or recorded.
        config: as announced; empty where it was not.
        outcomes: crystals by outcome.
        seconds: wall time over all crystals.
    """

    stage: str
    position: int
    version: int
    config: dict[str, Any]
    outcomes: dict[str, int]
    seconds: float


def plain(value: Any) -> Any:
    """A value of plain types as JSON keeps it, so that it compares equal to what is read back.

    Raises:
        RequestError: on a value that JSON does not know.
    """
    try:
        return _with_plain_texts(json.loads(json.dumps(value, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise RequestError(f"only plain values can be kept in a catalogue: {error}") from None


def _with_plain_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {plain_text(name): _with_plain_texts(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_plain_texts(item) for item in value]
    return plain_text(value) if isinstance(value, str) else value


def plain_text(text: str) -> str:
    """A text that every database keeps: without NUL and halves of characters."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def plain_values(values: Mapping[str, Value]) -> dict[str, Value]:
    """Values as bool, int, float or str; those that are not known (None, NaN, infinite) are left out.

    Raises:
        RequestError: on a value of another type.
    """
    kept: dict[str, Value] = {}
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, str):
            kept[name] = plain_text(value)
        elif isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's bool is no int
            kept[name] = bool(value)
        elif isinstance(value, Integral):
            kept[name] = int(value) if abs(value) < LARGEST_WHOLE else float(value)
        elif isinstance(value, Real):
            if math.isfinite(value):
                kept[name] = float(value)
        else:
            raise RequestError(f"column '{name}' holds a {type(value).__name__}; expected a number, text or bool")
    return kept


def result_row(run: int, stage: str, version: int, record: StageRecord) -> dict[str, Any]:
    """A row of `stage_results`."""
    if record.crystal is not None and len(record.crystal) != 1:
        raise RequestError(f"the record of crystal {record.index} holds {len(record.crystal)} crystals, not one")
    return {
        "run_id": run,
        "stage": stage,
        "index": int(record.index),
        "version": version,
        "outcome": record.outcome,
        "reason": None if record.reason is None else plain_text(record.reason),
        "values": plain_values(record.values),
        "seconds": float(record.seconds),
        "changed": record.crystal is not None,
        "packed": None if record.crystal is None else pack(record.crystal)[0],
    }


def file_rows(run: int, stage: str, records: Iterable[StageRecord]) -> list[dict[str, Any]]:
    """Rows of `files`. Raises RequestError on a name that is no plain file name."""
    rows = []
    for record in records:
        for name, content in record.files.items():
            if not _FILE_NAME.fullmatch(name):
                raise RequestError(f"{name!r} of stage '{stage}' cannot name a file: expected such as bands.svg")
            key = {"run_id": run, "stage": stage, "index": int(record.index)}
            rows.append({**key, "name": name, "content": bytes(content)})
    return rows


def failure_rows(run: int, stage: str, failed: Iterable[tuple[int, str, str | None]], at: str) -> list[dict[str, Any]]:
    """Rows of `failures` from (index, outcome, reason)."""
    return [
        {
            "run_id": run,
            "stage": stage,
            "index": index,
            "outcome": outcome,
            "reason": plain_text(reason or outcome),
            "at": at,
        }
        for index, outcome, reason in failed
    ]


def column_rows(
    run: int, stage: str, values: Sequence[Mapping[str, Value]], known: Mapping[str, tuple[str, str]]
) -> list[dict[str, Any]]:
    """Rows of `columns` for names that are new or now hold more than before; `known` is (stage, kind) by name.

    Whole numbers and others are numbers together; anything else together is text.
    """
    kinds = {name: kind for name, (_, kind) in known.items()}
    for mapping in values:
        for name, value in mapping.items():
            kinds[name] = _widened(kinds.get(name, "unknown"), value)
    changed = {name for name, kind in kinds.items() if name not in known or known[name][1] != kind}
    seen = {name for mapping in values for name in mapping}
    others = {name for name in seen if name in known and known[name][0] != stage}
    return [{"run_id": run, "name": n, "stage": stage, "kind": kinds[n]} for n in sorted(changed | others)]


def _widened(kind: str, value: Value) -> str:
    own = {bool: "bool", int: "integer", float: "number", str: "text"}[type(value)]
    if kind in ("unknown", own):
        return own
    return "number" if {kind, own} == {"integer", "number"} else "text"


def check_names(stage: str, columns: Iterable[str]) -> None:
    """Raise RequestError where a stage or one of its columns has a name that cannot be kept."""
    if not _STAGE_NAME.fullmatch(stage) or stage in (ORIGINAL, READ):
        raise RequestError(f"{stage!r} cannot name a stage: expected lower-case letters, digits, _ and -")
    for name in columns:
        if not _COLUMN_NAME.fullmatch(name) or name in RESERVED:
            raise RequestError(
                f"{name!r} of stage '{stage}' cannot name a column: expected lower-case letters, digits and _, and none of "
                f"{', '.join(RESERVED)}"
            )


def check_owner(name: str, owner: str, stage: str) -> None:
    """Raise RequestError where a column is of another stage."""
    if owner != stage:
        raise RequestError(f"column '{name}' of stage '{stage}' belongs to stage '{owner}' of the same run; rename one")


def upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]], *, keep: Sequence[str] = ()) -> None:
    """Insert rows, or replace those of the same key, but for the columns in `keep` and those not given."""
    keys = [column.name for column in table.primary_key]
    insert = _insert(connection, table)
    replaced = {name: insert.excluded[name] for name in rows[0] if name not in keys and name not in keep}
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=replaced), list(rows))


def conflict_free(connection: Connection, table: Table, keys: Sequence[str]) -> Any:
    """An insert that leaves a row alone whose keys are there already."""
    return _insert(connection, table).on_conflict_do_nothing(index_elements=list(keys))


def _insert(connection: Connection, table: Table) -> Any:
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    return insert(table)
