"""Families whose crystals have the space group that they are asked for, since they are made of its Wyckoff positions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from euhedral.models.base import GenerativeModel

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch


class SymmetricModel(GenerativeModel):
    """A trained family that takes down the Wyckoff positions of the training crystals first (`models.templates`).

    These are buffers, whose sizes are in its config. Crystals need no idealisation, which could only make them more
    symmetric than they were asked to be.
    """

    @classmethod
    @abstractmethod
    def informed(cls, config: Any, crystals: CrystalBatch) -> Self:
        """An untrained model that knows the positions of all training crystals.

        Args:
            config: as the recipe has it; the sizes of buffers, and the scales of conventional lattices, are filled in.
            crystals: all of them, of any atom counts.
        """

    @abstractmethod
    def holds(
        self, space_group: int, num_atoms: int, *, composition: Mapping[int, int] | None = None, elements: int = 1
    ) -> bool:
        """Whether a cell of a space group can hold what is asked for.

        Args:
            space_group: 1 to 230.
            num_atoms: atoms in the cell.
            composition: atoms of each element in the cell, all of them, or None.
            elements: how many different elements it must at least have.
        """
