"""Thermal expansion against Grüneisen's relation, from frequencies at two volumes."""

import numpy as np
import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CrystalError
from euhedral.screen.equation_of_state import EquationOfStateConfig, equation_of_state
from euhedral.screen.phonons import PhononConfig, phonons_of_settled
from euhedral.screen.potential import EV_PER_A3_IN_GPA
from euhedral.screen.settle import SettleConfig, strained
from euhedral.screen.thermal import Thermal, ThermalConfig, thermal
from euhedral.testing.crystals import FACE_CENTERED
from screen.potentials import PairWell

K_IN_EV = 8.617333262e-5
SHAKING = PhononConfig(length=7.0, displacement=0.005, settle=SettleConfig(force_limit=1e-4))
HOT = ThermalConfig(phonons=SHAKING, temperature=600.0, smallest_strain=-0.006, strain_step=0.002, points=6)


def _gold() -> CrystalBatch:
    """Heavy atoms, so that zero-point motion is small and 600 K is hot."""
    cell = 3.4 * torch.tensor(FACE_CENTERED, dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([79]))])


@pytest.fixture(scope="module")
def found() -> Thermal:
    return thermal(_gold(), PairWell(), HOT)


def test_expansion_is_grueneisens(found: Thermal):
    at = found.at
    assert found.temperatures[at] == 600.0
    # Grüneisen: alpha B V = gamma C, with gamma the mean of the modes' -d(ln f)/d(ln V), here of the warm volume.
    stretch = (found.volumes[at] / float(found.crystal.volume)) ** (1 / 3) - 1
    logs = [_mean_log_frequency(found.crystal, stretch + step) for step in (-0.002, 0.002)]
    gamma = -(logs[1] - logs[0]) / (3 * np.log((1.002 + stretch) / (0.998 + stretch)))
    held = found.expansion[at] * 1e-6 * found.bulk_moduli[at] / EV_PER_A3_IN_GPA * found.volumes[at]
    assert held == pytest.approx(gamma * K_IN_EV * found.heat_capacities[at], rel=0.03)
    assert found.grueneisen[at] == pytest.approx(gamma, rel=0.03)
    assert found.heat_capacities[at] == pytest.approx(3.0, rel=0.05)
    curve = equation_of_state(_gold(), PairWell(), EquationOfStateConfig(settle=SHAKING.settle))
    assert found.bulk_moduli[0] == pytest.approx(curve.bulk_modulus, rel=0.03)
    assert found.roughness < 5e-5
    assert np.all(np.diff(found.volumes) > 0) and found.expansion[0] == pytest.approx(0, abs=1e-6)


def _mean_log_frequency(crystal: CrystalBatch, strain: float) -> float:
    cell = strained(crystal, strain * torch.eye(3, dtype=torch.float64))
    model = phonons_of_settled(cell, PairWell(), SHAKING).phonopy
    model.run_mesh(60.0)
    told = model.get_mesh_dict()
    logs = np.log(np.asarray(told["frequencies"]).clip(1e-2)).mean(axis=1)
    return float(logs @ told["weights"] / np.sum(told["weights"]))


def test_larger_volumes_are_added_until_there_are_enough_or_it_is_told(found: Thermal):
    near = {"phonons": SHAKING, "temperature": 600.0, "smallest_strain": -0.006, "strain_step": 0.0016, "points": 5}
    more = thermal(_gold(), PairWell(), ThermalConfig(**near))
    assert more.volumes[-1] > float(more.crystal.volume) * 1.0004**3  # the last of the first five
    assert more.volumes[-1] == pytest.approx(found.volumes[-1], rel=1e-3)
    with pytest.raises(CrystalError, match="no minimum within"):
        thermal(_gold(), PairWell(), ThermalConfig(**near, most_points=5))
