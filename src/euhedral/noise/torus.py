"""Flow matching of fractional coordinates on the torus (Miller et al., FlowMM, ICML 2024, Section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from euhedral.crystal.geometry import wrap, wrap_centered
from euhedral.noise.base import Corrupted, expand_time

UNIFORM = 12**-0.5
"""Standard deviation of a coordinate that may lie anywhere on the torus."""


class TorusFlow:
    """Straight lines on the torus from uniform noise to the coordinates: x_t = x_0 + t log(x_0, x_1).

    log(x_0, x_1) is the shortest displacement, in [-1/2, 1/2). Its mean over the atoms of a crystal is taken out, since
    shifting the origin does not change a crystal; the target velocity is therefore constant along a path and without
    mean. Values have shape (crystals, atoms, 3) for crystals of one size.
    """

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Uniform coordinates in [0, 1)."""
        return torch.rand(shape, generator=rng, device=device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """Noisy coordinates at time t and the velocity without mean, both (crystals, atoms, 3).

        `start` is the noise where it was paired with the crystals already (see `noise.alignment`), else it is drawn.
        """
        if start is None:
            start = torch.rand(clean.shape, generator=rng, device=clean.device, dtype=clean.dtype)
        velocity = without_mean(wrap_centered(clean - start))
        return Corrupted(noisy=wrap(start + expand_time(t, clean) * velocity), target=velocity)

    def clean_from_velocity(self, noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """x_1 = x_t + (1 - t) v, wrapped."""
        return wrap(noisy + (1 - expand_time(t, noisy)) * velocity)

    def velocity_from_clean(self, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """v = log(x_t, x_1) / (1 - t), for t < 1."""
        return wrap_centered(clean - noisy) / (1 - expand_time(t, noisy))

    def advance(self, noisy: Tensor, velocity: Tensor, step: Tensor) -> Tensor:
        """x + step * v, wrapped into [0, 1)."""
        return wrap(noisy + expand_time(step, noisy) * velocity)


def without_mean(displacement: Tensor) -> Tensor:
    """Take the mean over atoms out of displacements (crystals, atoms, 3)."""
    return displacement - displacement.mean(dim=-2, keepdim=True)
