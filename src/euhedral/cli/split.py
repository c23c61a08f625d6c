"""`euhedral data split` and `euhedral data leakage`: parts that share nothing, and what two sets share."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from euhedral.data.leakage import Overlap
    from euhedral.data.store import CrystalStore

JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON on standard output.")]
WorkersOption = Annotated[
    int | None, typer.Option(help="Processes; one a core where not given.", min=1, show_default=False)
]


def split_command(
    source: Annotated[Path, typer.Argument(help="A store, or anything that `convert` reads.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder to make; gets a store a part and split.json.", show_default=False)],
    by: Annotated[
        str, typer.Option(help="What stays together: composition, chemical-system, space-group, time or random.")
    ] = "composition",
    fractions: Annotated[str, typer.Option(help="Share of each part; they add up to 1.")] = "0.8,0.1,0.1",
    names: Annotated[
        str | None, typer.Option(help="Names of the parts; train,val,test where not given.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of groups; the same seed gives the same split.")] = 0,
    column: Annotated[str, typer.Option(help="Number or date that a split by time goes by.")] = "year",
    drop_unknown: Annotated[bool, typer.Option(help="Leave out crystals whose time is unknown.")] = False,
    symprec: Annotated[float, typer.Option(help="Tolerance in Å of a split by space group.")] = 0.01,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Split crystals into parts that no compound, system, space group or year straddles; later years come last."""
    from euhedral.data.split import split

    with _progress(hidden=as_json) as progress:
        summary = split(
            source,
            out,
            by=by,  # type: ignore[arg-type]
            fractions=_numbers(fractions),
            names=None if names is None else [name.strip() for name in names.split(",")],
            seed=seed,
            column=column,
            drop_unknown=drop_unknown,
            symprec=symprec,
            workers=workers or os.cpu_count() or 1,
            progress=_counter(progress, "grouping"),
        )
    if as_json:
        sys.stdout.write(json.dumps(summary.to_dict()) + "\n")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    titles = ["part", "crystals", "share", "groups"] + (["from", "to"] if by == "time" else [])
    table = Table(*titles, title=f"{summary.crystals:,} crystals split by {by}", title_justify="left")
    for part in summary.parts:
        ends = [escape(_time(part.first)), escape(_time(part.last))] if by == "time" else []
        table.add_row(part.name, f"{part.crystals:,}", f"{part.share:.1%}", f"{part.groups:,}", *ends)
    console = Console()
    console.print(table)
    if by != "random":
        name, size = summary.largest_group
        console.print(f"largest group: {escape(name)}, {size:,} crystals", highlight=False)
    if summary.without_time:
        console.print(f"left out without '{escape(column)}': {summary.without_time:,}", highlight=False)
    if summary.unreadable:
        where = escape(str(summary.folder / "source.report.jsonl"))
        console.print(f"[yellow]note[/] {summary.unreadable:,} rows could not be read: {where}", highlight=False)
    console.print(f"written to {escape(str(summary.folder))}", highlight=False)


def leakage_command(
    train: Annotated[Path, typer.Argument(help="Training set: a store, or anything that `convert` reads.")],
    test: Annotated[Path, typer.Argument(help="Test set, or generated crystals.")],
    structures: Annotated[
        bool, typer.Option(help="Also match the structures of shared formulas (pymatgen's StructureMatcher rule).")
    ] = True,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a test set shares with a training set: ids, crystals, compounds and chemical systems."""
    from euhedral.data.leakage import leakage
    from euhedral.data.subset import open_as_store

    workers = workers or os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="euhedral-") as folder, _progress(hidden=as_json) as progress:
        first, first_report = open_as_store(train, Path(folder), name="train", workers=workers)
        second, second_report = open_as_store(test, Path(folder), name="test", workers=workers)
        with first, second:
            found = leakage(first, second)
            if structures:
                found.insert(2, structural_overlap(first, second, found, workers, _counter(progress, "matching")))
            sizes = {"train": len(first), "test": len(second)}
    unreadable = {
        "train": first_report.failed if first_report else 0,
        "test": second_report.failed if second_report else 0,
    }
    if as_json:
        overlaps = [one.to_dict() for one in found]
        facts = {"train": str(train), "test": str(test), "crystals": sizes, "unreadable": unreadable}
        sys.stdout.write(json.dumps({**facts, "overlaps": overlaps}) + "\n")
        return
    _print_leakage(sizes, unreadable, found)


def structural_overlap(
    train: CrystalStore,
    test: CrystalStore,
    overlaps: list[Overlap],
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> Overlap:
    """Test crystals that match a training crystal in structure; only those of a shared formula are compared.

    A crystal that cannot be decided in time does not count as shared; `undecided` says how many these are.
    """
    import numpy as np

    from euhedral.data.leakage import EXAMPLES, Overlap
    from euhedral.evaluate.novelty import ReferenceIndex

    shared = next(one for one in overlaps if one.kind == "reduced formula")
    index = ReferenceIndex.build(train.crystals(np.array(shared.train_rows, dtype=np.int64)))
    new = test.crystals(np.array(shared.test_rows, dtype=np.int64))
    records = index.find(new, workers=workers, progress=progress)
    # The index calls a crystal by its position among those of shared formulas.
    pairs = [
        (row, shared.train_rows[int(record.reference)])
        for row, record in zip(shared.test_rows, records, strict=True)
        if record.reference is not None
    ]
    names = test.ids([row for row, _ in pairs[:EXAMPLES]]) if pairs else []
    return Overlap(
        kind="structure",
        test_rows=tuple(row for row, _ in pairs),
        train_rows=tuple(sorted({twin for _, twin in pairs})),
        test_crystals=len(test),
        examples=tuple(names),
        undecided=sum(record.reference is None and record.reason is not None for record in records),
    )


def _print_leakage(sizes: dict[str, int], unreadable: dict[str, int], found: list[Overlap]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = f"{sizes['test']:,} test crystals against {sizes['train']:,} training crystals"
    table = Table("shared", "test crystals", "share", "training crystals", "such as", title=title, title_justify="left")
    for one in found:
        examples = ", ".join(one.examples[:3]) + (", …" if len(one.examples) > 3 else "")
        table.add_row(
            one.kind, f"{len(one.test_rows):,}", f"{one.share:.1%}", f"{len(one.train_rows):,}", escape(examples)
        )
    console = Console()
    console.print(table)
    for one in found:
        if one.undecided:
            console.print(
                f"[yellow]note[/] {one.kind}: {one.undecided:,} test crystals could not be decided in time, and count as "
                "not shared",
                highlight=False,
            )
    for name, rows in unreadable.items():
        if rows:
            console.print(f"[yellow]note[/] {rows:,} rows of the {name} set could not be read", highlight=False)


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"expected fractions such as 0.8,0.1,0.1, got '{text}'") from None


def _time(value: float | str | None) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _counter(progress: Progress, name: str) -> Callable[[int, int], None]:
    tasks: list[Any] = []

    def count(done: int, total: int) -> None:
        if not tasks:
            tasks.append(progress.add_task(name, total=total))
        progress.update(tasks[0], completed=done, total=total)

    return count


def _progress(*, hidden: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden)
