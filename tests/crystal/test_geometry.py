from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import (
    minimum_image_distances,
    minimum_image_vectors,
    minkowski_transform,
    niggli_reduce,
    pair_distances,
    primitive,
    smallest_distance,
    supercell,
    wrap,
    wrap_centered,
)
from euhedral.errors import CrystalError
from euhedral.testing.crystals import prototypes, random_crystals, rock_salt

numbers = st.floats(-1e6, 1e6)
MANY_IMAGES = torch.tensor(list(itertools.product(range(-8, 9), repeat=3)), dtype=torch.float64)


@st.composite
def skewed_cells(draw) -> Tensor:
    """A plain cell, sheared by whole numbers: the same lattice in a basis that may be long and flat."""
    diagonal = draw(st.tuples(*[st.floats(1, 6)] * 3))
    below = draw(st.tuples(*[st.floats(-3, 3)] * 3))
    cell = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    cell[1, 0], cell[2, 0], cell[2, 1] = below
    for i, j, times in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(-2, 2)), max_size=3)):
        if i != j:
            cell[i] += times * cell[j]
    return cell


@given(st.lists(numbers, min_size=1, max_size=5))
def test_wrapping(values: list[float]) -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(values, dtype=dtype)
        wrapped, centered = wrap(x), wrap_centered(x)
        assert ((wrapped >= 0) & (wrapped < 1)).all()
        assert ((centered >= -0.5) & (centered < 0.5)).all()
        for found in (wrapped, centered):
            off = (x.double() - found.double()) - (x.double() - found.double()).round()
            assert (off.abs() <= torch.finfo(dtype).eps * (1 + x.abs().double())).all()


def test_wrapping_just_below_a_whole_number() -> None:
    tiny = torch.tensor([-1e-30, -1e-17, 1 - 1e-17, 1.0, -0.0])
    assert torch.equal(wrap(tiny), torch.zeros(5))
    assert wrap_centered(torch.tensor([0.5, -0.5, 1.5])).tolist() == [-0.5] * 3
    # -0.5 - 2e-8 is just below -1/2 in float32, where adding 1/2 rounds to 0.
    assert -0.5 <= float(wrap_centered(torch.tensor(-0.50000006))) < 0.5


@given(skewed_cells(), st.tuples(*[st.floats(-3, 3)] * 6))
@settings(max_examples=150, deadline=None)
def test_minimum_image_against_an_exhaustive_search(cell: Tensor, numbers) -> None:
    frac_i, frac_j = torch.tensor(numbers, dtype=torch.float64).view(2, 3)
    # The exhaustive search runs over the reduced lattice, where eight cells out are far more than enough.
    transform, inverse = minkowski_transform(cell[None])
    reduced = transform[0] @ cell
    difference = wrap_centered((frac_j - frac_i) @ inverse[0])
    smallest = ((difference + MANY_IMAGES) @ reduced).norm(dim=1).min()
    found = minimum_image_distances(frac_i, frac_j, cell)
    torch.testing.assert_close(found, smallest, rtol=1e-7, atol=1e-7)
    vector = minimum_image_vectors(frac_i, frac_j, cell)
    whole = vector @ torch.linalg.inv(cell) - (frac_j - frac_i)
    torch.testing.assert_close(whole, whole.round(), atol=1e-6, rtol=0)


@given(skewed_cells())
@settings(max_examples=80, deadline=None)
def test_minkowski_reduction_keeps_the_lattice(cell: Tensor) -> None:
    transform, inverse = minkowski_transform(cell[None])
    assert torch.equal(transform, transform.round())
    assert torch.equal(transform[0] @ inverse[0], torch.eye(3, dtype=torch.float64))
    assert abs(float(torch.linalg.det(transform[0]))) == pytest.approx(1)
    lengths = (transform[0] @ cell).norm(dim=1)
    assert (lengths.diff() >= -1e-9).all()
    nonzero = MANY_IMAGES[MANY_IMAGES.abs().sum(1) > 0]
    shortest = (nonzero @ (transform[0] @ cell)).norm(dim=1).min()
    assert float(lengths[0]) == pytest.approx(float(shortest), rel=1e-9)


def test_minimum_image_of_what_is_no_cell_is_nan() -> None:
    flat = torch.zeros(3, 3, dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    assert minimum_image_distances(zero, zero + 0.5, flat).isnan()
    assert minimum_image_distances(zero, zero * float("nan"), torch.eye(3, dtype=torch.float64)).isnan()


def brute_smallest(crystal: CrystalBatch) -> float:
    cell, frac = crystal.cell[0].double(), crystal.frac.double()
    vectors = (frac[None] - frac[:, None])[:, :, None] + MANY_IMAGES[MANY_IMAGES.abs().amax(1) <= 3]
    distances = (vectors @ cell).norm(dim=-1)
    same = (torch.eye(len(frac), dtype=torch.bool)[..., None]) & (distances < 1e-9)
    return float(distances.masked_fill(same, 1e9).min())


def test_smallest_distance_with_own_images() -> None:
    crystals = random_crystals([1, 2, 5, 9], rng=torch.Generator().manual_seed(2), dtype=torch.float64)
    batch = CrystalBatch.concat([*prototypes(torch.float64).values(), crystals])
    torch.testing.assert_close(smallest_distance(batch).tolist(), [brute_smallest(c) for c in batch])
    assert float(smallest_distance(rock_salt())) == pytest.approx(2.82, abs=1e-5)
    # A one-atom cell: the nearest atom is its own image along the short vector.
    alone = CrystalBatch.from_crystals(
        [(torch.diag(torch.tensor([2.0, 5.0, 7.0])), torch.zeros(1, 3), torch.tensor([6]))]
    )
    assert float(smallest_distance(alone)) == 2.0


def test_smallest_distance_of_broken_crystals_is_nan_and_spares_the_others() -> None:
    good = rock_salt()
    nan = CrystalBatch.from_crystals([(torch.eye(3) * 4, torch.tensor([[0.0, 0, float("nan")]]), torch.tensor([6]))])
    flat = CrystalBatch.from_crystals([(torch.zeros(3, 3), torch.zeros(2, 3), torch.tensor([6, 6]))])
    found = smallest_distance(CrystalBatch.concat([nan, good, flat]))
    assert found.isnan().tolist() == [True, False, True]
    coincident = CrystalBatch.from_crystals([(torch.eye(3) * 4, torch.zeros(2, 3), torch.tensor([6, 6]))])
    assert float(smallest_distance(coincident)) == 0.0


def test_pair_distances_are_symmetric_and_do_not_see_the_basis() -> None:
    batch = random_crystals([7, 3], rng=torch.Generator().manual_seed(4), dtype=torch.float64)
    for matrix, count in zip(pair_distances(batch), (7, 3), strict=True):
        assert matrix.shape == (count, count)
        assert torch.equal(matrix, matrix.T) and not matrix.diagonal().any()
    sheared = supercell(batch, [[1, 0, 0], [3, 1, 0], [-2, 1, 1]])
    for matrix, other in zip(pair_distances(batch), pair_distances(sheared), strict=True):
        torch.testing.assert_close(matrix.flatten().sort()[0], other.flatten().sort()[0])


def spectrum(crystal: CrystalBatch, reach: float = 6.0) -> np.ndarray:
    """Distances from atoms to images within reach, sorted, per atom: the same for any cell of one crystal."""
    structure = crystal.to_pymatgen()[0]
    distances = structure.get_neighbor_list(reach)[3]
    return np.sort(distances)


def test_niggli_cells_agree_with_pymatgen() -> None:
    batch = random_crystals([4, 6, 2], rng=torch.Generator().manual_seed(8), dtype=torch.float64)
    batch = CrystalBatch.concat([batch, *prototypes(torch.float64).values()])
    sheared = supercell(batch, [[1, 2, 0], [0, 1, -1], [0, 0, 1]])
    reduced = niggli_reduce(sheared).validate()
    torch.testing.assert_close(reduced.volume, batch.volume)
    for before, after in zip(sheared, reduced, strict=True):
        expected = before.to_pymatgen()[0].lattice.get_niggli_reduced_lattice()
        metric = after.to_pymatgen()[0].lattice
        assert metric.abc == pytest.approx(expected.abc, abs=1e-4)
        assert sorted(metric.angles) == pytest.approx(sorted(expected.angles), abs=1e-3)
        np.testing.assert_allclose(spectrum(before), spectrum(after), atol=1e-6)


def test_primitive_finds_the_smallest_cell() -> None:
    batch = CrystalBatch.concat(list(prototypes(torch.float64).values()))
    doubled = supercell(batch, [2, 1, 3])
    small = primitive(doubled)
    expected = [primitive(c).num_atoms.item() for c in batch]
    assert small.num_atoms.tolist() == expected == [2, 2, 2, 5, 2, 2]
    torch.testing.assert_close(small.volume / small.num_atoms, batch.volume / batch.num_atoms)


@given(st.lists(st.integers(-2, 3), min_size=9, max_size=9))
@settings(max_examples=40, deadline=None)
def test_supercells_hold_whole_copies(entries: list[int]) -> None:
    matrix = np.array(entries).reshape(3, 3)
    volume = round(abs(np.linalg.det(matrix)))
    crystal = rock_salt(dtype=torch.float64)
    if volume == 0:
        with pytest.raises(CrystalError):
            supercell(crystal, matrix.tolist())
        return
    large = supercell(crystal, matrix.tolist()).validate()
    assert large.num_atoms.tolist() == [2 * volume]
    torch.testing.assert_close(large.volume, crystal.volume * volume)
    assert float(smallest_distance(large)) == pytest.approx(2.82, abs=1e-6)


def test_supercells_that_are_too_large_or_no_matrix() -> None:
    for bad in ([200, 200, 200], [1, 2], [[1, 0], [0, 1]]):
        with pytest.raises(CrystalError):
            supercell(rock_salt(), bad)
