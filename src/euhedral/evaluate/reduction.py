"""Reduction of a crystal to its Niggli cell and then to its primitive cell, as pymatgen's StructureMatcher reduces it.

Each crystal is reduced once, however many comparisons it takes part in. The Niggli basis is the one that pymatgen finds. Most
crystals can be shown to be primitive by a few array operations: a smaller cell needs a translation that maps every
atom within 0.5 Å onto one of its kind; only where one may exist, pymatgen searches for the smaller cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.elements import SYMBOLS
from euhedral.evaluate.niggli import niggli_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from numpy import ndarray

PRIMITIVE_TOLERANCE = 0.25
"""Distance in Å below which pymatgen takes two sites for one when it looks for a smaller cell."""
LOOSER = 1 + 1e-6
"""Factor on tolerances that only decide whether the exact search is needed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReducedCrystal:
    """Primitive Niggli cell with the atoms in blocks of one element, the rarest first.

    Attributes:
        gram: metric tensor of the cell in Å², (3, 3).
        frac: fractional coordinates, (atoms, 3).
        content: (atomic number, count) of each block, in order.
        anchor: the first atom of the rarest element in pymatgen's order; which one decides what translations are tried.
        lengths: of the cell vectors in Å, (3,).
        angles: alpha, beta, gamma in degrees, (3,).
        volume: in Å³.
    """

    gram: Float[ndarray, "3 3"]
    frac: Float[ndarray, "atoms 3"]
    content: tuple[tuple[int, int], ...]
    anchor: int
    lengths: Float[ndarray, " 3"]
    angles: Float[ndarray, " 3"]
    volume: float
    _points: list[tuple[float, ndarray, ndarray]] = field(default_factory=list, repr=False)

    def lattice_points(self, radius: float) -> tuple[Float[ndarray, "points 3"], Float[ndarray, " points"]]:
        """Lattice vectors other than zero up to a length in Å: coefficients (points, 3) and lengths (points,).

        The points of the largest radius so far are kept, so some may be a little longer than asked for.
        """
        if not self._points or self._points[0][0] < radius:
            self._points[:] = [(1.1 * radius, *_lattice_points(self.gram, 1.1 * radius))]
        return self._points[0][1:]


def reduce_crystal(
    cell: Float[ndarray, "3 3"] | Sequence, frac: Float[ndarray, "atoms 3"] | Sequence, species: Sequence[int]
) -> ReducedCrystal:
    """Niggli cell, then primitive cell.

    Args:
        cell: lattice vectors as rows in Å.
        frac: fractional coordinates.
        species: atomic numbers.

    Raises:
        ValueError: if there is no Niggli cell.
    """
    frac, numbers = np.asarray(frac, dtype=float), np.asarray(species, dtype=np.int64)
    matrix = np.asarray(cell, dtype=float).reshape(3, 3)
    niggli = niggli_matrix(matrix)
    if not np.allclose(niggli, matrix):  # pymatgen keeps a cell that is reduced already
        frac = np.mod((frac @ matrix) @ np.linalg.inv(niggli), 1)
        matrix = niggli
    if may_be_smaller(matrix, frac, numbers):
        matrix, frac, numbers = _smaller_cell(matrix, frac, numbers)
    return _in_blocks(matrix, frac, numbers)


def may_be_smaller(matrix: Float[ndarray, "3 3"], frac: Float[ndarray, "atoms 3"], numbers: ndarray) -> bool:
    """False only if pymatgen's search for a primitive cell is certain to find none."""
    groups = [frac[numbers == z] for z in sorted(set(numbers.tolist()))]
    units = math.gcd(*map(len, groups))
    if units == 1:  # a smaller cell holds a whole fraction of every element
        return False
    tolerance = LOOSER * PRIMITIVE_TOLERANCE / np.linalg.norm(matrix, axis=1)
    if tolerance.max() * units >= 1:  # an edge so short that a fraction of it is within the tolerance
        return True
    smallest = min(groups, key=len)
    rarest = [group for group in groups if len(group) == len(smallest)]
    # pymatgen starts from one of the rarest elements, chosen by name; any candidate must come from that one.
    return all(_has_translation(start[1:] - start[0], groups, 2 * tolerance) for start in rarest)


def _has_translation(vectors: ndarray, groups: list[ndarray], tolerance: ndarray) -> bool:
    """Whether one of the vectors maps each atom within a fractional tolerance onto one of its group."""
    for group in sorted(groups, key=len):
        for position in group:
            off = (position + vectors)[:, None] - group[None]
            off -= np.rint(off)
            vectors = vectors[(np.abs(off) < tolerance).all(-1).any(1)]
            if not len(vectors):
                return False
    return True


def _smaller_cell(matrix: ndarray, frac: ndarray, numbers: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    from pymatgen.core import Structure

    found = Structure(matrix, [SYMBOLS[z] for z in numbers.tolist()], frac).get_primitive_structure()
    return found.lattice.matrix, found.frac_coords, np.array(found.atomic_numbers)


def _in_blocks(matrix: ndarray, frac: ndarray, numbers: ndarray) -> ReducedCrystal:
    kinds, counts = np.unique(numbers, return_counts=True)
    count_of = dict(zip(kinds.tolist(), counts.tolist(), strict=True))
    listed = numbers.tolist()
    rarest = min(count_of.values())
    first = next(i for i, z in enumerate(listed) if count_of[z] == rarest)
    content = sorted(count_of.items(), key=lambda item: (item[1], item[0]))
    order = np.concatenate([np.flatnonzero(numbers == z) for z, _ in content])
    gram = matrix @ matrix.T
    lengths = np.sqrt(np.diag(gram))
    cosines = np.array([gram[j, k] / (lengths[j] * lengths[k]) for j, k in ((1, 2), (0, 2), (0, 1))])
    return ReducedCrystal(
        gram=gram,
        frac=frac[order],
        content=tuple(content),
        anchor=int(np.flatnonzero(order == first)[0]),
        lengths=lengths,
        angles=np.degrees(np.arccos(np.clip(cosines, -1, 1))),
        volume=float(abs(np.linalg.det(matrix))),
    )


def _lattice_points(gram: Float[ndarray, "3 3"], radius: float) -> tuple[ndarray, ndarray]:
    reach = np.floor(radius * np.sqrt(np.diag(np.linalg.inv(gram))) + 1e-6).astype(int)
    axes = [np.arange(-n, n + 1, dtype=float) for n in reach]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    squares = ((grid @ gram) * grid).sum(1)
    kept = (squares <= radius**2) & (squares > 0)
    return grid[kept], np.sqrt(squares[kept])
