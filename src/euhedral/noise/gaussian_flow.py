"""Flow matching of Euclidean values from a standard Gaussian (Lipman et al., ICLR 2023, Eq. 22 with sigma_min = 0)."""

from __future__ import annotations

import torch
from torch import Tensor

from euhedral.noise.base import expand_time
from euhedral.noise.straight import StraightFlow


class GaussianFlow(StraightFlow):
    """Straight lines from x_0 ~ N(0, 1).

    Used for the six standardised coordinates of the symmetric log-lattice, shape (crystals, 6).
    """

    def start(
        self, shape: tuple[int, ...], dtype: torch.dtype, *, rng: torch.Generator, device: torch.device | str
    ) -> Tensor:
        """Standard normal values."""
        return torch.randn(shape, generator=rng, device=device, dtype=dtype)

    def score_from_velocity(self, noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """Score of the marginal at time t < 1: (t v - x_t) / (1 - t), since E[x_0 | x_t] = x_t - t v."""
        time = expand_time(t, noisy)
        return (time * velocity - noisy) / (1 - time)

    def velocity_from_score(self, noisy: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """Inverse of `score_from_velocity`, for t > 0: v = ((1 - t) score + x_t) / t."""
        time = expand_time(t, noisy)
        return ((1 - time) * score + noisy) / time
