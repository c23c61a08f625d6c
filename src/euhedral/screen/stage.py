"""What a stage of the screening funnel is: crystals in, one record for each crystal out; it knows no database."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

Value: TypeAlias = float | int | str | bool | None
"""What a column can hold; None where it is not known. NaN and infinities are not values: say None and a reason."""

NOTHING: Mapping[str, Value] = MappingProxyType({})

PASSED = "passed"
REJECTED = "rejected"
FAILED = "failed"
TIME_LIMIT = "time limit"


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a value means.

    Attributes:
        unit: e.g. 'eV/atom'; empty where there is none.
        meaning: half a sentence for reports, without a full stop.
    """

    unit: str = ""
    meaning: str


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What a stage found out about one crystal.

    Attributes:
        index: position of the crystal among those that the stage was given; in the catalogue, its index in the run.
        outcome: 'passed', 'rejected' (a verdict on the crystal), 'failed' (no verdict was reached), 'time limit', or a
            word of the stage's own. Those in `Stage.stops` end the crystal's way through the funnel.
        values: by name of the stage's columns; those that could not be had are missing or None.
        reason: why it did not pass, or what a reader should know; None where there is nothing to say.
        crystal: one crystal, where the stage changes it (relaxed); atoms in the same order as they came.
        files: whatever is no number, whole files by name: a curve as CSV, a picture as PNG. Names are lower case, with their
            ending, and the same for every crystal of the stage.
        seconds: wall time that the stage spent on it.
    """

    index: int
    outcome: str
    values: Mapping[str, Value] = field(default_factory=dict)
    reason: str | None = None
    crystal: CrystalBatch | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0


class Stage(ABC):
    """One step of the funnel. A subclass takes its frozen config dataclass as the only argument.

    Attributes:
        name: as in the table of stages; lower case, no spaces.
        version: goes up if the same crystal and config can give other values than before.
        columns: what it may put in `values`. Names are columns of the catalogue's table: no two stages share one, and each
            is a lower-case identifier.
        stops: outcomes after which later stages do not see the crystal. A stage that measures a property and whose failure
            is no verdict on the crystal has none.
        needs: names of columns of earlier stages without which it cannot run; a funnel that lacks them is refused.
        together: whether it compares crystals with each other, so that it must see all of a run in one call.
        chunk: crystals of a call at most, where it does not see all together.
        config: the dataclass that it was made with; a value of plain types, which the catalogue keeps.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    columns: ClassVar[Mapping[str, Column]]
    stops: ClassVar[frozenset[str]] = frozenset({REJECTED, FAILED, TIME_LIMIT})
    needs: ClassVar[tuple[str, ...]] = ()
    together: ClassVar[bool] = False
    chunk: ClassVar[int] = 256

    def __init__(self, config: Any) -> None:
        self.config = config

    def portable_config(self) -> Any:
        """The config for a process that works in another folder: paths in it are to be absolute."""
        return self.config

    def foretold(self) -> Mapping[str, Value]:
        """Values that every crystal will have of this stage, whatever comes: known before it works."""
        return {}

    def check(self, foretold: Mapping[str, Value] = NOTHING) -> None:  # noqa: B027 - most stages need nothing
        """Called before any stage of a funnel works: raise EuhedralError where it could not work after the others.

        That is where a file or package that it needs is missing, or where it will refuse what earlier stages find.

        Args:
            foretold: of the stages before it, together.
        """

    @abstractmethod
    def run(
        self, crystals: CrystalBatch, earlier: Sequence[Mapping[str, Value]], *, workers: int
    ) -> Iterable[StageRecord]:
        """Find out about each crystal.

        Args:
            crystals: as the earlier stages left them, on the CPU.
            earlier: values of all earlier stages, one mapping a crystal; `index` is the crystal's index in the run.
            workers: processes to use; 0 works in this one. Verdicts do not depend on it, numbers only as far as
                rounding does.

        Returns:
            Exactly one record a crystal: a list in the order given, or an iterator that gives each record when it is ready,
            in any order. What an iterator has given is kept even if the process is killed at the next crystal.

        Raises:
            EuhedralError: only for what concerns all crystals (a package that is missing, a reference of other energies).
                Whatever one crystal causes is a record with a reason.
        """


def finite(value: float | None) -> float | None:
    """The number, or None where it is not finite: what a record may hold."""
    return float(value) if value is not None and math.isfinite(value) else None
