from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from catalog.batches import crystals, stretched
from euhedral.catalog.database import Catalogue
from euhedral.catalog.provenance import import_run, import_source
from euhedral.catalog.run_folder import LOG, SUMMARY, RunFolder
from euhedral.errors import DataError, OutputError

REQUEST = {"n": 4, "formula": None, "seed": 11, "model": "default", "weights": "f" * 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with RunFolder(tmp_path / "run", REQUEST) as run:
        run.add(crystals(4), range(4))
        run.finish({"versions": {"torch": "2"}, "device": "cpu"})
    return tmp_path / "run"


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue(tmp_path / "c.sqlite") as opened:
        yield opened


def test_a_run_with_all_that_is_known_of_it(folder: Path, catalogue: Catalogue) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = import_source(catalogue, folder)
    about = catalogue.run(run)
    assert (about.kind, about.model, about.seed, about.weights) == ("generate", "default", 11, "f" * 64)
    assert about.request == REQUEST
    assert about.provenance["versions"] == {"torch": "2"} and about.provenance["device"] == "cpu"
    assert about.provenance["source"] == str(folder)
    torch.testing.assert_close(catalogue.crystals(run).volume, crystals(4).volume, rtol=1e-12, atol=0)
    rows = catalogue.table(run).to_pylist()
    records = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    for row, record in zip(rows, records, strict=True):
        assert {name: row[name] for name in ("index", "name", "formula", "num_atoms", "space_group")} == {
            name: record[name] for name in ("index", "name", "formula", "num_atoms", "space_group")
        }
        assert row["smallest_distance"] == record["smallest_distance"]
    assert catalogue.columns(run)["smallest_distance"][1] == "Å"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_same_run_again_changes_nothing(folder: Path, catalogue: Catalogue) -> None:
    assert import_run(catalogue, folder) == import_run(catalogue, folder)
    assert len(catalogue.runs()) == 1 and catalogue.table().num_rows == 4


def test_an_unfinished_run_is_taken_in_only_where_asked(folder: Path, catalogue: Catalogue) -> None:
    summary = json.loads((folder / SUMMARY).read_text())
    (folder / SUMMARY).write_text(json.dumps({**summary, "status": "running"}))
    with (folder / LOG).open("a") as log:
        log.write('{"index": 4, "na')  # cut off by a kill
    with pytest.raises(OutputError, match=r"not finished \(status running\).*--resume.*--partial"):
        import_source(catalogue, folder)
    assert catalogue.runs() == []
    run = import_source(catalogue, folder, partial=True)
    assert catalogue.run(run).crystals == 4
    assert catalogue.run(run).provenance["status"] == "running"


def test_a_crystal_whose_file_is_gone_is_a_failure(folder: Path, catalogue: Catalogue) -> None:
    next((folder / "cif").glob("000002_*")).unlink()
    run = import_source(catalogue, folder)
    assert catalogue.run(run).crystals == 4
    [(index, stage, outcome, reason)] = catalogue.failures(run)
    assert (index, stage, outcome) == (2, "read", "failed") and "000002_" in reason
    assert catalogue.unfinished(run, "relax") == [0, 1, 3]


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (SUMMARY, "{", "cannot be read"),
        (SUMMARY, "[]", "cannot be read"),
        (SUMMARY, '{"request": 3, "status": "complete"}', "no summary"),
        (LOG, "not json\n", "cannot be read"),
        (LOG, "[]\n", "cannot be read"),
        (LOG, "", "holds no crystals"),
    ],
)
def test_damaged_runs(folder: Path, catalogue: Catalogue, file: str, text: str, said: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=said):
        import_source(catalogue, folder)
    assert catalogue.runs() == []


def test_what_is_no_run(tmp_path: Path, catalogue: Catalogue) -> None:
    with pytest.raises(DataError, match="no run of euhedral generate"):
        import_run(catalogue, tmp_path)
    with pytest.raises(DataError):
        import_source(catalogue, tmp_path / "nowhere.cif")


def test_any_source_with_its_labels_and_what_could_not_be_read(tmp_path: Path, catalogue: Catalogue) -> None:
    import csv

    from euhedral.crystal.convert import to_cif

    batch = crystals(2)
    rows = [
        {"material_id": "mp-1", "cif": to_cif(batch[0]), "Band Gap (eV)": "1.5", "note": "ok", "empty": ""},
        {"material_id": "mp-2", "cif": "nonsense", "Band Gap (eV)": "", "note": "7"},
        {"material_id": "mp-3", "cif": to_cif(batch[1]), "Band Gap (eV)": "0", "note": "2e1"},
    ]
    with (tmp_path / "t.csv").open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    run = import_source(catalogue, tmp_path / "t.csv")
    assert import_source(catalogue, tmp_path / "t.csv") == run
    about = catalogue.run(run)
    assert about.kind == "import" and about.request == {"source": "t.csv"}
    assert len(about.provenance["sha256"]) == 64 and "python" in about.provenance["versions"]
    table = catalogue.table(run, columns=["name", "num_atoms", "given_band_gap_ev", "given_note"])
    assert table.to_pylist() == [
        {"name": "mp-1", "num_atoms": 2, "given_band_gap_ev": 1.5, "given_note": "ok"},
        {"name": "mp-2", "num_atoms": 0, "given_band_gap_ev": None, "given_note": "7.0"},
        {"name": "mp-3", "num_atoms": 2, "given_band_gap_ev": 0.0, "given_note": "20.0"},
    ]
    assert [(index, stage) for index, stage, *_ in catalogue.failures(run)] == [(1, "read")]


def test_a_run_screened_elsewhere_goes_on_here(folder: Path, catalogue: Catalogue) -> None:
    from euhedral.screen.stage import StageRecord

    run = import_source(catalogue, folder)
    changed = stretched(catalogue.crystals(run), 1.1)
    catalogue.record(run, "relax", 1, [StageRecord(index=0, outcome="passed", crystal=changed[0])])
    assert import_source(catalogue, folder) == run
    assert catalogue.unfinished(run, "relax") == [1, 2, 3]
