"""Symmetric random search: atoms on random Wyckoff positions of a random space group, the baseline that knows no structure.

Compositions are those of ion exchange (`models.ion_exchange`), so that the two differ in the structure alone; space groups
are as frequent as among the training crystals of the same atom count. Structures are drawn by PyXtal (Fredericks et al.,
Comput. Phys. Commun. 261, 107810, 2021), whose cells have the volume of the atoms' radii and whose atoms keep a distance.
This is how random structure search begins (Pickard and Needs, J. Phys. Condens. Matter 23, 053201, 2011); it has then
to be relaxed.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap
from euhedral.crystal.symmetry import space_group_symbol
from euhedral.errors import EuhedralError
from euhedral.models.base import SampleRequest
from euhedral.models.conditions import Conditions
from euhedral.models.fitted import FittedModel
from euhedral.models.ion_exchange import IonExchange, IonExchangeConfig
from euhedral.models.ions import radii

GROUPS = 230
TRIES = 20
"""Space groups that are tried for a composition before it is put into one without symmetry."""
SCATTERINGS = 100
_CENTRING = {"P": 1, "A": 2, "B": 2, "C": 2, "I": 2, "F": 4, "R": 3}


class SymmetricRandom(FittedModel):
    """See the module. Of conditions, a space group is tried first; properties are ignored."""

    config: IonExchangeConfig

    def __init__(self, config: IonExchangeConfig) -> None:
        super().__init__()
        self.config = config
        self.compositions = IonExchange(config)

    @classmethod
    def fitted(cls, config: IonExchangeConfig, crystals: CrystalBatch, conditions: Conditions) -> Self:
        """See `FittedModel`. Raises EuhedralError where PyXtal is not installed."""
        check_pyxtal()
        compositions = IonExchange.fitted(config, crystals, conditions)
        model = cls(replace(config, crystals=compositions.config.crystals, atoms=compositions.config.atoms))
        model.compositions = compositions
        return model

    @torch.no_grad()
    def sample(self, request: SampleRequest, *, rng: torch.Generator) -> CrystalBatch:
        """See `GenerativeModel`.

        Raises:
            RequestError: where no training crystal has as many atoms.
            EuhedralError: where PyXtal is not installed.
        """
        check_pyxtal()
        size, count = request.species.shape
        species = self.compositions.sample(request, rng=rng).species.view(size, count).cpu()
        chance = np.random.default_rng(int(torch.randint(0, 2**62, (1,), generator=rng)))
        asked = request.conditions.space_group.tolist() if request.guidance > 0 else [0] * size
        rows = [self._structure(of, int(group), chance) for of, group in zip(species.tolist(), asked, strict=True)]
        return CrystalBatch.from_crystals(rows).to(request.species.device)

    def _structure(self, species: list[int], asked: int, chance: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Cell, coordinates and species of one crystal, its species in the order given."""
        known = self.compositions.space_group[self.compositions.num_atoms == len(species)]
        groups = known[known > 0].numpy()
        for attempt in range(TRIES):
            if asked and attempt < TRIES // 2:
                group = asked
            else:
                group = int(chance.choice(groups)) if len(groups) else int(chance.integers(1, GROUPS + 1))
            found = _random_crystal(Counter(species), group, chance)
            if found is not None:
                return _in_order(species, *found, chance)
        found = _random_crystal(Counter(species), 1, chance) or _scattered(species, chance)
        return _in_order(species, *found, chance)


def check_pyxtal() -> None:
    """Raise EuhedralError where PyXtal is not installed."""
    if importlib.util.find_spec("pyxtal") is None:
        raise EuhedralError('symmetric random search needs PyXtal: pip install "euhedral[search]"')


def _random_crystal(
    counts: Counter[int], group: int, chance: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Cell, coordinates and species of a primitive cell, or None where these atoms do not fit the group's positions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyXtal warns of what it tries
        from pymatgen.core import Element
        from pyxtal import pyxtal

        points = _CENTRING[space_group_symbol(group)[0]]
        elements = sorted(counts)
        crystal = pyxtal()
        try:
            crystal.from_random(
                3,
                group,
                [Element.from_Z(z).symbol for z in elements],
                [counts[z] * points for z in elements],
                random_state=chance,
                max_count=5,
                tm=_least_distances(),
            )
            if not crystal.valid:
                return None
            structure = crystal.to_pymatgen().get_primitive_structure()  # pyright: ignore[reportAttributeAccessIssue]
        # Its own errors, and whatever its tables of radii and positions raise, say that this group does not do.
        except Exception:
            return None
    species = np.array([site.specie.Z for site in structure])
    if len(species) != counts.total() or Counter(species.tolist()) != counts:
        return None
    cell, frac = np.array(structure.lattice.matrix), np.array(structure.frac_coords)
    if np.linalg.det(cell) < 0:  # two edges change places, which leaves the crystal as it is
        cell, frac = cell[[1, 0, 2]], frac[:, [1, 0, 2]]
    return cell, frac, species


@lru_cache(maxsize=1)
def _least_distances() -> Any:
    """PyXtal's default, which it would make anew, with every pair of elements, for each crystal that it tries."""
    from pyxtal.tolerance import Tol_matrix

    return Tol_matrix(prototype="atomic", factor=1.0)


def _scattered(species: list[int], chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A cube with atoms anywhere, the farthest apart of many: for what PyXtal's tables do not know."""
    sizes = np.array([radii(z, z, 0)[0] for z in species])
    edge = float((2 * (4 / 3) * np.pi * (sizes**3).sum()) ** (1 / 3))
    best, widest = np.zeros((len(species), 3)), -1.0
    for _ in range(SCATTERINGS):
        frac = chance.random((len(species), 3))
        apart = frac[:, None] - frac[None]
        apart = np.linalg.norm(apart - np.round(apart), axis=2) + np.eye(len(species))
        if apart.min() > widest:
            best, widest = frac, float(apart.min())
    return edge * np.eye(3), best, np.array(species)


def _in_order(
    wanted: list[int], cell: np.ndarray, frac: np.ndarray, species: np.ndarray, chance: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    waiting = {z: chance.permutation(np.flatnonzero(species == z)).tolist() for z in set(wanted)}
    order = [waiting[z].pop() for z in wanted]
    coordinates = torch.from_numpy(frac[order]).float()
    return torch.from_numpy(cell).float(), wrap(coordinates), torch.tensor(wanted)
