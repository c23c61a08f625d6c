"""Reduction of a crystal to its Niggli cell and then to its primitive cell, as pymatgen's StructureMatcher reduces it.

Each crystal is reduced once, however many comparisons it takes part in. The result is the one of pymatgen to the last
bit, so that a match that rounding decides comes out as it does there. Most crystals are shown to be primitive by a few
array operations: a smaller cell needs a translation that maps every atom within 0.5 Å onto one of its kind.
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
"""Factor on the tolerance of a test that comes before the exact one."""
MOST_UNITS = 24
"""Formula units above which the finer lattices are too many to be listed here, and pymatgen searches."""


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
    matrix, frac = _niggli_cell(matrix, frac)
    return _in_blocks(*_primitive(matrix, frac, numbers))


def _niggli_cell(matrix: ndarray, frac: ndarray) -> tuple[ndarray, ndarray]:
    niggli = niggli_matrix(matrix)
    if _close(niggli.tolist(), matrix.tolist()):  # pymatgen keeps a cell that is reduced already
        return matrix, frac
    return niggli, np.mod((frac @ matrix) @ np.linalg.inv(niggli), 1)


def _close(rows: list[list[float]], others: list[list[float]]) -> bool:
    """numpy's allclose, which is slow for nine numbers."""
    return all(
        abs(x - y) <= 1e-8 + 1e-5 * abs(y)
        for row, other in zip(rows, others, strict=True)
        for x, y in zip(row, other, strict=True)
    )


def _primitive(matrix: ndarray, frac: ndarray, numbers: ndarray) -> tuple[ndarray, ndarray, ndarray]:
    """The primitive cell that pymatgen finds: smaller cells are taken until there is none, then Niggli cells."""
    if math.gcd(*Counter(numbers.tolist()).values()) > MOST_UNITS:
        return _primitive_by_pymatgen(matrix, frac, numbers)
    smaller = smaller_cell(matrix, frac, numbers)
    if smaller is None:
        return matrix, frac, numbers
    matrix, frac, numbers = _primitive(*smaller)
    return *_niggli_cell(matrix, frac), numbers


def smaller_cell(
    matrix: Float[ndarray, "3 3"], frac: Float[ndarray, "atoms 3"], numbers: ndarray
) -> tuple[ndarray, ndarray, ndarray] | None:
    """The first smaller cell in the order in which pymatgen tries them, atoms averaged; None if there is none.

    A lattice that is n times finer, n a divisor of all atom counts, is accepted if its vectors are near differences of
    atoms that map every atom near one of its element, and if on it every atom lies near just n - 1 others.
    """
    members: dict[int, list[int]] = {}
    for i, z in enumerate(numbers.tolist()):
        members.setdefault(z, []).append(i)
    units = math.gcd(*map(len, members.values()))
    if units == 1:  # a smaller cell holds a whole fraction of every element
        return None
    tolerance = PRIMITIVE_TOLERANCE / np.sqrt((matrix * matrix).sum(1))
    named = sorted(members, key=lambda z: SYMBOLS[z])
    groups = {z: frac[members[z]] for z in named}
    by_size = sorted(groups.values(), key=len)
    vectors = by_size[0] - by_size[0][0]
    whole = units * vectors
    vectors = vectors[(np.abs(whole - np.rint(whole)) < LOOSER * units * tolerance).all(1)]
    vectors = _translations(vectors, by_size, 2 * tolerance)
    if len(vectors) == 1 and tolerance.max() * units < 1:  # only the vector zero is left
        return None
    for finer in _finer_lattices(units).near(vectors, tolerance):
        merged = []
        for group in groups.values():
            atoms = _merged(group, finer, matrix, tolerance)
            if atoms is None:
                break
            merged.append(atoms)
        else:
            return np.linalg.inv(finer) @ matrix, np.concatenate(merged), np.repeat(named, list(map(len, merged)))
    return None


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


def _merged(group: ndarray, finer: ndarray, matrix: ndarray, tolerance: ndarray) -> ndarray | None:
    """Atoms of one element on a finer lattice, those that fall together averaged; None if it does not fit them."""
    vectors = np.linalg.inv(finer) @ matrix
    times = finer[0, 0] * finer[1, 1] * finer[2, 2]
    apart = group[None] - group[:, None]
    apart = np.any(np.abs(apart - np.round(apart)) > 2 * tolerance, axis=-1)
    np.fill_diagonal(apart, val=True)
    coordinates = group @ finer
    off = coordinates[None] - coordinates[:, None]
    close = np.abs(off - np.round(off)) < PRIMITIVE_TOLERANCE / np.sqrt((vectors * vectors).sum(1))
    together = np.all(close, axis=-1) & apart
    if not np.all(together.sum(0) == times) or not all(together[row][:, row].all() for row in together):
        return None
    coordinates, found, done = coordinates % 1, [], np.zeros(len(group), dtype=bool)
    for n, row in enumerate(together):
        if not done[n]:
            done |= row
            first, *rest = np.flatnonzero(row)
            mean = coordinates[first].copy()
            for count, other in enumerate(rest, start=2):
                step = coordinates[other] - mean
                mean += (step - np.round(step)) / count
            found.append(mean)
    return np.array(found)


def _primitive_by_pymatgen(matrix: ndarray, frac: ndarray, numbers: ndarray) -> tuple[ndarray, ndarray, ndarray]:
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
