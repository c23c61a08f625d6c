"""Which Wyckoff positions can hold a number of atoms of each element: drawn by chance, or found to be none.

A position without a free coordinate holds one orbit; the others hold any number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, OrbitTemplate
from euhedral.crystal.crystal_family import onto_family
from euhedral.crystal.orbits import expand
from euhedral.crystal.symmetry import space_group as found_group
from euhedral.crystal.wyckoff import wyckoff_positions

MOST_STEPS = 3_000
"""Choices that are tried before a filling counts as not found."""
TRIES = 30
"""Fillings that are tried for one without a supergroup."""
MOST_COLOURS = 4
"""Elements of a filling where none are asked for; most crystals that are known have fewer."""
_CACHED = 50_000


def random_filling(
    space_group: int, counts: Sequence[int], chance: np.random.Generator, *, orbits: int = 1
) -> tuple[OrbitTemplate, list[int]] | None:
    """Positions of a group's primitive cell for some elements, drawn by chance.

    Args:
        space_group: 1 to 230.
        counts: atoms of each element.
        chance: source of randomness.
        orbits: how many there must at least be.

    Returns:
        The template, and which of the counts each of its orbits belongs to; None where nothing was found.
    """
    letters, sizes, single = _positions(space_group)
    search = _Search(sizes, single, chance, orbits)
    largest = sorted(range(len(counts)), key=lambda k: -counts[k])
    found = search.fill([(k, counts[k]) for k in largest])
    if found is None:
        return None
    pairs = sorted((place, k) for k, place in found)
    template = OrbitTemplate.primitive(space_group, "".join(letters[place] for place, _ in pairs))
    return template, [k for _, k in pairs]


def coloured_filling(
    space_group: int, counts: Sequence[int], chance: np.random.Generator, *, orbits: int = 1
) -> tuple[OrbitTemplate, list[int]] | None:
    """As `random_filling`, with the whole space group where one is found: no supergroup, whatever the free numbers are.

    Where there is one count alone its orbits may be of several elements, up to `MOST_COLOURS`.

    Returns:
        The template, and which orbits are of one element: numbers that are those of the counts where there are several.
    """
    found = None
    for _ in range(TRIES):
        filled = random_filling(space_group, counts, chance, orbits=orbits)
        if filled is None:
            return found
        template, colours = filled
        if len(counts) == 1:
            fewest = min(max(orbits, 1), len(colours))
            number = int(chance.integers(fewest, max(min(len(colours), MOST_COLOURS), fewest) + 1))
            colours = chance.permutation([place % number for place in range(len(colours))]).tolist()
        found = template, colours
        if makes_group(template, tuple(colours)):
            return found
    return found


@lru_cache(maxsize=_CACHED)
def can_fill(space_group: int, counts: tuple[int, ...], orbits: int = 1) -> bool:
    """Whether positions of a group's primitive cell can hold these numbers of atoms and have no supergroup by that."""
    found = coloured_filling(space_group, counts, np.random.default_rng(0), orbits=orbits)
    return found is not None and makes_group(found[0], tuple(found[1]))


@lru_cache(maxsize=_CACHED)
def makes_group(template: OrbitTemplate, colours: tuple[int, ...]) -> bool:
    """Whether crystals of a template have its space group and no supergroup, for all but special free numbers.

    Args:
        template: positions of a group.
        colours: which orbits are of one element.
    """
    chance = np.random.default_rng(0)
    for _ in range(3):
        lattice = chance.normal(size=6) * 0.15
        lattice[5] = 2.0
        unit = AsymmetricUnit(
            template=template,
            species=np.array([colours.index(colour) + 1 for colour in colours]),
            coordinates=chance.random((len(colours), 3)),
            lattice=onto_family(torch.from_numpy(lattice)[None], torch.tensor([template.space_group]))[0].numpy(),
        )
        number = found_group(expand([unit]), 1e-3)[0].number
        if number:  # none is found where chance puts atoms on each other
            return number == template.space_group
    return False


@lru_cache(maxsize=256)
def _positions(space_group: int) -> tuple[str, list[int], list[bool]]:
    """Letters, atoms in the primitive cell, and whether only one orbit fits."""
    positions = wyckoff_positions(space_group)
    letters = "".join(positions)
    sizes = [OrbitTemplate.primitive(space_group, letter).sizes[0] for letter in letters]
    return letters, sizes, [not position.free.any() for position in positions.values()]


class _Search:
    """A depth-first search in random order; `taken` are the positions that hold one orbit, which they have."""

    def __init__(self, sizes: list[int], single: list[bool], chance: np.random.Generator, orbits: int) -> None:
        self._sizes, self._single, self._chance = sizes, single, chance
        self._least = orbits
        self._left = MOST_STEPS

    def fill(
        self, wanted: list[tuple[int, int]], taken: frozenset[int] = frozenset(), done: int = 0
    ) -> list[tuple[int, int]] | None:
        """Pairs of element and position for all that is wanted, or None."""
        if not wanted:
            return [] if done >= self._least else None
        self._left -= 1
        if self._left < 0:
            return None
        (element, count), rest = wanted[0], wanted[1:]
        for place in self._chance.permutation(len(self._sizes)).tolist():
            size = self._sizes[place]
            if size > count or place in taken:
                continue
            remaining = [(element, count - size), *rest] if size < count else rest
            after = taken | {place} if self._single[place] else taken
            found = self.fill(remaining, after, done + 1)
            if found is not None:
                return [(element, place), *found]
        return None
