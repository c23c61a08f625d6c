"""Which phases of a reference are weighed in, which gases can take part, and which phases compete."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from euhedral.crystal.elements import ATOMIC_NUMBERS
from euhedral.crystal.formula import parse_formula
from euhedral.evaluate.validity import content_validity
from euhedral.screen.hull import Hull
from euhedral.screen.reactions import Substance
from euhedral.screen.reference import Composition, formula_of, reduced_composition


def _numbers(symbols: str) -> frozenset[int]:
    return frozenset(ATOMIC_NUMBERS[symbol] for symbol in symbols.split())


_CARBON, _HYDROGEN, _OXYGEN, _FLUORINE = (ATOMIC_NUMBERS[symbol] for symbol in ("C", "H", "O", "F"))
_NO_SOLID = _numbers("H He N O F Ne Cl Ar Kr Xe Rn")
"""Elements that are not weighed in as such."""
_ANIONS = _numbers("C N O F P S Cl As Se Br Te I")
_VOLATILE = _numbers("H C N O F S Cl")
"""Binary phases of two of these are gases or liquids."""
_HALOGENS = _numbers("F Cl Br I")
"""Their binary phases with each other are not weighed in either."""
_BURNT = _numbers("C P As")
"""Not anions where the target has oxygen: phosphides are not burnt to phosphates."""
_MIXED_VALENCE = ("Mn3O4", "Fe3O4", "Co3O4", "Pb3O4", "U3O8", "Pr6O11", "Tb4O7")
"""Oxides on sale whose metal has two oxidation states; other binary phases balance with one."""


def _substance(hull: Hull, entry: int) -> Substance:
    reference = hull.reference
    return Substance(formula=reference.formula(entry), energy=float(reference.energies[entry]), id=reference.ids[entry])


def gases_of(hull: Hull, target: Substance, formulas: Sequence[str]) -> list[Substance]:
    """Gases that can take part: those of an element where the target has it, those with oxygen where it has oxygen."""
    found = []
    for formula in formulas:
        wanted = parse_formula(formula)
        needed = set(wanted) if len(wanted) == 1 else {_OXYGEN} & set(wanted)
        if not needed <= set(target.amounts):
            continue
        reduced = reduced_composition(wanted)
        found += [_substance(hull, e) for e in hull.stable(wanted) if hull.reference.compositions[e] == reduced]
    return [gas for gas in found if gas.amounts != target.amounts]


def candidates_of(hull: Hull, target: Substance, gases: Sequence[Substance]) -> list[Substance]:
    """Phases that are weighed in, all on the hull.

    Solid elements, and binary phases with an anion that one oxidation state an element makes neutral (or of `_MIXED_VALENCE`),
    of the target's elements; where the gas that they give off is allowed, carbonates and hydroxides of its metals.
    """
    own = set(target.amounts)
    anions = _ANIONS - _BURNT if _OXYGEN in own else _ANIONS
    entries = [entry for entry in hull.stable(own) if _is_simple(hull.reference.compositions[entry], anions)]
    names = {frozenset(gas.amounts) for gas in gases}
    for volatile, oxygens, charge in ((_CARBON, 3, 2), (_HYDROGEN, 1, 1)):
        # Carbonates and hydroxides give off the gas of their volatile element.
        if frozenset({volatile, _OXYGEN}) not in names:
            continue
        for metal in sorted(own - _VOLATILE):
            for entry in hull.stable({metal, volatile, _OXYGEN}):
                counts = dict(hull.reference.compositions[entry])
                if len(counts) == 3 and counts[_OXYGEN] == oxygens * counts[volatile]:
                    entries += [entry] * _is_state(metal, Fraction(charge * counts[volatile], counts[metal]))
    unwanted = [gas.amounts for gas in gases] + [target.amounts]
    found = (_substance(hull, entry) for entry in dict.fromkeys(entries))
    return [substance for substance in found if substance.amounts not in unwanted]


def without_elements(target: Substance, candidates: Sequence[Substance]) -> list[Substance]:
    """For a target with oxygen or a halogen, the candidates less those elements that another of them brings with one."""
    anions = set(target.amounts) & {_OXYGEN, *_HALOGENS}
    brought = set().union(
        *(phase.amounts for phase in candidates if len(phase.amounts) > 1 and anions & set(phase.amounts))
    )
    return [phase for phase in candidates if len(phase.amounts) > 1 or not set(phase.amounts) <= brought]


def is_halide(target: Substance) -> bool:
    """Whether a halogen is in it."""
    return not _HALOGENS.isdisjoint(target.amounts)


def without_halogens(gases: Sequence[Substance]) -> list[Substance]:
    """Gases other than fluorine and chlorine."""
    return [gas for gas in gases if not set(gas.amounts) <= _HALOGENS]


def _is_state(metal: int, charge: Fraction) -> bool:
    """Whether a metal has this oxidation state: its fluoride is neutral."""
    return charge.denominator == 1 and content_validity([metal] + [_FLUORINE] * int(charge), "smact").valid


def _is_simple(composition: Composition, anions: frozenset[int]) -> bool:
    elements = {z for z, _ in composition}
    if len(elements) == 1:
        return not elements & _NO_SOLID
    if len(elements) != 2 or not elements & anions or elements <= _VOLATILE or elements <= _HALOGENS:
        return False
    species = [z for z, count in composition for _ in range(count)]
    return formula_of(composition) in _MIXED_VALENCE or content_validity(species, "smact").valid


def rivals_of(
    hull: Hull, target: Substance, precursors: Sequence[Substance], gases: Sequence[Substance]
) -> list[Substance]:
    """Phases on the hull that could form instead."""
    elements = set(target.amounts).union(*(substance.amounts for substance in precursors))
    known = [s.amounts for s in (*precursors, *gases, target)]
    found = (_substance(hull, entry) for entry in hull.stable(elements))
    return [substance for substance in found if substance.amounts not in known]
