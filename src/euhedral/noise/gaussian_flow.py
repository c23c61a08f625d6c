"""Flow matching of Euclidean values from a standard Gaussian (Lipman et al., ICLR 2023, Eq. 22 with sigma_min = 0)."""

from __future__ import annotations

import torch
from torch import Tensor

from euhedral.noise.base import Corrupted, expand_time


class GaussianFlow:
    """Straight lines x_t = (1 - t) x_0 + t x_1 from x_0 ~ N(0, 1); the velocity is x_1 - x_0.

    Used for the six standardised coordinates of the symmetric log-lattice, shape (crystals, 6).
    """

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal values."""
        return torch.randn(shape, generator=rng, device=device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """Noisy values at time t and the velocity x_1 - x_0."""
        start = torch.randn(clean.shape, generator=rng, device=clean.device, dtype=clean.dtype)
        velocity = clean - start
        return Corrupted(noisy=start + expand_time(t, clean) * velocity, target=velocity)

    def clean_from_velocity(self, noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """x_1 = x_t + (1 - t) v."""
        return noisy + (1 - expand_time(t, noisy)) * velocity

    def velocity_from_clean(self, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """v = (x_1 - x_t) / (1 - t), for t < 1."""
        return (clean - noisy) / (1 - expand_time(t, noisy))

    def score_from_velocity(self, noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """Score of the marginal at time t < 1: (t v - x_t) / (1 - t), since E[x_0 | x_t] = x_t - t v."""
        time = expand_time(t, noisy)
        return (time * velocity - noisy) / (1 - time)

    def velocity_from_score(self, noisy: Tensor, score: Tensor, t: Tensor) -> Tensor:
        """Inverse of `score_from_velocity`, for t > 0: v = ((1 - t) score + x_t) / t."""
        time = expand_time(t, noisy)
        return ((1 - time) * score + noisy) / time

    def advance(self, noisy: Tensor, velocity: Tensor, step: Tensor) -> Tensor:
        """x + step * v."""
        return noisy + expand_time(step, noisy) * velocity
