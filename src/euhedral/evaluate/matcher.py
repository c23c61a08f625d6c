"""Comparison of two crystals by the rules of pymatgen's StructureMatcher with its default options, several times faster.

Both crystals are reduced and scaled to one volume. Every basis of the first lattice whose lengths and angles are near
those of the second is a mapping M; with each, every atom of the rarest element in the first is laid on one such atom
of the second. Where all atoms then lie within 2 stol (V/N)^(1/3) of one of their element (distances measured normal to
the planes of the average lattice), the assignment of least square distance is found, the mean displacement d is
removed, and the value of the candidate is

    rms = [(1/N) sum_i |v_i - d|^2]^(1/2) / (V/N)^(1/3)        or, for `fit`,        max_i |v_i - d| / (V/N)^(1/3),

with v_i the shortest displacements in the average lattice. The crystals match if the least value is below stol. All
mappings and translations of a pair are evaluated together here, and a crystal is reduced once for all its comparisons.

Where an atom lies at half of a lattice vector from its partner, or assignments are equal by symmetry, d depends on
which of the equals is taken (`ties`). In pymatgen rounding takes one, so that its verdict on such a pair can change when
the origin of a crystal is moved: it finds Er3ScS6 of MP-20 (mp-1212825 and mp-1225623) to match with an rms of 0.394,
0.445 or 0.481, or not at all. Where that could change the outcome (1.6 % of the pairs of one formula in MP-20), pymatgen
is asked, from crystals that are reduced as it reduces them to the last bit.

Differences to pymatgen: of several candidates below 1e-5 the least is taken, not the first, and copies of one crystal
are decided before any search.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from euhedral.evaluate.assignment import IMAGES, TIE, Content, Frames, blocks, displacements, in_frames, values
from euhedral.evaluate.niggli import lll_reduce
from euhedral.evaluate.reduction import ReducedCrystal
from euhedral.evaluate.ties import Choices, find_choices

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from euhedral.evaluate.comparison import Tolerances

CHUNK = 200_000
"""Numbers in the largest temporary arrays; bounds memory and keeps them in the cache."""
GOOD_ENOUGH = 1e-5
"""A candidate with a value below this ends the search."""

_PAIRS = ((1, 2), (0, 2), (0, 1))
_MINORS = np.array(
    [[3 * ((j + r) % 3) + (i + s) % 3 for i in range(3) for j in range(3)] for r, s in ((1, 1), (2, 2), (1, 2), (2, 1))]
)
"""Positions, in a matrix of nine numbers, of the factors of the minors that make up the adjugate."""


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
    best, choices = np.inf, []
    enough = GOOD_ENOUGH if rms else tolerances.stol
    for mappings in _mappings(first, second, tolerances):
        frames = _frames(mappings, len(first.frac), tolerances.stol)
        for own, other, which in _candidates(first, second, mappings):
            averages = frames[which]
            own, other = in_frames(own, other, averages)
            found, valid, tied = displacements(own, other, averages, first.content)
            value = values(found, valid, averages, rms=rms)
            open_ones = find_choices(own, other, found, tied, averages, value)
            if open_ones is not None:
                value[open_ones[0]] = np.inf
                choices.append(open_ones[1])
            best = min(best, float(value.min()))
            if best < enough and best < tolerances.stol:
                return best
    for several in choices:
        decided = _best_choice(several, first.content, best, tolerances.stol, rms=rms)
        if decided is None:
            return _by_pymatgen(first, second, tolerances, rms=rms)
        best = decided
    return best if best < tolerances.stol else None


def _best_choice(choices: Choices, content: Content, best: float, stol: float, *, rms: bool) -> float | None:
    """The least value including those of candidates with a choice that does not matter; None if one matters."""
    for c in np.argsort(choices.lower).tolist():
        limit = min(best, stol) - TIE
        if choices.lower[c] >= limit:
            break
        least, largest = choices.spread(c, content)
        if least >= limit:
            continue
        if not rms or largest - least > TIE:
            return None
        best = min(best, float(choices.values[c]))
    return best


def _by_pymatgen(first: ReducedCrystal, second: ReducedCrystal, tolerances: Tolerances, *, rms: bool) -> float | None:
    """The value that pymatgen finds, for pairs in which it depends on rounding.

    The reduction is not repeated: pymatgen's public functions would, at several times the cost of the rest.
    """
    from pymatgen.core.structure_matcher import StructureMatcher

    matcher = StructureMatcher(stol=tolerances.stol, ltol=tolerances.ltol, angle_tol=tolerances.angle_tol)
    structures = matcher._preprocess(first.to_pymatgen(), second.to_pymatgen(), skip_structure_reduction=True)
    match = matcher._match(*structures, use_rms=rms, break_on_match=not rms)
    return None if match is None else float(match[0])


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


def _mappings(first: ReducedCrystal, second: ReducedCrystal, tolerances: Tolerances) -> Iterator[_Mappings]:
    """Mappings in chunks, so that a cell with a great many of them needs little memory."""
    scale = (second.volume / first.volume) ** (1 / 6)
    target = second.lengths / scale
    widest = 1 + tolerances.ltol
    points, lengths = first.lattice_points(target.max() * widest / scale)
    lengths = lengths * scale
    ratios = lengths / target[:, None]
    near = (ratios < widest) & (ratios > 1 / widest)
    if not near.any(1).all():
        return
    vectors, sizes = [points[row] for row in near], [lengths[row] for row in near]
    metric = first.gram * scale**2
    cosines, allowed = [], []
    for (j, k), angle in zip(_PAIRS, second.angles.tolist(), strict=True):
        cosine = (vectors[j] @ metric @ vectors[k].T) / (sizes[j][:, None] * sizes[k])
        low, high = _cosines(angle, tolerances.angle_tol)
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
        own_angles = np.arccos(np.clip(np.stack([cosines[0][b, c], cosines[1][a, c], cosines[2][a, b]], axis=1), -1, 1))
        yield _average(inverse, (own + target) / 2, (own_angles + np.radians(second.angles)) / 2, first, tolerances)


def _cosines(angle: float, tolerance: float) -> tuple[float, float]:
    """Bounds of the cosine of an angle that may differ by a tolerance, both in degrees."""
    low = math.cos(math.radians(angle + tolerance)) if angle + tolerance < 180 else -math.inf
    return low, math.cos(math.radians(angle - tolerance)) if angle > tolerance else math.inf


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
    flat = matrices.reshape(-1, 9)
    minors = flat[:, _MINORS[0]] * flat[:, _MINORS[1]] - flat[:, _MINORS[2]] * flat[:, _MINORS[3]]
    return minors.reshape(-1, 3, 3)


def _candidates(
    first: ReducedCrystal, second: ReducedCrystal, mappings: _Mappings
) -> Iterator[tuple[ndarray, ndarray, ndarray]]:
    """Translations after which each atom of the second crystal has one of its element near it in the first.

    Yields:
        Coordinates of the first crystal (C, N, 3) and of the second (N, 3) relative to the atoms laid on each other,
        and the mapping of each candidate (C,).
    """
    atoms = len(second.frac)
    parts = blocks(first.content)
    anchors = next(block for block in parts if block.start <= second.anchor < block.stop)
    relative = second.frac - second.frac[second.anchor]
    width = anchors.stop - anchors.start
    step = max(1, CHUNK // (width * atoms * 3))
    pairs = sum((block.stop - block.start) ** 2 for block in parts)
    for start in range(0, len(mappings.gram), step):
        part = slice(start, start + step)
        mapped = first.frac @ mappings.inverse[part]
        own = (mapped[:, None] - mapped[:, anchors][:, :, None]).reshape(-1, atoms, 3)
        which = np.repeat(np.arange(start, start + len(mapped)), width)
        narrow = mappings.tolerance[part].min() < 0.5  # else no atom is ever too far
        for block in parts if narrow else ():
            own, which = _near(own, which, relative, block, mappings.tolerance)
        bunch = max(1, CHUNK // (len(IMAGES) * pairs))
        for begin in range(0, len(own), bunch):
            yield own[begin : begin + bunch], relative, which[begin : begin + bunch]


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


def _frames(mappings: _Mappings, atoms: int, stol: float) -> Frames:
    transform, gram = _lll(mappings.gram)
    tolerance = mappings.tolerance if transform is None else _fractional_tolerance(gram, atoms, stol)[1]
    return Frames(
        transform=transform,
        gram=gram,
        tolerance=tolerance,
        normalization=mappings.normalization,
        images=((IMAGES @ gram) * IMAGES).sum(2),
    )


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
    mapping = np.broadcast_to(np.eye(3), gram.shape).copy()
    known: dict[bytes, list[list[float]]] = {}
    rounded = np.round(gram, 9)
    frames = np.linalg.cholesky(gram)
    for i in np.flatnonzero(~reduced):
        key = rounded[i].tobytes()
        if key not in known:
            known[key] = lll_reduce(frames[i].tolist())[1]
        mapping[i] = known[key]
    adjugate = _adjugate(mapping)
    determinant = (mapping[:, 0] * adjugate[:, :, 0]).sum(1)
    return adjugate * determinant[:, None, None], mapping @ gram @ mapping.transpose(0, 2, 1)
