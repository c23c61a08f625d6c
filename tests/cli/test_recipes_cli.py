from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from euhedral.cli.recipes import recipes
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


def test_json_holds_the_same() -> None:
    rows = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert [row["name"] for row in rows] == shipped.names()
    assert {"family", "paper", "parameters", "evaluations", "steps", "status"} <= set(rows[0])
