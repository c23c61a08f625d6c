"""What needs no learning: structures that any model of given compositions must beat.

Random: coordinates uniform, edges and angles of a triclinic cell at random, the volume that of the mean training crystal an
atom. Template: a training crystal of the same numbers of each kind of atom in the cell (A2B4, say), drawn at random, its
elements replaced in the order of their counts, scaled to the volume of the mean training crystal an atom; where there is
none, a random structure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.lattice import cell_from_parameters

if TYPE_CHECKING:
    from jaxtyping import Float

RANDOM, TEMPLATE = "random structures", "random templates"
_FLATTEST = 0.2
"""Least volume of a random cell over the product of its edges; flatter cells are drawn again."""


class TrivialPredictor:
    """Both baselines for the crystals of a training set.

    Args:
        known: the training crystals, of any atom counts.
    """

    def __init__(self, known: CrystalBatch) -> None:
        self._known = known
        self._first = known.first_atom.tolist()
        self._counts = known.num_atoms.tolist()
        self._species = known.species.tolist()
        self.volume = float(known.volume.double().sum() / known.num_atoms.sum())
        """Å³ an atom over all training crystals."""
        self._of_kinds: dict[tuple[int, ...], list[int]] = {}
        for index in range(len(known)):
            self._of_kinds.setdefault(kinds(self._content(index)), []).append(index)

    def draw_contents(self, number: int, *, rng: torch.Generator) -> list[list[int]]:
        """Atomic numbers of the cells of training crystals, drawn with replacement."""
        drawn = torch.randint(len(self._counts), (number,), generator=rng).tolist()
        return [self._content(index) for index in drawn]

    def random(self, contents: Sequence[Sequence[int]], *, rng: torch.Generator) -> CrystalBatch:
        """A random structure of each content, float64."""
        return CrystalBatch.concat([self._random(list(content), rng) for content in contents])

    def template(self, contents: Sequence[Sequence[int]], *, rng: torch.Generator) -> CrystalBatch:
        """A template with other elements for each content, float64."""
        return CrystalBatch.concat([self._template(list(content), rng) for content in contents])

    def templates(self, content: Sequence[int]) -> int:
        """How many training crystals can serve as the template of a content."""
        return len(self._of_kinds.get(kinds(content), ()))

    def _content(self, index: int) -> list[int]:
        first = self._first[index]
        return self._species[first : first + self._counts[index]]

    def _random(self, content: list[int], rng: torch.Generator) -> CrystalBatch:
        cell = _random_cell(rng)
        cell = cell * (self.volume * len(content) / torch.linalg.det(cell)) ** (1 / 3)
        frac = torch.rand(len(content), 3, generator=rng, dtype=torch.float64)
        return CrystalBatch.from_crystals([(cell, frac, torch.tensor(content))])

    def _template(self, content: list[int], rng: torch.Generator) -> CrystalBatch:
        choices = self._of_kinds.get(kinds(content), [])
        if not choices:
            return self._random(content, rng)
        index = choices[int(torch.randint(len(choices), (), generator=rng))]
        known = self._content(index)
        swap = dict(zip(_by_count(known, rng), _by_count(content, rng), strict=True))
        cell = self._known.cell[index].double()
        cell = cell * (self.volume * len(known) / torch.linalg.det(cell).abs()) ** (1 / 3)
        first = self._first[index]
        frac = self._known.frac[first : first + len(known)].double()
        return CrystalBatch.from_crystals([(cell, frac, torch.tensor([swap[z] for z in known]))])


def kinds(species: Sequence[int]) -> tuple[int, ...]:
    """Atoms of each element, sorted: (2, 4) for A2B4."""
    return tuple(sorted(Counter(species).values()))


def _by_count(species: Sequence[int], rng: torch.Generator) -> list[int]:
    """The elements in the order of their counts; ties at random."""
    counts = sorted(Counter(species).items())
    ties = torch.rand(len(counts), generator=rng).tolist()
    return [z for _, _, z in sorted((count, tie, z) for (z, count), tie in zip(counts, ties, strict=True))]


def _random_cell(rng: torch.Generator) -> Float[Tensor, "3 3"]:
    lengths = 1 + 0.5 * torch.rand(3, generator=rng, dtype=torch.float64)
    while True:
        cell = cell_from_parameters(lengths, 60 + 60 * torch.rand(3, generator=rng, dtype=torch.float64))
        if bool(cell.isfinite().all()) and float(torch.linalg.det(cell)) > _FLATTEST * float(lengths.prod()):
            return cell
