"""Asymmetric units: expansion has the symmetry asked for, extraction gives it back, projections are projections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, OrbitTemplate, asymmetric_units, without_symmetry
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.crystal_family import onto_family
from euhedral.crystal.geometry import supercell, wrap_centered
from euhedral.crystal.orbits import Orbits, expand
from euhedral.crystal.symmetry import space_group
from euhedral.crystal.wyckoff import LETTERS, wyckoff_positions
from euhedral.errors import CrystalError
from euhedral.testing import crystals as shapes


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def random_unit(group: int, letters: str, chance: np.random.Generator) -> AsymmetricUnit:
    """A crystal with a different element on each orbit, in a cell that is far from any other family."""
    template = OrbitTemplate.primitive(group, letters)
    lattice = chance.normal(size=6) * 0.15
    lattice[5] = 2.0
    return AsymmetricUnit(
        template=template,
        species=20 + np.arange(len(letters)),
        coordinates=chance.random((len(letters), 3)),
        lattice=onto_family(torch.from_numpy(lattice)[None], torch.tensor([group]))[0].numpy(),
    )


def test_every_group_is_found_in_what_it_makes_and_given_back() -> None:
    chance = np.random.default_rng(1)
    units = []
    for group in range(1, 231):
        names = list(wyckoff_positions(group))
        # Several general orbits, since one alone often has the symmetry of a supergroup.
        units.append(random_unit(group, names[chance.integers(len(names))] + 3 * names[-1], chance))
    crystals = expand(units)
    found = np.array([one.number for one in space_group(crystals, 1e-4)])
    assert (found == np.arange(1, 231)).all()
    for unit, back in zip(units, asymmetric_units(crystals, 1e-4), strict=True):
        assert isinstance(back, AsymmetricUnit)
        assert back.template.space_group == unit.template.space_group
        assert back.template.basis == unit.template.basis
        assert sorted(back.template.sizes) == sorted(unit.template.sizes)
        assert back.lattice[5] == pytest.approx(unit.lattice[5], abs=1e-6)


@pytest.mark.parametrize("name", shapes.SPACE_GROUPS)
def test_known_crystals_come_back(name: str) -> None:
    crystal = getattr(shapes, name)(dtype=torch.float64)
    (unit,) = asymmetric_units(crystal)
    assert isinstance(unit, AsymmetricUnit)
    assert unit.template.space_group == shapes.SPACE_GROUPS[name]
    _same_crystal(expand([unit]), crystal)


def test_cells_that_are_neither_primitive_nor_conventional_are_kept() -> None:
    crystal = supercell(shapes.rock_salt(dtype=torch.float64), (1, 2, 3))
    (unit,) = asymmetric_units(crystal)
    assert isinstance(unit, AsymmetricUnit)
    assert unit.template.letters == "ab"
    assert unit.template.sizes == (6, 6)
    _same_crystal(expand([unit]), crystal)


def test_what_is_no_crystal_has_a_reason() -> None:
    broken = CrystalBatch.from_crystals([(4 * torch.eye(3), torch.zeros(2, 3), torch.tensor([11, 17]))])
    (outcome,) = asymmetric_units(broken)
    assert isinstance(outcome, CrystalError)
    assert "too close" in str(outcome)


def test_without_symmetry_is_the_crystal_itself() -> None:
    crystal = shapes.random_crystals([5], rng=torch.Generator().manual_seed(0))
    unit = without_symmetry(crystal)
    assert unit.template == OrbitTemplate.primitive(1, "aaaaa")
    back = expand([unit], dtype=torch.float32)
    order = crystal.species.argsort(stable=True)
    assert torch.equal(back.species, crystal.species[order])
    assert torch.allclose(back.frac, crystal.frac[order])
    assert torch.allclose(back.volume, crystal.volume, rtol=1e-4)


def _same_crystal(one: CrystalBatch, other: CrystalBatch) -> None:
    assert one.formulas() == other.formulas()
    assert torch.allclose(one.volume, other.volume.to(one.cell.dtype), rtol=1e-6)
    assert [g.number for g in space_group(one, 0.01)] == [g.number for g in space_group(other, 0.01)]


@pytest.fixture
def units() -> Sequence[AsymmetricUnit]:
    """Crystals of eight atoms and different groups, some of them polar and some with nothing free."""
    chance = np.random.default_rng(3)
    of = ((1, 8 * "a"), (2, "ghiii"), (99, "abcd"), (225, "abd"), (194, "bdf"), (62, "cc"), (146, "aabb"))
    return [random_unit(group, letters, chance) for group, letters in of]


def test_displacements_are_projected_once_and_for_all(units: Sequence[AsymmetricUnit], rng: torch.Generator) -> None:
    orbits = Orbits.of([unit.template for unit in units], dtype=torch.float64)
    moves = torch.randn(len(units), 8, 3, generator=rng, dtype=torch.float64)
    once = orbits.project(moves)
    assert torch.allclose(orbits.project(once), once, atol=1e-12)
    # Without symmetry nothing is taken away; with it, something is.
    kept = (once - moves).abs().amax((1, 2)) < 1e-9
    assert kept.tolist() == [unit.template.space_group == 1 for unit in units]


def test_free_coordinates_come_back_from_all_atoms(units: Sequence[AsymmetricUnit], rng: torch.Generator) -> None:
    orbits = Orbits.of([unit.template for unit in units], dtype=torch.float64)
    near = torch.rand(*orbits.free.shape, generator=rng, dtype=torch.float64)
    moved = near + 0.02 * torch.randn(near.shape, generator=rng, dtype=torch.float64) * orbits.free
    back = orbits.nearest(orbits.expand(moved), near=near)
    assert torch.allclose(wrap_centered(back - moved), torch.zeros_like(near), atol=1e-9)
    assert torch.allclose(orbits.collect(orbits.displace(moved)), moved * orbits.free, atol=1e-9)


def test_projected_crystals_have_the_symmetry(units: Sequence[AsymmetricUnit], rng: torch.Generator) -> None:
    orbits = Orbits.of([unit.template for unit in units], dtype=torch.float64)
    near = torch.rand(*orbits.free.shape, generator=rng, dtype=torch.float64)
    shaken = orbits.expand(near) + 0.01 * torch.randn(len(units), 8, 3, generator=rng, dtype=torch.float64)
    frac = orbits.expand(orbits.nearest(shaken, near=near))
    cell = orbits.cell(orbits.lattice(torch.randn(len(units), 6, generator=rng, dtype=torch.float64) * 0.1 + 1))
    for row, unit in enumerate(units):
        species = 20 + orbits.owner[row]
        (found,) = space_group(CrystalBatch.from_crystals([(cell[row], frac[row], species)]), 1e-5)
        assert found.number == unit.template.space_group


def test_means_and_masks_of_orbits(units: Sequence[AsymmetricUnit]) -> None:
    orbits = Orbits.of([unit.template for unit in units])
    assert orbits.is_orbit.sum(1).tolist() == [len(unit.template.letters) for unit in units]
    number = torch.arange(orbits.free.shape[1], dtype=torch.float32).expand(orbits.free.shape[:2])
    assert torch.allclose(orbits.mean(orbits.at_atoms(number)[..., None])[..., 0], number * orbits.is_orbit)
    assert not orbits.free[~orbits.is_orbit].any()


def test_one_atom_count_at_a_time() -> None:
    with pytest.raises(CrystalError, match="one atom count"):
        Orbits.of([OrbitTemplate.primitive(1, "a"), OrbitTemplate.primitive(1, "aa")])


def test_letters_in_any_order() -> None:
    assert OrbitTemplate.primitive(225, "cba").letters == "abc"
    assert LETTERS.startswith("abc")


def test_autocast_costs_no_precision(units: Sequence[AsymmetricUnit], rng: torch.Generator) -> None:
    orbits = Orbits.of([unit.template for unit in units])
    free, lattice = torch.rand(*orbits.free.shape, generator=rng), torch.randn(len(units), 6, generator=rng) * 0.1
    moves = torch.randn(len(units), 8, 3, generator=rng)
    plain = (orbits.expand(free), orbits.collect(moves), orbits.cell(orbits.lattice(lattice)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = (orbits.expand(free), orbits.collect(moves), orbits.cell(orbits.lattice(lattice)))
    assert all(torch.equal(one, other) for one, other in zip(plain, cast, strict=True))
