"""One named process for each field of a crystal."""

from __future__ import annotations

from dataclasses import dataclass

from euhedral.noise.base import FlowProcess
from euhedral.noise.masked import MaskedSpecies
from euhedral.noise.torus import TorusFlow


@dataclass(frozen=True, kw_only=True)
class JointNoise:
    """The processes of a joint model, by field; each is applied independently given its own time.

    Attributes:
        frac: process of fractional coordinates (crystals, atoms, 3).
        cell: process of standardised log-lattice coordinates (crystals, 6).
        species: process of atomic numbers (crystals, atoms).
    """

    frac: TorusFlow
    cell: FlowProcess
    species: MaskedSpecies
