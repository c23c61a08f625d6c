"""What the reports have in common: a page of sections with charts, tables and pictures of cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from euhedral.crystal.formula import reduced_formula
from euhedral.errors import CrystalError
from euhedral.web.charts import MOST_ROWS, Chart
from euhedral.web.page import facts_html, fill, policy, resource, script_json
from euhedral.web.picture import cell_label, draw_svg, svg_definitions
from euhedral.web.scene import build_scene

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

LARGEST_PICTURE = 120
"""Atoms of a cell beyond which it is not drawn."""


def report_page(
    kind: str,
    title: str,
    sections: Mapping[str, tuple[str, str]],
    charts: Sequence[Chart],
    *,
    facts: Mapping[str, str],
    drawn: Iterable[int],
    warning: str = "",
) -> str:
    """The text of a page that needs no network.

    Args:
        kind: what the report is of, as "Evaluation".
        title: of the page.
        sections: title and HTML of each, by the name of its place; those without HTML are left out.
        charts: all of the page, in the order of the places that `charts_html` gave them.
        facts: names and values below the title.
        drawn: elements in the page's pictures, whose gradients are defined once.
        warning: HTML above the facts.
    """
    shown = {key: value for key, value in sections.items() if value[1]}
    first = next(iter(sections))
    plotly, program = resource("vendor/plotly-cartesian.min.js"), resource("report.js")
    return fill(
        resource("report_template.html"),
        {
            "policy": escape(policy(plotly, program)),
            "kind": kind,
            "first": first,
            "title": title,
            "warning": warning,
            "facts": facts_html(facts),
            "links": "".join(f'<li><a href="#{key}">{name}</a></li>' for key, (name, _) in shown.items()),
            "definitions": svg_definitions(sorted(drawn)),
            "style": resource("gallery.css") + resource("report.css"),
            "sections": "".join(
                f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{name}</h2>{html}</section>\n'
                for key, (name, html) in shown.items()
            ),
            "data": script_json([{"data": chart.traces, "layout": chart.layout} for chart in charts]),
            "license": escape(resource("vendor/plotly.LICENSE"), quote=False),
            "plotly": plotly,
            "program": program,
        },
    )


def picture_html(crystal: CrystalBatch, drawn: set[int]) -> str | None:
    """A drawing of one crystal, whose elements are added to `drawn`; None where it is too large or cannot be drawn."""
    if crystal.species.numel() > LARGEST_PICTURE:
        return None
    try:
        scene = build_scene(crystal.validate())
    except CrystalError:
        return None
    species = crystal.species.tolist()
    drawn.update(species)
    return draw_svg(scene, label=cell_label(crystal, reduced_formula(species)))


def charts_html(charts: Sequence[Chart], *, first: int = 0) -> str:
    """Places for charts, which the page's program draws by their position, with captions and tables."""
    items = []
    for index, chart in enumerate(charts, start=first):
        table = ""
        if chart.rows:
            head = f'<summary>Table<span class="hidden"> of {escape(chart.title)}</span></summary>'
            left = len(chart.rows) - MOST_ROWS
            more = f"<p>and {left:,} more</p>" if left > 0 else ""
            table = f"<details>{head}{table_html(chart.columns, chart.rows[:MOST_ROWS])}{more}</details>"
        items.append(
            f'<figure class="chart{" wide" * chart.wide}"><h3>{escape(chart.title)}</h3>'
            f'<div class="frame"><div class="drawing" data-index="{index}" {_size(chart)} role="img" '
            f'aria-label="{escape(chart.title)}. {escape(chart.summary)}"></div></div>'
            f"<figcaption>{escape(chart.summary)}</figcaption>{table}</figure>"
        )
    return f'<div class="charts">{"".join(items)}</div>' if items else ""


def _size(chart: Chart) -> str:
    least = f";min-width:{chart.least_width}px" if chart.least_width else ""
    return f'style="height:{chart.height}px{least}"'


def table_html(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
