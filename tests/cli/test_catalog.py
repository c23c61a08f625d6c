from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from catalog.batches import add, crystals, stretched
from euhedral.catalog.database import Catalogue
from euhedral.catalog.run_folder import RunFolder
from euhedral.cli.app import app
from euhedral.data.samples import read_samples
from euhedral.errors import DataError, EuhedralError, RequestError
from euhedral.screen.stage import Column, StageRecord


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a catalogue of three crystals, two of them relaxed and one that failed."""
    monkeypatch.delenv("EUHEDRAL_CATALOG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    batch = crystals(3)
    with Catalogue(tmp_path / "run") as catalogue:
        run = add(catalogue, batch)
        catalogue.add_stage(
            run,
            stage="relax",
            version=1,
            config={"steps": 5},
            columns={"energy": Column(unit="eV/atom", meaning="energy")},
        )
        records = [
            StageRecord(index=0, outcome="passed", values={"energy": -1.0}, crystal=stretched(batch[0], 1.1)),
            StageRecord(index=1, outcome="passed", values={"energy": -2.0}),
            StageRecord(index=2, outcome="failed", reason="died [of something]"),
        ]
        catalogue.record(run, "relax", 1, records)
    return tmp_path / "run"


def invoke(*words: str | Path) -> Result:
    result = CliRunner().invoke(app, ["catalog", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def told(*words: str | Path) -> Any:
    return json.loads(invoke(*words, "--json").stdout)


def test_list(folder: Path) -> None:
    [run] = told("list", folder)
    assert (run["id"], run["kind"], run["seed"], run["crystals"]) == (1, "test", 7, 3)
    assert run["stages"][0]["outcomes"] == {"failed": 1, "passed": 2}
    shown = invoke("list", folder).output
    assert "1 run in" in shown and "relax 3" in shown


def test_show_a_run_and_a_crystal(folder: Path) -> None:
    run = told("show", folder)
    assert run["stages"]["relax"]["config"] == {"steps": 5} and run["failures"] == 1
    assert run["columns"]["energy"] == "number, eV/atom, energy"
    crystal = told("show", folder, "--index", "2")
    assert crystal["failures"] == ["relax: died [of something]"]
    assert crystal["cif"].startswith("data_crystal-2") and "energy" not in crystal
    assert "relax_reason: died [of something]" in invoke("show", folder, "--index", "2").output
    assert "energy: number, eV/atom, energy" in invoke("show", folder, "--run", "1").output
    with pytest.raises(RequestError, match="no crystal 3"):
        invoke("show", folder, "--index", "3")


def test_query(folder: Path) -> None:
    assert [row["index"] for row in told("query", folder, "--where", "energy < 0", "--sort", "energy")] == [1, 0]
    assert told("query", folder, "--columns", "index, energy", "--limit", "1") == [{"index": 0, "energy": -1.0}]
    assert told("query", folder, "--where", "energy > 5") == []
    shown = invoke("query", folder, "--where", "energy < -1.5").output
    assert "MgO" in shown and "NaCl" not in shown
    assert "further columns: name, chemical_system" in shown
    assert "NaCl" in invoke("query", folder, "--columns", "formula").output
    with pytest.raises(RequestError, match="did you mean energy"):
        invoke("query", folder, "--where", "enrgy < 0")
    with pytest.raises(RequestError, match="--columns takes names"):
        invoke("query", folder, "--columns", ",")


def test_query_shows_so_many_rows_and_says_so(tmp_path: Path) -> None:
    with Catalogue(tmp_path) as catalogue:
        add(catalogue, crystals(60))
    assert "the first 50 are shown" in invoke("query", tmp_path).output
    assert "are shown" not in invoke("query", tmp_path, "--limit", "3").output
    assert len(told("query", tmp_path)) == 60


def test_export(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "best.extxyz"
    assert told("export", folder, out, "--where", "energy < 0", "--sort", "energy")["crystals"] == 2
    assert [label["index"] for label in read_samples(out).labels] == [1, 0]
    assert "3 crystals in" in invoke("export", folder, tmp_path / "all.csv", "--no-structures").output
    assert (tmp_path / "all.csv").read_text().splitlines()[0].startswith("run,index,name,formula")


def test_import_a_run_into_its_own_folder_or_elsewhere(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder(tmp_path / "generated", {"seed": 1}) as run:
        run.add(crystals(2), range(2))
        run.finish({})
    assert told("import", tmp_path / "generated") == {
        "catalogue": str(tmp_path / "generated" / "catalog.sqlite"),
        "run": 1,
        "crystals": 2,
        "unreadable": 0,
    }
    assert "run 2 of" in invoke("import", tmp_path / "generated", "--to", folder).output
    with pytest.raises(RequestError, match="has 2 runs; name one with --run"):
        invoke("show", folder)
    monkeypatch.setenv("EUHEDRAL_CATALOG", str(folder))
    assert [run["id"] for run in told("list")] == [1, 2]
    with pytest.raises(RequestError, match="nothing at"):
        invoke("import", tmp_path / "nowhere")


def test_a_file_needs_a_catalogue_to_go_to(folder: Path, tmp_path: Path) -> None:
    source = crystals(2).write(tmp_path / "two.extxyz")[0]
    with pytest.raises(RequestError, match="--to names the catalogue"):
        invoke("import", source)
    assert told("import", source, "--to", tmp_path / "new.sqlite")["crystals"] == 2


def test_missing_catalogues(tmp_path: Path) -> None:
    for command in ("list", "show", "query"):
        with pytest.raises(DataError, match="no catalogue at"):
            invoke(command, tmp_path)
    with pytest.raises(EuhedralError, match="no catalogue at"):
        invoke("export", tmp_path, tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []


def test_errors_reach_the_user_as_one_line_and_exit_code_2(folder: Path) -> None:
    (folder / "catalog.sqlite").write_bytes(b"no database" * 1000)
    command = [sys.executable, "-m", "euhedral.cli.app", "catalog", "query", str(folder), "--where", "energy <"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("euhedral: the catalogue") and result.stderr.count("\n") == 1
    assert "is damaged or is no database" in result.stderr and "Traceback" not in result.stderr
