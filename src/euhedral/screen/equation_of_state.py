"""Equation of state: energy of a crystal against its volume, and the bulk modulus at the bottom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from euhedral.errors import ConfigError, CrystalError
from euhedral.screen.potential import EV_PER_A3_IN_GPA
from euhedral.screen.settle import SettleConfig, settle, settle_atoms, strained

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential


@dataclass(frozen=True, kw_only=True)
class EquationOfStateConfig:
    """Which volumes are computed.

    Attributes:
        largest_strain: of the edges, to both sides. Narrow ranges show the roughness of learned potentials (with CHGNet the
            bulk moduli of 24 known crystals are off by 20 % at 1 %, by 16 % at 3 %), wide ones leave the harmonic region (at
            10 % that of MgO is a quarter above the elastic tensor's).
        points: volumes, at least 5; four coefficients are fitted to them.
        settle: how the crystal is relaxed, and its atoms at each volume.

    Raises:
        ConfigError: on a value out of range.
    """

    largest_strain: float = 0.03
    points: int = 9
    settle: SettleConfig = field(default_factory=SettleConfig)

    def __post_init__(self) -> None:
        if not 0 < self.largest_strain < 0.2:
            raise ConfigError(f"largest_strain must be between 0 and 0.2, not {self.largest_strain}")
        if self.points < 5:
            raise ConfigError(f"points must be at least 5, not {self.points}")


@dataclass(frozen=True, kw_only=True)
class EquationOfState:
    """A fitted equation of state.

    Attributes:
        crystal: the settled crystal.
        volume: at the minimum, Å3/atom.
        energy: at the minimum, eV/atom.
        bulk_modulus: GPa.
        derivative: of the bulk modulus with respect to pressure, no unit.
        residual: root mean square of what the fit leaves, eV/atom.
        volumes: Å3/atom, (points,).
        energies: eV/atom, (points,).
    """

    crystal: CrystalBatch
    volume: float
    energy: float
    bulk_modulus: float
    derivative: float
    residual: float
    volumes: np.ndarray
    energies: np.ndarray


def equation_of_state(
    crystal: CrystalBatch, potential: Potential, config: EquationOfStateConfig | None = None
) -> EquationOfState:
    """Birch-Murnaghan equation of state of third order of one crystal, all edges scaled alike and the atoms relaxed.

    The angles and the ratios of the edges stay, so that the bulk modulus of a crystal that is not cubic is that of equal
    strain (Voigt's), an upper bound.

    Raises:
        CrystalError: if it cannot be relaxed, or the energies have no minimum within the range.
    """
    config = config or EquationOfStateConfig()
    settled, _ = settle(crystal, potential, config.settle)
    strains = np.linspace(-config.largest_strain, config.largest_strain, config.points)
    cells = [strained(settled, float(strain) * torch.eye(3, dtype=torch.float64)) for strain in strains]
    moved, said = settle_atoms(cells, potential, config.settle)
    volumes = (moved.volume / moved.num_atoms).numpy()
    energies = said.energy_per_atom.numpy()
    volume, energy, modulus, derivative, residual = fit_birch_murnaghan(volumes, energies)
    return EquationOfState(
        crystal=settled,
        volume=volume,
        energy=energy,
        bulk_modulus=modulus * EV_PER_A3_IN_GPA,
        derivative=derivative,
        residual=residual,
        volumes=volumes,
        energies=energies,
    )


def fit_birch_murnaghan(volumes: np.ndarray, energies: np.ndarray) -> tuple[float, float, float, float, float]:
    """Volume and energy at the minimum, bulk modulus, its derivative, and the root mean square of the residuals.

    The equation of third order (Birch, Phys. Rev. 71, 809, 1947) is a polynomial of degree 3 in x = V^(-2/3), so that it is
    fitted linearly, and without a guess: with E' = 0 at x0, B0 = V E''(V) and B0' = -1 - V E'''(V) / E''(V).

    Args:
        volumes: (points,), of any unit.
        energies: (points,).

    Raises:
        CrystalError: if the energies have no minimum within the volumes.
    """
    scale = float(np.mean(volumes))
    x = (volumes / scale) ** (-2 / 3)
    fitted = np.polynomial.Polynomial.fit(x, energies, 3)
    roots = fitted.deriv().roots()
    inside = [
        float(root.real)
        for root in roots
        if abs(root.imag) < 1e-9 and x.min() <= root.real <= x.max() and fitted.deriv(2)(root.real) > 0
    ]
    if not inside:
        raise CrystalError("the energy has no minimum within the volumes of the equation of state")
    best = min(inside, key=lambda root: float(fitted(root)))
    first = -2 / 3 * best ** (5 / 2)
    second = 10 / 9 * best**4
    third = -80 / 27 * best ** (11 / 2)
    slopes = [float(fitted.deriv(order)(best)) for order in (1, 2, 3)]
    curvature = slopes[1] * first**2 + slopes[0] * second
    bend = slopes[2] * first**3 + 3 * slopes[1] * first * second + slopes[0] * third
    volume = best ** (-3 / 2)
    residual = float(np.sqrt(np.mean((fitted(x) - energies) ** 2)))
    return (
        volume * scale,
        float(fitted(best)),
        volume * curvature / scale,
        -1 - volume * bend / curvature,
        residual,
    )
