"""Periodic features of atom pairs: plane waves of the fractional difference, and sums over lattice images.

All of them are invariant to a shift of the origin, to the image of the cell in which an atom is listed, and (the cell
being the symmetric one) to rotations of the crystal. They are inputs, so no gradient is kept.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class PairFeaturesConfig:
    """Resolution of the pair features.

    Attributes:
        low_index_harmonics: multiples of the 13 lowest reciprocal-lattice directions.
        axis_harmonics: multiples of the three axes, beyond the ones above.
        radial: number of Gaussians of the distance.
        cutoff: centre of the last Gaussian, Å.
        vector_widths: widths in Å of the Gaussian-weighted displacement sums.
    """

    low_index_harmonics: int = 2
    axis_harmonics: int = 8
    radial: int = 16
    cutoff: float = 6.0
    vector_widths: tuple[float, ...] = (1.0, 2.5)


class PairFeatures(nn.Module):
    """Features (b, n, n, size) of every ordered pair of atoms, an atom with itself included.

    For a reciprocal vector G: cos and sin of 2 pi G.(f_j - f_i). For images m in {-1, 0, 1}^3 of the nearest
    fractional difference: sums over m of exp(-(d_m - c)^2 / 2 w^2) for radial centres c, and of the fractional
    displacement times exp(-d_m^2 / 2 s^2) for widths s. An atom's image of itself at distance 0 is left out.
    """

    def __init__(self, config: PairFeaturesConfig) -> None:
        super().__init__()
        waves = [g for g in itertools.product((-1, 0, 1), repeat=3) if g > (0, 0, 0)]
        vectors = [[k * x for x in g] for k in range(1, config.low_index_harmonics + 1) for g in waves]
        for k in range(config.low_index_harmonics + 1, config.axis_harmonics + 1):
            vectors += [[k, 0, 0], [0, k, 0], [0, 0, k]]
        images = list(itertools.product((-1, 0, 1), repeat=3))
        centres = torch.linspace(0.5, config.cutoff, config.radial)
        self.size = 2 * len(vectors) + config.radial + 3 * len(config.vector_widths)
        self._radial_width = float(centres[1] - centres[0])
        self.centres = centres.tolist()
        self.vector_widths = config.vector_widths
        self.register_buffer("waves", torch.tensor(vectors, dtype=torch.float32).reshape(-1, 3), persistent=False)
        self.register_buffer("images", torch.tensor(images, dtype=torch.float32), persistent=False)
        self.waves: Tensor
        self.images: Tensor

    @torch.no_grad()
    def forward(self, frac: Float[Tensor, "b n 3"], cell: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b n n f"]:
        """Features of all pairs in float32; see the class."""
        with torch.autocast(device_type=frac.device.type, enabled=False):
            frac, cell = frac.float(), cell.float()
            n = frac.shape[1]
            # Exchanging the two atoms keeps the even features and negates the odd ones: half of the pairs suffice.
            first, second = torch.triu_indices(n, n, device=frac.device)
            cos, sin = self._plane_waves(frac, first, second)
            radial, vectors = self._image_sums(frac, cell, first, second)
            even, odd = torch.cat([cos, radial], -1), torch.cat([sin, vectors], -1)
            place = torch.empty(n, n, dtype=torch.int64, device=frac.device)
            place[first, second] = place[second, first] = torch.arange(first.numel(), device=frac.device)
            sign = torch.ones(n, n, 1, device=frac.device)
            sign[second, first] = -1.0
            sign[first, second] = 1.0
            return torch.cat([even[:, place], odd[:, place] * sign], -1)

    def _plane_waves(self, frac: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        # The phases of atoms, not of pairs: cos(a - b) and sin(a - b) follow by products, n sines instead of n^2.
        phase = 2 * math.pi * (frac @ self.waves.T)
        cos, sin = phase.cos(), phase.sin()
        cos_i, sin_i, cos_j, sin_j = cos[:, first], sin[:, first], cos[:, second], sin[:, second]
        return cos_j * cos_i + sin_j * sin_i, sin_j * cos_i - cos_j * sin_i

    def _image_sums(self, frac: Tensor, cell: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        b, pairs = frac.shape[0], first.numel()
        delta = frac[:, second] - frac[:, first]
        shifted = (delta - torch.round(delta))[:, :, None] + self.images
        cartesian = (shifted.reshape(b, -1, 3) @ cell).reshape(b, pairs, -1, 3)
        squared = cartesian.square().sum(-1)
        # Far enough that every Gaussian is zero there: leaves out the atom itself, not atoms that coincide.
        squared = squared.masked_fill((first == second)[:, None] & (self.images == 0).all(-1), 1e6)
        radial = self._gaussians(squared.sqrt())
        vectors = [(torch.exp(squared * (-0.5 / s**2))[..., None, :] @ shifted)[..., 0, :] for s in self.vector_widths]
        return radial * 0.5, torch.cat(vectors, -1) * 4.0

    def _gaussians(self, distance: Tensor) -> Tensor:
        """Sums over the last axis of exp(-(d - c)^2 / 2 w^2), one for each centre; the centres are w apart.

        Neighbouring Gaussians differ by a factor exp((d - c) / w - 1/2), so that one exponential a run of centres and
        one for all runs replace one a centre: it took a tenth of the network's time.
        """
        width = self._radial_width
        # Further out every Gaussian is zero; the bound keeps the factor finite.
        distance = distance.clamp(max=self.centres[-1] + 7 * width)
        growth = (distance / width).exp_()
        sums = []
        for k, centre in enumerate(self.centres):
            if k % _RUN == 0:
                offset = distance - centre
                gaussian = (offset * offset).mul_(-0.5 / width**2).exp_()
            else:
                gaussian = gaussian.mul_(growth).mul_(math.exp(-self.centres[k - 1] / width - 0.5))
            sums.append(gaussian.sum(-1))
        return torch.stack(sums, -1)


_RUN = 8
