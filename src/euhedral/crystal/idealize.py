"""Crystals moved onto the symmetry that they nearly have: cell, atoms and their number stay, positions and metric change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import change_cell, wrap, wrap_centered
from euhedral.crystal.symmetry import ReducedCell, reduced_cells
from euhedral.crystal.symmetry_search import SearchRequest, Symmetry, symmetry_of
from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def idealized(
    batch: CrystalBatch,
    tolerances: Sequence[float],
    *,
    search: Callable[[SearchRequest], Symmetry] = symmetry_of,
) -> CrystalBatch:
    """Each crystal with exactly the symmetry that moyopy finds at the loosest tolerance at which it finds any.

    The crystal is averaged over the operations (R, t) of the space group found: f_j <- mean of R f_i + t over the atoms
    i that land on j, and the metric G <- mean of R^T G R, which is the orthogonal projection onto the symmetric
    crystals of this cell. The cell keeps its setting and orientation (its strain is a symmetric stretch) and the atoms
    their number and order, unlike in `symmetry.conventional`. A crystal in which no operation beyond the identity is
    found at any tolerance, or in which two atoms would land on one, is given back as it is.

    Args:
        batch: crystals.
        tolerances: in Å, tried from the loosest.
        search: what searches; it raises CrystalError where there is nothing to be found. moyopy itself may search a
            distorted cell for ever (`data.symmetry_worker` ends that).

    Raises:
        CrystalError: on a tolerance that is not above 0.
    """
    if any(not tolerance > 0 for tolerance in tolerances):
        raise CrystalError(f"symmetry tolerances must be above 0 Å, not {list(tolerances)}")
    ordered = sorted(tolerances, reverse=True)
    crystals = []
    for crystal, cell in zip(batch, reduced_cells(batch), strict=True):
        found = None if isinstance(cell, CrystalError) else _idealized(cell, ordered, search)
        crystals.append(crystal if found is None else found.to(batch.cell.dtype).to(batch.cell.device))
    return CrystalBatch.concat(crystals)


def _idealized(
    cell: ReducedCell, tolerances: Sequence[float], search: Callable[[SearchRequest], Symmetry]
) -> CrystalBatch | None:
    """The symmetric crystal in the cell as it was given; None where no symmetry is found."""
    reduced = cell.crystal
    for tolerance in tolerances:
        try:
            found = search(cell.request(tolerance))
        except CrystalError:
            continue
        rotations, translations = (torch.tensor(part, dtype=torch.float64) for part in found[1:])
        if len(rotations) == 1:
            continue
        frac = _averaged_positions(reduced, rotations, translations)
        if frac is None:
            continue
        metric = reduced.cell[0] @ reduced.cell[0].T
        metric = (rotations.transpose(1, 2) @ metric @ rotations).mean(0)
        symmetric = CrystalBatch(
            frac=wrap(frac),
            cell=_with_metric(reduced.cell[0], metric)[None],
            species=reduced.species,
            num_atoms=reduced.num_atoms,
        )
        return change_cell(symmetric, cell.inverse[None])
    return None


def _averaged_positions(
    crystal: CrystalBatch, rotations: Float[Tensor, "k 3 3"], translations: Float[Tensor, "k 3"]
) -> Float[Tensor, "n 3"] | None:
    """Mean over the operations of the atoms that land on each atom; None where an operation does not permute them."""
    frac, count = crystal.frac, crystal.species.numel()
    images = torch.einsum("kxy,ny->knx", rotations, frac) + translations[:, None]
    shift = wrap_centered(images[:, :, None] - frac)
    squared = (shift @ crystal.cell[0]).square().sum(-1)
    squared = squared.masked_fill(crystal.species[:, None] != crystal.species, torch.inf)
    lands_on = squared.argmin(2)
    if not bool((lands_on.sort(1).values == torch.arange(count)).all()):
        return None
    moved = shift.gather(2, lands_on[:, :, None, None].expand(-1, -1, 1, 3))[:, :, 0]
    total = torch.zeros_like(moved).scatter_(1, lands_on[:, :, None].expand_as(moved), moved)
    return frac + total.mean(0)


def _with_metric(cell: Float[Tensor, "3 3"], metric: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    """The cell with a metric that differs from `cell` by a symmetric stretch: C F with F = (C^-1 G C^-T)^(1/2)."""
    inverse = torch.linalg.inv(cell)
    values, vectors = torch.linalg.eigh(inverse @ metric @ inverse.T)
    return cell @ (vectors * values.sqrt()) @ vectors.T
