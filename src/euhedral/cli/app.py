"""`euhedral`: the commands, and how their errors reach a user."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from euhedral import __version__
from euhedral.cli.catalog import catalog_app
from euhedral.cli.data import data_app
from euhedral.cli.evaluate import evaluate
from euhedral.cli.generate import generate
from euhedral.cli.info import info
from euhedral.cli.leaderboard import leaderboard
from euhedral.cli.recipes import recipes
from euhedral.cli.screen import screen
from euhedral.cli.split import leakage_command, split_command
from euhedral.cli.train import finetune, train
from euhedral.errors import EuhedralError

INTERRUPTED = 130
"""Exit code of Ctrl-C."""
_INTERRUPTION = "euhedral: interrupted; what was written is whole"

app = typer.Typer(
    help="Generate crystals that do not exist yet, and judge them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(generate)
app.command()(evaluate)
app.command()(screen)
app.command()(leaderboard)
app.command()(train)
app.command()(finetune)
app.command()(recipes)
app.command()(info)
data_app.command("split")(split_command)
data_app.command("leakage")(leakage_command)
app.add_typer(data_app, name="data")
app.add_typer(catalog_app, name="catalog")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: an `EuhedralError` is printed without a traceback and gives exit code 2, Ctrl-C gives 130."""
    interrupts: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        app(standalone_mode=True)
    except EuhedralError as error:
        print(f"euhedral: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # typer makes this of Ctrl-C
            print(_INTERRUPTION, file=sys.stderr)
        raise
    except (ImportError, AttributeError):
        # A package whose import is interrupted may say that it is broken.
        if not interrupts:
            raise
        print(_INTERRUPTION, file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()
