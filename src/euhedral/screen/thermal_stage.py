"""The stage of thermal properties: how a crystal grows with temperature, and what heat it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from euhedral.screen.phonons import PhononConfig, check_phonopy
from euhedral.screen.property_stage import Finding, PropertyStage, PropertyStageConfig
from euhedral.screen.stage import NOTHING, Column, finite
from euhedral.screen.thermal import WIDE, Thermal, ThermalConfig, thermal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential
    from euhedral.screen.stage import Value


@dataclass(frozen=True, kw_only=True)
class ThermalStageConfig(PropertyStageConfig):
    """Which volumes and temperatures are computed; as in `ThermalConfig` and `PhononConfig`.

    Attributes:
        smallest_strain: of the edges, the first volume.
        strain_step: of the edges, from one volume to the next.
        points: volumes at first.
        most_points: volumes at last.
        degree: of the polynomial that the vibrations' free energy is smoothed by.
        temperature: of what is asked, K.
        length: opposite faces of the supercells are at least this far apart, Å.
        max_atoms: of a supercell; a crystal that needs more is not done.
        displacement: of one atom, Å.
        tolerance: a frequency below minus this is imaginary, THz.

    Raises:
        ConfigError: on a value out of range.
    """

    smallest_strain: float = -0.02
    strain_step: float = 0.005
    points: int = 8
    most_points: int = 12
    degree: int = 2
    temperature: float = 300.0
    length: float = 10.0
    max_atoms: int = 400
    displacement: float = WIDE
    tolerance: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.computing()

    def computing(self) -> ThermalConfig:
        """The settings for `thermal`."""
        phonons = PhononConfig(
            length=self.length,
            max_atoms=self.max_atoms,
            displacement=self.displacement,
            tolerance=self.tolerance,
            settle=self.settling(),
        )
        return ThermalConfig(
            smallest_strain=self.smallest_strain,
            strain_step=self.strain_step,
            points=self.points,
            most_points=self.most_points,
            degree=self.degree,
            temperature=self.temperature,
            phonons=phonons,
        )


class ThermalStage(PropertyStage):
    """The quasi-harmonic approximation: thermal expansion, heat capacity and bulk modulus at a temperature."""

    name = "thermal"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {
        "thermal_expansion": Column(unit="1e-6/K", meaning="relative growth of the volume with temperature"),
        "heat_capacity_p": Column(unit="k/atom", meaning="at constant pressure and the temperature asked"),
        "warm_volume": Column(unit="Å³/atom", meaning="at the temperature asked"),
        "warm_bulk_modulus": Column(unit="GPa", meaning="isothermal, at the temperature asked"),
        "thermal_roughness": Column(
            unit="eV/atom", meaning="by which vibrations were smoothed; doubtful where near kT"
        ),
        "grueneisen": Column(meaning="thermodynamic Grüneisen parameter at the temperature asked"),
    }
    config: ThermalStageConfig

    def check(self, foretold: Mapping[str, Value] = NOTHING) -> None:
        """See `Stage`."""
        super().check(foretold)
        check_phonopy()

    def measure(self, crystal: CrystalBatch, potential: Potential | None) -> Finding:
        """See `PropertyStage`."""
        assert potential is not None
        found = thermal(crystal, potential, self.config.computing())
        at = found.at
        return Finding(
            values={
                "thermal_expansion": finite(found.expansion[at]),
                "heat_capacity_p": finite(found.heat_capacities[at]),
                "warm_volume": finite(found.volumes[at]),
                "warm_bulk_modulus": finite(found.bulk_moduli[at]),
                "thermal_roughness": finite(found.roughness),
                "grueneisen": finite(found.grueneisen[at]),
            },
            files={"thermal.csv": _table(found)},
        )


def _table(found: Thermal) -> bytes:
    columns = (found.temperatures, found.volumes, found.expansion, found.heat_capacities, found.bulk_moduli)
    head = "temperature_K,volume_per_atom_A3,expansion_1e-6_per_K,heat_capacity_p_k_per_atom,bulk_modulus_GPa"
    rows = [",".join(f"{value:.6g}" for value in row) for row in zip(*columns, strict=True)]
    return ("\n".join([head, *rows]) + "\n").encode()
