"""Validity of crystals by structure and by composition, as the generation benchmarks count it.

Structure (CDVAE, Xie et al., ICLR 2022): no two atoms closer than 0.5 Å and a volume above 0.1 Å³. Composition: some
choice of one oxidation state per element is neutral and gives every cation a lower electronegativity than every anion.
The verdict depends on the table of oxidation states, so two rules are kept apart by name; `describe_rule` says which
table each reads. A crystal that fails keeps its reason and stays in every denominator.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from euhedral.crystal.elements import ATOMIC_NUMBERS, SYMBOLS
from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from euhedral.crystal.batch import CrystalBatch

SMALLEST_DISTANCE = 0.5
"""Atoms at this distance in Å or closer make a structure invalid."""
SMALLEST_VOLUME = 0.1
"""A cell of this volume in Å³ or less makes a structure invalid."""

CompositionRule = Literal["cdvae", "smact"]

# smact 2.2.1, which the published benchmarks pin, differs from the smact14 table and the electronegativities of later
# versions in these two entries (zirconium's is a misprint there). Kept, since the published figures contain them.
_STATES_OF_SMACT_2_2_1 = {ATOMIC_NUMBERS["Ir"]: (-2, -1, 1, 2, 3, 4, 5, 6, 7, 8)}
_ELECTRONEGATIVITIES_OF_SMACT_2_2_1 = {ATOMIC_NUMBERS["Zr"]: 0.33}


@dataclass(frozen=True, kw_only=True)
class CompositionVerdict:
    """Whether a composition passes a rule, and why."""

    valid: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class ValidityRecord:
    """What is wrong with one crystal; None where nothing is."""

    structure_problem: str | None
    composition_problem: str | None

    @property
    def valid(self) -> bool:
        """True if structure and composition are both valid."""
        return self.structure_problem is None and self.composition_problem is None

    @property
    def problem(self) -> str | None:
        """Both problems in words, or None."""
        found = [p for p in (self.structure_problem, self.composition_problem) if p is not None]
        return "; ".join(found) if found else None


@dataclass(frozen=True, kw_only=True)
class ValiditySummary:
    """Shares of valid crystals among all `crystals`, and how often each problem occurs."""

    crystals: int
    structure: float
    composition: float
    both: float
    rule: str
    problems: dict[str, int]


def describe_rule(rule: CompositionRule) -> str:
    """The rule in words: algorithm, table of oxidation states and smact version; belongs beside every figure.

    Raises:
        ConfigError: on an unknown rule.
    """
    from importlib.metadata import version

    _check_rule(rule)
    if rule == "cdvae":
        return (
            "cdvae: neutral combination of the smact14 oxidation states with Pauling test, alloys of metals and single "
            f"elements pass, entries of smact 2.2.1 (Ir, Zr); tables read from smact {version('smact')}"
        )
    return (
        f"smact: the rule of smact_validity of smact {version('smact')} with its default oxidation states (icsd24), "
        "searched without its enumeration"
    )


def construction_problems(batch: CrystalBatch) -> list[str | None]:
    """Why a crystal cannot be built at all (no atoms, not finite, no volume, unknown element), or None; one a crystal.

    The figures use this instead of `CrystalBatch.validate`, which stops at the first crystal that fails.
    """
    import torch

    crystals = len(batch)
    problems: list[str | None] = [None] * crystals
    volume = batch.volume
    checks = (
        ("no atoms", batch.num_atoms < 1),
        ("cell is not finite", ~torch.isfinite(batch.cell).flatten(1).all(1)),
        (f"volume is at most {SMALLEST_VOLUME} Å³", ~(volume > SMALLEST_VOLUME)),
        ("volume is not finite", ~torch.isfinite(volume)),
        ("coordinate is not finite", _any_atom(batch, ~torch.isfinite(batch.frac).all(1))),
        ("unknown element", _any_atom(batch, (batch.species < 1) | (batch.species >= len(SYMBOLS)))),
    )
    for name, bad in checks:
        for i in bad.nonzero().flatten().tolist():
            problems[i] = problems[i] or name
    return problems


def structure_problems(batch: CrystalBatch) -> list[str | None]:
    """Why a structure is invalid, or None; one a crystal.

    Distances are exact minimum-image distances, between different atoms and from an atom to its own images; the
    published script looks at different atoms only, so that a cell shorter than 0.5 Å passes there and fails here.
    """
    import torch

    from euhedral.crystal.geometry import smallest_distance

    problems = construction_problems(batch)
    sound = torch.tensor([i for i, problem in enumerate(problems) if problem is None], dtype=torch.int64)
    if len(sound):
        distances = smallest_distance(batch[sound].to("cpu").to(torch.float64))
        for i, distance in zip(sound.tolist(), distances.tolist(), strict=True):
            if not distance > SMALLEST_DISTANCE:
                problems[i] = f"atoms at most {SMALLEST_DISTANCE} Å apart"
    return problems


def structural_validity(batch: CrystalBatch) -> Bool[Tensor, " crystals"]:
    """True where the smallest distance is above 0.5 Å and the volume above 0.1 Å³, (crystals,)."""
    import torch

    return torch.tensor([problem is None for problem in structure_problems(batch)], dtype=torch.bool)


def composition_validity(batch: CrystalBatch, rule: CompositionRule = "cdvae") -> list[CompositionVerdict]:
    """The verdict of a rule on each composition, one a crystal; see `describe_rule`.

    Raises:
        ConfigError: on an unknown rule.
    """
    _check_rule(rule)
    return [_verdict(counts, rule) for counts in composition_counts(batch)]


def content_validity(species: Sequence[int], rule: CompositionRule = "cdvae") -> CompositionVerdict:
    """The verdict of a rule on the atoms of one cell, given by their atomic numbers.

    Raises:
        ConfigError: on an unknown rule.
    """
    _check_rule(rule)
    return _verdict(_reduced_counts(species), rule)


def assess(batch: CrystalBatch, rule: CompositionRule = "cdvae") -> list[ValidityRecord]:
    """Structure and composition of each crystal, one record a crystal.

    Raises:
        ConfigError: on an unknown rule.
    """
    verdicts = composition_validity(batch, rule)
    return [
        ValidityRecord(structure_problem=problem, composition_problem=None if verdict.valid else verdict.reason)
        for problem, verdict in zip(structure_problems(batch), verdicts, strict=True)
    ]


def summarize_validity(records: Sequence[ValidityRecord], rule: CompositionRule = "cdvae") -> ValiditySummary:
    """Shares over all records, failures included; NaN where there are no records."""
    count = len(records)

    def share(passed: int) -> float:
        return passed / count if count else math.nan

    problems = Counter(p for r in records for p in (r.structure_problem, r.composition_problem) if p is not None)
    return ValiditySummary(
        crystals=count,
        structure=share(sum(r.structure_problem is None for r in records)),
        composition=share(sum(r.composition_problem is None for r in records)),
        both=share(sum(r.valid for r in records)),
        rule=describe_rule(rule),
        problems=dict(problems.most_common()),
    )


def composition_counts(batch: CrystalBatch) -> list[tuple[tuple[int, int], ...]]:
    """Reduced composition of each crystal as (atomic number, count) pairs in the order of atomic numbers."""
    species, compositions, start = batch.species.tolist(), [], 0
    for atoms in batch.num_atoms.tolist():
        compositions.append(_reduced_counts(species[start : start + atoms]))
        start += atoms
    return compositions


def _reduced_counts(species: Sequence[int]) -> tuple[tuple[int, int], ...]:
    counts = Counter(species)
    units = math.gcd(*counts.values()) if counts else 1
    return tuple((z, n // units) for z, n in sorted(counts.items()))


def _verdict(counts: tuple[tuple[int, int], ...], rule: CompositionRule) -> CompositionVerdict:
    if not counts:
        return CompositionVerdict(valid=False, reason="no atoms")
    return _verdict_of(counts, rule)


def _check_rule(rule: str) -> None:
    if rule not in ("cdvae", "smact"):
        raise ConfigError(f"there is no composition rule '{rule}'; use 'cdvae' (published) or 'smact' (current)")


def _any_atom(batch: CrystalBatch, flag: Tensor) -> Tensor:
    import torch

    count = torch.zeros(len(batch), dtype=torch.int64, device=flag.device)
    return count.index_add_(0, batch.owner, flag.long()) > 0


@lru_cache(maxsize=1)
def _smact14() -> dict[int, tuple[tuple[int, ...], float | None]]:
    """Oxidation states and Pauling electronegativity of each element that smact knows."""
    import smact

    table = {}
    for symbol, element in smact.element_dictionary().items():
        z = ATOMIC_NUMBERS[symbol]
        states = _STATES_OF_SMACT_2_2_1.get(z, tuple(element.oxidation_states_smact14 or ()))
        table[z] = (states, _ELECTRONEGATIVITIES_OF_SMACT_2_2_1.get(z, element.pauling_eneg or None))
    return table


@lru_cache(maxsize=1)
def _icsd24() -> dict[int, tuple[tuple[int, ...], float | None]]:
    """As `_smact14`, with the states that `smact_validity` takes where no others are named; elements without any miss."""
    import smact
    from smact.utils.oxidation import ICSD24OxStatesFilter

    rows = ICSD24OxStatesFilter().filter()
    states = {
        ATOMIC_NUMBERS[symbol]: tuple(int(state) for state in str(told).split())
        for symbol, told in zip(rows["element"], rows["oxidation_state"], strict=True)
    }
    known = {ATOMIC_NUMBERS[symbol]: element for symbol, element in smact.element_dictionary().items()}
    return {z: (own, known[z].pauling_eneg) for z, own in states.items() if z in known}


@lru_cache(maxsize=1)
def _metals() -> frozenset[int]:
    import smact

    return frozenset(ATOMIC_NUMBERS[symbol] for symbol in smact.metals)


@lru_cache(maxsize=100_000)
def _verdict_of(counts: tuple[tuple[int, int], ...], rule: CompositionRule) -> CompositionVerdict:
    if unknown := [z for z, _ in counts if z not in _smact14()]:
        return CompositionVerdict(valid=False, reason=f"element {unknown[0]} has no oxidation states")
    if len(counts) == 1:
        return CompositionVerdict(valid=True, reason="single element")
    if all(z in _metals() for z, _ in counts):
        return CompositionVerdict(valid=True, reason="alloy of metals")
    table = _smact14() if rule == "cdvae" else _icsd24()
    if unknown := [z for z, _ in counts if z not in table]:
        return CompositionVerdict(valid=False, reason=f"{SYMBOLS[unknown[0]]} has no oxidation states in icsd24")
    states = [table[z][0] for z, _ in counts]
    electronegativities = [table[z][1] for z, _ in counts]
    # The pairs of a missing electronegativity, which the published test stops at, fail that of later versions.
    if rule == "smact" and None in electronegativities:
        return CompositionVerdict(valid=False, reason="an electronegativity is missing for the Pauling test")
    if any(_reaches_zero(allowed, [n for _, n in counts]) for allowed in _pauling_choices(states, electronegativities)):
        return CompositionVerdict(valid=True, reason="neutral")
    return CompositionVerdict(valid=False, reason="no neutral oxidation states that pass the Pauling test")


def _pauling_choices(
    states: Sequence[tuple[int, ...]], electronegativities: Sequence[float | None]
) -> list[list[list[int]]]:
    """Lists of allowed states per element whose products together are all combinations that pass the Pauling test.

    With all electronegativities known, the test asks that max over cations < min over anions: for some threshold every
    element up to it is a cation and every other an anion. This replaces the search over all combinations, which is
    exponential in the number of elements. Where an electronegativity is missing (Pm, Lr, Rn), the published test stops
    at the first pair with a missing value, in the order of atomic numbers, and passes if that pair has opposite signs.
    """
    positive = [[s for s in own if s > 0] for own in states]
    negative = [[s for s in own if s < 0] for own in states]
    missing = next((i for i, value in enumerate(electronegativities) if value is None), None)
    if missing is None:
        values = [value for value in electronegativities if value is not None]
        return [
            [positive[i] if value <= threshold else negative[i] for i, value in enumerate(values)]
            for threshold in sorted(set(values))
        ]
    choices = []
    first, partner = electronegativities[0], max(missing, 1)
    for own, opposite, is_cation in ((positive, negative, True), (negative, positive, False)):
        allowed = [list(s) for s in states]
        allowed[0], allowed[partner] = own[0], opposite[partner]
        for i in range(1, missing):
            value = electronegativities[i]
            ordered = first is not None and value is not None and (first < value if is_cation else first > value)
            allowed[i] = list(states[i]) if ordered else own[i]
        choices.append(allowed)
    return choices


def _reaches_zero(allowed: Sequence[Sequence[int]], counts: Sequence[int]) -> bool:
    """Whether one state per element, each times its count, can add up to zero."""
    sums = {0}
    for states, count in zip(allowed, counts, strict=True):
        sums = {total + state * count for total in sums for state in states}
    return 0 in sums
