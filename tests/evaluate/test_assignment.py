"""Displacements and assignments against all images and all permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from euhedral.evaluate.assignment import (
    IMAGES,
    Frames,
    assign,
    displacements,
    exchange_costs,
    other_assignment,
    values,
)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_assignment_is_the_best_of_all_permutations(size: int) -> None:
    squares = np.random.default_rng(size).random((40, size, size))
    every = np.arange(size)
    best = [min(itertools.permutations(every), key=lambda p: matrix[every, p].sum()) for matrix in squares]
    assert assign(squares).tolist() == [list(map(int, p)) for p in best]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_another_assignment_is_found_where_there_is_one(size: int) -> None:
    rng = np.random.default_rng(size)
    squares = rng.integers(0, 3, (200, size, size)).astype(float)
    every, orders = np.arange(size), list(itertools.permutations(range(size)))
    sums = np.array([[matrix[every, list(p)].sum() for p in orders] for matrix in squares])
    several = (sums == sums.min(1, keepdims=True)).sum(1) > 1
    found = other_assignment(squares, assign(squares), np.full(len(squares), 1e-8))
    assert not (found & ~several).any()
    # Sums can be equal by chance, with no two equal entries that a symmetry would give.
    assert found.sum() >= 0.95 * several.sum() > 0


def test_exchange_costs_are_zero_for_the_own_column() -> None:
    squares = np.array([[[3.0, 1.0], [2.0, 5.0]]])
    assert exchange_costs(squares, np.array([[1, 0]])).tolist() == [[[0, 2], [3, 0]]]


def test_displacements_are_the_shortest_over_all_images_and_orders() -> None:
    rng = np.random.default_rng(1)
    cell = np.array([[4.0, 0, 0], [1.5, 4.2, 0], [-1.2, 1.0, 5.0]])
    gram = np.tile(cell @ cell.T, (6, 1, 1))
    averages = Frames(
        transform=None,
        gram=gram,
        tolerance=np.full((6, 3), 0.5),
        normalization=np.ones(6),
        images=((IMAGES @ gram) * IMAGES).sum(2),
    )
    own, other = rng.random((2, 6, 4, 3))
    found, valid, tied = displacements(own, other, averages, ((3, 1), (8, 3)))
    assert valid.all() and not tied.any()
    images = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=3)))
    for c in range(6):
        vectors = (own[c][None] - other[c][:, None])[:, :, None] + images
        squares = ((vectors @ cell) ** 2).sum(-1).min(-1)
        sums = [
            squares[0, 0] + sum(squares[i + 1, p + 1] for i, p in enumerate(q))
            for q in itertools.permutations(range(3))
        ]
        assert ((found[c] @ cell) ** 2).sum() == pytest.approx(min(sums))
    off = found - found.mean(1, keepdims=True)
    lengths = np.linalg.norm(off @ cell, axis=2)
    assert values(found, valid, averages, rms=True) == pytest.approx(np.sqrt((lengths**2).mean(1)))
    assert values(found, valid, averages, rms=False) == pytest.approx(lengths.max(1))


def test_an_atom_without_a_partner_within_the_tolerance_makes_the_candidate_worthless() -> None:
    gram = 16 * np.eye(3)[None]
    averages = Frames(
        transform=None,
        gram=gram,
        tolerance=np.full((1, 3), 0.2),
        normalization=np.ones(1),
        images=((IMAGES @ gram) * IMAGES).sum(2),
    )
    own, other = np.zeros((1, 2, 3)), np.array([[[0, 0, 0], [0.3, 0, 0]]])
    found, valid, _ = displacements(own, other, averages, ((3, 1), (8, 1)))
    assert not valid[0]
    assert values(found, valid, averages, rms=True)[0] == np.inf
