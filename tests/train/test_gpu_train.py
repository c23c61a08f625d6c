"""The training script for one GPU, on the CPU with a tiny network."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import euhedral
from euhedral.models import joint_flow
from euhedral.testing.crystals import random_crystals

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_train.py"
TINY = ["--width", "32", "--blocks", "1", "--heads", "4", "--pair-width", "16", "--batch", "4", "--device", "cpu"]
HEAVY = ["lightning", "pymatgen", "gemmi", "spglib", "moyopy", "ase", "pyarrow", "safetensors", "pydantic", "scipy"]

RunScript = Callable[..., None]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_train", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_train"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = [2] * 9 + [3] * 6 + [5]
    crystals = random_crystals(sizes, rng=torch.Generator().manual_seed(0))
    labels = np.full((len(sizes), 4), np.nan, dtype=np.float32)
    labels[::2] = [225, -1.0, 0.0, 2.0]
    path = tmp_path_factory.mktemp("arrays") / "train.npz"
    np.savez(
        path,
        num_atoms=crystals.num_atoms.numpy(),
        cell=crystals.cell.numpy(),
        frac=crystals.frac.numpy(),
        species=crystals.species.numpy().astype(np.int16),
        labels=labels,
    )
    return path


@pytest.fixture
def run_script(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> RunScript:
    # The script replaces this function for its own process; here it is put back after each test.
    monkeypatch.setattr(joint_flow, "log_symmetric", joint_flow.log_symmetric)

    def go(data: Path, out: Path, *more: str) -> None:
        arguments = ["gpu_train.py", "--data", str(data), "--val", str(data), "--out", str(out), *TINY, *more]
        monkeypatch.setattr(sys, "argv", arguments)
        script.main()

    return go


def test_it_trains_stops_resumes_and_leaves_a_model(
    arrays: Path, run_script: RunScript, script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    run_script(arrays, out, "--max-seconds", "1000", "--session-seconds", "0.5", "--log-seconds", "0")
    text = capsys.readouterr().out
    assert "crystals/s" in text and "stopped after" in text
    first = json.loads((out / "model" / "config.json").read_text())["meta"]["training"]
    seconds = json.loads(script.read_tensors(out / "state.safetensors")[1]["progress"])["seconds"]
    run_script(arrays, out, "--max-seconds", str(seconds + 0.5))
    text = capsys.readouterr().out
    assert f"resumed at step {first['steps']}" in text and "finished after" in text
    generator = euhedral.load(str(out), device="cpu")
    assert generator.meta["training"]["steps"] > first["steps"]
    assert generator.capabilities.num_atoms == {2: 9, 3: 6, 5: 1}
    assert generator.capabilities.num_atoms_by_space_group == {225: {2: 5, 3: 3}}
    assert load_file(out / "model" / "model.safetensors")["net.to_species.weight"].dtype == torch.float16
    assert len(generator.generate(n=2, steps=2)) == 2


def test_it_starts_from_a_checkpoint_and_refuses_another_size(
    arrays: Path, run_script: RunScript, tmp_path: Path
) -> None:
    run_script(arrays, tmp_path / "one", "--max-seconds", "0.2")
    start = str(tmp_path / "one" / "model")
    run_script(arrays, tmp_path / "two", "--max-seconds", "0.1", "--start", start, "--lr", "0", "--weight-decay", "0")
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-3, rtol=0, msg=name)
    with pytest.raises(SystemExit, match="another size"):
        run_script(arrays, tmp_path / "one", "--max-seconds", "9", "--blocks", "2")


def test_its_file_format_is_safetensors_both_ways(script: ModuleType, tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.tensor(7), "c": torch.randn(2).half(), "e": torch.zeros(0, 4)}
    script.write_tensors(tmp_path / "own", tensors, {"note": "Å"})
    theirs = load_file(tmp_path / "own")
    save_file(tensors, tmp_path / "theirs")
    ours, _ = script.read_tensors(tmp_path / "theirs")
    again, metadata = script.read_tensors(tmp_path / "own")
    assert metadata == {"note": "Å"}
    for name, value in tensors.items():
        for read in (theirs[name], ours[name], again[name]):
            torch.testing.assert_close(read, value, atol=0, rtol=0)


def test_every_crystal_comes_once_an_epoch(script: ModuleType, arrays: Path) -> None:
    groups = script.grouped(dict(np.load(arrays)), torch.device("cpu"), 64)
    batches = script.epoch_batches(groups, 4, seed=1, epoch=2)
    for n, group in groups.items():
        seen = np.concatenate([chosen for m, chosen in batches if m == n])
        assert sorted(seen.tolist()) == list(range(len(group.cell)))
    again, other = script.epoch_batches(groups, 4, 1, 2), script.epoch_batches(groups, 4, 1, 3)
    assert [c.tolist() for _, c in again] == [c.tolist() for _, c in batches]
    assert [c.tolist() for _, c in other] != [c.tolist() for _, c in batches]


def test_its_loss_is_the_models_own(script: ModuleType, arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = script.grouped(dict(np.load(arrays)), torch.device("cpu"), 64)
    torch.manual_seed(0)
    model = joint_flow.JointFlow(joint_flow.JointFlowConfig())
    crystals, conditions = script.batch_of(groups[3], torch.arange(4))
    own = model.loss(crystals, conditions, rng=torch.Generator().manual_seed(1)).total
    monkeypatch.setattr(joint_flow, "log_symmetric", lambda cell, num_atoms: script.LOG_LATTICE[0])
    fast = model.loss(crystals, conditions, rng=torch.Generator().manual_seed(1)).total
    torch.testing.assert_close(fast, own, atol=1e-4, rtol=1e-4)


def test_it_needs_nothing_but_torch_and_numpy() -> None:
    blocked = "\n".join(
        [
            "import sys, importlib.abc, runpy",
            "class Block(importlib.abc.MetaPathFinder):",
            "    def find_spec(self, name, path, target=None):",
            f"        if name.split('.')[0] in {HEAVY!r}: raise ImportError('blocked ' + name)",
            "sys.meta_path.insert(0, Block())",
            f"runpy.run_path({str(SCRIPT)!r}, run_name='imported')",
        ]
    )
    command = [sys.executable, "-W", "ignore", "-c", blocked]
    result = subprocess.run(command, env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
