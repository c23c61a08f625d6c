"""What is recorded of each crystal that a run produced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.formula import reduced_formula
from euhedral.crystal.geometry import smallest_distance
from euhedral.crystal.symmetry import space_group
from euhedral.data.symmetry_worker import SymmetryWorker

GENERATED_SYMPREC = 0.1


@dataclass(frozen=True, kw_only=True)
class CrystalRecord:
    """One crystal's row in the table.

    Attributes:
        index: position in the run.
        name: file name without ending.
        formula: reduced formula.
        num_atoms: atoms in the cell.
        space_group: number found by moyopy at symprec 0.1 Å; 0 where it found none.
        space_group_symbol: Hermann-Mauguin symbol, or "?".
        density: g/cm³.
        volume: Å³.
        smallest_distance: Å, periodic images included.
    """

    index: int
    name: str
    formula: str
    num_atoms: int
    space_group: int
    space_group_symbol: str
    density: float
    volume: float
    smallest_distance: float


def describe(crystals: CrystalBatch, indices: Sequence[int], symmetry: SymmetryWorker) -> list[CrystalRecord]:
    """Records of crystals at given positions of a run; `symmetry` finds their space groups."""
    groups = space_group(crystals, GENERATED_SYMPREC, search=symmetry.search)
    distances, densities, volumes = smallest_distance(crystals), crystals.density, crystals.volume
    records = []
    for k, (index, crystal) in enumerate(zip(indices, crystals, strict=True)):
        formula = reduced_formula(crystal.species.tolist())
        records.append(
            CrystalRecord(
                index=index,
                name=f"{index:06d}_{formula}",
                formula=formula,
                num_atoms=int(crystals.num_atoms[k]),
                space_group=groups[k].number or 0,
                space_group_symbol=groups[k].symbol or "?",
                density=float(densities[k]),
                volume=float(volumes[k]),
                smallest_distance=float(distances[k]),
            )
        )
    return records
