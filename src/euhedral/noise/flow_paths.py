"""Flow matching as paths: on the torus, and from a Gaussian (FlowMM, CrystalFlow, OMatG without latent noise)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from euhedral.noise.base import Corrupted, expand_time
from euhedral.noise.gaussian_flow import GaussianFlow
from euhedral.noise.path import Derived
from euhedral.noise.torus import TorusFlow


@dataclass(frozen=True, kw_only=True)
class TorusFlowPathConfig:
    """Flow matching of coordinates on the torus.

    Attributes:
        annealing: velocities are scaled by 1 + this * t, but never lead beyond the value that they point at.
    """

    annealing: float = 0.0
    kind: Literal["torus_flow"] = "torus_flow"


class TorusFlowPath(Derived):
    """See `noise.torus`; the target is the velocity without its mean over the atoms."""

    aims = True

    def __init__(self, config: TorusFlowPathConfig) -> None:
        self.config = config
        self.process = TorusFlow()

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Uniform coordinates."""
        return self.process.prior(shape, rng=rng, device=rng.device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """See the class."""
        return self.process.corrupt(clean, t, rng=rng, start=start)

    def derivative(self, value: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """The velocity."""
        return guess

    def move(self, value: Tensor, derivative: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """Along the velocity, wrapped."""
        return self.process.advance(value, derivative, annealed(t, later, self.config.annealing))

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_1 = x_t + (1 - t) v."""
        return value, expand_time(1 - t, value)


@dataclass(frozen=True, kw_only=True)
class GaussianFlowPathConfig:
    """Flow matching from a standard Gaussian.

    Attributes:
        annealing: see `TorusFlowPathConfig`.
    """

    annealing: float = 0.0
    kind: Literal["gaussian_flow"] = "gaussian_flow"


class GaussianFlowPath(Derived):
    """See `noise.gaussian_flow`; the target is the velocity."""

    aims = True

    def __init__(self, config: GaussianFlowPathConfig) -> None:
        self.config = config
        self.process = GaussianFlow()

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Standard normal values."""
        return self.process.prior(shape, rng=rng, device=rng.device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """See the class."""
        if start is None:
            return self.process.corrupt(clean, t, rng=rng)
        velocity = clean - start
        return Corrupted(noisy=start + expand_time(t, clean) * velocity, target=velocity)

    def derivative(self, value: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """The velocity."""
        return guess

    def move(self, value: Tensor, derivative: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """Along the velocity."""
        return self.process.advance(value, derivative, annealed(t, later, self.config.annealing))

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_1 = x_t + (1 - t) v."""
        return value, expand_time(1 - t, value)


def annealed(t: Tensor, later: Tensor, annealing: float) -> Tensor:
    """Length of a step from time t whose velocity is scaled by 1 + annealing * t; shape of `t`.

    A velocity v points at the clean value x + (1 - t) v; a longer step would overshoot it, which leaves the last steps
    oscillating around it: the RMSE of what the default model matches is a quarter higher without the bound, which FlowMM
    and OMatG do not have.
    """
    return torch.minimum((later - t) * (1 + annealing * t), 1 - t)
