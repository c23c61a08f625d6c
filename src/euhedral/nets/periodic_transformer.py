"""Periodic transformer: attention among all atoms of a cell, biased by and reading periodic pair features."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from euhedral.nets.base import Context, NoisyCrystals, Prediction, features_of
from euhedral.nets.pair_features import PairFeatures, PairFeaturesConfig
from euhedral.nets.transformer import zero_linear

if TYPE_CHECKING:
    from jaxtyping import Float

SPECIES = 119
SPACE_GROUPS = 231
LARGEST_COUNT_EMBEDDED = 64


@dataclass(frozen=True, kw_only=True)
class PeriodicTransformerConfig:
    """Size of the network.

    Attributes:
        width: channels of an atom.
        blocks: number of transformer blocks.
        heads: attention heads; divides `width` and `pair_width`.
        pair_width: channels of a pair.
        feedforward: hidden channels of the feed-forward layer, as a multiple of `width`.
        properties: number of scalar properties that it can be asked for.
        pairs: resolution of the pair features.
        features: further channels of each atom that are read; see `NoisyCrystals.features`.
        codes: numbers that are predicted of each species in place of 119 logits; 0: logits.
        vectors: vectors that are predicted of each atom.
        species: predict species.
        space_group: predict the space group.
        kind: name of this backbone.
    """

    width: int = 256
    blocks: int = 6
    heads: int = 8
    pair_width: int = 128
    feedforward: int = 4
    properties: int = 3
    pairs: PairFeaturesConfig = field(default_factory=PairFeaturesConfig)
    features: int = 0
    codes: int = 0
    vectors: int = 1
    species: bool = True
    space_group: bool = True
    kind: Literal["periodic_transformer"] = "periodic_transformer"


class PeriodicTransformer(nn.Module):
    """Backbone of the default model.

    Every block mixes atoms by attention whose logits are q_i.k_j / sqrt(d) + w.e_ij and whose output gathers both the
    values v_j and the pair states e_ij = silu(A h_i + B h_j + C p_ij), p_ij being an embedding of the pair features
    shared by all blocks; the first linear layer of e_ij is factored over the two atoms and the pair, so no concatenated
    pair tensor is made. Times, lattice, atom count and conditions scale, shift and gate each layer (adaptive layer
    norm with zero start: Peebles and Xie, ICCV 2023, Section 3.2).

    Invariant to the origin and to the cell images of the atoms, equivariant to their permutation; rotations cannot
    matter since only fractional coordinates and the symmetric cell are read. What has no head in the configuration is
    predicted as zero.
    """

    def __init__(self, config: PeriodicTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.features = PairFeatures(config.pairs)
        self.embed_species = nn.Embedding(SPECIES, width)
        self.embed_features = nn.Linear(config.features, width) if config.features else None
        self.embed_pair = nn.Sequential(
            nn.Linear(self.features.size, config.pair_width), nn.SiLU(), nn.Linear(config.pair_width, config.pair_width)
        )
        self.embed_context = ContextEmbedding(width, config.properties)
        self.blocks = nn.ModuleList(PairBiasedBlock(config) for _ in range(config.blocks))
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.final_modulation = zero_linear(width, 2 * width)
        self.to_frac = zero_linear(width, 3 * config.vectors)
        self.to_species = nn.Linear(width, config.codes or SPECIES) if config.species else None
        self.pooled = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU())
        self.to_lattice = zero_linear(width, 6)
        self.to_space_group = nn.Linear(width, SPACE_GROUPS) if config.space_group else None

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        """Predict vectors and logits; see `Prediction` for the shapes."""
        whole = self.embed_context(noisy, context)
        pairs = self.embed_pair(self.features(noisy.frac, noisy.cell))
        atoms = self.embed_species(noisy.species) + whole[:, None]
        if self.embed_features is not None:
            atoms = atoms + self.embed_features(features_of(noisy))
        modulation = functional.silu(whole)
        for block in self.blocks:
            atoms = block(atoms, pairs, modulation)
        shift, scale = self.final_modulation(modulation)[:, None].chunk(2, -1)
        atoms = self.final_norm(atoms) * (1 + scale) + shift
        pooled = self.pooled(torch.cat([atoms.mean(1), modulation], -1))
        frac = self.to_frac(atoms).float()
        b, n = noisy.species.shape
        species = frac.new_zeros(b, n, SPECIES) if self.to_species is None else self.to_species(atoms).float()
        groups = frac.new_zeros(b, SPACE_GROUPS)
        if self.to_space_group is not None:
            groups = self.to_space_group(pooled).float()
        return Prediction(
            frac=frac - frac.mean(1, keepdim=True),
            lattice=self.to_lattice(pooled).float(),
            species=species,
            space_group=groups,
        )


class PairBiasedBlock(nn.Module):
    """One block: attention with pair states, then feed-forward; both modulated by the crystal's context."""

    def __init__(self, config: PeriodicTransformerConfig) -> None:
        super().__init__()
        width, pair = config.width, config.pair_width
        if width % config.heads or pair % config.heads:
            raise ValueError(f"heads {config.heads} must divide width {width} and pair_width {pair}")
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_feedforward = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zero_linear(width, 6 * width)
        # q, k, v of the atom, and its part in the pair states as target i and as source j: one product.
        self.project = nn.Linear(width, 3 * width + 2 * pair)
        self.project_pair = nn.Linear(pair, pair, bias=False)
        self.bias = nn.Linear(pair, config.heads, bias=False)
        self.gather = nn.Linear(width + pair, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, config.feedforward * width), nn.GELU(), nn.Linear(config.feedforward * width, width)
        )

    def forward(
        self, atoms: Float[Tensor, "b n w"], pairs: Float[Tensor, "b n n p"], modulation: Float[Tensor, "b w"]
    ) -> Float[Tensor, "b n w"]:
        """New atom states."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(modulation)[:, None].chunk(6, -1)
        normed = self.norm_attention(atoms) * (1 + scale_a) + shift_a
        atoms = atoms + gate_a * self._attend(normed, pairs)
        normed = self.norm_feedforward(atoms) * (1 + scale_f) + shift_f
        return atoms + gate_f * self.feedforward(normed)

    def _attend(self, atoms: Tensor, pairs: Tensor) -> Tensor:
        b, n, width = atoms.shape
        pair = pairs.shape[-1]
        query, key, value, target, source = self.project(atoms).split([width, width, width, pair, pair], -1)
        # In place: the pair tensor is the largest of the network, and nothing else reads the sum.
        state = self.project_pair(pairs)
        state = functional.silu(state.add_(target[:, :, None]).add_(source[:, None]), inplace=not state.requires_grad)
        query, key, value = (x.view(b, n, self.heads, -1).transpose(1, 2) for x in (query, key, value))
        logits = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads)
        logits = logits + self.bias(state).permute(0, 3, 1, 2)
        weights = _softmax(logits.float()).to(value.dtype)
        read_atoms = (weights @ value).transpose(1, 2).reshape(b, n, width)
        by_head = state.view(b, n, n, self.heads, -1)
        read_pairs = torch.einsum("bhij,bijhd->bihd", weights, by_head).reshape(b, n, pair)
        return self.gather(torch.cat([read_atoms, read_pairs], -1))


class ContextEmbedding(nn.Module):
    """One vector a crystal from its times, lattice, atom count and conditions; unknown conditions are a learned null."""

    def __init__(self, width: int, properties: int) -> None:
        super().__init__()
        self.times = nn.Sequential(nn.Linear(2 * 2 * _TIME_WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.lattice = nn.Sequential(nn.Linear(6, width), nn.SiLU(), nn.Linear(width, width))
        self.count = nn.Embedding(LARGEST_COUNT_EMBEDDED + 1, width)
        self.space_group = nn.Embedding(SPACE_GROUPS, width)
        self.properties = nn.ModuleList(
            nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(properties)
        )
        self.no_property = nn.Parameter(torch.zeros(properties, width))
        self.chemical_system = nn.Linear(SPECIES, width, bias=False)
        self.no_chemical_system = nn.Parameter(torch.zeros(width))

    def forward(self, noisy: NoisyCrystals, context: Context) -> Float[Tensor, "b w"]:
        """The vector, (b, width)."""
        count = torch.full_like(context.space_group, min(noisy.frac.shape[1], LARGEST_COUNT_EMBEDDED))
        times = torch.cat([_time_waves(noisy.time), _time_waves(noisy.known)], -1)
        whole = self.times(times) + self.lattice(noisy.lattice.float()) + self.count(count)
        whole = whole + self.space_group(context.space_group)
        for i, embed in enumerate(self.properties):
            value = embed(context.properties[:, i : i + 1].float())
            whole = whole + torch.where(context.has_property[:, i : i + 1], value, self.no_property[i].to(value.dtype))
        system = context.chemical_system
        value = self.chemical_system(system.float())
        return whole + torch.where(system.any(-1, keepdim=True), value, self.no_chemical_system.to(value.dtype))


_TIME_WAVES = 16


def _time_waves(t: Tensor) -> Tensor:
    frequencies = 0.5 * math.pi * 2 ** torch.linspace(0, 7, _TIME_WAVES, device=t.device)
    phase = t.float()[:, None] * frequencies
    return torch.cat([phase.cos(), phase.sin()], -1)


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last axis by elementwise steps: on rows as short as a cell, five times the library's speed."""
    weights = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)
