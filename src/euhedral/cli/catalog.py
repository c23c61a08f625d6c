"""`euhedral catalog`: what was made, what became of it, and files of it for other programs."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from euhedral.errors import RequestError

if TYPE_CHECKING:
    from euhedral.catalog.database import Catalogue, Run

catalog_app = typer.Typer(help="Look into catalogues of crystals, filter, sort and export them.", no_args_is_help=True)
ROWS_SHOWN = 50
COLUMNS_SHOWN = 8
ALWAYS_SHOWN = ("run", "index", "formula", "num_atoms")

CatalogueArgument = Annotated[
    str, typer.Argument(help="Run folder, file, or URL such as postgresql://user@host/name.", envvar="EUHEDRAL_CATALOG")
]
RunOption = Annotated[int | None, typer.Option(help="Number of a run; all where not given.", show_default=False)]
WhereOption = Annotated[
    str | None, typer.Option(help='Filter, e.g. "e_above_hull < 0.1 and num_atoms <= 8".', show_default=False)
]
SortOption = Annotated[
    str | None, typer.Option(help="Columns with commas between; a minus in front: largest first.", show_default=False)
]
ColumnsOption = Annotated[str | None, typer.Option(help="Columns with commas between.", show_default=False)]
LimitOption = Annotated[int | None, typer.Option(help="Crystals at most.", min=0, show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON on standard output.")]


@catalog_app.command("list")
def list_command(catalogue: CatalogueArgument = ".", as_json: JsonOption = False) -> None:
    """List the runs: what was asked for, how many crystals, how far they are."""
    from euhedral.catalog.database import Catalogue

    with Catalogue(catalogue, create=False) as opened:
        runs = [(run, opened.stages(run.id)) for run in opened.runs()]
    if as_json:
        _print_json([{**asdict(run), "stages": [asdict(stage) for stage in stages]} for run, stages in runs])
        return
    table = _table(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} in {catalogue}")
    for heading in ("run", "kind", "model", "seed", "crystals", "stages", "made"):
        justify = "right" if heading in ("run", "seed", "crystals") else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading in ("run", "crystals", "made"))
    for run, stages in runs:
        told = ", ".join(f"{stage.stage} {sum(stage.outcomes.values()):,}" for stage in stages)
        table.add_row(
            *map(
                _cell,
                (run.id, run.kind, run.model, run.seed, f"{run.crystals:,}", told, run.created[:16].replace("T", " ")),
            )
        )
    _console().print(table)


@catalog_app.command("show")
def show_command(
    catalogue: CatalogueArgument = ".",
    run: RunOption = None,
    index: Annotated[int | None, typer.Option(help="A crystal of the run.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run with its request, provenance, stages and columns; or a crystal with all that is known of it."""
    from euhedral.catalog.database import Catalogue

    with Catalogue(catalogue, create=False) as opened:
        chosen = _chosen_run(opened, run)
        facts = _crystal_facts(opened, chosen, index) if index is not None else _run_facts(opened, chosen)
    if as_json:
        _print_json(facts)
        return
    console = _console()
    for name, value in facts.items():
        lines = value.splitlines() if isinstance(value, str) and "\n" in value else None
        if isinstance(value, dict | list) and value:
            console.print(f"{name}:", highlight=False, markup=False)
            items = value.items() if isinstance(value, dict) else enumerate(value)
            lines = [f"{key}: {item if isinstance(item, str) else json.dumps(item)}" for key, item in items]
        if lines is None:
            console.print(f"{name}: {_text(value)}", highlight=False, markup=False, soft_wrap=True)
        for line in lines or ():
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


@catalog_app.command("query")
def query_command(
    catalogue: CatalogueArgument = ".",
    run: RunOption = None,
    where: WhereOption = None,
    sort: SortOption = None,
    columns: ColumnsOption = None,
    limit: LimitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Filter and sort crystals by any column that a stage has found."""
    from euhedral.catalog.database import Catalogue

    with Catalogue(catalogue, create=False) as opened:
        wanted = _names(columns)
        if as_json:
            _print_rows(opened, run=run, where=where, sort=sort, columns=wanted, limit=limit)
            return
        kinds = {name: kind for name, (kind, _, _) in opened.columns(run).items()}
        known = list(kinds)
        shown = wanted or _worth_showing(known, first=_asked_columns(where, sort, known))
        most = ROWS_SHOWN if limit is None else limit
        rows = opened.table(run, where, sort, shown, most + 1).to_pylist()
    table = _table(f"crystals in {catalogue}" + (f" where {where}" if where else ""))
    for name in shown:
        table.add_column(name, justify="left" if kinds[name] == "text" else "right")
    for row in rows[:most]:
        table.add_row(*(_cell(row[name]) for name in shown))
    console = _console()
    console.print(table)
    if len(rows) > most and limit is None:
        console.print(f"the first {most} are shown; --limit, --json or `euhedral catalog export` give more")
    if left := [name for name in known if name not in shown]:
        console.print(f"further columns: {', '.join(left)}", highlight=False, markup=False, soft_wrap=True)


@catalog_app.command("export")
def export_command(
    catalogue: CatalogueArgument,
    out: Annotated[
        Path, typer.Argument(help="x.cif, .extxyz, .csv, .parquet, .db (ASE), .json (pymatgen), or a folder.")
    ],
    run: RunOption = None,
    where: WhereOption = None,
    sort: SortOption = None,
    columns: ColumnsOption = None,
    limit: LimitOption = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="Crystals as this stage left them, or 'original'; newest where not given.", show_default=False
        ),
    ] = None,
    structures: Annotated[bool, typer.Option(help="Whether CSV and parquet get a column of CIFs.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Write crystals and columns for other programs; the ending chooses the format."""
    from euhedral.catalog.database import Catalogue
    from euhedral.catalog.export import export

    with Catalogue(catalogue, create=False) as opened:
        done = export(
            opened,
            out,
            run=run,
            where=where,
            sort=sort,
            columns=_names(columns),
            limit=limit,
            stage=stage,
            structures=structures,
        )
    if as_json:
        _print_json({**asdict(done), "path": str(done.path)})
        return
    left = f"; {done.left_out:,} that could not be read have no place in it" if done.left_out else ""
    _console().print(f"{done.crystals:,} crystals in {done.path}{left}", highlight=False, markup=False)


@catalog_app.command("import")
def import_command(
    source: Annotated[Path, typer.Argument(help="A run of `euhedral generate`, or any source of crystals.")],
    to: Annotated[
        str | None,
        typer.Option(
            help="Catalogue: folder, file or URL; the run folder's own where not given.", envvar="EUHEDRAL_CATALOG"
        ),
    ] = None,
    partial: Annotated[bool, typer.Option(help="Take in a run that was not finished too.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that parse a large source.", min=1)] = 1,
    limit_atoms: Annotated[int, typer.Option(help="Crystals with more atoms count as not read.", min=1)] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Take crystals into a catalogue, with their request and provenance; the same ones again change nothing."""
    from euhedral.catalog.database import Catalogue
    from euhedral.catalog.provenance import import_source

    if not source.exists():
        raise RequestError(f"there is nothing at '{source}' to take in")
    if to is None and not source.is_dir():
        raise RequestError("--to names the catalogue that the crystals go to, e.g. --to catalog.sqlite")
    with Catalogue(to or source) as opened:
        number = import_source(opened, source, partial=partial, workers=workers, limit_atoms=limit_atoms)
        run, unread = opened.run(number), sum(stage == "read" for _, stage, _, _ in opened.failures(number))
        place = str(opened)
    if as_json:
        _print_json({"catalogue": place, "run": run.id, "crystals": run.crystals, "unreadable": unread})
        return
    left = f", {unread:,} of which could not be read" if unread else ""
    _console().print(f"run {run.id} of {place}: {run.crystals:,} crystals{left}", highlight=False, markup=False)


def _chosen_run(catalogue: Catalogue, run: int | None) -> Run:
    if run is not None:
        return catalogue.run(run)
    runs = catalogue.runs()
    if len(runs) != 1:
        raise RequestError(f"'{catalogue}' has {len(runs)} runs; name one with --run (see euhedral catalog list)")
    return runs[0]


def _run_facts(catalogue: Catalogue, run: Run) -> dict[str, Any]:
    failures = catalogue.failures(run.id)
    columns = catalogue.columns(run.id)
    return {
        **asdict(run),
        "stages": {
            found.stage: {
                "version": found.version,
                "outcomes": found.outcomes,
                "seconds": round(found.seconds, 3),
                "config": found.config,
            }
            for found in catalogue.stages(run.id)
        },
        "columns": {
            name: ", ".join(part for part in (kind, unit, meaning) if part)
            for name, (kind, unit, meaning) in columns.items()
        },
        "failures": len(failures),
    }


def _crystal_facts(catalogue: Catalogue, run: Run, index: int) -> dict[str, Any]:
    from euhedral.crystal.convert import to_cif

    crystal = catalogue.crystals(run.id, [index])
    row = catalogue.table(run.id, f"index = {index}").to_pylist()[0]
    failed = [f"{stage}: {reason}" for at, stage, _, reason in catalogue.failures(run.id) if at == index]
    facts = {**{name: value for name, value in row.items() if value is not None}, "failures": failed}
    return facts if not row["num_atoms"] else {**facts, "cif": to_cif(crystal, row["name"])}


def _print_rows(catalogue: Catalogue, **asked: Any) -> None:
    """One JSON array, a crystal a line, written while it is read."""
    before = "[\n"
    for batch in catalogue.batches(**asked):
        for row in batch.to_pylist():
            sys.stdout.write(before + json.dumps(row, allow_nan=False))
            before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise RequestError("--columns takes names with commas between, such as formula,e_above_hull")
    return names


def _asked_columns(where: str | None, sort: str | None, known: list[str]) -> list[str]:
    """The columns that a filter and an order name, in the order in which they name them."""
    words = re.findall(r"[A-Za-z_]\w*", f"{where or ''} {sort or ''}")
    return [name for name in dict.fromkeys(words) if name in known]


def _worth_showing(known: list[str], *, first: list[str]) -> list[str]:
    """The columns that fit the terminal: what the crystal is, what was asked about, and the first values of stages."""
    from euhedral.catalog.database_table import RESERVED

    found = [name for name in known if name not in RESERVED and not name.endswith(("_outcome", "_reason", "_seconds"))]
    candidates = dict.fromkeys([*ALWAYS_SHOWN, *first, *found[:COLUMNS_SHOWN]])
    least = len(ALWAYS_SHOWN) + len(first)
    shown: list[str] = []
    # A column takes its heading, or nine digits and a sign, and three characters of frame.
    left = _console().width - 1
    for name in candidates:
        left -= max(len(name), 10 if name not in ALWAYS_SHOWN else 5) + 3
        if left < 0 and len(shown) >= least:
            break
        shown.append(name)
    return shown


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    from rich.markup import escape

    return escape(_text(value))


def _table(title: str) -> Any:
    from rich.markup import escape
    from rich.table import Table

    return Table(title=escape(title), title_justify="left")


def _console() -> Any:
    from rich.console import Console

    return Console()
