"""What the judge of synthesizability sees of a crystal: its composition and cheap measures of its structure, no energy.

Composition: the 132 Magpie numbers (`evaluate.magpie`). Structure: how densely it is packed, its symmetry, how many atoms and
inequivalent sites there are, and what the atoms have about them. Neighbours are counted by Hoppe's effective coordination
number, `sum_j exp(1 - (d_ij / d_i)^6)` with `d_i` the distance of the nearest (Hoppe, Z. Kristallogr. 150, 23, 1979; the
first step of its iteration): it is smooth in the distances and needs no cutoff.

None of the numbers changes with the order of atoms, the origin, a rotation or the choice of the cell.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from euhedral.crystal.elements import ATOMIC_MASSES, COVALENT_RADII, ELECTRONEGATIVITIES
from euhedral.crystal.symmetry import ReducedCell, reduced_cells
from euhedral.errors import CrystalError
from euhedral.evaluate.magpie import PROPERTIES, magpie_fingerprint, magpie_labels, magpie_table
from euhedral.evaluate.validity import composition_counts
from euhedral.screen.neighbours import find_bonds

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from euhedral.crystal.batch import CrystalBatch

SYMPREC = 0.1
"""Å; the same for crystals of databases and for relaxed ones, so that both are seen through one lens."""
STRUCTURE = (
    "volume_per_atom",
    "density",
    "packing_fraction",
    "volume_ratio_to_elements",
    "primitive_atoms",
    "formula_units",
    "space_group",
    "point_group_order",
    "sites",
    "sites_per_atom",
    "coordination_mean",
    "coordination_least",
    "coordination_most",
    "coordination_spread",
    "nearest_ratio_least",
    "nearest_ratio_mean",
    "bond_spread",
    "like_neighbours",
    "electronegativity_step",
    "bond_asymmetry",
)
"""Structural features in the order of the vector, after those of the composition."""
_FIRST_REACH = 4.0
_ENOUGH = 1.5
"""Neighbours beyond this many nearest distances weigh below exp(1 - 1.5^6) = 3e-5."""
_GRAMS_PER_CM3 = 1.66053906660
_UNKNOWN_ELECTRONEGATIVITY = 1.7
"""Stands for the few elements (noble gases, some actinides) that Pauling's scale leaves out."""


def feature_names() -> tuple[str, ...]:
    """Names of the features in their order."""
    return (*magpie_labels(), *STRUCTURE)


def features(batch: CrystalBatch) -> tuple[NDArray[np.float64], list[str | None]]:
    """Features of each crystal.

    Returns:
        (crystals, features), a row of NaN where there are none; and why there are none, or None.

    Raises:
        ConfigError: where the table of the elements (extra `evaluate`) is not installed.
    """
    table = np.full((len(batch), len(feature_names())), np.nan)
    reasons: list[str | None] = [None] * len(batch)
    magpie_table()
    counts = composition_counts(batch)
    for i, cell in enumerate(reduced_cells(batch)):
        try:
            if isinstance(cell, CrystalError):
                raise cell
            table[i] = np.concatenate([magpie_fingerprint(counts[i]), _structure(cell, counts[i])])
        except CrystalError as error:
            reasons[i] = str(error)
    return table, reasons


def _structure(cell: ReducedCell, counts: tuple[tuple[int, int], ...]) -> NDArray[np.float64]:
    """The numbers that `STRUCTURE` names."""
    dataset = cell.dataset(SYMPREC)
    crystal = cell.crystal
    species = crystal.species.numpy()
    atoms = len(species)
    volume = float(crystal.volume[0])
    radii = np.array(COVALENT_RADII)[species]
    # Means over the reduced composition, whatever the cell.
    shares = np.array([n for _, n in counts]) / sum(n for _, n in counts)
    of_elements = magpie_table()[PROPERTIES.index("GSvolume_pa"), [z for z, _ in counts]]
    primitive = len(dataset.prim_std_cell.numbers)
    sites = len(set(dataset.orbits))
    return np.array(
        [
            volume / atoms,
            float(np.array(ATOMIC_MASSES)[species].sum()) * _GRAMS_PER_CM3 / volume,
            float((4 / 3 * np.pi * radii**3).sum()) / volume,
            volume / atoms / float(shares @ of_elements),
            primitive,
            primitive / sum(n for _, n in counts),
            dataset.number,
            _point_group_order(dataset.number),
            sites,
            sites / primitive,
            *_surroundings(crystal.frac.double(), crystal.cell[0].double(), species),
        ]
    )


def _surroundings(frac: Tensor, cell: Tensor, species: NDArray[np.int64]) -> list[float]:
    """Coordination and distances to neighbours; means weigh each atom alike, bonds by Hoppe's weight."""
    first, second, distance, shift = _bonds(frac, cell)
    atoms = len(species)
    nearest = np.full(atoms, np.inf)
    np.minimum.at(nearest, first, distance)
    weight = np.exp(1 - (distance / nearest[first]) ** 6)
    coordination = np.bincount(first, weight, atoms)
    share = weight / coordination[first]
    radii = np.array(COVALENT_RADII)[species]
    ratio = np.full(atoms, np.inf)
    np.minimum.at(ratio, first, distance / (radii[first] + radii[second]))
    scale = np.array(ELECTRONEGATIVITIES)
    pull = np.where(np.isnan(scale), _UNKNOWN_ELECTRONEGATIVITY, scale)[species]
    mean = np.bincount(first, share * distance, atoms)
    square = np.bincount(first, share * (distance - mean[first]) ** 2, atoms)
    # How far the neighbours' centre of weight is from the atom: 0 at a centre of symmetry.
    units = shift / distance[:, None]
    centre = np.stack([np.bincount(first, share * units[:, k], atoms) for k in range(3)], axis=1)
    return [
        float(coordination.mean()),
        float(coordination.min()),
        float(coordination.max()),
        float(coordination.std()),
        float(ratio.min()),
        float(ratio.mean()),
        float((np.sqrt(square) / mean).mean()),
        float((share * (species[first] == species[second])).sum() / atoms),
        float((share * np.abs(pull[first] - pull[second])).sum() / atoms),
        float(np.linalg.norm(centre, axis=1).mean()),
    ]


def _bonds(
    frac: Tensor, cell: Tensor
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Pairs both ways with distance in Å and vector, out to where no neighbour of any atom still weighs."""
    reach = _FIRST_REACH
    while True:
        bonds = find_bonds(frac, cell, reach)
        vectors = bonds.vectors(frac, cell).numpy()
        first = torch.cat([bonds.first, bonds.second]).numpy()
        second = torch.cat([bonds.second, bonds.first]).numpy()
        vectors = np.concatenate([vectors, -vectors])
        distance = np.linalg.norm(vectors, axis=1)
        nearest = np.full(len(frac), np.inf)
        np.minimum.at(nearest, first, distance)
        farthest = float(nearest.max())
        if _ENOUGH * farthest <= reach:
            near = distance <= _ENOUGH * nearest[first]
            return first[near], second[near], distance[near], vectors[near]
        reach = _ENOUGH * farthest + 1e-6 if np.isfinite(farthest) else 2 * reach


@lru_cache(maxsize=256)
def _point_group_order(number: int) -> int:
    """Rotations of a space group, 1 to 48."""
    import moyopy

    return len(moyopy.operations_from_number(number, primitive=True).rotations)
