"""Lattices: six parameters, the 3x3 matrix, and the symmetric logarithm that the models learn.

Any right-handed cell L (rows a, b, c) has a polar decomposition L = exp(S) Q with S symmetric and Q a rotation. S does
not change when the crystal is rotated, so six numbers describe the lattice without redundancy (Jiao et al., DiffCSP++,
ICLR 2024, Section 4.1). The volume is exp(tr S); subtracting log(N)/3 on the diagonal takes out the atom count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

# Orthonormal basis of the symmetric 3x3 matrices (Frobenius product); the last vector carries the volume alone.
_S2, _S3, _S6 = 2**-0.5, 3**-0.5, 6**-0.5
SYMMETRIC_BASIS = torch.tensor(
    [
        [[0, _S2, 0], [_S2, 0, 0], [0, 0, 0]],
        [[0, 0, _S2], [0, 0, 0], [_S2, 0, 0]],
        [[0, 0, 0], [0, 0, _S2], [0, _S2, 0]],
        [[_S2, 0, 0], [0, -_S2, 0], [0, 0, 0]],
        [[_S6, 0, 0], [0, _S6, 0], [0, 0, -2 * _S6]],
        [[_S3, 0, 0], [0, _S3, 0], [0, 0, _S3]],
    ],
    dtype=torch.float64,
)


def cell_from_parameters(lengths: Float[Tensor, "*b 3"], angles: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Cell with a along x and b in the xy plane, from lengths (Å) and angles alpha, beta, gamma (degrees).

    The third vector follows from the metric; it is NaN where the angles cannot close a cell.
    """
    cos = torch.cos(torch.deg2rad(angles))
    sin_gamma = torch.sin(torch.deg2rad(angles[..., 2]))
    cx = cos[..., 1]
    cy = (cos[..., 0] - cos[..., 1] * cos[..., 2]) / sin_gamma
    cz = torch.sqrt(1 - cx**2 - cy**2)
    zero, one = torch.zeros_like(cx), torch.ones_like(cx)
    unit = torch.stack(
        [
            torch.stack([one, zero, zero], -1),
            torch.stack([cos[..., 2], sin_gamma, zero], -1),
            torch.stack([cx, cy, cz], -1),
        ],
        -2,
    )
    return unit * lengths[..., None]


def parameters_from_cell(cell: Float[Tensor, "*b 3 3"]) -> tuple[Float[Tensor, "*b 3"], Float[Tensor, "*b 3"]]:
    """Lengths (Å) and angles alpha, beta, gamma (degrees) of a cell; the inverse of `cell_from_parameters`."""
    lengths = torch.linalg.norm(cell, dim=-1)
    unit = cell / lengths[..., None]
    pairs = ((1, 2), (0, 2), (0, 1))
    # atan2 of the chord lengths keeps full accuracy near 0 and 180 degrees, where arccos loses half the digits.
    angles = [
        2
        * torch.atan2(
            torch.linalg.norm(unit[..., i, :] - unit[..., j, :], dim=-1),
            torch.linalg.norm(unit[..., i, :] + unit[..., j, :], dim=-1),
        )
        for i, j in pairs
    ]
    return lengths, torch.rad2deg(torch.stack(angles, -1))


def log_symmetric(cell: Float[Tensor, "b 3 3"], num_atoms: Tensor) -> Float[Tensor, "b 6"]:
    """Coordinates of S - (log N)/3 I in `SYMMETRIC_BASIS`, where cell = exp(S) Q; see the module docstring.

    S = log(L Lᵀ)/2, by the eigenvectors of the metric tensor. Rotating the crystal does not change it.

    Args:
        cell: rows a, b, c in Å, (b, 3, 3), not singular.
        num_atoms: atoms in each cell, (b,).
    """
    metric = cell.double() @ cell.double().transpose(-1, -2)
    values, vectors = torch.linalg.eigh(metric)
    log = (vectors * (0.5 * values.log())[..., None, :]) @ vectors.transpose(-1, -2)
    coordinates = torch.einsum("bij,kij->bk", log, SYMMETRIC_BASIS.to(log.device))
    coordinates[:, 5] -= num_atoms.to(log).log() * _S3
    return coordinates.to(cell.dtype)


def cell_from_log_symmetric(coordinates: Float[Tensor, "b 6"], num_atoms: Tensor) -> Float[Tensor, "b 3 3"]:
    """The symmetric cell exp(S) in Å; inverse of `log_symmetric` up to a rotation of the whole crystal.

    Args:
        coordinates: as `log_symmetric` gives them, (b, 6).
        num_atoms: atoms in each cell, (b,).
    """
    basis = SYMMETRIC_BASIS.to(device=coordinates.device, dtype=coordinates.dtype)
    log = torch.einsum("bk,kij->bij", coordinates, basis)
    volume_part = num_atoms.to(coordinates).log() / 3
    log = log + volume_part[:, None, None] * torch.eye(3, dtype=log.dtype, device=log.device)
    return torch.linalg.matrix_exp(log)
