"""The networks of UniMat and its configuration: one of the whole periodic table, one of the atoms in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from euhedral.errors import ConfigError
from euhedral.models.cdvae_heads import ConditionEmbedding
from euhedral.models.conditions import PROPERTIES
from euhedral.models.periodic_table import COLUMNS, ELEMENTS, ROWS, boxes
from euhedral.nets.base import Context
from euhedral.nets.cspnet import time_waves
from euhedral.nets.transformer import ModulatedBlock, ModulatedHead, TransformerBlock, index_waves, zero_linear
from euhedral.noise.gaussian import VariancePreservingConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int

TIME_WIDTH = 128
MOSTLY_EMPTY = -5.0
"""Logit of a place holding an atom that training starts with."""


@dataclass(frozen=True, kw_only=True)
class UniMatNetConfig:
    """Sizes.

    Attributes:
        width: channels of an atom.
        layers: blocks of attention among atoms.
        heads: attention heads; divides `width` and `table_width`.
        table_width: channels of a box of the periodic table.
        table_layers: blocks of attention along its rows and columns.
        counts: largest atom count that is told apart.
    """

    width: int = 192
    layers: int = 5
    heads: int = 6
    table_width: int = 48
    table_layers: int = 2
    counts: int = 64


@dataclass(frozen=True, kw_only=True)
class UniMatWeights:
    """Weights of the parts of the loss.

    Attributes:
        frac: mean squared error of the velocities of the coordinates of atoms.
        lattice: of those of the lattice.
        occupied: cross entropy of places holding an atom, summed over the table, an atom.
    """

    frac: float = 1.0
    lattice: float = 1.0
    occupied: float = 0.1


@dataclass(frozen=True, kw_only=True)
class UniMatConfig:
    """Everything that defines the model.

    Attributes:
        net: sizes of the networks.
        depth: places of a box: most atoms of one element that crystals may have whose species are open.
        noise: schedule of the diffusion.
        settled: time from which the places that hold an atom stay; those that seem to be empty are left out then.
        shift: whether training crystals are shifted as a whole by a random vector.
        prediction_share: share of training crystals whose species are all given; of the others half have some given.
        condition_keep: probability that a known condition is shown in training (classifier-free guidance).
        weights: parts of the loss.
        length_mean: mean of log(length / Å) - log(N) / 3 of the training crystals, three numbers.
        length_std: their standard deviation.
        property_mean: mean of each property of `PROPERTIES` in training.
        property_std: its standard deviation.
    """

    net: UniMatNetConfig = field(default_factory=UniMatNetConfig)
    depth: int = 20
    noise: VariancePreservingConfig = field(default_factory=VariancePreservingConfig)
    settled: float = 0.6
    shift: bool = False
    prediction_share: float = 0.5
    condition_keep: float = 0.5
    weights: UniMatWeights = field(default_factory=UniMatWeights)
    length_mean: tuple[float, ...] = (1.1, 1.2, 1.5)
    length_std: tuple[float, ...] = (0.25, 0.25, 0.35)
    property_mean: tuple[float, ...] = (0.0,) * 3
    property_std: tuple[float, ...] = (1.0,) * 3

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ConfigError(f"depth must be at least 1, got {self.depth}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Noisy:
    """Numbers of crystals of one atom count on their way, and what is told beside.

    Attributes:
        time: 0 noise to 1 data, (b,).
        lattice: six noisy numbers, (b, 6).
        context: what is asked of the crystals.
        given: atomic numbers that are given, 0 where open, (b, n).
    """

    time: Float[Tensor, " b"]
    lattice: Float[Tensor, "b 6"]
    context: Context
    given: Int[Tensor, "b n"]


class AtomNet(nn.Module):
    """Coordinates and lattice of crystals whose occupied places are known.

    Tokens are occupied places alone; attention logits have a bias for how many rows and columns apart two boxes are, so
    that heads can read along rows, along columns, within a box, or everywhere.
    """

    def __init__(self, config: UniMatNetConfig) -> None:
        super().__init__()
        width = config.width
        self.register_buffer("boxes", boxes(), persistent=False)
        self.boxes: Tensor
        self.embed = nn.Linear(3, width)
        self.element = nn.Embedding(ELEMENTS + 1, width)
        self.row, self.column = nn.Embedding(ROWS, width), nn.Embedding(COLUMNS, width)
        self.apart_rows = nn.Embedding(2 * ROWS - 1, config.layers * config.heads)
        self.apart_columns = nn.Embedding(2 * COLUMNS - 1, config.layers * config.heads)
        self.told = _Told(width, config.counts)
        self.blocks = nn.ModuleList(ModulatedBlock(width, config.heads) for _ in range(config.layers))
        self.to_frac = ModulatedHead(width, 3)
        self.to_lattice = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), zero_linear(width, 6))

    def forward(
        self, frac: Float[Tensor, "b n 3"], species: Tensor, place: Tensor, noisy: Noisy
    ) -> tuple[Tensor, Tensor]:
        """Velocities of coordinates, (b, n, 3), and of the lattice, (b, 6).

        Args:
            frac: noisy coordinates.
            species: of the atoms, all known, (b, n).
            place: of each atom in the box of its element, (b, n).
            noisy: the rest.
        """
        width = self.embed.out_features
        row, column = self.boxes[species].unbind(-1)
        depth = index_waves(int(place.max()) + 1, width, device=frac.device)[place]
        tokens = self.embed(frac) + self.element(species) + self.row(row) + self.column(column) + depth
        modulation = functional.silu(self.told(noisy))
        biases = self._biases(row, column)
        for block, bias in zip(self.blocks, biases, strict=True):
            tokens = block(tokens, modulation, bias)
        pooled = torch.cat([tokens.mean(1), modulation], -1)
        return self.to_frac(tokens, modulation).float(), self.to_lattice(pooled).float()

    def _biases(self, row: Tensor, column: Tensor) -> tuple[Tensor, ...]:
        rows = row[:, :, None] - row[:, None] + ROWS - 1
        columns = column[:, :, None] - column[:, None] + COLUMNS - 1
        bias = self.apart_rows(rows) + self.apart_columns(columns)
        return bias.permute(0, 3, 1, 2).chunk(len(self.blocks), 1)


class TableNet(nn.Module):
    """Which places hold an atom: attention along the rows and along the columns of the whole table."""

    def __init__(self, config: UniMatNetConfig, depth: int) -> None:
        super().__init__()
        width = config.table_width
        self.register_buffer("boxes", boxes(), persistent=False)
        self.boxes: Tensor
        self.embed = nn.Linear(depth + 1, width)
        self.box = nn.Parameter(torch.randn(ROWS, COLUMNS, width) / math.sqrt(width))
        self.told = _Told(width, config.counts)
        layers = range(config.table_layers)
        self.along_rows = nn.ModuleList(TransformerBlock(width, config.heads) for _ in layers)
        self.along_columns = nn.ModuleList(TransformerBlock(width, config.heads) for _ in layers)
        self.norm = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, depth)
        nn.init.constant_(self.to_logits.bias, MOSTLY_EMPTY)

    def forward(self, values: Float[Tensor, "b 118 d"], given: Float[Tensor, "b 118"], noisy: Noisy) -> Tensor:
        """Logits of each place holding an atom, (b, 118, depth).

        Args:
            values: mean of the three noisy coordinates of each place.
            given: how many atoms of each element are given.
            noisy: the rest.
        """
        b, width = len(values), self.embed.out_features
        read = self.embed(torch.cat([values, given[..., None]], -1))
        row, column = self.boxes[1:].unbind(-1)
        grid = read.new_zeros(b, ROWS * COLUMNS, width).index_copy(1, row * COLUMNS + column, read)
        grid = grid.view(b, ROWS, COLUMNS, width) + self.box + self.told(noisy)[:, None, None]
        for along_row, along_column in zip(self.along_rows, self.along_columns, strict=True):
            grid = along_row(grid.reshape(b * ROWS, COLUMNS, width)).view(b, ROWS, COLUMNS, width)
            turned = along_column(grid.transpose(1, 2).reshape(b * COLUMNS, ROWS, width))
            grid = turned.view(b, COLUMNS, ROWS, width).transpose(1, 2)
        return self.to_logits(self.norm(grid[:, row, column])).float()


class _Told(nn.Module):
    """Time, noisy lattice, and conditions with the given species and the atom count, as one vector."""

    def __init__(self, width: int, counts: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.lattice = nn.Sequential(nn.Linear(6, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = ConditionEmbedding(width, len(PROPERTIES), counts)

    def forward(self, noisy: Noisy) -> Float[Tensor, "b w"]:
        whole = self.time(time_waves(noisy.time.float(), TIME_WIDTH)) + self.lattice(noisy.lattice)
        return whole + self.condition(noisy.context, noisy.given)
