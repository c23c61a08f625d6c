"""The contract of a process that turns clean values into noise, and the record that `corrupt` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Corrupted:
    """A noisy value and what a network shall learn to predict from it.

    Attributes:
        noisy: value at time t, shaped as the clean value.
        target: regression target (velocity) or class target, shaped as the process states.
    """

    noisy: Tensor
    target: Tensor


@runtime_checkable
class NoiseProcess(Protocol):
    """What every process offers; `t` has shape (crystals,) and lies in [0, 1], 0 being noise."""

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Draw values at t = 0 of shape (crystals, ...)."""
        ...

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator) -> Corrupted:
        """Draw a noisy value at time t given the clean one, with the training target."""
        ...


@runtime_checkable
class FlowProcess(NoiseProcess, Protocol):
    """A process with a velocity: an ordinary differential equation carries noise to data."""

    def clean_from_velocity(self, noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
        """The clean value that a velocity at time t points to."""
        ...

    def velocity_from_clean(self, noisy: Tensor, clean: Tensor, t: Tensor) -> Tensor:
        """The velocity that carries the noisy value at time t to a clean one at time 1."""
        ...

    def advance(self, noisy: Tensor, velocity: Tensor, step: Tensor) -> Tensor:
        """Move along the velocity for a time step of shape (crystals,)."""
        ...


def expand_time(t: Tensor, like: Tensor) -> Tensor:
    """Give a time of shape (crystals,) as many trailing axes of length one as `like` has."""
    return t.reshape(-1, *([1] * (like.dim() - 1))).to(like.dtype)
