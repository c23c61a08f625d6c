"""Crystals as orbits: free coordinates expanded to all atoms by the Wyckoff positions, and atoms projected back on them.

Point j of an orbit with free coordinates u lies at f_j = T_j u + t_j in its cell, T_j = B^-T A_j for the map A_j of the
position and the rows B of the cell in the conventional basis. A displacement d of all atoms becomes one of the free
coordinates by the mean over the orbit of A_j^+ B^T d_j, with the pseudoinverse A^+ (Jiao et al., DiffCSP++, ICLR 2024,
Eq. 8): the inverse of the expansion on symmetric displacements, and a projection on them for all others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, OrbitTemplate
from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.crystal_family import family_subspace
from euhedral.crystal.geometry import wrap, wrap_centered
from euhedral.crystal.lattice import cell_from_log_symmetric
from euhedral.crystal.wyckoff import wyckoff_positions
from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_CACHED = 50_000
"""Templates whose expansion is kept, about 2 kB each for 20 atoms; MP-20 has some thousands."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Orbits:
    """How the atoms of crystals of one atom count n follow from free coordinates; o is the largest number of orbits.

    Attributes:
        maps: T_j of the module, (b, n, 3, 3).
        shifts: t_j, (b, n, 3).
        inverses: A_j^+ B^T, (b, n, 3, 3).
        owner: orbit of each atom, (b, n).
        share: one over the atoms of the orbit where an atom belongs to it, else 0, (b, o, n).
        free: free coordinates of each orbit; none of places that are no orbit, (b, o, 3).
        basis: rows of the cell in the conventional basis, (b, 3, 3).
        conventional_atoms: atoms of the conventional cell, (b,).
        lattice_free: free coordinates of the conventional lattice (`crystal_family.family_subspace`), (b, 6).
        lattice_fixed: the values of the others, (b, 6).
    """

    maps: Float[Tensor, "b n 3 3"]
    shifts: Float[Tensor, "b n 3"]
    inverses: Float[Tensor, "b n 3 3"]
    owner: Int[Tensor, "b n"]
    share: Float[Tensor, "b o n"]
    free: Bool[Tensor, "b o 3"]
    basis: Float[Tensor, "b 3 3"]
    conventional_atoms: Float[Tensor, " b"]
    lattice_free: Bool[Tensor, "b 6"]
    lattice_fixed: Float[Tensor, "b 6"]

    @classmethod
    def of(cls, templates: Sequence[OrbitTemplate], *, dtype: torch.dtype = torch.float32) -> Orbits:
        """The orbits of templates of one atom count; there is at least one template.

        Raises:
            CrystalError: where atom counts differ.
        """
        sites = [_sites(template) for template in templates]
        counts = {len(one.owner) for one in sites}
        if len(counts) != 1:
            raise CrystalError(f"orbits are laid out for templates of one atom count, not of {sorted(counts)}")
        widest = max(len(one.free) for one in sites)
        owner = torch.from_numpy(np.stack([one.owner for one in sites]))
        member = torch.nn.functional.one_hot(owner, widest).mT.to(dtype)
        groups = torch.tensor([template.space_group for template in templates])
        lattice_free, lattice_fixed = family_subspace(groups)
        free = np.zeros((len(sites), widest, 3), dtype=bool)
        for row, one in enumerate(sites):
            free[row, : len(one.free)] = one.free
        return cls(
            maps=torch.from_numpy(np.stack([one.maps for one in sites])).to(dtype),
            shifts=torch.from_numpy(np.stack([one.shifts for one in sites])).to(dtype),
            inverses=torch.from_numpy(np.stack([one.inverses for one in sites])).to(dtype),
            owner=owner,
            share=member / member.sum(-1, keepdim=True).clamp_min(1),
            free=torch.from_numpy(free),
            basis=torch.from_numpy(np.stack([template.basis_matrix for template in templates])).to(dtype),
            conventional_atoms=torch.tensor([counts.copy().pop() / t.volume for t in templates]).round().to(dtype),
            lattice_free=lattice_free,
            lattice_fixed=lattice_fixed.to(dtype),
        )

    def to(self, device: torch.device | str) -> Orbits:
        """Move to a device."""
        return Orbits(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    @property
    def is_orbit(self) -> Bool[Tensor, "b o"]:
        """Which places hold an orbit."""
        return self.share.sum(-1) > 0

    def at_atoms(self, values: Tensor) -> Tensor:
        """Values of orbits, (b, o, ...), given to each of their atoms, (b, n, ...)."""
        index = self.owner.reshape(*self.owner.shape, *[1] * (values.dim() - 2))
        return values.gather(1, index.expand(-1, -1, *values.shape[2:]))

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the atoms of each orbit, (b, n, k) to (b, o, k)."""
        # Out of reach of autocast, as all of this module: coordinates in bfloat16 are off by a tenth of an Å.
        with torch.autocast(values.device.type, enabled=False):
            return self.share @ values

    def expand(self, coordinates: Float[Tensor, "b o 3"]) -> Float[Tensor, "b n 3"]:
        """All atoms in fractional coordinates of the cell, in [0, 1)."""
        return wrap(self.displace(coordinates) + self.shifts)

    def displace(self, moves: Float[Tensor, "b o 3"]) -> Float[Tensor, "b n 3"]:
        """Displacements of all atoms, fractional, that displacements of the free coordinates bring with them."""
        return (self.maps * self.at_atoms(moves)[:, :, None]).sum(-1)

    def pull(self, moves: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """What the displacement of each atom alone says of the free coordinates of its orbit."""
        return (self.inverses * moves[:, :, None]).sum(-1)

    def collect(self, moves: Float[Tensor, "b n 3"]) -> Float[Tensor, "b o 3"]:
        """Displacements of the free coordinates: the mean of `pull` over each orbit; 0 where nothing is free."""
        return self.mean(self.pull(moves)) * self.free

    def project(self, moves: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Displacements of atoms, projected on those that keep the symmetry."""
        return self.displace(self.collect(moves))

    def nearest(self, frac: Float[Tensor, "b n 3"], *, near: Float[Tensor, "b o 3"]) -> Float[Tensor, "b o 3"]:
        """Free coordinates of the symmetric crystal that atoms are projected on.

        Args:
            frac: atoms in the order of `expand`, within less than half a cell of it.
            near: free coordinates that say which images of the atoms are meant.
        """
        return wrap(near + self.collect(wrap_centered(frac - self.expand(near))))

    def lattice(self, coordinates: Float[Tensor, "b 6"]) -> Float[Tensor, "b 6"]:
        """Log-symmetric coordinates of the conventional cell, projected on those of the crystal family."""
        return torch.where(self.lattice_free, coordinates, self.lattice_fixed.to(coordinates.dtype))

    def cell(self, coordinates: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3 3"]:
        """The cell in Å, of log-symmetric coordinates of the conventional one (with its atom count)."""
        with torch.autocast(coordinates.device.type, enabled=False):
            return self.basis.to(coordinates.dtype) @ cell_from_log_symmetric(coordinates, self.conventional_atoms)


def expand(units: Sequence[AsymmetricUnit], *, dtype: torch.dtype = torch.float64) -> CrystalBatch:
    """The crystals of asymmetric units, atoms orbit by orbit; of any atom counts."""
    crystals = []
    for unit in units:
        orbits = Orbits.of([unit.template], dtype=dtype)
        crystals.append(
            (
                orbits.cell(torch.from_numpy(unit.lattice)[None].to(dtype))[0],
                orbits.expand(torch.from_numpy(unit.coordinates)[None].to(dtype))[0],
                orbits.at_atoms(torch.from_numpy(unit.species)[None])[0],
            )
        )
    return CrystalBatch.from_crystals(crystals)


class _Sites(NamedTuple):
    """The atoms of one template; see `Orbits`."""

    maps: NDArray[np.float64]
    shifts: NDArray[np.float64]
    inverses: NDArray[np.float64]
    owner: NDArray[np.int64]
    free: NDArray[np.bool_]


@lru_cache(maxsize=_CACHED)
def _sites(template: OrbitTemplate) -> _Sites:
    positions = wyckoff_positions(template.space_group)
    basis = template.basis_matrix
    to_cell = np.linalg.inv(basis).T
    parts = [_in_cell(template.space_group, letter, template.basis) for letter in template.letters]
    maps = np.concatenate([part[0] for part in parts])
    shifts = np.concatenate([part[1] for part in parts])
    return _Sites(
        maps=to_cell @ maps,
        shifts=shifts @ to_cell.T,
        inverses=np.linalg.pinv(maps) @ basis.T,
        owner=np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts]),
        free=np.stack([positions[letter].free for letter in template.letters]),
    )


@lru_cache(maxsize=_CACHED)
def _in_cell(
    space_group: int, letter: str, basis: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Maps and shifts, in conventional coordinates, of the points of a position that differ in a cell."""
    position = wyckoff_positions(space_group)[letter]
    matrix = np.array(basis).reshape(3, 3)
    wanted = round(position.multiplicity * abs(float(np.linalg.det(matrix))))
    back = np.linalg.inv(matrix)
    for reach in range(64):
        whole = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)), dtype=np.float64)
        shifts = (position.shifts[:, None] + whole).reshape(-1, 3)
        maps = np.repeat(position.maps, len(whole), axis=0)
        inside = np.round(24 * 6 * (shifts @ back)).astype(np.int64) % (24 * 6)
        keys = np.concatenate([maps.reshape(-1, 9).astype(np.int64), inside], 1)
        kept = np.sort(np.unique(keys, axis=0, return_index=True)[1])
        if len(kept) == wanted:
            return maps[kept], shifts[kept]
    raise CrystalError(f"the cell {basis} does not hold whole orbits of space group {space_group}")
