from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.evaluate import voronoi
from euhedral.evaluate.voronoi import COINCIDENT, NO_FACE, OPEN_CELL, voronoi_faces

BOX = 1000.0  # longest diagonal: the cutoff may grow as far as it needs


def cubic(length: float, sites: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.eye(3) * length, np.array(sites)


def test_a_simple_cubic_cell_is_a_cube() -> None:
    faces, reasons = voronoi_faces(*cubic(3.0, [[0.2, 0.3, 0.9]]), BOX)
    real = faces.area > 1e-9
    assert not reasons and real.sum() == 6
    np.testing.assert_allclose(faces.area[real], 9.0)
    np.testing.assert_allclose(faces.solid_angle[real], 4 * np.pi / 6)
    np.testing.assert_allclose(np.linalg.norm(faces.vector[real], axis=1), 3.0)


def test_a_body_centred_cell_is_a_truncated_octahedron() -> None:
    a = 2.87
    faces, _ = voronoi_faces(*cubic(a, [[0, 0, 0], [0.5, 0.5, 0.5]]), BOX)
    own = faces.site == 0
    near = np.linalg.norm(faces.vector[own], axis=1) < 0.9 * a
    edge = a * np.sqrt(2) / 4
    np.testing.assert_allclose(np.sort(faces.area[own][near]), [1.5 * np.sqrt(3) * edge**2] * 8)
    np.testing.assert_allclose(np.sort(faces.area[own][~near])[-6:], [edge**2] * 6)
    assert set(faces.neighbour[own][near]) == {1} and 0 in faces.neighbour[own][~near]


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_cells_fill_space_and_their_faces_are_shared(seed: int, atoms: int) -> None:
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * 3.0 * atoms ** (1 / 3) + 0.3 * rng.normal(size=(3, 3))
    faces, reasons = voronoi_faces(cell, rng.random((atoms, 3)), BOX)
    assert not reasons
    np.testing.assert_allclose(np.bincount(faces.site, faces.solid_angle), 4 * np.pi, rtol=1e-9)
    half = np.linalg.norm(faces.vector, axis=1) / 2
    reach = voronoi.FIRST_CUTOFF / 2
    if half.max() < reach / 3:  # no vertex is beyond half the cutoff: the cells are those of the infinite crystal
        assert (faces.area * half / 3).sum() == pytest.approx(abs(np.linalg.det(cell)), rel=1e-9)
        both = np.zeros((atoms, atoms))
        np.add.at(both, (faces.site, faces.neighbour), faces.area)
        np.testing.assert_allclose(both, both.T, atol=1e-8)


def test_the_cutoff_grows_until_the_cell_is_closed() -> None:
    faces, reasons = voronoi_faces(*cubic(20.0, [[0, 0, 0]]), 20 * np.sqrt(3))
    real = faces.area > 1e-6
    assert not reasons
    np.testing.assert_allclose(faces.area[real], [400.0] * 6)


def test_a_cell_that_no_allowed_cutoff_closes_is_a_reason() -> None:
    _, reasons = voronoi_faces(*cubic(20.0, [[0, 0, 0]]), 8.0)
    assert reasons == {0: OPEN_CELL}


def test_sites_in_one_place_are_a_reason_and_the_others_have_faces() -> None:
    faces, reasons = voronoi_faces(*cubic(4.0, [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5 + 1e-8]]), BOX)
    assert reasons == {1: COINCIDENT, 2: COINCIDENT}
    assert set(faces.site) == {0}


def test_three_neighbours_are_too_few_for_a_face() -> None:
    sites = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 4]]) / 40.0
    _, reasons = voronoi_faces(np.eye(3) * 40.0, sites, BOX)
    assert set(reasons.values()) == {NO_FACE}


def test_neighbours_in_one_plane_do_not_close_a_cell() -> None:
    faces, reasons = voronoi_faces(np.diag([3.0, 3.0, 12.0]), np.zeros((1, 3)), BOX)
    assert not reasons  # the second search, with twice the radius, meets the next layers
    assert np.linalg.norm(faces.vector, axis=1).max() >= 12.0


def test_the_search_is_in_pieces_where_memory_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    cell, frac = np.eye(3) * 7.0, rng.random((20, 3))
    whole, _ = voronoi_faces(cell, frac, BOX)
    monkeypatch.setattr(voronoi, "_VECTORS_AT_ONCE", 1)
    pieces, _ = voronoi_faces(cell, frac, BOX)
    np.testing.assert_array_equal(whole.area, pieces.area)


def test_a_cell_that_too_many_neighbours_leave_open_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voronoi, "MOST_NEIGHBOURS", 4)
    _, reasons = voronoi_faces(np.diag([3.0, 3.0, 12.0]), np.zeros((1, 3)), BOX)
    assert reasons == {0: OPEN_CELL}
