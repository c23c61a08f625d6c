"""Backbone of SymmCD: the network of DiffCSP on one point of each orbit, with its site symmetry and its place in the cell.

It differs from `nets.cspnet` in what an atom is: a representative of an orbit, whose images the network knows by the
space group alone, so that absolute coordinates matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from euhedral.crystal.site_symmetry import AXES, SYMBOLS, point_group_symbols
from euhedral.crystal.symmetry import space_group_symbol
from euhedral.crystal.wyckoff import GROUPS
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.nets.cspnet import EdgeLayer, PairLayout, pair_waves
from euhedral.nets.periodic_transformer import LARGEST_COUNT_EMBEDDED, SPACE_GROUPS, SPECIES, ContextEmbedding

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

HIDDEN = len(SYMBOLS)
"""In place of a symbol where the site symmetry is masked."""
LARGEST_COUNT = 255
_CENTRINGS = "PACIFR"
_AXIS_WIDTH, _RANK = 4, 8


@dataclass(frozen=True, kw_only=True)
class SiteNetConfig:
    """Size of the network, by default the published one for MP-20.

    Attributes:
        width: channels of an orbit and of a pair.
        layers: message-passing layers.
        frequencies: waves of each fractional coordinate and difference, 0 included.
        properties: number of scalar properties that it can be asked for.
    """

    width: int = 1024
    layers: int = 8
    frequencies: int = 128
    properties: int = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisySites(NoisyCrystals):
    """Noisy asymmetric units of up to k orbits: the fields of `NoisyCrystals` for orbits, in conventional cells.

    Attributes:
        symbols: site symmetry of each orbit by axis, index in `site_symmetry.SYMBOLS`, `HIDDEN` where masked, (b, k, 15).
        group: space group of each crystal, 1 to 230, (b,).
        num_atoms: atoms of the primitive cell, (b,).
        present: which places hold an orbit, (b, k).
    """

    symbols: Int[Tensor, "b k a"]
    group: Int[Tensor, " b"]
    num_atoms: Int[Tensor, " b"]
    present: Bool[Tensor, "b k"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SitePrediction(Prediction):
    """A prediction for orbits.

    Attributes:
        symbols: logits of the symbol on each axis, (b, k, 15, 13).
    """

    symbols: Float[Tensor, "b k a s"]


class SiteNet(nn.Module):
    """Messages among the orbits of an asymmetric unit (SymmCD, Section 3.3); layers are those of `nets.cspnet.CSPNet`.

    An orbit is told by its species, its site symmetry, embedded axis by axis, and the waves of its coordinates; the space
    group by its number and by the symbols of its point group and its centring, so that rare groups resemble others.
    Logits of symbols are products of vectors of axes and of symbols.
    """

    def __init__(self, config: SiteNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed_species = nn.Embedding(SPECIES, width)
        self.embed_symbols = nn.Embedding(HIDDEN + 1, _AXIS_WIDTH)
        self.embed_axes = nn.Linear(len(AXES) * _AXIS_WIDTH, width)
        self.embed_place = nn.Linear(6 * config.frequencies, width, bias=False)
        self.embed_count = nn.Embedding(LARGEST_COUNT + 1, width)
        features = group_features()
        self.register_buffer("features", features, persistent=False)
        self.features: Tensor
        self.embed_group = nn.Sequential(nn.Linear(features.shape[1], 128), nn.SiLU(), nn.Linear(128, width))
        self.embed_context = ContextEmbedding(width, config.properties)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(EdgeLayer(width, config.frequencies) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.to_frac = nn.Linear(width, 3, bias=False)
        self.to_lattice = nn.Linear(width, 6, bias=False)
        self.to_species = nn.Linear(width, SPECIES)
        self.to_axes = nn.Linear(width, len(AXES) * _RANK)
        self.to_symbols = nn.Linear(width, len(SYMBOLS) * _RANK)

    def forward(self, noisy: NoisySites, context: Context) -> SitePrediction:
        """Predict vectors and logits; of the context, the space group is not read."""
        orbits = self._orbits(noisy, context)
        b, k, _ = orbits.shape
        frac = self.to_frac(orbits).float()
        axes, symbols = self.to_axes(orbits).view(b, k, -1, _RANK), self.to_symbols(orbits).view(b, k, -1, _RANK)
        return SitePrediction(
            frac=frac,
            lattice=self.to_lattice(_mean(orbits, noisy.present)).float(),
            species=self.to_species(orbits).float(),
            space_group=frac.new_zeros(b, SPACE_GROUPS),
            symbols=(axes @ symbols.mT / math.sqrt(_RANK)).float(),
        )

    def _orbits(self, noisy: NoisySites, context: Context) -> Float[Tensor, "b k w"]:
        k = noisy.species.shape[1]
        known = replace(context, space_group=noisy.group)
        whole = self.embed_context(noisy, known) + self.embed_group(self.features[noisy.group])
        whole = whole + self.embed_count(noisy.num_atoms.clamp_max(LARGEST_COUNT))
        # The context counts places; what counts is orbits.
        held = torch.stack([noisy.present.sum(1), torch.full_like(noisy.group, k)]).clamp_max(LARGEST_COUNT_EMBEDDED)
        orbits_held, places = self.embed_context.count(held)
        whole = whole + orbits_held - places
        sites = self.embed_axes(self.embed_symbols(noisy.symbols).flatten(2))
        own = self.embed_species(noisy.species) + sites + self.embed_place(self._waves(noisy.frac))
        orbits = self.mix(own + whole[:, None])
        pairs = _PresentPairs(noisy.present, orbits.dtype)
        metric = (noisy.cell[:, :, None] * noisy.cell[:, None]).sum(-1).reshape(-1, 9)
        cos, sin = pair_waves(noisy.frac, pairs, self.config.frequencies)
        if torch.is_autocast_enabled(noisy.frac.device.type):
            cos, sin = (x.to(torch.get_autocast_dtype(noisy.frac.device.type)) for x in (cos, sin))
        for layer in self.layers:
            orbits = layer(orbits, metric, cos, sin, pairs)
        return self.norm(orbits)

    def _waves(self, frac: Float[Tensor, "b k 3"]) -> Float[Tensor, "b k f"]:
        """cos and sin of 2 pi m x for m below `frequencies`."""
        with torch.autocast(device_type=frac.device.type, enabled=False):
            turns = (frac % 1)[..., None] * torch.arange(self.config.frequencies, dtype=frac.dtype, device=frac.device)
            phase = (2 * math.pi * (turns - turns.round())).flatten(2)
            return torch.cat([phase.cos(), phase.sin()], -1)


class _PresentPairs(PairLayout):
    """A layout of pairs whose means are over the places that hold an orbit, (b, k, k²)."""

    def __init__(self, present: Bool[Tensor, "b k"], dtype: torch.dtype) -> None:
        k = present.shape[1]
        super().__init__(k, present.device, dtype)
        if not bool(present.all()):
            sources = present.to(dtype) @ self.ends[:, k:].T
            count = present.sum(1).clamp_min(1).to(dtype)
            self.mean = k * self.mean * sources[:, None] / count[:, None, None]


def _mean(orbits: Float[Tensor, "b k w"], present: Bool[Tensor, "b k"]) -> Float[Tensor, "b w"]:
    """Mean over the places that hold an orbit."""
    weights = present.to(orbits.dtype) / present.sum(1, keepdim=True).clamp_min(1).to(orbits.dtype)
    return (orbits * weights[..., None]).sum(1)


@cache
def group_features() -> Tensor:
    """What space groups have in common, by number (row 0 unused): point group by axis and symbol, and centring, (231, 201)."""
    rows = [torch.zeros(len(AXES) * len(SYMBOLS) + len(_CENTRINGS))]
    for number in range(1, GROUPS + 1):
        symbols = functional.one_hot(torch.from_numpy(point_group_symbols(number)), len(SYMBOLS)).flatten()
        centring = functional.one_hot(torch.tensor(_CENTRINGS.index(space_group_symbol(number)[0])), len(_CENTRINGS))
        rows.append(torch.cat([symbols, centring]).float())
    return torch.stack(rows)
