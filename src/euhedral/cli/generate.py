"""`euhedral generate`: from a request to a folder of crystals."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.cli import generate_options as options
from euhedral.cli.assignments import parse_targets
from euhedral.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from euhedral.catalog.run_folder import RunFolder
    from euhedral.sample.generate import Generator
    from euhedral.sample.request import GenerationRequest, ResolvedRequest
    from euhedral.sample.spread import Spread
    from euhedral.sample.template import Template

ROWS_SHOWN = 40
EXACT_SYMPREC = 0.01
"""Tolerance in Å at which crystals that are made with a symmetry are searched for it."""


def generate(
    n: options.Number = 16,
    formula: options.Formula = None,
    z: options.FormulaUnits = None,
    chemical_system: options.ChemicalSystem = None,
    elements: options.Elements = None,
    exclude_elements: options.ExcludeElements = None,
    num_atoms: options.NumAtoms = None,
    space_group: options.SpaceGroup = None,
    property_targets: options.PropertyTargets = None,
    charge_neutral: options.ChargeNeutral = None,
    template: options.TemplateFile = None,
    fix: options.Fix = None,
    idealize: options.Idealize = True,
    guidance: options.Guidance = 1.0,
    steer: options.Steer = None,
    steer_strength: options.SteerStrength = 1.0,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    model: options.Model = "default",
    out: options.Out = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    batch: options.Batch = 64,
    device: options.Device = "auto",
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    screen: options.Screen = False,
    as_json: options.AsJson = False,
) -> None:
    """Generate crystals and write them as CIF, extxyz, a table, a summary and a gallery."""
    started = time.time()
    from rich.console import Console

    from euhedral.sample.request import GenerationRequest

    request = GenerationRequest(
        n=n,
        formula=formula,
        z=z,
        chemical_system=chemical_system,
        elements=elements,
        exclude_elements=exclude_elements,
        num_atoms=parse_atom_range(num_atoms),
        space_group=space_group,
        properties=parse_targets(property_targets or [], option="--property"),
        charge_neutral=charge_neutral,
        idealize=idealize,
        guidance=guidance,
        steer=steer,
        steer_strength=steer_strength,
        steps=steps,
        seed=seed,
        template=_template(template, fix or []),
    )
    if batch < 1:
        raise RequestError(f"--batch must be at least 1, not {batch}")
    if resume and out is None:
        raise RequestError("--resume goes on with the run in a folder: name it with --out")
    if overwrite and resume:
        raise RequestError("--overwrite and --resume exclude each other")
    from euhedral.catalog.run_folder import RunFolder, free_folder
    from euhedral.sample.generate import Generator
    from euhedral.sample.predictor import load_predictor

    console = Console(stderr=as_json)
    generator = Generator.load(model, device=device)
    resolved = generator.resolve(request)
    folder = out or free_folder(Path.cwd(), "crystals")
    asked = {**request.to_json(), "steps": resolved.steps, "model": model, "weights": generator.digest, "batch": batch}
    if steer is not None:
        asked["steer_weights"] = load_predictor(steer, generator.device).digest
    with RunFolder(folder, json.loads(json.dumps(asked)), overwrite=overwrite, resume=resume) as run:
        try:
            with _opened_spread(generator, n - len(run.records), workers, cluster, console) as spread:
                first = _write_all(generator, request, run, console, batch=batch, started=started, spread=spread)
        except KeyboardInterrupt:
            told = f"{len(run.records)} of {n} crystals are in {folder}; the same command with --out {folder} --resume goes on"
            print(f"euhedral: {told}", file=sys.stderr)
            raise
        summary = _finish(generator, resolved, run, seconds=time.time() - started, first=first)
    if not as_json:
        _print_table(console, run, summary)
    if screen:
        summary["screening"] = _screen(run, overwrite=overwrite, printed=not as_json)
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")


def _screen(run: RunFolder, *, overwrite: bool, printed: bool) -> dict[str, Any]:
    """Take the run through the default funnel, in a folder of its own; gives the summary."""
    import shutil

    from euhedral.catalog.database_engine import FILE
    from euhedral.cli.screen import print_screening, run_screening
    from euhedral.screen import stages

    out = run.path / "screen"
    if overwrite and (out / FILE).is_file():
        shutil.rmtree(out)
    results = run_screening(run.path, out, [stages.make(name) for name in stages.DEFAULT_STAGES])
    if printed:
        print_screening(results)
    return results.summary


def _template(path: Path | None, keep: list[str]) -> Template | None:
    if (path is None) != (not keep):
        raise RequestError(
            "--template FILE and --fix PART go together, for example --template host.cif --fix lattice --fix sites:Ti,O"
        )
    if path is None:
        return None
    from euhedral.sample.template import Template

    return Template.read(path, keep)


def parse_atom_range(text: str | None) -> int | tuple[int, int] | None:
    """'8' or '4-12' as numbers. Raises RequestError on anything else."""
    if text is None:
        return None
    parts = text.split("-")
    if not all(part.strip().isdecimal() for part in parts) or len(parts) > 2:
        raise RequestError(f"--num-atoms takes a count such as 8 or a range such as 4-12, not {text!r}")
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


@contextlib.contextmanager
def _opened_spread(
    generator: Generator, left: int, workers: int | None, cluster: str | None, console: Console
) -> Iterator[Spread | None]:
    """Processes that draw what is left, here or on a cluster; None for this process."""
    from euhedral.sample.spread import Processes, processes_for

    if cluster is None:
        count = processes_for(generator, left, workers)
        yield Processes(count) if count else None
        return
    from euhedral.catalog.cluster import open_spread

    def tell(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    with open_spread(cluster, workers=workers or 0, tell=tell) as spread:
        yield spread


def _write_all(
    generator: Generator,
    request: GenerationRequest,
    run: RunFolder,
    console: Console,
    *,
    batch: int,
    started: float,
    spread: Spread | None,
) -> float | None:
    """Draw and write every crystal; returns the seconds until the first was on disk."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from euhedral.sample.spread import stream_spread

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    first: float | None = None
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as progress:
        task = progress.add_task("crystals", total=request.n, completed=len(run.written))

        def say_halved(size: int) -> None:
            progress.console.print(f"memory ran out: going on with batches of {size}")

        options = {"batch": batch, "skip": run.written, "on_halved": say_halved}
        if spread is None:
            chunks = generator.stream(request, **options)
        else:
            chunks = stream_spread(generator, request, spread, **options)
        for chunk in chunks:
            run.add(chunk.crystals, chunk.indices, redrawn=chunk.redrawn)
            first = first if first is not None else time.time() - started
            progress.update(task, completed=len(run.written))
    return first


def _finish(
    generator: Generator,
    resolved: ResolvedRequest,
    run: RunFolder,
    *,
    seconds: float,
    first: float | None,
) -> dict[str, Any]:
    """Verify the constraints on what is on disk, and write summary and gallery."""
    from euhedral.catalog.versions import versions
    from euhedral.crystal.symmetry import space_group as space_group_of
    from euhedral.data.symmetry_worker import SymmetryWorker
    from euhedral.sample.constraints import verify
    from euhedral.sample.generate import OVERLAP
    from euhedral.web.run_gallery import write_run_gallery

    crystals, exact = run.crystals(), resolved.request.space_group is not None and generator.symmetric
    if exact:
        worker = SymmetryWorker()
        groups = [found.number for found in space_group_of(crystals, EXACT_SYMPREC, search=worker.search)]
        worker.close()
        method = f"moyopy, symprec {EXACT_SYMPREC:g} Å; the crystals are made of the Wyckoff positions of the group"
    else:
        groups = [record.space_group for record in sorted(run.records, key=lambda record: record.index)]
        method = "moyopy, symprec 0.1 Å, on the unrelaxed crystals; a requested space group is a soft condition"
    shares = verify(resolved, crystals, groups, symmetric=exact)
    facts: dict[str, Any] = {
        "constraints": {name: share.to_json() for name, share in shares.items()},
        "space_group_method": method,
        "redrawn_for_overlapping_atoms": run.redrawn,
        "overlapping": sorted(record.index for record in run.records if not record.smallest_distance > OVERLAP),
        "seconds_total": round(seconds, 3),
        "seconds_to_first_crystal": None if first is None else round(first, 3),
        "device": str(generator.device),
        "versions": versions(),
    }
    summary_file = run.finish(facts)
    write_run_gallery(run)
    return {**json.loads(summary_file.read_text()), "folder": str(run.path)}


def _print_table(console: Console, run: RunFolder, summary: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{len(run.records)} crystals in {run.path}", title_justify="left")
    for heading, justify in (
        ("#", "right"),
        ("formula", "left"),
        ("atoms", "right"),
        ("space group", "left"),
        ("density g/cm³", "right"),
        ("smallest distance Å", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    ordered = sorted(run.records, key=lambda record: record.index)
    for r in ordered[:ROWS_SHOWN]:
        group = f"{r.space_group_symbol} ({r.space_group})"
        table.add_row(
            str(r.index), r.formula, str(r.num_atoms), group, f"{r.density:.2f}", f"{r.smallest_distance:.2f}"
        )
    console.print(table)
    if len(ordered) > ROWS_SHOWN:
        console.print(f"... and {len(ordered) - ROWS_SHOWN} more in crystals.parquet")
    if again := summary["redrawn_for_overlapping_atoms"]:
        console.print(f"{again} {'draw' if again == 1 else 'draws'} thrown away for overlapping atoms")
    if left := summary["overlapping"]:
        shown = ", ".join(map(str, left[:10])) + (", ..." if len(left) > 10 else "")
        console.print(f"{len(left)} of {len(run.records)} still have atoms within 0.5 Å of each other: {shown}")
    for name, share in summary["constraints"].items():
        console.print(f"{name}: {share['met']} of {share['total']} ({share['kind']})")
    for name, value in summary["request"]["properties"].items():
        if isinstance(value, str):
            console.print(f"{name}: {value} asked for (soft)", markup=False)
        else:
            console.print(f"{name}: {value:g} asked for (soft); judged by: euhedral evaluate {run.path} --values TABLE")
    console.print(f"{summary['seconds_total']:.1f} s; open {run.path / 'index.html'} in a browser to turn the cells")
