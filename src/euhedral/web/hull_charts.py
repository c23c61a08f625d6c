"""Hull diagrams: the phases of a chemical system of two or three elements, and where candidates stand among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from euhedral.crystal.elements import SYMBOLS
from euhedral.web.charts import Chart

if TYPE_CHECKING:
    from euhedral.screen.hull import Hull
    from euhedral.screen.reference import Composition

ON_HULL = 1e-6
"""Entries at most this far above the hull, in eV/atom, are on it; the reference keeps energies in single precision."""
MOST_CHARTS = 8


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A crystal to show among the phases.

    Attributes:
        label: for people.
        composition: reduced, by atomic number.
        formation_energy: eV/atom.
        e_above_hull: eV/atom.
    """

    label: str
    composition: Composition
    formation_energy: float
    e_above_hull: float


def hull_charts(hull: Hull, candidates: Sequence[Candidate]) -> list[Chart]:
    """Diagrams of the systems of two or three elements that the candidates belong to, at most MOST_CHARTS.

    Args:
        hull: whose reference has an entry for each element.
        candidates: the best first; the system of an earlier one comes first.
    """
    systems: dict[tuple[int, ...], list[Candidate]] = {}
    for candidate in candidates:
        elements = tuple(z for z, _ in candidate.composition)
        if len(elements) in (2, 3):
            systems.setdefault(elements, []).append(candidate)
    return [_chart(hull, elements, members) for elements, members in list(systems.items())[:MOST_CHARTS]]


def _chart(hull: Hull, elements: tuple[int, ...], members: Sequence[Candidate]) -> Chart:
    reference = hull.reference
    rows = [i for i, found in enumerate(reference.compositions) if {z for z, _ in found} <= set(elements)]
    found = hull.above_hull(
        [reference.compositions[i] for i in rows], reference.energies[rows], method=reference.method
    )
    phases = [
        Candidate(
            label=reference.formula(row),
            composition=reference.compositions[row],
            formation_energy=float(found.formation_energies[k]),
            e_above_hull=float(found.e_above_hull[k]),
        )
        for k, row in enumerate(rows)
    ]
    system = "-".join(SYMBOLS[z] for z in elements)
    stable = [phase for phase in phases if phase.e_above_hull <= ON_HULL]
    below = sum(member.e_above_hull < 0 for member in members)
    told = (
        f"{len(stable)} of {len(phases)} phases of the reference are on the hull of {system}; {len(members)} "
        f"{'candidate' if len(members) == 1 else 'candidates'}, {below} below it"
    )
    draw = _binary if len(elements) == 2 else _ternary
    traces, layout = draw(elements, phases, stable, members)
    return Chart(
        title=f"Hull of {system}",
        summary=f"{told}.",
        traces=traces,
        layout=layout,
        columns=("phase", "of", "formation energy, eV/atom", "above the hull, eV/atom"),
        rows=[
            (one.label, kind, f"{one.formation_energy:.3f}", f"{one.e_above_hull:.3f}")
            for kind, group in (("candidates", members), ("reference", stable))
            for one in group
        ],
        height=380,
    )


def _binary(
    elements: tuple[int, ...], phases: Sequence[Candidate], stable: Sequence[Candidate], members: Sequence[Candidate]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    def trace(group: Sequence[Candidate], **look: Any) -> dict[str, Any]:
        ordered = sorted(group, key=lambda one: _share(one, elements[1]))
        return {
            "type": "scatter",
            "x": [round(_share(one, elements[1]), 4) for one in ordered],
            "y": [round(one.formation_energy, 4) for one in ordered],
            "text": [_told(one) for one in ordered],
            "hovertemplate": "%{text}<extra></extra>",
            **look,
        }

    above = [phase for phase in phases if phase.e_above_hull > ON_HULL]
    traces = [
        trace(above, name="above the hull", mode="markers", marker={"color": "@reference", "size": 5, "opacity": 0.6}),
        trace(stable, name="hull", mode="lines+markers", line={"color": "@muted"}, marker={"size": 7}),
        trace(members, name="candidates", mode="markers", marker=_look()),
    ]
    axes = {
        "xaxis": {"title": {"text": f"share of {SYMBOLS[elements[1]]} in {'-'.join(SYMBOLS[z] for z in elements)}"}},
        "yaxis": {"title": {"text": "formation energy, eV/atom"}},
    }
    return traces, {**axes, "hovermode": "closest"}


def _ternary(
    elements: tuple[int, ...], phases: Sequence[Candidate], stable: Sequence[Candidate], members: Sequence[Candidate]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    def trace(group: Sequence[Candidate], **look: Any) -> dict[str, Any]:
        places = {axis: [round(_share(one, z), 4) for one in group] for axis, z in zip("abc", elements, strict=True)}
        texts = [_told(one) for one in group]
        return {"type": "scatterternary", **places, "text": texts, "hovertemplate": "%{text}<extra></extra>", **look}

    lines: dict[str, list[float | None]] = {"a": [], "b": [], "c": []}
    for pair in _tie_lines(stable):
        for axis, z in zip("abc", elements, strict=True):
            lines[axis] += [*(round(_share(one, z), 4) for one in pair), None]
    above = [phase for phase in phases if phase.e_above_hull > ON_HULL]
    tie = {"type": "scatterternary", **lines, "mode": "lines", "name": "coexist", "hoverinfo": "skip"}
    traces = [
        tie | {"line": {"color": "@muted", "width": 1}},
        trace(above, name="above the hull", mode="markers", marker={"color": "@reference", "size": 4, "opacity": 0.6}),
        trace(stable, name="hull", mode="markers", marker={"color": "@text", "size": 7}),
        trace(members, name="candidates", mode="markers", marker=_look()),
    ]
    axes = {
        f"{axis}axis": {"title": {"text": SYMBOLS[z]}, "gridcolor": "@grid", "linecolor": "@line", "ticks": ""}
        for axis, z in zip("abc", elements, strict=True)
    }
    layout = {"ternary": {"sum": 1, "bgcolor": "rgba(0,0,0,0)", **axes}, "hovermode": "closest"}
    return traces, layout | {"margin": {"l": 48, "r": 48, "t": 48, "b": 48}}


def _tie_lines(stable: Sequence[Candidate]) -> list[tuple[Candidate, Candidate]]:
    """Pairs of stable phases that an edge of the hull joins."""
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    entries = []
    for one in stable:
        amounts = {SYMBOLS[z]: float(n) for z, n in one.composition}
        entries.append(PDEntry(Composition(amounts), one.formation_energy * sum(amounts.values())))
    diagram = PhaseDiagram(entries)
    by_entry = {id(entry): one for entry, one in zip(entries, stable, strict=True)}
    pairs = {tuple(sorted(pair)) for facet in diagram.facets for pair in combinations(facet.tolist(), 2)}
    return [(by_entry[id(diagram.qhull_entries[i])], by_entry[id(diagram.qhull_entries[j])]) for i, j in sorted(pairs)]


def _share(one: Candidate, element: int) -> float:
    amounts: Mapping[int, int] = dict(one.composition)
    return amounts.get(element, 0) / sum(amounts.values())


def _told(one: Candidate) -> str:
    return f"{one.label}: {one.formation_energy:.3f} eV/atom, {one.e_above_hull:+.3f} to the hull"


def _look() -> dict[str, Any]:
    return {"color": "@accent", "size": 10, "symbol": "diamond"}
