from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from euhedral.cli.recipes import recipes
from euhedral.errors import ConfigError
from euhedral.recipes import shipped

app = typer.Typer()
app.command()(recipes)


def test_every_recipe_is_listed() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for name in shipped.names():
        assert name in text
    assert "family joint_process, 2.1 M parameters, 2000 evaluations a crystal in 1000 steps" in text
    assert "arXiv 2309.04475" in text


def test_one_is_printed_as_it_is_to_be_copied(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["flowmm"])
    assert result.exit_code == 0
    copy = tmp_path / "own.yaml"
    copy.write_text(result.stdout)
    assert shipped.find(str(copy)) == shipped.find("flowmm")
    for words, message in ((["flowm"], "did you mean 'flowmm'"), (["flowmm", "--json"], "leave it out")):
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(app, words, catch_exceptions=False)


def test_json_holds_the_same() -> None:
    rows = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert [row["name"] for row in rows] == shipped.names()
    assert {"family", "paper", "parameters", "evaluations", "steps", "status"} <= set(rows[0])
