"""`euhedral data`: look at crystals in files, convert them into a store, download the benchmarks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from euhedral.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

data_app = typer.Typer(help="Look at crystal data, convert it, download benchmarks.", no_args_is_help=True)
FAILURES_SHOWN = 10
STORE_MAGIC = b"ARROW1"

JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON on standard output.")]
LimitOption = Annotated[int, typer.Option(help="Crystals with more atoms count as failures.", min=1)]


@data_app.command("info")
def info(
    path: Annotated[Path, typer.Argument(help="A store, or anything that `convert` reads.", show_default=False)],
    limit_atoms: LimitOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Show what a store, file, zip or folder holds; a source is read to its end."""
    facts = store_facts(path) if is_store(path) else source_facts(path, limit_atoms)
    if as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        _print_facts(_console(), facts)
    if not facts["crystals"] and facts.get("failed"):
        raise DataError(f"nothing in '{path}' could be read as a crystal")


@data_app.command("convert")
def convert_command(
    path: Annotated[Path, typer.Argument(help="CSV, CIF, POSCAR, extxyz, JSON, ASE database, zip or folder.")],
    out: Annotated[Path, typer.Option(help="The store to write, e.g. mp_20.arrow.", show_default=False)],
    workers: Annotated[
        int | None, typer.Option(help="Processes; one a core where not given.", min=1, show_default=False)
    ] = None,
    reduce: Annotated[
        Literal["niggli", "none"], typer.Option(help="Niggli-reduced primitive cells, or cells as given.")
    ] = "niggli",
    limit_atoms: LimitOption = 1000,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing store once the new one is complete.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Convert crystals into a memory-mapped store; rows that cannot be read are reported and do not end it."""
    from euhedral.data.convert import convert

    if workers is None:
        workers = os.cpu_count() or 1
    with _progress(hidden=as_json) as progress:
        report = convert(
            path,
            out,
            workers=workers,
            reduce=reduce,
            limit_atoms=limit_atoms,
            overwrite=overwrite,
            progress=_row_counter(progress, path.name),
        )
    if as_json:
        sys.stdout.write(json.dumps(report.to_dict()) + "\n")
        return
    console = _console()
    console.print(
        f"{report.kept:,} crystals of {report.rows:,} rows in {report.seconds:.1f} s: {report.store}", highlight=False
    )
    for warning in report.warnings:
        console.print(f"[yellow]note[/] {_plain(warning)}", highlight=False)
    if report.failed:
        _print_failures(console, report.failed, [(f.row, f.id, f.reason) for f in report.failures], report.report)


@data_app.command("download")
def download_command(
    name: Annotated[str, typer.Argument(help="mp_20, perov_5, carbon_24 or mpts_52.", show_default=False)],
    to: Annotated[Path, typer.Option(help="Folder for data sets; the files go to TO/NAME/.")] = Path("data"),
    split: Annotated[
        list[str] | None, typer.Option(help="train, val or test; repeatable, all where not given.", show_default=False)
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="A mirror that serves train.csv, val.csv, test.csv.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Download the published files of a benchmark; interrupted downloads go on where they stopped."""
    from euhedral.data.download import SPLITS, download

    with _progress(hidden=as_json) as progress:
        files = download(name, to, base_url=base_url, splits=split or SPLITS, progress=_byte_counter(progress))
    if as_json:
        found = [
            {"path": str(f.path), "bytes": f.bytes, "sha256": f.sha256, "verified": f.verified, "fetched": f.fetched}
            for f in files
        ]
        sys.stdout.write(json.dumps(found) + "\n")
        return
    from rich.table import Table

    table = Table("file", "MB", "SHA-256", "checked against")
    for file in files:
        against = "known checksum or record" if file.verified else "nothing yet: recorded now"
        table.add_row(_plain(str(file.path)), f"{file.bytes / 1e6:.1f}", file.sha256[:16], against)
    _console().print(table)


def is_store(path: Path) -> bool:
    """Whether a file is an Arrow file, by its first bytes."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(len(STORE_MAGIC)) == STORE_MAGIC
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}") from error


def store_facts(path: Path) -> dict[str, Any]:
    """Summary of a store as plain values."""
    from euhedral.crystal.elements import SYMBOLS
    from euhedral.data.store import CrystalStore

    with CrystalStore.open(path) as store:
        facts = store.summary()
    facts["elements"] = [SYMBOLS[number] for number in facts["elements"]]
    return facts


def source_facts(path: Path, limit_atoms: int) -> dict[str, Any]:
    """Summary of a source as plain values; parses all of it."""
    from euhedral.crystal.elements import SYMBOLS
    from euhedral.data.labels import LabelCensus
    from euhedral.data.readers import read

    census, elements, failures = LabelCensus(), set[int](), []
    rows = kept = atoms = largest = 0
    smallest = sys.maxsize
    for row in read(path, limit_atoms=limit_atoms):
        rows += 1
        if row.crystal is None:
            if len(failures) < FAILURES_SHOWN:
                failures.append({"row": rows - 1, "id": row.id, "reason": row.error})
            continue
        kept += 1
        census.add(row.labels)
        count = int(row.crystal.num_atoms[0])
        atoms, smallest, largest = atoms + count, min(smallest, count), max(largest, count)
        elements.update(row.crystal.species.tolist())
    facts: dict[str, Any] = {"path": str(path), "rows": rows, "crystals": kept, "failed": rows - kept, "atoms": atoms}
    if kept:
        facts["num_atoms"] = {"min": smallest, "mean": atoms / kept, "max": largest}
    facts |= {"elements": [SYMBOLS[z] for z in sorted(elements)], "columns": census.header(), "failures": failures}
    return facts


def _print_facts(console: Console, facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=_plain(facts["path"]), title_justify="left", show_header=False)
    for name in ("crystals", "rows", "failed", "atoms", "bytes", "reduce"):
        if name in facts:
            value = facts[name]
            table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    if "num_atoms" in facts:
        sizes = facts["num_atoms"]
        table.add_row("atoms in a cell", f"{sizes['min']} to {sizes['max']}, mean {sizes['mean']:.2f}")
    table.add_row("elements", f"{len(facts['elements'])}: {' '.join(facts['elements'])}")
    console.print(table)
    if facts["columns"]:
        labels = Table("label", "kind", "known", "min", "mean", "max")
        for name, column in facts["columns"].items():
            ranges = [f"{column[key]:.4g}" if key in column else "" for key in ("min", "mean", "max")]
            labels.add_row(_plain(name), column["kind"], f"{column['known']:,}", *ranges)
        console.print(labels)
    if facts.get("failed"):
        _print_failures(console, facts["failed"], [(f["row"], f["id"], f["reason"]) for f in facts["failures"]], None)


def _print_failures(console: Console, failed: int, failures: list[tuple[int, str, str]], report: Path | None) -> None:
    from rich.table import Table

    where = f"; all of them in {report}" if report is not None else ""
    table = Table(
        "row", "id", "reason", title=_plain(f"{failed:,} {'row' if failed == 1 else 'rows'} could not be read{where}")
    )
    for row, name, reason in failures[:FAILURES_SHOWN]:
        table.add_row(str(row), _plain(name), _plain(reason))
    console.print(table)
    if failed > FAILURES_SHOWN:
        console.print(f"and {failed - FAILURES_SHOWN:,} more", highlight=False)


def _row_counter(progress: Progress, name: str) -> Callable[[int, int], None]:
    task = progress.add_task(_plain(name), total=None)

    def count(rows: int, failed: int) -> None:
        progress.update(task, completed=rows, description=_plain(f"{name}: {rows:,} rows, {failed:,} failed"))

    return count


def _byte_counter(progress: Progress) -> Callable[[str, int, int | None], None]:
    tasks: dict[str, Any] = {}

    def count(name: str, there: int, total: int | None) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(_plain(name), total=total)
        progress.update(tasks[name], completed=there, total=total)

    return count


def _progress(*, hidden: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=hidden,
    )


def _console() -> Console:
    from rich.console import Console

    return Console()


def _plain(text: str) -> str:
    """Text from files, which could hold what rich takes for markup."""
    from rich.markup import escape

    return escape(text)
