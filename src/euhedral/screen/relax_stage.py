"""The stage of relaxation: each crystal in the nearest minimum of a potential, and what became of those that have none."""

from __future__ import annotations

import importlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from euhedral.crystal.symmetry import space_group
from euhedral.data.symmetry_worker import SymmetryWorker
from euhedral.errors import ConfigError, EuhedralError
from euhedral.evaluate.validity import construction_problems
from euhedral.screen.ase_potential import check_installed, make_potential, potential_names
from euhedral.screen.relax import relax
from euhedral.screen.relaxation import RelaxConfig, RelaxedCrystal
from euhedral.screen.stage import (
    FAILED,
    NOTHING,
    PASSED,
    REJECTED,
    TIME_LIMIT,
    Column,
    Stage,
    StageRecord,
    Value,
    finite,
)

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential


SYMPREC = 0.1
"""Tolerance in Å at which relaxed crystals are searched for their symmetry."""


@dataclass(frozen=True, kw_only=True)
class RelaxStageConfig:
    """By what, and how far.

    Attributes:
        calculator: a name of `potential_names`, or 'module:function' of what makes an ASE calculator or a `Potential`.
        force_limit: as the fields below in `RelaxConfig`, eV/Å.
        stress_limit_gpa: GPa.
        max_steps: steps of a crystal.
        max_seconds: wall time of a crystal.
        relax_cell: whether the cell moves too.
        optimizer: 'lbfgs' or 'fire'.

    Raises:
        ConfigError: on a value out of range, or a calculator that is neither.
    """

    calculator: str = "chgnet"
    force_limit: float = 0.1
    stress_limit_gpa: float | None = None
    max_steps: int = 500
    max_seconds: float = 600.0
    relax_cell: bool = True
    optimizer: Literal["lbfgs", "fire"] = "lbfgs"

    def __post_init__(self) -> None:
        check_calculator(self.calculator)
        self.limits()

    def limits(self) -> RelaxConfig:
        """The limits for `relax`."""
        return RelaxConfig(
            force_limit=self.force_limit,
            stress_limit_gpa=self.stress_limit_gpa,
            max_steps=self.max_steps,
            max_seconds=self.max_seconds,
            relax_cell=self.relax_cell,
            optimizer=self.optimizer,
        )


class RelaxStage(Stage):
    """Relaxation by a potential; only converged crystals go on."""

    name = "relax"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {
        "calculator": Column(meaning="name of the potential that energies are of"),
        "energy_per_atom": Column(unit="eV/atom", meaning="energy after relaxation"),
        "start_energy_per_atom": Column(unit="eV/atom", meaning="energy as generated"),
        "largest_force": Column(unit="eV/Å", meaning="longest force on an atom at the end"),
        "largest_stress": Column(unit="GPa", meaning="largest component of the stress at the end"),
        "relax_steps": Column(meaning="steps of the relaxation"),
        "relax_rmsd": Column(unit="Å", meaning="root mean square displacement of the atoms by the relaxation"),
        "volume_change": Column(meaning="volume after over volume before the relaxation"),
        "relaxed_space_group": Column(
            meaning="number of the space group after relaxation (moyopy, symprec 0.1 Å), 0 where none was found"
        ),
    }
    stops = frozenset({REJECTED, FAILED, TIME_LIMIT, "step limit", "diverged"})
    # Each record is kept as it comes; long chunks leave few places of a call empty at their ends.
    chunk = 2048
    config: RelaxStageConfig

    def foretold(self) -> Mapping[str, Value]:
        """See `Stage`."""
        return {"calculator": self.config.calculator}

    def check(self, foretold: Mapping[str, Value] = NOTHING) -> None:
        """See `Stage`. The calculator's package is looked for."""
        check_available(self.config.calculator)

    def run(
        self, crystals: CrystalBatch, earlier: Sequence[Mapping[str, Value]], *, workers: int
    ) -> Iterator[StageRecord]:
        """See `Stage`. With workers, a potential that hangs or takes its process with it costs one crystal."""
        problems = construction_problems(crystals)
        for i, problem in enumerate(problems):
            if problem is not None:
                yield StageRecord(
                    index=i, outcome=FAILED, reason=problem, values={"calculator": self.config.calculator}
                )
        sound = [i for i, problem in enumerate(problems) if problem is None]
        chosen = crystals[sound]
        for relaxed in self._relaxed(chosen, workers):
            yield self._record(relaxed, chosen[relaxed.index], sound[relaxed.index])

    @cached_property
    def _potential(self) -> Potential:
        """The potential of this process, made once for all calls without workers."""
        return make_potential(potential_of(self.config.calculator))

    @cached_property
    def _symmetry(self) -> SymmetryWorker:
        return SymmetryWorker()

    def _space_group(self, crystal: CrystalBatch) -> int:
        return space_group(crystal, SYMPREC, search=self._symmetry.search)[0].number

    def _relaxed(self, crystals: CrystalBatch, workers: int) -> Iterator[RelaxedCrystal]:
        """Relaxed crystals as they end; `relax` tells them by a call, which a thread turns into an iterator."""
        if not len(crystals):
            return
        heard: queue.SimpleQueue[RelaxedCrystal | BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                potential = self._potential if workers == 0 else potential_of(self.config.calculator)
                relax(crystals, potential=potential, config=self.config.limits(), workers=workers, on_done=heard.put)
                heard.put(None)
            # Whatever it is belongs to the thread that asked.
            except BaseException as error:
                heard.put(error)

        thread = threading.Thread(target=work, name="relaxation", daemon=True)
        thread.start()
        while (item := heard.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
        thread.join()

    def _record(self, relaxed: RelaxedCrystal, start: CrystalBatch, index: int) -> StageRecord:
        converged = relaxed.outcome == "converged"
        return StageRecord(
            index=index,
            outcome=PASSED if converged else relaxed.outcome,
            values={
                "calculator": self.config.calculator,
                "energy_per_atom": finite(relaxed.energy_per_atom),
                "start_energy_per_atom": finite(relaxed.start_energy_per_atom),
                "largest_force": finite(relaxed.largest_force),
                "largest_stress": finite(float(relaxed.stress_gpa.abs().max())),
                "relax_steps": relaxed.steps,
                "relax_rmsd": finite(relaxed.rmsd),
                "volume_change": finite(float(relaxed.crystal.volume / start.volume.double())),
                "relaxed_space_group": self._space_group(relaxed.crystal) if converged else None,
            },
            reason=relaxed.reason,
            crystal=relaxed.crystal if converged else None,
            seconds=finite(relaxed.seconds) or 0.0,
        )


def check_calculator(name: str) -> None:
    """Raise ConfigError where a name is neither of a potential nor module:function."""
    if name not in potential_names() and ":" not in name:
        raise ConfigError(
            f"no calculator is called {name!r}; there are {', '.join(potential_names())}, or give "
            "module:function of what makes an ASE calculator, such as ase.calculators.emt:EMT"
        )


def potential_of(name: str) -> Any:
    """What `relax` takes for a calculator's name; a function that can be copied to other processes for module:function."""
    return name if name in potential_names() else partial(_imported, name)


def check_available(name: str) -> None:
    """Raise EuhedralError where a calculator's package is missing, or its function; none is made."""
    if name in potential_names():
        check_installed(name)
    else:
        _attribute(name)


def _imported(name: str) -> Any:
    made = _attribute(name)
    try:
        found = made() if callable(made) else made
    except EuhedralError:
        raise
    except Exception as error:
        raise EuhedralError(f"the calculator {name!r} could not be made: {type(error).__name__}: {error}") from error
    if found is None:
        raise EuhedralError(f"the calculator {name!r} is to give an ASE calculator or a potential, and gives None")
    return found


def _attribute(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    # A module that is imported may raise whatever it does; names that are none raise ValueError and TypeError.
    except Exception as error:
        raise EuhedralError(
            f"the calculator {name!r} cannot be imported ({error}); it is module:function, and the folder of a module of your "
            "own is to be in PYTHONPATH"
        ) from error
