"""Templates of training crystals, drawn for what is asked: space group, atom count, and elements that must be there.

A template says which Wyckoff positions are taken and which of them by the same element. For a composition, templates of
the same numbers of atoms are drawn by how likely its elements take the places of theirs (`models.ions`), which stands in
for the learned retrieval of DiffCSP++ (Jiao et al., ICLR 2024, Section 4.3). Where no template fits, positions of the
group are drawn by chance, and where the group has none that fit, atoms without symmetry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, OrbitTemplate
from euhedral.crystal.wyckoff import LETTERS, primitive_basis
from euhedral.models.base import SampleRequest
from euhedral.models.fillings import can_fill, coloured_filling, makes_group
from euhedral.models.ions import likely_renaming, likely_substitutes
from euhedral.noise.masked import MASKED

TRIES = 60
"""Templates that are tried for elements that must be there, before positions are drawn by chance."""
OPEN = 0
ANY = -1


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What one crystal is to hold.

    Attributes:
        num_atoms: atoms in the cell.
        given: atoms of each element that must be there.
        space_group: 1 to 230, 0 where any will do.
        allowed: elements that other atoms may be.
        opens: elements beyond `given` that must come in.
    """

    num_atoms: int
    given: Mapping[int, int]
    space_group: int = 0
    allowed: frozenset[int] = frozenset()
    opens: int = 0

    @property
    def complete(self) -> bool:
        """Whether every atom is given."""
        return sum(self.given.values()) == self.num_atoms


def wanted_crystals(request: SampleRequest) -> list[Wanted]:
    """What each crystal of a request is to hold; a space group where a guidance above 0 asks for one."""
    count, asked = request.species.shape[1], request.guidance > 0
    return [
        Wanted(
            num_atoms=count,
            given=Counter(z for z in given if z != MASKED),
            space_group=int(request.conditions.space_group[row]) if asked else 0,
            allowed=frozenset(torch.nonzero(request.allowed[row])[:, 0].tolist()),
            opens=int(request.open_elements[row]),
        )
        for row, given in enumerate(request.species.tolist())
    ]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A template for one crystal.

    Attributes:
        template: its positions.
        species: element of each orbit, `OPEN` where it is to be chosen.
        colours: which orbits are of one element, and of another than the others; `ANY` where that is open.
    """

    template: OrbitTemplate
    species: list[int]
    colours: list[int]


class TemplateBook(nn.Module):
    """The templates of training crystals, each as often as it occurs."""

    space_group: Tensor
    letters: Tensor
    species: Tensor
    basis: Tensor
    num_atoms: Tensor

    def __init__(self, templates: int, orbits: int) -> None:
        super().__init__()
        self.register_buffer("space_group", torch.ones(templates, dtype=torch.int64))
        self.register_buffer("letters", torch.zeros(templates, orbits, dtype=torch.uint8))
        self.register_buffer("species", torch.zeros(templates, orbits, dtype=torch.uint8))
        self.register_buffer("basis", torch.zeros(templates, 9))
        self.register_buffer("num_atoms", torch.zeros(templates, dtype=torch.int64))

    @classmethod
    def of(cls, units: Sequence[AsymmetricUnit]) -> Self:
        """The templates of asymmetric units."""
        widest = max((len(unit.species) for unit in units), default=0)
        book = cls(len(units), widest)
        for row, unit in enumerate(units):
            orbits = len(unit.species)
            book.space_group[row] = unit.template.space_group
            book.letters[row, :orbits] = torch.tensor([LETTERS.index(one) + 1 for one in unit.template.letters])
            book.species[row, :orbits] = torch.from_numpy(unit.species)
            book.basis[row] = torch.tensor(unit.template.basis)
            book.num_atoms[row] = unit.template.num_atoms
        return book

    def draw(self, wanted: Wanted, chance: np.random.Generator) -> Drawn:
        """A template that holds what is wanted.

        It has the space group wanted if any template or filling of positions has; else it is without symmetry.
        """
        rows = self._rows(wanted.num_atoms, wanted.space_group)
        found = self._matching(wanted, rows, chance) if wanted.complete else None
        found = found or self._trying(wanted, rows, chance)
        if found is None and wanted.space_group:
            found = _filled(wanted, chance)
        if found is None:
            species = [z for z, count in sorted(wanted.given.items()) for _ in range(count)]
            found = Drawn(
                template=OrbitTemplate.primitive(1, "a" * wanted.num_atoms),
                species=species + [OPEN] * (wanted.num_atoms - len(species)),
                colours=[ANY] * wanted.num_atoms,
            )
        return found

    def holds(self, space_group: int, num_atoms: int, composition: Mapping[int, int] | None, elements: int) -> bool:
        """Whether `draw` finds something of the space group; arguments as `SymmetricModel.holds`."""
        if composition is None:
            counts, orbits = (num_atoms,), elements
        else:
            counts, orbits = tuple(sorted(composition.values(), reverse=True)), 1
        rows = self._rows(num_atoms, space_group).tolist()
        if composition is None and any(len(self._contents[row]) >= elements for row in rows):
            return True
        if composition is not None and any(self._signatures[row] == tuple(sorted(counts)) for row in rows):
            return True
        return can_fill(space_group, counts, orbits)

    def _matching(self, wanted: Wanted, rows: np.ndarray, chance: np.random.Generator) -> Drawn | None:
        """A template with as many atoms of each element, whatever these are."""
        found = likely_renaming([self._contents[row] for row in rows.tolist()], wanted.given, chance)
        if found is None:
            return None
        template, colours = self._template(int(rows[found[0]]))
        return Drawn(template=template, species=[found[1][old] for old in colours], colours=colours)

    def _trying(self, wanted: Wanted, rows: np.ndarray, chance: np.random.Generator) -> Drawn | None:
        """Templates by chance, until what is given has a place in one."""
        if not len(rows):
            return None
        if wanted.allowed and wanted.allowed <= set(wanted.given):
            # Nothing else may come in: templates of as many elements are preferred.
            equal = rows[self._elements[rows] == len(wanted.given) + wanted.opens]
            rows = equal if len(equal) else rows
        for row in chance.choice(rows, min(TRIES, len(rows)), replace=False).tolist():
            template, colours = self._template(row)
            species = _assigned(template.sizes, colours, wanted, chance, self._contents[row])
            # Orbits that one element takes, and not several as in the training crystal, may have a supergroup.
            merged = wanted.complete and wanted.space_group
            if species is not None and (not merged or makes_group(template, tuple(species))):
                return Drawn(template=template, species=species, colours=colours)
        return None

    def _rows(self, num_atoms: int, space_group: int) -> np.ndarray:
        """Templates of an atom count; where a space group is asked for, those of it in their primitive cells."""
        rows = self._by_count.get(num_atoms, np.zeros(0, dtype=np.int64))
        if not space_group:
            return rows
        rows = rows[self.space_group.cpu().numpy()[rows] == space_group]
        return rows[np.abs(self.basis.cpu().numpy()[rows] - primitive_basis(space_group).flatten()).max(1) < 0.1]

    def _template(self, row: int) -> tuple[OrbitTemplate, list[int]]:
        """A template and the training crystal's element of each orbit."""
        letters = [index for index in self.letters[row].tolist() if index]
        # The file holds float32; translations of a cell are multiples of a half and a third.
        basis = tuple((np.round(6 * self.basis[row].cpu().numpy().astype(np.float64)) / 6).tolist())
        template = OrbitTemplate(
            space_group=int(self.space_group[row]), letters="".join(LETTERS[k - 1] for k in letters), basis=basis
        )
        return template, self.species[row, : len(letters)].tolist()

    @cached_property
    def _by_count(self) -> dict[int, np.ndarray]:
        counts = self.num_atoms.cpu().numpy()
        return {int(n): np.flatnonzero(counts == n) for n in np.unique(counts)}

    @cached_property
    def _contents(self) -> list[Counter[int]]:
        """Atoms of each element in each training crystal."""
        found = []
        for row in range(len(self.num_atoms)):
            template, colours = self._template(row)
            counts: Counter[int] = Counter()
            for colour, size in zip(colours, template.sizes, strict=True):
                counts[colour] += size
            found.append(counts)
        return found

    @cached_property
    def _signatures(self) -> list[tuple[int, ...]]:
        return [tuple(sorted(counts.values())) for counts in self._contents]

    @cached_property
    def _elements(self) -> np.ndarray:
        return np.array([len(counts) for counts in self._contents])


def _filled(wanted: Wanted, chance: np.random.Generator) -> Drawn | None:
    """Positions of the space group drawn by chance, each element of `given` on some of its own."""
    given = sorted(wanted.given)
    if wanted.complete:
        found = coloured_filling(wanted.space_group, [wanted.given[z] for z in given], chance)
        if found is None:
            return None
        species = [given[k] for k in found[1]]
        return Drawn(template=found[0], species=species, colours=species)
    for _ in range(TRIES):
        least = max(1, len(given) + wanted.opens)
        found = coloured_filling(wanted.space_group, [wanted.num_atoms], chance, orbits=least)
        if found is None:
            return None
        placed = _assigned(found[0].sizes, found[1], wanted, chance, {})
        if placed is not None:
            return Drawn(template=found[0], species=placed, colours=found[1])
    return None


def _assigned(
    sizes: Sequence[int],
    colours: Sequence[int],
    wanted: Wanted,
    chance: np.random.Generator,
    contents: Mapping[int, int],
) -> list[int] | None:
    """An element for the orbits that hold what is given, `OPEN` for the others; None where it has no place.

    Args:
        sizes: atoms of each orbit.
        colours: element of each orbit in the training crystal, so that orbits of one element stay of one.
        wanted: what has to be placed.
        chance: source of randomness.
        contents: atoms of each element in the training crystal; with it, likely exchanges are preferred.
    """
    species = [OPEN] * len(sizes)
    order = sorted(wanted.given, key=lambda z: (-wanted.given[z], z))
    if wanted.complete:
        return species if _exactly(species, sizes, [(z, wanted.given[z]) for z in order], chance, [2000]) else None
    used: set[int] = set()
    for z in order:
        exact = z not in wanted.allowed
        places = [k for k, size in enumerate(sizes) if species[k] == OPEN and not (exact and size > wanted.given[z])]
        fresh = [k for k in places if colours[k] not in used] or places
        owed = wanted.given[z]
        while owed > 0 and fresh:
            weights = np.array([likely_substitutes(colours[k], contents)[z] if contents else 1.0 for k in fresh])
            place = fresh[int(chance.choice(len(fresh), p=weights / weights.sum()))]
            species[place] = z
            used.add(colours[place])
            owed -= sizes[place]
            fresh = [k for k in places if species[k] == OPEN and not (exact and sizes[k] > owed)]
        if owed > 0 or (exact and owed < 0):
            return None
    still = species.count(OPEN)
    return species if still >= wanted.opens and (still == 0 or wanted.allowed or wanted.opens) else None


def _exactly(
    species: list[int],
    sizes: Sequence[int],
    wanted: list[tuple[int, int]],
    chance: np.random.Generator,
    steps: list[int],
) -> bool:
    """Fill in `species` so that each element has its number of atoms and nothing is left open; False where it cannot be."""
    if not wanted:
        return OPEN not in species
    steps[0] -= 1
    if steps[0] < 0:
        return False
    (z, count), rest = wanted[0], wanted[1:]
    tried: set[int] = set()
    for place in chance.permutation(len(sizes)).tolist():
        if species[place] != OPEN or sizes[place] > count or sizes[place] in tried:
            continue
        tried.add(sizes[place])
        species[place] = z
        left = [(z, count - sizes[place]), *rest] if sizes[place] < count else rest
        if _exactly(species, sizes, left, chance, steps):
            return True
        species[place] = OPEN
    return False
