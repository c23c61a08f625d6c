"""The first stage: crystals that are none, and those that are another of the same run again, cost no relaxation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from euhedral.errors import ConfigError
from euhedral.evaluate.uniqueness import DuplicateRecord, find_duplicates
from euhedral.evaluate.validity import CompositionRule, assess
from euhedral.screen.stage import PASSED, REJECTED, Column, Stage, StageRecord, Value

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch


@dataclass(frozen=True, kw_only=True)
class PrefilterConfig:
    """What keeps a crystal from being relaxed.

    Attributes:
        composition_rule: 'cdvae' or 'smact', see `evaluate.validity`; its verdict is a column.
        require_neutral: reject what the rule rejects. Off by default: both rules reject known compounds too.
        reject_duplicates: reject crystals that match an earlier one of the run.
        seconds_per_pair: a pair that takes longer to compare counts as different.

    Raises:
        ConfigError: on a time limit that is not positive.
    """

    composition_rule: CompositionRule = "cdvae"
    require_neutral: bool = False
    reject_duplicates: bool = True
    seconds_per_pair: float = 60.0

    def __post_init__(self) -> None:
        if not self.seconds_per_pair > 0:
            raise ConfigError(f"seconds_per_pair must be above 0, not {self.seconds_per_pair}")


class PrefilterStage(Stage):
    """Validity of structure and composition, and duplicates of the crystals as they came."""

    name = "prefilter"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {
        "structure_valid": Column(meaning="no two atoms within 0.5 Å, and a volume above 0.1 Å³"),
        "composition_valid": Column(meaning="some oxidation states are neutral and pass the Pauling test"),
        "duplicate_of": Column(meaning="index of the first crystal of the run that it equals as generated"),
    }
    together = True
    config: PrefilterConfig

    def run(self, crystals: CrystalBatch, earlier: Sequence[Mapping[str, Value]], *, workers: int) -> list[StageRecord]:
        """See `Stage`. A pair that could not be compared leaves its crystal in, with a reason."""
        started = time.perf_counter()
        config = self.config
        validity = assess(crystals, config.composition_rule)
        twins: dict[int, DuplicateRecord] = {}
        if config.reject_duplicates:
            sound = [i for i, record in enumerate(validity) if record.structure_problem is None]
            found = find_duplicates(crystals[sound], workers=max(1, workers), seconds_per_pair=config.seconds_per_pair)
            twins = {sound[record.index]: record for record in found}
            place = {k: earlier[i].get("index", i) for k, i in enumerate(sound)}
        else:
            place = {}
        seconds = (time.perf_counter() - started) / max(1, len(crystals))
        records = []
        for i, record in enumerate(validity):
            twin = twins.get(i)
            first = None if twin is None or twin.duplicate_of is None else place[twin.duplicate_of]
            reason = record.structure_problem
            if reason is None and config.require_neutral:
                reason = record.composition_problem
            if reason is None and first is not None:
                reason = f"the same as crystal {first}"
            outcome = PASSED if reason is None else REJECTED
            records.append(
                StageRecord(
                    index=i,
                    outcome=outcome,
                    values={
                        "structure_valid": record.structure_problem is None,
                        "composition_valid": record.composition_problem is None,
                        "duplicate_of": first,
                    },
                    reason=reason if reason is not None or twin is None else twin.reason,
                    seconds=seconds,
                )
            )
        return records
