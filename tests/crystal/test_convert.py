from __future__ import annotations

import gzip
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.convert import from_cif, to_cif
from euhedral.errors import CrystalError, OutputError
from euhedral.testing.crystals import hexagonal_close_packed, perovskite, prototypes, random_crystals, rock_salt

MP_20 = Path(__file__).parents[2].parent / "shared" / "data" / "mp_20" / "val.csv.gz"

SALT = """data_NaCl
_cell_length_a 5.64(2)
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na+ 0 0 0 1
Cl1 Cl1- 0.5 0.5 0.5 1
"""


def all_close(one: CrystalBatch, other: CrystalBatch, tolerance: float = 1e-9) -> None:
    assert one.num_atoms.tolist() == other.num_atoms.tolist()
    assert one.species.tolist() == other.species.tolist()
    torch.testing.assert_close(one.cell @ one.cell.mT, other.cell @ other.cell.mT, atol=1e-8, rtol=1e-8)
    apart = one.frac - other.frac
    assert float((apart - apart.round()).abs().max()) < tolerance


@given(st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=30)
def test_cif_round_trip_keeps_every_digit(count: int, seed: int) -> None:
    crystal = random_crystals([count], rng=torch.Generator().manual_seed(seed), dtype=torch.float64)
    all_close(from_cif(to_cif(crystal)), crystal)


def test_cif_text_is_read_alike_by_pymatgen_and_ase() -> None:
    from io import StringIO

    import ase.io
    from pymatgen.core import Structure

    for crystal in prototypes(torch.float64).values():
        text = to_cif(crystal, "some name/1")
        assert text.startswith("data_some_name_1\n")
        structure = Structure.from_str(text, fmt="cif")
        assert structure.matches(crystal.to_pymatgen()[0], scale=False, ltol=1e-3, stol=1e-3, angle_tol=0.1)
        atoms = ase.io.read(StringIO(text), format="cif")
        assert sorted(atoms.numbers) == sorted(crystal.species.tolist())  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:Issues encountered while parsing CIF")
@pytest.mark.parametrize("name", ["rock_salt_conventional", "perovskite", "diamond", "hexagonal_close_packed"])
def test_symmetry_operations_are_applied_as_pymatgen_applies_them(name: str) -> None:
    from pymatgen.io.cif import CifParser, CifWriter

    structure = prototypes(torch.float64)[name].to_pymatgen()[0]
    text = str(CifWriter(structure, symprec=0.01))
    assert text.count("\n  2 ") == 1, "the text holds operations and not all atoms"
    mine = from_cif(text)
    theirs = CifParser.from_str(text).parse_structures(primitive=False)[0]
    assert mine.num_atoms.item() == len(theirs)
    assert mine.to_pymatgen()[0].matches(theirs, scale=False, primitive_cell=False, ltol=1e-3, stol=1e-3, angle_tol=0.1)


def test_space_group_by_name_where_no_operations_are_listed() -> None:
    found = from_cif(SALT)
    assert sorted(found.species.tolist()) == [11] * 4 + [17] * 4
    assert float(found.volume) == pytest.approx(5.64**3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("data_NaCl", "NaCl", "not a CIF"),
        ("_cell_length_a 5.64(2)", "", "no cell"),
        ("_cell_length_a 5.64(2)", "_cell_length_a 0", "no volume"),
        ("_cell_length_a 5.64(2)", "_cell_length_a nan", "no volume"),
        ("_cell_length_a 5.64(2)", "_cell_length_a ?", "no volume"),
        ("_cell_length_b 5.64", "", "no volume"),
        ("_cell_length_a 5.64(2)", "_cell_length_a -5.64", "no volume"),
        ("_cell_angle_gamma 90", "_cell_angle_gamma ?", "no volume"),
        ("_cell_angle_gamma 90", "_cell_angle_gamma 180", "no volume"),
        ("_cell_angle_gamma 90", "_cell_angle_gamma 720", "no volume"),
        ("Cl1 Cl1- 0.5 0.5 0.5 1", "Cl1 Cl1- 0.5 0.5 0.5 0.7", "partially occupied"),
        ("Cl1 Cl1- 0.5 0.5 0.5 1", "Cl1 Cl1- 0.5 ? 0.5 1", "missing or not a finite"),
        ("Cl1 Cl1- 0.5 0.5 0.5 1", "Cl1 Cl1- 0.5 nan 0.5 1", "missing or not a finite"),
        ("Cl1 Cl1- 0.5 0.5 0.5 1", "Qq Qq 0.5 0.5 0.5 1", "no known element"),
        ("Na1 Na+ 0 0 0 1\nCl1 Cl1- 0.5 0.5 0.5 1\n", "", "no atom sites|not a CIF"),
        ("loop_", "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y'\nloop_", "symmetry operation"),
        ("loop_", "loop_\n_symmetry_equiv_pos_as_xyz\n" + "x,y,z\n" * 193 + "loop_", "at most 192"),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, message: str) -> None:
    assert old in SALT
    with pytest.raises(CrystalError, match=message):
        from_cif(SALT.replace(old, new, 1))


def test_deuterium_is_hydrogen() -> None:
    text = SALT.replace("Na1 Na+", "D1 D").replace("Cl1 Cl1-", "F1 F")
    assert sorted(set(from_cif(text).species.tolist())) == [1, 9]


def test_atoms_on_special_positions_are_counted_once() -> None:
    """A coordinate written with four digits lies beside its special position, not on it."""
    text = SALT.replace("0.5 0.5 0.5 1", "0.5000 0.4999 0.5 1")
    assert from_cif(text).num_atoms.tolist() == [8]


def test_too_many_atoms_are_refused_quickly() -> None:
    sites = "".join(f"Na{i} Na {i / 1e6:.7f} 0 0 1\n" for i in range(1_000_000))
    started = time.perf_counter()
    with pytest.raises(CrystalError, match="more than the limit of 10000"):
        from_cif(SALT.replace("Na1 Na+ 0 0 0 1\n", sites))
    assert time.perf_counter() - started < 60
    with pytest.raises(CrystalError, match="limit of 4"):
        from_cif(SALT, limit_atoms=4)


@given(st.binary(max_size=300))
def test_random_bytes_are_no_cif(noise: bytes) -> None:
    with pytest.raises(CrystalError):
        from_cif(noise.decode("latin-1"))


@given(st.data())
@settings(max_examples=200)
def test_damaged_cifs_give_a_crystal_or_a_clear_error(data: st.DataObject) -> None:
    text = list(SALT)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.sampled_from("\0\n '\"#;_-.(90?aeN\u00e9")) if data.draw(st.booleans()) else ""
    damaged = "".join(text)[: data.draw(st.integers(0, len(text)))] if data.draw(st.booleans()) else "".join(text)
    try:
        found = from_cif(damaged)
    except CrystalError as error:
        assert str(error)
    else:
        found.validate()


def test_pymatgen_and_ase_round_trips() -> None:
    batch = random_crystals([3, 5], rng=torch.Generator().manual_seed(5), dtype=torch.float64)
    for back in (CrystalBatch.from_pymatgen(batch.to_pymatgen()), CrystalBatch.from_ase(batch.to_ase())):
        all_close(back, batch)
        torch.testing.assert_close(back.cell, batch.cell)
    assert batch.to_ase()[0].pbc.all()
    assert CrystalBatch.from_pymatgen([]).num_atoms.numel() == 0


def test_what_other_libraries_hold_that_is_no_ordered_crystal() -> None:
    from ase import Atoms
    from pymatgen.core import DummySpecies, Lattice, Structure

    cube = Lattice.cubic(4)
    ordered = Structure(cube, ["Na+"], [[0, 0, 0]])
    assert CrystalBatch.from_pymatgen([ordered]).species.tolist() == [11]
    with pytest.raises(CrystalError, match="structure 1 has partially occupied"):
        CrystalBatch.from_pymatgen([ordered, Structure(cube, [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])])
    with pytest.raises(CrystalError, match="structure 0 holds a species that is not an element"):
        CrystalBatch.from_pymatgen([Structure(cube, [DummySpecies("X")], [[0, 0, 0]])])
    with pytest.raises(CrystalError, match="atoms 0 are not periodic"):
        CrystalBatch.from_ase([Atoms("Na", cell=np.eye(3) * 4, pbc=[True, True, False])])
    with pytest.raises(CrystalError, match="no volume"):
        CrystalBatch.from_ase([Atoms("Na", pbc=True)])


def test_every_format_is_written_and_read_back(tmp_path: Path) -> None:
    import ase.io
    import pyarrow.parquet

    batch = CrystalBatch.concat([rock_salt(), perovskite(), hexagonal_close_packed()]).to(torch.float64)
    folder = batch.write(tmp_path / "crystals")
    assert [p.name for p in folder] == ["000000_NaCl.cif", "000001_SrTiO3.cif", "000002_Mg.cif"]
    all_close(CrystalBatch.concat([from_cif(p.read_text()) for p in folder]), batch)
    (frames,) = batch.write(tmp_path / "crystals.extxyz")
    all_close(CrystalBatch.from_ase(ase.io.read(frames, ":")), batch, 1e-7)  # type: ignore[arg-type]
    (table,) = batch.write(tmp_path / "crystals.parquet")
    columns = pyarrow.parquet.read_table(table).to_pydict()
    assert columns["formula"] == ["NaCl", "SrTiO3", "Mg"] and columns["num_atoms"] == [2, 5, 2]
    all_close(CrystalBatch.concat([from_cif(text) for text in columns["cif"]]), batch)
    (one,) = batch.write(tmp_path / "crystals.cif")
    assert one.read_text().count("data_") == 3
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


def test_nothing_is_overwritten_and_bad_targets_are_named(tmp_path: Path) -> None:
    target = tmp_path / "a.cif"
    target.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        rock_salt().write(target)
    assert target.read_text() == "mine"
    with pytest.raises(OutputError, match=r"cannot write \.doc files"):
        rock_salt().write(tmp_path / "a.doc")
    with pytest.raises(OutputError, match="cannot write"):
        rock_salt().write(tmp_path / "missing" / "a.cif")
    with pytest.raises(CrystalError, match="holds one crystal, not 2"):
        to_cif(CrystalBatch.concat([rock_salt()] * 2))


def test_real_cifs_agree_with_pymatgen() -> None:
    if not MP_20.is_file():
        pytest.skip(f"real data is not there ({MP_20.name} beside the repository)")
    import csv

    from pymatgen.core import Structure

    with gzip.open(MP_20, "rt") as file:
        rows = [row["cif"] for _, row in zip(range(40), csv.DictReader(file), strict=False)]
    for text in rows:
        mine, theirs = from_cif(text), Structure.from_str(text, fmt="cif")
        assert mine.num_atoms.item() == len(theirs)
        assert float(mine.volume) == pytest.approx(theirs.volume, rel=1e-6)
        assert mine.to_pymatgen()[0].matches(theirs, scale=False, ltol=1e-3, stol=1e-3, angle_tol=0.1)
