"""`euhedral screen`: from raw crystals to a ranked list of stable, new ones."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.cli import screen_options as options
from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from euhedral.catalog.screening_folder import Ranking
    from euhedral.screen.stage import Stage

ROWS_SHOWN = 20


def screen(
    samples: options.Samples,
    out: options.Out,
    chosen: options.Chosen = None,
    skip: options.Skip = None,
    calculator: options.Calculator = "chgnet",
    force_limit: options.ForceLimit = 0.1,
    stress_limit: options.StressLimit = None,
    max_steps: options.MaxSteps = 500,
    time_limit: options.TimeLimit = 600.0,
    reference: options.Reference = None,
    reference_method: options.ReferenceMethod = None,
    energy_method: options.EnergyMethod = None,
    above_hull: options.AboveHull = 0.1,
    known: options.Known = None,
    settings: options.Settings = None,
    where: options.Where = None,
    sort: options.Sort = None,
    dft: options.Dft = None,
    top: options.Top = 20,
    database: options.Database = None,
    redo: options.Redo = False,
    workers: options.Workers = 0,
    cluster: options.Cluster = None,
    as_json: options.AsJson = False,
) -> None:
    """Relax crystals, hold them against the hull, and rank what is stable, unique and novel; nothing is lost when killed."""
    own = {
        "relax": {
            "calculator": calculator,
            "force_limit": force_limit,
            "stress_limit_gpa": stress_limit,
            "max_steps": max_steps,
            "max_seconds": time_limit,
        },
        "hull": {
            "reference": None if reference is None else str(reference),
            "reference_method": reference_method,
            "energy_method": energy_method,
            "limit": above_hull,
        },
        "novelty": {"known": None if known is None else str(known)},
        "synthesis": {
            "reference": None if reference is None else str(reference),
            "reference_method": reference_method,
            "energy_method": energy_method,
        },
    }
    stages = _stages(chosen, skip, _with_settings(own, settings or []))
    codes = [] if dft is None else [code.strip() for code in dft.split(",")]
    results = run_screening(
        samples,
        out,
        stages,
        where=where,
        sort=sort,
        codes=codes,
        top=top,
        database=database,
        redo=redo,
        workers=workers,
        cluster=cluster,
    )
    if as_json:
        sys.stdout.write(json.dumps(results.summary, allow_nan=False) + "\n")
    else:
        print_screening(results)


@dataclass(frozen=True, kw_only=True, eq=False)
class Screening:
    """What a screening left.

    Attributes:
        summary: as in its summary.json, and its `folder`.
        ranking: the crystals that are left.
        page: the report.
    """

    summary: dict[str, Any]
    ranking: Ranking
    page: Path


def run_screening(
    samples: Path,
    out: Path,
    stages: list[Stage],
    *,
    where: str | None = None,
    sort: str | None = None,
    codes: list[str] | None = None,
    top: int = 20,
    database: str | None = None,
    redo: bool = False,
    workers: int = 0,
    cluster: str | None = None,
) -> Screening:
    """Screen and write the folder; arguments as the options of `euhedral screen`."""
    from rich.console import Console

    from euhedral.catalog.cluster import open_executor
    from euhedral.catalog.database import Catalogue
    from euhedral.catalog.dft_inputs import CODES
    from euhedral.catalog.folder_lock import locked
    from euhedral.catalog.screening import walk
    from euhedral.catalog.screening_folder import check_folder, open_run, rank, write_results
    from euhedral.cli.evaluate import stage_bars
    from euhedral.data.samples import read_samples
    from euhedral.web.screening_report import write_screening_report

    if unknown := [code for code in codes or [] if code not in CODES]:
        raise ConfigError(f"--dft makes no inputs for {', '.join(unknown)}; there are {', '.join(CODES)}")
    started, console = time.perf_counter(), Console(stderr=True)
    # Processes that --cluster slurm asks for are not those of this machine.
    own = (0 if cluster == "slurm" else workers) or os.cpu_count() or 1
    check_folder(out)
    with locked(out), contextlib.ExitStack() as opened:
        executor = opened.enter_context(
            open_executor(cluster, workers=workers if cluster else own, tell=_teller(console))
        )
        progress = opened.enter_context(stage_bars(console))
        catalogue = opened.enter_context(Catalogue(database or out))
        given = read_samples(samples, workers=own)
        run = open_run(catalogue, given, samples, alone=database is None)
        alive = walk(catalogue, run, stages, executor=executor, workers=own, redo=redo, progress=progress)
        ranking = rank(catalogue, run, alive, where=where, sort=sort)
        facts = {"seconds": round(time.perf_counter() - started, 3), "catalogue": str(catalogue), "run": run}
        summary = write_results(out, catalogue, run, ranking, codes=codes or [], top=top, facts=facts)
        hull = next((stage.hull for stage in stages if stage.name == "hull"), None)  # pyright: ignore[reportAttributeAccessIssue]
        page = write_screening_report(out, summary, ranking, hull=hull)
    return Screening(summary={**summary, "folder": str(out)}, ranking=ranking, page=page)


def _teller(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)


def _stages(chosen: str | None, skip: str | None, settings: Mapping[str, Mapping[str, Any]]) -> list[Stage]:
    from euhedral.screen import stages as registry

    wanted = _names(chosen) if chosen is not None else list(registry.DEFAULT_STAGES)
    left_out = registry.in_order(_names(skip or ""))
    names = [name for name in registry.in_order(wanted) if name not in left_out]
    if not names:
        raise ConfigError("no stage is left; see --stages and --skip")
    registry.in_order(list(settings))
    return [registry.make(name, settings.get(name)) for name in names]


def _with_settings(own: Mapping[str, dict[str, Any]], given: list[str]) -> dict[str, dict[str, Any]]:
    """The options' settings and those of --set, which stand over them."""
    found = {stage: dict(values) for stage, values in own.items()}
    for text in given:
        name, equals, value = text.partition("=")
        stage, dot, key = name.strip().partition(".")
        if not (equals and dot and key):
            raise ConfigError(f"--set takes STAGE.SETTING=VALUE, such as relax.relax_cell=false, not {text!r}")
        try:
            found.setdefault(stage, {})[key] = json.loads(value)
        except ValueError:
            found.setdefault(stage, {})[key] = value
    return found


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def print_screening(results: Screening) -> None:
    """The funnel and the best crystals as tables."""
    from rich.console import Console
    from rich.table import Table

    console, summary, ranking = Console(), results.summary, results.ranking
    funnel = Table(title=f"{summary['crystals']:,} crystals", title_justify="left")
    for heading in ("stage", "came", "passed", "outcomes"):
        funnel.add_column(heading, justify="right" if heading in ("came", "passed") else "left")
    for step in summary["stages"]:
        told = ", ".join(f"{outcome} {count:,}" for outcome, count in step["outcomes"].items())
        funnel.add_row(step["stage"], f"{step['given']:,}", f"{step['passed']:,}", told)
    console.print(funnel)
    console.print(_best_table(ranking))
    console.print(ranking.order, highlight=False, markup=False)
    discovery = summary["discovery"]
    if discovery is not None:
        if discovery["msun"] is None:
            console.print("S.U.N. is not known: nothing is shipped that counts as known, give --known", highlight=False)
        else:
            console.print(
                f"S.U.N. {discovery['sun']:.2%}, M.S.U.N. {discovery['msun']:.2%} of all ({discovery['protocol']})",
                highlight=False,
            )
    for name, reason in list(summary["dft_problems"].items())[:5]:
        console.print(f"no DFT input {name}: {reason}", highlight=False, markup=False)
    console.print(
        f"{summary['seconds']:.1f} s; report in {results.page}", highlight=False, markup=False, soft_wrap=True
    )


def _best_table(ranking: Ranking) -> Any:
    from rich.table import Table

    table = Table(title=f"the best of {len(ranking.rows):,} left", title_justify="left")
    for heading in ("#", "formula", "index", "score", "above hull eV/atom", "novel"):
        table.add_column(heading, justify="left" if heading in ("formula", "novel") else "right")
    for place, row in enumerate(ranking.rows[:ROWS_SHOWN], start=1):
        numbers = (
            f"{value:.3f}" if isinstance(value, float) else "–" for value in (row["score"], row.get("e_above_hull"))
        )
        novel = {True: "yes", False: "no"}.get(bool(row["novel"])) if row.get("novel") is not None else "not known"
        table.add_row(str(place), str(row["formula"]), str(row["index"]), *numbers, novel)
    return table
