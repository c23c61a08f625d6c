"""The table of families: building from plain values, strict keys, helpful errors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import pytest

from euhedral.errors import ConfigError
from euhedral.models import registry
from euhedral.models.joint_flow import JointFlow, JointFlowConfig, with_sampling
from euhedral.testing.models import TINY_CONFIGS, tiny_model


@pytest.mark.parametrize("name", list(registry.MODELS))
def test_configs_survive_json(name: str) -> None:
    config_class, model_class = registry.lookup(name)
    model = tiny_model(name)
    assert isinstance(model, model_class)
    assert isinstance(model.config, config_class)
    assert registry.name_of(model) == name
    text = json.dumps(registry.plain_config(model.config))
    assert registry.parse_config(config_class, json.loads(text)) == model.config


@pytest.mark.parametrize("name", list(registry.MODELS))
def test_configs_are_frozen_and_complete_without_values(name: str) -> None:
    config_class, _ = registry.lookup(name)
    config = registry.parse_config(config_class, {})
    assert config == config_class()
    first = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, first, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nett": {}}, r"unknown key nett, did you mean 'net'\?; known: net, lattice_mean"),
        ({"net": {"widht": 3}}, r"unknown key net\.widht, did you mean 'width'\?"),
        ({"net": {"pairs": {"cutof": 3}}}, r"unknown key net\.pairs\.cutof, did you mean 'cutoff'\?"),
        ({"net": {"width": "wide"}}, r"net\.width: .*integer.*\(got 'wide'\)"),
        ({"condition_keep": None}, r"condition_keep: .*number.*\(got None\)"),
        ({"net": 3}, r"net: .*\(got 3\)"),
        ({"qqqqqqq": 1}, r"unknown key qqqqqqq; known: net"),
    ],
)
def test_bad_values_are_named(values: Mapping[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.build("joint_flow", values)


def test_unknown_families_are_named() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown model family 'joint_flwo', did you mean 'joint_flow'\?; known: .*joint_flow"
    ):
        registry.build("joint_flwo", {})


def test_models_of_nobody_have_no_name() -> None:
    class Stranger(JointFlow):
        pass

    config = registry.parse_config(JointFlowConfig, TINY_CONFIGS["joint_flow"])
    with pytest.raises(ConfigError, match="Stranger is not registered"):
        registry.name_of(Stranger(config))


def test_with_sampling_changes_only_the_sampling() -> None:
    config = JointFlowConfig()
    changed = with_sampling(config, frac_annealing=0.0, schedule_power=0.5)
    assert changed.sampling.frac_annealing == 0.0
    assert changed.sampling.schedule_power == 0.5
    assert dataclasses.replace(changed, sampling=config.sampling) == config
