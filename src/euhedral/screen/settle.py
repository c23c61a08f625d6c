"""Where a property begins: the crystal at the bottom of its minimum, with exactly its symmetry, and forces of many cells.

A funnel relaxes to a tenth of an eV/Å, which is enough for an energy. Second derivatives are about a point at which the
first ones vanish, so that a property relaxes its crystal further before it moves anything on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.idealize import idealized
from euhedral.data.workers import filled_chunks
from euhedral.errors import ConfigError, CrystalError
from euhedral.screen.guard import predict_all
from euhedral.screen.potential import Prediction
from euhedral.screen.relax import relax
from euhedral.screen.relaxation import RelaxConfig

if TYPE_CHECKING:
    from euhedral.screen.potential import Potential


@dataclass(frozen=True, kw_only=True)
class SettleConfig:
    """How a crystal is settled, and its cells computed.

    Attributes:
        force_limit: as in `RelaxConfig`, eV/Å.
        max_steps: of each relaxation.
        max_seconds: of each relaxation.
        symprec: Å, tolerance of the symmetry that the settled crystal is moved onto.
        atoms_at_once: atoms that a call of the potential is filled up to; one cell may have more.

    Raises:
        ConfigError: on a value out of range.
    """

    force_limit: float = 0.002
    max_steps: int = 500
    max_seconds: float = 600.0
    symprec: float = 0.01
    atoms_at_once: int = 512

    def __post_init__(self) -> None:
        if not self.symprec > 0:
            raise ConfigError(f"symprec must be above 0 Å, not {self.symprec}")
        self.relaxation()

    def relaxation(self, *, relax_cell: bool = True) -> RelaxConfig:
        """The limits as those of a relaxation; its ConfigErrors."""
        return RelaxConfig(
            force_limit=self.force_limit,
            max_steps=self.max_steps,
            max_seconds=self.max_seconds,
            relax_cell=relax_cell,
            atoms_at_once=self.atoms_at_once,
        )


def settle(crystal: CrystalBatch, potential: Potential, config: SettleConfig) -> tuple[CrystalBatch, float]:
    """One crystal relaxed and symmetric, float64, and its energy in eV/atom.

    Raises:
        CrystalError: if it does not converge.
    """
    relaxed = relax(crystal, potential=potential, config=config.relaxation())
    if relaxed.outcomes[0] != "converged":
        raise CrystalError(
            f"it did not relax to {config.force_limit:g} eV/Å: {_why(relaxed.outcomes, relaxed.reasons)}"
        )
    return idealized(relaxed.crystals, [config.symprec]), float(relaxed.energies_per_atom[0])


def settle_atoms(
    cells: Sequence[CrystalBatch], potential: Potential, config: SettleConfig
) -> tuple[CrystalBatch, Prediction]:
    """Cells whose atoms have moved to their minimum while the cells stayed, and what the potential says about them.

    Raises:
        CrystalError: if one does not converge.
    """
    relaxed = relax(CrystalBatch.concat(cells), potential=potential, config=config.relaxation(relax_cell=False))
    if any(outcome != "converged" for outcome in relaxed.outcomes):
        raise CrystalError(f"the atoms of a strained cell did not relax: {_why(relaxed.outcomes, relaxed.reasons)}")
    said = Prediction(
        energy_per_atom=relaxed.energies_per_atom,
        forces=torch.full_like(relaxed.crystals.frac, torch.nan),
        stress_gpa=relaxed.stresses_gpa,
        reasons=relaxed.reasons,
    )
    return relaxed.crystals, said


def predict_cells(cells: Sequence[CrystalBatch], potential: Potential, *, atoms_at_once: int) -> Prediction:
    """Energies, forces and stresses of cells, as many in a call as `atoms_at_once` allows.

    Raises:
        CrystalError: if the potential says nothing about one of them.
    """
    sizes = [cell.species.shape[0] for cell in cells]
    parts = []
    for chunk in filled_chunks(range(len(cells)), sizes, crystals_at_once=len(cells), atoms_at_once=atoms_at_once):
        said = predict_all(potential, CrystalBatch.concat([cells[i] for i in chunk]), None)
        for reason, energy in zip(said.reasons, said.energy_per_atom.tolist(), strict=True):
            if reason is not None or not energy == energy:
                raise CrystalError(f"the potential gives no energy: {reason or 'it says NaN'}")
        if not bool(torch.isfinite(said.forces).all()):
            raise CrystalError("the potential gives forces that are not finite")
        parts.append(said)
    return Prediction(
        energy_per_atom=torch.cat([part.energy_per_atom for part in parts]),
        forces=torch.cat([part.forces for part in parts]),
        stress_gpa=torch.cat([part.stress_gpa for part in parts]),
        reasons=(None,) * len(cells),
    )


def strained(crystal: CrystalBatch, strain: torch.Tensor) -> CrystalBatch:
    """One crystal under a symmetric strain, (3, 3): cell (1 + strain)."""
    return CrystalBatch(
        frac=crystal.frac,
        cell=crystal.cell @ (torch.eye(3, dtype=crystal.cell.dtype) + strain.to(crystal.cell.dtype)),
        species=crystal.species,
        num_atoms=crystal.num_atoms,
    )


def _why(outcomes: Sequence[str], reasons: Sequence[str | None]) -> str:
    return next(f"{o}{f', {r}' if r else ''}" for o, r in zip(outcomes, reasons, strict=True) if o != "converged")
