from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from euhedral.cli.assignments import parse_assignments
from euhedral.cli.generate import parse_atom_range
from euhedral.errors import RequestError
from euhedral.testing.crystals import perovskite


def euhedral(*words: str, cwd: Path, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "euhedral.cli.app", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=seconds)


def test_one_command_gives_crystals_in_every_format(tmp_path: Path, tiny_checkpoint: Path) -> None:
    import ase.io
    from pymatgen.core import Structure

    result = euhedral(
        *("generate", "--formula", "LiMnO2", "-n", "3", "--steps", "3", "--json", "--model", str(tiny_checkpoint)),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    folder = Path(summary["folder"])
    assert folder == tmp_path / "crystals-001"
    assert summary["status"] == "complete"
    assert summary["constraints"]["formula"] == {"met": 3, "total": 3, "share": 1.0, "kind": "by construction"}
    assert summary["request"]["seed"] == 0 and len(summary["request"]["weights"]) == 64
    assert summary["versions"]["torch"]
    files = sorted((folder / "cif").glob("*.cif"))
    assert [Structure.from_file(file).composition.reduced_formula for file in files] == ["LiMnO2"] * 3
    assert len(ase.io.read(folder / "crystals.extxyz", ":")) == 3
    assert pyarrow.parquet.read_table(folder / "crystals.parquet").num_rows == 3
    page = (folder / "index.html").read_text()
    assert "LiMnO" in page or "Li" in page
    assert 'src="http' not in page and 'href="http' not in page


def test_table_names_soft_conditions(tmp_path: Path, tiny_checkpoint: Path) -> None:
    words = ("generate", "--space-group", "225", "-n", "2", "--steps", "2", "--guidance", "2", "--out", "run")
    result = euhedral(*words, "--property", "band_gap=2.0", "--model", str(tiny_checkpoint), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "of 2 (soft)" in result.stdout
    again = euhedral(*words, "--model", str(tiny_checkpoint), cwd=tmp_path)
    assert again.returncode == 2
    assert "--overwrite or --resume" in again.stderr


def test_parts_of_a_template_are_kept_in_a_run_that_goes_on(tmp_path: Path, tiny_checkpoint: Path) -> None:
    perovskite().write(tmp_path / "host.cif")
    words = ("generate", "--template", "host.cif", "--fix", "lattice", "--fix", "sites:Ti,O", "-n", "2", "--steps", "2")
    words = (*words, "--out", "run", "--model", str(tiny_checkpoint))
    result = euhedral(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "template: 2 of 2 (by construction)" in result.stdout
    page = next(tmp_path.glob("*/index.html")).read_text()
    assert "lattice, 4 positions, 4 species" in page
    assert euhedral(*words, "--resume", cwd=tmp_path).returncode == 0
    other = euhedral(*words[:5], *words[7:], "--resume", cwd=tmp_path)
    assert other.returncode == 2 and "template" in other.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--formula", "Xq2"), "Xq"),
        (("--formula", "LiMnO2", "--exclude-elements", "O"), "excluded"),
        (("--formula", "Al17Mg12"), "does not fit"),
        (("--num-atoms", "many"), "--num-atoms"),
        (("--property", "band_gap"), "NAME=VALUE"),
        (("--property", "colour=2"), "unknown property"),
        (("--model", "nope"), "no model 'nope'"),
        (("-n", "0"), "-n must be"),
        (("--device", "abacus"), "no device 'abacus'"),
        (("--formula", "LiMnO2", "--z", "0"), "at least 1, not 0"),
        (("--batch", "0"), "--batch"),
        (("--fix", "lattice"), "--template FILE and --fix PART go together"),
        (("--template", "host.cif"), "--template FILE and --fix PART go together"),
        (("--template", "host.cif", "--fix", "lattice"), "host.cif"),
    ],
)
def test_bad_requests_exit_with_2_and_no_traceback(
    tmp_path: Path, tiny_checkpoint: Path, words: tuple[str, ...], message: str
) -> None:
    model = () if "--model" in words else ("--model", str(tiny_checkpoint))
    result = euhedral("generate", *words, *model, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_unknown_option_exits_with_2(tmp_path: Path) -> None:
    assert euhedral("generate", "--colour", "red", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_is_whole_and_goes_on(tmp_path: Path, tiny_checkpoint: Path, how: signal.Signals) -> None:
    words = ["generate", "-n", "40", "--steps", "8", "--batch", "2", "--seed", "5", "--model", str(tiny_checkpoint)]
    command = [sys.executable, "-m", "euhedral.cli.app", *words]
    process = subprocess.Popen(
        [*command, "--out", "run"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # Tests that run in the background of a shell inherit an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log = tmp_path / "run" / "records.jsonl"
    deadline = time.time() + 240
    while not (log.exists() and log.stat().st_size) and time.time() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, how)
    _, errors = process.communicate(timeout=60)
    assert b"Traceback" not in errors
    assert process.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL)
    if how is signal.SIGINT:
        assert b"of 40 crystals are in run; the same command with --out run --resume goes on" in errors
    written = len(list((tmp_path / "run" / "cif").glob("*.cif")))
    assert 0 < written < 40
    resumed = euhedral(*words, "--out", "run", "--resume", "--json", cwd=tmp_path, seconds=400)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["crystals"] == 40
    table = pyarrow.parquet.read_table(tmp_path / "run" / "crystals.parquet")
    assert table.column("index").to_pylist() == list(range(40))
    whole = euhedral(*words, "--out", "whole", "--json", cwd=tmp_path, seconds=400)
    assert _frames(tmp_path / "run") == _frames(tmp_path / "whole")
    for name in ("redrawn_for_overlapping_atoms", "overlapping"):
        assert json.loads(whole.stdout)[name] == json.loads(resumed.stdout)[name]


def _frames(run: Path) -> list[str]:
    """Frames of the extxyz, in an order of their own."""
    lines, frames = (run / "crystals.extxyz").read_text().splitlines(), []
    while lines:
        end = 2 + int(lines[0])
        frames.append("\n".join(lines[:end]))
        lines = lines[end:]
    return sorted(frames)


def test_same_seed_writes_the_same_files(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for name in ("a", "b"):
        words = ("generate", "-n", "4", "--steps", "3", "--seed", "9", "--model", str(tiny_checkpoint), "--out", name)
        assert euhedral(*words, cwd=tmp_path).returncode == 0
    first, second = ({f.name: f.read_bytes() for f in (tmp_path / n / "cif").iterdir()} for n in ("a", "b"))
    assert first == second


def test_info_and_version(tmp_path: Path, tiny_checkpoint: Path) -> None:
    result = euhedral("info", "--json", "--model", str(tiny_checkpoint), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert json.loads(euhedral("info", str(tiny_checkpoint), "--json", cwd=tmp_path).stdout)["model"] == facts[
        "model"
    ] | {"name": str(tiny_checkpoint)}
    assert facts["model"]["steps_of_generation"] == 7
    assert facts["model"]["atoms_in_a_cell_at_most"] == 12
    assert "Og" in facts["model"]["elements_not_known"].split()
    assert euhedral("--version", cwd=tmp_path).stdout.strip()


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from euhedral.cli import app\n"
        "heavy = {'torch', 'pymatgen', 'ase', 'lightning', 'chgnet', 'scipy', 'pandas', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_words_of_targets_and_ranges() -> None:
    assert parse_assignments(["band_gap=2.0", "e_above_hull = 0"], option="--property") == {
        "band_gap": 2.0,
        "e_above_hull": 0.0,
    }
    assert parse_atom_range("8") == 8
    assert parse_atom_range("4-12") == (4, 12)
    assert parse_atom_range(None) is None
    for bad in (["band_gap"], ["band_gap=wide"], ["band_gap=1", "band_gap=2"]):
        with pytest.raises(RequestError):
            parse_assignments(bad, option="--property")
    for text in ("", "a-b", "1-2-3", "-4"):
        with pytest.raises(RequestError):
            parse_atom_range(text)


def test_an_interrupted_import_is_an_interrupt(tmp_path: Path) -> None:
    script = (
        "import signal, os, sys\n"
        "from euhedral.cli import app\n"
        "def broken(**options):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        "        raise ImportError('partially initialized module') from None\n"
        "app.app = broken\n"
        "app.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.returncode == 130, result.stderr
    assert result.stderr == "euhedral: interrupted; what was written is whole\n"
    fault = script.replace("os.kill(os.getpid(), signal.SIGINT)", "raise KeyboardInterrupt")
    result = subprocess.run([sys.executable, "-c", fault], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "ImportError" in result.stderr
