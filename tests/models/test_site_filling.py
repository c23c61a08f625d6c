"""Site symmetries chosen one at a time: whatever is preferred, the atoms come out, and what is possible is enumerated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from euhedral.crystal.asymmetric_unit import OrbitTemplate
from euhedral.crystal.site_symmetry import site_symmetries, site_symmetry_of
from euhedral.models.site_filling import OPEN, Owed, SiteFilling


def exact(**atoms: int) -> dict[int, Owed]:
    return {int(name[1:]): Owed(atoms=count, exact=True) for name, count in atoms.items()}


def filling(group: int, letters: str, elements: list[int], owed: dict[int, Owed]) -> SiteFilling:
    return SiteFilling(OrbitTemplate.primitive(group, letters), elements, owed)


def enumerated(group: int, atoms: int, elements: list[int], owed: dict[int, Owed]) -> set[tuple[int, ...]]:
    """All site symmetries of orbits in order that hold what is owed, by trying every one."""
    kinds = site_symmetries(group)
    sizes = [OrbitTemplate.primitive(group, kind.letters[0]).sizes[0] for kind in kinds]
    found = set()
    for choice in itertools.product(range(len(kinds)), repeat=len(elements)):
        held = {z: sum(sizes[k] for k, e in zip(choice, elements, strict=True) if e == z) for z in owed}
        fits = sum(sizes[k] for k in choice) == atoms
        fits &= all(not kinds[k].single or choice.count(k) <= len(kinds[k].letters) for k in choice)
        if fits and all(held[z] == one.atoms if one.exact else held[z] >= one.atoms for z, one in owed.items()):
            found.add(choice)
    return found


@pytest.mark.parametrize(
    ("group", "letters", "elements", "owed"),
    [
        (221, "abc", [56, 22, 8], exact(z56=1, z22=1, z8=3)),
        (221, "abc", [OPEN, OPEN, OPEN], {}),
        (47, "abij", [8, 8, OPEN, OPEN], {8: Owed(atoms=2, exact=False)}),
        (166, "abc", [3, 27, 8], exact(z3=1, z27=1, z8=2)),
        (12, "aii", [OPEN, 8, 8], exact(z8=4)),
        (225, "abc", [OPEN, OPEN, 9], exact(z9=2)),
    ],
)
def test_what_can_be_chosen_is_what_trying_everything_finds(
    group: int, letters: str, elements: list[int], owed: dict[int, Owed]
) -> None:
    template = OrbitTemplate.primitive(group, letters)
    wanted = enumerated(group, template.num_atoms, elements, owed)
    chance, found = np.random.default_rng(0), set()
    for _ in range(60 * len(wanted)):
        one = filling(group, letters, elements, owed)
        assert one.possible()
        choice = [0] * len(elements)
        for orbit in chance.permutation(len(elements)).tolist():
            choice[orbit] = one.choose(orbit, chance.permutation(len(one.sizes)).tolist())
        found.add(tuple(choice))
    assert found == wanted


def test_the_preferred_one_is_taken_where_it_is_possible() -> None:
    mirror = site_symmetry_of(62)["c"]
    one = filling(62, "ccd", [8, 8, 8], exact(z8=16))
    assert one.choose(0, [mirror, *range(len(one.sizes))]) == mirror
    # The inversion centre may come too; eight atoms are then left for the third.
    assert one.choose(1, range(len(one.sizes))) == site_symmetry_of(62)["a"]
    assert one.choose(2, [mirror, *range(len(one.sizes))]) == site_symmetry_of(62)["d"]


@pytest.mark.parametrize(
    ("group", "letters", "elements", "owed"),
    [
        (221, "abc", [56, 22, 8], exact(z56=2, z22=1, z8=2)),
        (225, "abc", [1, 1, 1], exact(z1=3)),
        (1, "aaa", [8, OPEN, OPEN], {8: Owed(atoms=2, exact=False)}),
        (1, "aa", [OPEN, OPEN], {8: Owed(atoms=1, exact=False)}),
    ],
)
def test_what_is_impossible_is_said(group: int, letters: str, elements: list[int], owed: dict[int, Owed]) -> None:
    one = filling(group, letters, elements, owed)
    assert not one.possible()
    with pytest.raises(ValueError, match="no site symmetry is possible"):
        one.choose(0, range(len(one.sizes)))
