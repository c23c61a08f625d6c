from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import tiny_model
from euhedral.errors import CheckpointError, ConfigError
from euhedral.models import registry
from euhedral.models.checkpoint import CONFIG, WEIGHTS, load_model, save_model
from euhedral.models.joint_flow import JointFlowConfig


def test_round_trip(tmp_path: Path) -> None:
    model = tiny_model(seed=5)
    folder = save_model(tmp_path / "m", model, {"note": "x"})
    loaded = load_model(folder)
    assert loaded.model.config == model.config
    assert loaded.meta == {"note": "x"}
    assert len(loaded.digest) == 64
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name


def test_half_precision_is_stored_small_and_loaded_as_float32(tmp_path: Path) -> None:
    model = tiny_model()
    full, half = save_model(tmp_path / "a", model, {}), save_model(tmp_path / "b", model, {}, dtype=torch.float16)
    assert (half / WEIGHTS).stat().st_size < 0.7 * (full / WEIGHTS).stat().st_size
    state = load_model(half).model.state_dict()
    for name, value in model.state_dict().items():
        assert state[name].dtype == torch.float32
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-6)


def _edited(tmp_path: Path, tiny_checkpoint: Path, **changes: object) -> Path:
    folder = tmp_path / "edited"
    shutil.copytree(tiny_checkpoint, folder)
    document = json.loads((folder / CONFIG).read_text())
    document.update(changes)
    (folder / CONFIG).write_text(json.dumps(document))
    return folder


def test_errors_of_the_configuration(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_model(tmp_path / "none")
    with pytest.raises(CheckpointError, match="schema version 99"):
        load_model(_edited(tmp_path, tiny_checkpoint, schema_version=99))
    shutil.rmtree(tmp_path / "edited")
    with pytest.raises(CheckpointError, match="did you mean 'joint_flow'"):
        load_model(_edited(tmp_path, tiny_checkpoint, family="joint_flw"))
    shutil.rmtree(tmp_path / "edited")
    with pytest.raises(CheckpointError, match="did you mean 'net'"):
        load_model(_edited(tmp_path, tiny_checkpoint, config={"nett": {}}))


def test_errors_of_the_weights(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "w"
    shutil.copytree(tiny_checkpoint, folder)
    tensors = load_file(folder / WEIGHTS)
    name = "net.to_frac.weight"
    for change, message in (
        ({name: tensors[name][:1]}, "has shape"),
        ({name: torch.full_like(tensors[name], float("nan"))}, "not finite"),
        ({"stranger": torch.zeros(1)}, "extra"),
    ):
        save_file({**tensors, **{k: v.contiguous() for k, v in change.items()}}, folder / WEIGHTS)
        with pytest.raises(CheckpointError, match=message):
            load_model(folder)
    save_file({k: v for k, v in tensors.items() if k != name}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="missing"):
        load_model(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load_model(folder)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), cut=st.floats(0, 1), which=st.sampled_from([CONFIG, WEIGHTS]), keep=st.booleans())
def test_fuzzed_files_give_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, data: bytes, cut: float, which: str, keep: bool
) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "m"
    shutil.copytree(tiny_checkpoint, folder)
    original = (folder / which).read_bytes()
    changed = original[: int(cut * len(original) * 0.999)] + data if keep else data
    (folder / which).write_bytes(changed)
    if changed != original:
        with pytest.raises(CheckpointError):
            load_model(folder)


def test_config_values_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"unknown key weights\.frak, did you mean 'frac'"):
        registry.parse_config(JointFlowConfig, {"weights": {"frak": 1.0}})
    with pytest.raises(ConfigError, match="prediction_share"):
        registry.parse_config(JointFlowConfig, {"prediction_share": "often"})
    parsed = registry.parse_config(JointFlowConfig, registry.plain_config(JointFlowConfig()))
    assert parsed == JointFlowConfig()
