"""Site symmetries of the orbits of one crystal, chosen one at a time so that the atoms asked for always come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from euhedral.crystal.asymmetric_unit import OrbitTemplate
from euhedral.crystal.site_symmetry import site_symmetries

OPEN = 0
"""Element of orbits of which nothing is asked."""
_MANY = 99


@dataclass(frozen=True, kw_only=True)
class Owed:
    """Atoms of one element.

    Attributes:
        atoms: how many.
        exact: whether more are too many.
    """

    atoms: int
    exact: bool


class SiteFilling:
    """What is still open of the orbits of a crystal.

    Each orbit belongs to an element of which a number of atoms is owed, or to none; all together have the atoms of the
    cell, and as many orbits share a site symmetry without free coordinates as there are positions of it.

    Args:
        template: the group and the cell; its letters are not read.
        elements: of each orbit, `OPEN` where nothing is asked of it.
        owed: atoms of the elements; those that are not in it are not counted.

    Attributes:
        sizes: atoms of an orbit in the cell, by its site symmetry.
        orbits: how many there are.
    """

    def __init__(self, template: OrbitTemplate, elements: Sequence[int], owed: Mapping[int, Owed]) -> None:
        kinds = site_symmetries(template.space_group)
        self.sizes = [round(kind.multiplicity * template.volume) for kind in kinds]
        self._room = [len(kind.letters) if kind.single else _MANY for kind in kinds]
        self.orbits = len(elements)
        self._elements = list(elements)
        self._owed = {z: one for z, one in owed.items() if z in set(elements)}
        self._left = {z: one.atoms for z, one in self._owed.items()}
        self._atoms = template.num_atoms
        self._waiting = Counter(self._elements)
        self._missing = any(z not in self._owed and one.atoms for z, one in owed.items())
        self._known: dict[tuple[object, ...], bool] = {}

    def possible(self) -> bool:
        """Whether the open orbits can have what is owed."""
        if self._missing:
            return False
        room: Counter[int] = Counter()
        for size, free in zip(self.sizes, self._room, strict=True):
            room[size] = min(room[size] + free, _MANY)
        waiting = tuple(sorted((z, count) for z, count in self._waiting.items() if count))
        return self._fits(waiting, tuple(sorted(self._left.items())), tuple(sorted(room.items())), self._atoms)

    def choose(self, orbit: int, order: Iterable[int]) -> int:
        """Give an orbit the first site symmetry that leaves the others possible, and take it down.

        Args:
            orbit: which one; each once.
            order: indices in `site_symmetries`, all of them, the preferred one first.

        Raises:
            ValueError: where none does, which does not happen while `possible` is true.
        """
        z = self._elements[orbit]
        for kind in order:
            if not self._room[kind]:
                continue
            before = self._take(z, kind)
            if self.possible():
                return kind
            self._put_back(z, kind, before)
        raise ValueError(f"no site symmetry is possible for orbit {orbit}")

    def _take(self, z: int, kind: int) -> int:
        before, size = self._left.get(z, 0), self.sizes[kind]
        self._atoms -= size
        self._waiting[z] -= 1
        self._room[kind] -= self._room[kind] != _MANY
        if z in self._owed:
            self._left[z] = before - size if self._owed[z].exact else max(before - size, 0)
        return before

    def _put_back(self, z: int, kind: int, before: int) -> None:
        self._atoms += self.sizes[kind]
        self._waiting[z] += 1
        self._room[kind] += self._room[kind] != _MANY
        if z in self._owed:
            self._left[z] = before

    def _fits(
        self,
        waiting: tuple[tuple[int, int], ...],
        left: tuple[tuple[int, int], ...],
        room: tuple[tuple[int, int], ...],
        atoms: int,
    ) -> bool:
        """Whether orbits, counted by element, can have what is left of each and the atoms, in sizes of which there is room."""
        if not waiting:
            return atoms == 0 and not any(count for _, count in left)
        orbits = sum(count for _, count in waiting)
        usable = [size for size, free in room if free]
        if not usable or not orbits * min(usable) <= atoms <= orbits * max(usable):
            return False
        key = waiting, left, room, atoms
        if key not in self._known:
            self._known[key] = any(self._fits_with(size, waiting, left, room, atoms) for size in reversed(usable))
        return self._known[key]

    def _fits_with(
        self,
        size: int,
        waiting: tuple[tuple[int, int], ...],
        left: tuple[tuple[int, int], ...],
        room: tuple[tuple[int, int], ...],
        atoms: int,
    ) -> bool:
        """`_fits` where the first orbit has a size."""
        (z, count), others = waiting[0], waiting[1:]
        owed = dict(left)
        if z in owed:
            if self._owed[z].exact and size > owed[z]:
                return False
            owed[z] = max(owed[z] - size, 0)
        space = tuple((one, free - (one == size and free != _MANY)) for one, free in room)
        rest = ((z, count - 1), *others) if count > 1 else others
        return self._fits(rest, tuple(sorted(owed.items())), space, atoms - size)
