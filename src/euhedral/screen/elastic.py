"""Elastic tensor of a crystal from the stresses of strained cells, and the moduli of a powder of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from euhedral.crystal.symmetry import symmetry_dataset
from euhedral.errors import ConfigError, CrystalError
from euhedral.screen.settle import SettleConfig, settle, settle_atoms, strained
from euhedral.screen.tensors import PAIRS, average_over, lowest_eigenvalue, rotated, to_full, to_voigt

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.screen.potential import Potential


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """How a crystal is strained.

    Attributes:
        strains: magnitudes, each taken to both sides; the even terms of the stress cancel in the slope. Learned potentials
            are rough: with CHGNet the bulk moduli of 24 known crystals are off by 24 % at half a percent and one percent,
            by 18 % at one to three (benchmarks/known_crystals.py). For exact potentials smaller ones are better.
        settle: how the crystal is relaxed, and its atoms under each strain.

    Raises:
        ConfigError: on a value out of range.
    """

    strains: tuple[float, ...] = (0.01, 0.02, 0.03)
    settle: SettleConfig = field(default_factory=SettleConfig)

    def __post_init__(self) -> None:
        if not self.strains or not all(0 < strain < 0.1 for strain in self.strains):
            raise ConfigError(f"strains must be one or more magnitudes between 0 and 0.1, not {self.strains}")


@dataclass(frozen=True, kw_only=True)
class ElasticTensor:
    """Elastic tensor and what follows from it alone.

    Attributes:
        crystal: the settled crystal.
        voigt: d(stress)/d(strain) in GPa in Voigt's order (xx, yy, zz, yz, xz, xy), (6, 6), in the Cartesian frame of the
            standard cell of the crystal's space group.
        space_group: whose symmetry it has; 1 where none was found.
        asymmetry: share of the computed tensor, by norm, that its symmetry does not allow: a measure of the error.
        bulk_voigt: GPa; equal strain, an upper bound.
        bulk_reuss: GPa; equal stress, a lower bound.
        shear_voigt: GPa.
        shear_reuss: GPa.
        lowest_eigenvalue: of the tensor in Mandel's notation, GPa, the same in every frame.
    """

    crystal: CrystalBatch
    voigt: np.ndarray
    space_group: int
    asymmetry: float
    bulk_voigt: float
    bulk_reuss: float
    shear_voigt: float
    shear_reuss: float
    lowest_eigenvalue: float

    @property
    def stable(self) -> bool:
        """Born's criterion: every small strain costs energy, which is that all eigenvalues are positive.

        Necessary and sufficient in every crystal system, of which the inequalities by system are the written-out forms
        (Mouhat and Coudert, Phys. Rev. B 90, 224104, 2014).
        """
        return self.lowest_eigenvalue > 0

    @property
    def bulk_modulus(self) -> float:
        """GPa; Hill's mean of the bounds (Hill, Proc. Phys. Soc. A 65, 349, 1952)."""
        return (self.bulk_voigt + self.bulk_reuss) / 2

    @property
    def shear_modulus(self) -> float:
        """GPa; Hill's mean of the bounds."""
        return (self.shear_voigt + self.shear_reuss) / 2

    @property
    def youngs_modulus(self) -> float:
        """GPa; E = 9 K G / (3 K + G)."""
        return 9 * self.bulk_modulus * self.shear_modulus / (3 * self.bulk_modulus + self.shear_modulus)

    @property
    def poisson_ratio(self) -> float:
        """(3 K - 2 G) / (6 K + 2 G), no unit."""
        return (3 * self.bulk_modulus - 2 * self.shear_modulus) / (6 * self.bulk_modulus + 2 * self.shear_modulus)

    @property
    def anisotropy(self) -> float:
        """Universal anisotropy 5 G_V/G_R + K_V/K_R - 6, 0 if isotropic (Ranganathan, Ostoja-Starzewski, PRL 101, 2008)."""
        return 5 * self.shear_voigt / self.shear_reuss + self.bulk_voigt / self.bulk_reuss - 6


def elastic_tensor(crystal: CrystalBatch, potential: Potential, config: ElasticConfig | None = None) -> ElasticTensor:
    """Elastic tensor of one crystal, its atoms relaxed under each strain.

    The six strains of Voigt's order are applied to both sides, and each column of the tensor is the slope of a line through
    the Cauchy stresses. What comes out is averaged over the point group.

    Raises:
        CrystalError: if a cell cannot be relaxed, or the potential has no stress.
    """
    config = config or ElasticConfig()
    settled, _ = settle(crystal, potential, config.settle)
    magnitudes = np.array([sign * size for size in config.strains for sign in (-1, 1)])
    cells = [strained(settled, torch.tensor(size * _unit_strain(k))) for k in range(6) for size in magnitudes]
    _, said = settle_atoms(cells, potential, config.settle)
    stresses = said.stress_gpa.numpy().reshape(6, len(magnitudes), 3, 3)
    if not np.isfinite(stresses).all():
        raise CrystalError("the potential has no stress, without which there is no elastic tensor")
    voigt = np.empty((6, 6))
    for k in range(6):
        for row, (i, j) in enumerate(PAIRS):
            voigt[row, k] = stresses[k, :, i, j] @ magnitudes / (magnitudes @ magnitudes)
    return _described(settled, (voigt + voigt.T) / 2, config.settle.symprec)


def from_tensor(
    crystal: CrystalBatch, voigt: np.ndarray, *, space_group: int = 1, asymmetry: float = 0.0
) -> ElasticTensor:
    """Moduli of a known elastic tensor in GPa, (6, 6).

    Raises:
        CrystalError: if the tensor has no inverse.
    """
    try:
        compliance = np.linalg.inv(voigt)
    except np.linalg.LinAlgError as error:
        raise CrystalError("the elastic tensor has no inverse: a strain costs no stress at all") from error
    normal, across = np.trace(voigt[:3, :3]), voigt[0, 1] + voigt[1, 2] + voigt[0, 2]
    shears = np.trace(voigt[3:, 3:])
    soft, soft_across = np.trace(compliance[:3, :3]), compliance[0, 1] + compliance[1, 2] + compliance[0, 2]
    return ElasticTensor(
        crystal=crystal,
        voigt=voigt,
        space_group=space_group,
        asymmetry=asymmetry,
        bulk_voigt=float(normal + 2 * across) / 9,
        bulk_reuss=float(1 / (soft + 2 * soft_across)),
        shear_voigt=float(normal - across + 3 * shears) / 15,
        shear_reuss=float(15 / (4 * (soft - soft_across) + 3 * np.trace(compliance[3:, 3:]))),
        lowest_eigenvalue=lowest_eigenvalue(voigt),
    )


def _described(settled: CrystalBatch, voigt: np.ndarray, symprec: float) -> ElasticTensor:
    """The tensor averaged over the point group and turned into the frame of the standard cell."""
    try:
        dataset, reduced = symmetry_dataset(settled, symprec)
    except CrystalError:
        return from_tensor(settled, voigt)
    cell = reduced.cell[0].double().numpy()
    turns = [cell.T @ np.array(r, dtype=float) @ np.linalg.inv(cell.T) for r in dataset.operations.rotations]
    full = to_full(voigt)
    symmetric = average_over(full, turns)
    asymmetry = float(np.linalg.norm(full - symmetric) / np.linalg.norm(full))
    standard = rotated(symmetric, np.array(dataset.std_rotation_matrix))
    return from_tensor(settled, to_voigt(standard), space_group=int(dataset.number), asymmetry=asymmetry)


def _unit_strain(k: int) -> np.ndarray:
    """The symmetric strain whose k-th component in Voigt's order is 1, a shear being twice the tensor's entry."""
    strain = np.zeros((3, 3))
    i, j = PAIRS[k]
    strain[i, j] += 0.5
    strain[j, i] += 0.5
    return strain
