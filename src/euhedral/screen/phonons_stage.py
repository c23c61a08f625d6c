"""The stage of dynamic stability: no small motion of the atoms lowers the energy."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from euhedral.crystal.formula import reduced_formula
from euhedral.errors import CrystalError
from euhedral.screen.phonons import PhononConfig, Phonons, check_phonopy, phonons, write_band_structure
from euhedral.screen.property_stage import Finding, PropertyStage, PropertyStageConfig
from euhedral.screen.stage import NOTHING, Column, finite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential
    from euhedral.screen.stage import Value

BANDS = "bands.png"
"""File of the picture of the band structure."""


@dataclass(frozen=True, kw_only=True)
class PhononsStageConfig(PropertyStageConfig):
    """How phonons are computed, and what they decide.

    Attributes:
        length: as the fields below in `PhononConfig`: opposite faces of the supercell are at least this far apart, Å.
        max_atoms: of the supercell; a crystal that needs more is not done.
        displacement: of one atom, Å.
        tolerance: a frequency below minus this is imaginary, THz.
        temperature: of heat capacity, entropy and free energy, K.
        reject_unstable: whether a crystal with an imaginary mode ends here.

    Raises:
        ConfigError: on a value out of range.
    """

    length: float = 10.0
    max_atoms: int = 400
    displacement: float = 0.03
    tolerance: float = 0.3
    temperature: float = 300.0
    reject_unstable: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.computing()

    def computing(self) -> PhononConfig:
        """The settings for `phonons`."""
        return PhononConfig(
            length=self.length,
            max_atoms=self.max_atoms,
            displacement=self.displacement,
            tolerance=self.tolerance,
            temperature=self.temperature,
            settle=self.settling(),
        )


class PhononsStage(PropertyStage):
    """Phonons by finite displacements (phonopy): imaginary modes, harmonic thermodynamics, a band structure."""

    name = "phonons"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {
        "dynamically_stable": Column(meaning="no phonon is imaginary beyond the tolerance"),
        "lowest_frequency": Column(unit="THz", meaning="lowest phonon frequency; imaginary ones are negative"),
        "highest_frequency": Column(unit="THz", meaning="highest phonon frequency"),
        "phonon_supercell": Column(meaning="atoms of the supercell of the phonons"),
        "zero_point_energy": Column(unit="eV/atom", meaning="of the harmonic vibrations"),
        "vibrational_free_energy": Column(
            unit="eV/atom", meaning="of the harmonic vibrations at the temperature asked"
        ),
        "vibrational_entropy": Column(unit="k/atom", meaning="of the harmonic vibrations at the temperature asked"),
        "heat_capacity": Column(unit="k/atom", meaning="at constant volume and the temperature asked; 3 when hot"),
        "phonon_debye_temperature": Column(unit="K", meaning="of the second moment of the phonon spectrum"),
    }
    config: PhononsStageConfig

    def check(self, foretold: Mapping[str, Value] = NOTHING) -> None:
        """See `Stage`."""
        super().check(foretold)
        check_phonopy()

    def measure(self, crystal: CrystalBatch, potential: Potential | None) -> Finding:
        """See `PropertyStage`."""
        assert potential is not None
        found = phonons(crystal, potential, self.config.computing())
        unstable = None
        if not found.stable and self.config.reject_unstable:
            unstable = f"an imaginary mode of {-found.lowest:.2f} THz"
        return Finding(
            values={
                "dynamically_stable": found.stable,
                "lowest_frequency": finite(found.lowest),
                "highest_frequency": finite(found.highest),
                "phonon_supercell": found.supercell,
                "zero_point_energy": finite(found.zero_point),
                "vibrational_free_energy": finite(found.free_energy),
                "vibrational_entropy": finite(found.entropy),
                "heat_capacity": finite(found.heat_capacity),
                "phonon_debye_temperature": finite(found.debye_temperature),
            },
            files=_files(found),
            verdict=unstable,
        )


def _files(found: Phonons) -> dict[str, bytes]:
    """phonopy's own file with the force constants, from which everything else follows, and the picture of the bands."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "phonopy.yaml"
        found.phonopy.save(model, settings={"force_constants": True, "force_sets": False}, compression="xz")
        files["phonopy.yaml.xz"] = model.with_suffix(".yaml.xz").read_bytes()
    picture = io.BytesIO()
    try:
        write_band_structure(picture, found, title=reduced_formula(found.crystal.species.tolist()))
        files[BANDS] = picture.getvalue()
    # Without a path of high symmetry there is no picture, and everything else is there.
    except CrystalError:
        pass
    return files
