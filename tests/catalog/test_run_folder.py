from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from euhedral.catalog.run_folder import CIFS, FRAMES, LOG, SUMMARY, TABLE, RunFolder, free_folder
from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import OutputError


def rock_salt(a: float = 5.64) -> CrystalBatch:
    cell = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]], dtype=torch.float64) * a
    frac = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor([11, 17]))])


def several(count: int) -> CrystalBatch:
    return CrystalBatch.concat([rock_salt(5.0 + 0.1 * k) for k in range(count)])


def test_all_files_agree(tmp_path: Path) -> None:
    import ase.io

    with RunFolder(tmp_path / "run", {"n": 3}) as run:
        run.add(several(2), range(2))
        run.add(rock_salt(), [2])
        run.finish({"constraints": {}})
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert (summary["status"], summary["crystals"], summary["request"]) == ("complete", 3, {"n": 3})
    table = pyarrow.parquet.read_table(tmp_path / "run" / TABLE).to_pylist()
    assert [row["index"] for row in table] == [0, 1, 2]
    assert [row["space_group"] for row in table] == [225] * 3
    assert table[2]["density"] == pytest.approx(2.163, abs=0.01)
    assert table[2]["smallest_distance"] == pytest.approx(2.82, abs=1e-3)
    frames = ase.io.read(tmp_path / "run" / FRAMES, ":")
    assert [frame.info["name"] for frame in frames] == [row["name"] for row in table]
    assert frames[2].cell.volume == pytest.approx(table[2]["volume"], rel=1e-6)
    assert len(list((tmp_path / "run" / CIFS).iterdir())) == 3
    torch.testing.assert_close(run.crystals()[2].volume, rock_salt().volume, rtol=1e-6, atol=0)


def test_never_overwrites_unless_asked(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunFolder(folder, {"n": 1}) as run:
        run.add(rock_salt(), [0])
        run.finish({})
    before = (folder / SUMMARY).read_bytes()
    with pytest.raises(OutputError, match="--overwrite or --resume"):
        RunFolder(folder, {"n": 1})
    assert (folder / SUMMARY).read_bytes() == before
    with RunFolder(folder, {"n": 1}, overwrite=True) as run:
        assert not run.records and not list((folder / CIFS).iterdir())
    other = tmp_path / "precious"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError):
            RunFolder(other, {}, **options)
    assert (other / "thesis.tex").read_text() == "years of work"


def test_resume_takes_up_whole_records_only(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunFolder(folder, {"n": 3}) as run:
        run.add(several(3), range(3))
    log = (folder / LOG).read_bytes()
    (folder / LOG).write_bytes(log[:-20])  # the last record is cut off
    (folder / CIFS / f"{run.records[1].name}.cif").unlink()
    with pytest.raises(OutputError, match="another request"):
        RunFolder(folder, {"n": 4}, resume=True)
    with RunFolder(folder, {"n": 3}, resume=True) as again:
        assert again.written == {0}
        again.add(several(3), range(3))
        assert again.written == {0, 1, 2}
        again.finish({})
    assert len((folder / LOG).read_text().splitlines()) == 3
    assert (folder / FRAMES).read_text().count("Lattice=") == 3


def test_free_folder_counts_up(tmp_path: Path) -> None:
    assert free_folder(tmp_path, "crystals").name == "crystals-001"
    (tmp_path / "crystals-001").mkdir()
    assert free_folder(tmp_path, "crystals").name == "crystals-002"


def test_failure_is_written_down(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run", {}) as run:
        run.add(rock_salt(), [0])
        raise ZeroDivisionError
    assert json.loads((tmp_path / "run" / SUMMARY).read_text())["status"] == "failed"
    assert (tmp_path / "run" / TABLE).is_file()


def test_a_file_in_the_way_or_a_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        RunFolder(tmp_path / "file" / "run", {})
    run = RunFolder(tmp_path / "run", {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("euhedral.catalog.run_folder.os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        run.add(rock_salt(), [0])


WRITER = """
    import sys
    sys.path[:0] = {paths!r}
    from test_run_folder import several
    from pathlib import Path
    from euhedral.catalog.run_folder import RunFolder
    import euhedral.catalog.run_folder as module
    module.SECONDS_BETWEEN_TABLES = 0.0
    with RunFolder(Path({folder!r}), {{"n": 500}}, resume={resume}) as run:
        print("ready", flush=True)
        for first in range(0, 500, 5):
            run.add(several(5), range(first, first + 5))
        run.finish({{}})
"""


@pytest.mark.parametrize("delay", [0.05, 0.4])
def test_kill_9_leaves_whole_files_and_the_run_goes_on(tmp_path: Path, delay: float) -> None:
    folder, here = tmp_path / "run", Path(__file__).parent
    script = WRITER.format(paths=[str(here)], folder=str(folder), resume=False)
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert json.loads((folder / SUMMARY).read_text())["status"] == "running"
    for file in (folder / CIFS).glob("*.cif"):
        assert file.read_text().rstrip().splitlines()[-1].split()[1] in {"Na", "Cl"}
    if (folder / TABLE).exists():
        pyarrow.parquet.read_table(folder / TABLE)
    with RunFolder(folder, {"n": 500}, resume=True) as run:
        assert 0 <= len(run.written) < 500
        run.add(several(5), range(495, 500))
        run.finish({})
    assert (folder / FRAMES).read_text().count("Lattice=") == len(run.written)
    assert {file.stem for file in (folder / CIFS).glob("*.cif")} == {record.name for record in run.records}
