"""Formulas: reading, writing, and every way to get one wrong."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.crystal.elements import ATOMIC_NUMBERS, SYMBOLS
from euhedral.crystal.formula import (
    cell_formula,
    parse_chemical_system,
    parse_elements,
    parse_formula,
    reduced,
    reduced_formula,
)
from euhedral.errors import RequestError

Z = ATOMIC_NUMBERS
COUNTS = st.dictionaries(st.integers(1, 118), st.integers(1, 30), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("LiMnO2", {"Li": 1, "Mn": 1, "O": 2}),
        ("Ca3(PO4)2", {"Ca": 3, "P": 2, "O": 8}),
        ("K4[Fe(CN)6]", {"K": 4, "Fe": 1, "C": 6, "N": 6}),
        ("Li2 Mn2 O4", {"Li": 2, "Mn": 2, "O": 4}),
        ("Li₂O", {"Li": 2, "O": 1}),
        ("CO", {"C": 1, "O": 1}),
        ("Co", {"Co": 1}),
        ("CH3CH2OH", {"C": 2, "H": 6, "O": 1}),
        ("((Na)2)3Cl06", {"Na": 6, "Cl": 6}),
        ("Si", {"Si": 1}),
    ],
)
def test_parse(text: str, expected: dict[str, int]) -> None:
    assert parse_formula(text) == {Z[s]: n for s, n in expected.items()}


def test_parse_keeps_the_order_of_the_formula() -> None:
    assert list(parse_formula("OMnLi")) == [8, 25, 3]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("limno2", "capital letter"),
        ("LiMnOx2", "no element 'Ox'"),
        ("Xx2", "no element 'Xx'"),
        ("2Li", "follows no element"),
        ("Li0", "not between 1"),
        ("Li0.5O", "'0.5': counts must be whole"),
        ("CuSO4.5H2O", "in brackets"),
        ("Li1.5O", "whole"),
        ("Ca3(PO4", "not closed"),
        ("Ca3PO4)2", "closes no bracket"),
        ("Ca(PO4]2", "closes no bracket"),
        ("Ca()2", "empty bracket"),
        ("CuSO4·5H2O", "in brackets"),
        ("Na+", "charges"),
        ("D2O", "write H"),
        ("Li" + "9" * 50, "not between 1"),
        ("((Li9999)9999)9999", "more than"),
        ("Li" * 300, "characters"),
        ("Li;O", "expected elements"),
    ],
)
def test_parse_errors_say_what_to_do(text: str, hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_formula(text)
    assert hint in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_parse_refuses_what_is_not_text() -> None:
    with pytest.raises(RequestError, match="not int"):
        parse_formula(5)  # type: ignore[arg-type]


@given(COUNTS)
def test_cell_formula_round_trip(counts: dict[int, int]) -> None:
    species = list(Counter(counts).elements())
    assert parse_formula(cell_formula(species)) == counts
    assert reduced(parse_formula(cell_formula(species)))[0] == reduced(counts)[0]


@given(COUNTS)
def test_formulas_are_those_of_pymatgen(counts: dict[int, int]) -> None:
    from pymatgen.core import Composition

    species = list(Counter(counts).elements())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # elements without an electronegativity
        composition = Composition({SYMBOLS[z]: n for z, n in counts.items()})
        assert cell_formula(species) == composition.formula
        assert reduced_formula(species) == composition.reduced_formula


@pytest.mark.parametrize("formula", ["Ca3(PO4)2", "LiMnO2", "H2O2", "O2", "NaCl", "Li3Fe2(PO4)3", "H2O", "SiC"])
def test_reduced_formula_of_known_compounds(formula: str) -> None:
    assert reduced_formula(list(Counter(parse_formula(formula)).elements())) == formula


def test_empty_formulas() -> None:
    assert cell_formula([]) == "" == reduced_formula([])


@given(COUNTS, st.integers(1, 7))
def test_reduced_units(counts: dict[int, int], factor: int) -> None:
    base, units = reduced(counts)
    again, more = reduced({z: n * factor for z, n in counts.items()})
    assert again == base
    assert more == units * factor
    assert reduced(base) == (base, 1)
    assert {z: n * units for z, n in base.items()} == counts


@pytest.mark.parametrize("counts", [{}, {3: 0}, {3: 1, 8: -1}])
def test_reduced_refuses(counts: dict[int, int]) -> None:
    with pytest.raises(RequestError, match="at least one element"):
        reduced(counts)


def test_chemical_system() -> None:
    assert parse_chemical_system("Li-Mn-O") == (frozenset({3, 25, 8}), 0)
    assert parse_chemical_system(" Li - * - O ") == (frozenset({3, 8}), 1)
    assert parse_chemical_system("*-*") == (frozenset(), 2)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "empty"),
        ("-", "empty"),
        ("Li--O", "empty place"),
        ("Li-Li", "more than once"),
        ("Li-mn", "did you mean 'Mn'"),
    ],
)
def test_chemical_system_errors(text: str, hint: str) -> None:
    with pytest.raises(RequestError, match=hint):
        parse_chemical_system(text)


@pytest.mark.parametrize(
    "given_", ["Li,Mn,O", "Li Mn O", "Li-Mn-O", "Li, Mn;O,", ["Li", "Mn", "O"], [3, 25, "O"], np.array([3, 25, 8])]
)
def test_elements(given_: str | list[str | int]) -> None:
    assert parse_elements(given_) == {3, 25, 8}


@pytest.mark.parametrize("given_", ["", ",", [], [0], [119], ["Xy"], "Li,Qq", [True]])
def test_elements_errors(given_: str | list[str | int]) -> None:
    with pytest.raises(RequestError):
        parse_elements(given_)


@settings(max_examples=300)
@given(st.text(max_size=40) | st.text(alphabet="LiMnO()[]0123456789*-., ", max_size=40))
def test_any_text_parses_or_is_a_request_error(text: str) -> None:
    for parse in (parse_formula, parse_chemical_system, parse_elements):
        try:
            parse(text)
        except RequestError as error:
            assert str(error)
