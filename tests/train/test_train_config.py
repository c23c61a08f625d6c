from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from euhedral.errors import ConfigError
from euhedral.models.joint_flow import JointFlowConfig
from euhedral.train.config import Recipe, TrainConfig, load_recipe, model_config, with_changes


def test_learning_rate_rises_stays_and_falls() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_steps=10, decay_share=0.4, final_rate=0.05)
    assert config.learning_rate_at(0, 0.0) == pytest.approx(0.1)
    assert config.learning_rate_at(4, 0.1) == pytest.approx(0.5)
    assert config.learning_rate_at(9, 0.2) == config.learning_rate_at(500, 0.6) == pytest.approx(1.0)
    assert config.learning_rate_at(600, 0.8) == pytest.approx(0.5)
    assert config.learning_rate_at(999, 0.999) == config.learning_rate_at(2000, 1.5) == pytest.approx(0.05)


@given(step=st.integers(0, 10**6), progress=st.floats(0, 2), warmup=st.integers(0, 100), share=st.floats(0, 1))
def test_learning_rate_stays_in_range(step: int, progress: float, warmup: int, share: float) -> None:
    config = TrainConfig(learning_rate=0.3, warmup_steps=warmup, decay_share=share)
    assert 0 < config.learning_rate_at(step, progress) <= 0.3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size must be between 1"),
        ({"learning_rate": -1.0}, "learning_rate must be between 0"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"seed": -1}, "seed must be"),
        ({"betas": (0.9, 1.0)}, "betas must lie in"),
        ({"gradient_clip": 0.0}, "gradient_clip"),
    ],
)
def test_values_out_of_range_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**values)


def test_with_changes_keeps_what_is_none_and_checks_types() -> None:
    config = TrainConfig(seed=4)
    assert with_changes(config, seed=None, max_epochs=7) == TrainConfig(seed=4, max_epochs=7)
    with pytest.raises(ConfigError, match="max_epochs"):
        with_changes(config, max_epochs="many")
    with pytest.raises(ConfigError, match="precision"):
        with_changes(config, precision="float8")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_recipe_is_read_from_yaml(tmp_path: Path) -> None:
    text = "model:\n  net: {width: 64, pairs: {radial: 8}}\n  prediction_share: 0.5\ntrain:\n  batch_size: 7\n"
    recipe = load_recipe(write(tmp_path / "r.yaml", text))
    assert recipe.train == TrainConfig(batch_size=7)
    config = model_config(recipe, lattice_mean=(1.0,) * 6, unheard_of=3)
    assert isinstance(config, JointFlowConfig)
    assert (config.net.width, config.net.pairs.radial, config.prediction_share) == (64, 8, 0.5)
    assert config.lattice_mean == (1.0,) * 6


def test_an_empty_recipe_is_the_default(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path / "r.yaml", "")) == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {seed: 1}", "unknown key trian, did you mean 'train'"),
        ("train: {batchsize: 1}", "unknown key train.batchsize, did you mean 'batch_size'"),
        ("model: {net: {widht: 1}}", "unknown key net.widht, did you mean 'width'"),
        ("family: joint_flo", "did you mean 'joint_flow'"),
        ("train: {seed: yes please}", "seed"),
        ("train: {seed: -3}", "seed must be between"),
        ("- a\n- b", "must hold the keys"),
        ("train: {seed: [", "is not YAML"),
        ("train: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(write(tmp_path / "r.yaml", text))


def test_a_missing_recipe_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(tmp_path / "none.yaml")


def test_a_recipe_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(tmp_path / "r.yaml")
