from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import ATOMIC_NUMBERS, SYMBOLS
from euhedral.crystal.formula import parse_formula
from euhedral.errors import ConfigError
from euhedral.evaluate import validity
from euhedral.evaluate.validity import (
    CompositionRule,
    assess,
    composition_counts,
    composition_validity,
    construction_problems,
    content_validity,
    describe_rule,
    structural_validity,
    structure_problems,
    summarize_validity,
)

CUBE = 5.0 * torch.eye(3, dtype=torch.float64)


def crystal(
    frac: list[list[float]], species: list[int], cell: torch.Tensor = CUBE
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return cell, torch.tensor(frac, dtype=torch.float64).reshape(-1, 3), torch.tensor(species)


def of_formula(formula: str) -> CrystalBatch:
    species = [z for z, n in parse_formula(formula).items() for _ in range(n)]
    frac = [[i / len(species), 0.0, 0.0] for i in range(len(species))]
    return CrystalBatch.from_crystals([crystal(frac, species)])


def verdict(formula: str, rule: validity.CompositionRule = "cdvae") -> bool:
    return composition_validity(of_formula(formula), rule)[0].valid


def broken_batch() -> CrystalBatch:
    """Good, NaN cell, zero volume, NaN coordinate, unknown element, coincident atoms, infinite cell."""
    apart = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    flat = CUBE.clone()
    flat[2] = flat[1]
    batch = CrystalBatch.from_crystals(
        [
            crystal(apart, [11, 17]),
            crystal(apart, [11, 17], CUBE * math.nan),
            crystal(apart, [11, 17], flat),
            crystal(apart, [11, 17]),
            crystal(apart, [11, 0]),
            crystal([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [11, 17]),
            crystal(apart, [11, 17], CUBE * math.inf),
        ]
    )
    frac = batch.frac.clone()
    frac[7, 1] = math.nan
    return CrystalBatch(frac=frac, cell=batch.cell, species=batch.species, num_atoms=batch.num_atoms)


def test_each_broken_crystal_has_its_reason() -> None:
    problems = structure_problems(broken_batch())
    assert problems[0] is None
    for problem, words in zip(
        problems[1:],
        ("cell is not finite", "volume", "coordinate", "unknown element", "0.5 Å apart", "cell is not finite"),
        strict=True,
    ):
        assert problem is not None and words in problem
    assert structural_validity(broken_batch()).tolist() == [True] + [False] * 6


def test_the_order_of_a_batch_does_not_change_its_verdicts() -> None:
    order = [5, 0, 3, 1, 6, 2, 4]
    assert structure_problems(broken_batch()[order]) == [structure_problems(broken_batch())[i] for i in order]


@pytest.mark.parametrize(("distance", "valid"), [(0.499, False), (0.501, True)])
@pytest.mark.parametrize("across", [False, True])
def test_the_smallest_distance_decides_also_across_the_boundary(distance: float, valid: bool, across: bool) -> None:
    x = distance / 5
    frac = [[0.0, 0.0, 0.0], [1 - x if across else x, 0.0, 0.0]]
    assert structural_validity(CrystalBatch.from_crystals([crystal(frac, [3, 3])])).item() is valid


def test_an_atom_too_close_to_its_own_image_is_invalid() -> None:
    thin = torch.diag(torch.tensor([0.4, 6.0, 6.0], dtype=torch.float64))
    assert structural_validity(CrystalBatch.from_crystals([crystal([[0.0, 0.0, 0.0]], [3], thin)])).item() is False


@pytest.mark.parametrize(("volume", "valid"), [(0.09, False), (0.3, True)])
def test_the_volume_decides(volume: float, valid: bool) -> None:
    cell = volume ** (1 / 3) * torch.eye(3, dtype=torch.float64)
    problem = construction_problems(CrystalBatch.from_crystals([crystal([[0.0, 0.0, 0.0]], [3], cell)]))[0]
    assert (problem is None) is valid


def test_an_empty_crystal_and_an_empty_batch() -> None:
    batch = CrystalBatch(
        frac=torch.zeros(0, 3), cell=CUBE[None], species=torch.zeros(0, dtype=torch.int64), num_atoms=torch.tensor([0])
    )
    assert assess(batch)[0].problem == "no atoms; no atoms"
    assert assess(CrystalBatch.empty()) == []
    summary = summarize_validity([])
    assert summary.crystals == 0 and math.isnan(summary.both)


# By hand from the smact14 table: which of these are neutral with anions more electronegative than cations.
@pytest.mark.parametrize(
    ("formula", "valid"),
    [
        ("NaCl", True),
        ("Na2Cl", False),
        ("Na3Cl", False),
        ("CaTiO3", True),
        ("Fe2O3", True),
        ("Fe3O4", False),  # needs two valences of iron
        ("MgB2", False),  # the table has no anion of boron
        ("FeAl", True),  # alloy of metals
        ("Ne", True),  # single element
        ("NeO", False),  # neon has no oxidation states
        ("PmCl3", True),  # no electronegativity of promethium: opposite signs pass
        ("PmN5", False),
        ("HeRf", False),  # rutherfordium is outside smact's tables
        ("ZrAl3H12", True),
        ("ZrAl3H14", False),
    ],
)
def test_composition_by_the_published_rule(formula: str, valid: bool) -> None:
    assert verdict(formula) is valid


def test_the_misprint_and_the_missing_state_of_the_published_version_are_kept() -> None:
    table = validity._smact14()
    assert table[ATOMIC_NUMBERS["Ir"]][0][0] == -2
    assert table[ATOMIC_NUMBERS["Zr"]][1] == 0.33
    assert table[ATOMIC_NUMBERS["O"]] == ((-2, -1, 1, 2), 3.44)


def test_the_two_rules_differ_where_their_tables_do() -> None:
    assert verdict("NaCl", "smact") and not verdict("Na2Cl", "smact")
    assert not verdict("MgB2") and verdict("MgB2", "smact")  # icsd24 has anions of boron
    assert "smact14" in describe_rule("cdvae") and "icsd24" in describe_rule("smact")


def _random_formula(rng: random.Random) -> dict[str, int]:
    symbols = rng.sample(SYMBOLS[1:104], rng.choice((1, 2, 2, 3, 3, 4)))
    return {symbol: rng.randint(1, 6) for symbol in symbols}


def test_the_current_rule_is_that_of_smact() -> None:
    from pymatgen.core import Composition
    from smact.screening import smact_validity

    rng = random.Random(7)
    # Oxides and halides beside what is drawn, so that about as many are accepted as are not.
    formulas = [_random_formula(rng) for _ in range(400)]
    formulas += [{**_random_formula(rng), rng.choice(("O", "F", "Cl", "S")): rng.randint(1, 8)} for _ in range(400)]
    formulas += [
        {"Pm": 1, "Cl": 3},
        {"Rn": 1, "F": 2},
        {"Lr": 1, "O": 1},
        {"Pm": 1, "Fe": 1},
        {"He": 1},
        {"B": 2, "Mg": 1},
    ]
    counts: set[bool] = set()
    for formula in formulas:
        content = [ATOMIC_NUMBERS[symbol] for symbol, number in formula.items() for _ in range(number)]
        found = content_validity(content, "smact").valid
        assert found == smact_validity(Composition(formula)), formula
        counts.add(found)
    assert counts == {True, False}


@pytest.mark.parametrize("rule", ["cdvae", "smact"])
def test_the_rules_are_fast_for_twenty_elements(rule: CompositionRule) -> None:
    # An enumeration would need some 10^14 combinations here.
    assert verdict("LiTiVCrMnFeCoNiMoRuRhReOsIrPtAuCSNO", rule) in (True, False)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no composition rule 'pauling'"):
        composition_validity(CrystalBatch.empty(), "pauling")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="use 'cdvae'"):
        describe_rule("icsd")  # pyright: ignore[reportArgumentType]


def test_composition_counts_are_reduced_and_ordered() -> None:
    assert composition_counts(of_formula("O4Mn2Li2")) == [((3, 1), (8, 2), (25, 1))]
    assert composition_counts(CrystalBatch.concat([of_formula("O2"), of_formula("Li4")])) == [((8, 1),), ((3, 1),)]


def test_the_multiple_of_a_formula_has_the_same_verdict() -> None:
    assert verdict("Ca3Ti3O9") and verdict("Ca6Ti6O18")
    assert not verdict("Na4Cl2")


def _search(states: list[tuple[int, ...]], values: list[float | None], counts: list[int]) -> bool:
    """The rule by exhaustive search, as smact 2.2 states it: pairs in order, a missing value ends the test."""
    for combination in itertools.product(*states):
        if sum(s * n for s, n in zip(combination, counts, strict=True)):
            continue
        for (s, a), (t, b) in itertools.combinations(zip(combination, values, strict=True), 2):
            if s * t < 0 and (a is None or b is None):
                return True
            if a is None or b is None:
                break
            if (s > 0 > t and a >= b) or (s < 0 < t and a <= b):
                break
        else:
            return True
    return False


_STATES = st.lists(st.sampled_from([-3, -2, -1, 1, 2, 3, 4]), min_size=0, max_size=3, unique=True).map(tuple)
_ELEMENTS = st.lists(
    st.tuples(_STATES, st.one_of(st.none(), st.sampled_from([0.8, 1.3, 1.9, 2.2, 3.4])), st.integers(1, 4)),
    min_size=2,
    max_size=5,
)


@settings(max_examples=400, deadline=None)
@given(_ELEMENTS)
def test_thresholds_give_what_the_exhaustive_search_gives(elements: list[tuple]) -> None:
    states, values, counts = (list(column) for column in zip(*elements, strict=True))
    fast = any(validity._reaches_zero(a, counts) for a in validity._pauling_choices(states, values))
    assert fast == _search(states, values, counts)


def test_summary_counts_every_crystal() -> None:
    records = assess(CrystalBatch.concat([broken_batch(), of_formula("Na2Cl").to(torch.float64)]))
    summary = summarize_validity(records)
    assert summary.crystals == 8
    assert summary.structure == pytest.approx(2 / 8)
    assert summary.composition == pytest.approx(6 / 8)
    assert summary.both == pytest.approx(1 / 8)
    assert sum(summary.problems.values()) == 6 + 2
    assert [r.valid for r in records] == [True] + [False] * 7
