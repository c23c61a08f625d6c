"""Families without a gradient: what they know of the training crystals is taken down at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

from euhedral.models.base import GenerativeModel, LossTerms

if TYPE_CHECKING:
    import torch

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.models.conditions import Conditions


class FittedModel(GenerativeModel):
    """A family that `euhedral train` fits in one go; what it keeps are buffers, whose sizes are in its config.

    It computes nothing that an accelerator would do faster: wherever it is moved, it stays on the CPU as it is.
    """

    steps = 0
    reads_properties = False

    @classmethod
    @abstractmethod
    def fitted(cls, config: Any, crystals: CrystalBatch, conditions: Conditions) -> Self:
        """The model of training crystals.

        Args:
            config: as the recipe has it; the sizes of buffers are filled in.
            crystals: all of them, of any atom counts.
            conditions: what is known of them.

        Raises:
            DataError: where nothing can be learned from them.
        """

    def loss(self, batch: CrystalBatch, conditions: Conditions, *, rng: torch.Generator) -> LossTerms:
        """There is none: raises TypeError."""
        raise TypeError(f"{type(self).__name__} has no loss; it is fitted, see FittedModel.fitted")

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        return self
