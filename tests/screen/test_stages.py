import math

import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import ConfigError, EuhedralError, MismatchError
from euhedral.screen import stages
from euhedral.screen.hull_stage import HullConfig, HullStage
from euhedral.screen.novelty_stage import NoveltyConfig, NoveltyStage
from euhedral.screen.prefilter_stage import PrefilterConfig, PrefilterStage
from euhedral.screen.ranking import IMBALANCE, ranked, score
from euhedral.screen.relax_stage import RelaxStage, RelaxStageConfig


def _salt(length: float = 5.6, second: int = 17) -> CrystalBatch:
    """Rock salt in its primitive cell."""
    cell = length / 2 * torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64)
    frac = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, frac, torch.tensor([11, second]))])


def _copper(length: float = 3.7) -> CrystalBatch:
    cell = length / 2 * torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([29]))])


def _nothing() -> CrystalBatch:
    """What stands for a crystal that could not be read."""
    return CrystalBatch(
        frac=torch.zeros(0, 3, dtype=torch.float64),
        cell=torch.zeros(1, 3, 3, dtype=torch.float64),
        species=torch.zeros(0, dtype=torch.int64),
        num_atoms=torch.zeros(1, dtype=torch.int64),
    )


@pytest.mark.parametrize("name", stages.DEFAULT_STAGES)
def test_every_default_stage_is_made_from_its_defaults_and_says_what_its_columns_are(name: str):
    config, stage = stages.lookup(name)
    made = stage(config())
    assert made.name == name and made.version >= 1
    assert all(column.isidentifier() and made.columns[column].meaning for column in made.columns)


def test_no_two_stages_share_a_column():
    columns = [column for name in stages.names() for column in stages.lookup(name)[1].columns]
    assert len(columns) == len(set(columns))


def test_stages_go_in_the_order_of_the_funnel_and_unknown_ones_are_refused():
    assert stages.in_order(["novelty", "relax", "novelty"]) == ["relax", "novelty"]
    with pytest.raises(ConfigError, match="no stage is called 'relaxx'"):
        stages.in_order(["relaxx"])


def test_prefilter_rejects_what_is_no_crystal_and_what_came_before():
    crystals = CrystalBatch.concat([_salt(), _nothing(), _salt(5.61), _salt(0.5), _copper()])
    earlier = [{"index": 10 + i} for i in range(5)]
    records = PrefilterStage(PrefilterConfig()).run(crystals, earlier, workers=0)
    assert [record.index for record in records] == list(range(5))
    assert [record.outcome for record in records] == ["passed", "rejected", "rejected", "rejected", "passed"]
    assert records[2].values["duplicate_of"] == 10 and records[2].reason == "the same as crystal 10"
    assert records[3].values["structure_valid"] is False and records[1].reason == "no atoms"


def test_prefilter_rejects_charged_compositions_only_if_asked():
    charged = _salt(second=2)  # helium has no oxidation states
    asked = PrefilterStage(PrefilterConfig(require_neutral=True)).run(charged, [{}], workers=0)
    left = PrefilterStage(PrefilterConfig(reject_duplicates=False)).run(charged, [{}], workers=0)
    assert asked[0].outcome == "rejected" and "neutral" in (asked[0].reason or "")
    assert left[0].outcome == "passed" and left[0].values["composition_valid"] is False


def test_relaxation_finds_the_lattice_constant_of_a_calculator_by_its_import_path():
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    atoms = bulk("Cu", a=3.7)
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.001)  # pyright: ignore[reportArgumentType]
    config = RelaxStageConfig(calculator="ase.calculators.emt:EMT", force_limit=0.001)
    crystals = CrystalBatch.concat([_copper(), _nothing()])
    records = sorted(RelaxStage(config).run(crystals, [{}, {}], workers=0), key=lambda record: record.index)
    good, bad = records
    assert good.outcome == "passed" and good.crystal is not None
    assert math.isclose(float(good.crystal.volume), atoms.get_volume(), rel_tol=1e-3)
    assert math.isclose(float(good.values["energy_per_atom"] or 0), atoms.get_potential_energy(), abs_tol=1e-4)
    assert bad.outcome == "failed" and bad.reason == "no atoms" and bad.crystal is None


def test_a_crystal_that_the_calculator_raises_for_fails_alone():
    config = RelaxStageConfig(calculator="ase.calculators.emt:EMT")
    crystals = CrystalBatch.concat([_salt(), _copper()])
    records = sorted(RelaxStage(config).run(crystals, [{}, {}], workers=0), key=lambda record: record.index)
    assert [record.outcome for record in records] == ["failed", "passed"]
    assert "No EMT-potential for Na" in (records[0].reason or "")
    assert records[0].values["energy_per_atom"] is None


def test_one_that_needs_more_steps_stops_and_says_so():
    config = RelaxStageConfig(calculator="ase.calculators.emt:EMT", max_steps=0, force_limit=1e-6)
    (record,) = RelaxStage(config).run(_copper(), [{}], workers=0)
    assert record.outcome == "step limit" and record.outcome in RelaxStage.stops and record.crystal is None


def test_calculators_that_are_none_are_refused_by_name():
    with pytest.raises(ConfigError, match="no calculator is called 'emt'"):
        RelaxStageConfig(calculator="emt")
    with pytest.raises(EuhedralError, match="cannot be imported"):
        list(RelaxStage(RelaxStageConfig(calculator="no.such:thing")).run(_copper(), [{}], workers=0))


def _reference(path):
    """0 for the elements and -1 eV/atom for NaCl."""
    path.write_text("formula,energy_per_atom\nNa,0\nCl,0\nNaCl,-1\n")
    return HullConfig(
        reference=str(path),
        reference_method="model=toy, functional=none, corrections=none",
        energy_method="model=toy, functional=none, corrections=none",
    )


def test_hull_gives_the_distance_to_the_known_line(tmp_path):
    stage = HullStage(_reference(tmp_path / "hull.csv"))
    crystals = CrystalBatch.concat([_salt()] * 3 + [_copper()])
    energies = [-1.05, -0.5, None, 0.0]
    earlier = [{"energy_per_atom": energy, "calculator": "toy"} for energy in energies]
    records = stage.run(crystals, earlier, workers=0)
    assert [record.outcome for record in records] == ["passed", "rejected", "failed", "failed"]
    assert records[0].values["e_above_hull"] == pytest.approx(-0.05)
    assert records[1].values["e_above_hull"] == pytest.approx(0.5)
    assert records[1].values["formation_energy_per_atom"] == pytest.approx(-0.5)
    assert records[0].values["competing_phases"] == "1.00 NaCl"
    assert records[2].reason == "no finite energy" and "Cu" in (records[3].reason or "")
    assert records[1].reason == "0.500 eV/atom above the hull, more than 0.1"


def test_energies_of_an_unknown_method_and_of_another_one_are_refused(tmp_path):
    earlier = [{"energy_per_atom": -1.0, "calculator": "mace"}]
    with pytest.raises(MismatchError, match="not known"):
        HullStage(HullConfig()).run(_salt(), earlier, workers=0)
    config = _reference(tmp_path / "hull.csv")
    other = HullConfig(
        reference=config.reference,
        reference_method=config.reference_method,
        energy_method="model=toy, functional=PBE, corrections=none",
    )
    with pytest.raises(MismatchError, match="functional"):
        HullStage(other).run(_salt(), earlier, workers=0)


def test_novelty_knows_duplicates_known_ones_and_discoveries(tmp_path):
    known = tmp_path / "known.extxyz"
    _copper(3.6).write(known)
    crystals = CrystalBatch.concat([_salt(), _salt(5.65), _copper(), _salt(6.2, 35)])
    earlier = [{"index": 3 * i, "e_above_hull": above} for i, above in enumerate([0.05, 0.0, -0.1, -0.01])]
    records = NoveltyStage(NoveltyConfig(known=str(known))).run(crystals, earlier, workers=0)
    assert [record.outcome for record in records] == ["passed", "rejected", "rejected", "passed"]
    assert [record.values["sun"] for record in records] == [False, False, False, True]
    assert [record.values["msun"] for record in records] == [True, False, False, True]
    assert records[1].values["same_as"] == 0 and records[1].values["unique"] is False
    assert records[2].values["novel"] is False and (records[2].reason or "").startswith("known as")


def test_without_a_list_of_the_known_nothing_is_called_novel():
    (record,) = NoveltyStage(NoveltyConfig()).run(_salt(), [{"e_above_hull": 0.0}], workers=0)
    assert record.outcome == "passed" and record.values["unique"] is True
    assert record.values["novel"] is None and record.values["msun"] is None


def test_novelty_refuses_thresholds_out_of_order():
    with pytest.raises(ConfigError, match="stable_at"):
        NoveltyConfig(stable_at=0.2)


def test_ranking_is_the_stated_formula():
    rows = [
        {"e_above_hull": 0.04},
        {"e_above_hull": None},
        {"e_above_hull": 0.0, "composition_valid": False},
        {"e_above_hull": -0.1, "composition_valid": True},
    ]
    assert score(rows[2]) == IMBALANCE and score(rows[1]) is None
    assert ranked(rows) == [3, 0, 2, 1]


def test_relaxed_crystals_have_their_space_group() -> None:
    stage = RelaxStage(RelaxStageConfig(calculator="ase.calculators.emt:EMT", force_limit=0.05))
    strained = CrystalBatch(
        frac=torch.tensor([[0.02, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.49, 0.5]]),
        cell=torch.eye(3)[None] * torch.tensor([3.7, 3.6, 3.55]),
        species=torch.full((4,), 29),
        num_atoms=torch.tensor([4]),
    )
    (record,) = stage.run(strained, [{}], workers=0)
    assert record.outcome == "passed"
    assert record.values["relaxed_space_group"] == 225


def test_a_function_that_gives_no_calculator_is_named() -> None:
    stage = RelaxStage(RelaxStageConfig(calculator="builtins:print"))
    with pytest.raises(EuhedralError, match="builtins:print"):
        list(stage.run(_salt(), [{}], workers=0))
