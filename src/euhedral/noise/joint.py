"""One named process for each field of a crystal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from euhedral.noise.base import NoiseProcess

Frac = TypeVar("Frac", bound=NoiseProcess)
Cell = TypeVar("Cell", bound=NoiseProcess)
Species = TypeVar("Species", bound=NoiseProcess)


@dataclass(frozen=True, kw_only=True)
class JointNoise(Generic[Frac, Cell, Species]):
    """The processes of a joint model, by field; each is applied independently given its own time.

    Attributes:
        frac: process of fractional coordinates (crystals, atoms, 3).
        cell: process of the lattice: standardised log-lattice coordinates (crystals, 6) or matrices (crystals, 3, 3).
        species: process of atomic numbers (crystals, atoms).
    """

    frac: Frac
    cell: Cell
    species: Species
