import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from euhedral.catalog.database import Catalogue
from euhedral.cli.screen import run_screening, screen
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.samples import read_samples
from euhedral.errors import ConfigError, EuhedralError, OutputError, RequestError
from euhedral.screen import stages

EMT = "ase.calculators.emt:EMT"
TOY = "model=EMT, functional=none, corrections=none"


@pytest.fixture
def metals(tmp_path: Path) -> Path:
    """Copper twice, gold, ordered copper-gold, and a metal that the calculator does not know."""
    cell = torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64)
    cubic = torch.eye(3, dtype=torch.float64)
    one, two = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    batch = CrystalBatch.from_crystals(
        [
            (1.8 * cell, one, torch.tensor([29])),
            (1.81 * cell, one, torch.tensor([29])),
            (2.0 * cell, one, torch.tensor([79])),
            (3.1 * cubic, two, torch.tensor([29, 79])),
            (2.0 * cell, one, torch.tensor([92])),
        ]
    )
    batch.write(tmp_path / "metals.extxyz")
    (tmp_path / "reference.csv").write_text("formula,energy_per_atom\nCu,0\nAu,0\nU,0\n")
    return tmp_path / "metals.extxyz"


def _screen(samples: Path, out: Path, **options) -> dict:
    defaults = {
        "calculator": EMT,
        "reference": samples.parent / "reference.csv",
        "reference_method": TOY,
        "energy_method": TOY,
        "above_hull": 1.0,
        "workers": 1,
    }
    screen(samples, out, **(defaults | options))
    return json.loads((out / "summary.json").read_text())


def _left(summary: dict) -> dict[str, int]:
    return {step["stage"]: step["passed"] for step in summary["stages"]}


def test_a_screening_leaves_ranked_crystals_a_table_inputs_and_a_report(metals: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    summary = _screen(metals, out, known=metals, skip="hull,novelty")
    assert _left(summary) == {"prefilter": 4, "relax": 3} and summary["discovery"] is None
    summary = _screen(metals, out, dft="vasp,espresso", top=2, sort="-e_above_hull")
    assert _left(summary) == {"prefilter": 4, "relax": 3, "hull": 3, "novelty": 3}
    assert summary["crystals"] == 5 and summary["discovery"]["msun"] is None
    assert "nothing is shipped that counts as known" in capsys.readouterr().out
    table = pyarrow.parquet.read_table(out / "crystals.parquet").to_pylist()
    assert [row["novelty_outcome"] for row in table] == ["passed", None, "passed", "passed", None]
    best = max((row for row in table if row["novelty_outcome"]), key=lambda row: row["e_above_hull"])
    names = sorted(file.stem for file in (out / "ranked").iterdir())
    assert names[0] == f"0001_{re.sub('[^A-Za-z0-9]', '_', best['formula'])}" and len(names) == 3
    assert sorted(folder.name for folder in (out / "dft" / "vasp").iterdir()) == names[:2]
    page = (out / "report" / "index.html").read_text()
    assert names[0] in page and "Hull of Cu-Au" in page and 'src="http' not in page
    assert (out / "report" / "cells.html").is_file()


def test_what_stages_leave_stands_under_the_crystals_rank_and_in_the_report(metals: Path, tmp_path: Path):
    out = tmp_path / "out"
    measuring = {
        "chosen": "prefilter,relax,hull,phonons,diffraction",
        "settings": ["phonons.length=6", "phonons.reject_unstable=false"],
    }
    summary = _screen(metals, out, **measuring)
    assert _left(summary)["diffraction"] == summary["left"] == 3
    names = {file.stem for file in (out / "ranked").iterdir()}
    assert {folder.name for folder in (out / "properties").iterdir()} == names
    for name in names:
        files = {file.name for file in (out / "properties" / name).iterdir()}
        assert files == {"bands.png", "phonopy.yaml.xz", "diffraction.csv"}
    page = (out / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "Phonon band structure of 0001_" in page
    assert "properties/0001_" in page
    _screen(metals, out, where="num_atoms == 2", **measuring)
    assert [folder.name for folder in (out / "properties").iterdir()] == ["0001_CuAu"]


def test_where_narrows_the_list_and_a_bad_one_is_told(metals: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert _screen(metals, out, where="num_atoms == 1")["left"] == 2
    assert {file.stem.partition("_")[2] for file in (out / "ranked").iterdir()} == {"Au", "Cu"}
    with pytest.raises(RequestError, match="e_above_hull"):
        _screen(metals, out, where="e_above_hul < 1")


@pytest.mark.parametrize("options", [{"where": "e_above_hul < 1"}, {"sort": "formula,-e_above_hul"}])
def test_a_column_that_no_stage_finds_is_told_before_anything_works(metals: Path, tmp_path: Path, options: dict):
    out = tmp_path / "out"
    with pytest.raises(RequestError, match=r"no column 'e_above_hul'.* did you mean e_above_hull"):
        _screen(metals, out, **options)
    with Catalogue(out, create=False) as catalogue:
        assert not catalogue.stages(1)
    assert _screen(metals, out, sort="-hull_seconds,relax_steps", where="relax_outcome = 'passed'")["left"] == 3


def test_what_was_asked_for_what_could_not_be_read_and_what_is_doubted_are_told(metals: Path, tmp_path: Path, capsys):
    folder = tmp_path / "crystals"
    folder.mkdir()
    for name, batch in (("gold", read_samples(metals).crystals[2]), ("ordered", read_samples(metals).crystals[3])):
        batch.write(folder / f"{name}.cif")
    (folder / "[broken].cif").write_text("data_broken\n")
    (tmp_path / "reference.csv").write_text("formula,energy_per_atom\nCu,0\nAu,0.2\nU,0\n")
    summary = _screen(folder, tmp_path / "out", reference=tmp_path / "reference.csv", sort="-relax_steps")
    assert summary["unreadable"] == 1 and list(summary["unreadable_reasons"]) == ["[broken]"]
    said = capsys.readouterr().out
    assert "1 of them could not be read:\n  [broken]: " in said and "relax_steps" in said
    assert "to be doubted" in said and "Au (1)" in said and str(tmp_path / "out" / "ranked") in said
    assert "To be doubted" in (tmp_path / "out" / "report" / "index.html").read_text()


def test_a_folder_of_something_else_and_of_other_crystals_is_refused(metals: Path, tmp_path: Path):
    with pytest.raises(OutputError, match="holds no screening"):
        _screen(metals, tmp_path)
    out = tmp_path / "out"
    _screen(metals, out, chosen="prefilter")
    other = tmp_path / "other.cif"
    CrystalBatch.from_crystals([(torch.eye(3) * 3, torch.zeros(1, 3), torch.tensor([29]))]).write(other)
    with pytest.raises(OutputError, match="belongs to other crystals"):
        _screen(other, out, chosen="prefilter")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": "prefilter,relax,hull,novelty"}, "no stage is left"),
        ({"chosen": "relaxation"}, "no stage is called 'relaxation'"),
        ({"skip": "hul"}, "no stage is called 'hul'"),
        ({"settings": ["relax.force_limt=1"]}, "did you mean 'force_limit'"),
        ({"settings": ["relax=1"]}, "STAGE.SETTING=VALUE"),
        ({"settings": ["relax.max_steps=many"]}, "relax.max_steps"),
        ({"dft": "abinit"}, "abinit"),
        ({"calculator": "emt"}, "no calculator is called 'emt'"),
        ({"energy_method": None}, "not known"),
        ({"predict": "default"}, "has no property head"),
    ],
)
def test_what_cannot_be_asked_is_told(metals: Path, tmp_path: Path, options: dict, message: str):
    with pytest.raises(EuhedralError, match=message):
        _screen(metals, tmp_path / "out", **options)


def test_settings_of_a_stage_stand_over_options():
    made = stages.make("relax", {"relax_cell": "false", "force_limit": 0.2})
    assert made.config.relax_cell is False and made.config.force_limit == 0.2
    with pytest.raises(ConfigError):
        stages.make("relax", {"force_limit": -1})


def test_the_command_prints_json_and_exits_with_2_on_what_is_wrong(metals: Path, tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "euhedral.cli.app",
        "screen",
        str(metals),
        "--stages",
        "prefilter",
        "--workers",
        "1",
    ]
    good = subprocess.run([*command, "--out", "out", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    assert json.loads(good.stdout)["stages"][0]["outcomes"] == {"passed": 4, "rejected": 1}
    bad = subprocess.run([*command, "--out", ".", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stderr.startswith("euhedral: . exists and holds no screening")
    unread = subprocess.run(
        [*command[:4], "nowhere.cif", "--out", "other"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert unread.returncode == 2 and unread.stderr == "euhedral: no file or folder 'nowhere.cif'\n"


def test_a_screening_of_nothing_that_is_left_still_has_its_report(metals: Path, tmp_path: Path):
    made = [stages.make("relax", {"calculator": EMT, "max_steps": 0, "force_limit": 1e-9})]
    results = run_screening(metals, tmp_path / "out", made, workers=1)
    assert results.summary["left"] == 0 and "No crystal passed every stage" in results.page.read_text()
