"""Comparison of two crystals by the rules of pymatgen's StructureMatcher with its default options, several times faster.

Both crystals are reduced and scaled to one volume. Every basis of the first lattice whose lengths and angles are near
those of the second is a mapping M; with each, every atom of the rarest element in the first is laid on one such atom
of the second. Where all atoms then lie within 2 stol (V/N)^(1/3) of one of their element (distances measured normal to
the planes of the average lattice), the assignment of least square distance is found, the mean displacement d is
removed, and the value of the candidate is

    rms = [(1/N) sum_i |v_i - d|^2]^(1/2) / (V/N)^(1/3)        or, for `fit`,        max_i |v_i - d| / (V/N)^(1/3),

with v_i the shortest displacements in the average lattice. The crystals match if the least value is below stol. All
mappings and translations of a pair are evaluated together here, and a crystal is reduced once for all its comparisons.

Differences to pymatgen: of several candidates below 1e-5 the least is taken, not the first, and copies of one crystal
are decided before any search; two assignments of equal square distance can be told apart by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from euhedral.evaluate.niggli import lll_reduce
from euhedral.evaluate.reduction import ReducedCrystal

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from euhedral.evaluate.comparison import Tolerances

CHUNK = 200_000
"""Numbers in the largest temporary arrays; bounds memory and keeps them in the cache."""
GOOD_ENOUGH = 1e-5
"""A candidate with a value below this ends the search."""
FORBIDDEN = 1e20
"""Square distance of atoms that must not be assigned to each other."""

_PAIRS = ((1, 2), (0, 2), (0, 1))
_IMAGES = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(27, 3)


def distance(first: ReducedCrystal, second: ReducedCrystal, tolerances: Tolerances, *, rms: bool) -> float | None:
    """Least value over all mappings of `second` onto `first`, or None if the crystals do not match.

    Args:
        first: the crystal whose lattice is mapped.
        second: the crystal whose cell is the target.
        tolerances: of the matcher.
        rms: minimise the rms displacement, as `get_rms_dist` does; else the largest, and stop below stol, as `fit` does.

    Returns:
        The value in units of (V/N)^(1/3), below stol; None if there is none.
    """
    if first.content != second.content:
        return None
    same = _as_it_is(first, second, rms=rms)
    if same is not None and same < tolerances.stol:
        return same
    best = np.inf
    enough = GOOD_ENOUGH if rms else tolerances.stol
    for mappings in _mappings(first, second, tolerances):
        for candidates in _candidates(first, second, mappings, tolerances.stol):
            values = _values(candidates, first.content, tolerances.stol, rms=rms)
            best = min(best, float(values.min()))
            if best < enough and best < tolerances.stol:
                return best
    return best if best < tolerances.stol else None


def _as_it_is(first: ReducedCrystal, second: ReducedCrystal, *, rms: bool) -> float | None:
    """Value of the mapping that changes nothing, where it is small enough to end the search; None elsewhere.

    Copies of one crystal, as a set judged against itself holds, are decided here without any search.
    """
    scale = (second.volume / first.volume) ** (2 / 3)
    if np.abs(first.gram * scale - second.gram).max() > GOOD_ENOUGH * np.diag(second.gram).min():
        return None
    off = (first.frac - first.frac[first.anchor]) - (second.frac - second.frac[second.anchor])
    off -= np.rint(off)
    off -= off.mean(0)
    squares = ((off @ second.gram) * off).sum(1)
    value = float(np.sqrt(squares.mean() if rms else squares.max())) * (len(off) / second.volume) ** (1 / 3)
    return value if value < GOOD_ENOUGH else None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Mappings:
    """Bases of the first lattice near the second: `inverse` (K, 3, 3) maps coordinates, `gram` is of the average."""

    inverse: ndarray
    gram: ndarray
    normalization: ndarray
    tolerance: ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidates:
    """Mappings with translations: relative coordinates of both crystals, (C, N, 3) and (N, 3), on average lattices."""

    first: ndarray
    second: ndarray
    gram: ndarray
    normalization: ndarray


def _mappings(first: ReducedCrystal, second: ReducedCrystal, tolerances: Tolerances) -> Iterator[_Mappings]:
    """Mappings in chunks, so that a cell with a great many of them needs little memory."""
    scale = (second.volume / first.volume) ** (1 / 6)
    target = second.lengths / scale
    widest = 1 + tolerances.ltol
    points, lengths = first.lattice_points(target.max() * widest / scale)
    lengths = lengths * scale
    chosen = []
    for length in target:
        ratio = lengths / length
        chosen.append(np.flatnonzero((ratio < widest) & (ratio > 1 / widest)))
    if not all(len(c) for c in chosen):
        return
    vectors, sizes = [points[c] for c in chosen], [lengths[c] for c in chosen]
    cosines, allowed = [], []
    for (j, k), angle in zip(_PAIRS, second.angles, strict=True):
        cosine = (vectors[j] @ (first.gram * scale**2) @ vectors[k].T) / (sizes[j][:, None] * sizes[k])
        low, high = np.cos(
            np.radians([min(180.0, angle + tolerances.angle_tol), max(0.0, angle - tolerances.angle_tol)])
        )
        cosine = np.clip(cosine, -1, 1)
        cosines.append(cosine)
        allowed.append((cosine >= low) & (cosine <= high))
    step = max(1, CHUNK // allowed[0].size)
    for start in range(0, len(vectors[0]), step):
        part = slice(start, start + step)
        a, b, c = np.nonzero(allowed[2][part, :, None] & allowed[1][part, None, :] & allowed[0][None])
        a += start
        basis = np.stack([vectors[0][a], vectors[1][b], vectors[2][c]], axis=1)
        adjugate = _adjugate(basis)
        determinant = (basis[:, 0] * adjugate[:, :, 0]).sum(1)
        kept = np.abs(np.abs(determinant) - 1) < 0.5
        if not kept.any():
            continue
        a, b, c = a[kept], b[kept], c[kept]
        inverse = np.rint(adjugate[kept] * determinant[kept, None, None])
        own = np.stack([sizes[0][a], sizes[1][b], sizes[2][c]], axis=1)
        own_angles = np.arccos(np.stack([cosines[0][b, c], cosines[1][a, c], cosines[2][a, b]], axis=1))
        yield _average(inverse, (own + target) / 2, (own_angles + np.radians(second.angles)) / 2, first, tolerances)


def _average(
    inverse: ndarray, lengths: ndarray, angles: ndarray, first: ReducedCrystal, tolerances: Tolerances
) -> _Mappings:
    """The lattices with the mean lengths and angles, and how far apart atoms may be in their coordinates."""
    gram = lengths[:, :, None] * lengths[:, None, :]
    cosines = np.cos(angles)
    for (j, k), cosine in zip(_PAIRS, cosines.T, strict=True):
        gram[:, j, k] *= cosine
        gram[:, k, j] = gram[:, j, k]
    normalization, tolerance = _fractional_tolerance(gram, len(first.frac), tolerances.stol)
    return _Mappings(inverse=inverse, gram=gram, normalization=normalization, tolerance=tolerance)


def _fractional_tolerance(gram: ndarray, atoms: int, stol: float) -> tuple[ndarray, ndarray]:
    """(N/V)^(1/3), and 2 stol (V/N)^(1/3) over the distances of the lattice planes, (K, 3)."""
    adjugate = _adjugate(gram)
    determinant = (gram[:, 0] * adjugate[:, :, 0]).sum(1)
    normalization = (atoms / np.sqrt(determinant)) ** (1 / 3)
    spacing = np.sqrt(np.diagonal(adjugate, axis1=1, axis2=2) / determinant[:, None])
    return normalization, 2 * stol * spacing / normalization[:, None]


def _adjugate(matrices: ndarray) -> ndarray:
    """Adjugates (K, 3, 3): the inverse times the determinant."""
    a, b, c = matrices[:, 0], matrices[:, 1], matrices[:, 2]
    return np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=2)


def _cross(a: ndarray, b: ndarray) -> ndarray:
    turned, twice = [1, 2, 0], [2, 0, 1]
    return a[:, turned] * b[:, twice] - a[:, twice] * b[:, turned]


def _candidates(
    first: ReducedCrystal, second: ReducedCrystal, mappings: _Mappings, stol: float
) -> Iterator[_Candidates]:
    """Translations after which each atom of the second crystal has one of its element near it in the first."""
    atoms = len(second.frac)
    blocks = _blocks(first.content)
    anchors = next(block for block in blocks if block.start <= second.anchor < block.stop)
    blocks.sort(key=lambda block: block.stop - block.start)
    relative = second.frac - second.frac[second.anchor]
    width = anchors.stop - anchors.start
    step = max(1, CHUNK // (width * atoms * 3))
    pairs = sum((block.stop - block.start) ** 2 for block in blocks)
    for start in range(0, len(mappings.gram), step):
        part = slice(start, start + step)
        mapped = first.frac @ mappings.inverse[part]
        own = (mapped[:, None] - mapped[:, anchors][:, :, None]).reshape(-1, atoms, 3)
        which = np.repeat(np.arange(start, start + len(mapped)), width)
        for block in blocks:
            own, which = _near(own, which, relative, block, mappings.tolerance)
        bunch = max(1, CHUNK // (3 * pairs))
        for begin in range(0, len(own), bunch):
            some = which[begin : begin + bunch]
            yield _Candidates(
                first=own[begin : begin + bunch],
                second=relative,
                gram=mappings.gram[some],
                normalization=mappings.normalization[some],
            )


def _near(own: ndarray, which: ndarray, relative: ndarray, block: slice, tolerance: ndarray) -> tuple[ndarray, ndarray]:
    """Keep the candidates where each atom of a block has one near it; the atoms are looked at a few at a time."""
    start = block.start
    while start < block.stop and len(own):
        size = max(1, CHUNK // (4 * len(own) * (block.stop - block.start) * 3))
        end = min(block.stop, start + size)
        off = own[:, None, block] - relative[None, start:end, None]
        off -= np.rint(off)
        inside = np.all(np.abs(off, out=off) <= tolerance[which][:, None, None], axis=-1)
        near = np.all(np.any(inside, axis=2), axis=1)
        if not near.all():
            own, which = own[near], which[near]
        start = end
    return own, which


def _values(
    candidates: _Candidates, content: tuple[tuple[int, int], ...], stol: float, *, rms: bool
) -> Float[ndarray, " candidates"]:
    """Value of each candidate under its best assignment; infinite where an atom has no partner."""
    from scipy.optimize import linear_sum_assignment

    count, atoms = candidates.first.shape[:2]
    transform, gram = _lll(candidates.gram)
    _, tolerance = _fractional_tolerance(gram, atoms, stol)
    frame = np.linalg.cholesky(gram)
    squared_images = np.einsum("ka,cab,kb->ck", _IMAGES, gram, _IMAGES)
    chosen = np.empty((count, atoms, 3))
    valid = np.ones(count, dtype=bool)
    for block in _blocks(content):
        off = candidates.first[:, None, block] - candidates.second[None, block, None]
        size = off.shape[1]
        if transform is not None:
            off = off @ transform[:, None]
        off -= np.rint(off)
        inside = (np.abs(off) <= tolerance[:, None, None]).all(-1)
        owner, row, column = np.nonzero(inside)
        short, vectors = off[owner, row, column], np.zeros((count, size, size, 3))
        paths = _row_times(short, gram[owner])
        image = (2 * paths @ _IMAGES.T + squared_images[owner]).argmin(1)
        short = _row_times(short + _IMAGES[image], frame[owner])
        vectors[owner, row, column] = short
        squares = np.full((count, size, size), FORBIDDEN)
        squares[owner, row, column] = (short * short).sum(1)
        solution = squares.argmin(2)
        lone = squares.min(2).max(1) >= FORBIDDEN
        valid &= ~lone
        shared = (np.sort(solution, axis=1) != np.arange(size)).any(1) & valid
        for c in np.flatnonzero(shared):
            solution[c] = linear_sum_assignment(squares[c])[1]
            valid[c] = squares[c, np.arange(size), solution[c]].max() < FORBIDDEN
        chosen[:, block] = np.take_along_axis(vectors, solution[:, :, None, None], axis=2)[:, :, 0]
    chosen -= chosen.mean(1, keepdims=True)
    squares = (chosen * chosen).sum(2)
    values = np.sqrt(squares.mean(1) if rms else squares.max(1)) * candidates.normalization
    return np.where(valid, values, np.inf)


def _row_times(rows: ndarray, matrices: ndarray) -> ndarray:
    return (rows[:, None] @ matrices)[:, 0]


def _blocks(content: tuple[tuple[int, int], ...]) -> list[slice]:
    blocks, start = [], 0
    for _, count in content:
        blocks.append(slice(start, start + count))
        start += count
    return blocks


def _lll(gram: Float[ndarray, "candidates 3 3"]) -> tuple[ndarray | None, ndarray]:
    """LLL-reduced lattices: the matrices that take coordinates to them (None if all are reduced already), and grams.

    Average lattices are near Niggli cells, which most often satisfy the conditions of Lenstra, Lenstra and Lovász with
    delta = 3/4 as they are; equal ones among the others are reduced once.
    """
    m1 = gram[:, 0, 0]
    u21, u31 = gram[:, 0, 1] / m1, gram[:, 0, 2] / m1
    m2 = gram[:, 1, 1] - u21**2 * m1
    u32 = (gram[:, 1, 2] - u21 * u31 * m1) / m2
    m3 = gram[:, 2, 2] - u31**2 * m1 - u32**2 * m2
    small = np.maximum(np.maximum(abs(u21), abs(u31)), abs(u32)) <= 0.5 + 1e-9
    reduced = small & (m2 >= (0.75 - u21**2) * m1) & (m3 >= (0.75 - u32**2) * m2)
    if reduced.all():
        return None, gram
    transform = np.broadcast_to(np.eye(3), gram.shape).copy()
    gram = gram.copy()
    known: dict[bytes, tuple[ndarray, ndarray]] = {}
    rounded = np.round(gram, 9)
    for i in np.flatnonzero(~reduced):
        key = rounded[i].tobytes()
        if key not in known:
            mapping = np.array(lll_reduce(np.linalg.cholesky(gram[i]).tolist())[1])
            known[key] = (np.rint(np.linalg.inv(mapping)), mapping @ gram[i] @ mapping.T)
        transform[i], gram[i] = known[key]
    return transform, gram
