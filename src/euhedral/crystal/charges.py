"""Oxidation states of a composition: the most usual ones that are neutral together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import lru_cache

from euhedral.crystal.batch import MAX_ATOMIC_NUMBER

MOST_COMBINATIONS = 200_000
"""Combinations of states that are looked at; a composition with more has none."""


@lru_cache(maxsize=100_000)
def guess_charges(counts: tuple[tuple[int, int], ...]) -> dict[int, int] | None:
    """One oxidation state for each element that make a composition neutral, the likeliest such.

    The likelihood of a state is how often the element has it among the bond-valence assignments of the ICSD that pymatgen
    counts (`Composition.oxi_prob`), plus one for states that it lists without counting.

    Args:
        counts: atomic number and number of atoms of each element, by rising atomic number.

    Returns:
        The state of each atomic number; None where no combination is neutral, as in an alloy.
    """
    states = _states()
    options = [[(charge, weight) for charge, weight in states.get(z, {}).items()] for z, _ in counts]
    if math.prod(len(option) for option in options) > MOST_COMBINATIONS:
        return None
    best, found = -math.inf, None
    for chosen in itertools.product(*options):
        if sum(charge * count for (charge, _), (_, count) in zip(chosen, counts, strict=True)) == 0:
            likely = sum(weight * count for (_, weight), (_, count) in zip(chosen, counts, strict=True))
            if likely > best and any(charge for charge, _ in chosen):
                best, found = likely, {z: charge for (charge, _), (z, _) in zip(chosen, counts, strict=True)}
    return found


@lru_cache(maxsize=1)
def _states() -> Mapping[int, Mapping[int, float]]:
    """Logarithm of the share of each oxidation state, by atomic number."""
    from pymatgen.core import Composition, Element

    if Composition.oxi_prob is None:
        Composition("NaCl").oxi_state_guesses()  # which reads the table
    counted: dict[int, dict[int, float]] = {}
    for species, number in (Composition.oxi_prob or {}).items():
        charge = float(species.oxi_state)
        if charge == round(charge):
            of = counted.setdefault(species.Z, {})
            of[round(charge)] = of.get(round(charge), 0.0) + float(number)
    for z in range(1, MAX_ATOMIC_NUMBER + 1):
        element = Element.from_Z(z)
        of = counted.setdefault(z, {})
        for charge in element.icsd_oxidation_states or element.common_oxidation_states:
            of[int(charge)] = of.get(int(charge), 0.0) + 1.0
    return {z: {q: math.log(n / sum(of.values())) for q, n in of.items()} for z, of in counted.items() if of}
