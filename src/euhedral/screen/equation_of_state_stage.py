"""The stage of the equation of state: energy against volume, and the bulk modulus at the bottom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from euhedral.screen.equation_of_state import EquationOfStateConfig, equation_of_state
from euhedral.screen.property_stage import Finding, PropertyStage, PropertyStageConfig
from euhedral.screen.stage import Column, finite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential


@dataclass(frozen=True, kw_only=True)
class EquationOfStateStageConfig(PropertyStageConfig):
    """Which volumes are computed; as in `EquationOfStateConfig`.

    Attributes:
        largest_strain: of the edges, to both sides.
        points: volumes.

    Raises:
        ConfigError: on a value out of range.
    """

    largest_strain: float = 0.03
    points: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        self.computing()

    def computing(self) -> EquationOfStateConfig:
        """The settings for `equation_of_state`."""
        return EquationOfStateConfig(largest_strain=self.largest_strain, points=self.points, settle=self.settling())


class EquationOfStateStage(PropertyStage):
    """Birch-Murnaghan's equation of state."""

    name = "equation_of_state"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {
        "eos_volume": Column(unit="Å³/atom", meaning="at the minimum of the equation of state"),
        "eos_bulk_modulus": Column(unit="GPa", meaning="of the equation of state, all edges strained alike"),
        "eos_bulk_modulus_derivative": Column(meaning="change of that bulk modulus with pressure"),
        "eos_residual": Column(unit="eV/atom", meaning="root mean square that the equation of state leaves"),
    }
    config: EquationOfStateStageConfig

    def measure(self, crystal: CrystalBatch, potential: Potential | None) -> Finding:
        """See `PropertyStage`."""
        assert potential is not None
        found = equation_of_state(crystal, potential, self.config.computing())
        rows = [f"{v:.8f},{e:.8f}" for v, e in zip(found.volumes, found.energies, strict=True)]
        table = "\n".join(["volume_per_atom_A3,energy_per_atom_eV", *rows]) + "\n"
        return Finding(
            values={
                "eos_volume": finite(found.volume),
                "eos_bulk_modulus": finite(found.bulk_modulus),
                "eos_bulk_modulus_derivative": finite(found.derivative),
                "eos_residual": finite(found.residual),
            },
            files={"equation_of_state.csv": table.encode()},
        )
