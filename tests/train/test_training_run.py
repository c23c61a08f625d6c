from __future__ import annotations

import importlib.util
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import euhedral
from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CheckpointError, ConfigError, DataError, EuhedralError, OutputError
from euhedral.models.base import LossTerms
from euhedral.models.checkpoint import load_model
from euhedral.models.joint_flow import JointFlow
from euhedral.recipes import shipped
from euhedral.train import run
from euhedral.train.config import Recipe
from euhedral.train.folder import load_spec
from euhedral.train.log import read_log
from euhedral.train.state import Progress, load_state

MakeRecipe = Callable[..., Recipe]
CLOCK = ("seconds", "crystals_per_second")
STEPS_AN_EPOCH = 6  # 10 crystals of two atoms and 11 of three, in fours

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "tensorboard" not in request.node.name:
        monkeypatch.setattr("euhedral.train.log._tensorboard", lambda folder, step: None)


def numbers(folder: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    return [
        {name: math.nan if text == "" else float(text) for name, text in row.items() if name not in CLOCK}
        for row in read_log(folder)
    ]


def assert_same_log(one: Path, other: Path) -> None:
    first, second = numbers(one), numbers(other)
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, abs=1e-6, nan_ok=True)


def test_a_family_without_a_loss_is_fitted_at_once_and_generates(tmp_path: Path) -> None:
    from euhedral.testing.crystals import cesium_chloride, diamond, rock_salt

    CrystalBatch.concat([rock_salt(), cesium_chloride(), diamond()]).write(tmp_path / "crystals.extxyz")
    recipe = shipped.find("ion_exchange")
    model = run.train(tmp_path / "crystals.extxyz", tmp_path / "ions", recipe=recipe)
    assert load_model(model).meta["statistics"]["crystals"] == 3
    found = euhedral.load(str(tmp_path / "ions")).generate(formula="CsCl", n=2, z=1, seed=1)
    assert sorted(found.species.tolist()) == [17, 17, 55, 55]
    with pytest.raises(ConfigError, match="fitted at once: there is nothing to go on with"):
        run.resume(tmp_path / "ions")
    with pytest.raises(ConfigError, match="nothing to finetune"):
        run.train(tmp_path / "crystals.extxyz", tmp_path / "tuned", recipe=recipe, base=model)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_store: Path, tiny_recipe: MakeRecipe) -> Path:
    """A run of two epochs that nothing disturbed, with validation."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    run.train(tiny_store, out, recipe=tiny_recipe(), val=tiny_store)
    return out


def test_a_finished_run_holds_a_model_that_generates(finished: Path) -> None:
    generator = euhedral.load(str(finished), device="cpu")
    crystals = generator.generate(n=3, steps=2)
    assert len(crystals) == 3 and set(crystals.num_atoms.tolist()) <= {2, 3}
    assert generator.capabilities.steps == 11
    assert generator.meta["training"]["steps"] == 2 * STEPS_AN_EPOCH
    assert generator.meta["training"]["crystals_seen"] == 42
    assert generator.meta["training"]["finished"] is True
    assert generator.meta["statistics"]["num_atoms"] == {"2": 10, "3": 11}


def test_the_log_has_every_step_and_validation(finished: Path) -> None:
    rows = numbers(finished)
    steps = [row["step"] for row in rows if math.isnan(row["validation_loss"])]
    assert steps == list(range(1, 2 * STEPS_AN_EPOCH + 1))
    validated = [(row["step"], row["epoch"]) for row in rows if not math.isnan(row["validation_loss"])]
    assert validated == [(STEPS_AN_EPOCH, 1), (2 * STEPS_AN_EPOCH, 2)]
    first = rows[0]
    config = JointFlow(load_model(finished / "model").model.config).config.weights
    parts = sum(getattr(config, name) * first[name] for name in ("frac", "lattice", "species", "space_group"))
    assert first["loss"] == pytest.approx(parts, rel=1e-5)
    assert first["learning_rate"] == pytest.approx(8e-4 / 3)


def test_the_model_is_the_average_and_the_state_has_no_pickle(finished: Path) -> None:
    state = load_state(finished / "state.safetensors")
    model = load_model(finished / "model").model
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), state.part("average")[name], atol=0, rtol=0)
    assert any(not torch.equal(state.part("average")[n], v) for n, v in state.part("model").items())
    names = {path.name for path in finished.iterdir()}
    assert names - {"tensorboard"} == {"run.json", "log.csv", "state.safetensors", "model"}


def test_training_lowers_the_loss(make_store: Callable[..., Path], tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    store = make_store([2] * 8, [{"space_group": 225}] * 8)
    recipe = tiny_recipe(batch_size=8, max_epochs=150, log_steps=30, learning_rate=3e-3)
    run.train(store, tmp_path / "run", recipe=recipe)
    first, *_, last = numbers(tmp_path / "run")
    # The one space group of the data is learned at once, the elements more slowly.
    assert last["space_group"] < 0.05 * first["space_group"]
    assert last["species"] < 0.9 * first["species"]
    assert last["loss"] < 0.9 * first["loss"]


CHILD = """
import sys, time
from euhedral.train import loader, log, run
from euhedral.train.config import load_recipe
log._tensorboard = lambda folder, step: None
fast = loader.LabelTable.conditions
def slow(self, indices, crystals):
    time.sleep(0.05)
    return fast(self, indices, crystals)
loader.LabelTable.conditions = slow
run.train(sys.argv[1], sys.argv[2], recipe=load_recipe(sys.argv[3]), val=sys.argv[1])
"""


def test_a_killed_run_resumes_to_the_same_losses(tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # Rows of four steps, epochs of six: kills fall between rows as well as between epochs.
    recipe = tiny_recipe(max_epochs=7, log_steps=4, checkpoint_minutes=0.2 / 60)
    run.train(tiny_store, whole, recipe=recipe, val=tiny_store)
    settings = {name: value for name, value in vars(recipe.train).items() if name != "betas"}
    (tmp_path / "recipe.yaml").write_text(json.dumps({"model": dict(recipe.model), "train": settings}))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(tiny_store), str(killed), str(tmp_path / "recipe.yaml")]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 240
        while len(read_log(killed)) < 5:
            assert child.poll() is None, child.communicate()[1]
            assert time.monotonic() < deadline, "the child did not get far enough"
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    state = load_state(killed / "state.safetensors")
    assert 0 < state.progress.step < 7 * STEPS_AN_EPOCH
    run.resume(killed)
    assert_same_log(killed, whole)
    one, other = load_state(killed / "state.safetensors"), load_state(whole / "state.safetensors")
    for name, value in other.tensors.items():
        torch.testing.assert_close(one.tensors[name], value, atol=1e-6, rtol=0)


def test_a_run_killed_before_its_first_save_starts_over(
    finished: Path, tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    run.train(tiny_store, tmp_path / "run", recipe=tiny_recipe(), val=tiny_store)
    (tmp_path / "run" / "state.safetensors").unlink()
    run.resume(tmp_path / "run")
    assert_same_log(tmp_path / "run", finished)


def test_an_interrupt_saves_and_resume_goes_on(
    finished: Path, tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, loss = tmp_path / "run", JointFlow.loss
    calls = 0

    def interrupted(self: JointFlow, *args: Any, **kwargs: Any) -> LossTerms:
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, *args, **kwargs)

    monkeypatch.setattr(JointFlow, "loss", interrupted)
    before = signal.getsignal(signal.SIGINT)
    run.train(tiny_store, out, recipe=tiny_recipe())
    assert signal.getsignal(signal.SIGINT) is before
    # The signal arrives within step 4, and training ends with the step after it at the latest.
    assert load_state(out / "state.safetensors").progress.step in (4, 5)
    assert load_model(out / "model").meta["training"]["finished"] is False
    run.resume(out)
    trained = [row for row in numbers(finished) if math.isnan(row["validation_loss"])]
    assert numbers(out) == [pytest.approx(row, abs=1e-6, nan_ok=True) for row in trained]


def test_a_longer_resume_of_a_finished_run(tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run.train(tiny_store, out, recipe=tiny_recipe(max_epochs=1))
    before = load_state(out / "state.safetensors").progress
    run.resume(out)
    assert load_state(out / "state.safetensors").progress == before
    run.resume(out, max_epochs=2)
    assert load_state(out / "state.safetensors").progress.step == 2 * STEPS_AN_EPOCH
    assert load_spec(out).train.max_epochs == 2


def test_max_minutes_ends_the_run(tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run.train(tiny_store, out, recipe=tiny_recipe(max_epochs=10**6, max_minutes=1.0 / 60))
    progress = load_state(out / "state.safetensors").progress
    assert progress.step > 1 and 1.0 <= progress.seconds < 30
    rows = numbers(out)
    assert rows[-1]["learning_rate"] < 8e-4 * 0.5


def test_small_batches_weigh_in_proportion(
    make_store: Callable[..., Path], tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    store = make_store([2] * 3)
    norms = []
    for nominal in (3, 6):
        out = tmp_path / f"of{nominal}"
        run.train(store, out, recipe=tiny_recipe(batch_size=nominal, max_epochs=1, gradient_clip=1e9))
        norms.append(numbers(out)[0]["gradient_norm"])
    assert norms[1] == pytest.approx(norms[0] / 2, rel=1e-5)


def spoil(monkeypatch: pytest.MonkeyPatch, when: Callable[[int], bool]) -> None:
    """Make the loss not a number in the calls that `when` names (1 is the first)."""
    loss, calls = JointFlow.loss, 0

    def spoiled(self: JointFlow, *args: Any, **kwargs: Any) -> LossTerms:
        nonlocal calls
        calls += 1
        given = loss(self, *args, **kwargs)
        return replace(given, total=given.total * math.nan) if when(calls) else given

    monkeypatch.setattr(JointFlow, "loss", spoiled)


def test_a_step_without_a_finite_gradient_is_left_out(
    tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda call: call in (3, 4))
    run.train(tiny_store, tmp_path / "run", recipe=tiny_recipe())
    state = load_state(tmp_path / "run" / "state.safetensors")
    assert state.progress.skipped == 2 and state.progress.step == 2 * STEPS_AN_EPOCH
    assert all(bool(value.isfinite().all()) for value in state.tensors.values())
    assert [row["step"] for row in numbers(tmp_path / "run")][:4] == [1, 2, 5, 6]


def test_a_loss_that_stays_nan_ends_training_with_advice(
    tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    spoil(monkeypatch, lambda call: call > 3)
    with pytest.raises(EuhedralError, match=r"5 steps in a row, up to step 8.*lower --learning-rate"):
        run.train(tiny_store, out, recipe=tiny_recipe(patience=5, checkpoint_minutes=0.0))
    state = load_state(out / "state.safetensors")
    assert all(bool(value.isfinite().all()) for value in state.tensors.values())


def test_a_full_disk_is_a_clear_error_and_the_older_state_stays_whole(
    tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run.train(tiny_store, out, recipe=tiny_recipe(max_epochs=1))
    before = (out / "state.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write to .* make room and go on with `euhedral train --resume"):
            run.resume(out, max_epochs=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (out / "state.safetensors").read_bytes() == before
    assert not list(out.glob(".*"))
    run.resume(out, max_epochs=2)
    assert load_state(out / "state.safetensors").progress.step == 2 * STEPS_AN_EPOCH


def test_finetuning_without_a_learning_rate_gives_the_base(
    finished: Path, make_store: Callable[..., Path], tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    other = make_store([2, 4], [{"band_gap": 7.0}, {}], seed=3)
    recipe = replace(tiny_recipe(learning_rate=0.0), model={})
    model = load_model(run.train(other, tmp_path / "run", recipe=recipe, base=finished / "model"))
    base = load_model(finished / "model")
    assert model.model.config == base.model.config
    for (name, value), (_, expected) in zip(model.model.named_parameters(), base.model.named_parameters(), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-7, rtol=0, msg=name)
    assert model.meta["statistics"]["num_atoms"] == {"2": 1, "4": 1}
    assert model.meta["training"]["base"] == "model"
    # What the base had learned to follow is not forgotten.
    assert model.meta["statistics"]["property_known"] == {
        **base.meta["statistics"]["property_known"],
        "band_gap": base.meta["statistics"]["property_known"]["band_gap"] + 1,
    }
    assert model.meta["steps"] == base.meta["steps"] == 11


def test_finetuning_keeps_the_architecture(
    finished: Path, tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="keeps its architecture"):
        run.train(tiny_store, tmp_path / "run", recipe=tiny_recipe(), base=finished / "model")
    with pytest.raises(CheckpointError):
        run.train(tiny_store, tmp_path / "run", base=tmp_path / "none")


def test_mixed_precision_trains(tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path, finished: Path) -> None:
    run.train(tiny_store, tmp_path / "run", recipe=tiny_recipe(precision="bfloat16", max_epochs=1))
    mixed = [row["loss"] for row in numbers(tmp_path / "run")]
    exact = [row["loss"] for row in numbers(finished)][: len(mixed)]
    assert mixed != exact and mixed == pytest.approx(exact, rel=0.03)
    assert load_model(tmp_path / "run" / "model").meta["training"]["precision"] == "bf16-mixed"


def test_a_compiled_network_has_the_same_losses(
    tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("there is no C++ compiler")
    compiled: list[torch.nn.Module] = []

    def trace_only(network: torch.nn.Module, **options: Any) -> None:
        # The network is traced and run as a graph; the minutes of writing and compiling C++ are left out.
        compiled.append(network)
        network._compiled_call_impl = torch.compile(network._call_impl, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", trace_only)
    run.train(tiny_store, tmp_path / "run", recipe=tiny_recipe(compile=True))
    assert [type(network).__name__ for network in compiled] == ["PeriodicTransformer"]
    losses = [
        [row["loss"] for row in numbers(out) if row["loss"] == row["loss"]] for out in (tmp_path / "run", finished)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 2 * STEPS_AN_EPOCH
    assert len(euhedral.load(str(tmp_path / "run" / "model")).generate(n=2, steps=2)) == 2


def test_compiling_without_a_compiler_is_an_error(
    tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="--compile"):
        run.train(tiny_store, tmp_path / "run", recipe=tiny_recipe(max_epochs=1, compile=True, accelerator="cpu"))


def test_tensorboard_has_the_losses(tiny_store: Path, tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.train(tiny_store, tmp_path / "run", recipe=tiny_recipe(max_epochs=1))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(row["step"], pytest.approx(row["loss"])) for row in numbers(tmp_path / "run")]


def test_an_existing_run_or_folder_is_never_overwritten(finished: Path, tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds a run already"):
        run.train(tiny_store, finished)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        run.train(tiny_store, tmp_path)
    with pytest.raises(OutputError, match="not an empty folder"):
        run.train(tiny_store, tmp_path / "notes.txt")


def test_missing_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data at"):
        run.train(tmp_path / "none.csv", tmp_path / "run")


def test_missing_lightning_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "lightning" else find(name, *rest)
    )
    with pytest.raises(EuhedralError, match=r"pip install 'euhedral\[train\]'"):
        run.train(tmp_path, tmp_path / "run")


def test_resuming_what_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no training run"):
        run.resume(tmp_path)
    for text, message in (("{", "damaged"), ("[]", "damaged"), ('{"schema_version": 9}', "version 9")):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            run.resume(tmp_path)


def test_resuming_with_other_data_or_a_damaged_state_is_an_error(
    tiny_store: Path, make_store: Callable[..., Path], tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run.train(tiny_store, out, recipe=tiny_recipe(max_epochs=1))
    spec = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**spec, "data": str(make_store([2] * 9))}))
    with pytest.raises(CheckpointError, match="cannot go on"):
        run.resume(out, max_epochs=3)
    (out / "run.json").write_text(json.dumps(spec))
    whole = (out / "state.safetensors").read_bytes()
    (out / "state.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        run.resume(out, max_epochs=3)


def test_progress_starts_at_nothing() -> None:
    assert vars(Progress()) | {"batches": None} == dict.fromkeys(vars(Progress()), 0) | {"batches": None}


@pytest.mark.parametrize(
    ("environment", "rank"),
    [({}, 0), ({"LOCAL_RANK": "2"}, 2), ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, 3), ({"SLURM_PROCID": "0"}, 0)],
)
def test_rank_of_a_process(environment: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run.process_rank() == rank
