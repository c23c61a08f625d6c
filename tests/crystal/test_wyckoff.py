"""Wyckoff positions: closed orbits of the right size, the tables of another program, primitive cells."""

from __future__ import annotations

import numpy as np
import pytest

from euhedral.crystal.wyckoff import (
    GROUPS,
    LETTERS,
    centring_translations,
    group_operations,
    primitive_basis,
    wyckoff_positions,
)
from euhedral.errors import CrystalError


def test_the_tables_hold_every_position_of_every_group() -> None:
    # Int. Tables A: 1731 positions of the 230 types, 27 at most (Pmmm).
    found = [wyckoff_positions(group) for group in range(1, GROUPS + 1)]
    assert sum(map(len, found)) == 1731
    assert max(map(len, found)) == len(LETTERS) == len(wyckoff_positions(47))
    for positions in found:
        assert "".join(positions) == LETTERS[: len(positions)]


def test_the_last_position_is_the_general_one_and_sizes_divide_it() -> None:
    for group in range(1, GROUPS + 1):
        *special, general = wyckoff_positions(group).values()
        assert general.multiplicity == len(group_operations(group)[0])
        assert general.free.all()
        for position in special:
            assert general.multiplicity % position.multiplicity == 0
            # A special position may have three free coordinates only where its points are all fixed by the identity.
            assert np.linalg.matrix_rank(position.maps[0]) == position.free.sum() < 3


def test_orbits_are_closed_and_the_first_point_is_its_own_coordinate() -> None:
    chance = np.random.default_rng(0)
    for group in range(1, GROUPS + 1):
        rotations, translations = group_operations(group)
        pick = chance.integers(len(rotations))
        for position in wyckoff_positions(group).values():
            points = position.maps @ chance.random(3) + position.shifts
            assert np.allclose(position.maps[0] @ points[0] + position.shifts[0], points[0])
            images = points @ rotations[pick].T + translations[pick]
            away = images[:, None] - points
            assert ((np.abs(away - np.round(away)) < 1e-9).all(2).sum(1) == 1).all()


def test_orbits_are_those_of_pyxtal() -> None:
    pytest.importorskip("pyxtal")
    from pyxtal.symmetry import Group

    for group in (1, 5, 15, 47, 68, 141, 148, 161, 194, 205, 216, 227, 230):
        for other in Group(group):
            own = wyckoff_positions(group)[other.letter]
            theirs = {_key(op.rotation_matrix, op.translation_vector) for op in other.ops}
            assert {_key(*pair) for pair in zip(own.maps, own.shifts, strict=True)} == theirs


def _key(linear: np.ndarray, shift: np.ndarray) -> tuple[int, ...]:
    return (*linear.astype(int).flatten().tolist(), *(np.round(24 * shift).astype(int) % 24).tolist())


def test_primitive_cells_hold_one_lattice_point() -> None:
    for group in range(1, GROUPS + 1):
        centring = centring_translations(group)
        basis = primitive_basis(group)
        assert np.linalg.det(basis) == pytest.approx(1 / len(centring))
        # Every lattice point has whole coordinates in it.
        within = centring @ np.linalg.inv(basis)
        assert np.allclose(within, np.round(within))


@pytest.mark.parametrize("number", [0, 231])
def test_numbers_that_are_no_space_group(number: int) -> None:
    with pytest.raises(CrystalError, match="1 to 230"):
        wyckoff_positions(number)
    with pytest.raises(CrystalError, match="1 to 230"):
        primitive_basis(number)
