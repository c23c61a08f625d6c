"""Tensors of fourth order with the symmetry of elasticity, in full and in Voigt's and Mandel's notation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Voigt's order."""

_MANDEL = np.array([1.0, 1.0, 1.0, np.sqrt(2), np.sqrt(2), np.sqrt(2)])


def to_full(voigt: np.ndarray) -> np.ndarray:
    """C_ijkl of a stiffness in Voigt's notation, (6, 6) to (3, 3, 3, 3)."""
    full = np.empty((3, 3, 3, 3))
    for row, (i, j) in enumerate(PAIRS):
        for column, (k, m) in enumerate(PAIRS):
            for a, b in ((i, j), (j, i)):
                for c, d in ((k, m), (m, k)):
                    full[a, b, c, d] = voigt[row, column]
    return full


def to_voigt(full: np.ndarray) -> np.ndarray:
    """Inverse of `to_full`."""
    return np.array([[full[i, j, k, m] for k, m in PAIRS] for i, j in PAIRS])


def rotated(full: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Q_ia Q_jb Q_kc Q_ld C_abcd for x -> Q x, (3, 3)."""
    return np.einsum("ia,jb,kc,ld,abcd->ijkl", turn, turn, turn, turn, full, optimize=True)


def average_over(full: np.ndarray, turns: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of a tensor over a point group's rotations: its projection onto the tensors that the group allows."""
    return np.mean([rotated(full, turn) for turn in turns], axis=0)


def lowest_eigenvalue(voigt: np.ndarray) -> float:
    """Of a symmetric stiffness in Mandel's notation, in which eigenvalues do not depend on the frame."""
    return float(np.linalg.eigvalsh(_MANDEL[:, None] * voigt * _MANDEL)[0])
