"""Energies above the convex hull of many compositions, against a reference of the same method.

The energy above the hull of a crystal is its energy per atom less that of the most stable mixture of reference crystals of
the same composition. It is negative for a crystal below the hull of the reference, which it would be part of. The hull of
a chemical system is made when it is first asked for and kept.

A crystal without a finite energy, or with an element that has no entry of its own in the reference, has no energy above
the hull; it is a record with its reason.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.elements import SYMBOLS
from euhedral.errors import ConfigError, DataError
from euhedral.screen.lower_hull import LowerHull
from euhedral.screen.method import EnergyMethod, check_same_method
from euhedral.screen.reference import Composition, HullReference, reduced_composition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from euhedral.crystal.batch import CrystalBatch

SYSTEMS_KEPT = 20_000
"""Chemical systems whose hulls are kept, a few kB each; the one not asked for longest goes first."""
ON_HULL = 1e-6
"""Energy above the hull in eV/atom up to which an entry is on it; what is left of rounding."""
_ENUMERATED = 8
"""Up to this many elements all subsystems are looked up, beyond it all entries' systems are gone through."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One phase of the most stable mixture.

    Attributes:
        id: of the entry in the reference.
        formula: its reduced formula.
        share: of the atoms of the mixture, 0 to 1.
    """

    id: str
    formula: str
    share: float


@dataclass(frozen=True, kw_only=True, eq=False)
class HullEnergies:
    """Stability of each composition, one entry each.

    Attributes:
        e_above_hull: eV/atom, (compositions,), negative below the hull, NaN where there is none.
        formation_energies: eV/atom relative to the pure elements of the reference, (compositions,), NaN likewise.
        products: the most stable mixture of the reference at each composition, by falling share; empty where there is none.
        reasons: why there is none, or None.
        method: of the reference.
        mixed: differences between the methods of the energies and the reference that were allowed; empty for none.
    """

    e_above_hull: NDArray[np.float64]
    formation_energies: NDArray[np.float64]
    products: tuple[tuple[Product, ...], ...]
    reasons: tuple[str | None, ...]
    method: EnergyMethod
    mixed: tuple[str, ...]

    @property
    def failures(self) -> dict[str, int]:
        """How often each reason occurs."""
        return dict(Counter(reason for reason in self.reasons if reason is not None).most_common())


class Hull:
    """The hulls of all chemical systems of a reference.

    Args:
        reference: entries of one method.
    """

    def __init__(self, reference: HullReference) -> None:
        self.reference = reference
        self._by_elements = _by_elements(reference)
        self._system = lru_cache(maxsize=SYSTEMS_KEPT)(self._build)
        self._stable: dict[tuple[int, ...], list[int]] = {}
        self._formula = lru_cache(maxsize=None)(reference.formula)

    def __reduce__(self) -> tuple[type[Hull], tuple[HullReference]]:
        # Worker processes build their own hulls; those that are kept here need not travel.
        return Hull, (self.reference,)

    def above_hull(
        self,
        compositions: Sequence[Mapping[int, float] | Composition],
        energies: ArrayLike,
        *,
        method: EnergyMethod,
        allow_other_model: bool = False,
    ) -> HullEnergies:
        """Energy above the hull of each composition.

        Args:
            compositions: amounts by atomic number; need not be reduced.
            energies: eV/atom, (compositions,); one that is not finite becomes a record with its reason.
            method: of the energies.
            allow_other_model: let them come from another model than the reference (see `check_same_method`).

        Raises:
            MismatchError: where energies and reference are of different methods.
            ConfigError: where there is not one energy a composition.
        """
        mixed = check_same_method(method, self.reference.method, allow_other_model=allow_other_model)
        values = np.asarray(energies, dtype=np.float64)
        if values.shape != (len(compositions),):
            raise ConfigError(
                f"expected one energy a composition: {values.shape} energies, {len(compositions)} compositions"
            )
        above, formation = np.full(len(values), math.nan), np.full(len(values), math.nan)
        products: list[tuple[Product, ...]] = [()] * len(values)
        reasons: list[str | None] = [None] * len(values)
        for i, (amounts, energy) in enumerate(zip(compositions, values.tolist(), strict=True)):
            reasons[i] = reason = None if math.isfinite(energy) else "no finite energy"
            if reason is not None:
                continue
            try:
                composition = reduced_composition(amounts)
            except DataError as error:
                reasons[i] = str(error)
                continue
            if missing := self._missing(composition):
                reasons[i] = missing
                continue
            above[i], formation[i], products[i] = self._judge(composition, energy)
        return HullEnergies(
            e_above_hull=above,
            formation_energies=formation,
            products=tuple(products),
            reasons=tuple(reasons),
            method=self.reference.method,
            mixed=mixed,
        )

    def above_hull_of_crystals(
        self, batch: CrystalBatch, energies: ArrayLike, *, method: EnergyMethod, allow_other_model: bool = False
    ) -> HullEnergies:
        """`above_hull` of the compositions of crystals, energies in eV/atom."""
        from euhedral.evaluate.validity import composition_counts

        return self.above_hull(composition_counts(batch), energies, method=method, allow_other_model=allow_other_model)

    def stable(self, elements: Iterable[int]) -> list[int]:
        """Entries of the reference that are on the hull, of all systems within a chemical system.

        Args:
            elements: atomic numbers; those without an entry of their own have no compounds here.
        """
        known = sorted(set(elements) & self.reference.elements)
        found: list[int] = []
        for subset in self._subsystems(tuple(known)):
            if subset not in self._stable:
                members = self._by_elements[subset][0].tolist()
                above = self.above_hull(
                    [self.reference.compositions[entry] for entry in members],
                    self.reference.energies[members],
                    method=self.reference.method,
                ).e_above_hull
                self._stable[subset] = [entry for entry, e in zip(members, above, strict=True) if e <= ON_HULL]
            found += self._stable[subset]
        return found

    def _missing(self, composition: Composition) -> str | None:
        symbols = [SYMBOLS[z] for z, _ in composition if z not in self.reference.elements]
        if not symbols:
            return None
        return f"the hull's reference has no entry for the pure element{'s' * (len(symbols) > 1)} {', '.join(symbols)}"

    def _judge(self, composition: Composition, energy: float) -> tuple[float, float, tuple[Product, ...]]:
        elements = tuple(z for z, _ in composition)
        entries, hull = self._system(elements)
        amounts = np.array([count for _, count in composition], dtype=np.float64)
        x = amounts / amounts.sum()
        formation = energy - float(x @ hull.corner_energies)
        lowest, phases, shares = hull.mixture(x)
        products = tuple(
            Product(
                id=self.reference.ids[entries[phases[i]]], formula=self._formula(int(entries[phases[i]])), share=share
            )
            for i, share in sorted(enumerate(shares.tolist()), key=lambda item: -item[1])
        )
        return formation - lowest, formation, products

    def _subsystems(self, elements: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Sets of elements within a chemical system that the reference has entries of."""
        if len(elements) <= _ENUMERATED:
            subsets = (subset for size in range(1, len(elements) + 1) for subset in combinations(elements, size))
            return [subset for subset in subsets if subset in self._by_elements]
        return [subset for subset in self._by_elements if set(subset) <= set(elements)]

    def _build(self, elements: tuple[int, ...]) -> tuple[NDArray[np.intp], LowerHull]:
        """Entries of the reference in a chemical system, and its hull over them."""
        systems = self._subsystems(elements)
        entries = np.concatenate([self._by_elements[subset][0] for subset in systems])
        fractions = np.zeros((len(entries), len(elements)))
        column = {z: i for i, z in enumerate(elements)}
        corners, row = {}, 0
        for subset in systems:
            rows = self._by_elements[subset][1]
            fractions[row : row + len(rows), [column[z] for z in subset]] = rows
            if len(subset) == 1:
                corners[subset[0]] = row
            row += len(rows)
        return entries, LowerHull(fractions, self.reference.energies[entries], np.array([corners[z] for z in elements]))


def _by_elements(reference: HullReference) -> dict[tuple[int, ...], tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Entries, and their atomic fractions in the order of atomic numbers, by their elements."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for entry, composition in enumerate(reference.compositions):
        groups[tuple(z for z, _ in composition)].append(entry)
    found = {}
    for elements, entries in groups.items():
        counts = np.array([[n for _, n in reference.compositions[entry]] for entry in entries], dtype=np.float64)
        found[elements] = (np.array(entries), counts / counts.sum(axis=1, keepdims=True))
    return found
