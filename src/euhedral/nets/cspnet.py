"""CSPNet: message passing among all atoms of a cell on fractional coordinates (Jiao et al., DiffCSP, NeurIPS 2023).

The published network feeds each ordered pair of atoms one concatenated tensor, 1801 numbers wide. Here its first linear
layer is split over target, source, lattice and difference. The part of the difference is the dear one: it is even in
its cosines and odd in its sines, so that one product serves both directions of a pair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from euhedral.nets.base import Context, NoisyCrystals, Prediction, features_of
from euhedral.nets.periodic_transformer import SPACE_GROUPS, SPECIES, ContextEmbedding

if TYPE_CHECKING:
    from jaxtyping import Float

CLOCK = 1000.0
"""Noise levels of the published model, whose number, not the time, its time embedding reads."""


@dataclass(frozen=True, kw_only=True)
class CSPNetConfig:
    """Size of the network, by default the published one for MP-20.

    Attributes:
        width: channels of an atom and of a pair.
        layers: message-passing layers.
        frequencies: waves of each fractional difference, 0 included.
        time_width: channels of the time embedding.
        lattice: what is said of the lattice: a 3x3 matrix in the frame of the noisy cell (`MatrixPrediction.cell`,
            as published), a vector of its six log-symmetric coordinates (`Prediction.lattice`), or nothing.
        species: predict species.
        conditioned: read conditions, atom count and the share of known species.
        properties: number of scalar properties that it can be asked for, where it is conditioned.
        space_group: predict the space group.
        features: further channels of each atom that are read; see `NoisyCrystals.features`.
        codes: numbers that are predicted of each species in place of 119 logits; 0: logits.
        vectors: vectors that are predicted of each atom.
        kind: name of this backbone.
    """

    width: int = 512
    layers: int = 6
    frequencies: int = 128
    time_width: int = 256
    lattice: Literal["matrix", "log_symmetric", "none"] = "matrix"
    species: bool = False
    conditioned: bool = False
    properties: int = 3
    space_group: bool = False
    features: int = 0
    codes: int = 0
    vectors: int = 1
    kind: Literal["cspnet"] = "cspnet"


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixPrediction(Prediction):
    """A prediction whose vector for the lattice is a matrix beside the cell, rows as in the cell.

    Attributes:
        cell: M(L Lᵀ) L for a noisy cell L, which rotates as L does, (b, 3, 3). `lattice` is zero.
    """

    cell: Float[Tensor, "b 3 3"]


class CSPNet(nn.Module):
    """Backbone of DiffCSP (Section 4.2, Eq. 7 to 9).

    h_i <- h_i + node([g_i, mean_j edge(g_i, g_j, L Lᵀ, psi(f_j - f_i))]) with g = norm(h), where psi are the sines and
    cosines of 2 pi k times the three differences, and edge and node are two linear layers with SiLU each. What has no
    head in the configuration is predicted as zero. The vectors of atoms are given without their mean: the score of
    crystals whose origin is free has none.

    Invariant to the origin and to the cell images of the atoms, equivariant to their permutation; of the cell only its
    metric is read, so that rotations and reflections of it do not matter.
    """

    def __init__(self, config: CSPNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed_species = nn.Embedding(SPECIES, width)
        self.embed_features = nn.Linear(config.features, width) if config.features else None
        self.mix = nn.Linear(width + config.time_width, width)
        self.embed_context = ContextEmbedding(width, config.properties) if config.conditioned else None
        self.layers = nn.ModuleList(EdgeLayer(width, config.frequencies) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.to_frac = nn.Linear(width, 3 * config.vectors, bias=False)
        said = {"matrix": 9, "log_symmetric": 6, "none": 0}[config.lattice]
        self.to_lattice = nn.Linear(width, said, bias=False) if said else None
        self.to_species = nn.Linear(width, config.codes or SPECIES) if config.species else None
        self.to_space_group = nn.Linear(width, SPACE_GROUPS) if config.space_group else None

    def forward(self, noisy: NoisyCrystals, context: Context) -> Prediction:
        """Predict vectors and logits; see `Prediction` for the shapes."""
        b, n = noisy.species.shape
        atoms = self._atoms(noisy, context)
        pooled = atoms.mean(1)
        frac = self.to_frac(atoms).to(noisy.frac.dtype)
        lattice = (
            noisy.cell.new_zeros(b, 6) if self.to_lattice is None else self.to_lattice(pooled).to(noisy.cell.dtype)
        )
        frac = frac - frac.mean(1, keepdim=True)
        species = frac.new_zeros(b, n, SPECIES) if self.to_species is None else self.to_species(atoms).to(frac.dtype)
        groups = frac.new_zeros(b, SPACE_GROUPS)
        if self.to_space_group is not None:
            groups = self.to_space_group(pooled).to(frac.dtype)
        if self.config.lattice != "matrix":
            return Prediction(frac=frac, lattice=lattice, species=species, space_group=groups)
        # Out of reach of autocast: the matrix is as precise as the cell that it moves.
        cell = (lattice.view(b, 3, 3)[..., None] * noisy.cell[:, None]).sum(2)
        none = lattice.new_zeros(b, 6)
        return MatrixPrediction(frac=frac, lattice=none, species=species, space_group=groups, cell=cell)

    def _atoms(self, noisy: NoisyCrystals, context: Context) -> Float[Tensor, "b n w"]:
        b, n = noisy.species.shape
        species = self.embed_species(noisy.species)
        if self.embed_features is not None:
            species = species + self.embed_features(features_of(noisy))
        clock = time_waves(noisy.time, self.config.time_width).to(species.dtype)
        atoms = self.mix(torch.cat([species, clock[:, None].expand(b, n, -1)], -1))
        if self.embed_context is not None:
            atoms = atoms + self.embed_context(noisy, context)[:, None]
        pairs = PairLayout(n, noisy.frac.device, atoms.dtype)
        metric = (noisy.cell[:, :, None] * noisy.cell[:, None]).sum(-1).reshape(b, 9)
        cos, sin = pair_waves(noisy.frac, pairs, self.config.frequencies)
        if torch.is_autocast_enabled(noisy.frac.device.type):
            # Once for all layers, and not at each of them.
            cos, sin = (x.to(torch.get_autocast_dtype(noisy.frac.device.type)) for x in (cos, sin))
        for layer in self.layers:
            atoms = layer(atoms, metric, cos, sin, pairs)
        return self.norm(atoms)


class PairLayout:
    """Order of the n² ordered pairs of n atoms: i < j, then the same pairs the other way round, then i = j.

    Attributes:
        first, second: atoms of the pairs i < j, (n (n - 1) / 2,).
        ends: which atom is target and which is source of a pair, as zeros and ones, (n², 2 n).
        mean: takes the mean over the pairs of each target, (n, n²).
    """

    def __init__(self, n: int, device: torch.device, dtype: torch.dtype) -> None:
        self.first, self.second = torch.triu_indices(n, n, 1, device=device)
        same = torch.arange(n, device=device)
        target = torch.cat([self.first, self.second, same])
        source = torch.cat([self.second, self.first, same])
        at = functional.one_hot(target, n).to(dtype)
        self.ends = torch.cat([at, functional.one_hot(source, n).to(dtype)], 1)
        self.mean = at.T / n


class EdgeLayer(nn.Module):
    """One layer of messages; see `CSPNet`. Its weights are those of the published layer, cut into parts."""

    def __init__(self, width: int, frequencies: int) -> None:
        super().__init__()
        # Drawn as the published layer is: one linear layer of all inputs of a pair.
        whole = nn.Linear(2 * width + 9 + 6 * frequencies, width)
        parts = whole.weight.detach().split([2 * width, 9, 3 * frequencies, 3 * frequencies], 1)
        self.ends = nn.Parameter(parts[0].clone())
        self.metric = nn.Linear(9, width)
        self.sin, self.cos = nn.Parameter(parts[2].clone()), nn.Parameter(parts[3].clone())
        with torch.no_grad():
            self.metric.weight.copy_(parts[1])
            self.metric.bias.copy_(whole.bias)
        self.edge = nn.Linear(width, width)
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.norm = nn.LayerNorm(width)

    def forward(
        self, atoms: Float[Tensor, "b n w"], metric: Float[Tensor, "b 9"], cos: Tensor, sin: Tensor, pairs: PairLayout
    ) -> Float[Tensor, "b n w"]:
        """New atom states; `cos` and `sin` are those of `pair_waves`."""
        normed = self.norm(atoms)
        width = self.ends.shape[0]
        even, odd = functional.linear(cos, self.cos), functional.linear(sin, self.sin)
        still = self.cos.sum(1).to(even.dtype).expand(len(atoms), normed.shape[1], width)
        # Both ends of all pairs by one product with zeros and ones: its gradient is a product too, not a scatter.
        ends = torch.cat([functional.linear(normed, part) for part in self.ends.split(width, 1)], 1)
        state = pairs.ends.to(even.dtype) @ ends.to(even.dtype)
        state = state + torch.cat([even + odd, even - odd, still], 1) + self.metric(metric)[:, None].to(even.dtype)
        messages = functional.silu(self.edge(functional.silu(state)))
        gathered = pairs.mean.to(messages.dtype) @ messages
        return atoms + self.node(torch.cat([normed, gathered.to(normed.dtype)], -1))


@torch.no_grad()
def pair_waves(frac: Float[Tensor, "b n 3"], pairs: PairLayout, frequencies: int) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi k (f_j - f_i) for the pairs i < j, k below `frequencies`: (b, pairs, 3 * frequencies) each.

    By the products of the waves of atoms, so that n sines are taken and not n². Axes come first, then frequencies.
    """
    with torch.autocast(device_type=frac.device.type, enabled=False):
        k = torch.arange(frequencies, dtype=frac.dtype, device=frac.device)
        # Whole turns are taken out before they cost digits at high frequencies.
        turns = (frac % 1)[..., None] * k
        phase = (2 * math.pi * (turns - turns.round())).flatten(2)
        cos, sin = phase.cos(), phase.sin()
        cos_i, sin_i = cos[:, pairs.first], sin[:, pairs.first]
        cos_j, sin_j = cos[:, pairs.second], sin[:, pairs.second]
        return torch.addcmul(cos_j * cos_i, sin_j, sin_i), torch.addcmul(sin_j * cos_i, cos_j, sin_i, value=-1)


def time_waves(time: Float[Tensor, " b"], width: int) -> Float[Tensor, "b w"]:
    """Sines and cosines of the noise level (1 - t) * 1000 at geometric rates from 1 to 1/10000."""
    step = torch.arange(width // 2, device=time.device, dtype=time.dtype)
    rate = torch.exp(step * (-math.log(10_000.0) / max(width // 2 - 1, 1)))
    phase = (1 - time[:, None]) * CLOCK * rate
    return torch.cat([phase.sin(), phase.cos()], -1)
