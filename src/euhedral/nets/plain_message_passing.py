"""Message passing on Cartesian coordinates as they are: a network that is NOT equivariant, for comparison.

It reads positions in Å in the frame of the cell that it is given, and differences of positions without images. Turning a
crystal, shifting its origin, or listing an atom in another cell changes what it says, as for the networks before CDVAE.
Atoms may still be renumbered. It does not pass the contract of backbones, and a test sees to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from euhedral.nets.base import Context, NoisyCrystals, Prediction, features_of
from euhedral.nets.periodic_transformer import SPACE_GROUPS, SPECIES, ContextEmbedding

SCALE = 5.0
"""Å by which positions are divided, so that they are of order one."""


@dataclass(frozen=True, kw_only=True)
class PlainMessagePassingConfig:
    """Size of the network; see `EGNNConfig` for the attributes."""

    width: int = 128
    layers: int = 4
    properties: int = 3
    features: int = 0
    codes: int = 0
    vectors: int = 1
    species: bool = True
    space_group: bool = True
    kind: Literal["plain_message_passing"] = "plain_message_passing"


class PlainMessagePassing(nn.Module):
    """h_i <- h_i + node([h_i, mean_j message(h_i, h_j, x_j - x_i)]), with x_i and the cell in h_i at the start."""

    def __init__(self, config: PlainMessagePassingConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed_species = nn.Embedding(SPECIES, width)
        self.embed_features = nn.Linear(config.features, width) if config.features else None
        self.embed_place = nn.Linear(12, width)
        self.embed_context = ContextEmbedding(width, config.properties)
        self.layers = nn.ModuleList(_PlainLayer(width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.to_frac = nn.Linear(width, 3 * config.vectors)
        self.to_lattice = nn.Linear(width, 6)
        self.to_species = nn.Linear(width, config.codes or SPECIES) if config.species else None
        self.to_space_group = nn.Linear(width, SPACE_GROUPS) if config.space_group else None

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        """Predict vectors and logits; see `Prediction` for the shapes."""
        b, n = noisy.species.shape
        cell = noisy.cell.float() / SCALE
        place = noisy.frac.float() @ cell
        atoms = self.embed_species(noisy.species) + self.embed_context(noisy, context)[:, None]
        atoms = atoms + self.embed_place(torch.cat([place, cell.reshape(b, 1, 9).expand(b, n, 9)], -1))
        if self.embed_features is not None:
            atoms = atoms + self.embed_features(features_of(noisy))
        apart = place[:, None] - place[:, :, None]
        for layer in self.layers:
            atoms = layer(atoms, apart)
        atoms = self.norm(atoms)
        pooled = atoms.mean(1)
        frac = self.to_frac(atoms).float()
        species = frac.new_zeros(b, n, SPECIES) if self.to_species is None else self.to_species(atoms).float()
        groups = frac.new_zeros(b, SPACE_GROUPS) if self.to_space_group is None else self.to_space_group(pooled).float()
        return Prediction(
            frac=frac - frac.mean(1, keepdim=True),
            lattice=self.to_lattice(pooled).float(),
            species=species,
            space_group=groups,
        )


class _PlainLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.target, self.source = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.apart = nn.Linear(3, width, bias=False)
        self.message = nn.Linear(width, width)
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, atoms: Tensor, apart: Tensor) -> Tensor:
        normed = self.norm(atoms)
        state = self.apart(apart) + self.target(normed)[:, :, None] + self.source(normed)[:, None]
        gathered = functional.silu(self.message(functional.silu(state))).mean(2)
        return atoms + self.node(torch.cat([normed, gathered], -1))
