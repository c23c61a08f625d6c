"""A structure of which parts are kept while the rest is generated: seeds, motifs, host lattices, decorations."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.elements import SYMBOLS
from euhedral.errors import DataError, RequestError

PARTS = ("lattice", "sites", "positions", "species")
_HOW = (
    "lattice, sites, positions or species, the last three of all atoms or of some, such as sites:Ti,O or positions:1-4"
)


@dataclass(frozen=True, kw_only=True)
class Template:
    """What of a structure is kept. Plain values, so that a request with it can be written down.

    Attributes:
        species: atomic number of each site, 0 where the model chooses.
        frac: fractional coordinates of each site, None where the model chooses.
        cell: rows a, b, c in Å; None leaves the lattice to the model.
    """

    species: tuple[int, ...]
    frac: tuple[tuple[float, float, float] | None, ...]
    cell: tuple[tuple[float, float, float], ...] | None = None

    def __post_init__(self) -> None:
        if len(self.species) != len(self.frac):
            raise RequestError(
                f"a template has {len(self.species)} species and {len(self.frac)} positions; give as many"
            )

    @classmethod
    def read(cls, path: str | Path, keep: Sequence[str]) -> Template:
        """The one structure of a file (CIF, POSCAR, extxyz, ...); see `of`. Raises DataError where it cannot be read."""
        from euhedral.data.samples import read_samples

        samples = read_samples(path)
        if len(samples) != 1:
            raise RequestError(f"--template takes a file with one structure, and {path} has {len(samples)}")
        if samples.reasons[0] is not None:
            raise DataError(f"the structure of {path} cannot be read: {samples.reasons[0]}")
        return cls.of(samples.crystals, keep)

    @classmethod
    def of(cls, crystal: CrystalBatch, keep: Sequence[str]) -> Template:
        """What is named is kept of a crystal; the others of its atoms stay open.

        Args:
            crystal: one crystal.
            keep: each `lattice`, `sites`, `positions` or `species`; the last three may name elements or numbers of atoms,
                from 1, as in `sites:Ti,O` or `positions:1-4`.

        Raises:
            RequestError: for another word, an element or number that the crystal does not have, or nothing.
        """
        if len(crystal) != 1:
            raise RequestError(f"a template is one crystal, not {len(crystal)}")
        species, lattice = crystal.species.tolist(), False
        named, placed = set[int](), set[int]()
        for text in keep:
            part, colon, chosen = text.partition(":")
            if part not in PARTS or (part == "lattice" and colon):
                raise RequestError(f"what is kept of a template must be {_HOW}; not {text!r}")
            lattice |= part == "lattice"
            atoms = _chosen(chosen, species) if colon else range(len(species))
            named |= set(atoms) if part in ("sites", "species") else set()
            placed |= set(atoms) if part in ("sites", "positions") else set()
        if not (lattice or named or placed):
            raise RequestError(f"nothing of the template is kept: say what, as {_HOW}")
        frac = crystal.frac.double().tolist()
        return cls(
            species=tuple(z if atom in named else 0 for atom, z in enumerate(species)),
            frac=tuple((x[0], x[1], x[2]) if atom in placed else None for atom, x in enumerate(frac)),
            cell=tuple((a[0], a[1], a[2]) for a in crystal.cell[0].double().tolist()) if lattice else None,
        )

    def __len__(self) -> int:
        return len(self.species)

    @property
    def ordered(self) -> Template:
        """Sites with a position first, then those with a species alone; sites of which nothing is kept are left out."""
        kept = [k for k in range(len(self)) if self.frac[k] is not None]
        kept += [k for k in range(len(self)) if self.frac[k] is None and self.species[k]]
        return Template(
            species=tuple(self.species[k] for k in kept), frac=tuple(self.frac[k] for k in kept), cell=self.cell
        )

    @property
    def elements(self) -> frozenset[int]:
        """Elements that are kept."""
        return frozenset(self.species) - {0}

    @property
    def undecided(self) -> bool:
        """Whether a position is kept whose species the model chooses."""
        return any(x is not None and not z for x, z in zip(self.frac, self.species, strict=True))

    @property
    def positions(self) -> torch.Tensor:
        """Coordinates that are kept, (k, 3), float64."""
        return torch.tensor([x for x in self.frac if x is not None], dtype=torch.float64).reshape(-1, 3)


def _chosen(text: str, species: Sequence[int]) -> Collection[int]:
    """Atoms by element or number. Raises RequestError for one that is not there."""
    found: set[int] = set()
    for word in text.split(","):
        if word in SYMBOLS:
            atoms = [atom for atom, z in enumerate(species) if SYMBOLS[z] == word]
            if not atoms:
                there = ", ".join(SYMBOLS[z] for z in sorted(set(species)))
                raise RequestError(f"the template has no {word}; it has {there}")
            found.update(atoms)
        elif match := re.fullmatch(r"(\d+)(?:-(\d+))?", word):
            first, last = int(match[1]), int(match[2] or match[1])
            if not 1 <= first <= last <= len(species):
                raise RequestError(f"the template has atoms 1 to {len(species)}, and none {word}")
            found.update(range(first - 1, last))
        else:
            raise RequestError(f"{word!r} is neither an element nor a number of an atom such as 3 or 1-4")
    return found
