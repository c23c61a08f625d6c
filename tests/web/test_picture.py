"""The scene of a unit cell and its SVG, against geometry that is known by hand."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from euhedral.crystal.batch import CrystalBatch
from euhedral.errors import CrystalError
from euhedral.web.picture import HEIGHT, WIDTH, cell_label, crystal_svg, element_color, svg_scale
from euhedral.web.scene import build_scene

SVG = "{http://www.w3.org/2000/svg}"
FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def crystal(cell, frac, species) -> CrystalBatch:
    cell = np.eye(3) * cell if isinstance(cell, float) else np.asarray(cell, dtype=float)
    return CrystalBatch.from_crystals([(torch.tensor(cell), torch.tensor(frac, dtype=torch.float64), species)])


def rock_salt() -> CrystalBatch:
    anions = [[x + 0.5, y, z] for x, y, z in FCC]
    return crystal(5.64, FCC + anions, [11] * 4 + [17] * 4)


def perovskite() -> CrystalBatch:
    oxygen = [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return crystal(4.0, [[0, 0, 0], [0.5, 0.5, 0.5], *oxygen], [56, 22, 8, 8, 8])


cells = st.tuples(
    st.lists(st.floats(2.5, 14), min_size=3, max_size=3),
    st.lists(st.floats(62, 118), min_size=3, max_size=3),
    st.integers(0, 2**31),
).filter(lambda v: sum(v[1]) < 330)


def random_crystal(drawn) -> CrystalBatch:
    from euhedral.crystal.lattice import cell_from_parameters

    lengths, angles, seed = drawn
    rng = np.random.default_rng(seed)
    cell = cell_from_parameters(
        torch.tensor(lengths, dtype=torch.float64), torch.tensor(angles, dtype=torch.float64)
    ).numpy()
    cell = cell @ Rotation.random(None, rng).as_matrix()
    count = int(rng.integers(1, 9))
    return crystal(cell, rng.random((count, 3)), rng.integers(1, 119, count).tolist())


def test_rock_salt_fills_the_cube_of_27_sites_with_54_bonds():
    scene = build_scene(rock_salt())
    assert len(scene.numbers) == 27
    assert sorted(scene.numbers.tolist()).count(11) == 14
    assert len(scene.bonds) == 54
    lengths = np.linalg.norm(np.diff(scene.positions[scene.bonds], axis=1)[:, 0], axis=1)
    assert np.allclose(lengths, 2.82)


def test_atoms_near_a_face_are_shown_on_both_and_others_once():
    assert len(build_scene(crystal(5.0, [[0.5, 0.5, 0.01]], [29])).numbers) == 2
    assert len(build_scene(crystal(5.0, [[0.5, 0.5, 0.99]], [29])).numbers) == 2
    assert len(build_scene(crystal(5.0, [[0.5, 0.5, 0.1]], [29])).numbers) == 1
    assert len(build_scene(crystal(5.0, [[0, 0, 0]], [29])).numbers) == 8


def test_cations_are_not_joined_in_a_compound_but_metals_are_in_a_metal():
    scene = build_scene(perovskite())
    assert len(scene.bonds)
    assert all(8 in scene.numbers[pair] for pair in scene.bonds)
    iron = build_scene(crystal(2.87, [[0, 0, 0], [0.5, 0.5, 0.5]], [26, 26]))
    center = np.linalg.norm(iron.positions, axis=1).argmin()
    assert (iron.bonds == center).sum() == 8


def test_atoms_on_top_of_each_other_are_drawn_without_a_bond():
    scene = build_scene(crystal(6.0, [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], [8, 8]))
    assert len(scene.bonds) == 0
    assert "nan" not in crystal_svg(crystal(6.0, [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], [8, 8]))


@settings(max_examples=40, deadline=None)
@given(cells)
def test_view_is_a_proper_rotation_and_does_not_depend_on_how_the_crystal_lies(drawn):
    one = random_crystal(drawn)
    scene = build_scene(one)
    cell = one.cell[0].numpy()
    assert np.allclose(scene.cell @ scene.cell.T, cell @ cell.T)
    assert np.isclose(np.linalg.det(scene.cell), np.linalg.det(cell))
    assert abs(scene.cell[2, 0]) < 1e-9 and scene.cell[2, 1] > 0
    turned = crystal(cell @ Rotation.random(None, 1).as_matrix(), one.frac.numpy(), one.species.tolist())
    assert np.allclose(build_scene(turned).positions, scene.positions, atol=1e-6)


def test_a_left_handed_cell_is_not_mirrored():
    scene = build_scene(crystal(np.diag([4.0, 4.0, -5.0]), [[0.1, 0.2, 0.3]], [14]))
    assert np.isclose(np.linalg.det(scene.cell), -80)


@settings(max_examples=40, deadline=None)
@given(cells)
def test_balls_are_the_orthographic_projection_from_back_to_front_and_stay_in_the_frame(drawn):
    one = random_crystal(drawn)
    scene, scale = build_scene(one), svg_scale(build_scene(one))
    root = ET.fromstring(crystal_svg(one))
    found = [[float(c.attrib[k]) for k in ("cx", "cy", "r")] for c in root.findall(f"{SVG}circle")]
    order = np.argsort(scene.positions[:, 2], kind="stable")
    expected = np.stack(
        [WIDTH / 2 + scene.positions[:, 0] * scale, HEIGHT / 2 - scene.positions[:, 1] * scale, scene.radii * scale], 1
    )
    # Balls of one depth may swap; their positions are then compared as sets.
    assert np.allclose(np.array(sorted(found)), np.array(sorted(expected.round(1).tolist())), atol=0.11)
    depths = [scene.positions[np.abs(expected - circle).sum(1).argmin(), 2] for circle in found]
    assert np.allclose(depths, scene.positions[order, 2], atol=0.2)
    for x, y, r in found:
        assert r - 0.1 <= x <= WIDTH - r + 0.1 and r - 0.1 <= y <= HEIGHT - r + 0.1


def test_edges_end_at_the_surface_of_the_balls():
    """In a cubic cell with one ball of radius r at each corner, a share 1 - 2r/a of all edges is seen."""
    one = crystal(6.0, [[0, 0, 0]], [18])
    scene, scale = build_scene(one), svg_scale(build_scene(one))
    seen = {"e": 0.0, "k": 0.0}
    for path in ET.fromstring(crystal_svg(one)).findall(f"{SVG}path"):
        for line in re.findall(r"M(\S+) (\S+)L(\S+) (\S+?)(?=M|$)", path.attrib["d"]):
            x1, y1, x2, y2 = map(float, line)
            seen[path.attrib["class"]] += np.hypot(x2 - x1, y2 - y1)
    edges = np.hypot(*scene.cell[:, :2].T).sum() * scale * (1 - 2 * scene.radii[0] / 6)
    assert seen["k"] == pytest.approx(edges, rel=0.02)
    assert seen["e"] == pytest.approx(3 * edges, rel=0.02)


def test_bonds_hide_the_edges_they_run_along():
    root = ET.fromstring(crystal_svg(rock_salt()))
    assert {path.attrib["class"] for path in root.findall(f"{SVG}path")} == {"b11", "b17"}


def test_svg_stands_alone_with_an_escaped_label():
    text = crystal_svg(rock_salt(), label='"><script>alert(1)</script>')
    root = ET.fromstring(text)
    assert root.get("aria-label") == '"><script>alert(1)</script>' and root.get("role") == "img"
    assert "<script" not in text
    gradients = {g.get("id") for g in root.iter(f"{SVG}radialGradient")}
    used = set(re.findall(r"url\(#(e\d+)\)", text))
    assert used == gradients == {"e11", "e17"}


def test_label_tells_the_contents_and_the_shape():
    label = cell_label(perovskite(), "BaTiO3")
    assert (
        label
        == "Unit cell of BaTiO3: 1 Ba, 1 Ti, 3 O in a cell of 4.00 × 4.00 × 4.00 Å with angles of 90, 90, 90 degrees"
    )


def test_every_element_has_a_colour():
    colors = [element_color(number) for number in range(119)]
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
    red, green, blue = (int(colors[8][k : k + 2], 16) for k in (1, 3, 5))
    assert red > 200 > 80 > max(green, blue)
    assert len(set(colors[1:110])) > 100


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (CrystalBatch.empty(), "one crystal"),
        (CrystalBatch.concat([rock_salt(), rock_salt()]), "holds 2"),
        (crystal(np.full((3, 3), np.nan), [[0, 0, 0]], [1]), "not finite"),
        (crystal([[3, 0, 0], [3, 0, 0], [0, 0, 3]], [[0, 0, 0]], [1]), "no volume"),
        (crystal(3.0, [[0, 0, 0]], [119]), "unknown element"),
    ],
)
def test_what_is_no_crystal_is_refused(batch, message):
    with pytest.raises(CrystalError, match=message):
        crystal_svg(batch)
