"""`CrystalBatch`, the one data type: a ragged batch of periodic crystals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from ase import Atoms
    from jaxtyping import Float, Int
    from pymatgen.core import Structure

MAX_ATOMIC_NUMBER = 118
_FORMULAS_SHOWN = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class CrystalBatch:
    """Crystals stored one after the other; atom `i` belongs to crystal `owner[i]`.

    Attributes:
        frac: fractional coordinates in [0, 1), (atoms, 3), float32 or float64.
        cell: lattice vectors a, b, c as rows, in Å, (crystals, 3, 3), same dtype as `frac`.
        species: atomic numbers 1..118, (atoms,), int64.
        num_atoms: atoms in each crystal, (crystals,), int64.
        owner: index of the crystal of each atom, (atoms,), int64; computed from `num_atoms`.

    Raises:
        CrystalError: on shapes that do not fit together. Values are checked by `validate`, which readers call.
    """

    frac: Float[Tensor, "atoms 3"]
    cell: Float[Tensor, "crystals 3 3"]
    species: Int[Tensor, " atoms"]
    num_atoms: Int[Tensor, " crystals"]
    owner: Int[Tensor, " atoms"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        atoms, crystals = self.species.shape[0], self.num_atoms.shape[0]
        if self.frac.shape != (atoms, 3) or self.cell.shape != (crystals, 3, 3):
            raise CrystalError(
                f"shapes do not fit: frac {tuple(self.frac.shape)}, cell {tuple(self.cell.shape)}, "
                f"species {tuple(self.species.shape)}, num_atoms {tuple(self.num_atoms.shape)}; "
                "expected frac (atoms, 3), cell (crystals, 3, 3), species (atoms,), num_atoms (crystals,)"
            )
        owner = torch.repeat_interleave(torch.arange(crystals, device=self.num_atoms.device), self.num_atoms)
        if owner.shape[0] != atoms:
            raise CrystalError(f"num_atoms adds up to {owner.shape[0]}, but {atoms} species were given")
        object.__setattr__(self, "owner", owner)

    @classmethod
    def from_crystals(cls, crystals: Sequence[tuple[Tensor, Tensor, Tensor]]) -> CrystalBatch:
        """Build a batch from one `(cell (3, 3), frac (n, 3), species (n,))` triple a crystal; wraps `frac` into [0, 1).

        Array-likes are accepted; the dtype of floating tensors is kept, anything else becomes float32.
        """
        from euhedral.crystal.geometry import wrap

        triples = [(_floating(c), _floating(f), torch.as_tensor(s, dtype=torch.int64)) for c, f, s in crystals]
        if not triples:
            return cls.empty()
        return cls(
            frac=wrap(torch.cat([f.reshape(-1, 3) for _, f, _ in triples])),
            cell=torch.stack([c for c, _, _ in triples]),
            species=torch.cat([s.reshape(-1) for _, _, s in triples]),
            num_atoms=torch.tensor([s.numel() for _, _, s in triples], dtype=torch.int64),
        )

    @classmethod
    def empty(cls) -> CrystalBatch:
        """A batch of no crystals."""
        return cls(
            frac=torch.zeros(0, 3),
            cell=torch.zeros(0, 3, 3),
            species=torch.zeros(0, dtype=torch.int64),
            num_atoms=torch.zeros(0, dtype=torch.int64),
        )

    @classmethod
    def concat(cls, batches: Sequence[CrystalBatch]) -> CrystalBatch:
        """One batch of all crystals, in order."""
        if not batches:
            return cls.empty()
        return cls(
            frac=torch.cat([b.frac for b in batches]),
            cell=torch.cat([b.cell for b in batches]),
            species=torch.cat([b.species for b in batches]),
            num_atoms=torch.cat([b.num_atoms for b in batches]),
        )

    @classmethod
    def from_pymatgen(cls, structures: Sequence[Structure]) -> CrystalBatch:
        """Convert ordered pymatgen structures (float64). Raises CrystalError on partial occupancy."""
        from euhedral.crystal.convert import from_pymatgen

        return from_pymatgen(structures)

    @classmethod
    def from_ase(cls, atoms: Sequence[Atoms]) -> CrystalBatch:
        """Convert ASE atoms that are periodic in three directions (float64)."""
        from euhedral.crystal.convert import from_ase

        return from_ase(atoms)

    def __len__(self) -> int:
        return int(self.num_atoms.shape[0])

    def __repr__(self) -> str:
        real = bool(((self.species >= 1) & (self.species <= MAX_ATOMIC_NUMBER)).all())
        shown = self[:_FORMULAS_SHOWN].formulas() if real else ["species that are no elements"]
        more = ["..."] if len(self) > _FORMULAS_SHOWN else []
        return f"CrystalBatch(crystals={len(self)}, atoms={len(self.species)}: {', '.join(shown + more) or 'none'})"

    def __iter__(self) -> Iterator[CrystalBatch]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> CrystalBatch:
        """Select crystals by position, slice, list of positions or boolean mask; always gives a batch."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"crystal {index} of a batch of {len(self)}")
            chosen = torch.tensor([index % len(self)])
        elif isinstance(index, slice):
            chosen = torch.arange(len(self))[index]
        else:
            chosen = torch.as_tensor(index)
            chosen = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen.long().reshape(-1)
        chosen = chosen.to(self.num_atoms.device)
        counts = self.num_atoms[chosen]
        within = torch.arange(int(counts.sum()), device=counts.device) - torch.repeat_interleave(
            counts.cumsum(0) - counts, counts
        )
        atoms = torch.repeat_interleave(self.first_atom[chosen], counts) + within
        return CrystalBatch(
            frac=self.frac[atoms], cell=self.cell[chosen], species=self.species[atoms], num_atoms=counts
        )

    @cached_property
    def first_atom(self) -> Int[Tensor, " crystals"]:
        """Index of the first atom of each crystal, (crystals,)."""
        return self.num_atoms.cumsum(0) - self.num_atoms

    @property
    def volume(self) -> Float[Tensor, " crystals"]:
        """Volume of each cell in Å³, (crystals,), from |det(cell)|."""
        return torch.linalg.det(self.cell).abs()

    @property
    def density(self) -> Float[Tensor, " crystals"]:
        """Mass density of each crystal in g/cm³, (crystals,)."""
        from euhedral.crystal.elements import ATOMIC_MASSES

        masses = torch.tensor(ATOMIC_MASSES, dtype=self.cell.dtype, device=self.cell.device)[self.species]
        total = torch.zeros(len(self), dtype=self.cell.dtype, device=self.cell.device).index_add_(0, self.owner, masses)
        return total / self.volume * 1.66053906660

    def to(self, target: torch.device | torch.dtype | str) -> CrystalBatch:
        """Move to a device, or change the floating dtype; a coordinate that would be rounded up to 1 becomes 0."""
        if isinstance(target, torch.dtype):
            frac = self.frac.to(target)
            return CrystalBatch(
                frac=frac.masked_fill((frac >= 1) & (self.frac < 1), 0.0),
                cell=self.cell.to(target),
                species=self.species,
                num_atoms=self.num_atoms,
            )
        return CrystalBatch(
            frac=self.frac.to(target),
            cell=self.cell.to(target),
            species=self.species.to(target),
            num_atoms=self.num_atoms.to(target),
        )

    def validate(self) -> CrystalBatch:
        """Return the batch itself if every crystal is one; raise CrystalError naming the first that is not.

        Each crystal has at least one atom, finite numbers, coordinates in [0, 1), a cell of volume above 0.1 Å³ and
        atomic numbers 1..118.
        """
        for name, bad in (
            ("has no atoms", self.num_atoms < 1),
            ("has a cell that is not finite", ~torch.isfinite(self.cell).flatten(1).all(1)),
            ("has a cell of no volume (at most 0.1 Å³)", ~(self.volume > 0.1)),
            ("has a coordinate that is not finite", self._any_atom(~torch.isfinite(self.frac).all(1))),
            ("has a coordinate outside [0, 1)", self._any_atom(((self.frac < 0) | (self.frac >= 1)).any(1))),
            (
                "has an unknown element",
                self._any_atom((self.species < 1) | (self.species > MAX_ATOMIC_NUMBER)),
            ),
        ):
            if bool(bad.any()):
                raise CrystalError(f"crystal {int(bad.nonzero()[0, 0])} of {len(self)} {name}")
        return self

    def formulas(self) -> list[str]:
        """Full cell formula of each crystal, elements by electronegativity, e.g. 'Li2 Mn2 O4'."""
        from euhedral.crystal.formula import cell_formula

        return [cell_formula(c.species.tolist()) for c in self]

    def to_pymatgen(self) -> list[Structure]:
        """One pymatgen Structure a crystal."""
        from euhedral.crystal.convert import to_pymatgen

        return to_pymatgen(self)

    def to_ase(self) -> list[Atoms]:
        """One ASE Atoms a crystal, periodic in three directions."""
        from euhedral.crystal.convert import to_ase

        return to_ase(self)

    def write(self, path: str | Path) -> list[Path]:
        """Write all crystals; the ending chooses: .extxyz or .cif (one file), .parquet, or a folder of CIF files.

        Never overwrites. Returns the files written. Raises OutputError where the target exists or cannot be written.
        """
        from euhedral.crystal.convert import write

        return write(self, Path(path))

    def _any_atom(self, flag: Tensor) -> Tensor:
        count = torch.zeros(len(self), dtype=torch.int64, device=flag.device)
        return count.index_add_(0, self.owner, flag.long()) > 0


def _floating(value: Tensor) -> Tensor:
    tensor = torch.as_tensor(value)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
