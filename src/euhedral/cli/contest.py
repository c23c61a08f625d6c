"""`euhedral leaderboard --budget`: recipes trained, sampled and judged alike."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from euhedral.contest.settings import ContestSettings
    from euhedral.contest.standing import Standing

Form = Literal["json", "csv", "markdown", "table"]


def contest(
    data: Path | None, val: Path | None, out: Path | None, recipes: str, settings: ContestSettings, form: Form
) -> None:
    """Hold a contest and print its table.

    Raises:
        ConfigError: where one of the paths is missing, or a recipe is unknown.
    """
    from rich.console import Console

    from euhedral.contest.run import hold_contest

    if data is None or val is None or out is None:
        raise ConfigError(
            "--budget needs --data (crystals to train on), --val (crystals to predict) and --out (a folder)"
        )
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    try:
        standings = hold_contest(
            data,
            val,
            out,
            recipes=[name.strip() for name in recipes.split(",") if name.strip()],
            settings=settings,
            say=say,
            on_standing=lambda standing: say(told(standing)),
        )
    except KeyboardInterrupt:
        say(f"stopped; the same command goes on with {out}")
        raise
    _print(standings, form)


def told(standing: Standing) -> str:
    """A line about an entrant that has been through."""
    rate = standing.figures.get("match.rate")
    figure = "no match rate" if rate is None else f"match rate {100 * rate:.1f} %"
    return f"{standing.name}: {'; '.join([figure, *standing.problems])}"


def _print(standings: list[Standing], form: Form) -> None:
    from euhedral.contest.standing import cost, generation, ordered, prediction, to_csv, to_markdown

    if form == "json":
        sys.stdout.write(json.dumps([one.to_json() for one in ordered(standings)], allow_nan=False) + "\n")
    elif form == "csv":
        sys.stdout.write(to_csv(standings))
    elif form == "markdown":
        sys.stdout.write(to_markdown(standings))
    else:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        console = Console()
        for headings, rows in (prediction(standings), generation(standings), cost(standings)):
            shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
            shown.add_column(headings[0], no_wrap=True)
            for heading in headings[1:]:
                shown.add_column(heading, justify="right")
            for row in rows:
                shown.add_row(*map(escape, row))
            console.print(shown)
