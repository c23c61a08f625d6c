"""Shipped recipes build, say where they come from, and one more file is one more recipe."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from euhedral.errors import ConfigError
from euhedral.models import registry
from euhedral.models.fitted import FittedModel
from euhedral.models.joint_flow import JointFlowConfig
from euhedral.recipes import shipped
from euhedral.train.config import Recipe, model_config

NAMES = shipped.names()


def _is_fitted(name: str) -> bool:
    return issubclass(registry.lookup(shipped.find(name).family)[1], FittedModel)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_what_it_is(name: str) -> None:
    about = shipped.find(name).about
    assert about.title
    assert about.paper
    assert about.status
    assert about.evaluations >= about.steps >= (0 if _is_fitted(name) else 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_builds_and_its_parameters_are_counted(name: str) -> None:
    recipe = shipped.find(name)
    state = torch.get_rng_state()
    count = shipped.count_parameters(recipe)
    assert torch.equal(torch.get_rng_state(), state)
    model = registry.build(recipe.family, registry.plain_config(model_config(recipe)))
    assert count == sum(parameter.numel() for parameter in model.parameters())
    assert count == 0 if _is_fitted(name) else count > 1e6


def test_diffcsp_at_its_published_size_is_the_published_model() -> None:
    recipe = shipped.find("diffcsp")
    config = model_config(recipe.at_published_size())
    assert (config.net.width, config.net.layers, config.net.frequencies) == (512, 6, 128)
    widths = config.frac.widths
    assert (widths.sigma_min, widths.sigma_max, widths.levels) == (0.005, 0.5, 1000)
    assert model_config(recipe).frac == config.frac
    assert model_config(recipe).net.width < 512


@pytest.mark.parametrize("name", [name for name in NAMES if shipped.find(name).published])
def test_a_published_size_is_larger_and_nothing_else(name: str) -> None:
    recipe = shipped.find(name)
    large = recipe.at_published_size()
    small, other = model_config(recipe), model_config(large)
    assert replace(small, net=other.net) == other
    assert shipped.count_parameters(large) > 2 * shipped.count_parameters(recipe)


def test_changes_that_are_no_size_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("published: {net: {width: 3}}\n")
    with pytest.raises(ConfigError, match=r"published: unknown key net"):
        shipped.find(str(tmp_path / "r.yaml"))


def test_the_default_model_is_a_recipe() -> None:
    recipe = shipped.find("joint_flow")
    assert model_config(recipe) == JointFlowConfig()
    assert recipe.train == Recipe().train


def test_one_file_more_is_one_recipe_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in shipped.FOLDER.glob("*.yaml"):
        shutil.copy(path, tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "about: {title: Mine, paper: none, steps: 5, evaluations: 10, status: new}\n"
        "family: joint_process\nmodel: {net: {kind: cspnet, width: 32, layers: 1}}\n"
    )
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    assert set(shipped.names()) == {*NAMES, "mine"}
    recipe = shipped.find("mine")
    assert recipe.about.title == "Mine"
    assert model_config(recipe).net.width == 32


def test_a_file_is_taken_too(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("train: {seed: 3}\n")
    assert shipped.find(str(tmp_path / "own.yaml")).train.seed == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("difcsp", "no recipe 'difcsp', did you mean 'diffcsp'"),
        ("none/of/these", "give a YAML file or one of adit, cdvae, "),
        ("missing.yaml", "cannot read the recipe"),
    ],
)
def test_unknown_names_are_errors(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shipped.find(name)


def test_unknown_keys_of_about_are_errors(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("about: {papr: x}\n")
    with pytest.raises(ConfigError, match=r"unknown key about\.papr, did you mean 'paper'"):
        shipped.find(str(tmp_path / "r.yaml"))
