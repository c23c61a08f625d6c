"""What a picture of a unit cell shows: its atoms with their images on the faces, its bonds and its box."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import COVALENT_RADII
from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray

YAW, PITCH = -24.0, 14.0
"""Degrees by which the cell is turned to the left, and seen from above."""

FACE_TOLERANCE = 0.25
"""Å from a face within which an atom is shown on the opposite one too; generated atoms lie near a face, not on it."""

BOND_FACTOR = 1.2
"""Two atoms are joined up to this multiple of the sum of their covalent radii."""

# fmt: off
NONMETALS = frozenset(
    (1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86, 117, 118)
)
# fmt: on

_RADII = np.array(COVALENT_RADII)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One unit cell in the coordinates of the viewer: x to the right, y up, z towards the eye, origin in its middle.

    Attributes:
        numbers: atomic number of each atom shown, (shown,).
        positions: Cartesian coordinates in Å, (shown, 3).
        bonds: pairs of atoms that are joined, (bonds, 2).
        cell: lattice vectors a, b, c as rows, in Å, (3, 3).
    """

    numbers: Int[ndarray, " shown"]
    positions: Float[ndarray, "shown 3"]
    bonds: Int[ndarray, "bonds 2"]
    cell: Float[ndarray, "3 3"]

    @cached_property
    def radii(self) -> Float[ndarray, " shown"]:
        """Radius in Å at which each atom is drawn, (shown,)."""
        return drawn_radius(self.numbers)

    @property
    def origin(self) -> Float[ndarray, " 3"]:
        """The corner from which a, b and c start, (3,)."""
        return -0.5 * self.cell.sum(0)


def drawn_radius(numbers: Int[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Radius in Å of the ball of each element: 0.25 (1 + covalent radius), so that hydrogen is still seen."""
    return 0.25 * (1 + _RADII[numbers])


def build_scene(crystal: CrystalBatch) -> Scene:
    """Lay out one crystal for drawing, its c axis up, b to the right and a towards the eye.

    Raises:
        CrystalError: where the batch does not hold exactly one crystal, or one that `CrystalBatch.validate` refuses.
    """
    if len(crystal) != 1:
        raise CrystalError(f"a picture shows one crystal, but the batch holds {len(crystal)}; select one, as batch[0]")
    crystal.validate()
    cell = crystal.cell[0].double().cpu().numpy()
    frac, numbers = _with_face_images(
        crystal.frac.double().cpu().numpy(), crystal.species.cpu().numpy(), FACE_TOLERANCE / _heights(cell)
    )
    turned = cell @ _view(cell).T
    positions = (frac - 0.5) @ turned
    return Scene(numbers=numbers, positions=positions, bonds=find_bonds(numbers, positions), cell=turned)


def find_bonds(numbers: Int[ndarray, " n"], positions: Float[ndarray, "n 3"]) -> Int[ndarray, "bonds 2"]:
    """Pairs i < j of atoms at most `BOND_FACTOR` (r_i + r_j) apart, for covalent radii r, (bonds, 2).

    Two metals are not joined in a compound with a non-metal: the large radii of cations would join every neighbour.
    """
    from scipy.spatial import KDTree  # type: ignore

    radii = _RADII[numbers]
    pairs = KDTree(positions).query_pairs(2 * BOND_FACTOR * float(radii.max()), output_type="ndarray")
    if not len(pairs):
        return np.zeros((0, 2), dtype=np.int64)
    i, j = pairs.T
    distance = np.linalg.norm(positions[i] - positions[j], axis=1)
    joined = (distance <= BOND_FACTOR * (radii[i] + radii[j])) & (distance > 1e-3)
    metal = np.array([int(z) not in NONMETALS for z in numbers])
    if not metal.all():
        joined &= ~(metal[i] & metal[j])
    pairs = pairs[joined]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].astype(np.int64)


def _heights(cell: Float[ndarray, "3 3"]) -> Float[ndarray, " 3"]:
    """Distance in Å between opposite faces, 1/|a*|, 1/|b*|, 1/|c*|; reciprocal vectors are columns of the inverse."""
    return 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)


def _with_face_images(
    frac: Float[ndarray, "n 3"], numbers: Int[ndarray, " n"], tolerance: Float[ndarray, " 3"]
) -> tuple[Float[ndarray, "shown 3"], Int[ndarray, " shown"]]:
    """Repeat the atoms that lie on a face, an edge or a corner on the opposite ones."""
    for axis in range(3):
        limit = min(float(tolerance[axis]), 0.25)
        low, high = frac[:, axis] < limit, frac[:, axis] > 1 - limit
        step = np.eye(3)[axis]
        frac = np.concatenate([frac, frac[low] + step, frac[high] - step])
        numbers = np.concatenate([numbers, numbers[low], numbers[high]])
    return frac, numbers


def _view(cell: Float[ndarray, "3 3"]) -> Float[ndarray, "3 3"]:
    """The proper rotation from the frame of the crystal to that of the viewer; a mirror image is never made."""
    up = cell[2] / np.linalg.norm(cell[2])
    toward = cell[0] - (cell[0] @ up) * up
    toward /= np.linalg.norm(toward)
    frame = np.stack([np.cross(up, toward), up, toward])
    yaw, pitch = np.deg2rad([YAW, PITCH])
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return tilt @ turn @ frame
