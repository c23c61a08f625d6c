"""The stage of discovery: crystals after relaxation, each against the others of the run and against those that are known.

S.U.N. counts crystals that are stable (at most 0 eV/atom above the hull), unique and novel; M.S.U.N. those at most 0.1 eV/atom
above it (see `evaluate.discovery`). Both are shares of all crystals of the run, whatever stage the others ended at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from euhedral.errors import ConfigError
from euhedral.evaluate.discovery import METASTABLE_AT, STABLE_AT
from euhedral.evaluate.novelty import NoveltyRecord, NoveltyRule, ReferenceIndex
from euhedral.evaluate.uniqueness import DuplicateRecord, find_duplicates
from euhedral.screen.stage import FAILED, NOTHING, PASSED, REJECTED, Column, Stage, StageRecord, Value

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

PROTOCOL = "euhedral-funnel 1"
"""Names how S.U.N. and M.S.U.N. are counted here; a new number where the same crystals could count otherwise."""


@dataclass(frozen=True, kw_only=True)
class NoveltyConfig:
    """What counts as known.

    Attributes:
        known: crystals in any form that `euhedral evaluate` reads, or an index (.npz) of `ReferenceIndex.save`. Nothing is
            shipped: without it crystals are compared with each other only, and `novel` stays unknown.
        rule: 'ordered', or 'disordered' to count a crystal with exchanged elements as known too.
        seconds_per_pair: a pair that takes longer is undecided.
        stable_at: threshold of S.U.N. in eV/atom.
        metastable_at: threshold of M.S.U.N. in eV/atom.

    Raises:
        ConfigError: on thresholds out of order or a time limit that is not positive.
    """

    known: str | None = None
    rule: NoveltyRule = "ordered"
    seconds_per_pair: float = 60.0
    stable_at: float = STABLE_AT
    metastable_at: float = METASTABLE_AT

    def __post_init__(self) -> None:
        if not self.stable_at <= self.metastable_at:
            raise ConfigError(f"stable_at ({self.stable_at}) must not be above metastable_at ({self.metastable_at})")
        if not self.seconds_per_pair > 0:
            raise ConfigError(f"seconds_per_pair must be above 0, not {self.seconds_per_pair}")


class NoveltyStage(Stage):
    """Unique, novel, S.U.N. and M.S.U.N."""

    name = "novelty"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {
        "unique": Column(meaning="no earlier crystal of the run relaxed to the same"),
        "same_as": Column(meaning="index of the first crystal of the run that it equals after relaxation"),
        "novel": Column(meaning="no crystal that counts as known matches"),
        "known_as": Column(meaning="id of the first known crystal that matches"),
        "sun": Column(meaning="stable, unique and novel"),
        "msun": Column(meaning="metastable, unique and novel"),
    }
    together = True
    config: NoveltyConfig

    @cached_property
    def index(self) -> ReferenceIndex | None:
        """What counts as known, or None. Raises DataError where it cannot be read."""
        from euhedral.data.samples import read_samples

        if self.config.known is None:
            return None
        path = Path(self.config.known)
        if path.suffix == ".npz":
            return ReferenceIndex.open(path)
        samples = read_samples(path)
        return ReferenceIndex.build(samples.crystals, samples.ids)

    def check(self, foretold: Mapping[str, Value] = NOTHING) -> None:
        """See `Stage`. What counts as known is read."""
        _ = self.index

    def run(self, crystals: CrystalBatch, earlier: Sequence[Mapping[str, Value]], *, workers: int) -> list[StageRecord]:
        """See `Stage`. A pair that could not be compared never makes a crystal unique or novel: it fails here."""
        started = time.perf_counter()
        limits = {"workers": max(1, workers), "seconds_per_pair": self.config.seconds_per_pair}
        twins = find_duplicates(crystals, **limits)
        index = self.index
        known = [None] * len(crystals) if index is None else index.find(crystals, rule=self.config.rule, **limits)
        seconds = (time.perf_counter() - started) / max(1, len(crystals))
        places = [values.get("index", i) for i, values in enumerate(earlier)]
        return [
            self._record(i, twin, places, match, earlier[i].get("e_above_hull"), seconds)
            for i, (twin, match) in enumerate(zip(twins, known, strict=True))
        ]

    def _record(
        self,
        i: int,
        twin: DuplicateRecord,
        places: Sequence[Value],
        match: NoveltyRecord | None,
        above: Value,
        seconds: float,
    ) -> StageRecord:
        first = None if twin.duplicate_of is None else places[twin.duplicate_of]
        unique = None if twin.reason is not None else twin.unique
        novel = None if match is None or match.reason is not None else match.novel
        reference = None if match is None else match.reference
        undecided = twin.reason or (None if match is None else match.reason)
        if first is not None:
            outcome, reason = REJECTED, f"the same as crystal {first} after relaxation"
        elif reference is not None:
            outcome, reason = REJECTED, f"known as {reference}"
        else:
            outcome, reason = (PASSED, None) if undecided is None else (FAILED, undecided)
        return StageRecord(
            index=i,
            outcome=outcome,
            values={
                "unique": unique,
                "same_as": first,
                "novel": novel,
                "known_as": reference,
                "sun": _discovery(above, self.config.stable_at, unique, novel),
                "msun": _discovery(above, self.config.metastable_at, unique, novel),
            },
            reason=reason,
            seconds=seconds,
        )


def _discovery(above: Value, limit: float, unique: bool | None, novel: bool | None) -> bool | None:
    """Whether all three hold; False as soon as one is known not to, None while that is open."""
    stable = above <= limit if isinstance(above, int | float) else None
    parts = (stable, unique, novel)
    if False in parts:
        return False
    return None if None in parts else True
