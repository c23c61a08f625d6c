"""Asymmetric units of training crystals, found once for each and remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, asymmetric_units, without_symmetry
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.crystal_family import family_subspace
from euhedral.errors import CrystalError

MOST_REMEMBERED = 500_000
"""Crystals that are remembered, about 2 kB each; those beyond are searched anew each time."""
_CHUNK = 2048


class KnownUnits:
    """A memory of `asymmetric_units`; a crystal without symmetry, or whose search fails, is one of space group 1.

    Args:
        symprec: tolerance in Å of the search.
    """

    def __init__(self, symprec: float) -> None:
        self._symprec = symprec
        self._known: dict[bytes, AsymmetricUnit] = {}

    def of(self, batch: CrystalBatch) -> list[AsymmetricUnit]:
        """The asymmetric unit of each crystal."""
        batch = batch.to("cpu")
        keys = _keys(batch)
        found = {key: self._known[key] for key in keys if key in self._known}
        new = [row for row, key in enumerate(keys) if key not in found]
        for start in range(0, len(new), _CHUNK):
            rows = new[start : start + _CHUNK]
            chosen = batch[rows]
            for row, crystal, unit in zip(rows, chosen, asymmetric_units(chosen, self._symprec), strict=True):
                found[keys[row]] = without_symmetry(crystal) if isinstance(unit, CrystalError) else unit
                if len(self._known) < MOST_REMEMBERED:
                    self._known[keys[row]] = found[keys[row]]
        return [found[key] for key in keys]


def lattice_scales(units: Sequence[AsymmetricUnit]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each log-symmetric coordinate of conventional cells, over those where it is free.

    Where it never is, or has no spread, they are 0 and 1, or the mean and 1.
    """
    lattice = np.stack([unit.lattice for unit in units])
    free = family_subspace(torch.tensor([unit.template.space_group for unit in units]))[0].numpy()
    count = np.maximum(free.sum(0), 1)
    mean = np.where(free, lattice, 0.0).sum(0) / count
    std = np.sqrt(np.where(free, (lattice - mean) ** 2, 0.0).sum(0) / count)
    return tuple(mean.tolist()), tuple(np.where(std > 1e-3, std, 1.0).tolist())


def _keys(batch: CrystalBatch) -> list[bytes]:
    frac, cell, species = (value.contiguous().numpy() for value in (batch.frac, batch.cell, batch.species))
    ends = batch.num_atoms.cumsum(0).tolist()
    keys = []
    for row, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        content = frac[start:end].tobytes() + cell[row].tobytes() + species[start:end].tobytes()
        keys.append(hashlib.blake2b(content, digest_size=16).digest())
    return keys
