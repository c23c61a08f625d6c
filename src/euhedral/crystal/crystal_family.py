"""What the crystal family leaves free of a lattice, in the coordinates of `lattice.log_symmetric`.

A rotation W of the group keeps the metric G of the conventional cell: W^T G W = G. Where W is orthogonal it keeps the
logarithm of G too, so that symmetric lattices are the points of a linear subspace of the six coordinates; hexagonal axes,
whose angle of 120 degrees is no coordinate of zero, shift it (Jiao et al., DiffCSP++, ICLR 2024, Proposition 2 and Table 1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_FAMILIES = (
    # Last space group of the family, and which of the coordinates xy, xz, yz, xx - yy, zz, volume are free.
    (2, (True,) * 6),
    (15, (False, True, False, True, True, True)),
    (74, (False, False, False, True, True, True)),
    (194, (False, False, False, False, True, True)),
    (230, (False, False, False, False, False, True)),
)
_HEXAGONAL = (143, 194)
_HEXAGONAL_XY = -math.sqrt(2) * math.log(3) / 4
"""The xy coordinate of any cell with a = b and gamma = 120 degrees: half the logarithm of [[1, -1/2], [-1/2, 1]]."""


def family_subspace(space_group: Int[Tensor, " b"]) -> tuple[Bool[Tensor, "b 6"], Float[Tensor, "b 6"]]:
    """Which of the log-symmetric coordinates of the conventional cell are free, and what the others are.

    Args:
        space_group: numbers 1 to 230, (b,).

    Returns:
        Free coordinates, and float64 values that are 0 where free, (b, 6) each.

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    if space_group.numel() and not bool(((space_group >= 1) & (space_group <= 230)).all()):
        raise CrystalError(f"space groups are numbered 1 to 230, not {space_group.tolist()}")
    lasts = torch.tensor([last for last, _ in _FAMILIES], device=space_group.device)
    free = torch.tensor([coordinates for _, coordinates in _FAMILIES], device=space_group.device)
    fixed = torch.zeros(len(space_group), 6, dtype=torch.float64, device=space_group.device)
    hexagonal = (space_group >= _HEXAGONAL[0]) & (space_group <= _HEXAGONAL[1])
    fixed[:, 0] = torch.where(hexagonal, _HEXAGONAL_XY, 0.0)
    return free[torch.searchsorted(lasts, space_group)], fixed


def onto_family(coordinates: Float[Tensor, "b 6"], space_group: Int[Tensor, " b"]) -> Float[Tensor, "b 6"]:
    """The nearest lattice of the crystal family, in log-symmetric coordinates of the conventional cell.

    Args:
        coordinates: as `lattice.log_symmetric` gives them, (b, 6).
        space_group: numbers 1 to 230, (b,).

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    free, fixed = family_subspace(space_group)
    return torch.where(free, coordinates, fixed.to(coordinates.dtype))
