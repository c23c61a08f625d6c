"""One field of a crystal on its way from noise to data, in the terms of a network that predicts one tensor of it.

A `Path` joins a noise process with what its network learns and with the step that a sampler takes, so that a joint model
is a list of paths and one loop. `t` has shape (crystals,) and goes from 0 (noise) to 1 (data). A path may keep more than
the field itself on the last axis of its values, such as velocities; `field_of` and `features_of` take them apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from euhedral.noise.base import Corrupted


class Path(ABC):
    """How a field is noised, and how a step leads back.

    Attributes:
        vectors: tensors of the field's shape that the network predicts, side by side on the last axis.
        features: channels of `features_of`, which the network reads.
        corrected: whether `correct` does anything, and takes an evaluation of its own.
        aims: whether `aim` tells which data a prediction means.
        explodes: whether values on their way are far beyond the data.
    """

    vectors: int = 1
    features: int = 0
    corrected: bool = False
    aims: bool = False
    explodes: bool = False

    @abstractmethod
    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Values at t = 0 for a field of shape (crystals, ...), on the generator's device."""

    @abstractmethod
    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """Noisy values at time t, and what the network shall predict. `start` is the noise where it was chosen already."""

    @abstractmethod
    def step(self, value: Tensor, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """Values at a later time, given the network's prediction at time t; `rng` lives on the CPU."""

    def correct(self, value: Tensor, guess: Tensor, t: Tensor, *, rng: torch.Generator | None) -> Tensor:
        """A corrector's move at time t; without a generator, nothing random is added."""
        return value

    def within(self, value: Tensor, guess: Tensor, t: Tensor, bounded: Callable[[Tensor], Tensor]) -> Tensor:
        """The prediction whose clean value is the bounded one of this; this one itself where it never means far values."""
        return guess

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and b such that a prediction g at a value says that the data is a + b g, at t < 1; only where `aims`.

        On the torus up to whole cells and the mean over the atoms.
        """
        raise NotImplementedError(f"{type(self).__name__} does not tell which data a prediction means")

    def clean(self, value: Tensor) -> Tensor:
        """The field that a value at t = 1 stands for."""
        return self.field_of(value)

    def field_of(self, value: Tensor) -> Tensor:
        """The noisy field within a value."""
        return value

    def shown(self, value: Tensor, t: Tensor) -> Tensor:
        """The noisy field as the network reads it."""
        return self.field_of(value)

    def features_of(self, value: Tensor, t: Tensor) -> Tensor | None:
        """What else the network reads of each atom, (crystals, atoms, features)."""
        return None

    def draw_time(self, size: int, *, rng: torch.Generator) -> Tensor:
        """Times of training, (size,): uniform."""
        return torch.rand(size, generator=rng, device=rng.device)


class Derived(Path):
    """A path along an ordinary differential equation, which solvers of any order may follow."""

    @abstractmethod
    def derivative(self, value: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """The direction that `move` takes."""

    @abstractmethod
    def move(self, value: Tensor, derivative: Tensor, t: Tensor, later: Tensor) -> Tensor:
        """Values at a later time along a direction."""

    def step(self, value: Tensor, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """Euler's step."""
        return self.move(value, self.derivative(value, guess, t), t, later)


def normal_like(value: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal values of the shape, dtype and device of others, from a generator on any device."""
    return torch.randn(value.shape, generator=rng, device=rng.device, dtype=value.dtype).to(value.device)
