from __future__ import annotations

import warnings

import numpy as np
import pytest

from euhedral.evaluate.crystal_nn import (
    coordination_probabilities,
    face_weights,
    fingerprint_labels,
    fingerprints_of_faces,
    site_fingerprints,
)
from euhedral.evaluate.voronoi import Faces, voronoi_faces


def box(neighbours: np.ndarray, areas: list[float], angles: list[float]) -> Faces:
    """Faces of site 0 towards atoms 1, 2, ..."""
    count = len(areas)
    return Faces(
        site=np.zeros(count, np.int64),
        neighbour=np.arange(1, count + 1),
        vector=neighbours,
        solid_angle=np.array(angles),
        area=np.array(areas),
    )


def test_labels_are_those_of_matminer() -> None:
    pytest.importorskip("matminer", reason="the extra `evaluate` is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

        assert list(fingerprint_labels()) == CrystalNNFingerprint.from_preset("ops").feature_labels()


def test_weights_by_hand() -> None:
    neighbours = np.array([[2.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]])
    species = np.array([11, 17, 11, 17])
    weights = face_weights(box(neighbours, [4.0, 4.0, 4.0], [2.0, 2.0, 1.0]), species)
    chemistry = 1 + 3 * np.sqrt((3.16 - 0.93) / 3.3)
    beyond = 3.0 - (1.66 + 1.02)
    assert beyond < 0.5
    np.testing.assert_allclose(weights, [1.0, 1 / chemistry, 0.25])


def test_distance_cuts_off_between_half_and_one_angstrom() -> None:
    radii = 1.66 + 1.66
    neighbours = np.array([[radii + extra, 0, 0] for extra in (0.4, 0.5, 0.75, 1.0, 2.0)])
    weights = face_weights(box(neighbours, [1.0] * 5, [1.0] * 5), np.full(6, 11))
    np.testing.assert_allclose(weights, [1, 1, 0.5, 0, 0], atol=1e-12)


def test_faces_without_extent_weigh_nothing() -> None:
    weights = face_weights(box(np.eye(3)[:2] * 2, [0.0, 1.0], [0.0, 1.0]), np.full(3, 11))
    np.testing.assert_allclose(weights, [0, 1])


def test_probabilities_are_parts_of_a_quarter_disc() -> None:
    weights = np.array([[1.0, 1.0, 0.5, 0.0], [0.6, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    probability = coordination_probabilities(weights)
    np.testing.assert_allclose(probability.sum(1), 1)
    half = (0.5 * np.sqrt(0.75) + np.arcsin(0.5)) / (np.pi / 2)
    np.testing.assert_allclose(probability[0], [0, 0, 1 - half, half, 0], atol=1e-12)
    assert probability[2].tolist() == [1, 0, 0, 0, 0]


def test_sites_without_faces_or_radii_keep_their_reasons() -> None:
    cell, frac = np.eye(3) * 4.0, np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    faces, _ = voronoi_faces(cell, frac, 10.0)
    found = fingerprints_of_faces(faces, np.array([99, 17]), {})
    assert found.reasons == {0: "no covalent radius for Es", 1: "no covalent radius for Es"}
    assert np.isnan(found.values).all() and np.isnan(found.coordination).all()


def test_a_failed_site_leaves_the_others() -> None:
    good = (np.eye(3) * 4.0, np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([55, 17]), 7.0)
    bad = (np.eye(3) * 4.0, np.array([[0.1, 0, 0], [0.1, 0, 0], [0.5, 0.5, 0.5]]), np.array([11, 17, 17]), 7.0)
    found = site_fingerprints([bad, good])
    assert set(found.reasons) == {0, 1}
    assert np.isnan(found.values[:2]).all() and np.isfinite(found.values[2:]).all()
    assert found.coordination[3:].tolist() == [8, 8]


def test_noble_gases_and_far_atoms_have_no_neighbours() -> None:
    crystals = [(np.eye(3) * a, np.zeros((1, 3)), np.array([z]), a * np.sqrt(3)) for a, z in ((4.0, 18), (15.0, 3))]
    found = site_fingerprints(crystals)
    assert not found.reasons and not found.values.any() and found.coordination.tolist() == [0, 0]
