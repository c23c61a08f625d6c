"""Reduction of a crystal to its Niggli cell and then to its primitive cell, as pymatgen's StructureMatcher reduces it.

Each crystal is reduced once, however many comparisons it takes part in. The Niggli basis is the one that pymatgen finds. Most
crystals can be shown to be primitive by a few array operations: a smaller cell needs a translation that maps every
atom within 0.5 Å onto one of its kind; only where one may exist, pymatgen searches for the smaller cell.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.elements import SYMBOLS
from euhedral.evaluate.niggli import determinant, lattice_grid, niggli_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from numpy import ndarray
    from pymatgen.core import Structure

PRIMITIVE_TOLERANCE = 0.25
"""Distance in Å below which pymatgen takes two sites for one when it looks for a smaller cell."""
LOOSER = 1 + 1e-6
"""Factor on tolerances that only decide whether the exact search is needed."""
MOST_UNITS = 24
"""Formula units above which the finer lattices are too many to be listed here."""


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
        matrix: the cell vectors in Å as rows, (3, 3).
        order: position in pymatgen's order of each atom, (atoms,).
    """

    gram: Float[ndarray, "3 3"]
    frac: Float[ndarray, "atoms 3"]
    content: tuple[tuple[int, int], ...]
    anchor: int
    lengths: Float[ndarray, " 3"]
    angles: Float[ndarray, " 3"]
    volume: float
    matrix: Float[ndarray, "3 3"]
    order: list[int]
    _points: list[tuple[float, ndarray, ndarray]] = field(default_factory=list, repr=False)

    def to_pymatgen(self) -> Structure:
        """The crystal as pymatgen's matcher would have reduced it, to the last bit and in its order of atoms."""
        from pymatgen.core import Structure

        frac, symbols = np.empty_like(self.frac), [""] * len(self.order)
        frac[self.order] = self.frac
        kinds = [z for z, count in self.content for _ in range(count)]
        for i, z in zip(self.order, kinds, strict=True):
            symbols[i] = SYMBOLS[z]
        return Structure(self.matrix, symbols, frac)

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
    if not _close(niggli.tolist(), matrix.tolist()):  # pymatgen keeps a cell that is reduced already
        frac = np.mod((frac @ matrix) @ np.linalg.inv(niggli), 1)
        matrix = niggli
    if may_be_smaller(matrix, frac, numbers):
        matrix, frac, numbers = _smaller_cell(matrix, frac, numbers)
    return _in_blocks(matrix, frac, numbers)


def _close(rows: list[list[float]], others: list[list[float]]) -> bool:
    """numpy's allclose, which is slow for nine numbers."""
    return all(
        abs(x - y) <= 1e-8 + 1e-5 * abs(y)
        for row, other in zip(rows, others, strict=True)
        for x, y in zip(row, other, strict=True)
    )


def may_be_smaller(matrix: Float[ndarray, "3 3"], frac: Float[ndarray, "atoms 3"], numbers: ndarray) -> bool:
    """False only if pymatgen's search for a primitive cell is certain to find none.

    The tests are those of its search, with slightly larger tolerances: some lattice that is n times finer, n a divisor
    of all atom counts, has vectors near differences of atoms that map every atom near one of its element; and on that
    lattice every atom lies near n - 1 others.
    """
    members: dict[int, list[int]] = {}
    for i, z in enumerate(numbers.tolist()):
        members.setdefault(z, []).append(i)
    units = math.gcd(*map(len, members.values()))
    if units == 1:  # a smaller cell holds a whole fraction of every element
        return False
    tolerance = LOOSER * PRIMITIVE_TOLERANCE / np.sqrt((matrix * matrix).sum(1))
    ordered = sorted(members, key=lambda z: (len(members[z]), SYMBOLS[z]))
    groups = [frac[members[z]] for z in ordered]
    vectors = groups[0] - groups[0][0]
    whole = units * vectors
    vectors = vectors[(np.abs(whole - np.rint(whole)) < units * tolerance).all(1)]
    vectors = _translations(vectors, groups, 2 * tolerance)
    if len(vectors) == 1 and tolerance.max() * units < 1:  # only the vector zero is left
        return False
    if units > MOST_UNITS:
        return True
    return any(_fits(finer, matrix, groups) for finer in _finer_lattices(units).near(vectors, tolerance))


def _translations(vectors: ndarray, groups: list[ndarray], tolerance: ndarray) -> ndarray:
    """The vectors that map each atom within a fractional tolerance onto one of its group; zero is one of them."""
    for group in groups:
        for position in group:
            if len(vectors) == 1:
                return vectors
            off = (position + vectors)[:, None] - group
            off -= np.rint(off)
            vectors = vectors[(np.abs(off) < tolerance).all(-1).any(1)]
    return vectors


@dataclass(frozen=True, kw_only=True, eq=False)
class _FinerLattices:
    """All lattices that are n times finer, for the divisors n of a number: a basis of each is the inverse of `cells`.

    Attributes:
        cells: integer matrices of determinant n, (lattices, 3, 3).
        vectors: the different rows of their inverses, modulo 1.
        rows: which three of `vectors` belong to each, (lattices, 3).
    """

    cells: ndarray
    vectors: ndarray
    rows: ndarray

    def near(self, translations: ndarray, tolerance: ndarray) -> ndarray:
        """The `cells` of which each vector is within a fractional tolerance of a translation."""
        off = self.vectors[:, None] - translations
        off -= np.rint(off)
        found = np.any(np.all(np.abs(off) < tolerance, axis=-1), axis=1)
        return self.cells[np.all(found[self.rows], axis=1)]


@functools.lru_cache(maxsize=64)
def _finer_lattices(units: int) -> _FinerLattices:
    cells = np.array(
        [
            [[a, b, c], [0, e, f], [0, 0, n // a // e]]
            for n in range(2, units + 1)
            for a in range(1, n + 1)
            for e in range(1, n // a + 1)
            if units % n == 0 and n % (a * e) == 0
            for b, c, f in itertools.product(range(a), range(a), range(e))
        ]
    )
    inverse = np.rint(np.linalg.inv(cells) * units).astype(np.int64).reshape(-1, 3) % units
    vectors, rows = np.unique(inverse, axis=0, return_inverse=True)
    return _FinerLattices(cells=cells, vectors=vectors / units, rows=rows.reshape(-1, 3))


def _fits(finer: ndarray, matrix: ndarray, groups: list[ndarray]) -> bool:
    """Whether each atom lies near as many atoms of its group as the lattice is finer."""
    vectors = np.linalg.inv(finer) @ matrix
    tolerance = LOOSER * PRIMITIVE_TOLERANCE / np.sqrt((vectors * vectors).sum(1))
    times = finer[0, 0] * finer[1, 1] * finer[2, 2]
    for group in groups:
        coordinates = group @ finer
        off = coordinates[:, None] - coordinates
        off -= np.rint(off)
        if ((np.abs(off) < tolerance).all(-1).sum(1) < times).any():
            return False
    return True


def _smaller_cell(matrix: ndarray, frac: ndarray, numbers: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    from pymatgen.core import Structure

    found = Structure(matrix, [SYMBOLS[z] for z in numbers.tolist()], frac).get_primitive_structure()
    return found.lattice.matrix, found.frac_coords, np.array(found.atomic_numbers)


def _in_blocks(matrix: ndarray, frac: ndarray, numbers: ndarray) -> ReducedCrystal:
    listed = numbers.tolist()
    count_of = Counter(listed)
    rarest = min(count_of.values())
    first = next(i for i, z in enumerate(listed) if count_of[z] == rarest)
    order = sorted(range(len(listed)), key=lambda i: (count_of[listed[i]], listed[i]))
    gram = matrix @ matrix.T
    rows = gram.tolist()
    lengths = [math.sqrt(rows[k][k]) for k in range(3)]
    cosines = [rows[j][k] / (lengths[j] * lengths[k]) for j, k in ((1, 2), (0, 2), (0, 1))]
    return ReducedCrystal(
        gram=gram,
        frac=frac[order],
        content=tuple(sorted(count_of.items(), key=lambda item: (item[1], item[0]))),
        anchor=order.index(first),
        lengths=np.array(lengths),
        angles=np.array([math.degrees(math.acos(min(1.0, max(-1.0, c)))) for c in cosines]),
        volume=abs(determinant(matrix.tolist())),
        matrix=matrix,
        order=order,
    )


def _lattice_points(gram: Float[ndarray, "3 3"], radius: float) -> tuple[ndarray, ndarray]:
    reach = np.floor(radius * np.sqrt(np.diag(np.linalg.inv(gram))) + 1e-6).astype(int)
    grid = lattice_grid(tuple(reach.tolist()))
    squares = ((grid @ gram) * grid).sum(1)
    kept = (squares <= radius**2) & (squares > 0)
    return grid[kept], np.sqrt(squares[kept])
