"""Rules that turn gradients into steps, for many crystals at once and each by itself.

A crystal is a row of coordinates in Å: the nine of its cell, those of its atoms, then nothing up to the longest row. Rows
come and go as crystals end and are replaced; no rule mixes them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


class Descent(ABC):
    """State of a descent in every row.

    `_fields` names its tensors: which dimension is that of the rows, and how many trailing ones are as wide as a row.
    """

    _fields: ClassVar[dict[str, tuple[int, int]]]
    width = 0
    longest_norm = math.inf
    """Bound on the norm of a whole row's step in Å, beside those that the caller has."""

    @abstractmethod
    def step(self, gradient: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """The step from where `gradient` (eV/Å) was found, before limits make it shorter."""

    @abstractmethod
    def taken(self, step: Float[Tensor, "rows width"]) -> None:
        """Tell which step was taken."""

    def keep(self, rows: Bool[Tensor, " rows"]) -> None:
        """Forget all but these rows."""
        chosen = rows.nonzero().flatten()
        for name, (dimension, _) in self._fields.items():
            setattr(self, name, getattr(self, name).index_select(dimension, chosen))

    def add(self, compliances: Sequence[Float[Tensor, "d d"]]) -> None:
        """Add rows at the end: one for each first guess of the inverse Hessian in Å²/eV, which is as wide as the row."""
        before, self.width = self.width, max([self.width, *(guess.shape[0] for guess in compliances)])
        for name, (dimension, wide) in self._fields.items():
            value = F.pad(getattr(self, name), (0, self.width - before) * wide)
            shape = list(value.shape)
            shape[dimension] = len(compliances)
            setattr(self, name, torch.cat([value, self._new(name, shape, compliances)], dimension))

    @abstractmethod
    def _new(self, name: str, shape: list[int], compliances: Sequence[Tensor]) -> Tensor:
        """What a field is in new rows."""


class Fire(Descent):
    """The fast inertial relaxation engine (Bitzek et al., PRL 97, 170201, 2006) with the constants of ASE.

    Velocities turn towards the force as long as they go downhill, and start again from nothing where they do not.
    """

    _fields: ClassVar[dict[str, tuple[int, int]]] = {
        "velocity": (0, 1),
        "time_step": (0, 0),
        "mixing": (0, 0),
        "downhill": (0, 0),
        "moving": (0, 0),
    }
    first_time_step, longest_time_step, first_mixing, wait = 0.1, 1.0, 0.1, 5
    longest_norm = 0.2

    def __init__(self) -> None:
        self.velocity = torch.zeros(0, 0, dtype=torch.float64)
        self.time_step = self.mixing = self.downhill = torch.zeros(0, dtype=torch.float64)
        self.moving = torch.zeros(0, dtype=torch.bool)

    def step(self, gradient: Tensor) -> Tensor:
        """See `Descent`."""
        force = -gradient
        downhill = (force * self.velocity).sum(1) > 0
        scale = torch.linalg.norm(self.velocity, dim=1) / torch.linalg.norm(force, dim=1).clamp(min=1e-300)
        turned = (1 - self.mixing)[:, None] * self.velocity + (self.mixing * scale)[:, None] * force
        faster = downhill & (self.downhill > self.wait)
        stopped = self.moving & ~downhill
        self.velocity = torch.where(downhill[:, None], turned, torch.zeros_like(turned))
        self.time_step = torch.where(faster, (self.time_step * 1.1).clamp(max=self.longest_time_step), self.time_step)
        self.time_step = torch.where(stopped, self.time_step * 0.5, self.time_step)
        self.mixing = torch.where(faster, self.mixing * 0.99, self.mixing).masked_fill(stopped, self.first_mixing)
        self.downhill = torch.where(downhill, self.downhill + 1, torch.zeros_like(self.downhill))
        self.moving = torch.ones_like(self.moving)
        self.velocity = self.velocity + self.time_step[:, None] * force
        return self.time_step[:, None] * self.velocity

    def taken(self, step: Tensor) -> None:
        """See `Descent`; velocities do not depend on limits."""

    def _new(self, name: str, shape: list[int], compliances: Sequence[Tensor]) -> Tensor:
        if name == "moving":
            return torch.zeros(shape, dtype=torch.bool)
        start = {"time_step": self.first_time_step, "mixing": self.first_mixing}.get(name, 0.0)
        return torch.full(shape, start, dtype=torch.float64)


class Lbfgs(Descent):
    """Limited-memory BFGS (Nocedal, Mathematics of Computation 35, 773, 1980) upon a guess of the inverse Hessian.

    The two-loop recursion, with the guess P between the loops scaled by s.y / (y.P y) of the last pair of step s and change
    of gradient y. Pairs with s.y <= 0 teach nothing about a minimum and are left out.

    Args:
        memory: pairs that are remembered.
    """

    _fields: ClassVar[dict[str, tuple[int, int]]] = {
        "steps": (1, 1),
        "changes": (1, 1),
        "inverse": (1, 0),
        "compliance": (0, 2),
        "scale": (0, 0),
        "last_step": (0, 1),
        "last_gradient": (0, 1),
        "moving": (0, 0),
    }

    def __init__(self, *, memory: int = 50) -> None:
        self.memory = memory
        self.steps = self.changes = self.compliance = torch.zeros(0, 0, 0, dtype=torch.float64)
        self.inverse = self.last_step = self.last_gradient = torch.zeros(0, 0, dtype=torch.float64)
        self.scale = torch.zeros(0, dtype=torch.float64)
        self.moving = torch.zeros(0, dtype=torch.bool)

    def step(self, gradient: Tensor) -> Tensor:
        """See `Descent`."""
        self._learn(gradient)
        pairs = list(zip(self.steps, self.changes, self.inverse, strict=True))
        left, shares = gradient, []
        for s, y, inverse in pairs:
            share = inverse * (s * left).sum(1)
            shares.append(share)
            left = left - share[:, None] * y
        direction = self.scale[:, None] * self._guess(left)
        for (s, y, inverse), share in zip(reversed(pairs), reversed(shares), strict=True):
            direction = direction + s * (share - inverse * (y * direction).sum(1))[:, None]
        self.last_gradient = gradient
        self.moving = torch.ones_like(self.moving)
        return -direction

    def taken(self, step: Tensor) -> None:
        """See `Descent`."""
        self.last_step = step

    def _learn(self, gradient: Tensor) -> None:
        """Remember what the last step did to the gradient, newest first."""
        change = gradient - self.last_gradient
        product = (self.last_step * change).sum(1)
        size = torch.linalg.norm(self.last_step, dim=1) * torch.linalg.norm(change, dim=1)
        good = self.moving & (product > 1e-10 * size)
        inverse = torch.where(good, 1 / torch.where(good, product, 1.0), 0.0)
        self.steps = torch.cat([self.last_step[None], self.steps])[: self.memory]
        self.changes = torch.cat([change[None], self.changes])[: self.memory]
        self.inverse = torch.cat([inverse[None], self.inverse])[: self.memory]
        expected = torch.where(good, (change * self._guess(change)).sum(1), 1.0)
        self.scale = torch.where(good, (product / expected).clamp(0.01, 100.0), self.scale)

    def _guess(self, vector: Tensor) -> Tensor:
        return torch.bmm(self.compliance, vector[:, :, None])[:, :, 0]

    def _new(self, name: str, shape: list[int], compliances: Sequence[Tensor]) -> Tensor:
        if name == "moving":
            return torch.zeros(shape, dtype=torch.bool)
        if name == "scale":
            return torch.ones(shape, dtype=torch.float64)
        new = torch.zeros(shape, dtype=torch.float64)
        if name == "compliance":
            for row, guess in zip(new, compliances, strict=True):
                row[: guess.shape[0], : guess.shape[0]] = guess
        return new
