"""What the stages that measure a property share: the potential, limits of time, processes, and how a failure is told."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from euhedral.data.worker import Unanswered, Worker
from euhedral.data.workers import Crew
from euhedral.errors import ConfigError, CrystalError, EuhedralError
from euhedral.screen.ase_potential import make_potential
from euhedral.screen.relax_stage import check_available, check_calculator, potential_of
from euhedral.screen.settle import SettleConfig
from euhedral.screen.stage import FAILED, NOTHING, PASSED, REJECTED, TIME_LIMIT, Stage, StageRecord, Value

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential


@dataclass(frozen=True, kw_only=True)
class PropertyStageConfig:
    """What every property is computed with.

    Attributes:
        calculator: as of the stage of relaxation; that of the run's relaxation where not given, CHGNet where it had none.
        force_limit: the crystal is relaxed further until no force is above it, eV/Å: derivatives are taken about a minimum.
        max_steps: of that relaxation.
        max_seconds: wall time of a crystal; only where it is given to a process of its own, as `euhedral screen` does.
        symprec: Å, tolerance of the symmetry that the relaxed crystal is moved onto.

    Raises:
        ConfigError: on a value out of range, or a calculator that is none.
    """

    calculator: str | None = None
    force_limit: float = 0.002
    max_steps: int = 500
    max_seconds: float = 1800.0
    symprec: float = 0.01

    def __post_init__(self) -> None:
        if self.calculator is not None:
            check_calculator(self.calculator)
        if not self.max_seconds > 0:
            raise ConfigError(f"max_seconds must be above 0, not {self.max_seconds}")
        self.settling()

    def settling(self) -> SettleConfig:
        """How the crystal is relaxed before."""
        return SettleConfig(
            force_limit=self.force_limit,
            max_steps=self.max_steps,
            max_seconds=self.max_seconds,
            symprec=self.symprec,
        )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was measured of one crystal.

    Attributes:
        values: by name of the stage's columns.
        files: as of `StageRecord`.
        verdict: why the crystal is rejected, or None.
    """

    values: Mapping[str, Value]
    files: Mapping[str, bytes] = field(default_factory=dict)
    verdict: str | None = None


class PropertyStage(Stage):
    """A property of each crystal by a potential, one crystal after the other in each process.

    A crystal whose property cannot be had goes on: that is no verdict on it. One that the property condemns does not,
    unless the config says so.

    Attributes:
        needs_potential: whether `measure` is given one; without, no calculator is loaded.
    """

    stops = frozenset({REJECTED})
    needs_potential: ClassVar[bool] = True
    config: PropertyStageConfig

    def check(self, foretold: Mapping[str, Value] = NOTHING) -> None:
        """See `Stage`. The calculator's package is looked for, where it is known which it will be."""
        calculator = self.config.calculator or foretold.get("calculator")
        if self.needs_potential and calculator is not None:
            check_available(str(calculator))

    @abstractmethod
    def measure(self, crystal: CrystalBatch, potential: Potential | None) -> Finding:
        """Measure one crystal, float64.

        Raises:
            CrystalError: why it cannot be had.
            EuhedralError: what concerns all crystals, such as a package that is missing.
        """

    def run(
        self, crystals: CrystalBatch, earlier: Sequence[Mapping[str, Value]], *, workers: int
    ) -> Iterator[StageRecord]:
        """See `Stage`. With workers, a crystal that hangs or takes its process with it costs itself only."""
        names = [self._calculator(values) for values in earlier]
        requests = [(crystals[i], name) for i, name in enumerate(names)]
        work = partial(_measured, kind=type(self), config=self.config)
        if workers == 0:
            for i, request in enumerate(requests):
                yield _record(i, work(request))
            return
        if not requests:
            return
        prepare = partial(_load, names[0]) if self.needs_potential else None
        jobs = [partial(self._ask, request=request) for request in requests]
        with Crew(partial(Worker, work, prepare=prepare), min(workers, len(jobs))) as crew:
            for i, answer in crew.run(jobs):
                yield _record(i, answer)

    def _calculator(self, values: Mapping[str, Value]) -> str:
        return self.config.calculator or str(values.get("calculator") or "chgnet")

    def _ask(self, worker: Worker, *, request: tuple[CrystalBatch, str]) -> _Answer:
        started = time.perf_counter()
        try:
            return worker.ask(request, self.config.max_seconds)
        except Unanswered as lost:
            if lost.error is not None:
                raise lost.error from None
            outcome = TIME_LIMIT if lost.late else FAILED
            return _Answer(outcome=outcome, reason=str(lost), seconds=time.perf_counter() - started)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """A record without its index, as it comes from a process."""

    outcome: str
    seconds: float
    reason: str | None = None
    values: Mapping[str, Value] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def _record(index: int, answer: _Answer) -> StageRecord:
    return StageRecord(
        index=index,
        outcome=answer.outcome,
        values=answer.values,
        reason=answer.reason,
        files=answer.files,
        seconds=answer.seconds,
    )


def _measured(request: tuple[CrystalBatch, str], *, kind: type[PropertyStage], config: Any) -> _Answer:
    crystal, calculator = request
    started = time.perf_counter()
    try:
        potential = _loaded(calculator) if kind.needs_potential else None
        found = kind(config).measure(crystal.to(torch.float64), potential)
    except (CrystalError, FloatingPointError, ArithmeticError) as error:
        return _Answer(outcome=FAILED, reason=str(error), seconds=time.perf_counter() - started)
    except (EuhedralError, MemoryError):
        raise
    # Calculators and phonopy raise whatever they do about a crystal that they cannot deal with.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        return _Answer(outcome=FAILED, reason=reason, seconds=time.perf_counter() - started)
    return _Answer(
        outcome=PASSED if found.verdict is None else REJECTED,
        reason=found.verdict,
        values=found.values,
        files=found.files,
        seconds=time.perf_counter() - started,
    )


@lru_cache(maxsize=1)
def _loaded(calculator: str) -> Potential:
    """The potential of this process."""
    return make_potential(potential_of(calculator))


def _load(calculator: str) -> None:
    """Have it ready; an error comes again with the first request, which can tell it."""
    with suppress(EuhedralError):
        _loaded(calculator)
