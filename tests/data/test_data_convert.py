from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data.crystal_sources import ROCK_SALT, cif, csv_text
from euhedral.crystal.geometry import smallest_distance
from euhedral.data import convert as module
from euhedral.data import spool as spool_module
from euhedral.data.convert import ConversionReport, convert
from euhedral.data.entries import Entry
from euhedral.data.spool import ConvertedChunk
from euhedral.data.store import CrystalStore
from euhedral.data.worker import Unanswered
from euhedral.errors import DataError, OutputError


def lines_of(report: ConversionReport) -> list[dict]:
    return [json.loads(line) for line in report.report.read_text().splitlines()]


def test_a_csv_becomes_a_store(small_csv: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    out = tmp_path / "new" / "small.arrow"
    report = convert(small_csv, out, progress=lambda rows, failed: seen.append((rows, failed)))
    assert (report.rows, report.kept, report.failed) == (15, 12, 3)
    assert [(f.row, f.id) for f in report.failures] == [(3, "bad-text"), (7, "bad-volume"), (14, "bad-empty")]
    assert all(f.reason for f in report.failures)
    assert seen[-1] == (15, 3)
    *failures, summary = lines_of(report)
    assert failures == [{"row": f.row, "id": f.id, "reason": f.reason} for f in report.failures]
    assert (summary["summary"]["rows"], summary["summary"]["kept"], summary["summary"]["failed"]) == (15, 12, 3)
    assert sorted(path.name for path in out.parent.iterdir()) == ["small.arrow", "small.arrow.report.jsonl"]
    with CrystalStore.open(out) as store:
        assert store.ids() == [f"m-{i}" for i in range(12)]
        assert store.num_atoms.tolist() == [1, 2, 3] * 4
        gaps = [np.nan if i % 4 == 0 else i / 2 for i in range(12)]
        assert np.array_equal(store.labels("band_gap"), gaps, equal_nan=True)
        store.crystals(slice(None)).validate()


def test_cells_are_reduced_to_the_niggli_cell_of_the_primitive_one(tmp_path: Path) -> None:
    source = tmp_path / "salt.cif"
    source.write_text(ROCK_SALT)
    convert(source, tmp_path / "reduced.arrow")
    convert(source, tmp_path / "given.arrow", reduce="none")
    with CrystalStore.open(tmp_path / "reduced.arrow") as store:
        reduced = store.crystals([0])
        assert store.summary()["reduce"] == "niggli"
    with CrystalStore.open(tmp_path / "given.arrow") as store:
        given = store.crystals([0])
    assert reduced.num_atoms.tolist() == [2] and given.num_atoms.tolist() == [8]
    # The Niggli cell of a face-centred cube: three vectors of a / sqrt 2 at 60 degrees.
    metric = reduced.cell[0] @ reduced.cell[0].T
    assert torch.allclose(metric, 5.64**2 / 4 * (torch.ones(3, 3) + torch.eye(3)), atol=1e-4)
    assert float(smallest_distance(reduced)) == pytest.approx(5.64 / 2, abs=1e-4)
    assert float(reduced.density) == pytest.approx(float(given.density), rel=1e-5)


def test_a_skewed_cell_keeps_its_crystal(tmp_path: Path) -> None:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.from_parameters(4, 5, 6, 80, 95, 100), ["Li", "Mn", "O"], np.eye(3) * 0.3)
    skewed = structure.copy()
    skewed.make_supercell([[1, 3, 0], [0, 1, 2], [0, 0, 1]])
    (tmp_path / "s.json").write_text(json.dumps([skewed.as_dict()]))
    convert(tmp_path / "s.json", tmp_path / "s.arrow")
    with CrystalStore.open(tmp_path / "s.arrow") as store:
        found = store.crystals([0])
    assert sorted(found.cell[0].norm(dim=-1).tolist()) == pytest.approx([4, 5, 6], abs=1e-4)
    assert StructureMatcher(primitive_cell=False).fit(found.to_pymatgen()[0], structure)


def test_ids_that_occur_again_are_told_apart(tmp_path: Path) -> None:
    rows = [("a", cif(["Li"], seed=1)), ("a", cif(["Na"], seed=2)), ("a#2", cif(["K"])), ("a", cif(["Rb"]))]
    (tmp_path / "d.csv").write_text(csv_text(rows, "material_id,cif"))
    report = convert(tmp_path / "d.csv", tmp_path / "d.arrow")
    with CrystalStore.open(tmp_path / "d.arrow") as store:
        ids = store.ids()
        assert store.crystals(slice(None)).species.tolist() == [3, 11, 19, 37]
    assert ids[:2] == ["a", "a#2"] and len(set(ids)) == 4
    assert "3 ids had occurred before" in report.warnings[0]


@pytest.mark.parametrize("count", [1, 3, 7])
def test_record_batches_of_any_size_hold_the_same(
    small_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(spool_module, "ROWS_PER_BATCH", count)
    monkeypatch.setattr(module, "CHUNK", 4)
    convert(small_csv, tmp_path / "s.arrow")
    with CrystalStore.open(tmp_path / "s.arrow") as store:
        assert store.ids() == [f"m-{i}" for i in range(12)]
        assert store.crystals([11]).num_atoms.tolist() == [3]


def test_workers_give_the_same_store(small_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    before = dict(os.environ)
    alone = convert(small_csv, tmp_path / "one.arrow")
    together = convert(small_csv, tmp_path / "two.arrow", workers=2)
    assert alone.failures == together.failures
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "two.arrow").read_bytes()
    assert dict(os.environ) == before


def test_a_lost_entry_becomes_a_failure() -> None:
    chunk = module._lost_chunk([Entry("x"), Entry("y")], Unanswered("it died"))
    assert isinstance(chunk, ConvertedChunk)
    assert chunk.failures == tuple((i, name, "it could not be read: it died") for i, name in enumerate("xy"))


def test_atoms_on_each_other_keep_their_cell(tmp_path: Path) -> None:
    on_top = ROCK_SALT.replace("Na Na1 0.0 0.5 0.5 1", "Na Na1 0.0 0.0 0.0 1")
    rows = [("good", ROCK_SALT), ("on-top", on_top)]
    (tmp_path / "d.csv").write_text(csv_text(rows, "material_id,cif"))
    report = convert(tmp_path / "d.csv", tmp_path / "d.arrow")
    # Whatever is made of the second, the first one is whole and every row is accounted for.
    with CrystalStore.open(tmp_path / "d.arrow") as store:
        assert store.ids()[0] == "good" and store.num_atoms[0] == 2
        assert len(store) + report.failed == 2


def test_existing_stores_are_kept(small_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.arrow"
    out.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        convert(small_csv, out)
    assert out.read_text() == "precious"
    with pytest.raises(OutputError, match="is a folder"):
        convert(small_csv, tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        convert(small_csv, small_csv / "below-a-file.arrow")
    convert(small_csv, out, overwrite=True)
    CrystalStore.open(out).close()


def test_a_store_that_appears_meanwhile_is_kept(small_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.arrow"
    with pytest.raises(OutputError, match="exists already"):
        convert(small_csv, out, progress=lambda rows, failed: out.write_text("precious") and None)
    assert out.read_text() == "precious"
    assert not list(tmp_path.glob(".s.arrow*"))


def test_nothing_to_keep_is_an_error_with_a_report(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text(csv_text([("x", "no cif"), ("y", "")], "material_id,cif"))
    with pytest.raises(DataError, match=r"none of the 2 rows .* row 0 \('x'\)"):
        convert(tmp_path / "b.csv", tmp_path / "b.arrow")
    report = (tmp_path / "b.arrow.report.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in report] == ["x", "y"]
    assert not (tmp_path / "b.arrow").exists()
    (tmp_path / "h.csv").write_text("material_id,cif\n")
    with pytest.raises(DataError, match="holds no rows"):
        convert(tmp_path / "h.csv", tmp_path / "h.arrow")


@pytest.mark.parametrize("options", [{"workers": 0}, {"reduce": "primitive"}])
def test_arguments_out_of_range(small_csv: Path, tmp_path: Path, options: dict) -> None:
    with pytest.raises(DataError, match="must be"):
        convert(small_csv, tmp_path / "s.arrow", **options)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_conversions_leave_no_store_and_can_be_repeated(small_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "k.arrow"
    script = textwrap.dedent(f"""
        import time
        from euhedral.data import convert as module
        module.CHUNK = 4
        def stall(rows, failed):
            print(rows, flush=True)
            if rows >= 8:
                time.sleep(600)
        module.convert({str(small_csv)!r}, {str(out)!r}, progress=stall)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in range(2)] == ["4", "8"]
        assert list(tmp_path.glob(".k.arrow*")) and not out.exists()
        process.kill()
        process.wait()
    assert not out.exists() and not (tmp_path / "k.arrow.report.jsonl").exists()
    assert convert(small_csv, out).kept == 12
    assert len(CrystalStore.open(out)) == 12


def test_the_benchmark_files(shared_data: Path, tmp_path: Path) -> None:
    """A head of each published file: all rows kept, all scalar labels there."""
    import gzip

    expected = {
        "mp_20": ("space_group", "formation_energy_per_atom", "band_gap", "e_above_hull"),
        "perov_5": ("heat_all", "heat_ref", "dir_gap", "ind_gap"),
        "carbon_24": ("energy_per_atom",),
        "mpts_52": ("theoretical", "energy_above_hull", "formation_energy_per_atom", "year"),
    }
    started = time.process_time()
    for name, labels in expected.items():
        with gzip.open(shared_data / name / "val.csv.gz", "rt") as whole:
            head = "".join(line for line, _ in zip(whole, range(4000), strict=False))
        path = tmp_path / f"{name}.csv"
        path.write_text(head[: head.rindex('\n"') if name in ("mp_20", "mpts_52") else head.rindex('\n",') + 1])
        report = convert(path, tmp_path / f"{name}.arrow")
        assert report.rows > 50 and report.failed <= 1  # the head may cut its last row
        with CrystalStore.open(report.store) as store:
            assert set(labels) <= set(store.numeric_column_names)
            store.crystals(slice(None)).validate()
            if name == "mp_20":
                groups = store.labels("space_group")
                assert ((groups >= 1) & (groups <= 230)).all()
    assert time.process_time() - started < 60
