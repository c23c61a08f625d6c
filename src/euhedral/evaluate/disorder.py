"""Whether one crystal is another with elements exchanged that can share a site in an alloy.

MatterGen (Zeni et al., Nature 2025) counts a crystal as known if it equals a reference once elements that substitute
each other are spread over each other's sites: two elements do if their atomic radii differ by at most 30 % of the mean
and their Pauling electronegativities by at most 1. The disordered crystal is then matched with the reference by
pymatgen, allowing supercells and subsets of sites. Elements without a tabulated radius or electronegativity are taken
to substitute nothing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

from euhedral.crystal.elements import SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from euhedral.evaluate.comparison import PlainCrystal, Tolerances

RELATIVE_RADIUS = 0.3
"""Largest difference of atomic radii over their mean."""
ELECTRONEGATIVITY = 1.0
"""Largest difference of Pauling electronegativities."""


@lru_cache(maxsize=10_000)
def substitutes(first: int, second: int) -> bool:
    """Whether two elements, by atomic number, can share a site."""
    import warnings

    from pymatgen.core import Element

    radii, electronegativities = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missing value is NaN here, and no comparison with it holds
        for number in (first, second):
            element = Element(SYMBOLS[number])
            radii.append(math.nan if element.atomic_radius is None else float(element.atomic_radius))
            electronegativities.append(float(element.X))
    mean = sum(radii) / 2
    return (
        abs(radii[0] - radii[1]) <= RELATIVE_RADIUS * mean
        and abs(electronegativities[0] - electronegativities[1]) <= ELECTRONEGATIVITY
    )


def substitution_groups(species: Iterable[int]) -> list[tuple[int, ...]]:
    """Groups of two or more elements of a crystal that substitute each other, directly or through a third."""
    groups = [{z} for z in sorted(set(species))]
    for first, second in combinations(sorted(set(species)), 2):
        if substitutes(first, second):
            joined = [group for group in groups if first in group or second in group]
            groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    return sorted(tuple(sorted(group)) for group in groups if len(group) > 1)


def match_disordered(crystal: PlainCrystal, reference: PlainCrystal, tolerances: Tolerances) -> bool:
    """Whether `crystal`, with its elements spread over the sites of their groups, matches `reference`."""
    groups = substitution_groups(crystal.species)
    if not groups:
        return False
    from pymatgen.analysis.structure_matcher import OrderDisorderElementComparator, StructureMatcher
    from pymatgen.core import Structure

    site_of: dict[int, dict[str, float]] = {z: {SYMBOLS[z]: 1.0} for z in crystal.species}
    for group in groups:
        counts = {z: crystal.species.count(z) for z in group}
        total = sum(counts.values())
        for z in group:
            site_of[z] = {SYMBOLS[other]: count / total for other, count in counts.items()}
    disordered = Structure(crystal.cell, [site_of[z] for z in crystal.species], crystal.frac)
    ordered = Structure(reference.cell, [SYMBOLS[z] for z in reference.species], reference.frac)
    matcher = StructureMatcher(
        stol=tolerances.stol,
        ltol=tolerances.ltol,
        angle_tol=tolerances.angle_tol,
        attempt_supercell=True,
        allow_subset=True,
        comparator=OrderDisorderElementComparator(),
    )
    return bool(matcher.fit(disordered, ordered))
