"""The report of an evaluation as one HTML file: figures beside published ones, plots, failures; works offline, prints."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from euhedral.crystal.formula import reduced_formula
from euhedral.web.charts import charts_of, parity_chart
from euhedral.web.gallery import formula_html
from euhedral.web.page import facts_html, write_page
from euhedral.web.report_page import charts_html, picture_html, report_page, table_html

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.evaluate.report import Anchor, Failure, Figure, ProtocolResult, Report

PICTURES = 12
"""Crystals that are drawn, evenly spaced over the samples."""
MOST_REASONS = 50
_MISSING = "–"
_NUMBER = re.compile(r"(?<![\w-])[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


def write_report(
    folder: Path, report: Report, samples: CrystalBatch | None = None, reference: CrystalBatch | None = None
) -> Path:
    """Write `index.html` of a report into `folder` and return its path; it replaces an older one and needs no network.

    Args:
        folder: made where it is missing.
        report: of `euhedral.evaluate`.
        samples: the crystals that were judged, of which some are drawn.
        reference: crystals of the reference, of which some are drawn.

    Raises:
        OutputError: where the file cannot be written.
    """
    return write_page(Path(folder) / "index.html", report_html(report, samples, reference), "the report")


def report_html(report: Report, samples: CrystalBatch | None = None, reference: CrystalBatch | None = None) -> str:
    """The text of the page that `write_report` writes; arguments as there."""
    charts = [chart for item in report.distributions for chart in charts_of(item)]
    charts = [*(parity_chart(item) for item in report.parities), *charts]
    charts.sort(key=lambda chart: chart.wide)  # the wide ones last, so that they tear no hole into the rows of others
    drawn: set[int] = set()
    sections = {
        "figures": ("Figures", "".join(_protocol_html(result) for result in report.results)),
        "plots": ("Plots", charts_html(charts)),
        "crystals": (
            "Crystals",
            _pictures_html(samples, "samples", drawn) + _pictures_html(reference, "reference", drawn),
        ),
        "failures": ("Failures", _failures_html(report.failures, report.samples)),
        "settings": ("Settings and versions", _settings_html(report)),
    }
    against = f" against {_count(report.references, 'reference')}" if report.references else ""
    unfinished = '<p class="warning">This evaluation has not ended: figures that are still missing are not listed.</p>'
    return report_page(
        "Evaluation",
        f"{_count(report.samples, 'crystal')}{against}",
        sections,
        charts,
        facts=_facts(report),
        drawn=drawn,
        warning="" if report.complete else unfinished,
    )


def number_html(value: float | None, *, share: bool = False) -> str:
    """A figure with three or four significant digits: 0.9915, 0.0631, 12.35; a dash where there is none.

    A share is given in per cent with two decimals, without the sign, which stands beside the figure's name.
    """
    if value is None:
        return _MISSING
    if share:
        return f"{100 * value:.2f}".replace("-", "−")
    size = abs(value)
    if size == 0 or 1e-4 <= size < 1e5:
        digits = 2 - math.floor(math.log10(size)) if 0 < size < 0.1 else max(0, 4 - len(str(int(size))) * (size >= 1))
        return f"{value:.{digits}f}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}·10<sup>{int(exponent)}</sup>".replace("-", "−")


def alike(reason: str) -> str:
    """A reason with its numbers as #, so that 'atoms are 0.31 Å apart' and 'atoms are 0.27 Å apart' count as one."""
    return _NUMBER.sub("#", reason)


def _facts(report: Report) -> dict[str, str]:
    protocols = ", ".join(f"{result.protocol} {result.version}" for result in report.results)
    facts = {"Protocol" if len(report.results) == 1 else "Protocols": protocols}
    facts |= {name.capitalize(): value for name, value in report.sources.items()}
    failed = len({failure.index for failure in report.failures})
    facts["Samples with a failure"] = f"{failed:,} of {report.samples:,}"
    return facts | ({"Created": report.created} if report.created else {})


def _protocol_html(result: ProtocolResult) -> str:
    systems = list(dict.fromkeys(anchor.system for anchor in result.anchors))
    published = {(anchor.figure, anchor.system): anchor for anchor in result.anchors}
    head = "".join(f'<th scope="col">{escape(system)}</th>' for system in systems)
    rows = "".join(_figure_html(figure, systems, published) for figure in result.figures)
    over = f'<th scope="colgroup" colspan="{len(systems)}" class="over">published</th>' if systems else ""
    left_out = "".join(f"<li>{_words(name)}: {escape(reason)}</li>" for name, reason in result.left_out.items())
    return (
        f'<h3>{escape(result.protocol)} <span class="number">version {escape(result.version)}</span></h3>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Figures, scrolls sideways"><table class="figures">'
        f'<thead><tr><td></td><th scope="colgroup" colspan="3" class="over">here</th>{over}</tr>'
        '<tr><th scope="col">figure</th><th scope="col">value</th><th scope="col">95 % interval</th>'
        f'<th scope="col">of</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        '<p class="note">↑ higher is better, ↓ lower is better. “of” is the number of samples that a figure is about, '
        "failures included.</p>"
        + _sources_html(result.anchors)
        + (f"<h4>Not calculated</h4><ul>{left_out}</ul>" if left_out else "")
    )


def _figure_html(figure: Figure, systems: Sequence[str], published: Mapping[tuple[str, str], Anchor]) -> str:
    arrow = {"higher": ' <span title="higher is better">↑</span>', "lower": ' <span title="lower is better">↓</span>'}
    name_of_unit = "%" if figure.share else figure.unit
    unit = f' <span class="unit">{escape(name_of_unit)}</span>' if name_of_unit else ""
    note = f'<span class="hint">{escape(figure.note)}</span>' if figure.note else ""
    interval = _MISSING
    if figure.low is not None and figure.high is not None:
        interval = f"{number_html(figure.low, share=figure.share)} to {number_html(figure.high, share=figure.share)}"
    cells = []
    for system in systems:
        anchor = published.get((figure.name, system))
        cells.append(
            f"<td>{number_html(anchor.value, share=figure.share)}</td>" if anchor else '<td class="none"></td>'
        )
    own = f'<td class="own">{number_html(figure.value, share=figure.share)}</td><td>{interval}</td>'
    return (
        f'<tr><th scope="row">{_words(figure.name)}{arrow.get(figure.better, "")}{unit}{note}</th>'
        f"{own}<td>{figure.samples:,}</td>{''.join(cells)}</tr>"
    )


def _sources_html(anchors: Iterable[Anchor]) -> str:
    told = dict.fromkeys((a.system, a.source, a.dataset, a.note) for a in anchors)
    lines = "".join(
        f"<li>{escape(system)}: {escape(source)}; {escape(dataset)}{'; ' + escape(note) if note else ''}</li>"
        for system, source, dataset, note in told
    )
    return (
        f"<details><summary>Where the published figures are from</summary><ul>{lines}</ul></details>" if lines else ""
    )


def _pictures_html(crystals: CrystalBatch | None, what: str, drawn: set[int]) -> str:
    """Drawings of some crystals; adds their elements to `drawn`, of which the page defines the gradients once.

    Those that cannot be drawn are passed over; the table of failures has them.
    """
    items: list[str] = []
    count = len(crystals) if crystals is not None else 0
    for index in range(0, count, max(1, count // PICTURES)):
        assert crystals is not None
        crystal = crystals[index]
        picture = None if len(items) == PICTURES else picture_html(crystal, drawn)
        if picture is None:
            continue
        formula = reduced_formula(crystal.species.tolist())
        items.append(
            f'<li><div class="picture">{picture}</div>'
            f'<p><span>{formula_html(formula)}</span> <span class="number">{index}</span></p></li>'
        )
    if not items:
        return ""
    return f'<h3>Some of the {what}</h3><ul class="pictures" role="list">{"".join(items)}</ul>'


def _failures_html(failures: Sequence[Failure], samples: int) -> str:
    if not failures:
        return "<p>None: every sample could be judged by every metric.</p>"
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.stage, alike(failure.reason)), []).append(failure)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    rows = []
    for (stage, reason), members in ordered[:MOST_REASONS]:
        positions = list(dict.fromkeys(failure.index for failure in members))
        shown = ", ".join(str(index) for index in positions[:8]) + (", …" if len(positions) > 8 else "")
        text = members[0].reason if len({failure.reason for failure in members}) == 1 else reason
        share = f"{len(positions) / samples:.2%}" if samples else _MISSING
        rows.append((f"{len(positions):,}", share, stage, text, shown))
    more = f"<p>and {len(ordered) - MOST_REASONS:,} more reasons</p>" if len(ordered) > MOST_REASONS else ""
    head = ("Samples", "Share", "Stage", "Reason (# stands for numbers that differ)", "Positions")
    return (
        f'<div class="reasons">{table_html(head, rows)}</div>{more}<p class="note">Each stays in every denominator.</p>'
    )


def _settings_html(report: Report) -> str:
    parts = []
    for result in report.results:
        if result.settings:
            rows = [(name, _setting(value)) for name, value in result.settings.items()]
            parts.append(f"<h3>Settings of {escape(result.protocol)}</h3>{table_html(('Metric', 'Settings'), rows)}")
    if report.versions:
        parts.append(f"<h3>Versions</h3>{facts_html(report.versions)}")
    if report.seconds:
        seconds = {name: f"{value:,.1f} s" for name, value in report.seconds.items()}
        parts.append(f"<h3>Time</h3>{facts_html(seconds)}")
    return "".join(parts)


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_setting(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_setting(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _words(name: str) -> str:
    """'validity.structure' as 'validity · structure', underscores as spaces."""
    return escape(name.replace("_", " ").replace(".", " · "))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
