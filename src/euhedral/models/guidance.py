"""Classifier-free guidance of joint models: what is asked, nothing, and the strength that leads from the one to the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from euhedral.models.base import SampleRequest
from euhedral.models.conditions import Conditions, PropertyScale
from euhedral.nets.base import Context, NoisyCrystals, Prediction
from euhedral.nets.cspnet import MatrixPrediction


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Contexts of every evaluation.

    Attributes:
        full: with what is asked.
        none: with nothing asked.
        strength: 1 evaluates `full` alone.
    """

    full: Context
    none: Context
    strength: float

    @classmethod
    def of(cls, request: SampleRequest, scale: PropertyScale, *, conditioned: bool = True) -> Asked:
        """What a request asks of a model.

        Args:
            request: its `conditions` and `guidance` are read.
            scale: of the model's properties.
            conditioned: whether the model reads conditions at all.
        """
        conditions, nothing, strength = asked_conditions(request, scale.device)
        if not conditioned:
            conditions, strength = nothing, 1.0
        return cls(full=scale.context(conditions), none=scale.context(nothing), strength=strength)

    def guess(self, net: nn.Module, noisy: NoisyCrystals) -> Prediction:
        """The prediction, extrapolated where the strength is not 1."""
        guided = net(noisy, self.full)
        return guided if self.strength == 1 else extrapolate(net(noisy, self.none), guided, self.strength)


def asked_conditions(request: SampleRequest, device: torch.device) -> tuple[Conditions, Conditions, float]:
    """What is asked, nothing asked, and the strength of guidance; where nothing is, or at strength 0, twice nothing and 1."""
    conditions, strength = request.conditions.to(device), request.guidance
    nothing = Conditions.unknown(len(conditions), device)
    return (nothing, nothing, 1.0) if strength == 0 or not conditions.any_known() else (conditions, nothing, strength)


def extrapolate(free: Prediction, guided: Prediction, strength: float) -> Prediction:
    """free + strength * (guided - free) (Ho and Salimans, 2022, Eq. 6)."""

    def between(one: Tensor, other: Tensor) -> Tensor:
        return one + strength * (other - one)

    changes = {name: between(getattr(free, name), getattr(guided, name)) for name in ("frac", "lattice", "species")}
    if isinstance(free, MatrixPrediction) and isinstance(guided, MatrixPrediction):
        changes["cell"] = between(free.cell, guided.cell)
    return replace(guided, **changes)
