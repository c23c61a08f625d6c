from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from catalog.batches import add, crystals, stretched
from euhedral.catalog import export as export_module
from euhedral.catalog.database import ORIGINAL, Catalogue
from euhedral.catalog.export import export
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.samples import read_samples
from euhedral.errors import OutputError, RequestError
from euhedral.screen.stage import StageRecord

ENDINGS = (".cif", "", ".extxyz", ".xyz", ".csv", ".parquet", ".db", ".json")
ENERGIES = (0.3, None, -0.25, 0.1, 0.2)


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    """Five crystals, of which a stage stretched three; the last could not be read."""
    empty = CrystalBatch(
        frac=torch.zeros(0, 3),
        cell=torch.zeros(1, 3, 3),
        species=torch.zeros(0).long(),
        num_atoms=torch.zeros(1).long(),
    ).to(torch.float64)
    batch = CrystalBatch.concat([crystals(5), empty])
    with Catalogue(tmp_path / "c.sqlite") as opened:
        run = add(opened, batch)
        records = [
            StageRecord(
                index=i,
                outcome="passed",
                values={"energy": energy, "code": "12", "stable": i % 2 == 0, "word": 'a "b", c'},
                crystal=stretched(batch[i], 1.5) if i < 3 else None,
            )
            for i, energy in enumerate(ENERGIES)
        ]
        opened.record(run, "relax", 1, records)
        yield opened


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_module, "ROWS_AT_ONCE", 2)


@pytest.mark.parametrize("ending", ENDINGS)
def test_crystals_and_columns_come_back(catalogue: Catalogue, tmp_path: Path, ending: str) -> None:
    done = export(catalogue, tmp_path / f"out{ending}", sort="index")
    tabular = ending in (".csv", ".parquet")
    assert (done.crystals, done.left_out) == ((6, 0) if tabular else (5, 1))
    found = read_samples(tmp_path / f"out{ending}")
    kept = [i for i, reason in enumerate(found.reasons) if reason is None]
    assert kept == [0, 1, 2, 3, 4]
    expected = catalogue.crystals(1)[:5]
    read = found.crystals[kept]
    assert torch.equal(read.species, expected.species)
    torch.testing.assert_close(read.volume, expected.volume, rtol=1e-6, atol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["c.sqlite", "c.sqlite-shm", "c.sqlite-wal", f"out{ending}"]
    )
    if ending in (".extxyz", ".db", ".json"):
        assert [labels.get("energy") for labels in found.labels] == list(ENERGIES)


@pytest.mark.parametrize("ending", ENDINGS)
def test_filtered_to_nothing(catalogue: Catalogue, tmp_path: Path, ending: str) -> None:
    done = export(catalogue, tmp_path / f"out{ending}", where="energy > 100")
    assert done.crystals == 0 and done.path.exists()


def test_csv_and_parquet_hold_the_table(catalogue: Catalogue, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    asked = {"where": "energy < 0.25", "sort": "-energy", "columns": ["word", "energy", "stable"]}
    expected = catalogue.table(1, **asked)  # type: ignore[arg-type]
    export(catalogue, tmp_path / "t.parquet", structures=False, **asked)  # type: ignore[arg-type]
    assert pq.read_table(tmp_path / "t.parquet").equals(expected, check_metadata=False)
    export(catalogue, tmp_path / "t.csv", structures=False, **asked)  # type: ignore[arg-type]
    with (tmp_path / "t.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["word", "energy", "stable"]
    assert [float(row[1]) for row in rows[1:]] == expected.column("energy").to_pylist() == [0.2, 0.1, -0.25]
    assert rows[1][0] == 'a "b", c'


def test_crystals_as_a_stage_left_them(catalogue: Catalogue, tmp_path: Path) -> None:
    def volumes(stage: str | None) -> torch.Tensor:
        out = export(catalogue, tmp_path / f"{stage}.json", stage=stage, where="num_atoms > 0").path
        return read_samples(out).crystals.volume

    given = crystals(5).volume
    factor = torch.tensor([1.5**3] * 3 + [1.0] * 2, dtype=torch.float64)
    torch.testing.assert_close(volumes(ORIGINAL), given)
    torch.testing.assert_close(volumes(None), given * factor)
    torch.testing.assert_close(volumes("relax"), given * factor)


def test_runs_together_keep_their_own_crystals(catalogue: Catalogue, tmp_path: Path) -> None:
    other = add(catalogue, crystals(3, seed=8))
    export(catalogue, tmp_path / "all.json", sort="-density", where="num_atoms > 0")
    rows = json.loads((tmp_path / "all.json").read_text())
    assert sorted((row["run"], row["index"]) for row in rows) == [(1, i) for i in range(5)] + [
        (other, i) for i in range(3)
    ]
    for row in rows:
        expected = catalogue.crystals(row["run"], [row["index"]])
        assert row["structure"]["lattice"]["volume"] == pytest.approx(float(expected.volume), rel=1e-12)
    # A stage that only one of the runs has been through.
    assert export(catalogue, tmp_path / "relaxed.json", stage="relax").crystals == 8


def test_other_programs_read_them(catalogue: Catalogue, tmp_path: Path) -> None:
    import ase.db
    import ase.io
    from pymatgen.core import Structure

    for ending in (".db", ".extxyz", ".json", ""):
        export(catalogue, tmp_path / f"out{ending}", where="energy < 0")
    row = ase.db.connect(tmp_path / "out.db").get(index=2)
    assert row.key_value_pairs["stable"] and row.key_value_pairs["density"] > 0
    # ASE keeps the name energy for its calculators, and refuses texts that read as numbers.
    assert row.data["energy"] == -0.25 and row.data["code"] == "12"
    assert not {"energy", "code"} & set(row.key_value_pairs)
    atoms = ase.io.read(tmp_path / "out.extxyz")
    assert atoms.cell.volume == pytest.approx(float(catalogue.crystals(1, [2]).volume))  # type: ignore[union-attr]
    item = json.loads((tmp_path / "out.json").read_text())[0]
    assert Structure.from_dict(item["structure"]).composition.reduced_formula == "LiF"
    assert (tmp_path / "out" / "1_000002_LiF.cif").is_file()
    assert (tmp_path / "out" / "crystals.tsv").read_text().count("\n") == 2


def test_nothing_is_overwritten_and_nothing_left_half_done(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(OutputError, match="exists; choose another name"):
        export(catalogue, tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == "mine"
    with pytest.raises(OutputError, match=r"cannot export to '\.xlsx'"):
        export(catalogue, tmp_path / "x.xlsx")
    with pytest.raises(OutputError, match="cannot write"):
        export(catalogue, tmp_path / "there.csv" / "x.csv")
    for what in ({"where": "enrgy < 1"}, {"columns": ["enrgy"]}, {"run": 7}, {"stage": "relaxed"}):
        with pytest.raises(RequestError):
            export(catalogue, tmp_path / "x.csv", **what)  # type: ignore[arg-type]
    before = sorted(tmp_path.iterdir())

    def broken(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for ending, function in ((".cif", "to_cif"), ("", "to_cif"), (".parquet", "to_cif"), (".db", "to_ase")):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["euhedral.crystal.convert"], function, broken)
            with pytest.raises(OutputError, match="No space left on device; nothing is left"):
                export(catalogue, tmp_path / f"x{ending}")
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("ending", [".cif", ".csv", ".db", ".json", ".extxyz", ".parquet"])
def test_a_full_disk(tmp_path: Path, small_disk: Callable[[str], Path], ending: str) -> None:
    disk = small_disk("size=64k")
    with Catalogue(tmp_path / "big.sqlite") as catalogue:
        add(catalogue, crystals(1_000))
        with pytest.raises(OutputError, match="cannot write"):
            export(catalogue, disk / f"out{ending}")
        assert list(disk.iterdir()) == []
