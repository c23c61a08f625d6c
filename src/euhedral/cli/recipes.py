"""`euhedral recipes`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Print the file of this one instead, to be copied and changed.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output instead of lines.")] = False,
) -> None:
    """List the recipes that `euhedral train --recipe NAME` takes: family, paper, parameters, evaluations, status."""
    from euhedral.errors import ConfigError
    from euhedral.recipes import shipped

    if name is not None:
        if as_json:
            raise ConfigError("--json lists all recipes; leave it out to print the file of one")
        typer.echo(shipped.path_of(name).read_text(encoding="utf-8"), nl=False)
        return
    rows: list[dict[str, Any]] = []
    for name in shipped.names():
        recipe = shipped.find(name)
        rows.append(
            {
                "name": name,
                "family": recipe.family,
                **asdict(recipe.about),
                "parameters": shipped.count_parameters(recipe),
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console

    console = Console()
    for row in rows:
        console.print(f"[bold]{row['name']}[/bold]  {row['title']}", highlight=False, soft_wrap=True)
        console.print(
            f"  {row['paper']}\n  family {row['family']}, {row['parameters'] / 1e6:.1f} M parameters, "
            f"{row['evaluations']} evaluations a crystal in {row['steps']} steps\n  {row['status']}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
