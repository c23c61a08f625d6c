"""Backbones whose vectors are sums of displacements, with factors that messages give (EGNN, GemNet-T)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from euhedral.crystal.lattice import SYMMETRIC_BASIS
from euhedral.nets.base import Prediction
from euhedral.nets.periodic_transformer import SPACE_GROUPS, SPECIES

if TYPE_CHECKING:
    from jaxtyping import Float


class PairSums:
    """Sums over layers, and over the atoms j that an atom i has about it, of what is said of the pairs.

    Displacements are what `PairFeatures` gives: weighted sums over the images of a pair, one of each of w widths. Out of
    reach of autocast: they cancel.

    Args:
        away: displacements in fractional coordinates, (b, i, j, w, 3).
        cell: rows a, b, c in Å, (b, 3, 3).
        vectors: vectors of each atom.
    """

    def __init__(self, away: Float[Tensor, "b i j w 3"], cell: Float[Tensor, "b 3 3"], *, vectors: int) -> None:
        b, n = away.shape[:2]
        self._away, self._cartesian, self._vectors = away, away @ cell[:, None, None], vectors
        self.frac = away.new_zeros(b, n, 3 * vectors)
        self.tensor = away.new_zeros(b, 3, 3)

    def add(self, force: Float[Tensor, "b i j v w"], stress: Float[Tensor, "b i j w"]) -> None:
        """Displacements times `force` to the vectors, and their products d d^T in Å² times `stress` to the tensor."""
        along = (force.float()[..., None] * self._away[..., None, :, :]).sum(-2).flatten(-2)
        pairs = stress.shape[1] ** 2
        self.frac = self.frac + along.mean(2)
        self.tensor = (
            self.tensor
            + torch.einsum("bijk,bijkx,bijky->bxy", stress.float(), self._cartesian, self._cartesian) / pairs
        )


class PairSumNet(nn.Module):
    """A backbone that says of vectors and of the lattice what its pairs sum up to; subclasses make the layers."""

    norm: nn.LayerNorm
    to_species: nn.Linear | None
    to_space_group: nn.Linear | None
    to_lattice: nn.Linear

    def read(self, atoms: Float[Tensor, "b n c"], sums: PairSums) -> Prediction:
        """The prediction of atoms after the last layer and of the sums over all layers."""
        atoms = self.norm(atoms)
        pooled, frac = atoms.mean(1), sums.frac
        strained = torch.einsum("bxy,kxy->bk", sums.tensor, SYMMETRIC_BASIS.to(sums.tensor))
        b, n = frac.shape[:2]
        groups = frac.new_zeros(b, SPACE_GROUPS) if self.to_space_group is None else self.to_space_group(pooled).float()
        return Prediction(
            frac=frac - frac.mean(1, keepdim=True),
            lattice=strained + self.to_lattice(pooled).float(),
            species=frac.new_zeros(b, n, SPECIES) if self.to_species is None else self.to_species(atoms).float(),
            space_group=groups,
        )
