"""Choices among equals against all choices, and pairs in which they decide the verdict of pymatgen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from euhedral.evaluate.assignment import IMAGES, Frames, displacements, values
from euhedral.evaluate.ties import Choices, find_choices

ALL_IMAGES = np.array(list(itertools.product((-2, -1, 0, 1, 2), repeat=3)), dtype=float)


def frames(cell: np.ndarray, atoms: int, count: int = 1) -> Frames:
    gram = np.tile(cell @ cell.T, (count, 1, 1))
    return Frames(
        transform=None,
        gram=gram,
        tolerance=np.full((count, 3), 0.6),
        normalization=np.full(count, (atoms / abs(np.linalg.det(cell))) ** (1 / 3)),
        images=((IMAGES @ gram) * IMAGES).sum(2),
    )


def all_values(cell: np.ndarray, own: np.ndarray, other: np.ndarray) -> list[float]:
    """Normalised rms by every choice of images and of an assignment that makes the sum of squares least."""
    atoms, options = len(own), {}
    for i, j in itertools.product(range(atoms), repeat=2):
        vectors = (own[j] - other[i] + ALL_IMAGES) @ cell
        squares = (vectors**2).sum(1)
        options[i, j] = squares.min(), vectors[squares < squares.min() + 1e-7]
    orders = list(itertools.permutations(range(atoms)))
    sums = [sum(options[i, j][0] for i, j in enumerate(order)) for order in orders]
    found = []
    for order, total in zip(orders, sums, strict=True):
        if total < min(sums) + 1e-7:
            for choice in itertools.product(*(options[i, j][1] for i, j in enumerate(order))):
                off = np.array(choice) - np.mean(choice, axis=0)
                found.append(np.sqrt((off**2).sum() / atoms) * (atoms / abs(np.linalg.det(cell))) ** (1 / 3))
    return found


def choices_of(cell: np.ndarray, own: np.ndarray, other: np.ndarray) -> Choices | None:
    content, average = ((6, len(own)),), frames(cell, len(own))
    found, valid, tied = displacements(own[None], other[None], average, content)
    chosen = find_choices(own[None], other[None], found, tied, average, values(found, valid, average, rms=True))
    return None if chosen is None else chosen[1]


CELLS = {
    "cubic": 4 * np.eye(3),
    "long": np.diag([3.0, 4.0, 9.0]),
    "skew": np.array([[4, 0, 0], [1, 5, 0], [0, 1, 6.0]]),
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("seed", range(8))
def test_the_spread_is_that_of_all_choices(cell: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    own, other = rng.integers(0, 4, (2, 4, 3)) / 4  # on a grid, where ties abound
    own[0] = other[0] = 0
    expected = all_values(cell, own, other)
    choices = choices_of(cell, own, other)
    if choices is None:
        assert np.ptp(expected) < 1e-6
        return
    least, largest = choices.spread(0, ((6, 4),))
    assert (least, largest) == pytest.approx((min(expected), max(expected)), abs=1e-6)
    assert choices.lower[0] <= least + 1e-6
    assert least - 1e-6 <= choices.values[0] <= largest + 1e-6


def test_generic_crystals_have_no_choice() -> None:
    rng = np.random.default_rng(4)
    own, other = rng.random((2, 5, 3))
    assert choices_of(CELLS["skew"], own, other) is None


def test_an_atom_at_half_of_an_edge_has_a_choice_that_changes_nothing_if_it_is_the_only_one_that_moves() -> None:
    other = np.array([[0, 0, 0], [0.25, 0.25, 0.25]])
    own = other + np.array([[0, 0, 0], [0, 0.5, 0]])
    choices = choices_of(CELLS["long"], own, other)
    assert choices is not None
    least, largest = choices.spread(0, ((6, 2),))
    assert least == pytest.approx(largest) == pytest.approx(1.0 * (2 / 108) ** (1 / 3))


def test_too_many_choices_are_told_as_any_value(monkeypatch: pytest.MonkeyPatch) -> None:
    from euhedral.evaluate import ties

    monkeypatch.setattr(ties, "MOST_SUMS", 1)
    other = np.array([[0, 0, 0], [0.25, 0.25, 0.25]])
    choices = choices_of(CELLS["long"], other + np.array([[0, 0, 0], [0, 0.5, 0]]), other)
    assert choices is not None
    assert choices.spread(0, ((6, 2),)) == (0, np.inf)
