from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.parsers import (
    cif_blocks,
    crystal_from_positions,
    extxyz_frames,
    parse_ase_row,
    parse_extxyz,
    parse_poscar,
    parse_pymatgen,
    plain_array,
    scalars,
)
from euhedral.errors import CrystalError

POSCAR = """cubic BN
   3.57
 0.0 0.5 0.5
 0.5 0.0 0.5
 0.5 0.5 0.0
   B N
   1 1
Direct
 0.00 0.00 0.00
 0.25 0.25 0.25
"""


def check_boron_nitride(crystal: CrystalBatch, *, volume: float = 3.57**3 / 4) -> None:
    assert crystal.species.tolist() == [5, 7]
    assert torch.allclose(crystal.frac, torch.tensor([[0.0] * 3, [0.25] * 3], dtype=torch.float64), atol=1e-9)
    assert float(crystal.volume) == pytest.approx(volume, rel=1e-9)


def poscar(text: str) -> CrystalBatch:
    return parse_poscar(text, limit_atoms=10).validate()


def test_poscar_variants_mean_the_same() -> None:
    check_boron_nitride(poscar(POSCAR))
    check_boron_nitride(poscar(POSCAR.replace("   3.57\n", f"  {-(3.57**3) / 4}\n")))
    check_boron_nitride(
        poscar(POSCAR.replace("Direct", "Selective dynamics\nDirect").replace("0.00\n", "0.00 T T F\n"))
    )
    check_boron_nitride(poscar(POSCAR.replace("cubic BN", "B N").replace("   B N\n", "")))
    check_boron_nitride(poscar(POSCAR.replace("   B N\n", " B_h N_s/0a1\n")))
    check_boron_nitride(poscar(POSCAR + "\n 0.1 0.1 0.1\n 0.1 0.1 0.1\n"))
    cartesian = POSCAR.replace("Direct", "Cartesian")
    check_boron_nitride(poscar(cartesian))  # a quarter of each half-diagonal of the cube, in units of the scale
    three = poscar(POSCAR.replace("   3.57\n", " 3.57 7.14 3.57\n"))
    check_boron_nitride(three, volume=2 * 3.57**3 / 4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("   1 1\n", "   1 2\n", "promises 3 atoms and has 2"),
        ("   1 1\n", "   6 6\n", "limit of 10"),
        ("   1 1\n", "   2\n", "symbol for each"),
        ("   B N\n", "   B Xx\n", "symbol for each"),
        ("Direct\n 0.00 0.00 0.00\n 0.25 0.25 0.25\n", "", "at least 8|ends before"),
        ("   3.57\n", "   1 2\n", "one or three"),
    ],
)
def test_poscar_mistakes_are_named(old: str, new: str, message: str) -> None:
    with pytest.raises(CrystalError, match=message):
        poscar(POSCAR.replace(old, new))


def test_a_flat_poscar_is_no_crystal() -> None:
    with pytest.raises(CrystalError, match=r"volume|coordinate"):
        poscar(POSCAR.replace(" 0.5 0.5 0.0\n   B", " 0.5 0.0 0.5\n   B"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=9, max_size=9),
    st.lists(st.tuples(*[st.floats(0, 0.999)] * 3), min_size=1, max_size=5),
)
def test_positions_give_back_the_coordinates(entries: list[float], frac: list[tuple[float, float, float]]) -> None:
    cell = np.array(entries).reshape(3, 3) + 6 * np.eye(3)
    if abs(np.linalg.det(cell)) < 1:
        return
    crystal = crystal_from_positions(cell, np.array(frac) @ cell, [3] * len(frac))
    distance = (crystal.frac.numpy() - frac + 0.5) % 1 - 0.5
    assert np.abs(distance).max() < 1e-9


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.eye(2)])
def test_cells_without_volume(cell: np.ndarray) -> None:
    with pytest.raises(CrystalError, match="no volume"):
        crystal_from_positions(cell, [[0, 0, 0]], [1])


def test_cif_blocks() -> None:
    one = "data_A\n_cell_length_a 1\n;\ndata_inside a text\n;\n_x y\n"
    two = "DATA_B\n_cell_length_a 2\n"
    assert cif_blocks("# comment\n" + one + two) == [("A", one), ("B", two)]
    assert cif_blocks("data_global\n_journal x\n" + two) == [("B", two)]
    assert cif_blocks("no block") == [("", "no block")]


FRAME = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 energy=-3.0 tag=good pbc="T T T"
Na 0 0 0
Cl 2 2 2
"""


def test_extxyz() -> None:
    crystal, labels = parse_extxyz(FRAME)
    assert crystal.species.tolist() == [11, 17] and float(crystal.volume) == pytest.approx(64)
    assert labels == {"energy": -3.0, "energy_per_atom": -1.5, "tag": "good"}
    with pytest.raises(CrystalError, match="periodic"):
        parse_extxyz(FRAME.replace('pbc="T T T"', 'pbc="T T F"'))


def test_extxyz_frames_pass_over_what_is_too_large_and_stop_at_what_is_no_frame() -> None:
    large = "5\n" + "x\n" * 6
    lines = iter((FRAME + large + FRAME + "junk\n" + FRAME).splitlines(keepends=True))
    found = list(extxyz_frames(lines, limit_atoms=3))
    assert [frame for frame, _ in found] == [FRAME, "", FRAME, ""]
    assert "more than the limit" in str(found[1][1]) and "'junk'" in str(found[3][1])
    (short,) = extxyz_frames(iter(FRAME.splitlines(keepends=True)[:3]), limit_atoms=3)
    assert "ends inside" in str(short[1])


STRUCTURE = {
    "lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]]},
    "sites": [
        {"species": [{"element": "Na", "occu": 1}], "abc": [0, 0, 0]},
        {"species": [{"element": "Cl", "oxidation_state": -1, "occu": 1.0}], "abc": [0.5, 0.5, 1.5]},
    ],
}


def test_pymatgen_dicts() -> None:
    crystal = parse_pymatgen(STRUCTURE)
    assert crystal.species.tolist() == [11, 17]
    assert crystal.frac.tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]
    deuterium = {**STRUCTURE, "sites": [{"species": [{"element": "D", "occu": 1}], "abc": [0, 0, 0]}]}
    assert parse_pymatgen(deuterium).species.tolist() == [1]


@pytest.mark.parametrize(
    ("species", "message"),
    [
        ([{"element": "Na", "occu": 0.5}], "partly occupied"),
        ([{"element": "Na", "occu": 0.5}, {"element": "K", "occu": 0.5}], "partly occupied"),
        ([{"element": "Qq", "occu": 1}], "unknown element 'Qq'"),
    ],
)
def test_pymatgen_sites_that_are_no_atoms(species: list, message: str) -> None:
    with pytest.raises(CrystalError, match=message):
        parse_pymatgen({**STRUCTURE, "sites": [{"species": species, "abc": [0, 0, 0]}]})
    with pytest.raises(CrystalError, match="no sites"):
        parse_pymatgen({**STRUCTURE, "sites": []})


def test_arrays_in_all_the_forms_of_ase() -> None:
    expected = [[1.0, 2.0], [3.0, 4.0]]
    for form in (
        expected,
        {"__ndarray__": [[2, 2], "float64", [1.0, 2.0, 3.0, 4.0]]},
        {"array": {"__ndarray__": [[2, 2], "float64", [1.0, 2.0, 3.0, 4.0]]}, "__ase_objtype__": "cell"},
    ):
        assert plain_array(form).tolist() == expected
    with pytest.raises(CrystalError, match="expected an array"):
        plain_array({"other": 1})


def test_ase_rows() -> None:
    row = {"numbers": [11], "positions": [[2, 0, 6]], "cell": (4 * np.eye(3)).tolist(), "pbc": [True] * 3}
    assert parse_ase_row(row).frac.tolist() == [[0.5, 0, 0.5]]
    with pytest.raises(CrystalError, match="periodic"):
        parse_ase_row({**row, "pbc": [True, True, False]})


def test_scalars_leave_out_what_is_none() -> None:
    found = scalars({"a": 1, "b": True, "c": np.float32(2), "d": "x", "e": [1], "f": {"g": 1}, "h": None, "i": ""})
    assert found == {"a": 1.0, "b": 1.0, "c": 2.0, "d": "x"}
