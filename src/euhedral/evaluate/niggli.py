"""Niggli cell of a lattice, with the tolerances and the choice among equivalent bases that pymatgen makes.

The basis is first reduced by Lenstra, Lenstra and Lovász (Math. Ann. 261, 515 (1982), delta = 3/4), then by the steps
A1 to A8 of Grosse-Kunstleve, Sauter and Adams (Acta Cryst. A60, 1 (2004)) on its metric tensor. The Niggli basis is the
first one, in the order of pymatgen's list of lattice points, whose lengths agree with those of the reduced metric
within a relative 1e-5 V^(1/3) and whose angles do within 1 degree. Plain floats are several times faster here than
arrays of nine numbers.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from numpy import ndarray

TOLERANCE = 1e-5
"""Tolerance of the reduction, times V^(1/3)."""
MOST_STEPS = 100
ANGLE_TOLERANCE = 1.0
"""Degrees by which the angles of the basis may differ from those of the reduced metric."""
DELTA = 0.75

Rows = list[list[float]]


def lll_reduce(rows: Sequence[Sequence[float]]) -> tuple[Rows, Rows]:
    """LLL-reduced basis, and the integer matrix that gives it from the original one; both as rows."""
    basis = [list(row) for row in rows]
    mapping: Rows = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    u, norms = _gram_schmidt(basis)
    k = 1
    while k < 3:
        for i in range(k - 1, -1, -1):
            q = round(u[k][i])
            if q:
                for matrix in (basis, mapping):
                    matrix[k] = [x - q * y for x, y in zip(matrix[k], matrix[i], strict=True)]
                for j in range(i):
                    u[k][j] -= q * u[i][j]
                u[k][i] -= q
        if norms[k] >= (DELTA - u[k][k - 1] ** 2) * norms[k - 1]:
            k += 1
            continue
        for matrix in (basis, mapping):
            matrix[k], matrix[k - 1] = matrix[k - 1], matrix[k]
        u, norms = _gram_schmidt(basis)
        k = max(k - 1, 1)
    return basis, mapping


def niggli_matrix(matrix: Float[ndarray, "3 3"]) -> Float[ndarray, "3 3"]:
    """Vectors of the Niggli cell as rows, right-handed.

    Raises:
        ValueError: if no basis of the lattice has the reduced metric, as happens for degenerate cells.
    """
    volume = determinant(matrix.tolist())
    tolerance = TOLERANCE * abs(volume) ** (1 / 3)
    reduced, mapping = lll_reduce(matrix.tolist())
    basis = np.array(reduced)
    gram = _reduce_metric(basis @ basis.T, tolerance)
    lengths = [math.sqrt(gram[i][i]) for i in range(3)]
    cosines = [gram[j][k] / (lengths[j] * lengths[k]) for j, k in ((1, 2), (0, 2), (0, 1))]
    angles = [math.degrees(math.acos(c)) for c in cosines]
    found = _first_basis(matrix, reduced, mapping, lengths, angles, tolerance)
    return found if volume > 0 else -found


def _gram_schmidt(basis: Rows) -> tuple[Rows, list[float]]:
    (a0, a1, a2), second, third = basis
    m0 = a0 * a0 + a1 * a1 + a2 * a2
    u10 = (second[0] * a0 + second[1] * a1 + second[2] * a2) / m0
    u20 = (third[0] * a0 + third[1] * a1 + third[2] * a2) / m0
    b0, b1, b2 = second[0] - u10 * a0, second[1] - u10 * a1, second[2] - u10 * a2
    m1 = b0 * b0 + b1 * b1 + b2 * b2
    u21 = (third[0] * b0 + third[1] * b1 + third[2] * b2) / m1
    rest = [t - u20 * a - u21 * b for t, a, b in zip(third, (a0, a1, a2), (b0, b1, b2), strict=True)]
    return [[0.0, 0.0, 0.0], [u10, 0.0, 0.0], [u20, u21, 0.0]], [m0, m1, sum(x * x for x in rest)]


def _reduce_metric(gram: Float[ndarray, "3 3"], e: float) -> Rows:
    """Steps A1 to A8 until none applies."""
    for _ in range(MOST_STEPS):
        A, B, C, xi, eta, zeta = _six(gram)
        if B + e < A or (abs(A - B) < e and abs(xi) > abs(eta) + e):  # A1
            gram = _transformed(gram, [[0, -1, 0], [-1, 0, 0], [0, 0, -1]])
            A, B, C, xi, eta, zeta = _six(gram)
        if C + e < B or (abs(B - C) < e and abs(eta) > abs(zeta) + e):  # A2
            gram = _transformed(gram, [[-1, 0, 0], [0, 0, -1], [0, -1, 0]])
            continue
        gram = _transformed(gram, np.diag(_signs(xi, eta, zeta, e)))  # A3, A4
        A, B, C, xi, eta, zeta = _six(gram)
        if abs(xi) > B + e or (abs(xi - B) < e and zeta - e > 2 * eta) or (abs(xi + B) < e and -e > zeta):  # A5
            step = [[1, 0, 0], [0, 1, -math.copysign(1, xi)], [0, 0, 1]]
        elif abs(eta) > A + e or (abs(A - eta) < e and zeta - e > 2 * xi) or (abs(A + eta) < e and -e > zeta):  # A6
            step = [[1, 0, -math.copysign(1, eta)], [0, 1, 0], [0, 0, 1]]
        elif abs(zeta) > A + e or (abs(A - zeta) < e and eta - e > 2 * xi) or (abs(A + zeta) < e and -e > eta):  # A7
            step = [[1, -math.copysign(1, zeta), 0], [0, 1, 0], [0, 0, 1]]
        elif -e > xi + eta + zeta + A + B or abs(xi + eta + zeta + A + B) < e < zeta + 2 * (A + eta):  # A8
            step = [[1, 0, 1], [0, 1, 1], [0, 0, 1]]
        else:
            break
        gram = _transformed(gram, step)
    return gram.tolist()


def _six(gram: Float[ndarray, "3 3"]) -> tuple[float, float, float, float, float, float]:
    """The symbols of the paper: the squares A, B, C, and twice the products b·c, a·c and a·b."""
    (a, ab, ac), (_, b, bc), (_, _, c) = gram.tolist()
    return a, b, c, 2 * bc, 2 * ac, 2 * ab


def _transformed(gram: Float[ndarray, "3 3"], step: Sequence | ndarray) -> Float[ndarray, "3 3"]:
    step = np.asarray(step, dtype=float)
    return step.T @ gram @ step


def _signs(xi: float, eta: float, zeta: float, e: float) -> tuple[int, int, int]:
    """Signs of the vectors that make all products positive (A3), or none of them (A4)."""
    signs = [0 if abs(x) < e else (1 if x > 0 else -1) for x in (xi, eta, zeta)]
    if math.prod(signs) == 1:
        i, j, k = (-1 if s == -1 else 1 for s in signs)
        return i, j, k
    flips = [-1 if s == 1 else 1 for s in signs]
    if math.prod(flips) == -1:
        free = next((n for n in (2, 1, 0) if signs[n] == 0), None)
        if free is not None:
            flips[free] = -1
    return flips[0], flips[1], flips[2]


def _first_basis(
    matrix: Float[ndarray, "3 3"], reduced: Rows, mapping: Rows, lengths: list[float], angles: list[float], tol: float
) -> Float[ndarray, "3 3"]:
    """The first right-handed choice of lattice vectors with these lengths and angles, in pymatgen's order."""
    vectors = _vectors_of_length(reduced, mapping, lengths, tol, matrix)
    near = [[v for v in vectors if 1 / (1 + tol) < v[0] / length < 1 + tol] for length in lengths]
    alpha, beta, gamma = (
        (math.cos(math.radians(min(180.0, x + ANGLE_TOLERANCE))), math.cos(math.radians(max(0.0, x - ANGLE_TOLERANCE))))
        for x in angles
    )
    for a in near[0]:
        second = [b for b in near[1] if gamma[0] <= _cosine(a, b) <= gamma[1]]
        third = [c for c in near[2] if beta[0] <= _cosine(a, c) <= beta[1]] if second else []
        for b in second:
            for c in third:
                images = a[1], b[1], c[1]
                if determinant(images) > 0 and alpha[0] <= _cosine(b, c) <= alpha[1]:
                    return np.array(images) @ matrix
    raise ValueError("no basis of the lattice has the lengths and angles of its Niggli cell")


Vector = tuple[float, list[float], list[float]]
"""A lattice vector: its length in Å, its coefficients and its Cartesian components."""


def _cosine(first: Vector, second: Vector) -> float:
    (a, _, (ax, ay, az)), (b, _, (bx, by, bz)) = first, second
    return min(1.0, max(-1.0, (ax * bx + ay * by + az * bz) / (a * b)))


def _vectors_of_length(
    reduced: Rows, mapping: Rows, lengths: list[float], tolerance: float, matrix: ndarray
) -> list[Vector]:
    """All lattice vectors about as long as one of three lengths, in the order in which pymatgen lists lattice points.

    pymatgen puts the points into cubes as wide as the search radius, and lists cube after cube, each from its last
    point to its first.
    """
    radius = max(lengths) * (1 + tolerance)
    width = max(radius, 1 + 1e-8)  # its narrowest cubes
    volume = abs(determinant(reduced))
    crosses = [_cross(reduced[k - 2], reduced[k - 1]) for k in range(3)]
    grid = lattice_grid(tuple(int(radius * math.hypot(*x) / volume + 1e-6) for x in crosses))
    vectors = grid @ np.array(reduced)
    sizes = np.sqrt((vectors * vectors).sum(1))
    slack = 2 * tolerance * np.array(lengths)[:, None]
    (kept,) = (np.abs(sizes - np.array(lengths)[:, None]) < slack).any(0).nonzero()
    images = grid[kept] @ np.array(mapping)
    found = list(zip(sizes[kept].tolist(), images.tolist(), (images @ matrix).tolist(), strict=True))
    return sorted(found, key=lambda v: ([(x + 2e-8) // width for x in v[2]], [-n for n in v[1]]))


@functools.lru_cache(maxsize=64)
def lattice_grid(reach: tuple[int, ...]) -> Float[ndarray, "points 3"]:
    """All integer vectors with components of at most `reach`, in lexicographic order; not to be written to."""
    axes = [np.arange(-n, n + 1, dtype=float) for n in reach]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def determinant(rows: Sequence[Sequence[float]]) -> float:
    """Determinant of a matrix of nine plain floats."""
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
