"""Bonds of a crystal: every pair of atoms, periodic images included, that is closer than a cutoff."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from euhedral.crystal.geometry import wrap_centered
from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

MAX_IMAGES = 50_000
"""Periodic images that a search may visit; a cell that needs more has collapsed (6 Å hold as many of 0.02 Å3)."""
DISTANCES_AT_ONCE = 1_000_000
"""Candidate distances held in memory at a time (about 50 MB)."""


@dataclass(frozen=True, kw_only=True)
class Bonds:
    """The bonds of one crystal, each listed once, shorter than `reach` where the crystal was when they were found.

    A bond goes from atom `first` to the image of atom `second` that is `shift` cells away:
    `vector = (frac[second] - frac[first] + shift) @ cell`.

    Attributes:
        first: (bonds,).
        second: (bonds,).
        shift: whole numbers as float64, (bonds, 3).
        frac: where the atoms were, float64, not wrapped since, (atoms, 3).
        cell: where the cell was, float64, (3, 3).
        reach: in Å.
    """

    first: Int[Tensor, " bonds"]
    second: Int[Tensor, " bonds"]
    shift: Float[Tensor, "bonds 3"]
    frac: Float[Tensor, "atoms 3"]
    cell: Float[Tensor, "3 3"]
    reach: float

    def vectors(self, frac: Float[Tensor, "atoms 3"], cell: Float[Tensor, "3 3"]) -> Float[Tensor, "bonds 3"]:
        """Bond vectors in Å after the atoms moved to `frac` and the cell to `cell`, (bonds, 3)."""
        moved = self.frac + wrap_centered(frac - self.frac)
        return (moved[self.second] - moved[self.first] + self.shift) @ cell

    def still_hold(self, frac: Float[Tensor, "atoms 3"], cell: Float[Tensor, "3 3"], cutoff: float) -> bool:
        """Whether no pair closer than `cutoff` can be missing at `frac` and `cell`.

        A vector v of the old crystal is v F + u now, with F = cell_old^-1 cell and u the difference of what two atoms moved
        within the cell; its length is at least s |v| - 2 max|u|, s the smallest singular value of F.
        """
        finite = bool(torch.isfinite(cell).all()) and bool(torch.isfinite(frac).all())
        if frac.shape != self.frac.shape or not finite:
            return False
        smallest = torch.linalg.svdvals(torch.linalg.solve(self.cell, cell))[-1]
        moved = torch.linalg.norm(wrap_centered(frac - self.frac) @ cell, dim=1).max()
        return bool(smallest * self.reach - 2 * moved >= cutoff)


def find_bonds(frac: Float[Tensor, "atoms 3"], cell: Float[Tensor, "3 3"], reach: float) -> Bonds:
    """All bonds shorter than `reach` Å of one crystal, those of an atom with its own images included.

    Args:
        frac: fractional coordinates, float64, (atoms, 3).
        cell: rows a, b, c in Å, float64, (3, 3).
        reach: in Å.

    Raises:
        CrystalError: on numbers that are not finite, and on a cell too flat to search.
    """
    if not bool(torch.isfinite(cell).all()) or not bool(torch.isfinite(frac).all()):
        raise CrystalError("a coordinate or cell vector is not finite")
    home = torch.floor(frac)
    inside = frac - home
    volume = torch.linalg.det(cell).abs()
    across = torch.stack([torch.linalg.cross(cell[(k + 1) % 3], cell[(k + 2) % 3]).norm() for k in range(3)])
    # Coordinates differ by less than one, so that an image `m` layers away is at least (m - 1) heights away.
    layers = torch.floor(reach * across / volume).nan_to_num(math.inf, posinf=math.inf) + 1
    if not float(torch.prod(2 * layers + 1)) <= MAX_IMAGES:
        raise CrystalError(f"the cell is too flat to find neighbours in ({float(volume):.3g} Å3)")
    shifts = torch.cartesian_prod(*(torch.arange(-m, m + 1, dtype=torch.float64) for m in layers.long().tolist()))
    atoms = frac.shape[0]
    upper = torch.triu_indices(atoms, atoms, 1)
    own = torch.arange(atoms)
    # An atom's bonds with its own images come in pairs of opposite shifts; the later half has one of each.
    parts = [
        _closer(inside, cell, upper[0], upper[1], shifts, reach),
        _closer(inside, cell, own, own, shifts[shifts.shape[0] // 2 + 1 :], reach),
    ]
    first, second, shift = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Bonds(
        first=first, second=second, shift=shift + home[first] - home[second], frac=frac, cell=cell, reach=reach
    )


def _closer(
    frac: Tensor, cell: Tensor, first: Tensor, second: Tensor, shifts: Tensor, reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs and shifts whose distance is below `reach`."""
    between = (frac[second] - frac[first]) @ cell
    away = shifts @ cell
    rows = max(1, DISTANCES_AT_ONCE // max(1, shifts.shape[0]))
    pairs, images = [], []
    for start in range(0, first.shape[0], rows):
        squares = (between[start : start + rows, None] + away).square().sum(-1)
        pair, image = (squares < reach**2).nonzero(as_tuple=True)
        pairs.append(pair + start)
        images.append(image)
    pair = torch.cat(pairs) if pairs else first[:0]
    image = torch.cat(images) if images else first[:0]
    return first[pair], second[pair], shifts[image]
