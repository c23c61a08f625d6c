"""Where the orbits of an asymmetric unit lie: one point of each to learn from, and the positions nearest to points.

The point is the one nearest to a fixed place among those that lie where the tables have the first point of the position,
so that it has the site symmetry of the tables. Points are put on the nearest position of their site symmetry
(SymmCD, Section 3.4) by distances in the crystal, positions without free coordinates once each.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from euhedral.crystal.asymmetric_unit import AsymmetricUnit
from euhedral.crystal.site_symmetry import site_symmetries
from euhedral.crystal.wyckoff import wyckoff_positions

_PLACE = np.array([0.503, 0.502, 0.501])
"""Near the middle of the conventional cell, and on no symmetry element of any group."""
_SAME_POINT = 1e-4
_WHOLE = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))


def learned_points(unit: AsymmetricUnit) -> NDArray[np.float64]:
    """One point of each orbit in conventional coordinates, in [0, 1), (orbits, 3)."""
    letters = unit.template.letters
    return np.stack(
        [
            _nearest_of_orbit(unit.template.space_group, letter, u)
            for letter, u in zip(letters, unit.coordinates, strict=True)
        ]
    )


def _nearest_of_orbit(space_group: int, letter: str, u: NDArray[np.float64]) -> NDArray[np.float64]:
    position = wyckoff_positions(space_group)[letter]
    points = (position.maps @ u + position.shifts) % 1
    away = points @ position.maps[0].T + position.shifts[0] - points
    points = points[np.abs(away - np.round(away)).max(1) < _SAME_POINT]
    return points[np.square(points - _PLACE).sum(1).argmin()]


def place_orbits(
    space_group: int, kinds: Sequence[int], points: NDArray[np.float64], cell: NDArray[np.float64]
) -> tuple[str, NDArray[np.float64]]:
    """Put orbits on the nearest positions of their site symmetries.

    Args:
        space_group: 1 to 230.
        kinds: site symmetry of each orbit, index in `site_symmetries`; of one that leaves nothing free no more orbits
            than it has positions.
        points: in conventional coordinates, (orbits, 3).
        cell: rows of the conventional cell, (3, 3).

    Returns:
        The letter of each orbit, and its free coordinates, in [0, 1), (orbits, 3).
    """
    from scipy.optimize import linear_sum_assignment

    members: defaultdict[int, list[int]] = defaultdict(list)
    for orbit, kind in enumerate(kinds):
        members[kind].append(orbit)
    letters, places = [""] * len(kinds), np.zeros((len(kinds), 3))
    for kind, orbits in members.items():
        symmetry = site_symmetries(space_group)[kind]
        found = [_projected(space_group, letter, points[orbits], cell) for letter in symmetry.letters]
        distances = np.stack([distance for _, distance in found], 1)
        chosen = linear_sum_assignment(distances)[1] if symmetry.single else distances.argmin(1)
        for row, orbit in enumerate(orbits):
            letters[orbit] = symmetry.letters[chosen[row]]
            places[orbit] = found[chosen[row]][0][row]
    places %= 1
    return "".join(letters), np.where(places >= 1, 0.0, places)


def _projected(
    space_group: int, letter: str, points: NDArray[np.float64], cell: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The nearest points of a position's first representative, (k, 3), and their distances in Å, (k,)."""
    linear, shift = _first(space_group, letter)
    project = linear @ np.linalg.pinv(cell.T @ linear) @ cell.T
    away = points[:, None] - shift - _WHOLE
    nearest = away @ project.T
    distances = np.linalg.norm((away - nearest) @ cell, axis=2)
    best = distances.argmin(1)
    rows = np.arange(len(points))
    return nearest[rows, best] + shift + _WHOLE[best], distances[rows, best]


@lru_cache(maxsize=10_000)
def _first(space_group: int, letter: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    position = wyckoff_positions(space_group)[letter]
    return position.maps[0], position.shifts[0]
