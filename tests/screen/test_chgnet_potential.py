import pickle

import numpy as np
import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import supercell
from euhedral.errors import CheckpointError, ConfigError
from euhedral.screen.chgnet_network import ChgnetNetwork
from euhedral.screen.chgnet_potential import ChgnetPotential
from euhedral.screen.potential import EV_PER_A3_IN_GPA, Potential
from euhedral.testing.crystals import cesium_chloride, diamond, perovskite, random_crystals, rock_salt


@pytest.fixture(scope="module")
def potential() -> ChgnetPotential:
    return ChgnetPotential()


@pytest.fixture(scope="module")
def precise() -> ChgnetPotential:
    return ChgnetPotential(dtype=torch.float64)


def _crystals() -> CrystalBatch:
    """Prototypes out of balance, and crystals without symmetry."""
    rng = torch.Generator().manual_seed(3)
    still = CrystalBatch.concat([rock_salt(), perovskite(), diamond(14, length=5.5), cesium_chloride()]).to(
        torch.float64
    )
    moved = still.frac + 0.02 * torch.randn(still.frac.shape, generator=rng, dtype=torch.float64)
    shaken = CrystalBatch(frac=moved % 1, cell=still.cell, species=still.species, num_atoms=still.num_atoms)
    return CrystalBatch.concat([shaken, random_crystals([1, 3, 7], rng=rng, dtype=torch.float64)])


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("weights", ["0.3.0", "r2scan"])
def test_says_what_chgnet_says(weights: str):
    from chgnet.model import CHGNet

    crystals = _crystals()
    theirs = CHGNet.load(model_name=weights, use_device="cpu", verbose=False)
    expected = theirs.predict_structure(crystals.to_pymatgen(), task="efsm")
    said = ChgnetPotential(weights).predict(crystals)
    assert said.reasons == (None,) * len(crystals)
    energies = torch.tensor([float(one["e"]) for one in expected], dtype=torch.float64)
    assert torch.allclose(said.energy_per_atom, energies, rtol=0, atol=1e-5)
    # Single precision of theirs, whose derivatives of collinear angles lose digits: relative to the largest.
    forces = torch.tensor(np.concatenate([one["f"] for one in expected]), dtype=torch.float64)
    assert torch.allclose(said.forces, forces, rtol=0, atol=1e-5 * max(1.0, float(forces.abs().max())))
    for crystal, one in zip(crystals, expected, strict=True):
        moments = ChgnetPotential(weights).moments(crystal)
        assert torch.allclose(moments, torch.tensor(one["m"], dtype=torch.float64), rtol=0, atol=1e-5)
    stresses = torch.tensor(np.stack([one["s"] for one in expected]), dtype=torch.float64)
    assert torch.allclose(said.stress_gpa, stresses, rtol=0, atol=1e-5 * max(1.0, float(stresses.abs().max())))


def _energy(potential: Potential, crystal: CrystalBatch) -> float:
    return float(potential.predict(crystal).energy_per_atom * crystal.num_atoms)


@pytest.mark.parametrize("which", [1, 5])
def test_forces_are_the_gradient_of_the_energy(which: int, precise: ChgnetPotential):
    crystal, step = _crystals()[which], 1e-5
    said = precise.predict(crystal)
    for atom, axis in ((0, 0), (1, 2)):
        move = torch.zeros_like(crystal.frac)
        move[atom, axis] = step
        move = move @ torch.linalg.inv(crystal.cell[0])
        up, down = (
            CrystalBatch(
                frac=crystal.frac + sign * move, cell=crystal.cell, species=crystal.species, num_atoms=crystal.num_atoms
            )
            for sign in (1, -1)
        )
        slope = (_energy(precise, up) - _energy(precise, down)) / (2 * step)
        assert float(said.forces[atom, axis]) == pytest.approx(-slope, abs=1e-6)


@pytest.mark.parametrize("which", [1, 5])
def test_stress_is_the_gradient_of_the_energy(which: int, precise: ChgnetPotential):
    crystal, step = _crystals()[which], 1e-5
    stress = precise.predict(crystal).stress_gpa[0]
    for row, column in ((0, 0), (1, 2), (2, 0)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[row, column] += step / 2
        strain[column, row] += step / 2
        up, down = (
            CrystalBatch(
                frac=crystal.frac,
                cell=crystal.cell @ (torch.eye(3, dtype=torch.float64) + sign * strain),
                species=crystal.species,
                num_atoms=crystal.num_atoms,
            )
            for sign in (1, -1)
        )
        slope = (_energy(precise, up) - _energy(precise, down)) / (2 * step)
        assert float(stress[row, column]) == pytest.approx(slope / float(crystal.volume) * EV_PER_A3_IN_GPA, abs=1e-4)


def test_a_crystal_is_the_same_alone_and_among_others(potential: ChgnetPotential):
    crystals = _crystals()
    together = potential.predict(crystals)
    first = 0
    for i, crystal in enumerate(crystals):
        alone = potential.predict(crystal)
        atoms = slice(first, first + crystal.species.shape[0])
        assert torch.allclose(alone.energy_per_atom[0], together.energy_per_atom[i], rtol=0, atol=1e-6)
        assert torch.allclose(alone.forces, together.forces[atoms], rtol=1e-5, atol=1e-5)
        assert torch.allclose(alone.stress_gpa[0], together.stress_gpa[i], rtol=1e-5, atol=1e-4)
        first = atoms.stop


def test_order_of_atoms_rotation_and_supercells_change_nothing(precise: ChgnetPotential):
    crystal = _crystals()[1]
    said = precise.predict(crystal)
    order = torch.tensor([3, 0, 4, 2, 1])
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    permuted = CrystalBatch(
        frac=crystal.frac[order], cell=crystal.cell, species=crystal.species[order], num_atoms=crystal.num_atoms
    )
    turned = CrystalBatch(
        frac=crystal.frac, cell=crystal.cell @ turn, species=crystal.species, num_atoms=crystal.num_atoms
    )
    assert torch.allclose(precise.predict(permuted).forces, said.forces[order], atol=1e-9)
    after = precise.predict(turned)
    assert torch.allclose(after.forces, said.forces @ turn, atol=1e-9)
    assert torch.allclose(after.stress_gpa, turn.T @ said.stress_gpa @ turn, atol=1e-7)
    assert torch.allclose(
        precise.predict(supercell(crystal, [2, 1, 1])).energy_per_atom, said.energy_per_atom, atol=1e-9
    )


def test_kept_bonds_give_what_fresh_ones_give():
    potential, fresh = ChgnetPotential(dtype=torch.float64), ChgnetPotential(dtype=torch.float64)
    crystal, rng = _crystals()[5], torch.Generator().manual_seed(0)
    for _ in range(6):
        expected, said = fresh.predict(crystal), potential.predict(crystal, keys=["a"])
        assert torch.allclose(said.energy_per_atom, expected.energy_per_atom, atol=1e-10)
        assert torch.allclose(said.forces, expected.forces, atol=1e-8)
        moved = crystal.frac + 0.02 * torch.randn(crystal.frac.shape, generator=rng, dtype=torch.float64)
        crystal = CrystalBatch(
            frac=moved % 1, cell=crystal.cell * 0.99, species=crystal.species, num_atoms=crystal.num_atoms
        )


def test_a_key_may_name_another_crystal_later():
    potential, fresh = ChgnetPotential(), ChgnetPotential()
    for crystal in _crystals():
        said, expected = potential.predict(crystal, keys=[0]), fresh.predict(crystal)
        assert torch.allclose(said.energy_per_atom, expected.energy_per_atom, rtol=0, atol=1e-5)


def test_crystals_that_it_cannot_do_say_why_and_leave_the_others_alone(potential: ChgnetPotential):
    apart = CrystalBatch.from_crystals([(20 * torch.eye(3), torch.zeros(1, 3), torch.tensor([11]))])
    flat = CrystalBatch.from_crystals([(torch.diag(torch.tensor([5, 5, 1e-6])), torch.zeros(1, 3), torch.tensor([11]))])
    batch = CrystalBatch.concat([apart, rock_salt(), rock_salt(95, 17), flat]).to(torch.float64)
    said = potential.predict(batch)
    assert said.reasons[0] == "an atom has no other within 6 Å"
    assert said.reasons[2] == "CHGNet knows the elements 1 to 94, not 95"
    assert said.reasons[3] is not None and "too flat" in said.reasons[3]
    assert said.reasons[1] is None
    assert torch.isfinite(said.energy_per_atom).tolist() == [False, True, False, False]
    assert torch.allclose(said.energy_per_atom[1], potential.predict(rock_salt()).energy_per_atom[0], atol=1e-5)
    assert potential.predict(apart).reasons == ("an atom has no other within 6 Å",)
    assert potential.predict(CrystalBatch.empty()).energy_per_atom.shape == (0,)


def test_copies_say_the_same(potential: ChgnetPotential):
    assert isinstance(potential, Potential)
    copy = pickle.loads(pickle.dumps(potential))
    assert copy.name == potential.name and copy.name.startswith("CHGNet 0.3.0")
    assert torch.equal(copy.predict(rock_salt()).energy_per_atom, potential.predict(rock_salt()).energy_per_atom)


def test_wrong_weights_are_refused():
    with pytest.raises(ConfigError, match=r"0\.9.*0\.3\.0, r2scan"):
        ChgnetPotential("0.9")
    with pytest.raises(ConfigError, match="skin"):
        ChgnetPotential(skin=-1.0)
    with pytest.raises(CheckpointError, match="architecture"):
        ChgnetNetwork({"x": torch.zeros(1)}, dtype=torch.float32, device="cpu")
