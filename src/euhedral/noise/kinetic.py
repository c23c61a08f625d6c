"""Kinetic Langevin diffusion on the torus: noise enters the velocities of the atoms, which carry their coordinates.

Cornet et al., KLDM (2025), Section 4: dr = v ds, dv = -v ds + sqrt(2) dW from v = 0, in angles of 2 pi a cell, over the
time s from 0 (data) to `horizon` (noise). Given the clean coordinates, v is normal and r, given v, wrapped normal, so that
both are drawn at once. What is learned is the wrapped part of the score of v; the rest of it is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from euhedral.crystal.geometry import wrap
from euhedral.noise.base import Corrupted, expand_time
from euhedral.noise.path import Path, normal_like
from euhedral.noise.torus import without_mean
from euhedral.noise.wrapped_normal import scaled_score, score_moments

TURN = 2 * math.pi
_FLOOR = 1e-6
_GRID = 500


@dataclass(frozen=True, kw_only=True)
class KineticConfig:
    """How far the data is taken.

    Attributes:
        horizon: time s at t = 0; the authors' code has 2.
    """

    horizon: float = 2.0
    kind: Literal["kinetic"] = "kinetic"


class KineticPath(Path):
    """Values are coordinates and velocities in angles, (crystals, atoms, 6); both are moved without their mean."""

    features = 3

    def __init__(self, config: KineticConfig) -> None:
        self.config = config
        grid = torch.linspace(0, config.horizon, _GRID + 1, dtype=torch.float64)
        self._moments = score_moments(self.spread(grid) / TURN)

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Uniform coordinates with standard normal velocities, for a field of shape (crystals, atoms, 3)."""
        frac = torch.rand(shape, generator=rng, device=rng.device)
        return torch.cat([frac, without_mean(torch.randn(shape, generator=rng, device=rng.device))], -1)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """Coordinates and velocities at time t, and the scaled wrapped part of the score; `start` is not used."""
        s = self._elapsed(t)
        velocity = expand_time(self.speed(s), clean) * without_mean(normal_like(clean, rng))
        spread = expand_time(self.spread(s), clean)
        turned = spread * without_mean(normal_like(clean, rng))
        moved = expand_time(self.carried(s), clean) * velocity + turned
        target = -scaled_score(turned / TURN, spread / TURN) / expand_time(self._moment(s), clean)
        return Corrupted(noisy=torch.cat([wrap(clean + moved / TURN), velocity], -1), target=without_mean(target))

    def step(self, value: Tensor, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """The exponential integrator of the reverse process (Appendix C)."""
        frac, velocity = value.split(3, -1)
        s = self._elapsed(t)
        length = expand_time(s - self._elapsed(later), value)
        score = self._score(velocity, guess, s)
        noise = without_mean(normal_like(velocity, rng))
        grown = length.exp() * velocity + 2 * length.expm1() * score + (2 * length).expm1().sqrt() * noise
        return torch.cat([wrap(frac - length * grown / TURN), grown], -1)

    def field_of(self, value: Tensor) -> Tensor:
        """The coordinates."""
        return value[..., :3]

    def features_of(self, value: Tensor, t: Tensor) -> Tensor:
        """The velocities."""
        return value[..., 3:]

    def speed(self, s: Tensor) -> Tensor:
        """Standard deviation of velocities at time s."""
        return (_FLOOR - torch.expm1(-2 * s)).sqrt()

    def carried(self, s: Tensor) -> Tensor:
        """Mean angle that a velocity at time s has carried an atom, over the velocity."""
        return torch.tanh(s / 2)

    def spread(self, s: Tensor) -> Tensor:
        """Standard deviation of the angle around this mean."""
        # 2 s - 4 tanh(s / 2), by its series where the difference would cost the digits.
        exact = 2 * s - 4 * torch.tanh(s / 2)
        return (torch.where(s < 0.01, s**3 / 6, exact) + _FLOOR).sqrt()

    def _score(self, velocity: Tensor, guess: Tensor, s: Tensor) -> Tensor:
        known = -velocity / expand_time(self.speed(s), velocity).square()
        factor = self.carried(s) * self._moment(s) / self.spread(s)
        return known + expand_time(factor, guess) * guess

    def _elapsed(self, t: Tensor) -> Tensor:
        return self.config.horizon * (1 - t)

    def _moment(self, s: Tensor) -> Tensor:
        place = s.double() / self.config.horizon * _GRID
        low = place.floor().long().clamp(0, _GRID - 1)
        table = self._moments.to(s.device)
        return torch.lerp(table[low], table[low + 1], place - low)
