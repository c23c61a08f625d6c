"""Candidates of a comparison whose value depends on a choice among equals, which rounding makes in pymatgen.

An atom at half of a lattice vector from its partner has two shortest displacements, and by symmetry several
assignments can have one sum of square distances. All choices have the same sum of squares S; their sums of
displacements D differ by lattice vectors, so that rms^2 = S/N - |D|^2/N^2 (before it is divided by (V/N)^(2/3)) depends
on which is taken. What a choice could change is found here, so that most pairs can be decided all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from euhedral.evaluate.assignment import (
    IMAGES,
    TIE,
    Content,
    Frames,
    assign,
    blocks,
    exchange_costs,
    pair_squares,
    shifts,
)

if TYPE_CHECKING:
    from collections.abc import Set

    from jaxtyping import Bool, Float
    from numpy import ndarray

MOST_SUMS = 2000
"""Different sums of displacements that are followed; where there are more, any value is taken to be possible."""

Step = tuple[int, int, int]
_NONE: Step = (0, 0, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """Candidates with several equally good choices, one of those that symmetry makes alike.

    Attributes:
        own, other: relative coordinates of both crystals, (C, N, 3).
        found: displacements by one of the choices, (C, N, 3).
        tied: of which elements another assignment is as good, (C, elements).
        frames: their average lattices.
        values: their values by this choice, (C,).
        lower: lower bound of the rms over all choices, (C,).
    """

    own: Float[ndarray, "candidates atoms 3"]
    other: Float[ndarray, "candidates atoms 3"]
    found: Float[ndarray, "candidates atoms 3"]
    tied: Bool[ndarray, "candidates elements"]
    frames: Frames
    values: Float[ndarray, " candidates"]
    lower: Float[ndarray, " candidates"]

    def spread(self, c: int, content: Content) -> tuple[float, float]:
        """Least and largest rms of candidate c over all choices."""
        frame = self.frames[np.array([c])]
        gram, atoms = frame.gram[0], self.found.shape[1]
        own, other, found = self.own[c], self.other[c], self.found[c]
        several = _several(found[None], frame)[0]
        steps, fixed = {_NONE}, found.sum(0)
        for block, tied in zip(blocks(content), self.tied[c].tolist(), strict=True):
            if not tied and not several[block].any():
                continue
            raw = own[None, block] - other[block, None]
            fixed += np.trace(raw) - found[block].sum(0)
            steps = _added(steps, _steps(raw, frame))
            if not steps or len(steps) > MOST_SUMS:
                return 0.0, np.inf
        sums = fixed - np.array(list(steps), dtype=float)
        lengths = ((sums @ gram) * sums).sum(1)
        square = ((found @ gram) * found).sum() / atoms
        low, high = (max(0.0, square - float(x) / atoms**2) for x in (lengths.max(), lengths.min()))
        norm = float(frame.normalization[0])
        return norm * low**0.5, norm * high**0.5


def find_choices(
    own: ndarray, other: ndarray, found: ndarray, tied: ndarray, frames: Frames, values: ndarray
) -> tuple[ndarray, Choices] | None:
    """Positions of the candidates with a choice, and those that differ; None if there are none.

    Args:
        own, other: relative coordinates.
        found: displacements.
        tied: of which elements another assignment is as good.
        frames: average lattices.
        values: of the candidates; those with an infinite one have no choice that counts.
    """
    squares = ((found @ frames.gram) * found).sum(2)
    open_ones = np.any(tied, axis=1)
    (far,) = (squares.max(1) >= (0.25 - TIE) * frames.images.min(1)).nonzero()  # half a lattice vector is longer else
    if len(far):
        open_ones[far] |= _several(found[far], frames[far]).any(1)
    (chosen,) = (open_ones & np.isfinite(values)).nonzero()
    if not len(chosen):
        return None
    lengths = np.sqrt(np.sort(squares[chosen], axis=1))
    _, different = np.unique(np.round(np.column_stack([lengths, values[chosen]]), 6), axis=0, return_index=True)
    kept, lengths = chosen[different], lengths[different]
    # |D| is at most the sum of the lengths, which are the same in all choices that a symmetry exchanges.
    variance = (lengths**2).mean(1) - lengths.mean(1) ** 2
    return chosen, Choices(
        own=own[kept],
        other=other[kept],
        found=found[kept],
        tied=tied[kept],
        frames=frames[kept],
        values=values[kept],
        lower=np.sqrt(np.maximum(variance, 0)) * frames.normalization[kept],
    )


def _several(found: ndarray, frames: Frames) -> ndarray:
    """Which displacements have another one of their length."""
    gap = np.abs(2 * (found @ frames.gram) @ IMAGES.T)
    gap -= frames.images[:, None]
    return (np.abs(gap) <= TIE * frames.images.max(1)[:, None, None]).any(2)


def _steps(raw: ndarray, frame: Frames) -> set[Step]:
    """Sums of the lattice vectors that make displacements shortest, over all best assignments of one element."""
    size, tie = len(raw), TIE * frame.images.max()
    off, squares = pair_squares(raw.reshape(1, -1, 3), frame)
    off, squares = off.reshape(size, size, 3), squares.reshape(1, size, size)
    solution = assign(squares)
    cost = exchange_costs(squares, solution)[0]
    closed = cost.copy()
    for k in range(size):
        closed = np.minimum(closed, closed[:, k, None] + closed[None, k])
    # An exchange that some closed cycle of exchanges undoes at no cost is part of another best assignment.
    allowed = cost + closed.T <= tie
    allowed[np.arange(size), np.arange(size)] = True
    rows, partners = allowed.nonzero()
    columns = solution[0][partners]
    pairs = off[rows, columns][None]
    moved, along = shifts(pairs, frame)
    steps = np.rint(raw[rows, columns] - pairs[0] + moved[0])
    level = np.abs(np.abs(along[0]) - frame.images) <= tie
    options: list[dict[int, set[Step]]] = [{} for _ in range(size)]
    for n, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        several = [steps[n], *(steps[n] + np.sign(along[0, n, k]) * IMAGES[k] for k in np.flatnonzero(level[n]))]
        options[row][column] = {_step(step) for step in several}
    return _over_assignments(options)


def _over_assignments(options: list[dict[int, set[Step]]]) -> set[Step]:
    """Sums over all ways to give each row a column of its own; empty if there are too many."""
    states: dict[int, set[Step]] = {0: {_NONE}}
    for row in options:
        following: dict[int, set[Step]] = {}
        for taken, sums in states.items():
            for column, steps in row.items():
                if not taken >> column & 1:
                    following.setdefault(taken | 1 << column, set()).update(_added(sums, steps))
        states = following
        if sum(map(len, states.values())) > MOST_SUMS:
            return set()
    return states.get((1 << len(options)) - 1, set())


def _added(sums: Set[Step], steps: Set[Step]) -> set[Step]:
    return {(a + x, b + y, c + z) for a, b, c in sums for x, y, z in steps}


def _step(numbers: ndarray) -> Step:
    a, b, c = numbers.tolist()
    return int(a), int(b), int(c)
