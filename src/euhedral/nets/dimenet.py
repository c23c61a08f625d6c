"""DimeNet++ on dense batches: directional messages among all atoms of a cell, read out as one vector of a crystal.

Gasteiger et al., Fast and Uncertainty-Aware Directional Message Passing, 2020 (arXiv 2011.14115), Section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from euhedral.nets.directional_basis import DEGREE_OF, DEGREES, pair_basis
from euhedral.nets.periodic_transformer import SPECIES

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class DimeNetConfig:
    """Size of the network, by default that of CDVAE's encoder but for the cutoff (published: 7 Å, 20 neighbours).

    Attributes:
        width: channels of a message.
        blocks: interaction blocks.
        triplet_width: channels in which messages meet at an angle.
        out_width: channels of a crystal.
        radial: Bessel functions of a distance.
        cutoff: distance in Å beyond which atoms do not see each other.
        before_skip: residual layers before the skip connection of a block.
        after_skip: residual layers after it.
        output_layers: layers from the atoms of a block to its part of the crystal.
    """

    width: int = 128
    blocks: int = 4
    triplet_width: int = 64
    out_width: int = 256
    radial: int = 6
    cutoff: float = 5.0
    before_skip: int = 1
    after_skip: int = 2
    output_layers: int = 3


class DimeNet(nn.Module):
    """Crystals of one atom count to vectors (b, out_width), the mean over atoms, summed over the blocks.

    A message is kept for each ordered pair of atoms, of which all images within the cutoff are one; what a pair (j, i)
    gathers from the pairs (k, j) depends on their distance and on the angle at j, summed over the images of both. Unlike in
    the publication, all degrees share one set of radial functions, and the way back (k = i) is not left out.

    Invariant to permutations, rotations, the origin and the cell images of atoms; see `pair_basis` for its images.
    """

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed_species = nn.Embedding(SPECIES, width)
        self.embed_radial = nn.Linear(config.radial, width)
        self.embed = nn.Linear(3 * width, width)
        self.blocks = nn.ModuleList(InteractionBlock(config) for _ in range(config.blocks))
        self.outputs = nn.ModuleList(OutputBlock(config) for _ in range(config.blocks + 1))

    def forward(
        self, frac: Float[Tensor, "b n 3"], cell: Float[Tensor, "b 3 3"], species: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b w"]:
        """Vectors of crystals; cells in Å, no species masked."""
        b, n = species.shape
        basis = pair_basis(frac, cell, cutoff=self.config.cutoff, number=self.config.radial)
        atoms = self.embed_species(species)
        radial = basis[..., 1:, 0]
        ends = [atoms[:, :, None].expand(b, n, n, -1), atoms[:, None].expand(b, n, n, -1)]
        waves = functional.silu(self.embed_radial(radial)).to(atoms.dtype)
        messages = functional.silu(self.embed(torch.cat([*ends, waves], -1)))
        total = self.outputs[0](messages, radial)
        for block, output in zip(self.blocks, self.outputs[1:], strict=True):
            messages = block(messages, basis)
            total = total + output(messages, radial)
        return total


class Residual(nn.Module):
    """x + two layers of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + self.layers(x)


class InteractionBlock(nn.Module):
    """New messages m_ij from m_ij and from all m_jk, weighed by the distance jk and the angle between ji and jk."""

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        width, narrow = config.width, config.triplet_width
        self.own, self.other = nn.Linear(width, width), nn.Linear(width, width)
        self.radial = nn.Linear(config.radial, width, bias=False)
        self.down, self.up = nn.Linear(width, narrow, bias=False), nn.Linear(narrow, width, bias=False)
        self.weight = nn.Parameter(torch.randn(DEGREES, config.radial, narrow) / (DEGREES * config.radial) ** 0.5)
        self.norm = nn.LayerNorm(narrow)
        self.before = nn.Sequential(*(Residual(width) for _ in range(config.before_skip)))
        self.skip = nn.Linear(width, width)
        self.after = nn.Sequential(*(Residual(width) for _ in range(config.after_skip)))

    def forward(self, messages: Float[Tensor, "b n n w"], basis: Float[Tensor, "b n n r l"]) -> Tensor:
        """See the class."""
        own = functional.silu(self.own(messages))
        other = functional.silu(self.other(messages)) * self.radial(basis[..., 1:, 0])
        gathered = self._gather(functional.silu(self.down(other)), basis)
        mixed = own + functional.silu(self.up(self.norm(gathered)))
        return self.after(messages + functional.silu(self.skip(self.before(mixed))))

    def _gather(self, other: Tensor, basis: Tensor) -> Tensor:
        """Sums over k at each atom j of radial functions, harmonics and messages, met by the harmonics of (j, i)."""
        b, n, _, narrow = other.shape
        basis = basis.to(other.dtype)
        bessel = basis[..., 1:, :].flatten(3)
        moments = (bessel.transpose(2, 3) @ other).view(b, n, -1, len(DEGREE_OF), narrow)
        degree = torch.tensor(DEGREE_OF, device=other.device)
        moments = (moments * self.weight[degree].transpose(0, 1).to(other.dtype)).sum(2)
        return (basis[..., 0, :] @ moments).transpose(1, 2)


class OutputBlock(nn.Module):
    """Messages to atoms, and the mean over atoms."""

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        self.radial = nn.Linear(config.radial, config.width, bias=False)
        self.up = nn.Linear(config.width, config.out_width, bias=False)
        self.norm = nn.LayerNorm(config.out_width)
        width = config.out_width
        steps = [nn.Sequential(nn.Linear(width, width), nn.SiLU()) for _ in range(config.output_layers)]
        self.layers = nn.Sequential(*steps)
        self.last = nn.Linear(width, width, bias=False)

    def forward(self, messages: Float[Tensor, "b n n w"], radial: Float[Tensor, "b n n r"]) -> Float[Tensor, "b w"]:
        """See the class."""
        atoms = (self.radial(radial) * messages).sum(2)
        return self.last(self.layers(self.norm(self.up(atoms)))).mean(1)
