"""What joint models say of a lattice: a cell as numbers that noise can be added to, and back.

Every map takes cells (b, 3, 3) in Å and atom counts (b,), and gives values that are alike for small and large cells:
lengths are taken per cube root of the atom count, but in `MatrixMap`. Maps forget how the crystal is turned.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from euhedral.crystal.lattice import (
    SYMMETRIC_BASIS,
    cell_from_log_symmetric,
    cell_from_parameters,
    log_symmetric,
    parameters_from_cell,
)

SHORTEST, LONGEST = 0.5, 500.0
"""Bounds in Å of a generated cell (its lengths, or its principal stretches), so that a diverged one is a crystal."""
FARTHEST = 20.0
"""Bound of standardised values on their way, for the same reason."""
WIDEST = 5.0
"""Bound of standardised values of a likely cell, in standard deviations of those in training."""
DEEPEST = 8.0
"""Bound of log-symmetric coordinates of a generated cell, for the same reason: stretches of e^8 for one alone."""

Representation = Literal["matrix", "log_symmetric", "symmetric", "tangent", "logit", "cosine"]
Angles = Literal["tangent", "logit", "cosine"]


class LatticeMap(ABC):
    """A cell as values and back.

    Attributes:
        shape: of the values of one crystal.
        bound: of each value on its way from noise to data.
    """

    shape: tuple[int, ...] = (6,)
    bound: float = FARTHEST

    @abstractmethod
    def encode(self, cell: Tensor, num_atoms: Tensor) -> Tensor:
        """Values (b, *shape) of cells (b, 3, 3), float32."""

    @abstractmethod
    def decode(self, values: Tensor, num_atoms: Tensor) -> Tensor:
        """Cells (b, 3, 3) of values."""

    def shown(self, values: Tensor, num_atoms: Tensor) -> Tensor:
        """Six numbers of order one that a network reads of the values, (b, 6)."""
        return values

    def near(self, values: Tensor, num_atoms: Tensor) -> Tensor:
        """Values of cells, those that no training crystal is likely to have brought to the border: `WIDEST` of them."""
        return values.clamp(-WIDEST, WIDEST)


class MatrixMap(LatticeMap):
    """The matrix itself, in Å (DiffCSP, OMatG); what a network reads is its metric, which no rotation changes.

    Crystals are turned until a lies along x and b in the xy plane, as cells that are drawn as noise are (`LatticeField`):
    matrices between a crystal and noise that is turned otherwise would be those of flat cells.

    Args:
        lengths: mean and standard deviation of log(length / Å) - log(N) / 3 of each edge in training, (2, 3).
    """

    shape = (3, 3)
    bound = LONGEST

    def __init__(self, lengths: Tensor) -> None:
        self.lengths = lengths

    def encode(self, cell: Tensor, num_atoms: Tensor) -> Tensor:
        """The cell, turned."""
        return cell_from_parameters(*parameters_from_cell(cell.double())).float()

    def decode(self, values: Tensor, num_atoms: Tensor) -> Tensor:
        """The values."""
        return values

    def shown(self, values: Tensor, num_atoms: Tensor) -> Tensor:
        """Coordinates of the metric, which cells of any size keep below one."""
        metric = torch.einsum("bij,kij->bk", values @ values.mT, SYMMETRIC_BASIS.to(values))
        return metric / (1 + metric[:, 5:].abs())

    def near(self, values: Tensor, num_atoms: Tensor) -> Tensor:
        """Cells whose longer edges are shortened."""
        mean, std = self.lengths.to(values)
        longest = (mean + WIDEST * std + num_atoms.to(values).log()[:, None] / 3).exp()
        return values * (longest / values.norm(dim=-1).clamp_min(1e-9)).clamp_max(1)[..., None]


class LogSymmetricMap(LatticeMap):
    """The six standardised coordinates of the log-symmetric matrix (DiffCSP++, Section 4.1)."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std

    def encode(self, cell: Tensor, num_atoms: Tensor) -> Tensor:
        """See the class."""
        return ((log_symmetric(cell, num_atoms) - self.mean.to(cell)) / self.std.to(cell)).float()

    def decode(self, values: Tensor, num_atoms: Tensor) -> Tensor:
        """The symmetric cell."""
        coordinates = values * self.std.to(values) + self.mean.to(values)
        return cell_from_log_symmetric(coordinates.clamp(-DEEPEST, DEEPEST), num_atoms)


class SymmetricMap(LatticeMap):
    """Coordinates of the symmetric matrix itself, not of its logarithm (MatterGen, Appendix A.5).

    P = (L Lᵀ)^1/2 over the cube root of the atom count; at a limit of noise it is the cube of the mean atomic density,
    with a standard deviation of `spread` Å.

    Args:
        density: atoms per Å³ at the limit of noise.
        spread: standard deviation of each entry there, Å.
    """

    def __init__(self, *, density: float = 0.05771451654022283, spread: float = 0.5) -> None:
        self.mean = math.sqrt(3) * density ** (-1 / 3)
        # A coordinate of the first three stands for two equal entries, and is sqrt(2) times each.
        self.spread = spread * torch.tensor([2.0, 2.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64).sqrt()

    def encode(self, cell: Tensor, num_atoms: Tensor) -> Tensor:
        """See the class."""
        values, vectors = torch.linalg.eigh(cell.double() @ cell.double().mT)
        root = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mT
        coordinates = torch.einsum("bij,kij->bk", root, SYMMETRIC_BASIS.to(root.device))
        coordinates = coordinates / num_atoms.to(coordinates)[:, None] ** (1 / 3)
        coordinates[:, 5] -= self.mean
        return (coordinates / self.spread.to(coordinates)).float()

    def decode(self, values: Tensor, num_atoms: Tensor) -> Tensor:
        """The symmetric matrix, whose eigenvalues a diverged one may have below zero."""
        coordinates = values * self.spread.to(values)
        coordinates = torch.cat([coordinates[:, :5], coordinates[:, 5:] + self.mean], 1)
        cell = torch.einsum("bk,kij->bij", coordinates, SYMMETRIC_BASIS.to(coordinates))
        return cell * num_atoms.to(values)[:, None, None] ** (1 / 3)

    def near(self, values: Tensor, num_atoms: Tensor) -> Tensor:
        """Values that are not standardised: within their bound."""
        return values.clamp(-self.bound, self.bound)


class ParameterMap(LatticeMap):
    """Three lengths and three angles.

    The logarithm of each length over the cube root of the atom count is standardised. An angle a enters as
    tan(a - 90°) / 0.35 (KLDM, EquiCSP), as the logit of (a - 60°) / 60° over `LOGIT_SPREAD` (FlowMM, Section 4.2: reduced
    cells have angles from 60° to 120°; those outside are taken to the border), or as its cosine over 0.25 (Crystalite).

    Args:
        mean: of log(length / Å) - log(N) / 3, three numbers.
        std: their standard deviation.
        angles: see above.
    """

    LOGIT_SPREAD = 2.2
    TANGENT_SPREAD = 0.35
    COSINE_SPREAD = 0.25

    def __init__(self, mean: Tensor, std: Tensor, angles: Angles) -> None:
        self.mean, self.std, self.angles = mean, std, angles

    def encode(self, cell: Tensor, num_atoms: Tensor) -> Tensor:
        """See the class."""
        lengths, angles = parameters_from_cell(cell.double())
        size = num_atoms.to(lengths).log()[:, None] / 3
        lengths = (lengths.log() - size - self.mean.to(lengths)) / self.std.to(lengths)
        return torch.cat([lengths, self._from_angles(angles)], 1).float()

    def decode(self, values: Tensor, num_atoms: Tensor) -> Tensor:
        """A cell with a along x; angles that cannot close a cell are taken toward 90° until they do."""
        exact = values.double()
        size = num_atoms.to(exact).log()[:, None] / 3
        lengths = exact[:, :3] * self.std.to(exact) + self.mean.to(exact) + size
        lengths = lengths.exp().clamp(SHORTEST, LONGEST)
        return cell_from_parameters(lengths, closable(self._to_angles(exact[:, 3:]))).to(values.dtype)

    def _from_angles(self, angles: Tensor) -> Tensor:
        if self.angles == "tangent":
            return torch.tan(torch.deg2rad(angles - 90)) / self.TANGENT_SPREAD
        if self.angles == "cosine":
            return torch.cos(torch.deg2rad(angles)) / self.COSINE_SPREAD
        return torch.logit(((angles - 60) / 60).clamp(0.002, 0.998)) / self.LOGIT_SPREAD

    def _to_angles(self, values: Tensor) -> Tensor:
        if self.angles == "tangent":
            return 90 + torch.rad2deg(torch.atan(values * self.TANGENT_SPREAD))
        if self.angles == "cosine":
            return torch.rad2deg(torch.acos((values * self.COSINE_SPREAD).clamp(-0.99, 0.99)))
        return 60 + 60 * torch.sigmoid(values * self.LOGIT_SPREAD)


def closable(angles: Tensor, *, least: float = 0.05) -> Tensor:
    """Angles in degrees, (b, 3), moved toward 90° as little as halving allows until they span a volume.

    Args:
        angles: in (0, 180).
        least: volume of the cell of unit lengths that is enough.
    """
    share = torch.ones_like(angles[:, :1])
    for _ in range(8):
        cos = torch.cos(torch.deg2rad(90 + share * (angles - 90)))
        square = 1 - cos.square().sum(1, keepdim=True) + 2 * cos.prod(1, keepdim=True)
        share = torch.where(square < least**2, 0.7 * share, share)
    return 90 + share * (angles - 90)


def bounded_cell(cell: Tensor) -> Tensor:
    """Cells without their rotation, whose principal stretches are kept within bounds, (b, 3, 3)."""
    exact = cell.double()
    values, vectors = torch.linalg.eigh(exact @ exact.mT)
    stretches = values.clamp(SHORTEST**2, LONGEST**2).sqrt()
    return ((vectors * stretches[:, None]) @ vectors.mT).to(cell.dtype)
