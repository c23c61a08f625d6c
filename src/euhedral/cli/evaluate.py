"""`euhedral evaluate`: from anybody's crystals to a report."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from euhedral.cli.assignments import parse_assignments
from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from euhedral.evaluate.report import Figure, ProtocolResult, Report
    from euhedral.evaluate.requested import Requested
    from euhedral.evaluate.run import Settings

REASONS_SHOWN = 8
LEAST_SECONDS = 0.05
"""Stages that took less are not listed by name."""
WIDE_ENOUGH = 110
"""Columns of a terminal where published figures fit beside one's own; else they follow below."""


def evaluate(
    samples: Annotated[
        list[Path],
        typer.Argument(
            help="Crystals: CIF, extxyz, CSV, JSON, .pt, zip, folder, store, run; several: draws for the same references.",
            show_default=False,
        ),
    ],
    reference: Annotated[
        Path | None, typer.Option(help="Crystals to compare with, in any of these forms.", show_default=False)
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="cdvae, csp, mattergen, lemat or request; repeatable; chosen by the inputs where not given."),
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="Crystals that count as known; the reference where not given.")
    ] = None,
    energies: Annotated[
        Path | None, typer.Option(help="Table with columns id or index, and e_above_hull in eV/atom.")
    ] = None,
    relaxed: Annotated[
        Path | None, typer.Option(help="The samples after relaxation, in the same order.", show_default=False)
    ] = None,
    space_group: Annotated[
        int | None, typer.Option(help="Number that was asked for; that of a run where not given.", show_default=False)
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE that was asked for, repeatable; those of a run where not given."),
    ] = None,
    within: Annotated[
        list[str] | None, typer.Option(help="NAME=TOLERANCE within which a target counts as met, repeatable.")
    ] = None,
    values: Annotated[
        Path | None, typer.Option(help="Table with columns id or index, and the properties with targets.")
    ] = None,
    unsteered: Annotated[
        Path | None, typer.Option(help="Table of these properties of crystals not asked for anything, to stand beside.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for metrics.json, records.parquet and index.html.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier report in --report.")] = False,
    dataset: Annotated[
        str, typer.Option(help="Whose published thresholds hold: mp_20, mpts_52, perov_5 or carbon_24.")
    ] = "mp_20",
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes; one a core where not given. With --cluster slurm those to ask for.",
            min=1,
            show_default=False,
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Where crystals are judged: a Dask scheduler (tcp://host:8786), local or slurm.", show_default=False
        ),
    ] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for a crystal or pair in one step.")] = 30.0,
    limit_atoms: Annotated[int, typer.Option(help="Crystals with more atoms count as not read.", min=1)] = 1000,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of results by content; the platform's where not given.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no results and use none.")] = False,
    potential: Annotated[
        bool, typer.Option(help="Whether to compute what needs CHGNet, some 10 ms a crystal: energies, embeddings.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json on standard output.")] = False,
) -> None:
    """Judge crystals by published protocols; broken crystals are counted and explained, never dropped."""
    from euhedral.evaluate.protocols import chosen_protocols
    from euhedral.evaluate.run import DEFAULT_CACHE, Settings

    if cache is not None and no_cache:
        raise ConfigError("--cache and --no-cache exclude each other")
    settings = Settings(
        dataset=dataset,
        # Processes that --cluster slurm asks for are not those of this machine.
        workers=(None if cluster == "slurm" else workers) or os.cpu_count() or 1,
        seconds_per_crystal=time_limit,
        cache=None if no_cache else cache or DEFAULT_CACHE,
        seed=seed,
        potential=potential,
    )
    sources = {
        "crystals": samples if len(samples) > 1 else samples[0],
        "reference": reference,
        "train": train,
        "energies": energies,
        "relaxed": relaxed,
        "requested": _requested(samples, space_group, target or [], within or []),
        "values": values,
        "unsteered": unsteered,
        "limit_atoms": limit_atoms,
    }
    chosen_protocols(protocol or [], paired=False)  # an unknown name is refused before anything is read or made
    with _crews(cluster, workers or 0) as threads:
        # Work is cut by the number of processes.
        settings = replace(settings, workers=max(settings.workers, threads))
        _judge(sources, protocol or [], settings, report, overwrite=overwrite, as_json=as_json)


@contextmanager
def _crews(cluster: str | None, workers: int) -> Iterator[int]:
    """Where crystals are read and judged: by processes of this machine, or on a cluster, whose threads are counted."""
    if cluster is None:
        yield 0
        return
    from rich.console import Console

    from euhedral.catalog.cluster import open_host
    from euhedral.data.workers import crews_on

    console = Console(stderr=True)

    def tell(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    with open_host(cluster, workers=workers, tell=tell) as host, crews_on(host):
        yield host.threads


def _requested(samples: list[Path], space_group: int | None, target: list[str], within: list[str]) -> Requested:
    """What the samples were asked to have: what the run says of itself, replaced by what is given here."""
    from euhedral.evaluate.requested import Requested, Target, requested_of_run, with_tolerances

    own = requested_of_run(samples[0]) if len(samples) == 1 else Requested()
    given = parse_assignments(target, option="--target")
    targets = {name: Target(value=value) for name, value in given.items()} or own.targets
    asked = Requested(space_group=own.space_group if space_group is None else space_group, targets=targets)
    return with_tolerances(asked, parse_assignments(within, option="--within"))


def _judge(
    sources: dict[str, Any],
    protocols: list[str],
    settings: Settings,
    report: Path | None,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Read, judge, write the report's folder, and print."""
    from rich.console import Console

    from euhedral.evaluate.folder import ReportFolder
    from euhedral.evaluate.run import judge, read_inputs

    folder = None if report is None else ReportFolder(report, overwrite=overwrite)
    with stage_bars(Console(stderr=True)) as progress:
        inputs = read_inputs(
            **sources,
            workers=settings.workers,
            seconds_per_crystal=settings.seconds_per_crystal,
            progress=progress,
        )
        on_stage = None if folder is None else folder.write
        result = judge(inputs, protocols, settings=settings, progress=progress, on_stage=on_stage)
    if folder is not None:
        from euhedral.web.report import write_report

        reference_crystals = None if inputs.reference is None else inputs.reference.crystals
        write_report(folder.path, result, inputs.samples.crystals, reference_crystals)
    if as_json:
        import json

        sys.stdout.write(json.dumps(result.to_dict(), allow_nan=False) + "\n")
    else:
        print_report(Console(), result)
    if report is not None and not as_json:
        Console(stderr=True).print(f"report in {report}", markup=False)
    if not any(judged.figures for judged in result.results):
        named = ", ".join(judged.protocol for judged in result.results)
        raise ConfigError(f"nothing could be judged by {named}: give what the lines above ask for")


@contextmanager
def stage_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars, one a stage, made when the stage first reports; nothing where the console is no terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_interactive) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield report


def print_report(console: Console, report: Report) -> None:
    """Tables of all protocols beside their published anchors, and what went wrong how often."""
    against = f" against {report.references:,}" if report.references else ""
    console.print(
        f"{report.samples:,} crystals of {report.sources.get('samples', '?')}{against}",
        highlight=False,
        markup=False,  # paths and reasons may hold brackets
        soft_wrap=True,
    )
    for result in report.results:
        wide = console.width >= WIDE_ENOUGH
        console.print(_table(result, with_published=wide))
        if not wide:
            for name, published in _published(result).items():
                console.print(f"published {name}: {', '.join(published)}", highlight=False, soft_wrap=True)
        for told in dict.fromkeys(f"{anchor.dataset}; {anchor.note}" for anchor in result.anchors):
            console.print(f"published figures: {told}", highlight=False, markup=False, soft_wrap=True)
        for name, reason in result.left_out.items():
            console.print(f"left out: {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    _print_failures(console, report)
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in report.seconds.items() if value >= LEAST_SECONDS)
    console.print(f"{sum(report.seconds.values()):.1f} s{': ' if seconds else ''}{seconds}", highlight=False)
    if "cache" in report.sources:
        console.print(report.sources["cache"], highlight=False, markup=False)


def _table(result: ProtocolResult, *, with_published: bool) -> Any:
    from rich.table import Table

    published = _published(result) if with_published else {}
    table = Table(title=f"protocol {result.protocol} {result.version}", title_justify="left")
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    if published:
        table.add_column("published", ratio=1)
    for figure in result.figures:
        row = [figure.name, figure.text(figure.value), figure.interval_text]
        table.add_row(*row, *([", ".join(published.get(figure.name, []))] if published else []))
    return table


def _published(result: ProtocolResult) -> dict[str, list[str]]:
    """Published values of each figure that has any."""
    found: dict[str, list[str]] = {}
    for anchor in result.anchors:
        value = _short(result.figure(anchor.figure), anchor.value)
        found.setdefault(anchor.figure, []).append(f"{anchor.system} {value}")
    return found


def _short(figure: Figure, value: float) -> str:
    """A published value without its unit, which stands beside it already."""
    return f"{100 * value:.4g}" if figure.share else f"{value:.4g}"


def _print_failures(console: Console, report: Report) -> None:
    counts = Counter((failure.stage, failure.reason) for failure in report.failures)
    if not counts:
        return
    failed = len({failure.index for failure in report.failures})
    stay = "crystal failed somewhere, and stays" if failed == 1 else "crystals failed somewhere, and stay"
    console.print(f"{failed:,} {stay} in the denominators:")
    for (stage, reason), count in counts.most_common(REASONS_SHOWN):
        console.print(f"  {count:>7,} x {stage}: {reason}", highlight=False, markup=False, soft_wrap=True)
    if len(counts) > REASONS_SHOWN:
        console.print(f"  ... and {len(counts) - REASONS_SHOWN} other reasons", highlight=False)
