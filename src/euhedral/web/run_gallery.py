"""The gallery of a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from euhedral.catalog.run_folder import CIFS, SUMMARY, RunFolder
from euhedral.web.gallery import Card, write_gallery

MOST_CARDS = 1000


def write_run_gallery(run: RunFolder) -> Path:
    """Write index.html of a run: one card a crystal, the first 1,000 by position; returns its path."""
    ordered = sorted(run.records, key=lambda record: record.index)
    cards = [
        Card(
            name=record.name,
            formula=record.formula,
            cif=run.cif(record),
            space_group_symbol=record.space_group_symbol,
            space_group_number=record.space_group,
            density=record.density,
            smallest_distance=record.smallest_distance,
            num_atoms=record.num_atoms,
            volume=record.volume,
            extra={},
            cif_file=f"{CIFS}/{record.name}.cif",
        )
        for record in ordered[:MOST_CARDS]
    ]
    summary = json.loads((run.path / SUMMARY).read_text())
    request = {k: v for k, v in summary["request"].items() if v not in (None, {}, "")}
    shown = "" if len(ordered) <= MOST_CARDS else f", the first {MOST_CARDS:,} of them here"
    if (kept := request.get("template")) is not None:
        request["template"] = _kept(kept)
    facts = {name.replace("_", " "): _text(value) for name, value in request.items() if name != "weights"}
    for name, share in summary.get("constraints", {}).items():
        facts[f"{name.replace('_', ' ')} met"] = f"{share['met']} of {share['total']} ({share['kind']})"
    return write_gallery(
        run.path / "index.html",
        cards,
        title="Generated crystals",
        subtitle=f"{len(ordered):,} crystals{shown}; space groups by moyopy at symprec 0.1 Å, before relaxation",
        facts=facts,
    )


def _kept(template: Mapping[str, Any]) -> str:
    """What is kept of a template: lattice, 4 positions, 3 species."""
    counts = {
        "positions": sum(place is not None for place in template["frac"]),
        "species": sum(z > 0 for z in template["species"]),
    }
    lattice = [] if template["cell"] is None else ["lattice"]
    return ", ".join([*lattice, *(f"{count} {name}" for name, count in counts.items() if count)])


def _text(value: object) -> str:
    """A value of a request as a reader would write it: yes, 4 to 6, band_gap = 2.0."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} = {target}" for name, target in value.items())
    if isinstance(value, (list, tuple)):
        return " to ".join(str(item) for item in value)
    return str(value)
