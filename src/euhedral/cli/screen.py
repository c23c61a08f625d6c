"""`euhedral screen`: from raw crystals to a ranked list of stable, new ones."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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
REASONS_SHOWN = 5


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
    predict: options.Predict = None,
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
        "predict": {"model": predict},
        "novelty": {"known": None if known is None else str(known)},
        "synthesis": {
            "reference": None if reference is None else str(reference),
            "reference_method": reference_method,
            "energy_method": energy_method,
        },
    }
    stages = _stages(chosen, skip, _with_settings(own, settings or []), more=["predict"] if predict else [])
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
        asked: columns that the order and the filter name.
    """

    summary: dict[str, Any]
    ranking: Ranking
    page: Path
    asked: Sequence[str] = ()


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
    from euhedral.catalog.database_table import sorting
    from euhedral.catalog.dft_inputs import CODES
    from euhedral.catalog.folder_lock import locked
    from euhedral.catalog.screening import walk
    from euhedral.catalog.screening_folder import check_columns, check_folder, open_run, rank, write_results
    from euhedral.catalog.where import named_columns
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
        check_columns(catalogue, run, stages, where=where, sort=sort)
        alive = walk(catalogue, run, stages, executor=executor, workers=own, redo=redo, progress=progress)
        ranking = rank(catalogue, run, alive, where=where, sort=sort)
        facts = {"seconds": round(time.perf_counter() - started, 3), "catalogue": str(catalogue), "run": run}
        summary = write_results(out, catalogue, run, ranking, codes=codes or [], top=top, facts=facts)
        hull = next((stage.hull for stage in stages if stage.name == "hull"), None)  # pyright: ignore[reportAttributeAccessIssue]
        page = write_screening_report(out, summary, ranking, hull=hull)
    asked = (*(name for name, _ in sorting(sort)), *named_columns(where or ""))
    return Screening(summary={**summary, "folder": str(out)}, ranking=ranking, page=page, asked=asked)


def _teller(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)


def _stages(
    chosen: str | None, skip: str | None, settings: Mapping[str, Mapping[str, Any]], *, more: Sequence[str] = ()
) -> list[Stage]:
    """The stages by their options; `more` are those that another option asks for."""
    from euhedral.screen import stages as registry

    wanted = [*(_names(chosen) if chosen is not None else registry.DEFAULT_STAGES), *more]
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

    from euhedral.screen.ranking import doubt

    console, summary, ranking = Console(), results.summary, results.ranking

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    funnel = Table(title=f"{summary['crystals']:,} crystals", title_justify="left")
    for heading in ("stage", "came", "passed", "outcomes"):
        funnel.add_column(heading, justify="right" if heading in ("came", "passed") else "left")
    for step in summary["stages"]:
        told = ", ".join(f"{outcome} {count:,}" for outcome, count in step["outcomes"].items())
        funnel.add_row(step["stage"], f"{step['given']:,}", f"{step['passed']:,}", told)
    console.print(funnel)
    if summary["unreadable"]:
        say(f"{summary['unreadable']:,} of them could not be read:")
        for name, reason in list(summary["unreadable_reasons"].items())[:REASONS_SHOWN]:
            say(f"  {name}: {reason}")
    console.print(_best_table(ranking, results.asked))
    say(ranking.order)
    for remark in (doubt(ranking.rows), _discoveries(summary["discovery"])):
        if remark is not None:
            say(remark)
    for name, reason in list(summary["dft_problems"].items())[:REASONS_SHOWN]:
        say(f"no DFT input {name}: {reason}")
    say(
        f"{summary['seconds']:.1f} s; the best as CIF in {Path(summary['folder']) / 'ranked'}, report in {results.page}"
    )


def _discoveries(found: Mapping[str, Any] | None) -> str | None:
    if found is None:
        return None
    if found["msun"] is None:
        return "S.U.N. is not known: nothing is shipped that counts as known, give --known"
    return f"S.U.N. {found['sun']:.2%}, M.S.U.N. {found['msun']:.2%} of all ({found['protocol']})"


def _best_table(ranking: Ranking, asked: Sequence[str]) -> Any:
    """The first crystals, with the columns that the order and the filter name."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"the best of {len(ranking.rows):,} left", title_justify="left")
    own = {
        "formula": "formula",
        "index": "index",
        "score": "score",
        "e_above_hull": "above hull eV/atom",
        "novel": "novel",
    }
    always = {"formula", "index", "novel", *asked}
    columns = {**own, **{name: name for name in asked if name not in own}}
    columns = {n: h for n, h in columns.items() if n in always or any(row.get(n) is not None for row in ranking.rows)}
    table.add_column("#", justify="right")
    for name, heading in columns.items():
        texts = any(isinstance(row.get(name), str) for row in ranking.rows)
        table.add_column(heading, justify="left" if texts or name == "novel" else "right", overflow="fold")
    for place, row in enumerate(ranking.rows[:ROWS_SHOWN], start=1):
        table.add_row(str(place), *(escape(_cell(row.get(name), name)) for name in columns))
    return table


def _cell(value: Any, name: str) -> str:
    if value is None:
        return "not known" if name == "novel" else "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in ("score", "e_above_hull"):
        return f"{value:.3f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
