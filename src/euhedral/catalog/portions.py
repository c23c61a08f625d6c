"""Portions of a run's crystals that a stage is given at once, here or on another machine, and its records of them."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from euhedral.errors import EuhedralError
from euhedral.screen.stage import FAILED, Stage, StageRecord, Value

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

PlainRecord: TypeAlias = tuple[int, str, Mapping[str, Value], str | None, bytes | None, Mapping[str, bytes], float]
"""A `StageRecord` as it travels: fields in their order, the crystal packed as in the catalogue."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Portion:
    """Crystals of a run and what earlier stages found out about them.

    Attributes:
        indices: of the crystals in the run.
        crystals: as the earlier stages left them.
        earlier: one mapping a crystal, with its `index`.
    """

    indices: Sequence[int]
    crystals: CrystalBatch
    earlier: Sequence[Mapping[str, Value]]

    def __len__(self) -> int:
        return len(self.indices)

    def alone(self) -> list[Portion]:
        """A portion for each crystal."""
        return [
            Portion(indices=[index], crystals=self.crystals[k], earlier=[self.earlier[k]])
            for k, index in enumerate(self.indices)
        ]


class Source(Protocol):
    """Crystals that wait for a stage; read from the catalogue when they are taken, so that few are in memory."""

    def __len__(self) -> int:
        """Crystals that were not taken yet."""
        ...

    def take(self, count: int) -> Portion:
        """The next `count` crystals, fewer at the end."""
        ...


def records_of(stage: Stage, portion: Portion, *, workers: int) -> Iterator[StageRecord]:
    """One record for each crystal, by its index in the run, whatever the stage does.

    Raises:
        EuhedralError: what the stage raises because of all crystals.
        MemoryError: likewise.
    """
    left = dict.fromkeys(range(len(portion)))

    def taken(record: StageRecord, position: int) -> StageRecord:
        left.pop(position)
        return replace(record, index=portion.indices[position])

    try:
        for record in stage.run(portion.crystals, portion.earlier, workers=workers):
            if record.index in left:
                yield taken(record, record.index)
    except (EuhedralError, MemoryError):
        raise
    # A stage should not raise for one crystal. Where it does, each of those that are left is given to it alone, and those
    # that are compared with each other have all failed.
    except Exception as error:
        for position in list(left):
            alone = _failed(position, error) if stage.together else _alone(stage, portion, position, workers)
            yield taken(alone, position)
    for position in list(left):
        yield taken(StageRecord(index=position, outcome=FAILED, reason="the stage said nothing about it"), position)


def _alone(stage: Stage, portion: Portion, position: int, workers: int) -> StageRecord:
    try:
        return next(iter(stage.run(portion.crystals[position], [portion.earlier[position]], workers=workers)))
    except (EuhedralError, MemoryError):
        raise
    except Exception as error:
        return _failed(position, error)


def _failed(position: int, error: Exception) -> StageRecord:
    return StageRecord(index=position, outcome=FAILED, reason=f"{type(error).__name__}: {error}"[:300])


@dataclass(frozen=True, kw_only=True)
class PlainPortion:
    """A portion and its stage as they travel to another process: plain data, and a class by its name.

    Attributes:
        stage: its class.
        config: that it is made with.
        release: of the program that asks.
        indices: as in `Portion`.
        packed: each crystal as in the catalogue.
        earlier: as in `Portion`.
    """

    stage: type[Stage]
    config: Any
    release: str
    indices: Sequence[int]
    packed: Sequence[bytes]
    earlier: Sequence[Mapping[str, Value]]


def pickled(stage: Stage, portion: Portion) -> bytes:
    """A portion as it travels: bytes, so that a worker that cannot read them says so and lives on."""
    from euhedral import __version__
    from euhedral.catalog.tables import pack

    plain = PlainPortion(
        stage=type(stage),
        config=stage.portable_config(),
        release=__version__,
        indices=list(portion.indices),
        packed=pack(portion.crystals),
        earlier=[dict(values) for values in portion.earlier],
    )
    return pickle.dumps(plain)


def run_pickled(given: bytes) -> tuple[list[PlainRecord], float]:
    """Records of a portion and the seconds that they took; what a worker of a cluster does.

    Raises:
        EuhedralError: where this process has another release than the one that asks, or as the stage does.
        MemoryError: as the stage does.
    """
    from euhedral import __version__
    from euhedral.catalog.tables import pack, unpack

    started = time.perf_counter()
    plain: PlainPortion = pickle.loads(given)
    if plain.release != __version__:
        raise EuhedralError(
            f"a worker has euhedral {__version__} and this program is {plain.release}; install the same release on both"
        )
    stage = _stage(plain.stage, plain.config)
    portion = Portion(indices=plain.indices, crystals=unpack(plain.packed), earlier=plain.earlier)
    records: list[PlainRecord] = []
    for record in records_of(stage, portion, workers=0):
        crystal = None if record.crystal is None else pack(record.crystal)[0]
        records.append(
            (record.index, record.outcome, record.values, record.reason, crystal, record.files, record.seconds)
        )
    return records, time.perf_counter() - started


def from_plain(record: PlainRecord) -> StageRecord:
    """The record that travelled."""
    from euhedral.catalog.tables import unpack

    index, outcome, values, reason, packed, files, seconds = record
    return StageRecord(
        index=index,
        outcome=outcome,
        values=values,
        reason=reason,
        crystal=None if packed is None else unpack([packed]),
        files=files,
        seconds=seconds,
    )


_kept = threading.local()


def _stage(kind: type[Stage], config: Any) -> Stage:
    """The stage, made once for many portions: what it reads (a hull, weights) costs seconds. Threads share none."""
    if getattr(_kept, "made", None) != (kind, config):
        _kept.stage, _kept.made = kind(config), (kind, config)
    return _kept.stage
