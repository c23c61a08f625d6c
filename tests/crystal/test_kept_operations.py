"""A crystal keeps the operations of its group and of its subgroups in the same setting, and of no other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, OrbitTemplate
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.crystal_family import onto_family
from euhedral.crystal.kept_operations import keeps_operations
from euhedral.crystal.orbits import expand
from euhedral.crystal.wyckoff import wyckoff_positions
from euhedral.errors import CrystalError
from euhedral.testing.crystals import perovskite, rock_salt


def test_crystals_keep_the_operations_that_made_them() -> None:
    chance = np.random.default_rng(2)
    for group in (1, 5, 15, 42, 62, 88, 146, 155, 166, 194, 205, 220, 227, 230):
        letters = list(wyckoff_positions(group))[-1] * 2
        lattice = torch.tensor([[0.1, -0.2, 0.15, 0.1, -0.1, 2.0]], dtype=torch.float64)
        unit = AsymmetricUnit(
            template=OrbitTemplate.primitive(group, letters),
            species=np.array([8, 26]),
            coordinates=chance.random((2, 3)),
            lattice=onto_family(lattice, torch.tensor([group]))[0].numpy(),
        )
        crystal = expand([unit])
        assert keeps_operations(crystal, group, 1e-6).tolist() == [True]
        if group > 1:
            moved = crystal.frac.clone()
            moved[0] += 0.05
            broken = CrystalBatch(
                frac=moved % 1, cell=crystal.cell, species=crystal.species, num_atoms=crystal.num_atoms
            )
            assert keeps_operations(broken, group).tolist() == [False]
            assert keeps_operations(crystal, 1).tolist() == [True]


def test_subgroups_are_kept_and_supergroups_are_not() -> None:
    # P 4/m m m, P m m m and P -1 are subgroups of P m -3 m in the same cell and with the same origin.
    assert [keeps_operations(perovskite(), group).item() for group in (221, 123, 47, 2)] == [True] * 4
    stretched = perovskite()
    cell = stretched.cell * torch.tensor([1.0, 1.0, 1.1])[:, None]
    stretched = CrystalBatch(frac=stretched.frac, cell=cell, species=stretched.species, num_atoms=stretched.num_atoms)
    assert [keeps_operations(stretched, group).item() for group in (221, 123, 47, 2)] == [False, True, True, True]


def test_elements_count() -> None:
    assert keeps_operations(rock_salt(), 225).item()
    # The half of an edge carries one ion onto the other, which is no operation of theirs.
    assert not keeps_operations(rock_salt(), 227).item()


def test_numbers_that_are_no_space_group() -> None:
    with pytest.raises(CrystalError, match="1 to 230"):
        keeps_operations(rock_salt(), 0)
