"""Backbones on ragged batches: crystals of any atom counts in one call, padded by nothing.

Crystals of one atom count go through the network as the dense batch that they are, so that what is said of a crystal does
not depend on what lies beside it, whatever the network computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from euhedral.nets.base import Context, NoisyCrystals, Prediction, rows_of
from euhedral.nets.cspnet import MatrixPrediction

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True, eq=False)
class RaggedCrystals:
    """Noisy crystals of any atom counts; the atoms of a crystal follow each other. See `NoisyCrystals` for the rest.

    Attributes:
        counts: atoms of each crystal, at least one, (b,).
        frac: (a, 3), a being the sum of `counts`.
        cell: (b, 3, 3).
        lattice: (b, 6).
        species: (a,).
        time: (b,).
        known: (b,).
        features: (a, k) or None.
    """

    counts: Int[Tensor, " b"]
    frac: Float[Tensor, "a 3"]
    cell: Float[Tensor, "b 3 3"]
    lattice: Float[Tensor, "b 6"]
    species: Int[Tensor, " a"]
    time: Float[Tensor, " b"]
    known: Float[Tensor, " b"]
    features: Float[Tensor, "a k"] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where atoms and counts do not agree."""
        if not len(self.counts) or int(self.counts.min()) < 1 or int(self.counts.sum()) != len(self.species):
            raise ValueError(
                f"a ragged batch needs crystals of one atom or more whose counts sum to its {len(self.species)} atoms; "
                f"the counts are {self.counts.tolist()}"
            )

    def by_size(self) -> Iterator[tuple[Int[Tensor, " g"], Int[Tensor, "g n"], NoisyCrystals]]:
        """For each atom count n: the crystals that have it, the places of their atoms, and the dense batch of them."""
        first = self.counts.cumsum(0) - self.counts
        for count in self.counts.unique().tolist():
            rows = torch.nonzero(self.counts == count)[:, 0]
            atoms = first[rows, None] + torch.arange(count, device=rows.device)
            yield (
                rows,
                atoms,
                NoisyCrystals(
                    frac=self.frac[atoms],
                    cell=self.cell[rows],
                    lattice=self.lattice[rows],
                    species=self.species[atoms],
                    time=self.time[rows],
                    known=self.known[rows],
                    features=None if self.features is None else self.features[atoms],
                ),
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class RaggedPrediction:
    """What a backbone says of a ragged batch; see `Prediction`.

    Attributes:
        frac: (a, 3) or (a, 3 m); without mean over the atoms of each crystal.
        lattice: (b, 6).
        species: (a, 119) or (a, k).
        space_group: (b, 231).
        cell: (b, 3, 3) where the backbone says of the lattice a matrix (`nets.cspnet.MatrixPrediction`), else None.
    """

    frac: Float[Tensor, "a v"]
    lattice: Float[Tensor, "b 6"]
    species: Float[Tensor, "a s"]
    space_group: Float[Tensor, "b 231"]
    cell: Float[Tensor, "b 3 3"] | None = None


def predict_ragged(
    net: Callable[[NoisyCrystals, Context], Prediction], noisy: RaggedCrystals, context: Context
) -> RaggedPrediction:
    """What a backbone says of crystals of any atom counts; gradients flow as through the dense calls.

    Args:
        net: any backbone; it is called once for each atom count.
        noisy: the crystals.
        context: what is asked of each, in their order.
    """
    groups = [(rows, atoms, net(dense, rows_of(context, rows))) for rows, atoms, dense in noisy.by_size()]
    rows = torch.cat([rows for rows, _, _ in groups]).argsort()
    atoms = torch.cat([atoms.flatten() for _, atoms, _ in groups]).argsort()
    said = [prediction for _, _, prediction in groups]
    cells = [one.cell for one in said if isinstance(one, MatrixPrediction)]
    return RaggedPrediction(
        frac=torch.cat([one.frac.flatten(0, 1) for one in said])[atoms],
        lattice=torch.cat([one.lattice for one in said])[rows],
        species=torch.cat([one.species.flatten(0, 1) for one in said])[atoms],
        space_group=torch.cat([one.space_group for one in said])[rows],
        cell=torch.cat(cells)[rows] if cells else None,
    )
