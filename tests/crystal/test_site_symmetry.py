"""Site symmetries by axis: the tables' symbols, orders of the groups, the partition of another program."""

from __future__ import annotations

import numpy as np
import pytest

from euhedral.crystal.site_symmetry import (
    AXES,
    SYMBOLS,
    point_group_symbols,
    site_symmetries,
    site_symmetry_of,
)
from euhedral.crystal.wyckoff import GROUPS, group_operations, wyckoff_positions
from euhedral.errors import CrystalError

ON_ONE_AXIS = {"1": 0, "-1": 0, "2": 1, "m": 1, "3": 2, "4": 3, "-4": 3, "2/m": 2, "-3": 4, "6": 5, "-6": 5}
ON_ONE_AXIS.update({"4/m": 6, "6/m": 10})
"""Operations on an axis beside the identity and the inversion."""


def order(symbols: np.ndarray) -> int:
    names = [SYMBOLS[k] for k in symbols]
    # An inversion is on every axis, as -1 where there is nothing else.
    inversion = any(name in ("-1", "2/m", "-3", "4/m", "6/m") for name in names)
    return 1 + inversion + sum(ON_ONE_AXIS[name] for name in names)


def named(symbols: np.ndarray) -> dict[tuple[int, ...], str]:
    return {axis: SYMBOLS[k] for axis, k in zip(AXES, symbols, strict=True) if SYMBOLS[k] not in ("1", "-1")}


def test_the_symbols_count_the_operations_of_a_site() -> None:
    """A site symmetry has as many operations as the group has for one point of the orbit."""
    for group in range(1, GROUPS + 1):
        whole = len(group_operations(group)[0])
        for kind in site_symmetries(group):
            assert order(kind.symbols) * kind.multiplicity == whole
        points = len({rotation.tobytes() for rotation in group_operations(group)[0]})
        assert order(point_group_symbols(group)) == points


def test_positions_that_share_a_site_symmetry_are_alike() -> None:
    for group in range(1, GROUPS + 1):
        positions, kinds = wyckoff_positions(group), site_symmetries(group)
        assert sorted("".join(kind.letters for kind in kinds)) == sorted(positions)
        assert len({kind.symbols.tobytes() for kind in kinds}) == len(kinds)
        for k, kind in enumerate(kinds):
            for letter in kind.letters:
                assert positions[letter].multiplicity == kind.multiplicity
                assert positions[letter].free.any() != kind.single
                assert site_symmetry_of(group)[letter] == k
        assert set(kinds[-1].symbols.tolist()) == {0}


def test_symbols_are_those_of_the_tables() -> None:
    # P m -3 m: c has 4/mm.m and lies at (0, 1/2, 1/2), so that its fourfold axis is x; g has .3m on the diagonal.
    kinds = {letter: site_symmetries(221)[k] for letter, k in site_symmetry_of(221).items()}
    on_c = named(kinds["c"].symbols)
    assert on_c[1, 0, 0] == "4/m"
    assert {on_c[axis] for axis in ((0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 1, -1))} == {"2/m"}
    assert len(on_c) == 5
    assert named(kinds["g"].symbols) == {(1, 1, 1): "3", (1, -1, 0): "m", (1, 0, -1): "m", (0, 1, -1): "m"}
    assert kinds["a"] is kinds["b"]
    assert kinds["a"] is not kinds["c"]
    # P 6_3/m m c: a has -3m., b to d have -6m2.
    hexagonal = [named(kind.symbols)[0, 0, 1] for kind in site_symmetries(194)[:2]]
    assert hexagonal == ["-3", "-6"]
    assert [kind.letters for kind in site_symmetries(194)[:2]] == ["a", "bcd"]


def test_positions_are_told_apart_as_pyxtal_does() -> None:
    pytest.importorskip("pyxtal")
    from pyxtal.symmetry import Group

    for group in (2, 12, 47, 63, 123, 139, 148, 166, 187, 194, 216, 225, 227):
        theirs: dict[bytes, str] = {}
        for position in Group(group).Wyckoff_positions:
            position.get_site_symmetry()
            key = position.get_site_symmetry_object().to_one_hot().tobytes()
            theirs[key] = theirs.get(key, "") + position.letter
        assert sorted("".join(sorted(letters)) for letters in theirs.values()) == sorted(
            "".join(sorted(kind.letters)) for kind in site_symmetries(group)
        )


def test_groups_that_do_not_exist() -> None:
    with pytest.raises(CrystalError, match="1 to 230"):
        site_symmetries(231)
