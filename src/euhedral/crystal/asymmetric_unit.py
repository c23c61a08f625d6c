"""The asymmetric unit of a crystal: its space group, its Wyckoff positions and the few numbers that these leave free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from euhedral.crystal.crystal_family import onto_family
from euhedral.crystal.lattice import log_symmetric
from euhedral.crystal.symmetry import ReducedCell, reduced_cells
from euhedral.crystal.symmetry_search import StandardSetting, standard_setting
from euhedral.crystal.wyckoff import LETTERS, centring_translations, primitive_basis, wyckoff_positions
from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

_SAME_POINT = 1e-3
"""Fractional deviation from the first point of a position, far above rounding and below the distance of points."""


@dataclass(frozen=True, kw_only=True)
class OrbitTemplate:
    """Which Wyckoff positions of a space group are taken, in a cell: a crystal without its elements and free numbers.

    Attributes:
        space_group: 1 to 230.
        letters: of the Wyckoff positions, one an orbit, in alphabetical order.
        basis: rows of the cell in the basis of the conventional one, nine numbers; see `wyckoff.primitive_basis`.
    """

    space_group: int
    letters: str
    basis: tuple[float, ...]

    @classmethod
    def primitive(cls, space_group: int, letters: str) -> OrbitTemplate:
        """Positions of a group in its primitive cell; letters in any order."""
        ordered = "".join(sorted(letters, key=LETTERS.index))
        basis = primitive_basis(space_group)
        return cls(space_group=space_group, letters=ordered, basis=tuple(basis.flatten().tolist()))

    @cached_property
    def volume(self) -> float:
        """Of the cell, in conventional cells: 1/2 in the primitive cell of a body-centred lattice."""
        return abs(float(np.linalg.det(self.basis_matrix)))

    @property
    def basis_matrix(self) -> NDArray[np.float64]:
        """`basis`, (3, 3)."""
        return np.array(self.basis).reshape(3, 3)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Atoms of each orbit in the cell."""
        positions = wyckoff_positions(self.space_group)
        return tuple(round(positions[letter].multiplicity * self.volume) for letter in self.letters)

    @cached_property
    def num_atoms(self) -> int:
        """Atoms in the cell."""
        return sum(self.sizes)


@dataclass(frozen=True, kw_only=True, eq=False)
class AsymmetricUnit:
    """One crystal, as its template and what that leaves free.

    Attributes:
        template: space group, positions and cell.
        species: atomic number of each orbit, (orbits,).
        coordinates: free coordinates of each orbit, in [0, 1); those that do not matter are those of its first point,
            (orbits, 3).
        lattice: log-symmetric coordinates of the conventional cell with its own atom count (`lattice.log_symmetric`),
            in the subspace of the crystal family, (6,).
    """

    template: OrbitTemplate
    species: NDArray[np.int64]
    coordinates: NDArray[np.float64]
    lattice: NDArray[np.float64]


def asymmetric_units(batch: CrystalBatch, symprec: float = 0.1) -> list[AsymmetricUnit | CrystalError]:
    """The asymmetric unit of each crystal, idealised to the symmetry found, or why it has none.

    The cell is the primitive one of the standard setting where the crystal's cell is primitive, the conventional one
    where it has as many atoms, and else the cell as it was given.

    Args:
        batch: crystals.
        symprec: tolerance in Å of the search by moyopy.
    """
    outcomes: list[AsymmetricUnit | CrystalError] = []
    standard: list[StandardSetting] = []
    for cell in reduced_cells(batch):
        try:
            if isinstance(cell, CrystalError):
                raise cell
            found = standard_setting(cell.request(symprec))
            outcomes.append(_unit(found, cell))
            standard.append(found)
        except CrystalError as error:
            outcomes.append(error)
    lattices = iter(_family_lattices(standard))
    return [
        replace(outcome, lattice=next(lattices)) if isinstance(outcome, AsymmetricUnit) else outcome
        for outcome in outcomes
    ]


def _family_lattices(standard: Sequence[StandardSetting]) -> NDArray[np.float64]:
    """Log-symmetric coordinates of conventional cells, (cells, 6)."""
    cells = torch.tensor([found.basis for found in standard], dtype=torch.float64).reshape(-1, 3, 3)
    coordinates = log_symmetric(cells, torch.tensor([len(found.species) for found in standard]))
    return onto_family(coordinates, torch.tensor([found.number for found in standard], dtype=torch.int64)).numpy()


def without_symmetry(crystal: CrystalBatch) -> AsymmetricUnit:
    """One crystal as it is, each atom an orbit of space group 1."""
    order = crystal.species.argsort(stable=True)
    return AsymmetricUnit(
        template=OrbitTemplate.primitive(1, "a" * len(order)),
        species=crystal.species[order].cpu().numpy(),
        coordinates=crystal.frac[order].double().cpu().numpy(),
        lattice=log_symmetric(crystal.cell.double(), crystal.num_atoms)[0].cpu().numpy(),
    )


def _unit(found: StandardSetting, cell: ReducedCell) -> AsymmetricUnit:
    """The unit, without its lattice."""
    frac, species = cell.crystal.frac.numpy(), cell.crystal.species.numpy()
    points = _ideal_points(found, frac, species)
    centring = centring_translations(found.number)
    orbits = np.array(found.orbits)
    rows = []
    for first in np.unique(orbits).tolist():
        candidates = (points[orbits == first][:, None] + centring).reshape(-1, 3)
        letter = found.letters[int(first)]
        rows.append((LETTERS.index(letter), int(species[first]), _first_point(found.number, letter, candidates)))
    rows.sort(key=lambda row: (row[0], row[1], tuple(row[2])))
    template = OrbitTemplate(
        space_group=found.number,
        letters="".join(LETTERS[row[0]] for row in rows),
        basis=_basis(found, len(species)),
    )
    if template.num_atoms != len(species):
        raise CrystalError(
            f"space group {found.number} with positions {template.letters} has {template.num_atoms} atoms in the cell, "
            f"and the crystal has {len(species)}"
        )
    return AsymmetricUnit(
        template=template,
        species=np.array([row[1] for row in rows], dtype=np.int64),
        coordinates=np.stack([row[2] for row in rows]),
        lattice=np.zeros(6),
    )


def _ideal_points(found: StandardSetting, frac: NDArray[np.float64], species: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where the symmetry has each atom, in conventional coordinates, (atoms, 3)."""
    points = (frac - np.array(found.shift)) @ np.linalg.inv(np.array(found.linear)).T
    ideal = np.array(found.positions)
    away = points[:, None] - ideal
    squared = np.square((away - np.round(away)) @ np.array(found.basis)).sum(-1)
    squared[species[:, None] != np.array(found.species)] = np.inf
    return ideal[squared.argmin(1)]


def _first_point(space_group: int, letter: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The point that lies where the tables have the first one of the position, in [0, 1), (3,)."""
    position = wyckoff_positions(space_group)[letter]
    away = points @ position.maps[0].T + position.shifts[0] - points
    deviation = np.abs(away - np.round(away)).max(1)
    if not deviation.min() < _SAME_POINT:
        raise CrystalError(f"no atom lies at the first point of position {letter} of space group {space_group}")
    chosen = points[deviation.argmin()] % 1
    return np.where(chosen >= 1, 0.0, chosen)


def _basis(found: StandardSetting, atoms: int) -> tuple[float, ...]:
    """The cell of the template, rows in the basis of the conventional one."""
    primitive = primitive_basis(found.number)
    if atoms == round(len(found.species) * np.linalg.det(primitive)):
        basis = primitive
    elif atoms == len(found.species):
        basis = np.eye(3)
    else:
        # Translations of a centred lattice are multiples of a half and a third.
        basis = np.round(6 * np.linalg.inv(np.array(found.linear)).T) / 6
    return tuple(basis.flatten().tolist())
