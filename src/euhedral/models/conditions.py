"""Conditions that can be asked of a crystal, and the marks of what is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from euhedral.nets.base import Context

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

PROPERTIES = ("formation_energy_per_atom", "e_above_hull", "band_gap")
UNITS = {"formation_energy_per_atom": "eV/atom", "e_above_hull": "eV/atom", "band_gap": "eV"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """What is known or wanted of each crystal.

    Attributes:
        space_group: 1 to 230, 0 unknown, (b,), int64.
        properties: in the order of `PROPERTIES` and units of `UNITS`, NaN unknown, (b, 3), float32.
        chemical_system: elements that occur, by atomic number; all false where unknown, (b, 119), bool.
        extra: further columns that a model's adapters read (`models.columns`), numbers or positions of classes, NaN
            unknown, (b, k), float32; None: none known.
    """

    space_group: Int[Tensor, " b"]
    properties: Float[Tensor, "b p"]
    chemical_system: Bool[Tensor, "b 119"]
    extra: Float[Tensor, "b k"] | None = None

    @classmethod
    def unknown(cls, crystals: int, device: torch.device | str = "cpu") -> Conditions:
        """Nothing known of any crystal."""
        return cls(
            space_group=torch.zeros(crystals, dtype=torch.int64, device=device),
            properties=torch.full((crystals, len(PROPERTIES)), float("nan"), device=device),
            chemical_system=torch.zeros(crystals, 119, dtype=torch.bool, device=device),
        )

    def __len__(self) -> int:
        return int(self.space_group.shape[0])

    def __getitem__(self, index: Tensor | slice) -> Conditions:
        """Select crystals."""
        return Conditions(
            space_group=self.space_group[index],
            properties=self.properties[index],
            chemical_system=self.chemical_system[index],
            extra=None if self.extra is None else self.extra[index],
        )

    def any_known(self) -> bool:
        """Whether anything is known of any crystal."""
        told = self.extra is not None and bool(self.extra.isfinite().any())
        known = (self.space_group > 0).any() or self.properties.isfinite().any() or self.chemical_system.any()
        return told or bool(known)

    def to(self, device: torch.device | str) -> Conditions:
        """Move to a device."""
        return Conditions(
            space_group=self.space_group.to(device),
            properties=self.properties.to(device),
            chemical_system=self.chemical_system.to(device),
            extra=None if self.extra is None else self.extra.to(device),
        )

    def context(self, mean: Float[Tensor, " p"], std: Float[Tensor, " p"]) -> Context:
        """What a backbone is told: properties standardised, 0 and marked where unknown.

        Args:
            mean: of each property in training.
            std: its standard deviation.
        """
        has = torch.isfinite(self.properties)
        values = (self.properties - mean) / std
        return Context(
            space_group=self.space_group,
            properties=torch.where(has, values, torch.zeros_like(values)),
            has_property=has,
            chemical_system=self.chemical_system,
            extra=self.extra,
        )

    def drop(self, keep: float, *, rng: torch.Generator) -> Conditions:
        """Forget each condition of each crystal independently, keeping it with the given probability."""
        crystals, device = len(self), self.space_group.device

        def kept(*shape: int) -> Tensor:
            return torch.rand(shape, generator=rng, device=device) < keep

        dropped = Conditions(
            space_group=self.space_group * kept(crystals),
            properties=self.properties.masked_fill(~kept(crystals, self.properties.shape[1]), float("nan")),
            chemical_system=self.chemical_system & kept(crystals, 1),
        )
        if self.extra is None:
            return dropped
        return replace(dropped, extra=self.extra.masked_fill(~kept(crystals, self.extra.shape[1]), float("nan")))


class PropertyScale(nn.Module):
    """Units of the properties that a model is told: mean and standard deviation of each in training, (properties,)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.mean.device

    def context(self, conditions: Conditions) -> Context:
        """See `Conditions.context`."""
        return conditions.context(self.mean, self.std)

    def original(self, values: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Standardised values in the properties' own units."""
        return values * self.std + self.mean
