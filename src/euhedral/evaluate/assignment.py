"""Shortest displacements between the atoms of two crystals on their average lattice, under the best assignment.

Many candidates (a mapping of the lattices and a translation each) are evaluated together. The average lattices are
LLL-reduced, so that the shortest displacement has an image in the 27 cells around the nearest one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

TIE = 1e-8
"""Relative difference of square distances that rounding may turn around, and of values that do not differ."""
FORBIDDEN = 1e20
"""Square distance of atoms that must not be assigned to each other."""

Content = tuple[tuple[int, int], ...]
"""(Atomic number, count) of each block of atoms of one element."""

IMAGES = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(27, 3)[:13]
"""Half of the neighbouring cells; the other half are their negatives."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """LLL-reduced average lattices of some mappings.

    Attributes:
        transform: takes coordinates to these lattices, (K, 3, 3); None if all were reduced already.
        gram: metric tensors, (K, 3, 3).
        tolerance: how far apart atoms may be in each coordinate, (K, 3).
        normalization: (N/V)^(1/3), (K,).
        images: square lengths of `IMAGES`, (K, 13).
    """

    transform: ndarray | None
    gram: ndarray
    tolerance: ndarray
    normalization: ndarray
    images: ndarray

    def __getitem__(self, chosen: ndarray) -> Frames:
        transform = None if self.transform is None else self.transform[chosen]
        rest = (self.gram, self.tolerance, self.normalization, self.images)
        gram, tolerance, normalization, images = (array[chosen] for array in rest)
        return Frames(transform=transform, gram=gram, tolerance=tolerance, normalization=normalization, images=images)


def in_frames(own: ndarray, other: ndarray, frames: Frames) -> tuple[ndarray, ndarray]:
    """Relative coordinates of both crystals on the reduced average lattices, (C, N, 3) each."""
    if frames.transform is None:
        return own, np.broadcast_to(other, own.shape)
    return own @ frames.transform, other @ frames.transform


def displacements(own: ndarray, other: ndarray, frames: Frames, content: Content) -> tuple[ndarray, ndarray, ndarray]:
    """Shortest displacements under the best assignment, in coordinates.

    Returns:
        Displacements (C, N, 3), whether every atom has a partner (C,), and of which elements another assignment is as
        good (C, elements).
    """
    rows, columns = _pairs_of_atoms(content)
    off, squares = pair_squares(own[:, columns] - other[:, rows], frames)
    picks = np.empty(own.shape[:2], dtype=np.int64)
    tied = np.zeros((len(own), len(content)), dtype=bool)
    tie = TIE * frames.images.max(1)
    start = 0
    for element, block in enumerate(blocks(content)):
        size = block.stop - block.start
        part = squares[:, start : start + size * size].reshape(-1, size, size)
        solution = assign(part)
        picks[:, block] = start + size * np.arange(size) + solution
        if size > 1:
            tied[:, element] = other_assignment(part, solution, tie)
        start += size * size
    every = np.arange(len(own))[:, None]
    found, valid = off[every, picks], squares[every, picks].max(1) < FORBIDDEN
    # The images were minimised over for all pairs, and are asked for again here for the assigned ones.
    found -= shifts(found, frames)[0]
    return found, valid, tied


@functools.lru_cache(maxsize=256)
def _pairs_of_atoms(content: Content) -> tuple[ndarray, ndarray]:
    """Atoms of the second and of the first crystal in all pairs of one element, block after block and row after row."""
    indices = [np.indices((block.stop - block.start,) * 2).reshape(2, -1) + block.start for block in blocks(content)]
    rows, columns = np.concatenate(indices, axis=1)
    return rows, columns


def pair_squares(off: ndarray, frames: Frames) -> tuple[ndarray, ndarray]:
    """Differences of coordinates (C, P, 3) in the nearest cell, and their least square lengths over all images."""
    off = off - np.rint(off)
    paths = off @ frames.gram
    squares = (paths * off).sum(2)
    squares += np.minimum((frames.images[:, None] - 2 * np.abs(paths @ IMAGES.T)).min(2), 0)
    if frames.tolerance.min() < 0.5:
        squares[(np.abs(off) > frames.tolerance[:, None]).any(2)] = FORBIDDEN
    return off, squares


def shifts(off: ndarray, frames: Frames) -> tuple[ndarray, ndarray]:
    """What makes differences (C, n, 3) shortest when it is subtracted, and twice their products with `IMAGES`."""
    along = 2 * (off @ frames.gram) @ IMAGES.T
    gain = np.abs(along) - frames.images[:, None]
    shifted = np.zeros_like(off)
    c, n = (gain.max(2) > 0).nonzero()
    best = gain[c, n].argmax(1)
    shifted[c, n] = np.sign(along[c, n, best])[:, None] * IMAGES[best]
    return shifted, along


def assign(squares: Float[ndarray, "candidates atoms atoms"]) -> ndarray:
    """The column of each row in the assignment of least sum."""
    from scipy.optimize import linear_sum_assignment

    size = squares.shape[1]
    if size == 1:
        return np.zeros((len(squares), 1), dtype=np.int64)
    if size == 2:
        crossed = squares[:, 0, 1] + squares[:, 1, 0] < squares[:, 0, 0] + squares[:, 1, 1]
        return np.stack([crossed, ~crossed], axis=1).astype(np.int64)
    solution = squares.argmin(2)
    taken = np.zeros(solution.shape, dtype=bool)
    taken[np.arange(len(solution))[:, None], solution] = True
    for c in np.flatnonzero(~taken.all(1)):
        solution[c] = linear_sum_assignment(squares[c])[1]
    return solution


def exchange_costs(squares: ndarray, solution: ndarray) -> ndarray:
    """How much larger the square of row i becomes with the column of row k, (C, n, n)."""
    partner = squares[np.arange(len(squares))[:, None, None], np.arange(squares.shape[1])[:, None], solution[:, None]]
    return partner - np.diagonal(partner, axis1=1, axis2=2)[:, :, None]


def other_assignment(squares: ndarray, solution: ndarray, tie: ndarray) -> ndarray:
    """Whether a cycle of exchanges leaves the sum of squares as it is, by Floyd's algorithm where a first look says so.

    Assignments that are equal by the symmetry of the crystals have equal entries, in a row or in a column.
    """
    size, slack = squares.shape[1], tie[:, None, None]
    if size == 2:
        crossed = squares[:, 0, 1] + squares[:, 1, 0] - squares[:, 0, 0] - squares[:, 1, 1]
        return np.abs(crossed) <= tie
    cost = exchange_costs(squares, solution)
    chosen = squares[np.arange(len(squares))[:, None], np.arange(size), solution]
    columns = cost + (chosen[:, :, None] - chosen[:, None])
    equal = np.count_nonzero(np.abs(cost) <= slack, axis=(1, 2))
    equal += np.count_nonzero(np.abs(columns) <= slack, axis=(1, 2))
    tied = equal > 2 * size
    (looked,) = tied.nonzero()
    if len(looked):
        cost = cost[looked]
        cost[:, np.arange(size), np.arange(size)] = np.inf
        for k in range(size):
            cost = np.minimum(cost, cost[:, :, k, None] + cost[:, None, k])
        tied[looked] = (np.diagonal(cost, axis1=1, axis2=2) <= slack[looked, 0]).any(1)
    return tied


def values(found: ndarray, valid: ndarray, frames: Frames, *, rms: bool) -> Float[ndarray, " candidates"]:
    """Value of each candidate; infinite where an atom has no partner."""
    found = found - found.mean(1, keepdims=True)
    squares = ((found @ frames.gram) * found).sum(2)
    values = np.sqrt(squares.mean(1) if rms else squares.max(1)) * frames.normalization
    return np.where(valid, values, np.inf)


def blocks(content: Content) -> list[slice]:
    """Positions of the atoms of each element."""
    parts, start = [], 0
    for _, count in content:
        parts.append(slice(start, start + count))
        start += count
    return parts
