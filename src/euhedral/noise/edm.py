"""Variance-exploding diffusion as Karras et al. design it (EDM, NeurIPS 2022), of Euclidean values and on the torus.

x_t = x + s(t) e. What a network reads is x_t over the root mean square that it should have, and what it predicts is
scaled so that input, target and weight are of order one at every width (Section 5, Table 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from euhedral.crystal.geometry import wrap, wrap_centered
from euhedral.noise.base import Corrupted, expand_time
from euhedral.noise.path import Derived, normal_like
from euhedral.noise.torus import UNIFORM, without_mean


@dataclass(frozen=True, kw_only=True)
class EDMConfig:
    """Widths of the noise.

    Attributes:
        sigma_min: the last width before none.
        sigma_max: the first width.
        rho: the roots of this order are spaced evenly in time (Eq. 5).
        sigma_data: standard deviation of clean values.
        log_mean: mean of the logarithm of the width in training.
        log_std: its standard deviation.
        kind: `edm` of Euclidean values.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    sigma_data: float = 1.0
    log_mean: float = -1.2
    log_std: float = 1.2
    kind: Literal["edm"] = "edm"


class EDM(Derived):
    """The target F makes c_skip x_t + c_out F the clean value (Eq. 7); values are kept as x_t over c_in."""

    aims = True
    explodes = True

    def __init__(self, config: EDMConfig) -> None:
        self.config = config

    def sigma(self, t: Tensor) -> Tensor:
        """Width at time t, of its shape: 0 at t = 1."""
        config = self.config
        first, last = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
        return torch.where(t < 1, (first + t.clamp(0, 1) * (last - first)) ** config.rho, torch.zeros_like(t))

    def time(self, sigma: Tensor) -> Tensor:
        """The time at which the noise has a width; the inverse of `sigma`."""
        config = self.config
        first, last = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
        return ((sigma ** (1 / config.rho) - first) / (last - first)).clamp(0, 1 - 1e-6)

    def draw_time(self, size: int, *, rng: torch.Generator) -> Tensor:
        """Times whose widths are log-normal."""
        drawn = torch.randn(size, generator=rng, device=rng.device)
        return self.time((self.config.log_mean + self.config.log_std * drawn).exp())

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Normal values of the first width."""
        return self.config.sigma_max * torch.randn(shape, generator=rng, device=rng.device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """Noisy values and F; `start` is not used."""
        sigma = expand_time(self.sigma(t), clean)
        noisy = clean + sigma * normal_like(clean, rng)
        skip, out = self._scales(sigma)
        return Corrupted(noisy=noisy, target=(clean - skip * noisy) / out)

    def shown(self, value: Tensor, t: Tensor) -> Tensor:
        """c_in x_t."""
        sigma = expand_time(self.sigma(t), value)
        return value / (sigma.square() + self.config.sigma_data**2).sqrt()

    def derivative(self, value: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """dx / ds = (x - D) / s, with the denoised value D (Eq. 3)."""
        sigma = expand_time(self.sigma(t), value)
        skip, out = self._scales(sigma)
        return (value - skip * value - out * guess) / sigma

    def move(self, value: Tensor, derivative: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """Along the derivative by the change of the width."""
        return value + expand_time(self.sigma(later) - self.sigma(t), value) * derivative

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip x_t + c_out F."""
        skip, out = self._scales(expand_time(self.sigma(t), value))
        return skip * value, out

    def _scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        data = self.config.sigma_data
        total = sigma.square() + data**2
        return data**2 / total, (sigma * data / total.sqrt()).clamp_min(1e-8)


@dataclass(frozen=True, kw_only=True)
class TorusEDMConfig(EDMConfig):
    """The same on the torus."""

    sigma_data: float = 0.25
    kind: Literal["torus_edm"] = "torus_edm"  # type: ignore[assignment]


class TorusEDM(EDM):
    """Coordinates (crystals, atoms, 3) with their images: x_t is wrapped, and the way back is the nearest image.

    The target is the displacement from x_t to the nearest image of the clean coordinates, without its mean over the
    atoms, over the root mean square that it has: s, but no more than that of a uniform coordinate. There is no c_skip:
    that of the Euclidean case would pull every atom toward an origin that a crystal does not have.
    """

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Uniform coordinates, which those of the first width are."""
        return torch.rand(shape, generator=rng, device=rng.device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """Noisy coordinates, and the scaled way back; `start` is not used."""
        sigma = expand_time(self.sigma(t), clean)
        # Taken modulo one, since widths of many cells would cost digits.
        noisy = wrap(clean + (sigma * normal_like(clean, rng)) % 1)
        target = without_mean(wrap_centered(clean - noisy)) / self._reach(sigma)
        return Corrupted(noisy=noisy, target=target)

    def shown(self, value: Tensor, t: Tensor) -> Tensor:
        """The coordinates."""
        return value

    def derivative(self, value: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """dx / ds, which leads to the predicted clean coordinates at s = 0."""
        sigma = expand_time(self.sigma(t), value)
        return -guess * self._reach(sigma) / sigma

    def move(self, value: Tensor, derivative: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """Along the derivative, wrapped."""
        return wrap(super().move(value, derivative, t, later))

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled way back."""
        return value, self._reach(expand_time(self.sigma(t), value))

    def _reach(self, sigma: Tensor) -> Tensor:
        return sigma.clamp(1e-8, UNIFORM)
