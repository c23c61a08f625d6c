"""Wyckoff positions of the 230 space groups, as affine maps of three free coordinates, and the cells that go with them.

The setting is the standard one of the International Tables (Vol. A): unique axis b and cell choice 1, hexagonal axes,
origin choice 2. The coordinates of the first point of each position stand in `wyckoff_positions.csv`, as in the tables;
the other points of the orbit are its images under the operations of the group, which moyopy knows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from euhedral.errors import CrystalError

GROUPS = 230
LETTERS = "abcdefghijklmnopqrstuvwxyzA"
"""Names of positions, from the most special one; only space group 47 has 27 of them."""

_TERM = re.compile(r"([+-]?)(\d+(?:/\d+)?)?([xyz])?")
_PRIMITIVE = {
    "P": np.eye(3),
    "A": np.array([[1, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]]),
    "C": np.array([[0.5, -0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]),
    "I": np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]),
    "F": np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "R": np.array([[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]]),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class WyckoffPosition:
    """A Wyckoff position: point j of the orbit lies at `maps[j] @ u + shifts[j]`, u being three free coordinates.

    Attributes:
        letter: its name in the tables.
        maps: whole numbers, (multiplicity, 3, 3); the first one is a projection, so that the first point is its own u.
        shifts: in [0, 1), (multiplicity, 3).
        free: which of the coordinates u matter, (3,).
    """

    letter: str
    maps: NDArray[np.float64]
    shifts: NDArray[np.float64]
    free: NDArray[np.bool_]

    @property
    def multiplicity(self) -> int:
        """Points in the conventional cell."""
        return len(self.maps)


@cache
def wyckoff_positions(space_group: int) -> Mapping[str, WyckoffPosition]:
    """The positions of a space group by letter, the most special one first.

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    rotations, translations = group_operations(space_group)
    return {
        letter: _orbit(letter, coordinates, rotations, translations)
        for letter, coordinates in _tables()[space_group].items()
    }


@cache
def group_operations(space_group: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations (k, 3, 3) and translations (k, 3) of a group on conventional coordinates, centring included.

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    import moyopy

    _check(space_group)
    found = moyopy.operations_from_number(space_group, setting=moyopy.Setting.standard())
    return np.array(found.rotations, dtype=np.float64), np.array(found.translations, dtype=np.float64) % 1


@cache
def centring_translations(space_group: int) -> NDArray[np.float64]:
    """Lattice points of the conventional cell, 0 included, (points, 3).

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    rotations, translations = group_operations(space_group)
    return translations[(rotations == np.eye(3)).all((1, 2))]


@cache
def primitive_basis(space_group: int) -> NDArray[np.float64]:
    """Rows of a primitive cell in the basis of the conventional one, (3, 3); its determinant is one over the centring.

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    from euhedral.crystal.symmetry import space_group_symbol

    return _PRIMITIVE[space_group_symbol(space_group)[0]]


def _check(space_group: int) -> None:
    if not 1 <= space_group <= GROUPS:
        raise CrystalError(f"space groups are numbered 1 to {GROUPS}, not {space_group}")


@cache
def _tables() -> dict[int, dict[str, str]]:
    """Coordinates of the first point of each position, by space group and letter."""
    text = files("euhedral.crystal").joinpath("wyckoff_positions.csv").read_text(encoding="utf-8")
    found: dict[int, dict[str, str]] = {}
    for row in csv.DictReader(text.splitlines()):
        found.setdefault(int(row["space_group"]), {})[row["letter"]] = row["coordinates"]
    return found


def _orbit(
    letter: str, coordinates: str, rotations: NDArray[np.float64], translations: NDArray[np.float64]
) -> WyckoffPosition:
    """All points of a position: the images of the first one, each once modulo whole translations."""
    first, shift = _affine(coordinates)
    maps, shifts = rotations @ first, (rotations @ shift + translations) % 1
    # Translations are multiples of 1/24, and products of rotations and maps whole numbers: the comparison is exact.
    keys = np.concatenate([maps.reshape(-1, 9), np.round(24 * shifts) % 24], 1).astype(np.int64)
    kept = np.sort(np.unique(keys, axis=0, return_index=True)[1])
    return WyckoffPosition(letter=letter, maps=maps[kept], shifts=keys[kept, 9:] / 24, free=np.any(first != 0, axis=0))


def _affine(coordinates: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Linear part and shift of coordinates such as "x;2x;1/4"."""
    linear, shift = np.zeros((3, 3)), np.zeros(3)
    for row, expression in enumerate(coordinates.split(";")):
        for sign, number, name in _TERM.findall(expression):
            if not number and not name:
                continue
            value = float(Fraction(number or 1)) * (-1 if sign == "-" else 1)
            if name:
                linear[row, "xyz".index(name)] += value
            else:
                shift[row] += value
    return linear, shift
