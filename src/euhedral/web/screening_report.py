"""The report of a screening: funnel, hull diagrams and the best crystals on one page, their turning cells on another."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.catalog.screening_folder import FILES
from euhedral.screen.phonons_stage import BANDS
from euhedral.screen.ranking import doubt
from euhedral.web.charts import Chart
from euhedral.web.gallery import Card, formula_html, write_gallery
from euhedral.web.hull_charts import Candidate, hull_charts
from euhedral.web.page import facts_html, write_page
from euhedral.web.report import number_html
from euhedral.web.report_page import charts_html, picture_html, report_page, table_html

if TYPE_CHECKING:
    from euhedral.catalog.screening_folder import Ranking
    from euhedral.screen.hull import Hull
    from euhedral.screen.stage import Value

FOLDER, CELLS = "report", "cells.html"
MOST_SHOWN = 30
"""Crystals in the table of the best, and with a turning cell."""
_COLUMNS = (
    ("score", "score, eV/atom"),
    ("e_above_hull", "above the hull, eV/atom"),
    ("formation_energy_per_atom", "formation energy, eV/atom"),
    ("competing_phases", "competes with"),
    ("relax_rmsd", "moved by relaxation, Å"),
    ("composition_valid", "neutral"),
    ("novel", "novel"),
)
_HIDDEN = {
    "run",
    "index",
    "hash",
    "name",
    "formula",
    "chemical_system",
    "num_elements",
    "num_atoms",
    "volume",
    "density",
}

# Columns that say how a stage went rather than what the crystal is.
_PLUMBING = {
    "structure_valid",
    "duplicate_of",
    "calculator",
    "energy_per_atom",
    "start_energy_per_atom",
    "largest_force",
    "largest_stress",
    "relax_steps",
    "volume_change",
    "unique",
    "same_as",
    "known_as",
}


def write_screening_report(
    folder: Path, summary: Mapping[str, Any], ranking: Ranking, *, hull: Hull | None = None
) -> Path:
    """Write `report/index.html` and `report/cells.html` and return the path of the first; they need no network.

    Args:
        folder: of the screening.
        summary: of `catalog.screening_folder.write_results`.
        ranking: the crystals that are left.
        hull: that the energies were held against; no diagrams without it.

    Raises:
        OutputError: where a file cannot be written.
    """
    target = folder / FOLDER
    cards = _cards(ranking)
    if cards:
        write_gallery(
            target / CELLS, cards, title="Best crystals", subtitle=ranking.order, facts={"Left": f"{summary['left']:,}"}
        )
    page = screening_html(summary, ranking, hull=hull, folder=folder)
    return write_page(target / "index.html", page, "the report")


def screening_html(
    summary: Mapping[str, Any], ranking: Ranking, *, hull: Hull | None = None, folder: Path | None = None
) -> str:
    """The text of the page; arguments as in `write_screening_report`. Without a folder, no files of stages are in it."""
    files = {} if folder is None else _files(folder / FILES, ranking)
    charts = [funnel_chart(summary)]
    hulls = [] if hull is None else hull_charts(hull, _candidates(ranking))
    drawn: set[int] = set()
    sections = {
        "funnel": ("Funnel", charts_html(charts) + _stages_html(summary)),
        "best": ("Best crystals", _best_html(ranking, drawn, files)),
        # A chart's place is its position among all of the page's.
        "hulls": ("Hull diagrams", charts_html(hulls, first=len(charts)) if hulls else ""),
        "bands": ("Phonons", _bands_html(files)),
        "settings": ("Settings and versions", _settings_html(summary)),
    }
    title = f"{summary['crystals']:,} crystal{'' if summary['crystals'] == 1 else 's'}"
    return report_page("Screening", title, sections, [*charts, *hulls], facts=_facts(summary), drawn=drawn)


def funnel_chart(summary: Mapping[str, Any]) -> Chart:
    """Crystals that are left after each stage, from all at the top."""
    steps = [("generated", summary["crystals"]), *((step["stage"], step["passed"]) for step in summary["stages"])]
    total = max(1, summary["crystals"])
    names, counts = [name for name, _ in steps], [count for _, count in steps]
    trace = {"type": "bar", "orientation": "h", "x": counts, "y": names, "marker": {"color": "@accent"}}
    texts = [f"{count:,} ({count / total:.1%})" for count in counts]
    return Chart(
        title="Crystals left",
        summary=f"{counts[-1]:,} of {counts[0]:,} crystals passed every stage.",
        traces=[trace | {"text": texts, "textposition": "auto", "hovertemplate": "%{y}: %{text}<extra></extra>"}],
        layout={
            "yaxis": {"autorange": "reversed"},
            "xaxis": {"title": {"text": "crystals"}},
            "hovermode": "closest",
            "showlegend": False,
        },
        columns=("after", "crystals", "share"),
        rows=[(name, f"{count:,}", f"{count / total:.1%}") for name, count in steps],
        wide=True,
        height=80 + 44 * len(steps),
    )


def _facts(summary: Mapping[str, Any]) -> dict[str, str]:
    facts = {"Passed every stage": f"{summary['left']:,}", "Order": summary["order"]}
    if summary.get("unreadable"):
        facts["Could not be read"] = f"{summary['unreadable']:,}"
    discovery = summary.get("discovery")
    if discovery is not None:
        for name, label in (("sun", "S.U.N."), ("msun", "M.S.U.N.")):
            share = discovery[name]
            unknown = "not known: nothing was given that counts as known"
            facts[f"{label} of all"] = unknown if share is None else f"{share:.2%} ({discovery[f'{name}_crystals']:,})"
        facts["Counted by"] = discovery["protocol"]
    return facts


def _stages_html(summary: Mapping[str, Any]) -> str:
    rows = [
        (
            step["stage"],
            f"{step['given']:,}",
            f"{step['passed']:,}",
            ", ".join(f"{outcome} {count:,}" for outcome, count in step["outcomes"].items()),
            f"{step['seconds']:,.1f}",
        )
        for step in summary["stages"]
    ]
    return table_html(("Stage", "Came", "Passed", "Outcomes", "Seconds over crystals"), rows)


def _files(folder: Path, ranking: Ranking) -> dict[str, list[Path]]:
    """What stages left of the crystals that are shown, by their names."""
    found = {name: sorted((folder / name).glob("*.*")) for name in ranking.names[:MOST_SHOWN]}
    return {name: paths for name, paths in found.items() if paths}


def _bands_html(files: Mapping[str, Sequence[Path]]) -> str:
    """Pictures of band structures, within the page so that it can be moved; empty where there are none."""
    figures = []
    for name, paths in files.items():
        for path in paths:
            if path.name == BANDS:
                picture = base64.b64encode(path.read_bytes()).decode()
                figures.append(
                    f'<figure class="chart"><h3>{escape(name)}</h3><img style="max-width:100%" loading="lazy" '
                    f'alt="Phonon band structure of {escape(name)}" src="data:image/png;base64,{picture}"></figure>'
                )
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def _links_html(paths: Sequence[Path]) -> str:
    return "<br>".join(
        f'<a href="../{FILES}/{escape(path.parent.name)}/{escape(path.name)}">{escape(path.name)}</a>' for path in paths
    )


def _best_html(ranking: Ranking, drawn: set[int], files: Mapping[str, Sequence[Path]]) -> str:
    if not ranking.rows:
        return "<p>No crystal passed every stage.</p>"
    shown = ranking.rows[:MOST_SHOWN]
    listed = {key for key, _ in _COLUMNS}
    further = [
        (key, key.replace("_", " "))
        for key in shown[0]
        if key not in listed | _HIDDEN
        and not key.endswith(("_outcome", "_reason", "_seconds"))
        and any(row.get(key) is not None for row in shown)
        and key not in _PLUMBING
    ]
    columns = [column for column in _COLUMNS if any(row.get(column[0]) is not None for row in shown)] + further
    head = "".join(f'<th scope="col">{escape(title)}</th>' for _, title in columns)
    head += '<th scope="col">files</th>' if files else ""
    body = []
    for place, row in enumerate(shown, start=1):
        crystal, name = ranking.crystals[place - 1], ranking.names[place - 1]
        cells = "".join(f"<td>{_cell_html(row.get(key))}</td>" for key, _ in columns)
        cells += f"<td>{_links_html(files.get(name, ()))}</td>" if files else ""
        link = f'<a href="../ranked/{escape(name)}.cif">{formula_html(str(row["formula"]))}</a>'
        body.append(
            f'<tr><td>{place}</td><td><div class="picture" style="width:7rem">{picture_html(crystal, drawn) or "–"}</div></td>'
            f'<th scope="row">{link}</th><td>{row["index"]}</td>{cells}</tr>'
        )
    left = len(ranking.rows) - len(shown)
    more = f"<p>and {left:,} more in crystals.parquet and ranked/</p>" if left > 0 else ""
    doubted = doubt(ranking.rows)
    remark = f'<p class="note">{escape(doubted[0].upper() + doubted[1:])}.</p>' if doubted else ""
    return (
        f'{remark}<p class="note">{escape(ranking.order)}. <a href="{CELLS}">Turn the cells</a></p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Best crystals, scrolls sideways"><table class="plain">'
        f'<thead><tr><th scope="col">#</th><th scope="col">cell</th><th scope="col">formula</th>'
        f'<th scope="col">index</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>{more}'
    )


def _cell_html(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return escape(value)
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else number_html(round(value, 4))


def _cards(ranking: Ranking) -> list[Card]:
    from euhedral.crystal.convert import to_cif
    from euhedral.crystal.geometry import smallest_distance
    from euhedral.crystal.symmetry import space_group

    rows = ranking.rows[:MOST_SHOWN]
    crystals = ranking.crystals[: len(rows)]
    if not rows:
        return []
    groups, distances = space_group(crystals, 0.01), smallest_distance(crystals)
    densities, volumes = crystals.density, crystals.volume
    return [
        Card(
            name=ranking.names[i],
            formula=str(row["formula"]),
            cif=to_cif(crystals[i], ranking.names[i]),
            space_group_symbol=groups[i].symbol or "",
            space_group_number=groups[i].number or 0,
            density=float(densities[i]),
            smallest_distance=float(distances[i]),
            num_atoms=int(crystals.num_atoms[i]),
            volume=float(volumes[i]),
            extra={
                title: f"{value:.3f}"
                for key, title in (("e_above_hull", "Above the hull, eV/atom"), ("score", "Score, eV/atom"))
                if isinstance(value := row.get(key), float)
            },
            cif_file=f"../ranked/{ranking.names[i]}.cif",
        )
        for i, row in enumerate(rows)
    ]


def _candidates(ranking: Ranking) -> list[Candidate]:
    from euhedral.evaluate.validity import composition_counts

    rows = ranking.rows[:MOST_SHOWN]
    compositions = composition_counts(ranking.crystals[: len(rows)])
    return [
        Candidate(label=str(row["formula"]), composition=found, formation_energy=formation, e_above_hull=above)
        for row, found in zip(rows, compositions, strict=True)
        if isinstance(formation := row.get("formation_energy_per_atom"), float)
        and isinstance(above := row.get("e_above_hull"), float)
    ]


def _settings_html(summary: Mapping[str, Any]) -> str:
    rows = [
        (stage, ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None))
        for stage, settings in summary["settings"].items()
    ]
    versions: Mapping[str, str] = summary.get("provenance", {}).get("versions", {})
    return table_html(("Stage", "Settings"), rows) + (
        f"<h3>Versions</h3>{facts_html({key: str(value) for key, value in versions.items()})}" if versions else ""
    )
