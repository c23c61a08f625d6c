"""A model's property head as a stage: the same numbers as the model's, and nothing where it has learned nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from catalog.funnels import add_run, crystals_of_pairs
from euhedral.catalog.database import Catalogue
from euhedral.catalog.predict_stage import AT_ONCE, PredictStage
from euhedral.catalog.screening import walk
from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CheckpointError, ConfigError
from euhedral.models.checkpoint import save_model
from euhedral.models.property_predictor import PropertyPredictor
from euhedral.sample.predictor import load_predictor
from euhedral.screen import stages
from euhedral.testing import models as contract
from euhedral.testing.crystals import perovskite, random_crystals, rock_salt

KNOWN = {"formation_energy_per_atom": 0, "e_above_hull": 5, "band_gap": 9}


def saved(folder: Path, *, family: str = "cdvae", elements: range = range(1, 119), known: dict = KNOWN) -> Path:
    """A run folder with a small model that was trained on crystals of at most five atoms."""
    statistics = {"property_known": known, "elements": list(elements), "num_atoms": {"2": 1, "5": 1}}
    save_model(folder / "model", contract.tiny_model(family, awake=True), {"statistics": statistics})
    return folder


def made(model: Path | str) -> PredictStage:
    stage = stages.make("predict", {"model": str(model)})
    assert isinstance(stage, PredictStage)
    return stage


def test_columns_are_what_the_model_says_of_the_relaxed_crystals(tmp_path: Path) -> None:
    stage, crystals = made(saved(tmp_path / "run")), crystals_of_pairs(66, first=range(60, 80))
    model = contract.tiny_model("cdvae", awake=True).eval()
    assert isinstance(model, PropertyPredictor)
    expected = model.properties_of(crystals.to(torch.float32)).detach()
    with Catalogue(tmp_path) as catalogue:
        run = add_run(catalogue, crystals)
        assert walk(catalogue, run, [stage]) == list(range(len(crystals)))
        table = catalogue.table(run, sort="-predicted_band_gap").to_pylist()
        unknown = catalogue.table(run, where="predicted_formation_energy_per_atom = none").num_rows
    assert [row["index"] for row in table] == expected[:, 2].argsort(descending=True).tolist()
    for row in table:
        assert row["predicted_e_above_hull"] == pytest.approx(float(expected[row["index"], 1]), abs=1e-5)
        assert row["predicted_by"].startswith("run (")
    assert unknown == len(crystals) > AT_ONCE


def test_what_is_unlike_the_training_data_has_a_reason_and_goes_on(tmp_path: Path) -> None:
    stage = made(saved(tmp_path / "run", elements=range(9, 119)))
    large = random_crystals([6], rng=torch.Generator().manual_seed(0))
    large = CrystalBatch(
        frac=large.frac, cell=large.cell, species=large.species.clamp_min(9), num_atoms=large.num_atoms
    )
    crystals = CrystalBatch.concat([perovskite(), rock_salt(), large])
    records = {record.index: record for record in stage.run(crystals, [{}] * 3, workers=0)}
    assert [records[i].outcome for i in range(3)] == ["failed", "passed", "failed"]
    assert records[0].reason == "the model has seen no crystal with O in training"
    assert "6 atoms; the model has seen crystals of at most 5" in str(records[2].reason)
    assert "failed" not in stage.stops


def test_models_that_predict_nothing_are_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'default' \(JointFlow\) has no property head; train one"):
        made("default").check()
    unlearned = saved(tmp_path / "run", known=dict.fromkeys(KNOWN, 0))
    with pytest.raises(ConfigError, match="had none of formation_energy_per_atom"):
        made(unlearned).check()
    with pytest.raises(CheckpointError, match="no model 'nowhere'"):
        made("nowhere").check()
    with pytest.raises(ConfigError, match="needs a model with a property head: --predict RUN"):
        stages.make("predict")


def test_the_config_for_other_machines_has_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    portable = made("run").portable_config().model
    assert portable == str(tmp_path / "run" / "model")
    labels = [load_predictor(name, "cpu").label for name in ("run", portable)]
    assert labels[0] == labels[1] and labels[0].startswith("run (")
