"""Oxidation states against chemistry."""

from __future__ import annotations

from collections import Counter

import pytest

from euhedral.crystal.charges import guess_charges
from euhedral.crystal.formula import parse_formula


def _guess(formula: str) -> dict[int, int] | None:
    return guess_charges(tuple(sorted(parse_formula(formula).items())))


@pytest.mark.parametrize(
    ("formula", "charges"),
    [
        ("NaCl", {11: 1, 17: -1}),
        ("SrTiO3", {8: -2, 22: 4, 38: 2}),
        ("LiMnO2", {3: 1, 8: -2, 25: 3}),
        ("Fe2O3", {8: -2, 26: 3}),
        ("FeO", {8: -2, 26: 2}),
        ("Ca3N2", {7: -3, 20: 2}),
        ("NaOH", {1: 1, 8: -2, 11: 1}),
        ("KMnO4", {8: -2, 19: 1, 25: 7}),
    ],
)
def test_usual_states_come_out(formula: str, charges: dict[int, int]) -> None:
    assert _guess(formula) == charges


@pytest.mark.parametrize("formula", ["AlRu", "Cu", "Fe3O4", "He", "CuAu3"])
def test_alloys_elements_and_mixed_valence_have_none(formula: str) -> None:
    assert _guess(formula) is None


def test_what_is_given_is_neutral() -> None:
    for formula in ("BaTiO3", "Li7La3Zr2O12", "CsPbI3", "Mg2SiO4", "ZnS", "UO2", "LaCoO3"):
        counts = Counter(parse_formula(formula))
        charges = _guess(formula)
        assert charges is not None and sum(charges[z] * n for z, n in counts.items()) == 0
