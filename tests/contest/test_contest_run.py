"""A whole contest of two tiny recipes on a score of crystals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from euhedral.cli.app import main
from euhedral.contest.entrant import entrants_of
from euhedral.contest.run import hold_contest
from euhedral.contest.settings import ContestSettings
from euhedral.contest.trivial import RANDOM, TEMPLATE
from euhedral.errors import ConfigError, DataError, OutputError
from euhedral.models.joint_flow import JointFlow
from euhedral.testing.crystals import random_crystals

NET = {"width": 32, "blocks": 1, "heads": 4, "pair_width": 16, "feedforward": 2}
SETTINGS = ContestSettings(minutes=0.02, predictions=3, samples=4, evaluations=6)


def write_crystals(path: Path, sizes: list[int], seed: int) -> Path:
    random_crystals(sizes, rng=torch.Generator().manual_seed(seed)).write(path)
    return path


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contest")
    write_crystals(folder / "train.extxyz", [2, 3] * 10, 0)
    # Of the species of a training set of few elements, else they could not be asked for.
    write_crystals(folder / "val.extxyz", [2, 3] * 10, 0)
    recipe = {
        "family": "joint_flow",
        "about": {"steps": 3, "evaluations": 24},
        "model": {"net": NET},
        "train": {"batch_size": 8, "precision": "float32", "accelerator": "cpu", "log_steps": 1},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def hold(ground: Path, out: Path, **changes: object):
    options = {"recipes": [str(ground / "mine.yaml"), "ion_exchange"], "settings": SETTINGS, "workers": 1}
    return hold_contest(ground / "train.extxyz", ground / "val.extxyz", out, **(options | changes))  # type: ignore[arg-type]


def test_a_contest_is_held_once(ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, said = tmp_path / "out", []
    standings = {one.name: one for one in hold(ground, out, say=said.append)}
    assert list(standings) == [RANDOM, TEMPLATE, "mine", "ion_exchange"]
    mine = standings["mine"]
    assert not mine.problems and mine.trained > 0 and mine.parameters > 1000 and mine.steps == 1
    assert mine.evaluations == 8 and mine.predicted_per_second and mine.generated_per_second
    assert mine.figures["match.rate"] is not None and mine.figures["validity.structure"] is not None
    # What is fitted at once learns the training crystals by heart, and these are the ones asked for.
    assert standings["ion_exchange"].trained == 0 and not standings["ion_exchange"].problems
    table = (out / "leaderboard.md").read_text()
    assert all(f"| {name} |" in table for name in standings)
    assert (out / "mine" / "prediction" / "crystals.extxyz").stat().st_size > 0

    monkeypatch.setattr("euhedral.contest.entrant._trained", None)  # a second training would call it
    again: list[str] = []
    assert {one.name: one for one in hold(ground, out, say=again.append)} == standings
    assert not [text for text in again if "training" in text]


def test_a_contest_of_other_settings_is_refused(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hold(ground, out, recipes=["ion_exchange"])
    with pytest.raises(OutputError, match=r"different: seed"):
        hold(ground, out, settings=ContestSettings(**{**vars(SETTINGS), "seed": 1}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(OutputError, match="is no contest"):
        hold(ground, tmp_path / "full")
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"


def test_what_a_recipe_raises_is_its_own_problem(ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise IndexError("too far")

    monkeypatch.setattr(JointFlow, "sample", broken)
    rows = hold(ground, tmp_path / "out")
    assert [one.problems for one in rows if one.name == "mine"] == [
        ("prediction failed: IndexError: too far", "generation failed: IndexError: too far")
    ]
    assert next(one for one in rows if one.name == "ion_exchange").figures["match.rate"] is not None


def test_a_stopped_training_is_gone_on_with(ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from euhedral.contest import entrant

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(entrant, "_predict", stop)
        hold(ground, tmp_path / "out")
    model = tmp_path / "out" / "mine" / "run" / "model" / "model.safetensors"
    before = model.read_bytes()
    rows = hold(ground, tmp_path / "out")
    assert model.read_bytes() == before and not any(one.problems for one in rows)


def test_entrants(tmp_path: Path) -> None:
    assert set(entrants_of([])) >= {"joint_flow", "diffcsp"}
    with pytest.raises(ConfigError, match="two entrants"):
        entrants_of(["diffcsp", "diffcsp"])
    with pytest.raises(ConfigError, match="did you mean"):
        entrants_of(["diffcps"])
    strange = tmp_path / "strange.yaml"
    strange.write_text("family: joint_flaw\n")
    with pytest.raises(ConfigError, match="unknown model family 'joint_flaw', did you mean"):
        entrants_of([str(strange)])


def test_missing_data(ground: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data at"):
        hold_contest(ground / "nowhere.csv", ground / "val.extxyz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_line(
    ground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["euhedral", "leaderboard", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    where = {"--data": ground / "train.extxyz", "--val": ground / "val.extxyz", "--out": tmp_path / "out"}
    paths = [str(word) for pair in where.items() for word in pair]
    few = ["--budget", "0.02", *paths, "--recipes", "ion_exchange", "--predictions", "2", "--samples", "2"]
    code, out, _ = run(*few, "--json")
    assert code == 0 and {row["name"] for row in json.loads(out)} == {"ion_exchange", RANDOM, TEMPLATE}
    code, out, err = run(*few)
    assert code == 0 and "ion_exchange" in out and "match rate" in err
    for words, message in (
        ([], "give reports"),
        (["--budget", "1"], "--budget needs --data"),
        (["--budget", "-1", *paths], "positive number of minutes"),
        ([str(tmp_path), "--budget", "1", *paths], "makes its own reports"),
    ):
        code, _, err = run(*words)
        assert code == 2 and message in " ".join(err.split())
