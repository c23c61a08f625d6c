"""How likely one ion takes the place of another in a crystal, and how large ions are.

Ions are substituted as they are in the crystals that are known (Hautier et al., Inorg. Chem. 50, 656, 2011; the table of
pymatgen, `SubstitutionProbability`), always by one of the same charge, so that a neutral crystal stays neutral. Atoms
without a charge, as in alloys, and ions that the table lacks, are substituted by elements near them in Mendeleev's order.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from euhedral.crystal.charges import guess_charges

ELEMENTS = 119
MENDELEEV_WIDTH = 3.0
"""Places in Mendeleev's order at which a substitution is less likely by a factor of e."""
FAINTEST = 1e-8
"""Probability of a substitution of which nothing is known."""
MOST_WEIGHED = 100
"""Crystals of the right numbers of atoms that are weighed against each other for one composition."""
IMPOSSIBLE = 1e6
"""Cost of an exchange between elements of unequal numbers of atoms: more than any other adds up to."""


@dataclass(frozen=True)
class IonTable:
    """What is known of substitutions.

    Attributes:
        species: row of each (atomic number, charge).
        likely: probability that the ion of a row is found where that of another is, (species, species); rows are old ones.
    """

    species: dict[tuple[int, int], int]
    likely: np.ndarray

    def substitution(self, old: int, charge: int) -> np.ndarray:
        """Weights of the elements that may take the place of an atom of a charge, by atomic number, (119,)."""
        weights = _neighbours(old) * FAINTEST if charge else _neighbours(old)
        row = self.species.get((old, charge))
        if row is not None:
            weights = weights.copy()
            for (element, other), column in self.species.items():
                if other == charge:
                    weights[element] = max(weights[element], self.likely[row, column])
        return weights


@lru_cache(maxsize=1)
def ion_table() -> IonTable:
    """The table of pymatgen; read in some seconds, once in a process."""
    from pymatgen.analysis.structure_prediction.substitution_probability import SubstitutionProbability

    model = SubstitutionProbability()
    kept = [one for one in sorted(model.species, key=str) if float(one.oxi_state or 0) == round(one.oxi_state or 0)]
    species = {(one.Z, round(float(one.oxi_state or 0))): row for row, one in enumerate(kept)}
    likely = np.zeros((len(kept), len(kept)))
    for row, old in enumerate(kept):
        for column, new in enumerate(kept):
            if round(float(old.oxi_state or 0)) == round(float(new.oxi_state or 0)):
                likely[row, column] = model.cond_prob(new, old)
    return IonTable(species, likely)


def likely_substitutes(old: int, contents: Mapping[int, int]) -> np.ndarray:
    """How likely each element takes the place of one in a crystal, by atomic number, (119,).

    Args:
        old: the element.
        contents: atoms of each element in the crystal, from which its charge follows.
    """
    charges = guess_charges(tuple(sorted(contents.items()))) or {}
    return _substitutes(old, charges.get(old, 0))


def likely_renaming(
    contents: Sequence[Mapping[int, int]], wanted: Mapping[int, int], chance: np.random.Generator
) -> tuple[int, dict[int, int]] | None:
    """One of some crystals and which of its elements becomes which, drawn by how likely the likeliest way to do so is.

    Of many that have the right numbers of atoms, `MOST_WEIGHED` are weighed against each other.

    Args:
        contents: atoms of each element in each crystal.
        wanted: atoms of each element after the change.
        chance: source of randomness.

    Returns:
        Its place and the change, or None where the numbers of atoms are those of no crystal.
    """
    signature = sorted(wanted.values())
    fitting = [
        place
        for place, have in enumerate(contents)
        if len(have) == len(signature) and sorted(have.values()) == signature
    ]
    if not fitting:
        return None
    if len(fitting) > MOST_WEIGHED:
        fitting = [int(place) for place in chance.choice(fitting, MOST_WEIGHED, replace=False)]
    options = [_likeliest(contents[place], wanted) for place in fitting]
    scores = np.array([score for score, _ in options])
    weights = np.exp(scores - scores.max())
    pick = int(chance.choice(len(fitting), p=weights / weights.sum()))
    return fitting[pick], options[pick][1]


def _likeliest(have: Mapping[int, int], wanted: Mapping[int, int]) -> tuple[float, dict[int, int]]:
    """The likeliest way to name elements anew, and the logarithm of its probability."""
    from scipy.optimize import linear_sum_assignment

    olds, news = sorted(have), sorted(wanted)
    cost = np.full((len(olds), len(news)), IMPOSSIBLE)
    for i, old in enumerate(olds):
        likely = likely_substitutes(old, have)
        for j, new in enumerate(news):
            if have[old] == wanted[new]:
                cost[i, j] = 0.0 if old == new else -np.log(likely[new])
    rows, columns = linear_sum_assignment(cost)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return -float(cost[rows, columns].sum()), {olds[i]: news[j] for i, j in pairs}


@lru_cache(maxsize=4096)
def _substitutes(old: int, charge: int) -> np.ndarray:
    return ion_table().substitution(old, charge)


def radii(old: int, new: int, charge: int) -> tuple[float, float]:
    """Radii in Å of an element and of what takes its place: of their ions (Shannon's, of pymatgen) where both have one of the
    charge, of their atoms otherwise, so that the two can be compared.
    """
    ions = _ionic_radius(old, charge), _ionic_radius(new, charge)
    return ions if min(ions) > 0 else (_atomic_radius(old), _atomic_radius(new))


@lru_cache(maxsize=4096)
def _ionic_radius(element: int, charge: int) -> float:
    """0 where there is none."""
    from pymatgen.core import Element, Species

    if not charge:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of each radius that it lacks
        return float(Species(Element.from_Z(element).symbol, charge).ionic_radius or 0.0)


@lru_cache(maxsize=ELEMENTS)
def _atomic_radius(element: int) -> float:
    """1.5 Å where none is known."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        symbol = Element.from_Z(element)
        value = float(symbol.atomic_radius or symbol.atomic_radius_calculated or 0.0)
    return value if value > 0 and math.isfinite(value) else 1.5


@lru_cache(maxsize=ELEMENTS)
def _neighbours(element: int) -> np.ndarray:
    """Weights by distance in Mendeleev's order, 1 for the element itself."""
    order = _mendeleev()
    weights = np.exp(-np.abs(order - order[element]) / MENDELEEV_WIDTH)
    weights[0] = 0.0
    return weights


@lru_cache(maxsize=1)
def _mendeleev() -> np.ndarray:
    from pymatgen.core import Element

    order = np.zeros(ELEMENTS)
    for z in range(1, ELEMENTS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of each element without a place
            place = Element.from_Z(z).mendeleev_no
        order[z] = float(place) if place is not None and math.isfinite(place) else 150.0 + z
    return order
