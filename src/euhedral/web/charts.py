"""Charts of a report as plotly figures: plain dictionaries that plotly.js draws, each with a text and a table beside it.

Colours are names such as "@accent", which the page's program replaces by those of its light, dark or printed dress.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from euhedral.crystal.elements import ATOMIC_NUMBERS, SYMBOLS

if TYPE_CHECKING:
    from euhedral.evaluate.report import Distribution, Parity

MOST_POINTS = 3000
"""Points of a parity plot; more are thinned out evenly."""
LONGEST_AXIS_TITLE = 30
MOST_ROWS = 400
"""Rows of a table beside a chart."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart.

    Attributes:
        title: headline, plain text.
        summary: what it shows in one sentence, for those who cannot see it and as its caption.
        traces: plotly traces.
        layout: plotly layout, over that of the page.
        columns: heads of the table.
        rows: its rows, plain text.
        wide: takes the whole width of the page.
        height: in pixels.
        least_width: in pixels; a narrower screen scrolls the chart sideways.
    """

    title: str
    summary: str
    traces: list[dict[str, Any]]
    layout: dict[str, Any]
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    wide: bool = False
    height: int = 300
    least_width: int = 0


def charts_of(distribution: Distribution) -> list[Chart]:
    """The charts of a distribution: periodic tables, space-group bars, a histogram, or bars."""
    if distribution.name == "elements" and set(distribution.labels) <= set(SYMBOLS):
        return element_charts(distribution)
    if distribution.name == "space_groups" and all(_is_space_group(label) for label in distribution.labels):
        return [space_group_chart(distribution)] if distribution.labels else []
    if distribution.edges:
        return [histogram_chart(distribution)]
    return [category_chart(distribution)] if distribution.labels else []


def histogram_chart(distribution: Distribution) -> Chart:
    """Share of crystals by bin: the reference as an area behind the samples' line."""
    edges, unit = distribution.edges, _in_unit(distribution.unit)
    traces, told = [], []
    for name, counts, look in _series(distribution):
        shares = _shares(counts)
        # A step line that starts and ends on the axis: each bin's share holds from its left to its right edge.
        x = [edges[0], *(edge for pair in pairwise(edges) for edge in pair), edges[-1]]
        y = [0.0, *(share for share in shares for _ in range(2)), 0.0]
        traces.append(
            {"type": "scatter", "mode": "lines", "name": name, "x": _rounded(x), "y": _rounded(y), "fill": "tozeroy"}
            | {"line": {"color": look["color"], "width": look["width"]}, "fillcolor": look["fill"]}
            | {"hovertemplate": f"%{{x:.4g}}{_plotly(unit)}: %{{y:.2%}}"}
        )
        if sum(counts):
            told.append(f"{name} {_median(edges, counts):.3g}{unit}")
    bins = list(pairwise(edges))
    return Chart(
        title=distribution.title,
        summary=f"Median of {' and '.join(told) or 'nothing'}."
        + (" Outer bins hold what lies beyond." if told else ""),
        traces=traces[::-1],
        layout={
            "xaxis": {"title": {"text": _axis_title(distribution)}},
            "yaxis": {"title": {"text": "share of crystals"}, "tickformat": ",.0%", "rangemode": "tozero"},
            "legend": {"traceorder": "reversed"},
        },
        columns=(f"{distribution.title}{unit and f' ({distribution.unit})'}", *_heads(distribution)),
        rows=[(f"{low:.4g} to {high:.4g}", *_cells(distribution, i)) for i, (low, high) in enumerate(bins)],
    )


def category_chart(distribution: Distribution) -> Chart:
    """Share of crystals by category, samples beside the reference."""
    labels = [_plotly(label) for label in distribution.labels]
    traces, told = [], []
    for name, counts, look in _series(distribution):
        traces.append(
            {"type": "bar", "name": name, "x": labels, "y": _rounded(_shares(counts)), "customdata": list(counts)}
            | {"marker": {"color": look["bar"]}, "hovertemplate": "%{x}: %{y:.2%} (%{customdata})"}
        )
        if sum(counts):
            told.append(f"{distribution.labels[max(range(len(counts)), key=counts.__getitem__)]} among {name}")
    return Chart(
        title=distribution.title,
        summary=f"Most frequent: {', '.join(told)}." if told else "No crystals.",
        traces=traces,
        layout={
            "xaxis": {"title": {"text": _axis_title(distribution)}, "type": "category", "showgrid": False},
            "yaxis": {"title": {"text": "share"}, "tickformat": ",.0%"},
            "barmode": "group",
            "bargap": 0.25,
        },
        columns=(distribution.title, *_heads(distribution)),
        rows=[(label, *_cells(distribution, i)) for i, label in enumerate(distribution.labels)],
    )


def space_group_chart(distribution: Distribution) -> Chart:
    """Bars by space-group number, coloured by crystal system; the samples point up and the reference down."""
    from euhedral.crystal.symmetry import space_group_symbol
    from euhedral.evaluate.symmetry import crystal_system

    numbers = [int(label) for label in distribution.labels]
    systems = [crystal_system(number) for number in numbers]
    traces = []
    for k, (name, counts, _) in enumerate(_series(distribution)):
        shares = _shares(counts)
        for system in dict.fromkeys(systems):
            chosen = [i for i, found in enumerate(systems) if found == system]
            texts = [
                f"{numbers[i]} {space_group_symbol(numbers[i])}<br>{shares[i]:.2%} of {name} ({counts[i]:,})"
                for i in chosen
            ]
            traces.append(
                {"type": "bar", "name": system, "legendgroup": system, "showlegend": k == 0, "hovertext": texts}
                | {"x": [numbers[i] for i in chosen], "y": _rounded([shares[i] * (1 - 2 * k) for i in chosen])}
                | {"marker": {"color": f"@{system}", "opacity": 1 - 0.45 * k, "line": {"width": 0}}}
                | {"width": 1, "hovertemplate": "%{hovertext}<extra></extra>"}
            )
    largest = max(max(_shares(counts), default=0.0) for _, counts, _ in _series(distribution))
    ticks = [value for value in _ticks(largest) if distribution.reference is not None or value >= 0]
    notes = [{"text": "samples ↑", "y": 1, "yanchor": "top"}, {"text": "reference ↓", "y": 0, "yanchor": "bottom"}]
    common = {"xref": "paper", "yref": "paper", "x": 0.005, "xanchor": "left", "showarrow": False}
    mirrored = distribution.reference is not None
    own = sum(distribution.samples)
    p1 = sum(n for z, n in zip(numbers, distribution.samples, strict=True) if z == 1)
    return Chart(
        title=distribution.title,
        summary=f"{len(numbers)} space groups; {p1 / own if own else 0:.1%} of the samples have no symmetry (P1). "
        "Colours are crystal systems" + ("; the samples point up and the reference down." if mirrored else "."),
        traces=traces,
        layout={
            "xaxis": {"title": {"text": "space-group number"}, "range": [0, 231], "showgrid": False},
            "yaxis": {
                "title": {"text": "share of crystals"},
                "tickvals": ticks,
                "ticktext": [f"{100 * abs(value):.3g}%" for value in ticks],
            },
            "barmode": "overlay",
            "hovermode": "closest",
            "annotations": [common | note for note in notes] if mirrored else [],
        },
        columns=("Space group", "Crystal system", *_heads(distribution)),
        rows=[
            (f"{number} {space_group_symbol(number)}", systems[i], *_cells(distribution, i))
            for i, number in enumerate(numbers)
        ],
        wide=True,
        height=380,
    )


def element_charts(distribution: Distribution) -> list[Chart]:
    """Periodic tables: share of samples that hold an element, the same of the reference, and the ratio of the two."""
    named = dict(zip(distribution.labels, zip(*_all_counts(distribution), strict=True), strict=True))
    totals = [sum(counts) or 1 for counts in _all_counts(distribution)]
    shares = {
        symbol: [count / total for count, total in zip(counts, totals, strict=True)] for symbol, counts in named.items()
    }
    texts = {
        symbol: "<br>".join(
            f"{name}: {share:.2%} ({count:,})"
            for name, share, count in zip(("samples", "reference"), shares[symbol], counts, strict=False)
        )
        for symbol, counts in named.items()
    }
    rows = [(label, *_cells(distribution, i)) for i, label in enumerate(distribution.labels)]
    columns = ("Element", *_heads(distribution))
    most = max((value for pair in shares.values() for value in pair), default=1.0)
    charts = []
    for k, name in enumerate(("samples", "reference")[: len(totals)]):
        values = {symbol: pair[k] for symbol, pair in shares.items() if pair[k] > 0}
        frequent = sorted(values, key=values.__getitem__, reverse=True)[:5]
        charts.append(
            _periodic_table(
                title=f"Elements of the {name}",
                summary=f"{len(values)} elements; most frequent {', '.join(frequent) or 'none'}. "
                "Share of all occurrences, an element counted once a crystal.",
                # The square root, as a few elements are far more frequent than all others.
                values={symbol: math.sqrt(value) for symbol, value in values.items()},
                texts=texts,
                scale=[[0, "@low"], [1, "@high"]],
                ends=(0.0, math.sqrt(most)),
                ticks={
                    "tickvals": [_significant(math.sqrt(most) * part / 4) for part in range(5)],
                    "ticktext": [f"{100 * most * (part / 4) ** 2:.2g}%" for part in range(5)],
                },
                columns=columns,
                rows=rows if k == 0 else [],
            )
        )
    if len(totals) == 2:
        charts.append(_ratio_table(shares, texts))
    return charts


def parity_chart(parity: Parity) -> Chart:
    """Obtained against wanted values with the diagonal."""
    pairs = [
        (w, o)
        for w, o in zip(parity.wanted, parity.obtained, strict=True)
        if _finite(w) is not None and _finite(o) is not None
    ]
    unit = _in_unit(parity.unit)
    shown = pairs[:: math.ceil(len(pairs) / MOST_POINTS) or 1]
    errors = sorted(abs(o - w) for w, o in pairs)
    wanted, obtained = [w for w, _ in shown], [o for _, o in shown]
    # The axes span what is wanted; a prediction far outside would squeeze all others into a corner.
    low, high = (min(wanted), max(wanted)) if wanted else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.5
    ends = [low - margin, high + margin]
    outside = sum(not ends[0] <= o <= ends[1] for _, o in pairs)
    summary = "No pairs."
    if errors:
        summary = (
            f"{len(pairs):,} pairs; mean absolute error {math.fsum(errors) / len(errors):.3g}{unit}, "
            f"median {errors[len(errors) // 2]:.3g}{unit}."
        )
        summary += f" {outside:,} lie outside the axes." if outside else ""
    suffix = f" ({parity.unit})" if unit else ""
    return Chart(
        title=parity.title,
        summary=summary,
        traces=[
            {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "hoverinfo": "skip", "showlegend": False}
            | {"line": {"color": "@muted", "width": 1, "dash": "dash"}},
            {"type": "scatter", "mode": "markers", "name": "pairs", "x": _rounded(wanted), "y": _rounded(obtained)}
            | {"marker": {"color": "@accent", "size": 5, "opacity": 0.45}, "showlegend": False}
            | {"hovertemplate": "wanted %{x:.4g}<br>obtained %{y:.4g}<extra></extra>"},
        ],
        layout={
            "xaxis": {"title": {"text": _plotly(f"{parity.title}, wanted{suffix}")}, "range": ends},
            "yaxis": {"title": {"text": _plotly(f"obtained{suffix}")}, "range": ends},
            "hovermode": "closest",
        },
        columns=("Wanted", "Obtained"),
        rows=[(f"{w:.5g}", f"{o:.5g}") for w, o in shown[:MOST_ROWS]],
    )


def element_place(number: int) -> tuple[int, int]:
    """Row and column, from 0, in the table of 18 columns; lanthanides and actinides stand in rows 7 and 8."""
    if 57 <= number <= 71:
        return 7, number - 57 + 2
    if 89 <= number <= 103:
        return 8, number - 89 + 2
    for row, (first, last) in enumerate([(1, 2), (3, 10), (11, 18), (19, 36), (37, 54), (55, 86), (87, 118)]):
        if first <= number <= last:
            # Short periods have their gap after the first one or two elements, and all end at the right.
            place = number - first
            return row, place if place < (2 if row else 1) else 17 - (last - number)
    raise ValueError(f"there is no element {number}")


def _ratio_table(shares: dict[str, list[float]], texts: dict[str, str]) -> Chart:
    """log2 of the samples' share over the reference's; elements that one side lacks are at the ends of the scale."""
    limit = 3.0
    values = {}
    for symbol, (own, other) in shares.items():
        if own or other:
            ratio = math.log2(own / other) if own and other else math.copysign(limit, own - other)
            values[symbol] = max(-limit, min(limit, ratio))
    often = sorted((s for s in values if values[s] > 0), key=values.__getitem__, reverse=True)[:5]
    seldom = sorted((s for s in values if values[s] < 0), key=values.__getitem__)[:5]
    return _periodic_table(
        title="Samples over reference",
        summary=f"Too often: {', '.join(often) or 'none'}; too seldom: {', '.join(seldom) or 'none'}. "
        "Elements that only one side holds have the colours of the ends.",
        values=values,
        texts=texts,
        scale=[[0, "@less"], [0.5, "@even"], [1, "@more"]],
        ends=(-limit, limit),
        ticks={"tickvals": [-3, -2, -1, 0, 1, 2, 3], "ticktext": ["⅛", "¼", "½", "1", "2", "4", "8"]},
        columns=(),
        rows=[],
    )


def _periodic_table(
    *,
    title: str,
    summary: str,
    values: dict[str, float],
    texts: dict[str, str],
    scale: list[list[Any]],
    ends: tuple[float, float],
    ticks: dict[str, Any],
    columns: tuple[str, ...],
    rows: list[tuple[str, ...]],
) -> Chart:
    z: list[list[float | None]] = [[None] * 18 for _ in range(9)]
    hover = [[""] * 18 for _ in range(9)]
    symbols = []
    for symbol, number in ATOMIC_NUMBERS.items():
        row, column = element_place(number)
        present = symbol in values
        z[row][column] = _significant(values[symbol]) if present else None
        hover[row][column] = f"<b>{symbol}</b><br>{texts.get(symbol, 'neither')}" if present else ""
        # On the strong colours, far from the middle or the start of the scale, the page's own colour reads best.
        strong = present and abs(values[symbol]) > 0.6 * ends[1]
        color = "@page" if strong else "@text" if present else "@faint"
        symbols.append(
            {"x": column, "y": row, "text": symbol, "showarrow": False, "font": {"color": color, "size": 11}}
        )
    bar = {"thickness": 10, "len": 0.9, "outlinewidth": 0} | ticks
    return Chart(
        title=title,
        summary=summary,
        traces=[
            {"type": "heatmap", "z": z, "text": hover, "hoverongaps": False, "xgap": 2, "ygap": 2, "colorbar": bar}
            | {"zmin": ends[0], "zmax": ends[1], "colorscale": scale, "hovertemplate": "%{text}<extra></extra>"}
        ],
        layout={
            "xaxis": {"visible": False, "range": [-0.5, 17.5], "fixedrange": True},
            "yaxis": {"visible": False, "range": [8.5, -0.5], "fixedrange": True},
            "annotations": symbols,
            "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
        },
        columns=columns,
        rows=rows,
        wide=True,
        height=330,
        least_width=600,
    )


def _series(distribution: Distribution) -> list[tuple[str, Sequence[int], dict[str, Any]]]:
    look = {"color": "@accent", "width": 2, "fill": "@veil", "bar": "@accent"}
    found: list[tuple[str, Sequence[int], dict[str, Any]]] = [("samples", distribution.samples, look)]
    if distribution.reference is not None:
        behind = {"color": "@reference", "width": 1, "fill": "@shade", "bar": "@reference"}
        found.append(("reference", distribution.reference, behind))
    return found


def _all_counts(distribution: Distribution) -> list[Sequence[int]]:
    return [counts for _, counts, _ in _series(distribution)]


def _heads(distribution: Distribution) -> tuple[str, ...]:
    return tuple(head for name, _, _ in _series(distribution) for head in (name.capitalize(), "share"))


def _cells(distribution: Distribution, index: int) -> tuple[str, ...]:
    cells: list[str] = []
    for counts in _all_counts(distribution):
        cells += [f"{counts[index]:,}", f"{counts[index] / (sum(counts) or 1):.2%}"]
    return tuple(cells)


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _median(edges: Sequence[float], counts: Sequence[int]) -> float:
    """Median of binned values, taken to lie evenly in their bin."""
    half, before = sum(counts) / 2, 0
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count and before + count >= half:
            return low + (high - low) * (half - before) / count
        before += count
    return edges[-1]


def _ticks(largest: float) -> list[float]:
    """Round values from -largest to largest."""
    step = 10 ** math.floor(math.log10(largest)) if largest > 0 else 1.0
    step = next(step * part for part in (0.2, 0.25, 0.5, 1.0) if largest / (step * part) <= 4 or part == 1.0)
    return [k * step for k in range(-int(largest / step), int(largest / step) + 1)]


def _axis_title(distribution: Distribution) -> str:
    """Title and unit; a long title stands above the chart alone, as a phone would cut it."""
    unit = f" ({distribution.unit})" if distribution.unit else ""
    return _plotly(distribution.title + unit if len(distribution.title) <= LONGEST_AXIS_TITLE else distribution.unit)


def _is_space_group(label: str) -> bool:
    return label.isdecimal() and 1 <= int(label) <= 230


def _in_unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def _plotly(text: str) -> str:
    """Text that plotly shows as it is; it reads tags and placeholders otherwise."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("%{", "% {")


def _rounded(values: Sequence[float]) -> list[float]:
    return [_significant(value) for value in values]


def _significant(value: float) -> float:
    """Six digits, which no screen exceeds, keep the page small."""
    return float(f"{value:.6g}")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
