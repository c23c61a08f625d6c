"""`euhedral leaderboard`: several reports side by side."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from euhedral.evaluate.report import Figure, ProtocolResult
    from euhedral.train.clock import Clock


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One report's figures of one protocol.

    Attributes:
        name: of the report, for people.
        samples: crystals that were judged.
        result: the figures.
    """

    name: str
    samples: int
    result: ProtocolResult


def leaderboard(
    reports: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of euhedral evaluate, or metrics.json files.", show_default=False),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Which protocol to compare; needed where reports have several.")
    ] = None,
    sort: Annotated[str | None, typer.Option(help="Order by this figure, the best first.", show_default=False)] = None,
    mix_versions: Annotated[
        bool, typer.Option(help="Show figures of different protocol versions side by side, and say so.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON on standard output.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print as CSV on standard output.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print as a Markdown table.")] = False,
    budget: Annotated[
        float | None,
        typer.Option(help="Train every recipe for so many minutes, sample and judge it.", show_default=False),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="With --budget: crystals to train on.", show_default=False)] = None,
    val: Annotated[
        Path | None, typer.Option(help="With --budget: crystals to predict and compare with.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --budget: folder; one that was stopped goes on.", show_default=False)
    ] = None,
    recipes: Annotated[
        str, typer.Option(help="With --budget: names or YAML files, by commas; all where not given.")
    ] = "",
    predictions: Annotated[int, typer.Option(help="With --budget: structures to predict.")] = 200,
    samples: Annotated[int, typer.Option(help="With --budget: crystals to generate.")] = 500,
    evaluations: Annotated[
        int, typer.Option(help="With --budget: most evaluations of a network a crystal; 0 for each recipe's own.")
    ] = 200,
    seed: Annotated[int, typer.Option(help="With --budget: of all that is drawn.")] = 0,
    clock: Annotated[
        str,
        typer.Option(
            help="With --budget: what minutes are of: wall, or processor where other work shares the machine."
        ),
    ] = "wall",
) -> None:
    """Put reports side by side, or train, sample and judge every recipe (--budget)."""
    if as_json + as_csv + as_markdown > 1:
        raise ConfigError("--json, --csv and --markdown exclude each other")
    if budget is not None:
        if reports or protocol or sort or mix_versions:
            raise ConfigError(
                "--budget makes its own reports; leave out reports, --protocol, --sort and --mix-versions"
            )
        from euhedral.cli.contest import contest
        from euhedral.contest.settings import ContestSettings

        settings = ContestSettings(
            minutes=budget,
            predictions=predictions,
            samples=samples,
            evaluations=evaluations,
            seed=seed,
            clock=cast("Clock", clock),
        )
        form = "json" if as_json else "csv" if as_csv else "markdown" if as_markdown else "table"
        contest(data, val, out, recipes, settings, form)
        return
    if not reports:
        raise ConfigError("give reports to put side by side, or --budget MINUTES to train and judge recipes")
    entries = collect(reports, protocol, mix_versions=mix_versions)
    names = figure_names(entries)
    if sort is not None:
        entries = _sorted(entries, sort, names)
    if as_json:
        sys.stdout.write(json.dumps(to_json(entries, names), allow_nan=False) + "\n")
    elif as_csv:
        sys.stdout.write(to_csv(entries, names))
    elif as_markdown:
        sys.stdout.write(to_markdown(entries, names))
    else:
        _print(entries, names)


def collect(reports: Sequence[Path], protocol: str | None = None, *, mix_versions: bool = False) -> list[Entry]:
    """The figures of one protocol of each report.

    Raises:
        DataError: where a report cannot be read.
        ConfigError: where reports have no protocol in common, several and none was chosen, or different versions of it.
    """
    from euhedral.evaluate.report import read_metrics

    read = [read_metrics(path) for path in reports]
    offered = [{result.protocol for result in report.results} for report in read]
    shared = set.intersection(*offered)
    if protocol is None:
        if len(shared) != 1:
            there = "; ".join(
                f"{path}: {', '.join(sorted(names))}" for path, names in zip(reports, offered, strict=True)
            )
            why = (
                "have no protocol in common"
                if not shared
                else "have several protocols in common; choose with --protocol"
            )
            raise ConfigError(f"the reports {why} ({there})")
        protocol = shared.pop()
    entries = []
    for path, name, report in zip(reports, _names(reports), read, strict=True):
        result = next((result for result in report.results if result.protocol == protocol), None)
        if result is None:
            raise ConfigError(
                f"'{path}' has no figures of protocol '{protocol}'; evaluate it with --protocol {protocol}"
            )
        entries.append(Entry(name=name, samples=report.samples, result=result))
    versions = {entry.result.version for entry in entries}
    if len(versions) > 1 and not mix_versions:
        told = ", ".join(f"{entry.name}: {entry.result.version}" for entry in entries)
        raise ConfigError(
            f"these reports follow different versions of protocol '{protocol}' ({told}), whose figures are not comparable; "
            "evaluate again, or pass --mix-versions"
        )
    return entries


def figure_names(entries: Sequence[Entry]) -> list[str]:
    """Names of all figures, in the order of the protocol."""
    return list(dict.fromkeys(figure.name for entry in entries for figure in entry.result.figures))


def to_json(entries: Sequence[Entry], names: Sequence[str]) -> dict[str, Any]:
    """Figures by report."""
    return {
        "protocol": entries[0].result.protocol,
        "versions": sorted({entry.result.version for entry in entries}),
        "reports": [
            {
                "name": entry.name,
                "version": entry.result.version,
                "samples": entry.samples,
                "figures": {name: _plain(entry, name) for name in names},
            }
            for entry in entries
        ],
    }


def to_csv(entries: Sequence[Entry], names: Sequence[str]) -> str:
    """One row a report; value, low and high of each figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}{part}" for name in names for part in ("", ".low", ".high")]
    writer.writerow(["report", "protocol", "version", "samples", *columns])
    for entry in entries:
        values = []
        for name in names:
            found = _plain(entry, name) or {"value": None, "low": None, "high": None}
            values += [found["value"], found["low"], found["high"]]
        writer.writerow([entry.name, entry.result.protocol, entry.result.version, entry.samples, *values])
    return text.getvalue()


def to_markdown(entries: Sequence[Entry], names: Sequence[str]) -> str:
    """A table with one row a figure and one column a report."""
    rows = _rows(entries, names)
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * len(entries))
    return "\n".join(lines) + "\n"


def _rows(entries: Sequence[Entry], names: Sequence[str]) -> list[list[str]]:
    mixed = len({entry.result.version for entry in entries}) > 1
    protocol = entries[0].result.protocol
    version = "versions differ" if mixed else entries[0].result.version
    titles = [f"{entry.name} ({entry.result.version})" if mixed else entry.name for entry in entries]
    rows = [[f"{protocol} {version}", *titles], ["crystals", *(f"{entry.samples:,}" for entry in entries)]]
    for name in names:
        figures = [_figure(entry, name) for entry in entries]
        best = _best(figures)
        texts = ["" if figure is None else figure.text(figure.value) for figure in figures]
        rows.append([name, *(f"**{text}**" if i in best else text for i, text in enumerate(texts))])
    return rows


def _print(entries: Sequence[Entry], names: Sequence[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    rows = _rows(entries, names)
    table = Table(title_justify="left")
    for i, heading in enumerate(rows[0]):
        table.add_column(escape(heading), justify="right" if i else "left", overflow="fold")
    for row in rows[1:]:
        table.add_row(
            *(f"[bold]{escape(cell[2:-2])}[/bold]" if cell.startswith("**") else escape(cell) for cell in row)
        )
    Console().print(table)


def _best(figures: Sequence[Figure | None]) -> set[int]:
    """Positions of the best values, where better is defined and more than one report has the figure."""
    known = [(i, figure) for i, figure in enumerate(figures) if figure is not None and figure.value is not None]
    if len(known) < 2 or not known[0][1].better:
        return set()
    values = {i: figure.value for i, figure in known if figure.value is not None}
    best = max(values.values()) if known[0][1].better == "higher" else min(values.values())
    return {i for i, value in values.items() if value == best}


def _sorted(entries: Sequence[Entry], name: str, names: Sequence[str]) -> list[Entry]:
    from euhedral.evaluate.protocols import nearest

    if name not in names:
        raise ConfigError(f"there is no figure '{name}'{nearest(name, names)}; there are: {', '.join(names)}")

    def key(entry: Entry) -> tuple[bool, float]:
        figure = _figure(entry, name)
        if figure is None or figure.value is None:
            return True, 0.0
        return False, figure.value if figure.better == "lower" else -figure.value

    return sorted(entries, key=key)


def _figure(entry: Entry, name: str) -> Figure | None:
    return next((figure for figure in entry.result.figures if figure.name == name), None)


def _plain(entry: Entry, name: str) -> dict[str, float | None] | None:
    figure = _figure(entry, name)
    return None if figure is None else {"value": figure.value, "low": figure.low, "high": figure.high}


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    folders = [path.parent if path.suffix == ".json" else path for path in (path.resolve() for path in paths)]
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
