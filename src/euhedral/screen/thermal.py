"""Thermal expansion and heat capacity at constant pressure: phonons at several volumes (quasi-harmonic approximation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from euhedral.errors import ConfigError, CrystalError
from euhedral.screen.phonons import GAS_CONSTANT, PhononConfig, Phonons, phonons_of_settled
from euhedral.screen.settle import settle, settle_atoms, strained

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential

WIDE = 0.06
"""Å that an atom is displaced by, twice as far as for phonons alone."""
_STEP = 10.0  # K between temperatures; derivatives with respect to it are taken by differences


@dataclass(frozen=True, kw_only=True)
class ThermalConfig:
    """Which volumes and temperatures are computed.

    Attributes:
        smallest_strain: of the edges, the first volume.
        strain_step: of the edges, from one volume to the next.
        points: volumes, at least 5; four coefficients of Vinet's equation of state are fitted to them.
        most_points: where the crystal grows beyond the last volume, larger ones are added until there are so many.
        degree: of the polynomial in the logarithm of the volume that is put in place of the vibrations' free energy.
        temperature: of what is asked, K.
        phonons: how those at each volume are computed, and how the crystal is relaxed.

    Raises:
        ConfigError: on a value out of range.
    """

    smallest_strain: float = -0.02
    strain_step: float = 0.005
    points: int = 8
    most_points: int = 12
    degree: int = 2
    temperature: float = 300.0
    phonons: PhononConfig = field(default_factory=lambda: PhononConfig(displacement=WIDE))

    def __post_init__(self) -> None:
        if not -0.1 < self.smallest_strain < 0:
            raise ConfigError(f"smallest_strain must be between -0.1 and 0, not {self.smallest_strain}")
        if not 5 <= self.points <= self.most_points:
            raise ConfigError(f"points must be from 5 to most_points, not {self.points} with {self.most_points}")
        if not 0 < self.smallest_strain + (self.points - 1) * self.strain_step < 0.1:
            raise ConfigError(
                f"the first {self.points} strains must end between 0 and 0.1, which {self.strain_step} a step does not do"
            )
        if not 1 <= self.degree <= self.points - 2:
            raise ConfigError(f"degree must be from 1 to two less than the points, not {self.degree}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0 K, not {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class Thermal:
    """What a crystal is like at its temperatures, and at atmospheric pressure (which is 0 here).

    Attributes:
        crystal: the settled crystal, at the lowest energy without vibrations.
        temperatures: K, (points,).
        volumes: of the lowest free energy, Å³/atom, (points,).
        expansion: d(ln volume)/dT, 1e-6/K, (points,): three times the linear one of a cubic crystal.
        bulk_moduli: isothermal, GPa, (points,).
        heat_capacities: at constant pressure, k per atom, (points,).
        grueneisen: the thermodynamic Grüneisen parameter, (points,); 0 at 0 K.
        roughness: root mean square by which the vibrations' free energy, at the temperature asked and the volumes that were
            computed, is off its polynomial, eV/atom. Where it is not far below kT the rest is of little worth.
        at: position of the temperature that was asked for.
    """

    crystal: CrystalBatch
    temperatures: np.ndarray
    volumes: np.ndarray
    expansion: np.ndarray
    bulk_moduli: np.ndarray
    heat_capacities: np.ndarray
    grueneisen: np.ndarray
    roughness: float
    at: int


def thermal(crystal: CrystalBatch, potential: Potential, config: ThermalConfig | None = None) -> Thermal:
    """Quasi-harmonic properties of one crystal by phonopy (Togo et al., Phys. Rev. B 81, 174301, 2010).

    Second derivatives of learned potentials are rough: those of CHGNet change by a tenth and back when the edges of a
    crystal change by a hundredth, which moves the free energy by more than its own energy does. So atoms are displaced
    further than for phonons alone, volumes reach further than the crystal grows, and free energy, entropy and heat capacity
    are replaced by polynomials in the logarithm of the volume, by the same linear map, which keeps their relations.

    All edges are scaled alike and the atoms relaxed: angles and ratios of edges stay those of 0 K.

    Raises:
        CrystalError: if it cannot be relaxed, has an imaginary mode at one of the volumes, or its free energy has no
            minimum within them.
        EuhedralError: if phonopy is not installed.
    """
    config = config or ThermalConfig()
    settled, _ = settle(crystal, potential, config.phonons.settle)
    strains = config.smallest_strain + config.strain_step * np.arange(config.most_points)
    points: list[_Point] = []
    for strain in strains:
        points.append(_point(settled, float(strain), potential, config))
        if len(points) < config.points:
            continue
        found = _fitted(settled, points, config)
        # Between the first volumes and the last, so that nothing is extrapolated.
        if points[0].volume <= found.volumes.min() and found.volumes.max() <= points[-1].volume:
            return found
    raise CrystalError(
        f"the free energy has no minimum within {points[0].volume:.3f} to {points[-1].volume:.3f} Å³/atom, up to where "
        "phonons were computed"
    )


@dataclass(frozen=True)
class _Point:
    """Phonons at one volume; Å³/atom and eV/atom."""

    volume: float
    energy: float
    phonons: Phonons


def _point(settled: CrystalBatch, strain: float, potential: Potential, config: ThermalConfig) -> _Point:
    cell = strained(settled, strain * torch.eye(3, dtype=torch.float64))
    moved, said = settle_atoms([cell], potential, config.phonons.settle)
    found = phonons_of_settled(moved, potential, config.phonons)
    if not found.stable:
        raise CrystalError(
            f"with edges strained by {strain:+.2%} there is an imaginary mode of {-found.lowest:.2f} THz, and the "
            "quasi-harmonic approximation has no answer"
        )
    return _Point(float(moved.volume / moved.num_atoms), float(said.energy_per_atom), found)


def _fitted(settled: CrystalBatch, points: Sequence[_Point], config: ThermalConfig) -> Thermal:
    """phonopy's answer, also where its volumes are not between those of the points."""
    # phonopy's temperatures end two steps earlier than those that it is given.
    temperatures = np.append(np.arange(0, config.temperature, _STEP), config.temperature + _STEP * np.arange(4))
    volumes = np.array([point.volume for point in points])
    rough = np.stack([_harmonic(point.phonons, temperatures) for point in points], axis=1)
    harmonic = np.einsum("vw,kwt->kvt", _smoothing(volumes, config.degree), rough)
    at = int(np.flatnonzero(temperatures == config.temperature)[0])
    from ase.units import kJ, mol
    from phonopy import PhonopyQHA

    try:
        model: Any = PhonopyQHA(
            volumes=volumes,
            electronic_energies=[point.energy for point in points],
            temperatures=temperatures,
            free_energy=harmonic[0].T,
            cv=harmonic[1].T,
            entropy=harmonic[2].T,
            eos="vinet",
            t_max=float(config.temperature + _STEP),
        )
        grown = np.asarray(model.volume_temperature)
    # scipy's fit raises whatever the numbers make of it.
    except Exception as error:
        raise CrystalError(f"no equation of state could be fitted to the free energies: {error}") from error
    count = len(grown)
    return Thermal(
        crystal=settled,
        temperatures=temperatures[:count],
        volumes=grown,
        expansion=np.asarray(model.thermal_expansion)[:count] * 1e6,
        bulk_moduli=np.asarray(model.bulk_modulus_temperature)[:count],
        heat_capacities=np.asarray(model.heat_capacity_P_numerical)[:count] / GAS_CONSTANT,
        grueneisen=np.asarray(model.gruneisen_temperature)[:count],
        roughness=float(np.sqrt(np.mean((harmonic - rough)[0, :, at] ** 2))) * kJ / mol,
        at=at,
    )


def _smoothing(volumes: np.ndarray, degree: int) -> np.ndarray:
    """The linear map from values at the volumes to those of the best polynomial in ln V, (volumes, volumes)."""
    powers = np.vander(np.log(volumes / volumes.mean()), degree + 1)
    orthonormal, _ = np.linalg.qr(powers)
    return orthonormal @ orthonormal.T


def _harmonic(found: Phonons, temperatures: np.ndarray) -> np.ndarray:
    """Free energy in kJ/mol, heat capacity and entropy in J/K/mol, all per atom, (3, temperatures)."""
    model = found.phonopy
    model.run_thermal_properties(temperatures=temperatures, cutoff_frequency=1e-3)
    told, atoms = model.get_thermal_properties_dict(), len(model.primitive)
    return np.stack([np.asarray(told[name]) / atoms for name in ("free_energy", "heat_capacity", "entropy")])
