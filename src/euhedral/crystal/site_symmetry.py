"""Site symmetries of Wyckoff positions as one symbol for each of fifteen axes, comparable across space groups.

The axes are the directions in which symmetry elements of the 230 groups lie, in the conventional basis; on each the
symbol of the elements is one of thirteen, so that a site symmetry is a binary matrix of 15 rows with a single one each
(Levy et al., SymmCD, ICLR 2025, Section 3.2). Positions of a group that differ in their place alone share it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from euhedral.crystal.wyckoff import WyckoffPosition, group_operations, wyckoff_positions
from euhedral.errors import CrystalError

AXES = (
    *((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    *((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)),
    *((1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1)),
    *((1, 2, 0), (2, 1, 0)),
)
"""Directions in the conventional basis; the last two occur on hexagonal axes only."""
SYMBOLS = ("1", "-1", "2", "m", "3", "4", "-4", "2/m", "-3", "6", "-6", "4/m", "6/m")

_ORDERS = {3: 1, -1: 2, 0: 3, 1: 4, 2: 6}
"""Order of a proper rotation by the trace of its matrix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SiteSymmetry:
    """The positions of one space group with the same site symmetry.

    Attributes:
        symbols: index in `SYMBOLS` for each of `AXES`, (15,).
        letters: of the positions, the most special one first.
        multiplicity: points of each position in the conventional cell.
        single: whether a position holds one orbit only, since it leaves no coordinate free.
    """

    symbols: NDArray[np.int64]
    letters: str
    multiplicity: int
    single: bool


@cache
def site_symmetries(space_group: int) -> tuple[SiteSymmetry, ...]:
    """The site symmetries of a group, in the order of their first letters; the last one is that of any point.

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    letters: defaultdict[tuple[int, ...], str] = defaultdict(str)
    positions = wyckoff_positions(space_group)
    for letter, position in positions.items():
        letters[tuple(_symbols(_stabiliser(space_group, position)).tolist())] += letter
    return tuple(
        SiteSymmetry(
            symbols=np.array(symbols, dtype=np.int64),
            letters=shared,
            multiplicity=positions[shared[0]].multiplicity,
            single=not positions[shared[0]].free.any(),
        )
        for symbols, shared in letters.items()
    )


@cache
def site_symmetry_of(space_group: int) -> dict[str, int]:
    """Index in `site_symmetries` of each position, by letter.

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    return {letter: k for k, one in enumerate(site_symmetries(space_group)) for letter in one.letters}


@cache
def point_group_symbols(space_group: int) -> NDArray[np.int64]:
    """The symbols of a group without its translations, index in `SYMBOLS` for each of `AXES`, (15,).

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    return _symbols(group_operations(space_group)[0])


def _stabiliser(space_group: int, position: WyckoffPosition) -> NDArray[np.float64]:
    """Rotations that keep the first point of a position, whatever its free coordinates, (k, 3, 3)."""
    rotations, translations = group_operations(space_group)
    linear, shift = position.maps[0], position.shifts[0]
    away = rotations @ shift + translations - shift
    kept = (rotations @ linear == linear).all((1, 2)) & (np.abs(away - np.round(away)).max(1) < 1e-6)
    return rotations[kept]


def _symbols(rotations: NDArray[np.float64]) -> NDArray[np.int64]:
    """Symbols of a point group on each axis; repeated rotations count once."""
    on_axis: list[set[int]] = [{1} for _ in AXES]
    inversion = False
    for rotation in rotations:
        sign = round(float(np.linalg.det(rotation)))
        order = _ORDERS[round(float(np.trace(sign * rotation)))]
        if order > 1:
            on_axis[_axis(sign * rotation)].add(sign * order)
        inversion = inversion or (order == 1 and sign < 0)
    return np.array([SYMBOLS.index(_symbol(orders, inversion)) for orders in on_axis], dtype=np.int64)


def _axis(rotation: NDArray[np.float64]) -> int:
    """Which of `AXES` a proper rotation keeps."""
    for place, axis in enumerate(AXES):
        if np.array_equal(rotation @ axis, axis):
            return place
    raise CrystalError(f"no symmetry axis of a space group in its standard setting is kept by {rotation.tolist()}")


def _symbol(orders: Iterable[int], inversion: bool) -> str:
    """Symbol of the elements on one axis, by the orders of its rotations, negative where improper (-2: a mirror)."""
    proper = max(order for order in orders if order > 0)
    improper = -min(orders) if min(orders) < 0 else 0
    if inversion:
        return {1: "-1", 2: "2/m", 3: "-3", 4: "4/m", 6: "6/m"}[proper]
    return {0: str(proper), 2: "m", 4: "-4", 6: "-6"}[improper]
