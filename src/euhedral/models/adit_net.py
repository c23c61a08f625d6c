"""The networks of ADiT and its configuration: an autoencoder of atoms, and a diffusion transformer of their latents."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from euhedral.crystal.geometry import wrap
from euhedral.models.cdvae_heads import ConditionEmbedding
from euhedral.models.conditions import PROPERTIES
from euhedral.nets.base import Context
from euhedral.nets.cspnet import time_waves
from euhedral.nets.periodic_transformer import SPECIES
from euhedral.nets.transformer import ModulatedBlock, ModulatedHead, TransformerBlock, index_waves

if TYPE_CHECKING:
    from jaxtyping import Float, Int

TIME_WIDTH = 256
"""Channels of the embedded time (the authors' code)."""


@dataclass(frozen=True, kw_only=True)
class TransformerSize:
    """Size of one of the transformers.

    Attributes:
        width: channels of a token.
        layers: number of blocks.
        heads: attention heads; divides `width`.
    """

    width: int = 512
    layers: int = 8
    heads: int = 8


@dataclass(frozen=True, kw_only=True)
class ADiTNetConfig:
    """Sizes; the defaults are those of the authors' code.

    Attributes:
        encoder: from a crystal to latents of its atoms.
        decoder: from latents of atoms to a crystal.
        denoiser: of latents.
        latent: numbers of an atom's latent.
        counts: largest atom count that is told apart.
    """

    encoder: TransformerSize = field(default_factory=TransformerSize)
    decoder: TransformerSize = field(default_factory=TransformerSize)
    denoiser: TransformerSize = field(default_factory=lambda: TransformerSize(width=768, layers=12, heads=12))
    latent: int = 8
    counts: int = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class AtomPosterior:
    """Normal distribution of each atom's latent, independent in each number, (b, n, latent) each."""

    mean: Tensor
    log_variance: Tensor

    def draw(self, *, rng: torch.Generator) -> Float[Tensor, "b n l"]:
        """One latent of each atom; `rng` on their device."""
        noise = torch.randn(self.mean.shape, generator=rng, device=self.mean.device)
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def divergence(self) -> Float[Tensor, "b n"]:
        """Kullback-Leibler divergence from the standard normal distribution, of each atom."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """What a decoder says of a crystal.

    Attributes:
        waves: cosines and sines of coordinates, (b, n, 6); see `waves`.
        lattice: standardised lengths and angles, (b, 6).
        species: logits by atomic number (index 0 unused), (b, n, 119).
    """

    waves: Float[Tensor, "b n 6"]
    lattice: Float[Tensor, "b 6"]
    species: Float[Tensor, "b n 119"]

    @property
    def frac(self) -> Float[Tensor, "b n 3"]:
        """Fractional coordinates in [0, 1)."""
        cosines, sines = self.waves.chunk(2, -1)
        return wrap(torch.atan2(sines, cosines) / (2 * math.pi))


class AtomEncoder(nn.Module):
    """Latents of atoms from their species, coordinates and place in the list, and the crystal's lattice."""

    def __init__(self, size: TransformerSize, latent: int) -> None:
        super().__init__()
        self.species = nn.Embedding(SPECIES, size.width)
        self.frac = _perceptron(6, size.width)
        self.lattice = _perceptron(6, size.width)
        self.blocks = nn.ModuleList(TransformerBlock(size.width, size.heads) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.moments = nn.Linear(size.width, 2 * latent, bias=False)

    def forward(self, frac: Tensor, lattice: Tensor, species: Int[Tensor, "b n"]) -> AtomPosterior:
        """The posterior.

        Args:
            frac: fractional coordinates, (b, n, 3).
            lattice: standardised lengths and angles, (b, 6).
            species: atomic numbers, 0 where hidden, (b, n).
        """
        tokens = self.species(species) + self.frac(waves(frac)) + self.lattice(lattice)[:, None]
        tokens = tokens + index_waves(tokens.shape[1], tokens.shape[2], device=tokens.device)
        for block in self.blocks:
            tokens = block(tokens)
        mean, variance = self.moments(self.norm(tokens)).float().chunk(2, -1)
        # Bounded, so that a variance that runs away is no infinity.
        return AtomPosterior(mean=mean, log_variance=variance.clamp(-30.0, 20.0))


class AtomDecoder(nn.Module):
    """A crystal from the latents of its atoms."""

    def __init__(self, size: TransformerSize, latent: int) -> None:
        super().__init__()
        self.embed = nn.Linear(latent, size.width, bias=False)
        self.blocks = nn.ModuleList(TransformerBlock(size.width, size.heads) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        self.to_waves = nn.Linear(size.width, 6, bias=False)
        self.to_lattice = nn.Linear(size.width, 6, bias=False)
        self.to_species = nn.Linear(size.width, SPECIES)

    def forward(self, latent: Float[Tensor, "b n l"]) -> Decoded:
        """See `Decoded`."""
        tokens = self.embed(latent)
        tokens = tokens + index_waves(tokens.shape[1], tokens.shape[2], device=tokens.device)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return Decoded(
            waves=self.to_waves(tokens).float(),
            lattice=self.to_lattice(tokens.mean(1)).float(),
            species=self.to_species(tokens).float(),
        )


class LatentTransformer(nn.Module):
    """Clean latents from noisy ones (DiT: Peebles and Xie, ICCV 2023), told conditions and the species that are given."""

    def __init__(self, size: TransformerSize, latent: int, counts: int) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * latent, size.width)
        self.species = nn.Embedding(SPECIES, size.width)
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, size.width), nn.SiLU(), nn.Linear(size.width, size.width))
        self.condition = ConditionEmbedding(size.width, len(PROPERTIES), counts)
        self.blocks = nn.ModuleList(ModulatedBlock(size.width, size.heads) for _ in range(size.layers))
        self.head = ModulatedHead(size.width, latent)

    def forward(
        self, noisy: Tensor, time: Tensor, species: Int[Tensor, "b n"], context: Context, guess: Tensor
    ) -> Float[Tensor, "b n l"]:
        """The clean latents that are expected.

        Args:
            noisy: latents, (b, n, l).
            time: 0 noise to 1 data, (b,).
            species: atomic numbers that are given, 0 elsewhere, (b, n).
            context: what is asked of the crystals.
            guess: what was expected a step before, zeros where nothing was (self-conditioning: Chen, Zhang and Hinton,
                ICLR 2023), (b, n, l).
        """
        tokens = self.embed(torch.cat([noisy, guess], -1)) + self.species(species)
        tokens = tokens + index_waves(tokens.shape[1], tokens.shape[2], device=tokens.device)
        told = self.time(time_waves(time.float(), TIME_WIDTH)) + self.condition(context, species)
        modulation = functional.silu(told)
        for block in self.blocks:
            tokens = block(tokens, modulation)
        return self.head(tokens, modulation).float()


def waves(frac: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 6"]:
    """Cosines, then sines, of the angles 2 pi f of fractional coordinates: numbers without a border."""
    angles = 2 * math.pi * frac
    return torch.cat([angles.cos(), angles.sin()], -1)


def _perceptron(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width, bias=False), nn.SiLU(), nn.Linear(width, width))
