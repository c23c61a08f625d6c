"""The stage of synthesis: values are those of the library, reasons for what is missing, refusals before all work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CheckpointError, ConfigError, DataError, MismatchError
from euhedral.evaluate import magpie
from euhedral.screen import stages
from euhedral.screen.stage import StageRecord
from euhedral.screen.synthesis_stage import SynthesisConfig, SynthesisStage
from euhedral.screen.synthesizability import synthesizability
from euhedral.testing.crystals import cesium_chloride, perovskite, rock_salt

TOY = "model=toy, functional=none, corrections=none"


def _config(folder: Path, **settings: object) -> SynthesisConfig:
    path = folder / "hull.csv"
    lines = ["formula,energy_per_atom", "Sr,0", "Ti,0", "O2,0", "SrO,-3", "TiO2,-3.2", "Na,0", "Cl2,0", "NaCl,-2"]
    path.write_text("\n".join(lines) + "\n")
    given = {"reference": str(path), "reference_method": TOY, "energy_method": TOY, **settings}
    return SynthesisConfig(**given)


def _run(crystals: CrystalBatch, energies: list[float | None], config: SynthesisConfig) -> list[StageRecord]:
    earlier = [{"energy_per_atom": energy, "calculator": "toy"} for energy in energies]
    return sorted(SynthesisStage(config).run(crystals, earlier, workers=0), key=lambda record: record.index)


def _near() -> CrystalBatch:
    """Two atoms on top of each other, no crystal that symmetry could be searched of."""
    frac = torch.tensor([[0.0, 0, 0], [0.01, 0, 0]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(4 * torch.eye(3, dtype=torch.float64), frac, torch.tensor([11, 17]))])


def _titanate() -> CrystalBatch:
    return perovskite(38, 22, 8, dtype=torch.float64)


def test_values_are_those_of_the_library_and_the_routes_are_in_the_file(tmp_path: Path):
    (record,) = _run(_titanate(), [-3.5], _config(tmp_path))
    assert record.outcome == "passed" and record.reason is None and record.crystal is None and record.seconds > 0
    assert set(record.values) == set(SynthesisStage.columns)
    assert record.values["synthesizability"] == pytest.approx(synthesizability(_titanate())[0][0])
    assert record.values["precursors"] == "TiO2 + SrO -> SrTiO3 (at 0 K, without entropy and kinetics)"
    # 5 * -3.5 - (2 * -3 + 3 * -3.2) eV of 5 atoms.
    assert record.values["reaction_energy"] == pytest.approx(-1.9 / 5)
    assert record.values["reaction_energy_molar"] == pytest.approx(-1.9 * 96.485, rel=1e-4)
    assert record.values["competing_product"] is None and record.values["competing_driving_force"] == 0
    document = json.loads(record.files["precursors.json"])
    assert "no kinetics" in document["caveat"] and document["routes"][0]["reaction"] == "TiO2 + SrO -> SrTiO3"
    assert document["routes"][0]["ids"] == {"TiO2": "hull.csv:5", "SrO": "hull.csv:4"}


def test_one_crystal_that_cannot_be_judged_leaves_the_others(tmp_path: Path):
    crystals = CrystalBatch.concat(
        [_near(), _titanate(), rock_salt(11, 11, dtype=torch.float64), cesium_chloride(dtype=torch.float64)]
    )
    near, missing, sodium, strange = _run(crystals, [-2.0, None, -2.0, -2.0], _config(tmp_path))
    assert near.outcome == "failed" and "no synthesizability: atoms are" in (near.reason or "")
    assert "synthesizability" in near.values and near.values["synthesizability"] is None
    assert missing.outcome == "failed" and "no reactions: the energy of the target is nan" in (missing.reason or "")
    assert missing.values["synthesizability"] is not None and "precursors" not in missing.values
    assert sodium.outcome == "passed" and sodium.reason == "no set of simple phases on the hull balances to it"
    assert strange.outcome == "failed" and "no entry for the pure element Cs" in (strange.reason or "")
    assert not SynthesisStage.stops and all(not record.files for record in (missing, sodium, strange))


def test_a_competing_phase_is_named(tmp_path: Path):
    config = _config(tmp_path)
    with (tmp_path / "hull.csv").open("a") as stream:
        stream.write("Sr2TiO4,-3.4\n")
    (record,) = _run(_titanate(), [-3.5], config)
    # 7 * -3.4 - (4 * -3 + 3 * -3.2) = -2.2 eV of 7 atoms.
    assert record.values["competing_product"] == "Sr2TiO4"
    assert record.values["competing_driving_force"] == pytest.approx(2.2 / 7)


def test_energies_of_chgnet_go_on_the_shipped_hull_and_others_are_refused(tmp_path: Path):
    stage = SynthesisStage(SynthesisConfig())
    stage.check()
    (record,) = stage.run(_titanate(), [{"energy_per_atom": -8.0, "calculator": "chgnet"}], workers=0)
    assert record.outcome == "passed" and "SrTiO3 (at 0 K" in str(record.values["precursors"])
    with pytest.raises(MismatchError, match="not known"):
        list(stage.run(_titanate(), [{"energy_per_atom": -8.0, "calculator": "mace"}], workers=0))
    other = _config(tmp_path, energy_method="model=toy, functional=PBE, corrections=none")
    with pytest.raises(MismatchError, match="functional"):
        _run(_titanate(), [-3.5], other)


def test_it_follows_novelty_and_is_chosen_by_name_with_settings_of_text():
    assert stages.in_order(["synthesis", "novelty", "phonons"]) == ["novelty", "synthesis", "phonons"]
    assert "synthesis" not in stages.DEFAULT_STAGES
    made = stages.make("synthesis", {"most_precursors": "2", "kept": 1})
    assert made.config == SynthesisConfig(most_precursors=2, kept=1)


def test_what_is_missing_is_told_before_all_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CheckpointError, match="no file"):
        SynthesisStage(SynthesisConfig(judge=str(tmp_path / "none.safetensors"))).check()
    with pytest.raises(DataError, match="no file"):
        SynthesisStage(SynthesisConfig(reference=str(tmp_path / "none.csv"), reference_method=TOY)).check()
    with pytest.raises(ConfigError, match="most_precursors"):
        SynthesisConfig(most_precursors=9)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(magpie, "magpie_table", magpie.magpie_table.__wrapped__)
    with pytest.raises(ConfigError, match="pip install"):
        SynthesisStage(SynthesisConfig()).check()


def test_paths_are_absolute_for_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = SynthesisStage(SynthesisConfig(reference="phases.csv", reference_method=TOY)).portable_config()
    assert config.reference == str(tmp_path / "phases.csv") and config.judge is None
