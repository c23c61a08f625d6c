"""What a model offers that predicts properties of crystals which it is given, beside drawing its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from euhedral.crystal.batch import CrystalBatch


@runtime_checkable
class PropertyPredictor(Protocol):
    """A model with a property head; families have it by having the method."""

    def properties_of(self, crystals: CrystalBatch) -> Float[Tensor, "b p"]:
        """Properties of crystals of any atom counts, in the order of `PROPERTIES` and the units of `UNITS`, (b, p).

        They can be differentiated by coordinates and cells. A property that training never knew of is a number all the
        same; `property_known` of the checkpoint's statistics tells which ones are worth reading.
        """
        ...
