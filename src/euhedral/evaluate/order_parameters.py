"""Local structure order parameters: how closely the directions to n neighbours resemble a motif, from 0 to 1.

Each neighbour j in turn is the pole and each other neighbour k the meridian; the rest are judged by their polar angle
and by their azimuth from k, and the best choice of j and k counts (Peters, J. Chem. Phys. 131, 244103, 2009; Zimmermann
et al., J. Am. Chem. Soc. 137, 13352, 2015; Zimmermann and Jain, RSC Adv. 10, 6063, 2020). `MOTIFS` has the motifs of
each coordination number and the widths of the published fingerprint, those of pymatgen's LocalStructOrderParams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
    Flags = NDArray[np.bool_]

_TINY = 1e-12
# Far above rounding errors, far below what the written digits of a CIF file leave between neighbours alike by symmetry.
_TIE = 1e-12
_TETRAHEDRAL = 0.6081734479693927  # arccos(-1/3) in units of π
_SOUTH = 0.75 * np.pi
_ANGLES_AT_ONCE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class _Shell:
    """Angles within the shells of S sites with n neighbours each; axes (site, pole j, meridian k, neighbour m).

    Attributes:
        theta: angle between two neighbours, (S, n, n).
        phi: azimuth of m from k about j, in [0, π], (S, n, n, n).
        pair: j and k differ, (n, n).
        meridian: k defines a meridian: it is not on the axis of j, (S, n, n).
        third: m is neither j nor k, and k defines a meridian, (S, n, n, n).
        azimuth: in addition m is not on the axis of j, so that `phi` has a meaning, (S, n, n, n).
        before: 1 where j comes before k, 1/2 where they tie, else 0, (S, n, n).
    """

    cosine: Values
    theta: Values
    phi: Values
    pair: Flags
    third: Flags
    azimuth: Flags
    before: Values


def _shell(units: Values, weights: Values) -> _Shell:
    n = units.shape[1]
    cosine = np.clip(units @ units.swapaxes(1, 2), -1, 1)
    # The part of u_k across u_j; taken from the vectors, since 1 - cos² has lost it where they are nearly parallel.
    across = units[:, None] - cosine[..., None] * units[:, :, None]
    length = np.linalg.norm(across, axis=-1)
    meridian = length >= _TINY
    across = across / np.where(meridian, length, 1.0)[..., None]
    different = ~np.eye(n, dtype=bool)
    ahead = weights[:, :, None] - weights[:, None, :]
    third = (different[:, :, None] & different[:, None, :] & different[None]) & meridian[..., None]
    return _Shell(
        cosine=cosine,
        theta=np.arccos(cosine),
        phi=np.arccos(np.clip(across @ across.swapaxes(2, 3), -1, 1)),
        pair=different,
        third=third,
        azimuth=third & meridian[:, :, None, :],
        before=np.where(np.abs(ahead) <= _TIE, 0.5, ahead > 0) * different,
    )


def _bell(width: float, off: Values) -> Values:
    return np.exp(-0.5 * (width * off) ** 2)


def _best(shell: _Shell, score: Values, weight: Values) -> Values:
    """Largest score over weight among all choices of pole and meridian; choices without any weight score 0."""
    share = np.where(weight > _TINY, score / np.where(weight > _TINY, weight, 1.0), 0.0)
    return np.where(shell.pair, share, -np.inf).max((1, 2))


def _bent(shell: _Shell, *, target: float, width: float) -> Values:
    return _bell(width, shell.theta[:, 0, 1] / np.pi - target)


def _angular(shell: _Shell, *, target: float, width: float, fold: float) -> Values:
    """All angles to the pole near one target (trigonal plane, tetrahedron)."""
    near = _bell(width, shell.theta / np.pi - target)
    wave = np.cos(fold * shell.phi) ** 2
    score = near + np.where(shell.azimuth, near[:, :, None, :] * wave, 0).sum(-1)
    return _best(shell, score, 1.0 + shell.azimuth.sum(-1))


def _pentagon(shell: _Shell, *, width: float) -> Values:
    polar = shell.theta / np.pi
    near = _bell(width, polar - np.where(shell.theta <= 0.6 * np.pi, 0.4, 0.8))
    score = near + np.where(shell.azimuth, near[:, :, None, :] * np.cos(shell.phi) ** 2, 0).sum(-1)
    return _best(shell, score, 1.0 + shell.azimuth.sum(-1))


def _pyramid(shell: _Shell, *, width: float, fold: float) -> Values:
    """The pole as apex, all others near the equator, `2 * fold` of them evenly (T shape, pyramids)."""
    return _angular(shell, target=0.5, width=width, fold=fold)


def _bipyramid(
    shell: _Shell,
    *,
    width: float,
    south_width: float,
    fold: float,
    south: float = _SOUTH,
    off: float = 0.0,
    azimuth_below: float = np.inf,
) -> Values:
    """Neighbours near the south pole, the others at the equator, or at the angle `off` (units of π) from it."""
    polar = shell.theta / np.pi
    is_south = shell.theta >= south
    distance = np.abs(polar - 0.5) - off if off else polar - 0.5
    near = np.where(is_south, 0.0, _bell(width, distance))
    opposite = np.where(is_south, _bell(south_width, polar - 1.0), 0.0)
    at_south = shell.third & is_south[:, :, None, :]
    aside = shell.azimuth & ~is_south[..., None] & ~is_south[:, :, None, :] & (shell.phi < azimuth_below)
    score = near + np.where(at_south, opposite[:, :, None, :], 0).sum(-1)
    score += np.where(aside, near[:, :, None, :] * np.cos(fold * shell.phi) ** 2, 0).sum(-1)
    return _best(shell, score, ~is_south + at_south.sum(-1) + aside.sum(-1).astype(float))


def _cube(shell: _Shell) -> Values:
    """Body-centred cubic shell, where only pairs count in which the pole comes before the meridian.

    Which comes first changes the value, and so does the side of the equator that the meridian is on. Neighbours that tie
    by symmetry are averaged over both orders, and a meridian on the equator over both sides. The published program
    decides both by rounding errors, so that there equivalent sites differ and the value depends on the listing of atoms.
    """
    n = shell.theta.shape[1]
    is_south = shell.theta >= 2.5261129449194057
    opposite = np.where(is_south, 6.0 * _bell(15.0, shell.theta / np.pi - 1.0), 0.0)
    elevation = shell.theta - np.pi / 2
    side = np.where(np.abs(elevation) <= _TIE, 0.0, np.sign(elevation)) * np.exp(0.5)
    tilt = elevation / np.arcsin(1 / 3)
    tilt = tilt * np.exp(-0.5 * tilt**2)
    wave = np.where(shell.azimuth, np.cos(3 * shell.phi) * tilt[:, :, None, :], 0).sum(-1)
    total = np.where(is_south, opposite, side * wave)
    return (shell.before * total).sum((1, 2)) / (0.5 * n * (6 + (n - 2) * (n - 3)))


def _cuboctahedron(shell: _Shell) -> Values:
    south, upper, lower = 2.792526803190927, 1.3089969389957472, 1.8325957145940461
    polar = shell.theta / np.pi
    opposite = np.where(shell.theta >= south, 1.8 * _bell(28.75, polar - 1.0), 0.0)
    between = (shell.theta > upper) & (shell.theta < lower)
    counted = shell.azimuth & between[..., None] & (shell.theta < south)[:, :, None, :]
    equator = np.cos(shell.phi) ** 2 * _bell(25.5, polar - 0.5)[:, :, None, :]
    ring = _bell(0.0556, np.sin(shell.phi) - 0.81649658)
    high = counted & (shell.theta < upper)[:, :, None, :]
    low = counted & (shell.theta > lower)[:, :, None, :]
    middle = counted & between[:, :, None, :]
    score = opposite + np.where(middle, equator, 0).sum(-1)
    score += np.where(high, ring * _bell(31.25, polar - 1 / 3)[:, :, None, :], 0).sum(-1)
    score += np.where(low, ring * _bell(31.25, polar - 2 / 3)[:, :, None, :], 0).sum(-1)
    weight = np.where(shell.theta >= south, 1.8, 0.0) + (middle | high | low).sum(-1)
    return _best(shell, score, weight)


def _steinhardt(shell: _Shell, *, degree: int) -> Values:
    """Bond order q_l = sqrt(Σ_jk P_l(cos θ_jk)) / n, by the addition theorem of the spherical harmonics.

    Steinhardt, Nelson and Ronchetti, Phys. Rev. B 28, 784 (1983).
    """
    from numpy.polynomial import Legendre

    total = Legendre.basis(degree)(shell.cosine).sum((1, 2))
    return np.sqrt(np.maximum(total, 0.0)) / shell.cosine.shape[1]


_BOND_ORDERS = {f"q{degree}": partial(_steinhardt, degree=degree) for degree in (2, 4, 6)}

MOTIFS: dict[int, dict[str, Callable[[_Shell], Values]]] = {
    1: {"sgl_bd": lambda shell: np.ones(len(shell.theta))},
    2: {
        "L-shaped": partial(_bent, target=0.5, width=15.15),
        "water-like": partial(_bent, target=0.5802777777777778, width=13.95),
        "bent 120 degrees": partial(_bent, target=0.666666666667, width=13.25),
        "bent 150 degrees": partial(_bent, target=0.833333333333333, width=12.45),
        "linear": partial(_bent, target=1.0, width=8.667),
    },
    3: {
        "trigonal planar": partial(_angular, target=0.66666666667, width=17.5, fold=1),
        "trigonal non-coplanar": partial(_angular, target=_TETRAHEDRAL, width=18.33, fold=1.5),
        "T-shaped": partial(_pyramid, width=15.5, fold=1),
    },
    4: {
        "square co-planar": partial(_bipyramid, width=17.7, south_width=13.5, fold=1),
        "tetrahedral": partial(_angular, target=_TETRAHEDRAL, width=18.5, fold=1.5),
        "rectangular see-saw-like": partial(
            _bipyramid, width=27.0, south_width=11.5, fold=2, azimuth_below=0.75 * np.pi
        ),
        "see-saw-like": partial(_bipyramid, width=15.75, south_width=12.75, fold=1.5),
        "trigonal pyramidal": partial(_pyramid, width=15.5, fold=1.5),
    },
    5: {
        "pentagonal planar": partial(_pentagon, width=19.333),
        "square pyramidal": partial(_pyramid, width=14.9, fold=2),
        "trigonal bipyramidal": partial(_bipyramid, width=16.6, south_width=12.0, fold=1.5),
    },
    6: {
        "hexagonal planar": partial(
            _bipyramid, width=25.0, south_width=7.5, fold=1, south=2.6179938779914944, off=0.16666667
        ),
        "octahedral": partial(_bipyramid, width=18.0, south_width=15.0, fold=2),
        "pentagonal pyramidal": partial(_pyramid, width=13.8, fold=2.5),
    },
    7: {
        "hexagonal pyramidal": partial(_pyramid, width=12.5, fold=3),
        "pentagonal bipyramidal": partial(_bipyramid, width=14.75, south_width=12.5, fold=2.5),
    },
    8: {
        "body-centered cubic": _cube,
        "hexagonal bipyramidal": partial(_bipyramid, width=13.6, south_width=14.1, fold=3),
    },
    9: _BOND_ORDERS,
    10: _BOND_ORDERS,
    11: _BOND_ORDERS,
    12: {"cuboctahedral": _cuboctahedron, **_BOND_ORDERS},
}
"""Order parameters of each coordination number by the name of the motif."""


def order_parameters(vectors: Values, weights: Values) -> Values:
    """Order parameters of shells of n neighbours, in the order of `MOTIFS[n]`.

    Args:
        vectors: from each site to its neighbours, (sites, n, 3), any length above 0.
        weights: of the neighbours, by which they come first or tie, (sites, n).

    Returns:
        (sites, motifs of n).
    """
    sites, n = vectors.shape[:2]
    motifs = MOTIFS[n]
    values = np.empty((sites, len(motifs)))
    units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    step = max(1, _ANGLES_AT_ONCE // n**3)
    for start in range(0, sites, step):
        shell = _shell(units[start : start + step], weights[start : start + step])
        for column, motif in enumerate(motifs.values()):
            values[start : start + step, column] = motif(shell)
    return values
