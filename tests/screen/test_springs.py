import torch

from euhedral.screen.springs import CELL_COORDINATES, spring_compliance
from euhedral.testing.crystals import random_crystals, rock_salt


def test_is_symmetric_and_positive():
    for crystal in random_crystals([1, 2, 7], rng=torch.Generator().manual_seed(0), dtype=torch.float64):
        compliance = spring_compliance(crystal, stretch=float(crystal.num_atoms))
        assert compliance.shape == (9 + 3 * int(crystal.num_atoms),) * 2
        assert torch.allclose(compliance, compliance.T, atol=1e-10)
        assert torch.linalg.eigvalsh(compliance).min() > 0


def test_a_shift_of_all_atoms_and_a_turn_of_the_cell_stretch_no_spring():
    stiffness = torch.linalg.inv(spring_compliance(rock_salt(dtype=torch.float64), stretch=2.0))
    shift = torch.zeros(len(stiffness), dtype=torch.float64)
    shift[CELL_COORDINATES::3] = 1
    turn = torch.zeros(len(stiffness), dtype=torch.float64)
    turn[1], turn[3] = 1, -1
    strain = torch.zeros(len(stiffness), dtype=torch.float64)
    strain[[0, 4, 8]] = 1
    free = stiffness @ torch.stack([shift, turn]).T
    assert torch.allclose(free, 0.5 * torch.stack([shift, turn]).T, atol=1e-8)
    assert strain @ stiffness @ strain > 10 * 0.5 * (strain @ strain)


def test_a_strain_that_atoms_can_follow_is_softer_than_one_that_they_cannot():
    crystal = random_crystals([6], rng=torch.Generator().manual_seed(1), dtype=torch.float64)
    compliance = spring_compliance(crystal, stretch=6.0)
    frozen = torch.linalg.inv(torch.linalg.inv(compliance)[:9, :9])
    assert torch.linalg.eigvalsh(compliance[:9, :9] - frozen).min() > -1e-10
    assert compliance[0, 0] > 1.01 * frozen[0, 0]


def test_a_cell_that_cannot_move_yields_to_nothing():
    crystal = random_crystals([6], rng=torch.Generator().manual_seed(1), dtype=torch.float64)
    held = spring_compliance(crystal, stretch=6.0, relax_cell=False)
    stiffness = torch.linalg.inv(spring_compliance(crystal, stretch=6.0))
    assert not held[:9].any() and not held[:, :9].any()
    assert torch.allclose(held[9:, 9:], torch.linalg.inv(stiffness[9:, 9:]), atol=1e-9)


def test_turning_the_crystal_turns_the_springs():
    crystal = random_crystals([3], rng=torch.Generator().manual_seed(2), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    turned = type(crystal)(
        frac=crystal.frac, cell=crystal.cell @ turn, species=crystal.species, num_atoms=crystal.num_atoms
    )
    whole = torch.block_diag(torch.kron(turn, turn), *[turn] * 3)
    before, after = (spring_compliance(c, stretch=3.0) for c in (crystal, turned))
    assert torch.allclose(after, whole.T @ before @ whole, atol=1e-9)
