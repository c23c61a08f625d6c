"""Whether a crystal keeps every operation of a space group, so that its own group is that one or a supergroup of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap_centered
from euhedral.crystal.wyckoff import group_operations, primitive_basis

if TYPE_CHECKING:
    from jaxtyping import Bool


def keeps_operations(batch: CrystalBatch, space_group: int, tolerance: float = 0.01) -> Bool[Tensor, " crystals"]:
    """Whether each crystal is carried onto itself by a group's operations in the primitive cell of the standard setting.

    An operation (W, w) must bring each atom within the tolerance of one of its element, and move no end of a cell vector by
    more than it: |c W^T G W c - c G c| small for the metric G. A crystal in another cell, or with another origin, is judged
    as if it were in this one.

    Args:
        batch: crystals in the cells of `wyckoff.primitive_basis`, as `models.diffcsp_pp` gives them.
        space_group: 1 to 230.
        tolerance: in Å.

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    conventional, shifts = (torch.from_numpy(part) for part in group_operations(space_group))
    basis = torch.from_numpy(primitive_basis(space_group))
    rotations = torch.linalg.inv(basis).T @ conventional @ basis.T
    translations = shifts @ torch.linalg.inv(basis)
    verdicts = [_keeps(crystal, rotations, translations, tolerance) for crystal in batch.to("cpu").to(torch.float64)]
    return torch.tensor(verdicts, dtype=torch.bool)


def _keeps(crystal: CrystalBatch, rotations: Tensor, translations: Tensor, tolerance: float) -> bool:
    cell, frac, species = crystal.cell[0], crystal.frac, crystal.species
    metric = cell @ cell.T
    lengths = metric.diagonal().sqrt()
    # A vector's square changes by twice its length times what its end moves.
    allowed = 2 * tolerance * torch.maximum(lengths[:, None], lengths)
    if bool(((rotations.mT @ metric @ rotations - metric).abs() > allowed).any()):
        return False
    images = torch.einsum("kxy,ny->knx", rotations, frac) + translations[:, None]
    away = torch.linalg.norm(wrap_centered(images[:, :, None] - frac) @ cell, dim=-1)
    away = away.masked_fill(species[:, None] != species, torch.inf)
    return bool((away.amin(2) <= tolerance).all())
