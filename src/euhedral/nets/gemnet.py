"""A network in the manner of GemNet-T (Gasteiger et al., NeurIPS 2021), the backbone of MatterGen, on dense batches.

Messages are kept for each ordered pair of atoms. In every block a pair meets the pairs that end where it begins (two hops),
weighed by their distance and by the angle between them; atoms gather messages, and messages hear from their atoms. Sums of
two terms are divided by the root of two, so that sizes stay what they are (Section 4.3, scaling). Forces on atoms become
vectors, and the stress becomes what is said of the lattice (MatterGen, Appendix A.7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from euhedral.nets.base import Context, NoisyCrystals, Prediction, features_of
from euhedral.nets.dimenet import DimeNetConfig, InteractionBlock
from euhedral.nets.directional_basis import pair_basis
from euhedral.nets.pair_features import PairFeatures, PairFeaturesConfig
from euhedral.nets.pair_sums import PairSumNet, PairSums
from euhedral.nets.periodic_transformer import SPACE_GROUPS, SPECIES, ContextEmbedding

ROOT = 2**-0.5


@dataclass(frozen=True, kw_only=True)
class GemNetConfig:
    """Size of the network; MatterGen's has 512 channels, 4 blocks and a cutoff of 7 Å.

    Attributes:
        width: channels of an atom and of a message.
        blocks: interaction blocks.
        triplet_width: channels in which messages meet at an angle.
        radial: Bessel functions of a distance.
        cutoff: distance in Å beyond which atoms do not see each other.
        properties: number of scalar properties that it can be asked for.
        vector_widths: widths in Å of the Gaussians that weigh the displacements along which forces act.
        features: further channels of each atom that are read; see `NoisyCrystals.features`.
        codes: numbers that are predicted of each species in place of 119 logits; 0: logits.
        vectors: vectors that are predicted of each atom.
        species: predict species.
        space_group: predict the space group.
        kind: name of this backbone.
    """

    width: int = 128
    blocks: int = 3
    triplet_width: int = 32
    radial: int = 8
    cutoff: float = 6.0
    properties: int = 3
    vector_widths: tuple[float, ...] = (1.0, 2.0, 4.0)
    features: int = 0
    codes: int = 0
    vectors: int = 1
    species: bool = True
    space_group: bool = True
    kind: Literal["gemnet"] = "gemnet"


class GemNet(PairSumNet):
    """See the module. Angles enter by sums of spherical harmonics over the pairs at an atom, up to the third degree.

    Invariant to the origin, to cell images and to rotations, equivariant to permutation. The names of the axes enter by
    the cell alone.
    """

    def __init__(self, config: GemNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        vectors = PairFeaturesConfig(
            low_index_harmonics=0, axis_harmonics=0, radial=2, vector_widths=config.vector_widths
        )
        self.pairs = PairFeatures(vectors)
        self.embed_species = nn.Embedding(SPECIES, width)
        self.embed_features = nn.Linear(config.features, width) if config.features else None
        self.embed_context = ContextEmbedding(width, config.properties)
        self.embed_radial = nn.Linear(config.radial, width)
        self.ends = nn.Linear(width, 2 * width)
        self.blocks = nn.ModuleList(GemBlock(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.to_lattice = nn.Linear(width, 6)
        self.to_species = nn.Linear(width, config.codes or SPECIES) if config.species else None
        self.to_space_group = nn.Linear(width, SPACE_GROUPS) if config.space_group else None

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        """Predict vectors and logits; see `Prediction` for the shapes."""
        b, n = noisy.species.shape
        basis = pair_basis(noisy.frac, noisy.cell, cutoff=self.config.cutoff, number=self.config.radial)
        away = self.pairs(noisy.frac, noisy.cell)[..., -3 * len(self.config.vector_widths) :].view(b, n, n, -1, 3)
        whole = self.embed_context(noisy, context)
        atoms = self.embed_species(noisy.species) + whole[:, None]
        if self.embed_features is not None:
            atoms = atoms + self.embed_features(features_of(noisy))
        first, second = self.ends(atoms).chunk(2, -1)
        messages = functional.silu(self.embed_radial(basis[..., 1:, 0]) + first[:, :, None] + second[:, None])
        sums = PairSums(away, noisy.cell, vectors=self.config.vectors)
        for block in self.blocks:
            atoms, messages, forces, stress = block(atoms, messages, basis)
            sums.add(forces, stress)
        return self.read(atoms, sums)


class GemBlock(nn.Module):
    """Messages meet at angles, atoms gather them and answer; see `GemNet`."""

    def __init__(self, config: GemNetConfig) -> None:
        super().__init__()
        width, widths = config.width, len(config.vector_widths)
        self.widths, self.vectors = widths, config.vectors
        self.triplets = InteractionBlock(
            DimeNetConfig(
                width=width,
                triplet_width=config.triplet_width,
                radial=config.radial,
                cutoff=config.cutoff,
                before_skip=1,
                after_skip=1,
            )
        )
        self.radial = nn.Linear(config.radial, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.atom = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.answer = nn.Linear(width, 2 * width)
        self.edge = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.to_forces = nn.Linear(width, widths * config.vectors, bias=False)
        self.to_stress = nn.Linear(width, widths, bias=False)

    def forward(self, atoms: Tensor, messages: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """New atoms (b, n, w) and messages (b, n, n, w), factors of displacements (b, n, n, v, k) and their products."""
        b, n, _ = atoms.shape
        messages = self.triplets(messages, basis) * ROOT
        gathered = (self.radial(basis[..., 1:, 0]) * messages).mean(2)
        atoms = (atoms + self.atom(torch.cat([self.norm(atoms), gathered], -1))) * ROOT
        first, second = self.answer(self.norm(atoms)).chunk(2, -1)
        messages = (messages + self.edge(messages + first[:, :, None] + second[:, None])) * ROOT
        forces = self.to_forces(messages).view(b, n, n, self.vectors, self.widths)
        return atoms, messages, forces, self.to_stress(messages)
