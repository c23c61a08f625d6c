"""A picture of a unit cell as SVG: orthographic, shaded balls, bonds and box, drawn from the back to the front.

It needs neither a browser with WebGL nor a script, and it prints.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import SYMBOLS
from euhedral.web.scene import Scene, build_scene

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray

WIDTH, HEIGHT, MARGIN = 300, 240, 10
LARGEST_SCALE = 40.0
"""Units of the picture per Å, at most: a cell of one atom does not fill the frame with one ball."""

BOND_WIDTH = 0.17
LABEL_GAP = 0.42
_EDGE_PARTS = 5

# The colours of Jmol, which chemists read without a legend; index = atomic number, grey pink after meitnerium.
_JMOL = (
    "ff69b4ffffffd9ffffcc80ffc2ff00ffb5b59090903050f8ff0d0d90e050b3e3f5ab5cf28aff00bfa6a6f0c8a0ff8000ffff301ff01f80d1e3"
    "8f40d43dff00e6e6e6bfc2c7a6a6ab8a99c79c7ac7e06633f090a050d050c880337d80b0c28f8f668f8fbd80e3ffa100a629295cb8d1702eb0"
    "00ff0094ffff94e0e073c2c954b5b53b9e9e248f8f0a7d8c006985c0c0c0ffd98fa675736680809e63b5d47a00940094429eb057178f00c900"
    "70d4ffffffc7d9ffc7c7ffc7a3ffc78fffc761ffc745ffc730ffc71fffc700ff9c00e67500d45200bf3800ab244dc2ff4da6ff2194d6267dab"
    "266696175487d0d0e0ffd123b8b8d0a6544d5759619e4fb5ab5c00754f45428296420066007d0070abfa00baff00a1ff008fff0080ff006bff"
    "545cf2785ce38a4fe3a136d4b31fd4b31fbab30da6bd0d87c70066cc0059d1004fd90045e00038e6002eeb0026"
)


def element_color(number: int) -> str:
    """Colour of an element as '#rrggbb': Jmol's, a little less saturated so that a page of them stays calm."""
    code = _JMOL[6 * number : 6 * number + 6] or "d9a0a8"
    rgb = [int(code[k : k + 2], 16) for k in (0, 2, 4)]
    grey = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]
    return "#" + "".join(f"{round(0.84 * v + 0.16 * (0.7 * grey + 38)):02x}" for v in rgb)


def crystal_svg(crystal: CrystalBatch, *, label: str = "Unit cell") -> str:
    """A complete SVG document of a batch of one crystal, for a file or a page; `label` is its text alternative.

    Raises:
        CrystalError: where the batch does not hold exactly one valid crystal.
    """
    scene = build_scene(crystal)
    return draw_svg(scene, label=label, definitions=svg_definitions(scene.numbers.tolist()))


def draw_svg(scene: Scene, *, label: str, definitions: str = "") -> str:
    """The SVG of a scene; without `definitions` it relies on those of the page (`svg_definitions`)."""
    scale = svg_scale(scene)
    flat = scene.positions * np.array([scale, -scale, 1]) + np.array([WIDTH / 2, HEIGHT / 2, 0])
    items: list[tuple[float, str, str]] = [
        (depth, f"a{number}", f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius * scale)}"')
        for (x, y, depth), number, radius in zip(flat.tolist(), scene.numbers.tolist(), scene.radii, strict=True)
    ]
    items += _bond_items(scene, scale) + _edge_items(scene, scale)
    items.sort(key=lambda item: item[0])
    parts = [
        f'<svg class="cell-picture" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(label)}">{definitions}'
    ]
    path_class, path = "", ""
    for _, kind, data in [*items, (0.0, "", "")]:
        # Neighbours in depth of one kind share a path, which halves the size of the page.
        if path and kind != path_class:
            parts.append(f'<path class="{path_class}" d="{path}" stroke-width="{_n(_width(path_class, scale))}"/>')
            path = ""
        if kind.startswith("a"):
            parts.append(f'<circle class="{kind}" {data}/>')
        else:
            path_class, path = kind, path + data
    for name, (x, y, _) in zip("abc", axis_labels(scene).tolist(), strict=True):
        parts.append(f'<text x="{_n(WIDTH / 2 + x * scale)}" y="{_n(HEIGHT / 2 - y * scale + 4)}">{name}</text>')
    return "".join([*parts, "</svg>"])


def svg_definitions(numbers: Iterable[int]) -> str:
    """Shading and styles of the elements given: once a page, or once in an SVG that stands alone."""
    gradients, rules = [], []
    for number in sorted(set(numbers)):
        color = element_color(number)
        gradients.append(
            f'<radialGradient id="e{number}" cx=".36" cy=".32" r=".72">'
            f'<stop offset="0" stop-color="{lighter(color, 0.72)}"/><stop offset=".38" stop-color="{color}"/>'
            f'<stop offset="1" stop-color="{_mix(color, 0, 0.42)}"/></radialGradient>'
        )
        rules.append(f".a{number}{{fill:url(#e{number})}}.b{number}{{stroke:{_mix(color, 0, 0.14)}}}")
    style = (
        ".cell-picture path{fill:none}.cell-picture circle{stroke:#000;stroke-opacity:.38;stroke-width:.7}"
        ".cell-picture .e{stroke:var(--cell-front,#7d828a)}.cell-picture .k{stroke:var(--cell-back,#b4b8be)}"
        ".cell-picture .e,.cell-picture .k{stroke-linecap:round}"
        ".cell-picture text{font:italic 11.5px Georgia,serif;text-anchor:middle;fill:currentColor;"
        "paint-order:stroke;stroke:var(--card,none);stroke-width:3px;stroke-linejoin:round}"
    )
    return f"<defs>{''.join(gradients)}</defs><style>{style}{''.join(rules)}</style>"


def svg_scale(scene: Scene) -> float:
    """Units of the picture per Å with which the whole scene fits into the frame, centred on the cell."""
    corners = np.array([[i, j, k] for i in (-0.5, 0.5) for j in (-0.5, 0.5) for k in (-0.5, 0.5)]) @ scene.cell
    points = np.concatenate([scene.positions, corners, axis_labels(scene)])
    extent = np.concatenate([scene.radii, np.full(8, 0.1), np.full(3, 0.25)])
    reach_x, reach_y = (float((np.abs(points[:, k]) + extent).max()) for k in (0, 1))
    return min(LARGEST_SCALE, (WIDTH / 2 - MARGIN) / reach_x, (HEIGHT / 2 - MARGIN) / reach_y)


def axis_labels(scene: Scene) -> Float[ndarray, "3 3"]:
    """Where the letters a, b and c stand: beyond the end of each lattice vector and of an atom that sits there."""
    ends = scene.origin + scene.cell
    # Onwards and away from the middle of the cell, but not towards the eye, where a step would not show.
    way = (2 * ends + scene.cell) * np.array([1.0, 1.0, 0.0])
    way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
    gap = [
        LABEL_GAP + float(np.max(np.where(np.linalg.norm(scene.positions - end, axis=1) < 0.5, scene.radii, 0.0)))
        for end in ends
    ]
    return ends + way * np.array(gap)[:, None]


def cell_label(crystal: CrystalBatch, formula: str) -> str:
    """The text alternative of a picture: formula, atoms of each element, lengths and angles of the cell."""
    from euhedral.crystal.lattice import parameters_from_cell

    lengths, angles = (value[0].tolist() for value in parameters_from_cell(crystal.cell.double()))
    species = crystal.species.tolist()
    counts = ", ".join(f"{species.count(z)} {SYMBOLS[z]}" for z in dict.fromkeys(species))
    return (
        f"Unit cell of {formula}: {counts} in a cell of {' × '.join(f'{v:.2f}' for v in lengths)} Å "
        f"with angles of {', '.join(f'{v:.0f}' for v in angles)} degrees"
    )


def _bond_items(scene: Scene, scale: float) -> list[tuple[float, str, str]]:
    """Two half bonds a pair, each in the colour of its atom, from the surface of the ball to the middle."""
    here, there = np.concatenate([scene.bonds, scene.bonds[:, ::-1]]).T
    way = scene.positions[there] - scene.positions[here]
    share = 0.94 * scene.radii[here] / np.linalg.norm(way, axis=1)
    starts, ends = scene.positions[here] + share[:, None] * way, scene.positions[here] + 0.5 * way
    kinds = [f"b{number}" for number in scene.numbers[here].tolist()]
    return _segments(
        starts[share < 0.5], ends[share < 0.5], [k for k, s in zip(kinds, share, strict=True) if s < 0.5], scale
    )


def _edge_items(scene: Scene, scale: float) -> list[tuple[float, str, str]]:
    """The twelve edges in short pieces without what lies inside a ball; those of the farthest corner are faint."""
    corners = {
        (i, j, k): scene.origin + np.array([i, j, k]) @ scene.cell for i in (0, 1) for j in (0, 1) for k in (0, 1)
    }
    farthest = min(corners, key=lambda corner: corners[corner][2])
    starts, ends, kinds = [], [], []
    for corner, start in corners.items():
        for axis in range(3):
            if corner[axis]:
                continue
            other = (*corner[:axis], 1, *corner[axis + 1 :])
            kind = "k" if farthest in (corner, other) else "e"
            for low, high in _outside(start, scene.cell[axis], scene):
                pieces = np.linspace(low, high, 1 + max(1, math.ceil(_EDGE_PARTS * (high - low))))
                points = start + pieces[:, None] * scene.cell[axis]
                starts.append(points[:-1])
                ends.append(points[1:])
                kinds += [kind] * (len(points) - 1)
    if not kinds:
        return []
    start, end = np.concatenate(starts), np.concatenate(ends)
    shown = ~_on_bond((start + end) / 2, scene)
    return _segments(start[shown], end[shown], [k for k, s in zip(kinds, shown, strict=True) if s], scale)


def _on_bond(points: Float[ndarray, "n 3"], scene: Scene) -> Bool[ndarray, " n"]:
    """Whether each point lies inside a bond, which then hides the edge of the cell that runs along it."""
    if not len(scene.bonds):
        return np.zeros(len(points), dtype=bool)
    start, end = scene.positions[scene.bonds[:, 0]], scene.positions[scene.bonds[:, 1]]
    way = end - start
    offset = points[:, None] - start
    share = np.clip((offset * way).sum(-1) / (way**2).sum(-1), 0, 1)
    return (np.linalg.norm(offset - share[..., None] * way, axis=-1) < 0.6 * BOND_WIDTH).any(1)


def _outside(start: Float[ndarray, " 3"], way: Float[ndarray, " 3"], scene: Scene) -> list[tuple[float, float]]:
    """The parts of [0, 1] for which start + t way lies outside every ball, from |start + t way - center|² = r²."""
    offset = start - scene.positions
    square, half = float(way @ way), offset @ way
    root = half**2 - square * ((offset**2).sum(1) - scene.radii**2)
    inside = [
        ((-h - math.sqrt(d)) / square, (-h + math.sqrt(d)) / square)
        for h, d in zip(half.tolist(), root.tolist(), strict=True)
        if d > 0
    ]
    parts, position = [], 0.0
    for low, high in sorted(inside):
        if low > position:
            parts.append((position, min(low, 1.0)))
        position = max(position, high)
        if position >= 1:
            return [part for part in parts if part[1] > part[0]]
    return [part for part in [*parts, (position, 1.0)] if part[1] > part[0]]


def _segments(
    starts: Float[ndarray, "n 3"], ends: Float[ndarray, "n 3"], kinds: list[str], scale: float
) -> list[tuple[float, str, str]]:
    """Depth, class and path data of straight lines."""
    to_page = np.array([scale, -scale, 1]), np.array([WIDTH / 2, HEIGHT / 2, 0])
    lines = np.concatenate([starts * to_page[0] + to_page[1], ends * to_page[0] + to_page[1]], axis=1)
    return [
        ((z1 + z2) / 2, kind, f"M{_n(x1)} {_n(y1)}L{_n(x2)} {_n(y2)}")
        for (x1, y1, z1, x2, y2, z2), kind in zip(lines.tolist(), kinds, strict=True)
    ]


def _width(kind: str, scale: float) -> float:
    return max(1.2, BOND_WIDTH * scale) if kind.startswith("b") else 1.1


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def lighter(color: str, share: float) -> str:
    """A colour '#rrggbb' mixed with `share` of white."""
    return _mix(color, 255, share)


def _mix(color: str, target: int, share: float) -> str:
    return "#" + "".join(f"{round((1 - share) * int(color[k : k + 2], 16) + share * target):02x}" for k in (1, 3, 5))
