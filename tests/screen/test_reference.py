"""References: entries checked and thinned, round trip of their file, and the one that the package carries."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from euhedral.crystal.elements import ATOMIC_NUMBERS
from euhedral.errors import DataError, OutputError
from euhedral.evaluate.embedding import KNOWN_ELEMENTS
from euhedral.screen.hull import Hull
from euhedral.screen.method import MP2020, PBE_U, EnergyMethod
from euhedral.screen.reference import (
    DEFAULT_FILE,
    HullReference,
    default_reference,
    load_reference,
    make_reference,
    reduced_composition,
    save_reference,
)

METHOD = EnergyMethod(model="CHGNet", functional=PBE_U, corrections=MP2020, version="0.4.2", weights="abcd")
SODIUM_CHLORIDE = ((11, 1), (17, 1))


def small() -> HullReference:
    return make_reference(
        [{11: 1}, {17: 2}, {11: 2, 17: 2}, {11: 1, 17: 1}, {17: 1}],
        [-1.25, -1.75, -3.375, -3.5, -1.75],
        ["Na", "Cl-a", "salt-a", "salt-b", "Cl-b"],
        method=METHOD,
        provenance={"note": "made up"},
    )


def test_the_lowest_of_each_formula_is_kept_and_of_equal_ones_the_first() -> None:
    reference = small()
    assert reference.compositions == (((11, 1),), ((17, 1),), SODIUM_CHLORIDE)
    assert reference.ids == ("Na", "Cl-a", "salt-b")
    assert reference.energies.tolist() == [-1.25, -1.75, -3.5]
    assert [reference.formula(i) for i in range(3)] == ["Na", "Cl2", "NaCl"]
    assert reference.elements == {11, 17} and reference.elements_without_entry == frozenset()


@given(
    counts=st.dictionaries(st.integers(1, 118), st.integers(1, 40), min_size=1, max_size=6), factor=st.integers(1, 7)
)
def test_reduction_knows_neither_multiples_nor_units(counts: dict[int, int], factor: int) -> None:
    reduced = reduced_composition(counts)
    assert math.gcd(*(n for _, n in reduced)) == 1 and [z for z, _ in reduced] == sorted(counts)
    assert reduced_composition({z: n * factor for z, n in counts.items()}) == reduced
    assert reduced_composition({z: n / 8 for z, n in counts.items()}) == reduced
    assert reduced_composition(reduced) == reduced


def test_fractions_are_read_as_ratios() -> None:
    assert reduced_composition({26: 2 / 3, 8: 1.0}) == ((8, 3), (26, 2))
    assert reduced_composition({26: 0.6666667, 8: 1.0}) == ((8, 3), (26, 2))
    with pytest.raises(DataError, match="not a ratio"):
        reduced_composition({26: math.sqrt(3) / 2, 8: 1.0})


@pytest.mark.parametrize(
    ("amounts", "words"),
    [({}, "at least one element"), ({0: 1}, "no element 0"), ({119: 1}, "no element 119"), ({8: 0}, "amount of O is 0"),
     ({8: -1}, "amount of O is -1"), ({8: math.nan}, "amount of O is nan"), ({8: math.inf}, "amount of O is inf"),
     ({8: 1, 26: 10**9}, "more than 100000 atoms")],
)  # fmt: skip
def test_no_composition(amounts: dict[int, float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        reduced_composition(amounts)
    with pytest.raises(DataError, match=f"'bad'.*{words}"):
        make_reference([amounts], [-1.0], ["bad"], method=METHOD)


def test_bad_entries_are_named() -> None:
    with pytest.raises(DataError, match="no entries"):
        make_reference([], [], [], method=METHOD)
    with pytest.raises(DataError, match="'b': the energy is nan"):
        make_reference([{8: 1}, {8: 1}], [-1.0, math.nan], ["a", "b"], method=METHOD)
    with pytest.raises(DataError, match="more than one entry called 'a'"):
        make_reference([{8: 1}, {9: 1}], [-1.0, -1.0], ["a", "a"], method=METHOD)
    with pytest.raises(DataError, match="do not fit together"):
        make_reference([{8: 1}, {9: 1}], [-1.0], ["a", "b"], method=METHOD)


def test_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    save_reference(small(), tmp_path / "hull.parquet")
    again = load_reference(tmp_path / "hull.parquet")
    assert (again.compositions, again.ids, again.method) == (small().compositions, small().ids, METHOD)
    assert again.energies.tolist() == small().energies.tolist() and again.provenance == {"note": "made up"}
    with pytest.raises(OutputError, match="exists"):
        save_reference(small(), tmp_path / "hull.parquet")
    with pytest.raises(OutputError, match="cannot write"):
        save_reference(small(), tmp_path / "no such folder" / "hull.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["hull.parquet"]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    save_reference(small(), tmp_path / "hull.parquet")
    whole = (tmp_path / "hull.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    (tmp_path / "text.parquet").write_text("formula,energy_per_atom")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    for name in ("cut", "text", "other"):
        with pytest.raises(DataError, match="not a hull reference"):
            load_reference(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="no file"):
        load_reference(tmp_path / "none.parquet")
    table = pq.read_table(tmp_path / "hull.parquet")
    newer = {b"euhedral-hull": (table.schema.metadata[b"euhedral-hull"]).replace(b'"format": 1', b'"format": 2')}
    pq.write_table(table.replace_schema_metadata(newer), tmp_path / "newer.parquet")
    with pytest.raises(DataError, match="version 2, this program reads 1"):
        load_reference(tmp_path / "newer.parquet")
    nan = table.set_column(1, "energy_per_atom", pa.array([math.nan, -1.0, -1.0], pa.float32()))
    pq.write_table(nan, tmp_path / "nan.parquet")
    with pytest.raises(DataError, match="'Na': the energy is nan"):
        load_reference(tmp_path / "nan.parquet")


def test_members_of_the_shipped_hull_are_at_zero() -> None:
    reference = default_reference()
    some = range(0, len(reference), 20)
    found = Hull(reference).above_hull(
        [reference.compositions[i] for i in some], reference.energies[list(some)], method=reference.method
    )
    own = [len(p) == 1 and p[0].id == reference.ids[i] for i, p in zip(some, found.products, strict=True)]
    assert not found.failures and found.e_above_hull.min() > -1e-9
    assert np.abs(found.e_above_hull[own]).max() < 1e-9 and 0.3 < np.mean(own) < 0.9


def test_the_package_carries_a_reference_with_every_element_that_chgnet_knows() -> None:
    reference = default_reference()
    assert len(reference) > 27_000 and reference.elements == KNOWN_ELEMENTS
    assert reference.method.model == "CHGNet" and len(reference.method.weights) == 64
    assert reference.provenance["crystals"] == 36_158
    assert {"B", "Ir", "La", "Mn", "Ta", "Ar"} == set(reference.provenance["elements_without_crystal"])
    assert files("euhedral.screen").joinpath(DEFAULT_FILE).read_bytes()[:4] == b"PAR1"
    assert len(files("euhedral.screen").joinpath(DEFAULT_FILE).read_bytes()) < 1_500_000


def test_shipped_energies_are_those_of_the_installed_weights() -> None:
    pytest.importorskip("chgnet")
    from euhedral.screen.method import chgnet_method

    assert default_reference().method.differences(chgnet_method()) == ()


def test_well_known_compounds_are_on_the_shipped_hull() -> None:
    formulas = (
        {"Na": 1, "Cl": 1},
        {"Mg": 1, "O": 1},
        {"Si": 1},
        {"Ga": 1, "As": 1},
        {"Ca": 1, "F": 2},
        {"Sr": 1, "Ti": 1, "O": 3},
    )
    reference = default_reference()
    place = {composition: i for i, composition in enumerate(reference.compositions)}
    wanted = [reduced_composition({ATOMIC_NUMBERS[s]: n for s, n in formula.items()}) for formula in formulas]
    energies = [reference.energies[place[composition]] for composition in wanted]
    found = Hull(reference).above_hull(wanted, energies, method=reference.method)
    assert np.abs(found.e_above_hull).max() < 1e-6
    assert found.formation_energies[0] == pytest.approx(-2.1, abs=0.3)  # measured: -411 kJ/mol of NaCl, -2.13 eV/atom
    assert found.formation_energies[1] == pytest.approx(-3.1, abs=0.3)  # measured: -602 kJ/mol of MgO, -3.12 eV/atom
