from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from data.crystal_sources import ROCK_SALT, cif, csv_text
from euhedral.crystal.batch import CrystalBatch
from euhedral.data import samples as samples_module
from euhedral.data.convert import convert
from euhedral.data.entries import Entry
from euhedral.data.samples import from_batch, from_objects, joined, limited, read_samples
from euhedral.errors import ConfigError, DataError


def test_broken_rows_keep_their_place_and_reason(small_csv: Path) -> None:
    found = read_samples(small_csv)
    assert len(found) == len(found.ids) == len(found.reasons) == len(found.labels) == 15
    broken = [i for i, reason in enumerate(found.reasons) if reason is not None]
    assert [found.ids[i] for i in broken] == ["bad-text", "bad-volume", "bad-empty"]
    assert found.crystals.num_atoms[broken].tolist() == [0, 0, 0]
    assert found.crystals.cell[broken].abs().max() == 0
    assert found.ids[4] == "m-3" and int(found.crystals.num_atoms[4]) == 1
    assert found.crystals.frac.dtype == torch.float64 and found.source == str(small_csv)


def test_many_rows_are_read_by_processes_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"m-{i}", cif(["Li", "O"][: i % 2 + 1], seed=i) if i % 7 else "no CIF", "") for i in range(60)]
    (tmp_path / "many.csv").write_text(csv_text([tuple(row) for row in rows]))
    alone = read_samples(tmp_path / "many.csv")
    monkeypatch.setattr(samples_module, "CHUNK", 16)
    monkeypatch.setattr(samples_module, "WORTH_PROCESSES", 32)
    seen: list[int] = []
    together = read_samples(tmp_path / "many.csv", workers=2, progress=lambda done, _: seen.append(done))
    assert together.ids == alone.ids and together.reasons == alone.reasons
    assert torch.equal(together.crystals.frac, alone.crystals.frac)
    assert seen[-1] == 60 and seen == sorted(seen)


@dataclass(frozen=True)
class Trap:
    """What calls a function of a module in the process that reads it."""

    function: Callable[[Any], object]
    argument: Any

    def __reduce__(self) -> tuple[Callable[[Any], object], tuple[Any]]:
        return self.function, (self.argument,)


def test_a_crystal_that_hangs_or_kills_its_reader_is_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def entries(*_: object, **__: object) -> Iterator[Entry]:
        yield Entry("good", "cif", ROCK_SALT)
        yield Entry("kills", "cif", Trap(os._exit, 3))
        yield Entry("hangs", "cif", Trap(time.sleep, 600), labels={"x": 1.0})
        yield Entry("fills", "cif", Trap(bytearray, 2**62))
        yield Entry("last", "cif", ROCK_SALT)

    monkeypatch.setattr(samples_module, "source_entries", entries)
    found = read_samples("x.cif", seconds_per_crystal=2.0)
    assert found.ids == ("good", "kills", "hangs", "fills", "last") and found.labels[2] == {"x": 1.0}
    assert found.crystals.num_atoms.tolist() == [8, 0, 0, 0, 8]
    assert found.reasons[:3] == (
        None,
        "it could not be read: the worker process ended (memory?)",
        "it could not be read: not decided within 2 s",
    )
    assert "want of memory" in str(found.reasons[3]) and found.reasons[4] is None


def test_a_time_limit_is_positive() -> None:
    with pytest.raises(ConfigError, match="seconds_per_crystal"):
        read_samples("x.cif", seconds_per_crystal=0.0)


def test_the_limit_of_atoms_holds_wherever_crystals_come_from(tmp_path: Path, small_csv: Path) -> None:
    batch = CrystalBatch.from_crystals(
        [
            (torch.eye(3) * (3 + n), torch.arange(3 * n).reshape(n, 3) / (3 * n), torch.arange(1, n + 1))
            for n in (2, 3, 1, 4)
        ]
    )
    whole = from_batch(batch)
    found = limited(whole, 2)
    assert found.crystals.num_atoms.tolist() == [2, 0, 1, 0] and found.crystals.species.tolist() == [1, 2, 1]
    assert torch.equal(found.crystals.frac, torch.cat([batch[0].frac, batch[2].frac]).double())
    assert found.crystals.cell[:, 0, 0].tolist() == [5.0, 0.0, 4.0, 0.0]
    assert found.reasons == (None, "3 atoms, more than the limit of 2", None, "4 atoms, more than the limit of 2")
    assert limited(whole, 4) is whole
    convert(small_csv, tmp_path / "small.arrow", reduce="none")
    stored = read_samples(tmp_path / "small.arrow")
    most = int(stored.crystals.num_atoms.max())
    assert most > 1 and read_samples(tmp_path / "small.arrow", limit_atoms=most).reasons == stored.reasons
    fewer = read_samples(tmp_path / "small.arrow", limit_atoms=most - 1)
    assert int(fewer.crystals.num_atoms.max()) < most and any("more than the limit" in str(r) for r in fewer.reasons)


def test_folders_zips_and_stores(tmp_path: Path, small_csv: Path) -> None:
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "a.cif").write_text(ROCK_SALT)
    (folder / "b.cif").write_text("nothing")
    found = read_samples(folder)
    assert found.ids == ("a", "b") and found.reasons[0] is None and found.reasons[1] is not None
    with zipfile.ZipFile(tmp_path / "cifs.zip", "w") as archive:
        archive.writestr("x/a.cif", ROCK_SALT)
    assert len(read_samples(tmp_path / "cifs.zip")) == 1
    convert(small_csv, tmp_path / "small.arrow")
    stored = read_samples(tmp_path / "small.arrow")
    assert len(stored) == 12 and stored.labels[1] == {"band_gap": 0.5} and stored.labels[0] == {}


def test_a_run_folder_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "cif").mkdir()
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "cif" / "000000_NaCl.cif").write_text(ROCK_SALT)
    batch = read_samples(tmp_path / "cif").crystals
    batch.write(tmp_path / "crystals.extxyz")
    batch.write(tmp_path / "crystals.parquet")
    assert len(read_samples(tmp_path)) == 1
    table = read_samples(tmp_path / "crystals.parquet")
    assert len(table) == 1 and table.crystals.num_atoms.tolist() == [8]


def test_a_pt_file_with_draws(tmp_path: Path) -> None:
    document = {
        "frac_coords": torch.rand(2, 3, 3),
        "atom_types": torch.ones(2, 3, dtype=torch.int64),
        "num_atoms": torch.tensor([[1, 2], [1, 2]]),
        "lengths": torch.full((2, 2, 3), 4.0),
        "angles": torch.full((2, 2, 3), 90.0),
    }
    torch.save(document, tmp_path / "x.pt")
    found = read_samples(tmp_path / "x.pt")
    assert found.draws == 2 and len(found) == 4
    torch.testing.assert_close(found.draw(1).frac, document["frac_coords"][1].double())


def test_objects_of_other_libraries() -> None:
    from ase import Atoms
    from pymatgen.core import Lattice, Structure

    ordered = Structure(Lattice.cubic(4), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    partial = Structure(Lattice.cubic(4), [{"Cs": 0.5, "Rb": 0.5}], [[0, 0, 0]])
    slab = Atoms("H", cell=[4, 4, 4], pbc=[True, True, False])
    found = from_objects([ordered, partial, ordered, slab, Atoms("H", cell=[4, 4, 4], pbc=True)])
    assert found.crystals.num_atoms.tolist() == [2, 0, 2, 0, 1]
    assert [reason is None for reason in found.reasons] == [True, False, True, False, True]
    assert "partially occupied" in str(found.reasons[1])
    with pytest.raises(DataError, match="object 0 is a str"):
        from_objects(["Cs"])


def test_draws_must_be_equally_many() -> None:
    one = from_batch(CrystalBatch.from_crystals([(torch.eye(3), torch.zeros(1, 3), torch.tensor([3]))]))
    two = joined([one, one], as_draws=False)
    assert len(two) == 2 and two.draws == 1
    assert joined([two, two], as_draws=True).draws == 2
    with pytest.raises(DataError, match=r"equally many, but they have \[1, 2\]"):
        joined([one, two], as_draws=True)
    with pytest.raises(DataError, match="no samples"):
        joined([], as_draws=True)


@pytest.mark.parametrize("name", ["missing.csv", "missing.parquet", "missing.pt"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no file"):
        read_samples(tmp_path / name)


def test_files_without_crystals(tmp_path: Path) -> None:
    (tmp_path / "header.csv").write_text("material_id,cif\n")
    with pytest.raises(DataError, match="holds no crystals"):
        read_samples(tmp_path / "header.csv")
    (tmp_path / "broken.parquet").write_text("x")
    with pytest.raises(DataError, match="not a parquet file"):
        read_samples(tmp_path / "broken.parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"formula": ["x"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column 'cif'"):
        read_samples(tmp_path / "other.parquet")
    pq.write_table(pa.table({"cif": [ROCK_SALT, None]}), tmp_path / "null.parquet")
    assert read_samples(tmp_path / "null.parquet").reasons == (None, "column 'cif' is empty")


def test_a_file_of_no_known_format_names_the_formats_of_samples_too(tmp_path: Path) -> None:
    (tmp_path / "crystals.xyzzy").write_text("no crystals")
    with pytest.raises(DataError, match=r"no known format; known endings: \.cif.*\.arrow \(a store\), \.parquet, \.pt"):
        read_samples(tmp_path / "crystals.xyzzy")
