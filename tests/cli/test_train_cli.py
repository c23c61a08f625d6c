from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from euhedral.cli.train import finetune, train
from euhedral.crystal.elements import SYMBOLS
from euhedral.errors import CheckpointError, ConfigError, EuhedralError
from euhedral.models.checkpoint import load_model
from euhedral.testing.crystals import random_crystals
from euhedral.train.folder import load_spec
from euhedral.train.log import read_log

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

RECIPE = """
model:
  net: {width: 32, blocks: 1, heads: 4, pair_width: 16, feedforward: 2}
train: {batch_size: 3, log_steps: 1, accelerator: cpu, precision: float32}
"""

app = typer.Typer()
app.command()(train)
app.command()(finetune)


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("euhedral.train.log._tensorboard", lambda folder, step: None)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_of(*arguments: object) -> EuhedralError:
    error = call(*arguments).exception
    assert isinstance(error, EuhedralError), repr(error)
    return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five POSCARs, one of them broken, and a recipe beside their folder."""
    root = tmp_path_factory.mktemp("cli")
    (root / "crystals").mkdir()
    for i, crystal in enumerate(random_crystals([2, 3, 2, 3], rng=torch.Generator().manual_seed(0))):
        rows = [" ".join(f"{x:.6f}" for x in row) for row in (*crystal.cell[0].tolist(), *crystal.frac.tolist())]
        symbols = " ".join(SYMBOLS[z] for z in crystal.species.tolist())
        counts = " ".join("1" for _ in range(len(crystal.species)))
        text = "\n".join(["crystal", "1.0", *rows[:3], symbols, counts, "Direct", *rows[3:]])
        (root / "crystals" / f"{i}.vasp").write_text(text + "\n")
    (root / "crystals" / "broken.vasp").write_text("crystal\n1.0\nno numbers\n")
    (root / "tiny.yaml").write_text(RECIPE)
    return root


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    out = folder / "run"
    arguments = ["--data", folder / "crystals", "--out", out, "--config", folder / "tiny.yaml"]
    result = call("train", *arguments, "--max-epochs", 1, "--seed", 5, "--val", folder / "crystals")
    assert result.exit_code == 0, result.output
    assert "4 of 5 rows" in result.stderr and "1 could not be" in result.stderr
    assert f"euhedral generate --model {out / 'model'}" in result.stderr
    return out


def test_train_converts_trains_and_validates(trained: Path) -> None:
    assert load_spec(trained).train.seed == 5
    assert load_model(trained / "model").meta["training"]["crystals"] == 4
    rows = read_log(trained)
    assert [row["step"] for row in rows] == ["1", "2", "2"]
    assert float(rows[-1]["validation_loss"]) > 0


def test_a_run_folder_can_be_moved_and_resumed(trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in trained.iterdir():
        if path.is_file():
            (moved / path.name).write_bytes(path.read_bytes())
    result = call("train", "--resume", moved, "--max-epochs", 3)
    assert result.exit_code == 0, result.output
    assert load_model(moved / "model").meta["training"]["steps"] == 6


def test_finetune_starts_from_a_run_with_a_lower_rate(trained: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    result = call("finetune", "--from", trained, "--data", folder / "crystals", "--out", out, "--max-epochs", 1)
    assert result.exit_code == 0, result.output
    spec = load_spec(out)
    assert spec.train.learning_rate == pytest.approx(2e-4)
    assert spec.config == load_spec(trained).config
    assert load_model(out / "model").meta["training"]["base"] == "model"


def test_mistakes_are_errors_that_say_what_to_do(trained: Path, folder: Path, tmp_path: Path) -> None:
    data, out = folder / "crystals", tmp_path / "new"
    assert "--data PATH and --out RUN" in str(error_of("train"))
    assert "leave out --data, --seed" in str(error_of("train", "--resume", trained, "--data", data, "--seed", 1))
    assert "holds a run already" in str(error_of("train", "--data", data, "--out", trained))
    assert isinstance(error_of("train", "--resume", tmp_path), CheckpointError)
    assert isinstance(error_of("finetune", "--from", "no such", "--data", data, "--out", out), CheckpointError)
    assert "precision" in str(error_of("train", "--data", data, "--out", out, "--precision", "float8"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train: {max_epoch: 3}")
    error = error_of("train", "--data", data, "--out", out, "--recipe", recipe)
    assert isinstance(error, ConfigError) and "did you mean 'max_epochs'" in str(error)
    assert not out.exists()


def test_a_shipped_recipe_is_taken_by_name(folder: Path, tmp_path: Path) -> None:
    message = str(error_of("train", "--data", folder / "crystals", "--out", tmp_path / "run", "--recipe", "difcsp"))
    assert "did you mean 'diffcsp'" in message


def test_training_with_the_family_of_diffcsp(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(
        "family: joint_process\n"
        "model: {net: {kind: cspnet, width: 16, layers: 1, frequencies: 4, time_width: 8}, species: {kind: given}}\n"
        "train: {batch_size: 3, log_steps: 1, accelerator: cpu, precision: float32, max_epochs: 1}\n"
    )
    result = call(
        "train", "--data", folder / "crystals", "--out", tmp_path / "run", "--recipe", tmp_path / "small.yaml"
    )
    assert result.exit_code == 0, result.output
    checkpoint = load_model(tmp_path / "run" / "model")
    assert type(checkpoint.model).__name__ == "JointProcess"
    rows = read_log(tmp_path / "run")
    assert rows
    assert all(float(row["lattice"]) > 0 and float(row["frac"]) > 0 for row in rows)
