"""Flow matching on the probability simplex: straight lines from uniform points to corners.

Linear flow matching of Stark et al. (Dirichlet Flow Matching, ICML 2024, Section 3.1). Of k classes a point of the simplex
has coordinates of about 1 / k, so that the class of a noisy one is plain from t = log(k) / k on: give late times more of the
steps (`models.species_fields.SimplexSpecies`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from euhedral.noise.base import Corrupted, expand_time


class SimplexFlow:
    """x_t = (1 - t) x_0 + t x_1 from x_0 ~ Dirichlet(1, ..., 1) to a corner x_1; the velocity is x_1 - x_0.

    Values have shape (..., k), not negative and of sum one.
    """

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Uniform points of the simplex."""
        return _uniform(shape, torch.float32, rng, device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """Noisy points at time t and the velocity x_1 - x_0."""
        start = _uniform(tuple(clean.shape), clean.dtype, rng, clean.device)
        velocity = clean - start
        return Corrupted(noisy=start + expand_time(t, clean) * velocity, target=velocity)

    def clean_from_velocity(self, noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """x_1 = x_t + (1 - t) v; on average over what x_t may come from, the probabilities of the classes."""
        return noisy + (1 - expand_time(t, noisy)) * velocity

    def velocity_from_clean(self, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """v = (x_1 - x_t) / (1 - t), for t < 1, of corners or of probabilities of the classes."""
        return (clean - noisy) / (1 - expand_time(t, noisy))

    def advance(self, noisy: Tensor, velocity: Tensor, step: Tensor) -> Tensor:
        """x + step * v."""
        return noisy + expand_time(step, noisy) * velocity


def _uniform(shape: tuple[int, ...], dtype: torch.dtype, rng: torch.Generator, device: torch.device | str) -> Tensor:
    drawn = torch.rand(shape, generator=rng, device=device, dtype=torch.float64)
    parts = -torch.log1p(-drawn)
    return (parts / parts.sum(-1, keepdim=True)).to(dtype)
