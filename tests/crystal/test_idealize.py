"""Crystals near a symmetry are moved onto it, and nothing else of them changes."""

from __future__ import annotations

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import change_cell, minimum_image_distances, wrap
from euhedral.crystal.idealize import idealized
from euhedral.crystal.symmetry import space_group
from euhedral.errors import CrystalError
from euhedral.testing.crystals import perovskite, random_crystals, rock_salt

TOLERANCES = (0.3, 0.1)


def disturbed(crystal: CrystalBatch, size: float, seed: int = 0) -> CrystalBatch:
    """Atoms displaced by about `size` Å and the cell strained by as much a length of 10 Å."""
    rng = torch.Generator().manual_seed(seed)
    crystal = crystal.to(torch.float64)
    shift = size * torch.randn(crystal.frac.shape, generator=rng, dtype=torch.float64)
    strain = torch.eye(3, dtype=torch.float64) + size / 10 * torch.randn(3, 3, generator=rng, dtype=torch.float64)
    cell = crystal.cell @ strain
    return CrystalBatch(
        frac=wrap(crystal.frac + shift @ torch.linalg.inv(cell[0])),
        cell=cell,
        species=crystal.species,
        num_atoms=crystal.num_atoms,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("crystal", "number"), [(rock_salt(), 225), (perovskite(), 221)])
def test_a_disturbed_crystal_gets_its_symmetry_back_exactly(crystal: CrystalBatch, number: int, seed: int) -> None:
    given = disturbed(crystal, 0.03, seed)
    assert space_group(given, 1e-3)[0].number == 1
    found = idealized(given, TOLERANCES)
    assert space_group(found, 1e-4)[0].number == number
    assert torch.equal(found.species, given.species)
    moved = minimum_image_distances(given.frac, found.frac, found.cell[0])
    assert float(moved.max()) < 0.2
    # A symmetric stretch is the smallest change of the cell: no rotation is in it.
    stretch = torch.linalg.inv(given.cell[0]) @ found.cell[0]
    torch.testing.assert_close(stretch, stretch.T, atol=1e-9, rtol=0)


def test_projecting_twice_changes_nothing() -> None:
    once = idealized(disturbed(perovskite(), 0.03), TOLERANCES)
    twice = idealized(once, TOLERANCES)
    torch.testing.assert_close(once.cell, twice.cell, atol=1e-8, rtol=0)
    assert float(minimum_image_distances(once.frac, twice.frac, once.cell[0]).max()) < 1e-7


def test_the_mean_metric_is_kept_of_a_cubic_cell_strained_along_an_axis() -> None:
    given = perovskite().to(torch.float64)
    lengths = torch.tensor([1.0, 1.0, 1.03], dtype=torch.float64)
    strained = CrystalBatch(
        frac=given.frac, cell=given.cell * lengths, species=given.species, num_atoms=given.num_atoms
    )
    found = idealized(strained, TOLERANCES)
    expected = float(given.cell[0, 0, 0]) * ((2 + 1.03**2) / 3) ** 0.5
    torch.testing.assert_close(found.cell[0], expected * torch.eye(3, dtype=torch.float64), atol=1e-8, rtol=0)


def test_order_cell_setting_and_origin_of_the_atoms_do_not_matter() -> None:
    given = disturbed(perovskite(), 0.03)
    transform = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 1.0]]], dtype=torch.float64)
    other = change_cell(given, transform)
    order = torch.tensor([3, 0, 4, 2, 1])
    other = CrystalBatch(
        frac=wrap(other.frac[order] + torch.tensor([0.21, 0.4, 0.77])),
        cell=other.cell,
        species=other.species[order],
        num_atoms=other.num_atoms,
    )
    one, two = idealized(given, TOLERANCES), idealized(other, TOLERANCES)
    back = change_cell(two, torch.linalg.inv(transform).round())
    torch.testing.assert_close(back.cell, one.cell, atol=1e-7, rtol=0)
    # No origin enters the distances.
    first, second = one.frac[order], back.frac
    pairs = torch.triu_indices(5, 5, offset=1)
    torch.testing.assert_close(
        minimum_image_distances(first[pairs[0]], first[pairs[1]], one.cell[0]),
        minimum_image_distances(second[pairs[0]], second[pairs[1]], back.cell[0]),
        atol=1e-7,
        rtol=0,
    )


def test_a_crystal_without_symmetry_and_one_that_is_none_come_back_as_they_are() -> None:
    crystals = random_crystals([5, 3], rng=torch.Generator().manual_seed(1))
    broken = CrystalBatch(
        frac=torch.zeros(2, 3), cell=5 * torch.eye(3)[None], species=torch.tensor([3, 3]), num_atoms=torch.tensor([2])
    )
    batch = CrystalBatch.concat([crystals, broken])
    found = idealized(batch, (1e-3,))
    assert torch.equal(found.frac, batch.frac)
    assert torch.equal(found.cell, batch.cell)
    assert len(idealized(CrystalBatch.empty(), TOLERANCES)) == 0


def test_the_loosest_tolerance_at_which_there_is_symmetry_is_used() -> None:
    given = disturbed(perovskite(), 0.03)
    assert torch.equal(idealized(given, (1e-3,)).frac, given.frac)
    assert space_group(idealized(given, (1e-3, 0.3)), 1e-4)[0].number == 221


def test_a_tolerance_of_nothing_is_refused() -> None:
    with pytest.raises(CrystalError, match="above 0"):
        idealized(perovskite(), (0.1, 0.0))


def test_a_batch_gives_what_each_crystal_gives_alone() -> None:
    crystals = [disturbed(perovskite(), 0.03), disturbed(rock_salt(), 0.05, 1), disturbed(perovskite(), 0.3, 2)]
    broken = CrystalBatch(
        frac=crystals[0].frac, cell=0 * crystals[0].cell, species=crystals[0].species, num_atoms=crystals[0].num_atoms
    )
    batch = CrystalBatch.concat([crystals[0], broken, *crystals[1:]])
    for given in (batch, batch.to(torch.float32)):
        together, alone = idealized(given, TOLERANCES), [idealized(crystal, TOLERANCES) for crystal in given]
        assert together.cell.dtype == given.cell.dtype
        torch.testing.assert_close(together.frac, torch.cat([crystal.frac for crystal in alone]), atol=0, rtol=0)
        torch.testing.assert_close(together.cell, torch.cat([crystal.cell for crystal in alone]), atol=0, rtol=0)
        assert not torch.equal(together[0].cell, given[0].cell) and torch.equal(together[1].cell, given[1].cell)
