"""Flow matching along straight lines, whatever the distribution at their beginning (Lipman et al., ICLR 2023)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from euhedral.noise.base import Corrupted, expand_time


class StraightFlow(ABC):
    """x_t = (1 - t) x_0 + t x_1 from x_0 of the prior; the velocity is x_1 - x_0."""

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Values at t = 0, in single precision."""
        return self.start(shape, torch.float32, rng=rng, device=device)

    @abstractmethod
    def start(
        self, shape: tuple[int, ...], dtype: torch.dtype, *, rng: torch.Generator, device: torch.device | str
    ) -> Tensor:
        """Values at t = 0 in a given precision."""

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """Noisy values at time t and the velocity x_1 - x_0."""
        start = self.start(tuple(clean.shape), clean.dtype, rng=rng, device=clean.device)
        velocity = clean - start
        return Corrupted(noisy=start + expand_time(t, clean) * velocity, target=velocity)

    def clean_from_velocity(self, noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """x_1 = x_t + (1 - t) v."""
        return noisy + (1 - expand_time(t, noisy)) * velocity

    def velocity_from_clean(self, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """v = (x_1 - x_t) / (1 - t), for t < 1."""
        return (clean - noisy) / (1 - expand_time(t, noisy))

    def advance(self, noisy: Tensor, velocity: Tensor, step: Tensor) -> Tensor:
        """x + step * v."""
        return noisy + expand_time(step, noisy) * velocity
