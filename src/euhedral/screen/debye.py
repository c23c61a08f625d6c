"""Debye temperature of a crystal from its elastic tensor: sound velocities in all directions."""

from __future__ import annotations

import numpy as np

from euhedral.errors import CrystalError
from euhedral.screen.tensors import to_full

H_PER_KB = 4.799243073366221e-11
"""Planck's constant over Boltzmann's, K s."""
GPA_PER_DENSITY = 1e6
"""1 GPa over 1 g/cm³, in (m/s)²."""


def debye_temperature(voigt: np.ndarray, *, density: float, volume_per_atom: float, directions: int = 4000) -> float:
    """Debye temperature in K: h/k (3 / (4 pi v))^(1/3) s (Anderson, J. Phys. Chem. Solids 24, 909, 1963, eq. 1).

    v is the volume per atom. The mean velocity s is that of all three branches in all directions,
    s^-3 = mean over the sphere of (s_1^-3 + s_2^-3 + s_3^-3) / 3, with density s² the eigenvalues of Christoffel's
    matrix C_ijkl n_j n_l; nothing is averaged before, as it is where moduli of powders are put in.

    Args:
        voigt: elastic tensor in GPa, (6, 6).
        density: g/cm³.
        volume_per_atom: Å³.
        directions: of the sphere, evenly spread.

    Raises:
        CrystalError: if a wave is not stable.
    """
    step = np.arange(directions) + 0.5
    height = 1 - 2 * step / directions
    turn = np.pi * (1 + np.sqrt(5)) * step
    flat = np.sqrt(1 - height**2)
    normals = np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)
    christoffel = np.einsum("ijkl,nj,nl->nik", to_full(voigt), normals, normals, optimize=True)
    squares = np.linalg.eigvalsh(christoffel) * GPA_PER_DENSITY / density
    if not squares.min() > 0:
        raise CrystalError("a sound wave of the elastic tensor is not stable, so that there is no Debye temperature")
    speed = np.mean(squares ** (-3 / 2)) ** (-1 / 3)
    return float(H_PER_KB * (3 / (4 * np.pi * volume_per_atom * 1e-30)) ** (1 / 3) * speed)
