"""Elastic tensors, equations of state, Debye temperatures and phonons against sums over the bonds of a pair potential."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError, CrystalError
from euhedral.screen.ase_potential import AsePotential
from euhedral.screen.debye import debye_temperature
from euhedral.screen.elastic import ElasticConfig, elastic_tensor, from_tensor
from euhedral.screen.equation_of_state import EquationOfStateConfig, equation_of_state, fit_birch_murnaghan
from euhedral.screen.neighbours import find_bonds
from euhedral.screen.phonons import PhononConfig, choose_supercell, phonons, write_band_structure
from euhedral.screen.potential import EV_PER_A3_IN_GPA
from euhedral.screen.settle import SettleConfig
from euhedral.screen.tensors import lowest_eigenvalue, rotated, to_full, to_voigt
from euhedral.testing.crystals import FACE_CENTERED, cesium_chloride, rock_salt
from screen.potentials import PairWell

CUBIC = np.diag([250.0, 250, 250, 80, 80, 80])
CUBIC[:3, :3] += 100 * (1 - np.eye(3))
FINE = SettleConfig(force_limit=1e-5)


def _face_centered(length: float = 3.4) -> CrystalBatch:
    cell = length * torch.tensor(FACE_CENTERED, dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([29]))])


def _simple_cubic() -> CrystalBatch:
    cell = 2.4 * torch.eye(3, dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([29]))])


def _springs(crystal: CrystalBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bond vectors of one atom to all others, and the first two derivatives of the Morse well at their lengths."""
    bonds = find_bonds(crystal.frac, crystal.cell[0], 7.0)
    half = bonds.vectors(crystal.frac, crystal.cell[0]).numpy()
    vectors = np.concatenate([half, -half])
    decay = np.exp(-PairWell.width * (np.linalg.norm(vectors, axis=1) - PairWell.length))
    return vectors, 2 * PairWell.width * (decay - decay**2), 2 * PairWell.width**2 * (2 * decay**2 - decay)


def test_elastic_tensor_is_the_sum_over_the_bonds():
    config = ElasticConfig(strains=(0.001,), settle=FINE)
    found = elastic_tensor(_face_centered(), PairWell(), config)
    vectors, slope, curvature = _springs(found.crystal)
    lengths = np.linalg.norm(vectors, axis=1)
    weight = (curvature - slope / lengths) / lengths**2
    full = np.einsum("b,bi,bj,bk,bl->ijkl", weight, vectors, vectors, vectors, vectors) / 2
    expected = to_voigt(full / float(found.crystal.volume)) * EV_PER_A3_IN_GPA
    assert found.voigt == pytest.approx(expected, rel=2e-3, abs=0.05)
    assert found.voigt[0, 1] == pytest.approx(found.voigt[3, 3], rel=2e-3)  # Cauchy: central forces
    assert found.space_group == 225 and found.asymmetry < 1e-3 and found.stable


def test_bulk_modulus_is_the_same_from_energies_and_stresses():
    tensor = elastic_tensor(_face_centered(), PairWell(), ElasticConfig(strains=(0.002,), settle=FINE))
    curve = equation_of_state(_face_centered(), PairWell(), EquationOfStateConfig(largest_strain=0.01, settle=FINE))
    assert curve.bulk_modulus == pytest.approx(tensor.bulk_modulus, rel=0.01)
    assert curve.volume == pytest.approx(float(tensor.crystal.volume), rel=1e-3)
    assert curve.residual < 1e-4


def test_a_cube_of_well_atoms_shears_away():
    config = ElasticConfig(strains=(0.001,), settle=SettleConfig(force_limit=1e-4))
    assert not elastic_tensor(_simple_cubic(), PairWell(), config).stable
    found = phonons(_simple_cubic(), PairWell(), PhononConfig(length=7.0))
    assert not found.stable and found.lowest < -1
    assert found.heat_capacity is None and found.debye_temperature is None


def test_turned_tensors_keep_their_eigenvalues():
    angle = 0.7
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    turned = to_voigt(rotated(to_full(CUBIC), turn))
    assert not np.allclose(turned, CUBIC, atol=1)
    assert lowest_eigenvalue(turned) == pytest.approx(lowest_eigenvalue(CUBIC))
    assert lowest_eigenvalue(CUBIC) == pytest.approx(min(250 - 100, 2 * 80))


def test_moduli_of_a_cubic_powder():
    found = from_tensor(rock_salt(), CUBIC)
    assert found.bulk_voigt == pytest.approx(150) and found.bulk_reuss == pytest.approx(150)
    assert found.shear_voigt == pytest.approx((150 + 3 * 80) / 5)
    assert found.shear_reuss == pytest.approx(5 * 150 * 80 / (4 * 80 + 3 * 150))
    young, poisson = found.youngs_modulus, found.poisson_ratio
    assert young == pytest.approx(2 * found.shear_modulus * (1 + poisson))
    isotropic = from_tensor(rock_salt(), _isotropic(120.0, 60.0))
    assert isotropic.anisotropy == pytest.approx(0, abs=1e-9)
    with pytest.raises(CrystalError, match="no inverse"):
        from_tensor(rock_salt(), np.zeros((6, 6)))


def _isotropic(bulk: float, shear: float) -> np.ndarray:
    voigt = np.diag([2 * shear] * 3 + [shear] * 3)
    voigt[:3, :3] += bulk - 2 * shear / 3
    return voigt


def test_debye_temperature_of_an_isotropic_solid():
    bulk, shear, density, volume = 75.0, 26.0, 2.7, 16.6
    along, across = (math.sqrt(x * 1e9 / (density * 1e3)) for x in (bulk + 4 * shear / 3, shear))
    mean = ((along**-3 + 2 * across**-3) / 3) ** (-1 / 3)
    expected = 6.62607015e-34 / 1.380649e-23 * (3 / (4 * math.pi * volume * 1e-30)) ** (1 / 3) * mean
    found = debye_temperature(_isotropic(bulk, shear), density=density, volume_per_atom=volume)
    assert found == pytest.approx(expected, rel=1e-6)
    with pytest.raises(CrystalError, match="not stable"):
        debye_temperature(_isotropic(bulk, -1.0), density=density, volume_per_atom=volume)


def test_birch_murnaghan_comes_back():
    volume, energy, modulus, derivative = 11.0, -4.2, 0.9, 4.6
    volumes = np.linspace(9.9, 11.9, 9)
    x = (volume / volumes) ** (2 / 3)
    energies = energy + 9 * volume * modulus / 16 * ((x - 1) ** 3 * derivative + (x - 1) ** 2 * (6 - 4 * x))
    found = fit_birch_murnaghan(volumes, energies)
    assert found[:4] == pytest.approx((volume, energy, modulus, derivative), rel=1e-6)
    assert found[4] < 1e-10
    with pytest.raises(CrystalError, match="no minimum"):
        fit_birch_murnaghan(volumes[:5], energies[:5])


def test_phonons_are_those_of_the_springs(tmp_path: Path):
    found = phonons(_face_centered(), PairWell(), PhononConfig(length=7.0, displacement=0.001, settle=FINE))
    vectors, slope, curvature = _springs(found.crystal)
    lengths = np.linalg.norm(vectors, axis=1)
    units = vectors / lengths[:, None]
    along = np.einsum("bi,bj->bij", units, units)
    springs = curvature[:, None, None] * along + (slope / lengths)[:, None, None] * (np.eye(3) - along)
    edge = found.phonopy.primitive.cell
    for wave in ((0.5, 0.5, 0.0), (0.5, 0.0, 0.0)):
        phase = 1 - np.cos(2 * np.pi * vectors @ np.linalg.inv(edge) @ wave)
        matrix = np.einsum("b,bij->ij", phase, springs) / found.phonopy.primitive.masses[0]
        expected = np.sqrt(np.linalg.eigvalsh(matrix)) * found.phonopy.unit_conversion_factor
        assert found.phonopy.get_frequencies(wave) == pytest.approx(expected, rel=5e-3)
    assert found.phonopy.get_frequencies((0, 0, 0)) == pytest.approx(np.zeros(3), abs=1e-3)
    assert found.stable and found.displacements == 1
    assert found.heat_capacity is not None and 0 < found.heat_capacity < 3
    write_band_structure(str(tmp_path / "bands.svg"), found)
    assert (tmp_path / "bands.svg").read_text().rstrip().endswith("</svg>")


def test_the_supercell_with_the_fewest_atoms_that_is_wide_enough():
    cell, times = choose_supercell(rock_salt(length=5.6), length=11.2, symprec=0.01)
    assert times == (2, 2, 2) and cell.species.shape[0] == 8
    cell, times = choose_supercell(cesium_chloride(length=4.0), length=10.0, symprec=0.01)
    assert times == (3, 3, 3) and cell.species.shape[0] == 2


def test_reasons():
    with pytest.raises(CrystalError, match=r"supercell of \d+ atoms, more than the 10 allowed"):
        phonons(_face_centered(), PairWell(), PhononConfig(max_atoms=10))
    with pytest.raises(CrystalError, match=r"did not relax .*step limit"):
        elastic_tensor(_face_centered(3.9), PairWell(), ElasticConfig(settle=SettleConfig(max_steps=1)))


class _Raises:
    """A calculator that gives up."""

    def get_potential_energy(self, *_: object) -> float:
        raise ValueError("no convergence")


def test_a_calculator_that_raises_is_a_reason():
    with pytest.raises(CrystalError, match="no convergence"):
        equation_of_state(_face_centered(), AsePotential(_Raises()))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ElasticConfig(strains=()),
        lambda: ElasticConfig(strains=(0.0,)),
        lambda: EquationOfStateConfig(points=4),
        lambda: EquationOfStateConfig(largest_strain=0.5),
        lambda: PhononConfig(length=0.0),
        lambda: PhononConfig(tolerance=-1.0),
        lambda: PhononConfig(max_atoms=0),
        lambda: SettleConfig(symprec=0.0),
        lambda: SettleConfig(force_limit=0.0),
    ],
)
def test_limits_out_of_range(make):
    with pytest.raises(ConfigError, match="must be"):
        make()
