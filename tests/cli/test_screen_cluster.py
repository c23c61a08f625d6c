import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalog.funnels import crystals_of_pairs
from euhedral.catalog.database import Catalogue
from euhedral.catalog.folder_lock import locked
from euhedral.cli.screen import run_screening
from euhedral.errors import OutputError
from euhedral.screen import stages

SLOW = "catalog.funnels:Unhurried"


def _outcomes(out: Path) -> dict[int, str]:
    with contextlib.suppress(Exception), Catalogue(out, create=False) as catalogue:
        return catalogue.outcomes(1, "relax")
    return {}


def _seconds(out: Path) -> dict[int, float]:
    """Of each crystal that is relaxed; measured anew where it is relaxed again."""
    with Catalogue(out, create=False) as catalogue:
        rows = catalogue.table(1, where="relax_seconds != none", columns=["index", "relax_seconds"]).to_pylist()
    return {row["index"]: row["relax_seconds"] for row in rows}


def _relaxed_until(out: Path, number: int, command: subprocess.Popen) -> dict[int, str]:
    until = time.monotonic() + 60
    while len(done := _outcomes(out)) < number:
        assert command.poll() is None and time.monotonic() < until, command.stderr.read()  # pyright: ignore
        time.sleep(0.1)
    return done


def test_a_killed_command_goes_on_and_meanwhile_its_folder_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Starts the command with two workers, and a second one on the same folder."""
    crystals_of_pairs(24).write(tmp_path / "pairs.extxyz")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "euhedral.cli.app", "screen", "pairs.extxyz", "--out", "out", "--calculator", SLOW]
    command += ["--stages", "relax", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "UNHURRIED": "0.25"}
    options = {"cwd": tmp_path, "env": environment, "text": True}
    first = subprocess.Popen([*command, "--cluster", "local"], stderr=subprocess.PIPE, **options)
    try:
        _relaxed_until(out, 2, first)
        second = subprocess.run(command, capture_output=True, **options)
        assert second.returncode == 2 and "Traceback" not in second.stderr
        assert f"in use by process {first.pid}" in " ".join(second.stderr.split())
        first.send_signal(signal.SIGKILL)
    finally:
        first.kill()
        first.communicate()
    done = _outcomes(out)
    assert 2 <= len(done) < 24
    before = _seconds(out)
    monkeypatch.setenv("UNHURRIED", "0")
    results = run_screening(tmp_path / "pairs.extxyz", out, [stages.make("relax", {"calculator": SLOW})], workers=2)
    assert results.summary["left"] == 24
    after = _seconds(out)
    assert len(after) == 24 and all(after[index] == before[index] for index in done)


def test_a_folder_in_use_is_refused(tmp_path: Path):
    crystals_of_pairs(2).write(tmp_path / "pairs.extxyz")
    (out := tmp_path / "out").mkdir()
    prefilter = [stages.make("prefilter")]
    with locked(out), pytest.raises(OutputError, match="in use by process"):
        run_screening(tmp_path / "pairs.extxyz", out, prefilter, workers=1)
    assert run_screening(tmp_path / "pairs.extxyz", out, prefilter, workers=1).summary["left"] == 2
