"""Energies above the hull: pymatgen's phase diagram as oracle, analytic hulls, records of what has none."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import ATOMIC_NUMBERS, SYMBOLS
from euhedral.crystal.formula import parse_formula
from euhedral.errors import ConfigError, MismatchError
from euhedral.screen.hull import Hull, HullEnergies
from euhedral.screen.lower_hull import PIVOTS_BEFORE_BLAND
from euhedral.screen.method import EnergyMethod
from euhedral.screen.reference import default_reference, make_reference, reduced_composition

METHOD = EnergyMethod(model="DFT", functional="PBE", corrections="none")
OTHER = EnergyMethod(model="CHGNet", functional="PBE", corrections="none")


def hull_of(entries: dict[str, float]) -> Hull:
    compositions = [parse_formula(formula) for formula in entries]
    return Hull(make_reference(compositions, list(entries.values()), list(entries), method=METHOD))


def judged(hull: Hull, candidates: dict[str, float]) -> HullEnergies:
    return hull.above_hull([parse_formula(formula) for formula in candidates], list(candidates.values()), method=METHOD)


def phase_diagram_energies(
    compositions: list[dict[int, int]], energies: list[float], asked: list, values: list
) -> list:
    """(energy above the hull, decomposition as {entry: share}) by pymatgen, each for the hull without the asked."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    def entry(amounts: dict[int, int], energy: float, name: str) -> PDEntry:
        return PDEntry({SYMBOLS[z]: n for z, n in amounts.items()}, energy * sum(amounts.values()), attribute=name)

    known = [entry(c, e, str(i)) for i, (c, e) in enumerate(zip(compositions, energies, strict=True))]
    diagram = PhaseDiagram(known)
    found = []
    for amounts, value in zip(asked, values, strict=True):
        candidate = entry(amounts, value, "asked")
        _, above = diagram.get_decomp_and_e_above_hull(candidate, allow_negative=True)
        products = diagram.get_decomposition(candidate.composition)
        found.append((above, {product.attribute: share for product, share in products.items()}))
    return found


def test_binary_by_hand() -> None:
    hull = hull_of({"Na": -1.0, "Cl2": -2.0, "NaCl": -3.5})
    found = judged(hull, {"NaCl": -3.5, "Na2Cl2": -3.0, "Na3Cl": -2.0, "NaCl3": -3.0, "Na": -0.5, "Na4Cl4": -4.0})
    # Na3Cl lies half-way between Na and NaCl: -2.25 eV/atom; NaCl3 between NaCl and Cl: -2.75.
    assert found.e_above_hull == pytest.approx([0.0, 0.5, 0.25, -0.25, 0.5, -0.5])
    assert found.formation_energies == pytest.approx([-2.0, -1.5, -0.75, -1.25, 0.5, -2.5])
    assert [(p.id, p.formula, p.share) for p in found.products[2]] == [("Na", "Na", 0.5), ("NaCl", "NaCl", 0.5)]
    assert [(p.formula, p.share) for p in found.products[0]] == [("NaCl", 1.0)]
    assert found.reasons == (None,) * 6 and not found.failures and found.mixed == ()


def test_members_of_the_hull_are_at_zero_and_nothing_in_the_reference_below() -> None:
    rng = np.random.default_rng(3)
    compositions = [{3: 1}, {25: 1}, {8: 1}] + [
        {3: int(a), 25: int(b), 8: int(c)} for a, b, c in rng.integers(1, 6, (60, 3))
    ]
    unique = list({reduced_composition(c): c for c in compositions}.values())
    energies = [-1.0, -2.0, -3.0, *rng.normal(-3, 0.5, len(unique) - 3)]
    reference = make_reference(unique, energies, [str(i) for i in range(len(unique))], method=METHOD)
    found = Hull(reference).above_hull(reference.compositions, reference.energies, method=METHOD)
    assert found.e_above_hull.min() > -1e-9
    members = [
        i for i, products in enumerate(found.products) if len(products) == 1 and products[0].id == reference.ids[i]
    ]
    assert len(members) > 4 and np.abs(found.e_above_hull[members]).max() < 1e-9
    assert all(found.e_above_hull[i] > 0 for i in range(len(reference)) if i not in members)


@settings(max_examples=25)
@given(data=st.data())
def test_equals_pymatgen(data: st.DataObject) -> None:
    """Systems of 1 to 6 elements; few distinct energies and small counts make ties and degenerate facets common."""
    elements = data.draw(st.lists(st.sampled_from([1, 3, 8, 14, 26, 47, 57, 82]), min_size=1, max_size=6, unique=True))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    levels = data.draw(st.sampled_from([3, 1000]))

    def some(number: int) -> tuple[list[dict[int, int]], list[float]]:
        chosen = [rng.choice(elements, rng.integers(1, len(elements) + 1), replace=False) for _ in range(number)]
        counts = [{int(z): int(rng.integers(1, 4)) for z in sorted(picked)} for picked in chosen]
        return counts, (-rng.integers(0, levels, number) / levels).tolist()

    compositions, energies = some(25)
    compositions += [{z: 2} for z in elements]
    energies += rng.normal(0, 0.2, len(elements)).tolist()
    asked, values = some(10)
    asked, values = asked + compositions, values + energies
    names = [str(i) for i in range(len(compositions))]
    found = Hull(make_reference(compositions, energies, names, method=METHOD)).above_hull(asked, values, method=METHOD)
    expected = phase_diagram_energies(compositions, energies, asked, values)
    assert found.e_above_hull == pytest.approx([above for above, _ in expected], abs=1e-6)
    for amounts, products, (_, theirs) in zip(asked, found.products, expected, strict=True):
        # Where several mixtures are equally low the products may differ, but never their energy or their atoms.
        energy = {name: e for name, e in zip(names, energies, strict=True)}
        assert sum(p.share * energy[p.id] for p in products) == pytest.approx(
            sum(share * energy[name] for name, share in theirs.items()), abs=1e-6
        )
        total = sum(amounts.values())
        for z in elements:
            have = sum(p.share * _fraction(compositions[int(p.id)], z) for p in products)
            assert have == pytest.approx(amounts.get(z, 0) / total, abs=1e-7)


def _fraction(amounts: dict[int, int], z: int) -> float:
    return amounts.get(z, 0) / sum(amounts.values())


def test_products_and_amounts_equal_pymatgen_where_the_mixture_is_unique() -> None:
    entries = {
        "Li": -1.9,
        "Fe": -8.3,
        "O2": -4.9,
        "P": -5.4,
        "Li2O": -4.77,
        "Fe2O3": -6.76,
        "P2O5": -7.0,
        "Li3PO4": -6.3,
    }
    compositions = [parse_formula(formula) for formula in entries]
    asked = parse_formula("LiFePO4")
    ((above, theirs),) = phase_diagram_energies(compositions, list(entries.values()), [asked], [-6.8])
    found = judged(hull_of(entries), {"LiFePO4": -6.8})
    assert found.e_above_hull[0] == pytest.approx(above, abs=1e-9)
    ids = list(entries)
    assert {p.id: p.share for p in found.products[0]} == pytest.approx(
        {ids[int(i)]: share for i, share in theirs.items()}
    )
    shares = [p.share for p in found.products[0]]
    assert shares == sorted(shares, reverse=True) and len(shares) > 2


def test_facets_are_found_again_and_answer_as_new_hulls_do() -> None:
    rng = np.random.default_rng(0)
    entries = {f"Al{a}Ni{b}Ti{c}": -float(rng.random()) for a, b, c in rng.integers(1, 5, (30, 3))}
    entries |= {"Al": 0.0, "Ni": 0.0, "Ti": 0.0}
    asked = [{13: int(a), 28: int(b), 22: int(c)} for a, b, c in rng.integers(1, 30, (200, 3))]
    kept = hull_of(entries)
    together = kept.above_hull(asked, np.zeros(200), method=METHOD).e_above_hull
    apart = [hull_of(entries).above_hull([one], [0.0], method=METHOD).e_above_hull[0] for one in asked[:40]]
    assert together[:40] == pytest.approx(apart, abs=1e-12)
    assert kept.above_hull(asked, np.zeros(200), method=METHOD).e_above_hull == pytest.approx(together, abs=1e-12)


def test_many_elements() -> None:
    """Nine elements, beyond those whose subsystems are enumerated, with one compound that takes all of them."""
    symbols = ["Li", "Na", "K", "Rb", "Cs", "Be", "Mg", "Ca", "Sr"]
    entries = {symbol: -1.0 for symbol in symbols} | {"".join(symbols): -2.0, "LiNa": -1.1, "OH": -9.0, "O2": -1.0}
    found = judged(hull_of(entries), {"Li2" + "".join(symbols[1:]): -1.0})
    assert found.e_above_hull == pytest.approx([0.9])
    assert {p.id: p.share for p in found.products[0]} == pytest.approx({"".join(symbols): 0.9, "Li": 0.1})


@pytest.mark.parametrize("pivots_before_bland", [0, PIVOTS_BEFORE_BLAND])
def test_degenerate_programs_end(monkeypatch: pytest.MonkeyPatch, pivots_before_bland: int) -> None:
    """Hundreds of entries on one plane, all equally low, by Bland's rule and by steepest steps."""
    monkeypatch.setattr("euhedral.screen.lower_hull.PIVOTS_BEFORE_BLAND", pivots_before_bland)
    rng = np.random.default_rng(1)
    slope = {3: -1.0, 8: -2.0, 15: -3.0, 26: -4.0, 27: -5.0}
    mixed = [dict(zip(slope, row.tolist(), strict=True)) for row in rng.integers(1, 40, (300, 5))]
    unique = list({reduced_composition(c): c for c in mixed}.values())
    energies = [sum(slope[z] * n for z, n in c.items()) / sum(c.values()) - 1.0 for c in unique]
    reference = make_reference(
        [{z: 1} for z in slope] + unique,
        [*slope.values(), *energies],
        [str(i) for i in range(len(unique) + 5)],
        method=METHOD,
    )
    found = Hull(reference).above_hull(unique, energies, method=METHOD)
    assert np.abs(found.e_above_hull).max() < 1e-9


def test_what_has_no_energy_above_the_hull_says_why() -> None:
    hull = hull_of({"Na": -1.0, "Cl2": -2.0, "NaCl": -3.5, "KCl": -3.3, "CsO": -2.0})
    compositions = [parse_formula(formula) for formula in ("NaCl", "KCl", "CsO", "NaCl")]
    found = hull.above_hull([*compositions, {}, {0: 1}, {11: 1}], [math.nan, -3, -2, math.inf, 0, 0, -1], method=METHOD)
    assert np.isnan(found.e_above_hull[:6]).all() and found.e_above_hull[6] == 0
    assert np.isnan(found.formation_energies[:6]).all() and not any(found.products[:6])
    assert found.reasons[0] == found.reasons[3] == "no finite energy"
    assert found.reasons[1] == "the hull's reference has no entry for the pure element K"
    assert found.reasons[2] == "the hull's reference has no entry for the pure elements O, Cs"
    assert "at least one element" in str(found.reasons[4]) and "no element 0" in str(found.reasons[5])
    assert found.reasons[6] is None and sum(found.failures.values()) == 6
    assert hull.reference.elements_without_entry == {ATOMIC_NUMBERS[s] for s in ("K", "Cs", "O")}


def test_crystals_and_no_crystals() -> None:
    hull = hull_of({"Na": -1.0, "Cl2": -2.0, "NaCl": -3.5})
    batch = CrystalBatch(
        frac=torch.zeros(3, 3),
        cell=torch.eye(3).repeat(2, 1, 1),
        species=torch.tensor([11, 17, 11]),
        num_atoms=torch.tensor([2, 1]),
    )
    assert hull.above_hull_of_crystals(batch, [-3.0, -1.0], method=METHOD).e_above_hull == pytest.approx([0.5, 0.0])
    assert len(hull.above_hull_of_crystals(CrystalBatch.empty(), [], method=METHOD).reasons) == 0


def test_energies_of_another_method_are_refused() -> None:
    hull = hull_of({"Na": -1.0})
    with pytest.raises(MismatchError, match="model 'CHGNet' against 'DFT'"):
        hull.above_hull([{11: 1}], [-1.0], method=OTHER)
    allowed = hull.above_hull([{11: 1}], [-1.0], method=OTHER, allow_other_model=True)
    assert allowed.mixed == ("model: CHGNet on a hull of DFT",)
    with pytest.raises(ConfigError, match="one energy a composition"):
        hull.above_hull([{11: 1}], [-1.0, 2.0], method=METHOD)


def test_a_hull_travels_to_another_process() -> None:
    hull = hull_of({"Na": -1.0, "Cl2": -2.0, "NaCl": -3.5})
    judged(hull, {"NaCl": -3.0})
    assert judged(pickle.loads(pickle.dumps(hull)), {"NaCl": -3.0}).e_above_hull == pytest.approx([0.5])


def test_shipped_hull_equals_pymatgen_on_real_systems() -> None:
    reference = default_reference()
    hull = Hull(reference)
    for system in ("Li", "Na-Cl", "Li-Fe-O", "Ca-Ti-O", "Li-Fe-P-O", "Ba-Y-Cu-O", "K-Na-Al-Si-O"):
        elements = {ATOMIC_NUMBERS[symbol] for symbol in system.split("-")}
        inside = [i for i, c in enumerate(reference.compositions) if {z for z, _ in c} <= elements]
        compositions = [dict(reference.compositions[i]) for i in inside]
        energies = reference.energies[inside].tolist()
        asked = [*compositions, dict.fromkeys(elements, 1), {z: 1 + i for i, z in enumerate(sorted(elements))}]
        values = [*energies, -5.0, -7.0]
        expected = [above for above, _ in phase_diagram_energies(compositions, energies, asked, values)]
        found = hull.above_hull(asked, values, method=reference.method)
        assert found.e_above_hull == pytest.approx(expected, abs=1e-6), system
