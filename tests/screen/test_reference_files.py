"""Users' own references: pymatgen JSON, phase diagrams, CSV; what they say of their method and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from euhedral.errors import DataError, MismatchError
from euhedral.screen.hull import Hull
from euhedral.screen.method import MP2020, NO_CORRECTIONS, PBE, PBE_U, EnergyMethod
from euhedral.screen.reference import make_reference, save_reference
from euhedral.screen.reference_files import read_reference

METHOD = EnergyMethod(model="DFT", functional=PBE, corrections=NO_CORRECTIONS)
CORRECTED = EnergyMethod(model="DFT", functional=PBE_U, corrections=MP2020)


def computed(formula: str, energy: float, name: str, *, run_type: str | None = "GGA", scheme: str | None = None) -> Any:
    from pymatgen.entries.computed_entries import ComputedEntry, ConstantEnergyAdjustment

    cls = {"@module": "pymatgen.entries.compatibility", "@class": scheme}
    adjustments = [ConstantEnergyAdjustment(-1.0, name="shift", cls=cls)] if scheme else []
    parameters = {"run_type": run_type} if run_type else {}
    return ComputedEntry(formula, energy, entry_id=name, parameters=parameters, energy_adjustments=adjustments)


def written(path: Path, document: Any) -> Path:
    from monty.json import MontyEncoder

    text = json.dumps(document, cls=MontyEncoder)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def entries() -> list[Any]:
    return [computed("Na", -1.0, "a"), computed("Cl2", -4.0, "b"), computed("Na2Cl2", -14.0, "c")]


@pytest.mark.parametrize("name", ["hull.json", "hull.json.gz"])
def test_computed_entries(tmp_path: Path, name: str) -> None:
    reference = read_reference(written(tmp_path / name, entries()))
    assert reference.method == METHOD and reference.ids == ("a", "b", "c")
    assert reference.energies.tolist() == [-1.0, -2.0, -3.5]
    found = Hull(reference).above_hull([{11: 1, 17: 1}], [-3.0], method=METHOD)
    assert found.e_above_hull == pytest.approx([0.5])


@pytest.mark.parametrize(
    "wrap", [lambda e: {"entries": e}, lambda e: {entry.entry_id: entry for entry in e}, lambda e: e]
)
def test_other_shapes_of_the_same(tmp_path: Path, wrap: Any) -> None:
    assert read_reference(written(tmp_path / "hull.json", wrap(entries()))).ids == ("a", "b", "c")


def test_structure_entries_and_energies_with_corrections(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    iron = Structure(Lattice.cubic(2.83), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    entry = ComputedStructureEntry(iron, -16.0, entry_id="iron", parameters={"run_type": "GGA"})
    oxide = computed("Fe2O3", -34.0, "oxide", run_type="GGA+U", scheme=MP2020)
    reference = read_reference(written(tmp_path / "hull.json", [entry, oxide]))
    assert reference.energies.tolist() == [-8.0, oxide.energy_per_atom] == [-8.0, -7.0]
    assert reference.method == CORRECTED


def test_entries_that_the_published_scheme_corrected(tmp_path: Path) -> None:
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility
    from pymatgen.entries.computed_entries import ComputedEntry

    settings = {"run_type": "GGA+U", "is_hubbard": True, "hubbards": {"Fe": 5.3, "O": 0}}
    entry = ComputedEntry(
        "Fe2O3", -34.0, entry_id="a", parameters={**settings, "potcar_symbols": ["PBE Fe_pv", "PBE O"]}
    )
    (corrected,) = MaterialsProject2020Compatibility(check_potcar=False).process_entries([entry])
    reference = read_reference(written(tmp_path / "hull.json", [corrected]))
    assert reference.method == CORRECTED and reference.energies == pytest.approx([corrected.energy_per_atom])
    assert corrected.energy_per_atom != pytest.approx(-34.0 / 5)


def test_phase_diagram(tmp_path: Path) -> None:
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    points = [
        PDEntry("Na", -1.0),
        PDEntry("Cl2", -4.0),
        PDEntry("NaCl", -7.0),
        PDEntry("NaCl", -6.0),
        PDEntry("NaCl3", -8.0),
    ]
    diagram = PhaseDiagram(points)
    reference = read_reference(written(tmp_path / "hull.json", diagram), method=METHOD)
    hull = Hull(reference)
    for point in points:
        amounts = {element.Z: amount for element, amount in point.composition.items()}
        found = hull.above_hull([amounts], [point.energy_per_atom], method=METHOD)
        assert found.e_above_hull[0] == pytest.approx(diagram.get_e_above_hull(point), abs=1e-9)
    with pytest.raises(DataError, match="does not say the functional"):
        read_reference(tmp_path / "hull.json")


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "hull.csv"
    path.write_text("id,formula,energy_per_atom,note\na,Na,-1,\n,Cl2,-2,x\nc,Na2Cl2,-3.5,\nd,Ca3(PO4)2,-6.5,\n")
    reference = read_reference(path, method=METHOD)
    assert reference.ids == ("a", "hull.csv:2", "c", "d") and reference.energies.tolist() == [-1, -2, -3.5, -6.5]
    assert reference.compositions[3] == ((8, 8), (15, 2), (20, 3))
    packed = tmp_path / "hull.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes().replace(b"id,", b"material_id,")))
    assert read_reference(packed, method=METHOD).ids == ("a", "hull.csv.gz:2", "c", "d")
    with pytest.raises(DataError, match="does not say the functional"):
        read_reference(path)


def test_own_file(tmp_path: Path) -> None:
    save_reference(make_reference([{11: 1}], [-1.0], ["a"], method=METHOD), tmp_path / "hull.parquet")
    assert read_reference(tmp_path / "hull.parquet", method=METHOD).method == METHOD
    with pytest.raises(MismatchError, match="functional, corrections"):
        read_reference(tmp_path / "hull.parquet", method=CORRECTED)


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ([{"run_type": "GGA"}, {"run_type": "GGA+U"}], r"functionals \(PBE, PBE\+U\) without a correction"),
        ([{"run_type": "GGA", "scheme": MP2020}, {"run_type": "R2SCAN"}], r"functionals \(PBE, r2SCAN\)"),
        ([{"scheme": MP2020}, {"scheme": "MaterialsProjectCompatibility"}], "different schemes"),
    ],
)
def test_mixed_methods_in_one_file_are_refused(tmp_path: Path, mixture: list[dict[str, str]], words: str) -> None:
    mixed = [computed("Fe", -8.0, str(i), **kind) for i, kind in enumerate(mixture)]  # type: ignore[arg-type]
    path = written(tmp_path / "hull.json", mixed)
    for method in (None, METHOD):
        with pytest.raises(MismatchError, match=words):
            read_reference(path, method=method)


def test_a_scheme_that_joins_functionals_is_one_method(tmp_path: Path) -> None:
    scheme = "MaterialsProjectDFTMixingScheme"
    mixed = [computed("Fe", -8.0, "a", scheme=MP2020), computed("O2", -9.0, "b", run_type="R2SCAN", scheme=scheme)]
    reference = read_reference(written(tmp_path / "hull.json", mixed))
    assert (reference.method.functional, reference.method.corrections) == ("PBE/PBE+U/r2SCAN", scheme)


def test_a_method_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "hull.json", [computed("Fe", -8.0, "a", run_type="R2SCAN")])
    assert read_reference(path).method.functional == "r2SCAN"
    with pytest.raises(MismatchError, match="functional 'r2SCAN', but 'PBE' was given"):
        read_reference(path, method=METHOD)
    path = written(tmp_path / "other.json", [computed("Fe", -8.0, "a", scheme=MP2020)])
    with pytest.raises(MismatchError, match="but 'none' was given"):
        read_reference(path, method=EnergyMethod(model="DFT", functional=PBE_U, corrections=NO_CORRECTIONS))


def test_corrections_without_a_name_must_be_named(tmp_path: Path) -> None:
    from pymatgen.entries.computed_entries import ComputedEntry

    entry = ComputedEntry("Fe", -8.0, correction=-0.5, entry_id="a", parameters={"run_type": "GGA"})
    path = written(tmp_path / "hull.json", [entry])
    with pytest.raises(DataError, match="name of its corrections"):
        read_reference(path)
    with pytest.raises(MismatchError, match="name the scheme"):
        read_reference(path, method=METHOD)
    own = EnergyMethod(model="DFT", functional=PBE, corrections="fitted to experiment")
    assert read_reference(path, method=own).energies.tolist() == [-8.5]
    both = written(tmp_path / "both.json", [entry, computed("O2", -9.0, "b", scheme=MP2020)])
    with pytest.raises(MismatchError, match="different schemes"):
        read_reference(both)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("formula,energy\nNa,-1\n", "no column 'energy_per_atom'"),
        ("formula,energy_per_atom\n", "no entries"),
        ("", "no column"),
        ("formula,energy_per_atom\nNa,-1\nXx,-1\n", "row 2: .*no element 'Xx'"),
        ("formula,energy_per_atom\nNa,low\n", "row 1: the energy per atom of Na is not a number: 'low'"),
        ("formula,energy_per_atom\nNa\n", "row 1: the energy per atom of Na is not a number: ''"),
        ("formula,energy_per_atom\nNa,nan\n", "the energy is nan"),
        ("id,formula,energy_per_atom\na,Na,-1\na,K,-1\n", "more than one entry called 'a'"),
    ],
)
def test_bad_tables(tmp_path: Path, rows: str, words: str) -> None:
    path = tmp_path / "hull.csv"
    path.write_text(rows)
    with pytest.raises(DataError, match=words):
        read_reference(path, method=METHOD)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "no entries"),
        ({}, "no entries: expected a list"),
        ("text", "expected a list"),
        ([1], "is no entry"),
        ([{"composition": {"Na": 1}}], "energy is not a number: None"),
        ([{"composition": {"Na": 1}, "energy": "low"}], "not a number: 'low'"),
        ([{"composition": {"Na": "one"}, "energy": -1}], "amount of Na is not a number"),
        ([{"composition": {"Xx": 1}, "energy": -1, "entry_id": "q"}], "entry 'q': there is no element 'Xx'"),
        ([{"composition": {}, "energy": -1}], "no atoms"),
        ([{"composition": {"Na": 1}, "energy": float("nan")}], "the energy is nan"),
        ([{"composition": {"Na": 1}, "energy": -1, "entry_id": "q"}] * 2, "more than one entry called 'q'"),
    ],
)
def test_bad_json(tmp_path: Path, document: Any, words: str) -> None:
    path = tmp_path / "hull.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=words):
        read_reference(path, method=METHOD)


def test_files_that_are_cut_off_or_are_none(tmp_path: Path) -> None:
    text = written(tmp_path / "whole.json", entries()).read_text()
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(text.encode())[:-30])
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"formula,energy_per_atom\nNa,-1\n")[:-10])
    (tmp_path / "not.json.gz").write_text(text)
    for name in ("cut.json", "cut.json.gz", "not.json.gz", "cut.csv.gz"):
        with pytest.raises(DataError, match=r"not JSON, or is cut off|not a CSV"):
            read_reference(tmp_path / name, method=METHOD)
    with pytest.raises(DataError, match="no file"):
        read_reference(tmp_path / "none.json")
    (tmp_path / "hull.txt").write_text("")
    with pytest.raises(DataError, match=r"\.json, \.csv"):
        read_reference(tmp_path / "hull.txt")
