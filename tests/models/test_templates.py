"""Templates and fillings: what is asked for has its place, and the group is not a supergroup by chance of elements."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, OrbitTemplate, asymmetric_units
from euhedral.crystal.batch import CrystalBatch
from euhedral.models.fillings import can_fill, coloured_filling, makes_group, random_filling
from euhedral.models.templates import ANY, OPEN, TemplateBook, Wanted
from euhedral.testing.crystals import cesium_chloride, perovskite, rock_salt


@pytest.fixture(scope="module")
def book() -> TemplateBook:
    units = asymmetric_units(CrystalBatch.concat([perovskite(), perovskite(19, 41, 8), rock_salt(), cesium_chloride()]))
    return TemplateBook.of([unit for unit in units if isinstance(unit, AsymmetricUnit)])


@pytest.mark.parametrize(("group", "counts"), [(62, [4, 4, 12]), (1, [3, 2]), (166, [1, 2, 2]), (227, [2, 2, 4])])
def test_fillings_hold_what_is_asked_for(group: int, counts: list[int]) -> None:
    chance = np.random.default_rng(0)
    for _ in range(10):
        found = random_filling(group, counts, chance)
        assert found is not None
        template, owner = found
        held = Counter[int]()
        for size, k in zip(template.sizes, owner, strict=True):
            held[k] += size
        assert [held[k] for k in range(len(counts))] == counts


def test_positions_without_freedom_hold_one_orbit() -> None:
    # F m -3 m in its primitive cell: a and b of one atom, c of two, then six.
    assert can_fill(225, (1, 1, 2))
    assert not can_fill(225, (1, 1, 1))


def test_one_element_on_two_positions_may_have_a_supergroup() -> None:
    template = OrbitTemplate.primitive(225, "ab")
    assert makes_group(template, (0, 1))
    # Rock salt of one element is a simple cube.
    assert not makes_group(template, (0, 0))
    # Caesium chloride in twice its primitive cell.
    assert not makes_group(OrbitTemplate.primitive(225, "abc"), (0, 0, 1))


def test_fillings_of_open_elements_have_the_group() -> None:
    chance = np.random.default_rng(1)
    for group, atoms in ((225, 4), (62, 8), (4, 6), (146, 4)):
        found = coloured_filling(group, [atoms], chance, orbits=2)
        assert found is not None
        assert makes_group(found[0], tuple(found[1]))
        assert len(set(found[1])) >= 2


def test_a_composition_takes_the_likeliest_template(book: TemplateBook) -> None:
    wanted = Wanted(num_atoms=5, given={20: 1, 22: 1, 8: 3})
    drawn = [book.draw(wanted, np.random.default_rng(seed)) for seed in range(10)]
    assert {one.template for one in drawn} == {OrbitTemplate.primitive(221, "abc")}
    # Calcium goes where strontium is, and titanium where it was.
    assert {tuple(one.species) for one in drawn} == {(20, 22, 8)}


def test_elements_that_must_be_there_take_places_of_different_elements(book: TemplateBook) -> None:
    wanted = Wanted(num_atoms=5, given={8: 1, 56: 1}, allowed=frozenset(range(1, 100)), space_group=221)
    for seed in range(10):
        one = book.draw(wanted, np.random.default_rng(seed))
        assert {8, 56, OPEN} == set(one.species)
        assert len(set(one.colours)) == 3


def test_elements_that_may_not_go_on_have_exactly_their_atoms(book: TemplateBook) -> None:
    wanted = Wanted(num_atoms=5, given={8: 3}, allowed=frozenset({38}))
    one = book.draw(wanted, np.random.default_rng(0))
    assert sum(size for size, z in zip(one.template.sizes, one.species, strict=True) if z == 8) == 3
    alone = book.draw(Wanted(num_atoms=5, given={8: 2}, allowed=frozenset({38})), np.random.default_rng(0))
    assert sum(size for size, z in zip(alone.template.sizes, alone.species, strict=True) if z == 8) == 2


def test_where_nothing_fits_atoms_are_without_symmetry(book: TemplateBook) -> None:
    one = book.draw(Wanted(num_atoms=3, given={8: 2}, space_group=230), np.random.default_rng(0))
    assert one.template == OrbitTemplate.primitive(1, "aaa")
    assert sorted(one.species) == [OPEN, 8, 8]
    assert set(one.colours) == {ANY}
