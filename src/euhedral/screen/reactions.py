"""Balanced reactions with whole-number coefficients, and their energies.

Energies are those of the entries: crystals at 0 K, gases in the crystal or cell that the reference has for them. Neither
temperature nor the entropy of gases is in them, which favours the release of a gas by about 0.2 eV/molecule for every
100 K, and nothing of kinetics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from euhedral.crystal.formula import parse_formula
from euhedral.errors import DataError

KJ_PER_MOL = 96.48533212
"""kJ/mol in one eV, CODATA 2018."""


@dataclass(frozen=True, kw_only=True)
class Substance:
    """A phase or a gas that takes part.

    Attributes:
        formula: reduced; of a diatomic gas that of the molecule.
        energy: eV/atom.
        id: of the entry in the reference; empty for the target.
    """

    formula: str
    energy: float
    id: str = ""

    @cached_property
    def amounts(self) -> dict[int, int]:
        """Atoms of a formula unit by atomic number."""
        return parse_formula(self.formula)

    @cached_property
    def atoms(self) -> int:
        """Atoms of a formula unit."""
        return sum(self.amounts.values())


@dataclass(frozen=True, kw_only=True)
class Reaction:
    """A balanced reaction; the target is the first product.

    Attributes:
        reactants: coefficients, whole and positive, with substances.
        products: likewise; gases that are released come after the target.
    """

    reactants: tuple[tuple[int, Substance], ...]
    products: tuple[tuple[int, Substance], ...]

    def __str__(self) -> str:
        return f"{_side(self.reactants)} -> {_side(self.products)}"

    @property
    def atoms(self) -> int:
        """Atoms on either side."""
        return sum(count * substance.atoms for count, substance in self.products)

    @property
    def total_energy(self) -> float:
        """Products less reactants in eV, for the coefficients as they are."""
        return sum(n * s.atoms * s.energy for n, s in self.products) - sum(
            n * s.atoms * s.energy for n, s in self.reactants
        )

    @property
    def energy(self) -> float:
        """Reaction energy in eV per atom of one side; negative where energy is released."""
        return self.total_energy / self.atoms

    @property
    def kj_per_mol(self) -> float:
        """Reaction energy in kJ per mole of formula units of the target."""
        return self.total_energy / self.products[0][0] * KJ_PER_MOL


def balance(columns: Sequence[Mapping[int, int]], target: Mapping[int, int]) -> tuple[Fraction, ...] | None:
    """The `x` with `sum_i x_i columns_i = target`, element by element, by exact elimination.

    Args:
        columns: atoms of each substance by atomic number.
        target: likewise.

    Returns:
        One number a column, or None where there is no solution or more than one.
    """
    elements = sorted(set(target).union(*columns))
    rows = [[Fraction(column.get(z, 0)) for column in columns] + [Fraction(target.get(z, 0))] for z in elements]
    for pivot in range(len(columns)):
        found = next((i for i in range(pivot, len(rows)) if rows[i][pivot]), None)
        if found is None:
            return None
        rows[pivot], rows[found] = rows[found], rows[pivot]
        lead = rows[pivot][pivot]
        rows[pivot] = [value / lead for value in rows[pivot]]
        for i, row in enumerate(rows):
            if i != pivot and row[pivot]:
                factor = row[pivot]
                rows[i] = [value - factor * own for value, own in zip(row, rows[pivot], strict=True)]
    if any(row[-1] for row in rows[len(columns) :]):
        return None
    return tuple(row[-1] for row in rows[: len(columns)])


def make_reaction(precursors: Sequence[Substance], target: Substance, gases: Sequence[Substance] = ()) -> Reaction:
    """The reaction of precursors to a target that takes or releases gases.

    Raises:
        DataError: where it cannot be balanced in one way, or a precursor would have to be a product.
    """
    sides = [*precursors, *gases]
    amounts = balance([substance.amounts for substance in sides], target.amounts)
    if amounts is None or any(amount <= 0 for amount in amounts[: len(precursors)]):
        names = ", ".join(substance.formula for substance in sides)
        raise DataError(f"{target.formula} is not made in one way, with positive amounts of precursors, of {names}")
    units = math.lcm(*(amount.denominator for amount in amounts))
    whole = [int(amount * units) for amount in amounts]
    return Reaction(
        reactants=tuple((n, s) for n, s in zip(whole, sides, strict=True) if n > 0),
        products=((units, target), *((-n, s) for n, s in zip(whole, sides, strict=True) if n < 0)),
    )


def _side(terms: Sequence[tuple[int, Substance]]) -> str:
    return " + ".join(s.formula if n == 1 else f"{n} {s.formula}" for n, s in terms)
