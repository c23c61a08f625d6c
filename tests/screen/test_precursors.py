"""Precursor reactions: balances and energies by hand, pymatgen as oracle, ranking and refusals."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euhedral.crystal.elements import SYMBOLS
from euhedral.crystal.formula import parse_formula
from euhedral.errors import ConfigError, DataError, MismatchError
from euhedral.screen.hull import Hull
from euhedral.screen.method import EnergyMethod
from euhedral.screen.precursors import PrecursorConfig, Route, find_routes
from euhedral.screen.reactions import KJ_PER_MOL, Reaction, Substance, balance, make_reaction
from euhedral.screen.reference import default_reference, make_reference, reduced_composition

METHOD = EnergyMethod(model="toy", functional="none", corrections="none")
OXIDES = {
    "Ba": 0.0,
    "Ti": 0.0,
    "O2": 0.0,
    "C": 0.0,
    "BaO": -2.8,
    "TiO2": -3.2,
    "CO2": -1.4,
    "BaCO3": -2.7,
    "Ba2TiO4": -3.3,
}
"""eV/atom; all on the hull."""
MANY = PrecursorConfig(kept=1000)


def _hull(entries: dict[str, float]) -> Hull:
    formulas = [parse_formula(formula) for formula in entries]
    return Hull(make_reference(formulas, list(entries.values()), list(entries), method=METHOD))


def _routes(target: str, energy: float, hull: Hull, config: PrecursorConfig = MANY) -> dict[str, Route]:
    found = find_routes(parse_formula(target), energy, hull, method=METHOD, config=config)
    return {str(route.reaction): route for route in found}


def _imbalance(reaction: Reaction) -> dict[int, int]:
    left: dict[int, int] = {}
    for sign, side in ((1, reaction.reactants), (-1, reaction.products)):
        for count, substance in side:
            for z, amount in substance.amounts.items():
                left[z] = left.get(z, 0) + sign * count * amount
    return {z: amount for z, amount in left.items() if amount}


def test_routes_and_energies_by_hand():
    # BaTiO3 at -3.4: BaO + TiO2 lose 5 * -3.4 - (2 * -2.8 + 3 * -3.2) = -1.8 eV of 5 atoms.
    routes = _routes("BaTiO3", -3.4, _hull(OXIDES))
    plain = routes["TiO2 + BaO -> BaTiO3"]
    assert plain.reaction.energy == pytest.approx(-1.8 / 5)
    assert plain.reaction.kj_per_mol == pytest.approx(-1.8 * KJ_PER_MOL)
    # The same two give Ba2TiO4: 7 * -3.3 - (2 * 2 * -2.8 + 3 * -3.2) = -2.3 eV of 7 atoms.
    (rival,) = plain.competing
    assert rival.formula == "Ba2TiO4" and rival.driving_force == pytest.approx(2.3 / 7)
    assert plain.margin == pytest.approx(1.8 / 5 - 2.3 / 7)
    # BaCO3 + TiO2: 5 * -3.4 + 3 * -1.4 - (5 * -2.7 + 3 * -3.2) = 1.9 eV of 8 atoms; Ba2TiO4 would need energy, too.
    roasted = routes["TiO2 + BaCO3 -> BaTiO3 + CO2"]
    assert roasted.reaction.energy == pytest.approx(1.9 / 8) and roasted.competing == ()
    # No metals, of which there are oxides.
    assert set(routes) == {str(plain.reaction), str(roasted.reaction)}


def test_metals_are_burnt_where_nothing_else_releases_energy():
    # At -3.0 eV/atom the target lies above BaO + TiO2, 5 * -3.0 + 15.2 = 0.2 eV, and below Ti + BaO + O2, 5 * -3.0 + 5.6.
    routes = _routes("BaTiO3", -3.0, _hull(OXIDES))
    assert routes["TiO2 + BaO -> BaTiO3"].driving_force == pytest.approx(-0.2 / 5)
    burnt = routes["Ti + BaO + O2 -> BaTiO3"]
    assert burnt.driving_force == pytest.approx(9.4 / 5)
    # Titanium burns alone with 3.2 eV/atom; 2 BaO + Ti + O2 give 7 * -3.3 + 2 * 5.6 = -11.9 eV of 7 atoms.
    assert [(rival.formula, pytest.approx(rival.driving_force)) for rival in burnt.competing] == [
        ("TiO2", 3.2),
        ("Ba2TiO4", 11.9 / 7),
    ]


def test_the_order_is_the_stated_formula():
    target = parse_formula("BaTiO3")
    for energy in (-3.4, -3.0):
        found = find_routes(target, energy, _hull(OXIDES), method=METHOD, config=MANY)
        keys = [(route.driving_force <= 0, -route.margin) for route in found]
        assert keys == sorted(keys) and len({str(route.reaction) for route in found}) == len(found) >= 2
        (best,) = find_routes(target, energy, _hull(OXIDES), method=METHOD, config=PrecursorConfig(kept=1))
        assert best == found[0]


def test_every_route_is_balanced_minimal_and_of_stable_simple_phases():
    hull = _hull({**OXIDES, "Ti2O3": -2.8, "BaTi": 0.2, "BaTi2": -0.3})
    routes = _routes("BaTiO3", -3.4, hull)
    assert routes
    for route in routes.values():
        assert _imbalance(route.reaction) == {} and route.reaction.products[0][1].formula == "BaTiO3"
        used = {substance.formula for _, substance in route.reaction.reactants}
        assert used <= {"O2", "BaO", "TiO2", "BaCO3", "CO2"}  # not Ti2O3 above the hull, nor the alloys
        assert len(used - {"O2", "CO2"}) <= 3
        counts = [n for n, _ in (*route.reaction.reactants, *route.reaction.products)]
        assert all(n >= 1 for n in counts)


def test_an_alloy_of_four_elements_takes_four_precursors_and_nothing_balances_to_an_element():
    hull = _hull({"Fe": 0.0, "Co": 0.0, "Ni": 0.0, "Al": 0.0, "Al2Fe": -0.2})
    routes = _routes("FeCoNiAl", -0.5, hull)
    assert list(routes) == ["Al + Fe + Co + Ni -> AlFeCoNi"]
    (route,) = routes.values()
    assert route.driving_force == pytest.approx(0.5)
    assert route.competing_driving_force == pytest.approx(0.2) and route.competing[0].formula == "Al2Fe"
    assert _routes("Fe", 0.1, hull) == {}


def test_carbonates_and_hydroxides_need_their_gases():
    hull = _hull({**OXIDES, "H2": 0.0, "H2O": -1.0, "Ba(OH)2": -2.0})
    routes = _routes("BaTiO3", -3.4, hull)
    assert "TiO2 + Ba(HO)2 -> BaTiO3 + H2O" in routes and "TiO2 + BaCO3 -> BaTiO3 + CO2" in routes
    dry = _routes("BaTiO3", -3.4, hull, PrecursorConfig(kept=1000, gases=("O2",)))
    assert dry and not any("H" in text or "C" in text for text in dry)
    closed = _routes("BaTiO3", -3.4, hull, PrecursorConfig(kept=1000, gases=()))
    assert "TiO2 + BaO -> BaTiO3" in closed and not any("O2 +" in t.replace("TiO2", "") for t in closed)


HALIDES = {
    "Cs": 0.0,
    "Pb": 0.0,
    "I": 0.0,
    "Cl2": 0.0,
    "CsI": -1.7,
    "PbI2": -0.7,
    "CsCl": -2.2,
    "PbCl2": -1.3,
    "ICl": -0.1,
}


def test_a_halide_is_made_of_halides_and_of_elements_only_where_no_halides_balance():
    hull = _hull(HALIDES)
    # CsPbI3 at -1.2: CsI + PbI2 lose 5 * -1.2 - (2 * -1.7 + 3 * -0.7) = -0.5 eV of 5 atoms.
    routes = _routes("CsPbI3", -1.2, hull)
    assert list(routes) == ["CsI + PbI2 -> CsPbI3"]
    assert routes["CsI + PbI2 -> CsPbI3"].reaction.energy == pytest.approx(-0.1)
    # A form that is less stable than the halides is not made of the elements for that.
    unstable = _routes("CsPbI3", -1.0, hull)
    assert list(unstable) == ["CsI + PbI2 -> CsPbI3"] and unstable["CsI + PbI2 -> CsPbI3"].driving_force < 0
    # There is no halide of lead(IV): chlorine takes it there, from the halides rather than from the metals.
    assert next(iter(_routes("CsPbCl5", -1.7, hull))) == "CsCl + PbCl2 + Cl2 -> CsPbCl5"


def test_an_interhalogen_is_no_precursor():
    hull = _hull({"Ba": 0.0, "F2": 0.0, "Br": 0.0, "BaF2": -4.0, "BaBr2": -2.5, "BrF3": -0.8})
    assert list(_routes("BaFBr", -3.3, hull)) == ["BaF2 + BaBr2 -> 2 BaBrF"]


def test_a_binary_halide_is_made_of_its_elements_and_the_gas():
    routes = _routes("CsCl", -2.0, _hull({"Cs": 0.0, "Cl2": 0.0}))
    assert list(routes) == ["2 Cs + Cl2 -> 2 CsCl"]
    assert routes["2 Cs + Cl2 -> 2 CsCl"].reaction.energy == pytest.approx(-2.0)
    assert _routes("CsCl", -2.0, _hull({"Cs": 0.0, "Cl2": 0.0}), PrecursorConfig(gases=("O2",))) == {}


def test_nitrogen_is_taken_up_by_nitrides_only():
    hull = _hull({"Ca": 0.0, "N2": 0.0, "Cl2": 0.0, "Ca3N2": -0.9, "CaCl2": -2.7})
    assert set(_routes("Ca3N2", -0.9, hull)) == {"3 Ca + N2 -> Ca3N2"}
    assert set(_routes("Ca2NCl", -2.0, hull)) == {"Ca3N2 + CaCl2 -> 2 Ca2NCl"}
    assert set(_routes("CaCl2", -2.7, hull)) == {"Ca + Cl2 -> CaCl2"}


@given(
    st.lists(st.dictionaries(st.integers(1, 5), st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=4),
    st.data(),
)
def test_balance_finds_the_amounts_that_a_mixture_was_made_with(columns: list[dict[int, int]], data: st.DataObject):
    amounts = [Fraction(data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))) for _ in columns]
    mixture = {
        z: sum((x * c.get(z, 0) for x, c in zip(amounts, columns, strict=True)), Fraction(0)) for z in range(1, 6)
    }
    scale = 12
    target = {z: int(total * scale) for z, total in mixture.items()}
    found = balance(columns, target)
    if found is None:  # only where one column is a mixture of others
        import numpy as np

        matrix = np.array([[column.get(z, 0) for column in columns] for z in range(1, 6)])
        assert np.linalg.matrix_rank(matrix) < len(columns)
    else:
        assert list(found) == [x * scale for x in amounts]


def test_what_does_not_balance_is_told():
    salt, table, water = (Substance(formula=f, energy=0.0) for f in ("NaCl", "KCl", "H2O"))
    assert balance([{11: 1}], {11: 1, 17: 1}) is None
    assert balance([{11: 1, 17: 1}, {11: 2, 17: 2}], {11: 1, 17: 1}) is None
    with pytest.raises(DataError, match="NaCl is not made in one way"):
        make_reaction([table, water], salt)
    with pytest.raises(DataError, match="positive amounts"):
        make_reaction([Substance(formula="NaCl3", energy=0.0), Substance(formula="Cl2", energy=0.0)], salt)


@pytest.mark.parametrize("target", ["LiMnO2", "CsPbBr3", "NaNbO3", "YBa2Cu3O7", "CuInSe2", "CaCO3"])
def test_reactions_of_the_shipped_reference_are_those_of_pymatgen(target: str):
    from pymatgen.analysis.reaction_calculator import ComputedReaction
    from pymatgen.entries.computed_entries import ComputedEntry

    reference = default_reference()
    hull = Hull(reference)
    energy = float(reference.energies[reference.compositions.index(reduced_composition(parse_formula(target)))])
    routes = find_routes(parse_formula(target), energy, hull, method=reference.method)
    assert routes
    for route in routes:
        assert _imbalance(route.reaction) == {}
        left, right = (
            [ComputedEntry(s.formula, s.energy * s.atoms) for _, s in side]
            for side in (route.reaction.reactants, route.reaction.products)
        )
        oracle = ComputedReaction(left, right)
        oracle.normalize_to(right[0].composition, route.reaction.products[0][0])
        assert oracle.calculated_reaction_energy == pytest.approx(route.reaction.total_energy, abs=1e-6)
        for count, substance in route.reaction.reactants:
            assert oracle.get_coeff(ComputedEntry(substance.formula, 0).composition) == pytest.approx(-count)


def test_a_closed_reaction_releases_what_its_reactants_are_above_the_hull():
    reference = default_reference()
    hull = Hull(reference)
    routes = find_routes(parse_formula("LiMnO2"), -7.4, hull, method=reference.method, config=MANY)
    sealed = [route for route in routes if len(route.reaction.products) == 1]
    assert sealed
    for route in sealed:
        reactants = sum(n * s.atoms * s.energy for n, s in route.reaction.reactants) / route.reaction.atoms
        above = hull.above_hull([parse_formula("LiMnO2")], [reactants], method=reference.method).e_above_hull[0]
        target = hull.above_hull([parse_formula("LiMnO2")], [-7.4], method=reference.method).e_above_hull[0]
        # Reactants lie as far above the hull as the reaction releases, with what the target is above it itself.
        assert route.driving_force == pytest.approx(above - target, abs=1e-6)


def test_what_cannot_be_asked_is_refused():
    hull = _hull(OXIDES)
    with pytest.raises(DataError, match="no entry for the pure element Sr"):
        _routes("SrTiO3", -3.0, hull)
    with pytest.raises(DataError, match="expected a number"):
        _routes("BaTiO3", float("nan"), hull)
    with pytest.raises(MismatchError):
        find_routes(
            parse_formula("BaTiO3"), -3.0, hull, method=EnergyMethod(model="a", functional="b", corrections="c")
        )
    wrong: dict[str, Any]
    for wrong in ({"most_precursors": 0}, {"most_precursors": 5}, {"kept": 0}, {"gases": ("air",)}):
        with pytest.raises(ConfigError):
            PrecursorConfig(**wrong)


def test_stable_entries_are_those_on_the_hull():
    hull = _hull({**OXIDES, "Ti2O3": -2.8, "BaTi": 0.2})
    names = {hull.reference.formula(entry) for entry in hull.stable([56, 22, 8])}
    assert names == {"Ba", "Ti", "O2", "BaO", "TiO2", "Ba2TiO4"}
    assert hull.stable([SYMBOLS.index("Sr")]) == []
