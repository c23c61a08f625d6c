"""Points of orbits: the way to the positions and back for every group, the nearest positions, none of them twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, OrbitTemplate
from euhedral.crystal.crystal_family import onto_family
from euhedral.crystal.geometry import smallest_distance
from euhedral.crystal.lattice import cell_from_log_symmetric
from euhedral.crystal.orbits import expand
from euhedral.crystal.site_symmetry import site_symmetry_of
from euhedral.crystal.wyckoff import GROUPS, group_operations, wyckoff_positions
from euhedral.models.site_places import learned_points, place_orbits


def every_position(group: int, chance: np.random.Generator) -> tuple[AsymmetricUnit, np.ndarray]:
    """One orbit on each position of a group, and its conventional cell."""
    positions = wyckoff_positions(group)
    template = OrbitTemplate.primitive(group, "".join(positions))
    coordinates = np.stack([(one.maps[0] @ chance.random(3) + one.shifts[0]) % 1 for one in positions.values()])
    lattice = onto_family(torch.from_numpy(chance.normal(size=6) * 0.1)[None], torch.tensor([group]))
    lattice[0, 5] = 2.0
    atoms = torch.tensor([template.num_atoms / template.volume], dtype=torch.float64)
    cell = cell_from_log_symmetric(lattice, atoms)[0].numpy()
    species = np.arange(len(positions)) + 1
    unit = AsymmetricUnit(template=template, species=species, coordinates=coordinates, lattice=lattice[0].numpy())
    return unit, cell


def test_points_find_back_to_their_positions() -> None:
    chance = np.random.default_rng(0)
    for group in range(1, GROUPS + 1):
        unit, cell = every_position(group, chance)
        points = learned_points(unit)
        kinds = [site_symmetry_of(group)[letter] for letter in unit.template.letters]
        letters, places = place_orbits(group, kinds, (points + 1e-4 * chance.normal(size=points.shape)) % 1, cell)
        assert letters == unit.template.letters
        away = places - points
        assert np.abs(away - np.round(away)).max() < 1e-3


@pytest.mark.parametrize("group", [1, 62, 166, 194, 225])
def test_the_learned_point_is_of_the_orbit_and_the_same_whatever_point_is_given(group: int) -> None:
    chance = np.random.default_rng(group)
    unit, _ = every_position(group, chance)
    points = learned_points(unit)
    rotations, translations = group_operations(group)
    for letter, first, point in zip(unit.template.letters, unit.coordinates, points, strict=True):
        images = rotations @ first + translations
        away = images - point
        assert np.abs(away - np.round(away)).max(1).min() < 1e-9
        # Any other point of the orbit that lies at the first point of the position gives the same one.
        position = wyckoff_positions(group)[letter]
        off = images @ position.maps[0].T + position.shifts[0] - images
        for other in images[np.abs(off - np.round(off)).max(1) < 1e-6] % 1:
            alone = AsymmetricUnit(
                template=OrbitTemplate.primitive(group, letter),
                species=np.array([1]),
                coordinates=other[None],
                lattice=unit.lattice,
            )
            assert learned_points(alone)[0] == pytest.approx(point, abs=1e-9)


def test_the_nearest_position_is_taken_and_what_holds_one_orbit_once() -> None:
    cube = 4 * np.eye(3)
    centre = site_symmetry_of(221)["a"]
    points = np.array([[0.03, 0.98, 0.02], [0.1, 0.05, 0.02]])
    letters, places = place_orbits(221, [centre, centre], points, cube)
    # Both are nearest to a; the other one goes to b.
    assert letters == "ab"
    assert places.tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]
    # On the body's diagonal, the nearest point is the mean of the coordinates.
    _, places = place_orbits(221, [site_symmetry_of(221)["g"]], np.array([[0.2, 0.3, 0.1]]), cube)
    assert places[0] == pytest.approx([0.2, 0.2, 0.2])


def test_distances_are_those_of_the_crystal() -> None:
    """On hexagonal axes a point falls at a right angle on the plane x, 2x, z."""
    cell = np.array([[4.0, 0, 0], [-2, 2 * np.sqrt(3), 0], [0, 0, 6]])
    mirror = site_symmetry_of(194)["k"]
    point = np.array([0.2, 0.3, 0.1])
    _, places = place_orbits(194, [mirror], point[None], cell)
    assert places[0, 1] == pytest.approx(2 * places[0, 0])
    away = (places[0] - point) @ cell
    assert away @ (np.array([1.0, 2, 0]) @ cell) == pytest.approx(0)
    assert away @ (np.array([0.0, 0, 1]) @ cell) == pytest.approx(0)


def test_placed_orbits_are_crystals() -> None:
    letters, places = place_orbits(
        225, [site_symmetry_of(225)["a"]] * 2, np.array([[0.1, 0, 0], [0.4, 0.5, 0.6]]), 5.6 * np.eye(3)
    )
    unit = AsymmetricUnit(
        template=OrbitTemplate.primitive(225, letters),
        species=np.array([11, 17]),
        coordinates=places,
        lattice=np.array([0, 0, 0, 0, 0, np.log(5.6**3 / 8) / np.sqrt(3)]),
    )
    assert float(smallest_distance(expand([unit]))[0]) == pytest.approx(2.8)
