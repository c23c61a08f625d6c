"""The stage of elasticity: how stiff a crystal is, and whether it withstands every small strain."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from euhedral.errors import CrystalError
from euhedral.screen.debye import debye_temperature
from euhedral.screen.elastic import ElasticConfig, ElasticTensor, elastic_tensor
from euhedral.screen.property_stage import Finding, PropertyStage, PropertyStageConfig
from euhedral.screen.stage import Column, finite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential


@dataclass(frozen=True, kw_only=True)
class ElasticStageConfig(PropertyStageConfig):
    """How crystals are strained, and what that decides.

    Attributes:
        strains: magnitudes, each taken to both sides.
        reject_unstable: whether a crystal that breaks Born's criterion ends here.

    Raises:
        ConfigError: on a value out of range.
    """

    strains: tuple[float, ...] = (0.01, 0.02, 0.03)
    reject_unstable: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.computing()

    def computing(self) -> ElasticConfig:
        """The settings for `elastic_tensor`."""
        return ElasticConfig(strains=self.strains, settle=self.settling())


class ElasticStage(PropertyStage):
    """The elastic tensor from stresses, the moduli of a powder, Born's criterion and the Debye temperature."""

    name = "elastic"
    version = 1
    columns: ClassVar[Mapping[str, Column]] = {
        "mechanically_stable": Column(meaning="every small strain costs energy (Born's criterion)"),
        "bulk_modulus": Column(unit="GPa", meaning="of a powder, Hill's mean"),
        "shear_modulus": Column(unit="GPa", meaning="of a powder, Hill's mean"),
        "youngs_modulus": Column(unit="GPa", meaning="of a powder, of Hill's means"),
        "poisson_ratio": Column(meaning="of a powder, of Hill's means"),
        "elastic_anisotropy": Column(meaning="universal anisotropy of the elastic tensor, 0 if isotropic"),
        "elastic_debye_temperature": Column(unit="K", meaning="of the velocities of sound in all directions"),
    }
    config: ElasticStageConfig

    def measure(self, crystal: CrystalBatch, potential: Potential | None) -> Finding:
        """See `PropertyStage`. Moduli of a crystal that is not stable are left out: its powder has none."""
        assert potential is not None
        found = elastic_tensor(crystal, potential, self.config.computing())
        values = {"mechanically_stable": found.stable}
        unstable = None
        if found.stable:
            values |= _moduli(found)
        elif self.config.reject_unstable:
            unstable = (
                f"a strain lowers the energy: the elastic tensor has an eigenvalue of {found.lowest_eigenvalue:.1f} GPa"
            )
        return Finding(values=values, files={"elastic.json": _tensor_file(found)}, verdict=unstable)


def _moduli(found: ElasticTensor) -> dict[str, float | None]:
    crystal = found.crystal
    try:
        debye = debye_temperature(
            found.voigt,
            density=float(crystal.density),
            volume_per_atom=float(crystal.volume / crystal.num_atoms),
        )
    except CrystalError:
        debye = None
    return {
        "bulk_modulus": finite(found.bulk_modulus),
        "shear_modulus": finite(found.shear_modulus),
        "youngs_modulus": finite(found.youngs_modulus),
        "poisson_ratio": finite(found.poisson_ratio),
        "elastic_anisotropy": finite(found.anisotropy),
        "elastic_debye_temperature": finite(debye),
    }


def _tensor_file(found: ElasticTensor) -> bytes:
    told = {
        "stiffness_gpa": found.voigt.round(4).tolist(),
        "order": ["xx", "yy", "zz", "yz", "xz", "xy"],
        "frame": f"standard cell of space group {found.space_group}",
        "bulk_modulus_gpa": {"voigt": found.bulk_voigt, "reuss": found.bulk_reuss},
        "shear_modulus_gpa": {"voigt": found.shear_voigt, "reuss": found.shear_reuss},
        "share_not_allowed_by_symmetry": found.asymmetry,
    }
    return (json.dumps(told, indent=1) + "\n").encode()
