"""An E(n)-equivariant graph network among all atoms of a cell (Satorras et al., ICML 2021), for periodic crystals.

Messages read distances alone, and vectors are sums of displacements with factors that messages give. Where the published
network has one displacement a pair, a crystal has one for each image: distances enter as sums of Gaussians over the
images, and displacements as sums weighted by Gaussians, so that both are smooth when an atom crosses a cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from euhedral.nets.base import Context, NoisyCrystals, Prediction, features_of
from euhedral.nets.pair_features import PairFeatures, PairFeaturesConfig
from euhedral.nets.pair_sums import PairSumNet, PairSums
from euhedral.nets.periodic_transformer import SPACE_GROUPS, SPECIES, ContextEmbedding

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class EGNNConfig:
    """Size of the network.

    Attributes:
        width: channels of an atom and of a message.
        layers: message-passing layers.
        properties: number of scalar properties that it can be asked for.
        radial: Gaussians of the distance.
        cutoff: centre of the last Gaussian, Å.
        vector_widths: widths in Å of the Gaussians that weigh displacements.
        features: further channels of each atom that are read; see `NoisyCrystals.features`.
        codes: numbers that are predicted of each species in place of 119 logits; 0: logits.
        vectors: vectors that are predicted of each atom.
        species: predict species.
        space_group: predict the space group.
        kind: name of this backbone.
    """

    width: int = 128
    layers: int = 4
    properties: int = 3
    radial: int = 24
    cutoff: float = 7.0
    vector_widths: tuple[float, ...] = (1.0, 2.0, 4.0)
    features: int = 0
    codes: int = 0
    vectors: int = 1
    species: bool = True
    space_group: bool = True
    kind: Literal["egnn"] = "egnn"


class EGNN(PairSumNet):
    """h_i <- h_i + node([h_i, sum_j gate(m_ij) m_ij]) with m_ij = message(h_i, h_j, distances of i and j) (Eq. 3 to 6).

    The vector of an atom is the sum over all layers, atoms j and widths of a displacement times what the message says of
    it. The lattice is told by the same of the products d d^T of displacements, a symmetric tensor in the frame of the
    cell, whose six coordinates are those of the log-symmetric lattice.

    Invariant to the origin, to cell images and to rotations, equivariant to permutation. The names of the axes enter by
    the cell alone.
    """

    def __init__(self, config: EGNNConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        pairs = PairFeaturesConfig(
            low_index_harmonics=0,
            axis_harmonics=0,
            radial=config.radial,
            cutoff=config.cutoff,
            vector_widths=config.vector_widths,
        )
        self.pairs = PairFeatures(pairs)
        self.embed_species = nn.Embedding(SPECIES, width)
        self.embed_features = nn.Linear(config.features, width) if config.features else None
        self.embed_context = ContextEmbedding(width, config.properties)
        self.layers = nn.ModuleList(MessageLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.to_species = nn.Linear(width, config.codes or SPECIES) if config.species else None
        self.to_space_group = nn.Linear(width, SPACE_GROUPS) if config.space_group else None
        self.to_lattice = nn.Linear(width, 6)

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        """Predict vectors and logits; see `Prediction` for the shapes."""
        b, n = noisy.species.shape
        features = self.pairs(noisy.frac, noisy.cell)
        radial, away = features.split([self.config.radial, 3 * len(self.config.vector_widths)], -1)
        away = away.view(b, n, n, -1, 3)
        whole = self.embed_context(noisy, context)
        atoms = self.embed_species(noisy.species) + whole[:, None]
        if self.embed_features is not None:
            atoms = atoms + self.embed_features(features_of(noisy))
        sums = PairSums(away, noisy.cell, vectors=self.config.vectors)
        for layer in self.layers:
            atoms, along, strain = layer(atoms, radial)
            sums.add(along, strain)
        return self.read(atoms, sums)


class MessageLayer(nn.Module):
    """One layer of messages; see `EGNN`."""

    def __init__(self, config: EGNNConfig) -> None:
        super().__init__()
        width, widths = config.width, len(config.vector_widths)
        self.widths, self.vectors = widths, config.vectors
        self.norm = nn.LayerNorm(width)
        self.target, self.source = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.radial = nn.Linear(config.radial, width, bias=False)
        self.message = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.to_along = nn.Linear(width, widths * config.vectors, bias=False)
        self.to_strain = nn.Linear(width, widths, bias=False)

    def forward(
        self, atoms: Float[Tensor, "b n w"], radial: Float[Tensor, "b n n r"]
    ) -> tuple[Float[Tensor, "b n w"], Float[Tensor, "b n n v k"], Float[Tensor, "b n n k"]]:
        """New atom states, and factors of the displacements and of their products."""
        b, n, _ = atoms.shape
        normed = self.norm(atoms)
        # The first linear layer is split over target, source and pair: no concatenated tensor of pairs is made.
        state = self.radial(radial) + self.target(normed)[:, :, None] + self.source(normed)[:, None]
        messages = functional.silu(self.message(functional.silu(state)))
        gathered = (torch.sigmoid(self.gate(messages)) * messages).mean(2)
        along = self.to_along(messages).view(b, n, n, self.vectors, self.widths)
        return atoms + self.node(torch.cat([normed, gathered], -1)), along, self.to_strain(messages)
