"""Chemical formulas and chemical systems: reading what users type and writing what chemists read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral

from euhedral.crystal.elements import ATOMIC_NUMBERS, ELECTRONEGATIVITIES, SYMBOLS
from euhedral.errors import RequestError

MAX_FORMULA_LENGTH = 200
"""Longest formula that is read, in characters."""
MAX_FORMULA_COUNT = 100_000
"""Largest number of atoms that a formula may stand for."""

_TOKEN = re.compile(r"([A-Z][a-z]?)|([(\[])|([)\]])|(\d+)")
_PLAIN_DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_OPEN_PLACES = ("*", "?")

# Peroxides and molecular elements keep their usual formula, as in pymatgen: 'Li2O2' and not 'LiO'.
_UNREDUCED = {
    "LiO": "Li2O2",
    "NaO": "Na2O2",
    "KO": "K2O2",
    "HO": "H2O2",
    "CsO": "Cs2O2",
    "RbO": "Rb2O2",
    "O": "O2",
    "N": "N2",
    "F": "F2",
    "Cl": "Cl2",
    "H": "H2",
}
# Two last elements that differ by less than this in electronegativity are written as a group, e.g. (PO4)2.
_POLYANION_DIFFERENCE = 1.65


def parse_formula(formula: str) -> dict[int, int]:
    """Atom counts of a formula such as 'LiMnO2', 'Ca3(PO4)2', 'K[Fe(CN)6]' or 'Li₂ Mn₂ O₄'.

    Returns:
        Count by atomic number, elements in the order of the formula.

    Raises:
        RequestError: on anything that is not a formula with whole counts; the message says where and why.
    """
    text = _checked_text(formula)
    groups: list[Counter[int]] = [Counter()]
    brackets: list[str] = []
    last: Counter[int] | None = None  # what a count that follows multiplies; not yet added to its group
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise RequestError(_unreadable(formula, text[place:]))
        place = match.end()
        symbol, opening, closing, digits = match.groups()
        if digits:
            if last is None:
                raise RequestError(f"formula '{formula}': the number {digits} follows no element or bracket")
            last = Counter({z: n * _count(digits, formula) for z, n in last.items()})
            groups[-1].update(last)
            last = None
            continue
        groups[-1].update(last or {})
        last = None
        if symbol:
            last = Counter({_atomic_number(symbol, f"formula '{formula}'"): 1})
        elif opening:
            brackets.append(")" if opening == "(" else "]")
            groups.append(Counter())
        else:
            if not brackets or brackets.pop() != closing:
                raise RequestError(f"formula '{formula}': '{closing}' closes no bracket; check the brackets")
            last = groups.pop()
            if not last:
                raise RequestError(f"formula '{formula}' has an empty bracket")
    groups[-1].update(last or {})
    if brackets:
        raise RequestError(f"formula '{formula}': a bracket is not closed; '{brackets[-1]}' is missing")
    if groups[0].total() > MAX_FORMULA_COUNT:
        raise RequestError(f"formula '{formula}' has more than {MAX_FORMULA_COUNT} atoms")
    return dict(groups[0])


def reduced(counts: Mapping[int, int]) -> tuple[dict[int, int], int]:
    """Counts divided by their greatest common divisor Z, and Z, e.g. Li2Mn2O4 gives (LiMnO2, 2).

    Raises:
        RequestError: on no element or a count below 1.
    """
    if not counts or min(counts.values()) < 1:
        raise RequestError(f"a composition needs at least one element and counts of at least 1, not {dict(counts)}")
    units = math.gcd(*counts.values())
    return {z: n // units for z, n in counts.items()}, units


def cell_formula(species: Sequence[int]) -> str:
    """Full formula of the atoms of one cell, e.g. 'Li2 Mn2 O4', elements by electronegativity (pymatgen's order)."""
    counts = Counter(species)
    return " ".join(f"{SYMBOLS[z]}{counts[z]}" for z in _by_electronegativity(counts))


def reduced_formula(species: Sequence[int]) -> str:
    """Reduced formula of the atoms of one cell, e.g. 'LiMnO2' or 'Ca3(PO4)2', as pymatgen writes it."""
    if not len(species):
        return ""
    counts, _ = reduced(Counter(species))
    formula = _grouped_formula(counts)
    return _UNREDUCED.get(formula, formula)


def parse_chemical_system(text: str) -> tuple[frozenset[int], int]:
    """Elements of 'Li-Mn-O', and how many places 'Li-*-O' leaves open to any further element.

    Raises:
        RequestError: on an unknown or repeated element, or an empty place.
    """
    parts = [part.strip() for part in str(text).split("-")]
    if not any(parts):
        raise RequestError("the chemical system is empty; expected elements joined by '-', such as Li-Mn-O or Li-*-O")
    where = f"chemical system '{text}'"
    if not all(parts):
        raise RequestError(f"{where} has an empty place; expected elements joined by '-', such as Li-Mn-O or Li-*-O")
    named = [part for part in parts if part not in _OPEN_PLACES]
    numbers = [_atomic_number(part, where) for part in named]
    if repeated := [SYMBOLS[z] for z, n in Counter(numbers).items() if n > 1]:
        raise RequestError(f"{where} names {', '.join(repeated)} more than once; name each element once")
    return frozenset(numbers), len(parts) - len(named)


def parse_elements(elements: str | Iterable[str | int]) -> frozenset[int]:
    """Atomic numbers of 'Li,Mn,O' (commas, spaces or '-'), or of a list of symbols or atomic numbers.

    Raises:
        RequestError: on an unknown element or an empty list.
    """
    given = re.split(r"[\s,;-]+", elements.strip(" ,;-\t\n")) if isinstance(elements, str) else list(elements)
    numbers: set[int] = set()
    for element in given:
        if isinstance(element, Integral) and not isinstance(element, bool):
            if not 1 <= int(element) < len(SYMBOLS):
                raise RequestError(f"there is no element {element}; atomic numbers run from 1 to {len(SYMBOLS) - 1}")
            numbers.add(int(element))
        elif element != "":
            numbers.add(_atomic_number(str(element).strip(), "elements"))
    if not numbers:
        raise RequestError("no elements were given; expected symbols joined by commas, such as Li,Mn,O")
    return frozenset(numbers)


def _checked_text(formula: str) -> str:
    if not isinstance(formula, str):
        raise RequestError(f"a formula is text such as LiMnO2, not {type(formula).__name__}")
    if len(formula) > MAX_FORMULA_LENGTH:
        raise RequestError(f"the formula has {len(formula)} characters; at most {MAX_FORMULA_LENGTH} are read")
    text = "".join(formula.translate(_PLAIN_DIGITS).split())
    if not text:
        raise RequestError("the formula is empty; expected something like LiMnO2 or Ca3(PO4)2")
    if (decimal := re.search(r"[0-9]*\.[0-9]+", text)) is not None:
        raise RequestError(
            f"formula '{formula}' cannot be read at '{decimal[0]}': counts must be whole; multiply the formula until they "
            "are (added molecules go in brackets, as in CuSO4(H2O)5)"
        )
    return text


def _unreadable(formula: str, rest: str) -> str:
    start = f"formula '{formula}' cannot be read at '{rest[:20]}'"
    if rest[0].islower():
        return f"{start}: element symbols start with a capital letter, as in LiMnO2"
    if rest[0] in ".,":
        return f"{start}: counts must be whole; multiply the formula until they are"
    if rest[0] in "·*•":
        return f"{start}: write added molecules in brackets, as in CuSO4(H2O)5"
    if rest[0] in "+-":
        return f"{start}: charges are not part of a formula; for a chemical system use the chemical-system option"
    return f"{start}: expected elements, whole counts and brackets, as in Ca3(PO4)2"


def _count(digits: str, formula: str) -> int:
    # The length is checked first: the conversion of very long digit strings is slow, and Python refuses it.
    if len(digits) > 6 or not 1 <= int(digits) <= MAX_FORMULA_COUNT:
        raise RequestError(f"formula '{formula}': the count {digits[:12]} is not between 1 and {MAX_FORMULA_COUNT}")
    return int(digits)


def _atomic_number(symbol: str, where: str) -> int:
    if (number := ATOMIC_NUMBERS.get(symbol)) is not None:
        return number
    shown = symbol[:20]
    if symbol in ("D", "T"):
        raise RequestError(f"{where}: isotopes are not told apart; write H instead of {shown}")
    if symbol.capitalize() in ATOMIC_NUMBERS:
        raise RequestError(f"{where}: there is no element '{shown}'; did you mean '{symbol.capitalize()}'?")
    near = get_close_matches(shown, SYMBOLS[1:], n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; element symbols look like Li, Mn or O"
    raise RequestError(f"{where}: there is no element '{shown}'{hint}")


def _by_electronegativity(counts: Iterable[int]) -> list[int]:
    def key(z: int) -> tuple[float, str]:
        value = ELECTRONEGATIVITIES[z]
        return (math.inf if math.isnan(value) else value, SYMBOLS[z])

    return sorted(counts, key=key)


def _grouped_formula(counts: Mapping[int, int]) -> str:
    """Formula of reduced counts, with the two most electronegative elements as a group where they form an anion."""
    order = _by_electronegativity(counts)
    anion = ""
    if len(order) > 2 and ELECTRONEGATIVITIES[order[-1]] - ELECTRONEGATIVITIES[order[-2]] < _POLYANION_DIFFERENCE:
        inner, groups = reduced({z: counts[z] for z in order[-2:]})
        if groups > 1:
            anion = f"({_grouped_formula(inner)}){groups}"
            order = order[:-2]
    return "".join(f"{SYMBOLS[z]}{counts[z] if counts[z] > 1 else ''}" for z in order) + anion
