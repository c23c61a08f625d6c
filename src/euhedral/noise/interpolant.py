"""Stochastic interpolants (Albergo et al., 2023; Hoellmer et al., OMatG, ICML 2025, Section 3) as paths.

x_t = a(t) x_0 + b(t) x_1 + g(t) z from noise x_0 to data x_1 with a latent z ~ N(0, 1). A network learns the velocity
E[dx_t / dt | x_t], and where g is not zero E[z | x_t] beside it, whose negative over g is the score. Samples follow the
velocity (ODE), or velocity + e score with noise of variance 2 e dt (SDE; OMatG, Eq. 5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from euhedral.crystal.geometry import wrap, wrap_centered
from euhedral.noise.base import Corrupted, expand_time
from euhedral.noise.flow_paths import annealed
from euhedral.noise.path import Path, normal_like
from euhedral.noise.torus import without_mean

EDGE = 1e-3
"""Times nearer to 0 and 1 are not used where derivatives of the schedules diverge."""
Schedule = Literal["linear", "trigonometric", "encoder_decoder", "score_based"]


@dataclass(frozen=True, kw_only=True)
class InterpolantConfig:
    """Schedules of an interpolant.

    Attributes:
        schedule: a and b: `linear` 1 - t and t; `trigonometric` cos and sin of pi t / 2; `encoder_decoder` cos² of pi t,
            the noise's until t = 1/2 and the data's from there on, which needs a latent; `score_based` sqrt(1 - t²)
            and t, the one that a variance-preserving diffusion is (OMatG, Table 1).
        latent: a of the latent's width g = sqrt(a t (1 - t)); 0: no latent.
        noise: largest e of the stochastic differential equation; 0: the ordinary one. It takes a latent.
        noise_from: time at which e has risen to half of it, and before 1, has fallen to half again.
        noise_width: width of this rise and fall.
        annealing: velocities are scaled by 1 + this * t.
    """

    schedule: Schedule = "linear"
    latent: float = 0.0
    noise: float = 0.0
    noise_from: float = 0.17
    noise_width: float = 0.03
    annealing: float = 0.0
    kind: Literal["interpolant"] = "interpolant"

    def __post_init__(self) -> None:
        from euhedral.errors import ConfigError

        if not self.latent and (self.noise or self.schedule == "encoder_decoder"):
            raise ConfigError("noise and the schedule encoder_decoder take a latent above 0")


class Interpolant(Path):
    """An interpolant of Euclidean values from a standard Gaussian; see the module."""

    def __init__(self, config: InterpolantConfig) -> None:
        self.config = config
        self.vectors = 2 if config.latent else 1
        self.aims = not config.latent

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Standard normal values."""
        return torch.randn(shape, generator=rng, device=rng.device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """Noisy values, and the velocity, with the latent beside it where there is one."""
        if start is None:
            start = self.prior(tuple(clean.shape), rng=rng).to(clean)
        clean = self._nearest(start, clean)
        time = expand_time(t, clean)
        (a, b), (da, db) = self.coefficients(time)
        noisy, velocity = a * start + b * clean, da * start + db * clean
        if not self.config.latent:
            return Corrupted(noisy=self._settled(noisy), target=self._target(velocity))
        latent = normal_like(clean, rng)
        width, slope = self.latent(time)
        target = torch.cat([self._target(velocity + slope * latent), self._target(latent)], -1)
        return Corrupted(noisy=self._settled(noisy + width * latent), target=target)

    def step(self, value: Tensor, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """A step of Euler's, or of Euler and Maruyama's."""
        length = expand_time(annealed(t, later, self.config.annealing), value)
        if not self.config.latent:
            return self._settled(value + length * guess)
        velocity, latent = guess.chunk(2, -1)
        if not self.config.noise:
            return self._settled(value + length * velocity)
        time = expand_time(t, value)
        width, _ = self.latent(time.clamp(EDGE, 1 - EDGE))
        noise = self.noise(time)
        elapsed = expand_time(later - t, value)
        drift = length * velocity - elapsed * noise / width * latent
        return self._settled(value + drift + (2 * noise * elapsed).sqrt() * self._target(normal_like(value, rng)))

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_1 = (v - a' / a x_t) / (b' - a' b / a), without a latent."""
        (a, b), (da, db) = self.coefficients(expand_time(t, value))
        reach = a / (db * a - da * b)
        return -da / a * reach * value, reach

    def coefficients(self, t: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(a, b) and their derivatives at time t, of its shape."""
        if self.config.schedule == "linear":
            one = torch.ones_like(t)
            return (1 - t, t), (-one, one)
        if self.config.schedule == "trigonometric":
            half = math.pi / 2
            cos, sin = torch.cos(half * t), torch.sin(half * t)
            return (cos, sin), (-half * sin, half * cos)
        if self.config.schedule == "score_based":
            root = (1 - t.square()).clamp_min(EDGE).sqrt()
            return (root, t), (-t / root, torch.ones_like(t))
        squared, slope = torch.cos(math.pi * t).square(), -math.pi * torch.sin(2 * math.pi * t)
        zero, early = torch.zeros_like(t), t <= 0.5
        return (
            (torch.where(early, squared, zero), torch.where(early, zero, squared)),
            (torch.where(early, slope, zero), torch.where(early, zero, slope)),
        )

    def latent(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """g and its derivative at time t; the derivative within `EDGE` of the ends is that at the edge."""
        inner = t.clamp(EDGE, 1 - EDGE)
        width = (self.config.latent * t * (1 - t)).clamp_min(0).sqrt()
        slope = self.config.latent * (1 - 2 * inner) / (2 * (self.config.latent * inner * (1 - inner)).sqrt())
        return width, slope

    def noise(self, t: Tensor) -> Tensor:
        """e at time t, which vanishes at both ends (OMatG, Appendix A)."""
        config = self.config
        rise = torch.sigmoid((t - config.noise_from) / config.noise_width)
        fall = torch.sigmoid((1 - config.noise_from - t) / config.noise_width)
        return config.noise * rise * fall

    def _nearest(self, start: Tensor, clean: Tensor) -> Tensor:
        return clean

    def _settled(self, value: Tensor) -> Tensor:
        return value

    def _target(self, vector: Tensor) -> Tensor:
        return vector


@dataclass(frozen=True, kw_only=True)
class TorusInterpolantConfig(InterpolantConfig):
    """The same on the torus."""

    kind: Literal["torus_interpolant"] = "torus_interpolant"  # type: ignore[assignment]


class TorusInterpolant(Interpolant):
    """An interpolant of fractional coordinates from uniform ones, (crystals, atoms, 3) (OMatG, Section 3.2).

    The data is the image of each atom that is nearest to its noise, and what the interpolant gives is wrapped. Vectors
    have no mean over the atoms.
    """

    def __init__(self, config: InterpolantConfig) -> None:
        super().__init__(config)
        # Other schedules scale coordinates, which have no zero.
        self.aims = self.aims and config.schedule == "linear"

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Uniform coordinates."""
        return torch.rand(shape, generator=rng, device=rng.device)

    def _nearest(self, start: Tensor, clean: Tensor) -> Tensor:
        return start + wrap_centered(clean - start)

    def _settled(self, value: Tensor) -> Tensor:
        return wrap(value)

    def _target(self, vector: Tensor) -> Tensor:
        return without_mean(vector)
