"""Tests of requests that a property model leads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import STATISTICS
from euhedral.errors import CheckpointError, ConfigError, RequestError
from euhedral.models.checkpoint import save_model
from euhedral.sample.generate import Generator
from euhedral.sample.predictor import load_predictor
from euhedral.sample.request import GenerationRequest
from euhedral.sample.template import Template
from euhedral.testing.crystals import perovskite
from euhedral.testing.models import tiny_model


def saved(folder: Path, family: str = "cdvae", known: tuple[str, ...] = ("band_gap",)) -> str:
    meta = {"statistics": {**STATISTICS, "property_known": dict.fromkeys(known, 9)}}
    return str(save_model(folder / family, tiny_model(family, awake=True), meta))


def test_a_property_model_leads_and_strength_0_does_not(tiny_generator: Generator, tmp_path: Path) -> None:
    steer = saved(tmp_path)
    asked = {"n": 3, "formula": "NaCl", "z": 2, "steps": 4, "properties": {"band_gap": 2.0}, "idealize": False}
    plain = tiny_generator.generate(**asked)
    led = tiny_generator.generate(**asked, steer=steer)
    off = tiny_generator.generate(**asked, steer=steer, steer_strength=0.0)
    assert torch.equal(off.cell, plain.cell) and torch.equal(off.frac, plain.frac)
    assert not torch.allclose(led.cell, plain.cell, atol=1e-4)
    assert not led.cell.requires_grad and not led.frac.requires_grad


def test_what_cannot_lead_says_so(tiny_generator: Generator, tmp_path: Path) -> None:
    steer = saved(tmp_path)
    with pytest.raises(RequestError, match="give one with --property"):
        tiny_generator.resolve(GenerationRequest(steer=steer))
    with pytest.raises(RequestError, match="has learned band_gap, and not e_above_hull"):
        tiny_generator.resolve(GenerationRequest(steer=steer, properties={"e_above_hull": 0.0}))
    with pytest.raises(RequestError, match="--steer-strength"):
        tiny_generator.resolve(GenerationRequest(steer=steer, steer_strength=-1.0, properties={"band_gap": 1.0}))
    with pytest.raises(CheckpointError, match="no model"):
        tiny_generator.resolve(GenerationRequest(steer="nowhere", properties={"band_gap": 1.0}))
    with pytest.raises(ConfigError, match="no property head"):
        other = saved(tmp_path, "joint_process")
        tiny_generator.resolve(GenerationRequest(steer=other, properties={"band_gap": 1.0}))
    with pytest.raises(RequestError, match="must be the name or folder"):
        GenerationRequest(steer=3)  # type: ignore[arg-type]
    deaf = Generator(tiny_model("cdvae"), tiny_generator.meta, device="cpu")
    with pytest.raises(RequestError, match="cannot be led"):
        deaf.resolve(GenerationRequest(steer=steer, properties={"band_gap": 1.0}))
    late = Generator(tiny_model("joint_process"), tiny_generator.meta, device="cpu")
    late.resolve(GenerationRequest(steer=steer, properties={"band_gap": 1.0}, formula="NaCl"))
    with pytest.raises(RequestError, match="chosen on the way"):
        late.resolve(GenerationRequest(steer=steer, properties={"band_gap": 1.0}))
    template = Template.of(perovskite(), ["sites:O"])
    with pytest.raises(RequestError, match="chosen on the way"):
        tiny_generator.resolve(GenerationRequest(steer=steer, properties={"band_gap": 1.0}, template=template))
    template = Template.of(perovskite(), ["positions"])
    asked = {"steer": steer, "properties": {"band_gap": 1.0}, "formula": "LiMnO3"}
    with pytest.raises(RequestError, match="keep sites, not positions alone"):
        tiny_generator.resolve(GenerationRequest(**asked, template=template))
    tiny_generator.resolve(GenerationRequest(**asked, template=Template.of(perovskite(), ["lattice", "sites:O"])))


def test_elements_that_the_property_model_never_saw(tiny_generator: Generator, tmp_path: Path) -> None:
    few = {**STATISTICS, "elements": [11, 17], "property_known": {"band_gap": 9}}
    folder = save_model(tmp_path / "few", tiny_model("cdvae", awake=True), {"statistics": few})
    asked = {"steer": str(folder), "properties": {"band_gap": 1.0}}
    tiny_generator.resolve(GenerationRequest(formula="NaCl", **asked))
    with pytest.raises(RequestError, match="no crystal with K in training"):
        tiny_generator.resolve(GenerationRequest(formula="KCl", **asked))


def test_weights_that_change_are_loaded_again(tmp_path: Path) -> None:
    steer = saved(tmp_path)
    first = load_predictor(steer, "cpu")
    assert load_predictor(steer, "cpu") is first
    model = tiny_model("cdvae", seed=1, awake=True)
    save_model(steer, model, {"statistics": {**STATISTICS, "property_known": {"band_gap": 9}}})
    assert load_predictor(steer, "cpu").digest != first.digest
