"""The gallery: one HTML file with every crystal of a run, which works offline, from a folder, and prints."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import numpy as np

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import COVALENT_RADII, SYMBOLS
from euhedral.errors import CrystalError
from euhedral.web.page import facts_html, fill, policy, resource, script_json, write_page
from euhedral.web.picture import cell_label, draw_svg, element_color, lighter, svg_definitions, svg_scale
from euhedral.web.scene import Scene, build_scene, drawn_radius

_MISSING = "–"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Card:
    """One crystal of the gallery; every text may hold anything, it is escaped.

    Attributes:
        name: unique name, as of its file.
        formula: as "LiMnO2" or "Li2 Mn2 O4"; digits after a symbol or a bracket become subscripts.
        cif: the crystal as CIF text, which the page offers for copying.
        space_group_symbol: Hermann-Mauguin, as "F m -3 m" or "P 6_3/m m c"; empty where it was not found.
        space_group_number: 1..230, or 0 where it was not found.
        density: in g/cm³; NaN where unknown.
        smallest_distance: between two atoms, in Å; NaN where unknown.
        num_atoms: atoms in the cell.
        volume: of the cell, in Å³.
        extra: further lines, as {"Formation energy": "-1.2 eV/atom"}.
        cif_file: path of the CIF file relative to the page; empty for no link.
        crystal: the crystal itself, a batch of one; read from `cif` where it is not given.
    """

    name: str
    formula: str
    cif: str
    space_group_symbol: str
    space_group_number: int
    density: float
    smallest_distance: float
    num_atoms: int
    volume: float
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cif_file: str = ""
    crystal: CrystalBatch | None = None


def write_gallery(
    path: Path,
    cards: Sequence[Card],
    *,
    title: str,
    subtitle: str = "",
    facts: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write the gallery of `cards` as one self-contained HTML file and return its path.

    The file appears whole or not at all: it is written beside its place and renamed, which replaces an older one.

    Args:
        path: the file to write; a folder, or a path without the ending .html, gets `index.html` within it.
        cards: the crystals, in the order in which they were made.
        title: headline of the page.
        subtitle: line below it.
        facts: what holds for all crystals, as {"Model": "default", "Seed": "0"}.

    Raises:
        CrystalError: where a card holds no valid crystal, with its name.
        OutputError: where the file cannot be written.
    """
    path = Path(path)
    target = path if path.suffix.lower() in (".html", ".htm") and not path.is_dir() else path / "index.html"
    page = gallery_html(cards, title=title, subtitle=subtitle, facts=facts)
    return write_page(target, page, "the gallery")


def gallery_html(
    cards: Sequence[Card], *, title: str, subtitle: str = "", facts: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The text of the page that `write_gallery` writes."""
    scenes, items, records = [], [], []
    for index, card in enumerate(cards):
        crystal, scene = _scene(card)
        svg = draw_svg(scene, label=cell_label(crystal, card.formula))
        elements = Counter(SYMBOLS[z] for z in crystal.species.tolist())
        scenes.append(scene)
        items.append(_card_html(index, card, svg))
        records.append(_record(card, scene, elements))
    numbers = sorted({int(z) for scene in scenes for z in scene.numbers})
    radii = drawn_radius(np.array(numbers, dtype=np.int64)).round(3).tolist()
    palette = {
        z: [SYMBOLS[z], lighter(element_color(z), 0.1), radius, COVALENT_RADII[z]]
        for z, radius in zip(numbers, radii, strict=True)
    }
    viewer, program = resource("vendor/3Dmol-min.js"), resource("cell_scene.js") + resource("gallery.js")
    return fill(
        resource("gallery_template.html"),
        {
            "policy": escape(policy(viewer, program)),
            "title": escape(title),
            "subtitle": f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else "",
            "facts": facts_html(facts),
            "style": resource("gallery.css"),
            "definitions": svg_definitions(numbers),
            "legend": "".join(_legend_html(z) for z in numbers),
            "count": f"{len(cards):,} crystal{'' if len(cards) == 1 else 's'}",
            "cards": "\n".join(items),
            "data": script_json({"elements": palette, "crystals": records}),
            "license": escape(resource("vendor/3Dmol.LICENSE"), quote=False),
            "viewer": viewer,
            "program": program,
        },
    )


def formula_html(formula: str) -> str:
    """A formula with its counts as subscripts: 'Ca3(PO4)2' gives Ca<sub>3</sub>(PO<sub>4</sub>)<sub>2</sub>."""
    parts = re.split(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", formula)
    return "".join(f"<sub>{escape(part)}</sub>" if i % 2 else escape(part) for i, part in enumerate(parts))


def space_group_html(symbol: str, number: int = 0) -> str:
    """A Hermann-Mauguin symbol as it is printed: letters italic, -3 as 3 with a bar, 6_3 as 6 with a lower 3."""
    if not symbol.strip():
        return f"No. {number}" if number else _MISSING
    text = re.sub(r"\s+", "", symbol)
    html = []
    for bar, screw, letters, other in re.findall(r"-(\d)|_(\d)|([A-Za-z]+)|(.)", text):
        if bar:
            html.append(f'<span class="bar">{bar}</span>')
        elif screw:
            html.append(f"<sub>{screw}</sub>")
        else:
            html.append(f"<i>{letters}</i>" if letters else escape(other))
    spoken = escape(re.sub(r"-(\d)", r"\1 bar", symbol).replace("_", " sub "))
    suffix = f' <span class="number">({number})</span>' if number else ""
    return f'<span class="symbol" role="img" aria-label="{spoken}">{"".join(html)}</span>{suffix}'


def _scene(card: Card) -> tuple[CrystalBatch, Scene]:
    try:
        crystal = card.crystal
        if crystal is None:
            from euhedral.crystal.convert import from_cif

            crystal = from_cif(card.cif)
        return crystal, build_scene(crystal)
    except CrystalError as error:
        raise CrystalError(f"card {card.name!r} cannot be drawn: {error}") from error


def _card_html(index: int, card: Card, svg: str) -> str:
    lines = {
        "Space group": space_group_html(card.space_group_symbol, card.space_group_number),
        "Density": _quantity(card.density, 2, "g/cm³"),
        "Smallest distance": _quantity(card.smallest_distance, 2, "Å"),
        "Atoms": escape(str(card.num_atoms)),
        "Volume": _quantity(card.volume, 1, "Å³"),
    }
    lines |= {escape(key): escape(value) for key, value in card.extra.items()}
    rows = "".join(f"<div><dt>{key}</dt><dd>{value}</dd></div>" for key, value in lines.items())
    # Quoting the colon leaves no scheme: whatever the text, the link stays within the folder of the page.
    link = f'<a class="cif" href="{quote(card.cif_file)}">CIF<span class="hidden"> of {escape(card.name)}</span></a>'
    return (
        f'<li class="card" data-index="{index}">'
        f'<div class="picture"><button class="open" type="button">{svg}</button></div><div class="text">'
        f'<div class="head"><h2>{formula_html(card.formula)}</h2>{link if card.cif_file else ""}</div>'
        f'<p class="name">{escape(card.name)}</p><dl>{rows}</dl></div></li>'
    )


def _record(card: Card, scene: Scene, elements: Iterable[str]) -> dict[str, Any]:
    """What the page's program needs of a crystal; lengths in hundredths of Å keep the page small."""
    return {
        "name": card.name,
        "formula": card.formula,
        "symbol": re.sub(r"\s+", "", card.space_group_symbol),
        "group": card.space_group_number,
        "density": _finite(card.density),
        "distance": _finite(card.smallest_distance),
        "elements": sorted(elements),
        "cif": card.cif,
        "numbers": scene.numbers.tolist(),
        "positions": (scene.positions * 100).round().astype(int).ravel().tolist(),
        "bonds": scene.bonds.ravel().tolist(),
        "cell": (scene.cell * 100).round().astype(int).ravel().tolist(),
        "scale": round(svg_scale(scene), 3),
    }


def _legend_html(number: int) -> str:
    symbol, color = SYMBOLS[number], element_color(number)
    return (
        f'<li><button type="button" class="element" data-symbol="{symbol}" aria-pressed="false">'
        f'<span class="ball" style="--ball:{color}" aria-hidden="true"></span>{symbol}</button></li>'
    )


def _quantity(value: float, digits: int, unit: str) -> str:
    return f"{value:.{digits}f} {unit}" if _finite(value) is not None else _MISSING


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
