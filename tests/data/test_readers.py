from __future__ import annotations

import gzip
import io
import json
import os
import zipfile
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.crystal_sources import ROCK_SALT, cif, csv_text
from euhedral.data import entries as entries_module
from euhedral.data.readers import Row, read
from euhedral.errors import DataError


def rows(path: Path, **options: object) -> dict[str, Row]:
    found = list(read(path, **options))  # type: ignore[arg-type]
    assert len({row.id for row in found}) == len(found)
    assert all((row.crystal is None) != (row.error is None) for row in found)
    return {row.id: row for row in found}


def formula(row: Row) -> str:
    assert row.crystal is not None, row.error
    return row.crystal.formulas()[0]


def test_csv_rows_labels_and_failures(small_csv: Path) -> None:
    found = rows(small_csv)
    assert len(found) == 15
    assert [name for name, row in found.items() if row.error] == ["bad-text", "bad-volume", "bad-empty"]
    assert formula(found["m-2"]) == "Li1 Mn1 O1" and formula(found["m-0"]) == "Li1"
    assert found["m-2"].labels == {"band_gap": "1.0"}
    assert found["bad-empty"].error == "column 'cif' is empty"


def test_csv_gzipped_reads_the_same(small_csv: Path, tmp_path: Path) -> None:
    packed = tmp_path / "small.csv.gz"
    packed.write_bytes(gzip.compress(small_csv.read_bytes()))
    for plain, unpacked in zip(rows(small_csv).values(), rows(packed).values(), strict=True):
        assert (plain.id, plain.error, plain.labels) == (unpacked.id, unpacked.error, unpacked.labels)


def test_csv_layouts_of_the_benchmarks(tmp_path: Path) -> None:
    path = tmp_path / "layout.csv"
    header = ",material_id,spacegroup.number,elements,formula,theoretical,cif"
    path.write_text(csv_text([("0", "mp-1", "225", "['Na', 'Cl']", "InF", "False", ROCK_SALT)], header))
    (row,) = read(path)
    assert row.id == "mp-1"
    assert row.labels == {"space_group": "225", "formula": "InF", "theoretical": "False"}


def test_csv_with_pymatgen_json(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    path = tmp_path / "j.csv"
    path.write_text(csv_text([("1", json.dumps(structure.as_dict()), "2")], "id,structure,energy_per_atom"))
    (row,) = read(path)
    assert formula(row) == "Na1 Cl1" and row.labels == {"energy_per_atom": "2"}


def test_csv_shapes_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "shape.csv"
    path.write_bytes(
        b"\xef\xbb\xbfmaterial_id,cif\nonly-one\na,b,c\n\n" + csv_text([("ok", ROCK_SALT)], "").lstrip().encode()
    )
    found = rows(path)
    assert found["0"].error == "1 fields where the header has 2"
    assert found["1"].error == "3 fields where the header has 2"
    assert formula(found["ok"]) == "Na4 Cl4"


@pytest.mark.parametrize(
    ("content", "message"),
    [("a,b\n1,2\n", "no column of structures: expected one of cif"), ("", "is empty")],
)
def test_csv_without_structures(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "none.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        list(read(path))


def test_a_gzip_that_ends_early_keeps_what_came_before(small_csv: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.csv.gz"
    rng = np.random.default_rng(0)
    text = csv_text([(f"m{i}", cif(["Li"], seed=i), str(rng.random())) for i in range(400)])
    packed = gzip.compress(text.encode())
    cut.write_bytes(packed[: len(packed) // 2])
    found = list(read(cut))
    assert found[0].error is None and "damaged or ends early" in str(found[-1].error)
    assert sum(row.error is None for row in found) > 50


def test_gzip_bombs_and_endless_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries_module, "MAX_TEXT_BYTES", 10_000)
    for name in ("bomb.cif.gz", "bomb.extxyz.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"0" * 100_000))
        (row,) = read(tmp_path / name)
        assert "MiB" in str(row.error)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"cif\n" + b"0" * 100_000))
    assert "longer than" in str(list(read(tmp_path / "bomb.csv.gz"))[-1].error)


def poscar_text() -> str:
    return "NaCl\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


def extxyz_text(count: int) -> str:
    frame = '2\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 energy={} pbc="T T T"\nNa 0 0 0\nCl 2 2 2\n'
    return "".join(frame.format(-float(i)) for i in range(count))


FILES = {
    "a/one.cif": cif(["Li", "O"]),
    "a/b/POSCAR": poscar_text(),
    "a/b/CONTCAR_relaxed": poscar_text(),
    "c.vasp": poscar_text(),
    "frames.extxyz": extxyz_text(3),
    "table.csv": csv_text([("in-table", cif(["Mn"]), "1")]),
    "README.txt": "not a crystal",
    "empty.cif": "",
    "broken.cif": "data_x\nnothing",
    ".hidden.cif": "x",
}
NAMES = {
    "a/one": "Li1 O1",
    "a/b/POSCAR": "Na1 Cl1",
    "a/b/CONTCAR_relaxed": "Na1 Cl1",
    "c": "Na1 Cl1",
    "frames:0": "Na1 Cl1",
    "frames:1": "Na1 Cl1",
    "frames:2": "Na1 Cl1",
    "in-table": "Mn1",
}


def test_folders_and_zips_hold_the_same(tmp_path: Path) -> None:
    folder, packed = tmp_path / "folder", tmp_path / "all.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
            archive.writestr(name, text)
    for source in (folder, packed):
        found = rows(source)
        assert {name: formula(row) for name, row in found.items() if row.crystal is not None} == NAMES
        assert {name for name, row in found.items() if row.error} == {"empty", "broken"}
        assert found["empty"].error == "the file is empty"
        assert found["frames:2"].labels["energy_per_atom"] == -1.0


def test_zips_that_attack(tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    good = cif(["Li"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("../up.cif", "/absolute.cif", "x/../../up.cif", "..\\windows.cif", "C:/drive.cif"):
            archive.writestr(name, good)
        archive.writestr("bomb.cif", b"0" * 3_000_000)
        archive.writestr("nested.zip", b"PK")
        archive.writestr("good.cif", good)
        archive.writestr("packed.cif.gz", gzip.compress(good.encode()))
    before = set(tmp_path.parent.rglob("*"))
    found = list(read(path))
    assert set(tmp_path.parent.rglob("*")) == before
    reasons = [str(row.error) for row in found if row.error]
    assert sum("leads out of the archive" in reason for reason in reasons) == 5
    assert sum("zip bombs" in reason for reason in reasons) == 1
    assert sum("inside a zip" in reason for reason in reasons) == 1
    assert {row.id for row in found if row.crystal is not None} == {"good", "packed"}


def test_zip_members_that_are_damaged_do_not_end_the_others(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.cif", cif(["Li"], name="first"))
        archive.writestr("b.cif", cif(["Li"], name="second"))
    path.write_bytes(path.read_bytes().replace(b"data_first", b"data_worst"))
    found = rows(path)
    assert "damaged" in str(found["a"].error) and found["b"].crystal is not None
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="not a zip"):
        list(read(path))


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.docx").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "missing": "no file or folder",
        "x.docx": "known endings",
        "empty": "no crystal files",
    }.items():
        with pytest.raises(DataError, match=message):
            list(read(tmp_path / name))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_dangling_links_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.cif")
    (tmp_path / "link.cif").symlink_to(tmp_path / "nowhere.cif")
    (tmp_path / "good.cif").write_text(cif(["Li"]))
    found = rows(tmp_path)
    assert found["pipe"].error == "not a regular file" and "cannot be read" in str(found["link"].error)
    assert found["good"].crystal is not None
    with pytest.raises(DataError, match="neither a file nor a folder"):
        list(read(tmp_path / "pipe.cif"))


def test_a_cif_of_several_blocks(tmp_path: Path) -> None:
    path = tmp_path / "many.cif"
    path.write_text("data_global\n_x y\n" + cif(["Li"], name="A") + cif(["Na", "Cl"], name="B"))
    assert {name: formula(row) for name, row in rows(path).items()} == {"many:A": "Li1", "many:B": "Na1 Cl1"}


def test_on_error_and_limit(small_csv: Path) -> None:
    assert all(row.error is None for row in read(small_csv, on_error="skip"))
    with pytest.raises(DataError, match=r"row 3 \('bad-text'\)"):
        list(read(small_csv, on_error="raise"))
    found = rows(small_csv, limit_atoms=2)
    assert "limit of 2" in str(found["m-2"].error)
    assert found["m-1"].error is None


def ase_atoms() -> list:
    from ase import Atoms

    return [
        Atoms("NaCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[a, a, a + 1], pbc=True) for a in (4.0, 4.5)
    ]


def test_ase_sqlite(tmp_path: Path) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    path = tmp_path / "rows.db"
    with connect(path) as database:
        for i, atoms in enumerate(ase_atoms()):
            atoms.calc = SinglePointCalculator(atoms, energy=-2.0 * (i + 1))
            database.write(atoms, material_id=f"agm-{i}", gap=0.5 * i, data={"sid": "x", "array": np.eye(2), "e": 1.5})
        molecule = ase_atoms()[0]
        molecule.pbc = False
        database.write(molecule)
    before = path.read_bytes()
    found = rows(path)
    assert path.read_bytes() == before
    assert found["agm-1"].labels == {"gap": 0.5, "e": 1.5, "energy": -4.0, "energy_per_atom": -2.0}
    crystal = found["agm-1"].crystal
    assert crystal is not None
    assert np.allclose(crystal.cell[0].numpy(), np.diag([4.5, 4.5, 5.5]))
    assert np.allclose(crystal.frac.numpy(), [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert "periodic" in str(found["3"].error)
    (tmp_path / "no.db").write_bytes(b"SQLite format 3\0" + b"x" * 200)
    with pytest.raises(DataError, match="not an ASE database"):
        list(read(tmp_path / "no.db"))


def test_ase_json(tmp_path: Path) -> None:
    from ase.db import connect

    with connect(tmp_path / "rows.json") as database:
        for atoms in ase_atoms():
            database.write(atoms, gap=1.0)
    found = rows(tmp_path / "rows.json")
    assert [formula(row) for row in found.values()] == ["Na1 Cl1"] * 2
    assert found["1"].labels == {"gap": 1.0}


def write_lmdb(path: Path, values: dict[str, bytes], *, subdir: bool = False) -> None:
    with (
        lmdb.open(str(path), subdir=subdir, map_size=2**22) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in values.items():
            transaction.put(key.encode(), value)


def lmdb_row(i: int) -> dict:
    """A row as the LMDB backend of ASE packs it."""
    return {
        "numbers": [11, 17],
        "positions": [[0, 0, 0], [2, 2, 2]],
        "cell": (4 * np.eye(3)).tolist(),
        "pbc": [True, True, True],
        "energy": -6.0,
        "forces": [[0, 0, 0], [0, 0, 0]],
        "key_value_pairs": {},
        "data": {"sid": f"agm00{i}-rattled", "natoms": 2},
    }


def packed(row: object) -> bytes:
    return zlib.compress(json.dumps(row).encode())


@pytest.mark.parametrize("subdir", [False, True])
def test_lmdb_of_omat24(tmp_path: Path, subdir: bool) -> None:
    from ase.io.jsonio import encode

    path = tmp_path / ("folder" if subdir else "data.0000.aselmdb")
    values = {str(i): packed(lmdb_row(i)) for i in range(1, 13)}
    with_arrays = {**lmdb_row(13), "numbers": np.array([11, 17]), "cell": 4 * np.eye(3)}
    values |= {"13": zlib.compress(encode(with_arrays).encode()), "nextid": packed(14), "deleted_ids": packed([])}
    write_lmdb(path, values, subdir=subdir)
    found = rows(path)
    # In the order of the numbers, not of the keys as text.
    assert list(found) == [f"agm00{i}-rattled" for i in range(1, 14)]
    assert {formula(row) for row in found.values()} == {"Na1 Cl1"}
    assert found["agm0013-rattled"].labels == {"natoms": 2.0, "energy": -6.0, "energy_per_atom": -3.0}


def test_lmdb_rows_that_are_broken_and_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from euhedral.data import databases

    monkeypatch.setattr(databases, "MAX_ROW_BYTES", 10_000)
    path = tmp_path / "bad.aselmdb"
    # Unpickled, this would make a folder.
    attack = b"\x80\x04cos\nmkdir\n(V" + str(tmp_path / "owned").encode() + b"\ntR."
    values = {
        "1": packed(lmdb_row(1)),
        "2": attack,
        "3": b"junk",
        "4": packed([1, 2]),
        "5": packed(lmdb_row(5))[:-8],
        "6": zlib.compress(b" " * 100_000),
        "7": packed({**lmdb_row(7), "positions": [[0, 0, 0]]}),
        "8": packed({**lmdb_row(8), "cell": {"__ndarray__": [[3, 3], "object", [0] * 9]}}),
        "9": packed({**lmdb_row(9), "numbers": [[1, [2]]]}),
        "odd": b"x",
    }
    write_lmdb(path, values)
    found = list(read(path))
    assert len(found) == 10 and [row.id for row in found if row.error is None] == ["agm001-rattled"]
    assert not (tmp_path / "owned").exists()
    reasons = {row.id: str(row.error) for row in found}
    assert "pickled" in reasons["2"] and "zlib" in reasons["3"] and "numbers" in reasons["4"]
    assert "ends early" in reasons["5"] and "MiB" in reasons["6"]
    (tmp_path / "no.lmdb").write_bytes(b"x" * 9000)
    with pytest.raises(DataError, match="not an LMDB"):
        list(read(tmp_path / "no.lmdb"))


def test_pymatgen_json(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    structure = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    entry = ComputedStructureEntry(structure, -6.0, entry_id="mp-22862", data={"gap": 5.0, "list": [1]})
    document = {"material_id": "mp-1", "structure": structure.as_dict(), "e_above_hull": 0.1}
    items = [structure.as_dict(), entry.as_dict(), document, {"no": "structure"}, 5]
    (tmp_path / "list.json").write_text(json.dumps(items))
    (tmp_path / "list.jsonl.gz").write_bytes(gzip.compress("\n".join(json.dumps(i) for i in items).encode() + b"\n{"))
    for name, failures in (("list.json", 2), ("list.jsonl.gz", 3)):
        found = rows(tmp_path / name)
        assert [formula(row) for row in found.values() if row.crystal is not None] == ["Na1 Cl1"] * 3
        assert sum(row.error is not None for row in found.values()) == failures
        labels = found["mp-22862"].labels
        assert (labels["energy"], labels["energy_per_atom"], labels["gap"]) == (-6.0, -3.0, 5.0)
        assert found["mp-1"].labels == {"e_above_hull": 0.1}
        assert found["list:0"].labels == {}
    (tmp_path / "by_name.json").write_text(json.dumps({"x": structure.as_dict(), "y": structure.as_dict()}))
    assert list(rows(tmp_path / "by_name.json")) == ["x", "y"]
    (tmp_path / "one.json").write_text(json.dumps(structure.as_dict()))
    assert list(rows(tmp_path / "one.json")) == ["one"]


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "3", "{}", '{"a": 1}'])
def test_json_that_holds_no_structures(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"not JSON|no structures"):
        list(read(tmp_path / "x.json"))


@pytest.mark.parametrize("name", ["x.cif", "x.csv", "x.extxyz", "POSCAR", "x.json", "x.csv.gz", "x.zip", "x.db"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_bytes_and_damaged_files_end_in_a_reason(tmp_path: Path, name: str, data: st.DataObject) -> None:
    texts = {"x.cif": cif(["Li", "O"]), "x.csv": csv_text([("a", cif(["Li"]), "1")]), "x.extxyz": extxyz_text(1)}
    texts |= {"POSCAR": poscar_text(), "x.json": '[{"lattice": {"matrix": [[4,0,0]]}, "sites": []}]'}
    whole = texts.get(name, texts["x.csv"]).encode()
    if name.endswith(".gz"):
        whole = gzip.compress(whole, mtime=0)
    if name.endswith(".zip"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(zipfile.ZipInfo("x.cif"), texts["x.cif"])
        whole = stream.getvalue()
    start = data.draw(st.integers(0, len(whole)))
    content = whole[:start] + data.draw(st.binary(max_size=40)) + whole[start + data.draw(st.integers(0, 60)) :]
    path = tmp_path / name
    path.write_bytes(content)
    try:
        for row in read(path):
            if row.crystal is None:
                assert row.error
            else:
                row.crystal.validate()
    except DataError as error:
        assert str(error)


def test_a_run_folder_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "cif").mkdir()
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "cif" / "a.cif").write_text(ROCK_SALT)
    (tmp_path / "b.cif").write_text(ROCK_SALT)
    assert list(rows(tmp_path)) == ["a"]
