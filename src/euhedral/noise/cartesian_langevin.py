"""Annealed Langevin dynamics of Cartesian coordinates in a periodic cell (Song and Ermon, NeurIPS 2019; Xie et al., CDVAE).

Noise of CDVAE (ICLR 2022, Section 3.3) is normal in Å and is not wrapped; what is learned is the shortest way back, over the
width of the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from euhedral.crystal.geometry import minimum_image_vectors
from euhedral.noise.base import Corrupted, expand_time
from euhedral.noise.path import normal_like


@dataclass(frozen=True, kw_only=True)
class CartesianLangevinConfig:
    """Widths of the noise, from large to small in equal ratios, and the step.

    Attributes:
        levels: how many widths.
        sigma_begin: the largest, Å.
        sigma_end: the smallest, Å.
        step: length of a step at the smallest width, Å²; at others it grows with the square of the width.
    """

    levels: int = 50
    sigma_begin: float = 10.0
    sigma_end: float = 0.01
    step: float = 1e-4


class CartesianLangevin:
    """See the module; level 0 has the largest width."""

    def __init__(self, config: CartesianLangevinConfig) -> None:
        self.config = config
        self.sigmas = widths(config.sigma_begin, config.sigma_end, config.levels)

    def draw_levels(self, size: int, *, rng: torch.Generator) -> Tensor:
        """Levels of training, (size,), all as often."""
        return torch.randint(self.config.levels, (size,), generator=rng, device=rng.device)

    def corrupt(self, frac: Tensor, cell: Tensor, level: Tensor, *, rng: torch.Generator) -> Corrupted:
        """Noisy fractional coordinates, and the shortest Cartesian way back over the width, (b, n, 3) each.

        Args:
            frac: of crystals of one atom count, (b, n, 3).
            cell: rows a, b, c in Å, (b, 3, 3).
            level: of each crystal, (b,).
            rng: on the device of the crystals.
        """
        with torch.autocast(device_type=frac.device.type, enabled=False):
            sigma = expand_time(self.sigmas.to(frac)[level], frac)
            moved = sigma * torch.randn(frac.shape, generator=rng, device=frac.device, dtype=frac.dtype)
            noisy = (frac + moved @ inverse(cell)) % 1
            back = minimum_image_vectors(noisy, frac, cell[:, None])
            return Corrupted(noisy=noisy, target=back / sigma)

    def levels_of(self, steps: int) -> list[int]:
        """The level of each of so many steps: each equally often, or some left out where steps are few."""
        levels = self.config.levels
        if steps >= levels:
            return [step * levels // steps for step in range(steps)]
        return [round(level) for level in torch.linspace(0, levels - 1, steps).tolist()]

    def move(self, frac: Tensor, guess: Tensor, cell: Tensor, level: int, *, rng: torch.Generator | None) -> Tensor:
        """x + e s + sqrt(2 e) z with the score s = guess / sigma and e the step of this level; no z without a generator.

        Args:
            frac: (b, n, 3).
            guess: of the target of `corrupt`, Cartesian.
            cell: (b, 3, 3).
            level: of all crystals.
            rng: on the CPU.
        """
        with torch.autocast(device_type=frac.device.type, enabled=False):
            sigma = float(self.sigmas[level])
            length = self.config.step * (sigma / self.config.sigma_end) ** 2
            moved = length / sigma * guess.to(frac.dtype)
            if rng is not None:
                moved = moved + math.sqrt(2 * length) * normal_like(frac, rng)
            return (frac + moved @ inverse(cell)) % 1


def widths(begin: float, end: float, levels: int) -> Tensor:
    """Widths from the first to the last in equal ratios, (levels,)."""
    return torch.linspace(math.log(begin), math.log(end), levels).exp()


def inverse(cell: Tensor) -> Tensor:
    """Inverse of cells, by way of float64."""
    return torch.linalg.inv(cell.double()).to(cell.dtype)
