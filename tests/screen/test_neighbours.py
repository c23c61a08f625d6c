import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CrystalError
from euhedral.screen.neighbours import find_bonds
from euhedral.testing.crystals import random_crystals, rock_salt


def _lengths_by_enumeration(crystal: CrystalBatch, reach: float, layers: int = 6) -> torch.Tensor:
    """Lengths of all bonds, each once, from every image in a large block of cells."""
    frac, cell = crystal.frac, crystal.cell[0]
    shifts = torch.tensor(list(itertools.product(range(-layers, layers + 1), repeat=3)), dtype=frac.dtype)
    vectors = (frac[None] - frac[:, None])[:, :, None] + shifts
    lengths = torch.linalg.norm(vectors @ cell, dim=-1).flatten()
    return lengths[(lengths > 0) & (lengths < reach)].sort().values[::2]


def test_rock_salt_has_its_shells():
    crystal = rock_salt(length=5.64, dtype=torch.float64)
    bonds = find_bonds(crystal.frac, crystal.cell[0], 5.65)
    lengths = torch.linalg.norm(bonds.vectors(crystal.frac, crystal.cell[0]), dim=1)
    for shell, neighbours in ((2.82, 6), (2.82 * 2**0.5, 12), (2.82 * 3**0.5, 8), (5.64, 6)):
        assert int((lengths - shell).abs().lt(1e-5).sum()) == neighbours
    assert lengths.numel() == 32


def test_an_atom_alone_is_bound_to_its_images_once_each():
    bonds = find_bonds(torch.zeros(1, 3, dtype=torch.float64), 3 * torch.eye(3, dtype=torch.float64), 3.1)
    assert bonds.first.tolist() == bonds.second.tolist() == [0, 0, 0]
    assert bonds.shift.abs().sum(0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_finds_what_enumeration_finds(seed: int):
    crystal = random_crystals([3], rng=torch.Generator().manual_seed(seed), dtype=torch.float64)
    skew = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, -1, 1]], dtype=torch.float64)
    cell = skew @ crystal.cell[0]
    frac = crystal.frac @ torch.linalg.inv(skew)
    bonds = find_bonds(frac, cell, 6.0)
    found = torch.linalg.norm(bonds.vectors(frac, cell), dim=1).sort().values
    assert torch.allclose(found, _lengths_by_enumeration(crystal, 6.0))


def test_whole_numbers_added_to_coordinates_change_nothing():
    crystal = random_crystals([4], rng=torch.Generator().manual_seed(0), dtype=torch.float64)
    shifted = crystal.frac + torch.tensor([[0, 3, -2], [1, 0, 0], [-5, 0, 4], [0, 0, 0]], dtype=torch.float64)
    here, there = (find_bonds(f, crystal.cell[0], 5.0).vectors(f, crystal.cell[0]) for f in (crystal.frac, shifted))
    assert torch.allclose(here, there, atol=1e-12)
    bonds = find_bonds(crystal.frac, crystal.cell[0], 5.0)
    assert torch.allclose(bonds.vectors(shifted, crystal.cell[0]), here, atol=1e-12)


@given(seed=st.integers(0, 10_000), size=st.floats(0, 0.3))
def test_no_bond_is_missing_while_they_hold(seed: int, size: float):
    rng = torch.Generator().manual_seed(seed)
    crystal = random_crystals([4], rng=rng, dtype=torch.float64)
    bonds = find_bonds(crystal.frac, crystal.cell[0], 4.6)
    frac = crystal.frac + size * 0.1 * torch.randn(4, 3, generator=rng, dtype=torch.float64)
    cell = crystal.cell[0] @ (torch.eye(3) + size * 0.1 * torch.randn(3, 3, generator=rng)).double()
    if not bonds.still_hold(frac, cell, 4.0):
        return
    known = torch.linalg.norm(bonds.vectors(frac, cell), dim=1)
    fresh = torch.linalg.norm(find_bonds(frac, cell, 4.0).vectors(frac, cell), dim=1)
    assert torch.allclose(known[known < 4.0].sort().values, fresh.sort().values, atol=1e-9)


def test_bonds_hold_for_small_moves_and_not_for_large_ones():
    crystal = rock_salt(dtype=torch.float64)
    frac, cell = crystal.frac, crystal.cell[0]
    bonds = find_bonds(frac, cell, 6.5)
    assert bonds.still_hold(frac, cell, 6.0)
    assert bonds.still_hold(frac + 3.0, cell * 1.01, 6.0)
    assert not bonds.still_hold(frac, cell * 0.9, 6.0)
    assert not bonds.still_hold(frac + torch.tensor([[0, 0, 0], [0.1, 0, 0]]), cell, 6.0)
    assert not bonds.still_hold(frac, cell * torch.nan, 6.0)


def test_cells_that_are_not_ones_are_refused():
    frac = torch.zeros(1, 3, dtype=torch.float64)
    with pytest.raises(CrystalError, match="too flat"):
        find_bonds(frac, torch.diag(torch.tensor([5.0, 5.0, 1e-5], dtype=torch.float64)), 6.0)
    with pytest.raises(CrystalError, match="too flat"):
        find_bonds(frac, torch.zeros(3, 3, dtype=torch.float64), 6.0)
    with pytest.raises(CrystalError, match="not finite"):
        find_bonds(frac * torch.nan, torch.eye(3, dtype=torch.float64), 6.0)
