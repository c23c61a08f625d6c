"""How stiff a crystal is along its coordinates, guessed from its bonds alone: what a descent knows before its first step.

Each bond of vector v is a spring that resists what its two ends do relative to each other,
d = u_second - u_first + v @ strain, along the bond and by a part of it across:
K = k exp(-a (r / r0 - 1)) ((1 - t) v v^T / r² + t), with r0 the longer of its atoms' shortest bonds. The strain is among
the coordinates, so that the softness of the cell and its coupling to the atoms are guessed too. The fall of stiffness with
distance is that of the preconditioner of Packwood et al. (J. Chem. Phys. 144, 164109, 2016, eq. 9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from euhedral.screen.neighbours import find_bonds

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from euhedral.crystal.batch import CrystalBatch

CELL_COORDINATES = 9
"""Coordinates of the cell, which come before those of the atoms."""

_STIFFNESS = 20.0  # eV/Å², of the shortest bonds; a descent soon finds out by what factor it is wrong
_DECAY = 3.0
_ACROSS = 0.2
_LEAST = 0.5  # eV/Å² in every direction, so that nothing is free
_REACH = 1.9  # of r0
_SEARCH = 7.0  # Å


def spring_compliance(crystal: CrystalBatch, *, stretch: float, relax_cell: bool = True) -> Float[Tensor, "d d"]:
    """Inverse of the springs' Hessian in Å²/eV, (9 + 3 atoms, 9 + 3 atoms).

    Args:
        crystal: one crystal, float64, whose bonds can be searched.
        stretch: Å that a cell coordinate counts for a strain of 1.
        relax_cell: whether the cell can move; where it cannot, it does not yield to anything.
    """
    atoms = crystal.species.shape[0]
    size = CELL_COORDINATES + 3 * atoms
    bonds = find_bonds(crystal.frac, crystal.cell[0], _SEARCH)
    vectors = bonds.vectors(crystal.frac, crystal.cell[0])
    lengths = torch.linalg.norm(vectors, dim=1)
    shortest = torch.full((atoms,), _SEARCH, dtype=torch.float64)
    for end in (bonds.first, bonds.second):
        shortest.scatter_reduce_(0, end, lengths, "amin")
    scale = torch.maximum(shortest[bonds.first], shortest[bonds.second])
    near = lengths < _REACH * scale
    first, second, vectors, lengths, scale = (
        part[near] for part in (bonds.first, bonds.second, vectors, lengths, scale)
    )
    eye = torch.eye(3, dtype=torch.float64)
    units = vectors / lengths[:, None]
    springs = (1 - _ACROSS) * units[:, :, None] * units[:, None, :] + _ACROSS * eye
    springs = springs * (_STIFFNESS * torch.exp(-_DECAY * (lengths / scale - 1)))[:, None, None]
    moves = torch.zeros(len(lengths), 3, size, dtype=torch.float64)
    # d_c of v @ strain is the sum over a of v_a strain_ac; of the strain, only the symmetric part counts.
    strained = vectors[:, :, None, None] * eye[None, None] / (2 * stretch)
    moves[:, :, :CELL_COORDINATES] = (strained + strained.transpose(1, 2)).permute(0, 3, 1, 2).flatten(2)
    rows = torch.arange(len(lengths))[:, None]
    axes = torch.arange(3)[None]
    for end, sign in ((second, 1.0), (first, -1.0)):
        columns = CELL_COORDINATES + 3 * end[:, None] + axes
        moves.index_put_((rows, axes, columns), torch.tensor(sign, dtype=torch.float64), accumulate=True)
    hessian = torch.einsum("bcx,bcy->xy", moves, springs @ moves)
    hessian += _LEAST * torch.eye(size, dtype=torch.float64)
    free = slice(0 if relax_cell else CELL_COORDINATES, size)
    compliance = torch.zeros_like(hessian)
    compliance[free, free] = torch.linalg.inv(hessian[free, free])
    return compliance
