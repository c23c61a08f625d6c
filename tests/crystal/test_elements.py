from __future__ import annotations

import math

import pytest

from euhedral.crystal.elements import (
    ATOMIC_MASSES,
    ATOMIC_NUMBERS,
    COVALENT_RADII,
    ELECTRONEGATIVITIES,
    SYMBOLS,
)


def test_tables_have_one_row_an_element() -> None:
    for table in (SYMBOLS, ATOMIC_MASSES, COVALENT_RADII, ELECTRONEGATIVITIES):
        assert len(table) == 119
    assert len(ATOMIC_NUMBERS) == len(set(SYMBOLS[1:])) == 118
    assert all(ATOMIC_NUMBERS[SYMBOLS[z]] == z for z in range(1, 119))


def test_symbols_masses_and_radii_are_those_of_ase() -> None:
    from ase.data import atomic_masses, chemical_symbols, covalent_radii

    assert list(SYMBOLS[1:]) == chemical_symbols[1:119]
    for z in range(1, 95):
        assert pytest.approx(atomic_masses[z], rel=2e-3) == ATOMIC_MASSES[z], SYMBOLS[z]
        assert pytest.approx(covalent_radii[z], abs=0.02) == COVALENT_RADII[z], SYMBOLS[z]


def test_electronegativities_are_those_of_pauling() -> None:
    from pymatgen.core import Element

    for z in range(1, 95):
        expected = Element.from_Z(z).data.get("X")
        if isinstance(expected, float) and not math.isnan(ELECTRONEGATIVITIES[z]):
            assert pytest.approx(expected, abs=0.06) == ELECTRONEGATIVITIES[z], SYMBOLS[z]
    for symbol, value in {"F": 3.98, "O": 3.44, "Na": 0.93, "Fe": 1.83}.items():
        assert pytest.approx(value) == ELECTRONEGATIVITIES[ATOMIC_NUMBERS[symbol]]
