"""What a potential is: energies, forces and stresses of a whole batch of crystals in one call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from euhedral.crystal.batch import CrystalBatch

EV_PER_A3_IN_GPA = 160.21766208
"""One eV/Å3 in GPa."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a potential says about the crystals of a batch, float64.

    Attributes:
        energy_per_atom: eV/atom, (crystals,); NaN where there is none.
        forces: eV/Å, -d(energy of the cell)/d(position), (atoms, 3).
        stress_gpa: GPa, d(energy of the cell)/d(strain) over the volume, positive where the crystal wants to shrink,
            symmetric, (crystals, 3, 3).
        reasons: why a crystal has no energy, None where it has one.
    """

    energy_per_atom: Float[Tensor, " crystals"]
    forces: Float[Tensor, "atoms 3"]
    stress_gpa: Float[Tensor, "crystals 3 3"]
    reasons: tuple[str | None, ...]


@runtime_checkable
class Potential(Protocol):
    """A model of the energy of crystals.

    One crystal that cannot be done is a NaN with its reason, not an exception; what is raised concerns the whole batch.
    """

    @property
    def name(self) -> str:
        """Model and version, for records: energies of different names must not be compared."""
        ...

    def predict(self, batch: CrystalBatch, *, keys: Sequence[Hashable] | None = None) -> Prediction:
        """Energy, forces and stress of each crystal.

        Args:
            batch: crystals.
            keys: one for each crystal, the same whenever it is the same crystal that has moved since; a potential may
                keep what it found out about it, until a call comes without that key.
        """
        ...
