"""Space groups of a set of crystals: their distribution, the share of P1, and the distance to another set.

Symmetry depends on the tool and its tolerance, so both are part of every figure. A crystal whose space group cannot be
found is a failure with its reason; it stays in the denominator and never counts as P1.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from euhedral.errors import ConfigError
from euhedral.evaluate.validity import construction_problems

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

_LAST_OF_SYSTEM = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (167, "trigonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)


@dataclass(frozen=True, kw_only=True)
class SymmetrySummary:
    """Distribution of space groups.

    Attributes:
        crystals: the denominator, failures included.
        numbers: how many crystals have each space group, by number.
        failures: position and reason of each crystal without a space group.
        symprec: tolerance in Å.
        tool: tool and version.
    """

    crystals: int
    numbers: dict[int, int]
    failures: tuple[tuple[int, str], ...]
    symprec: float
    tool: str

    @property
    def share_p1(self) -> float:
        """Share of crystals without any symmetry but translations."""
        return self.numbers.get(1, 0) / self.crystals if self.crystals else math.nan

    @property
    def crystal_systems(self) -> dict[str, int]:
        """How many crystals belong to each of the seven crystal systems."""
        counts = dict.fromkeys((name for _, name in _LAST_OF_SYSTEM), 0)
        for number, crystals in self.numbers.items():
            counts[crystal_system(number)] += crystals
        return counts


def crystal_system(number: int) -> str:
    """Name of the crystal system of a space group.

    Raises:
        ConfigError: if `number` is not 1 to 230.
    """
    if number >= 1:
        for last, name in _LAST_OF_SYSTEM:
            if number <= last:
                return name
    raise ConfigError(f"space groups have numbers 1 to 230, not {number}")


def summarize_symmetry(batch: CrystalBatch, *, symprec: float = 0.1) -> SymmetrySummary:
    """Space groups of all crystals by moyopy.

    Args:
        batch: crystals.
        symprec: tolerance in Å; 0.1 is for generated crystals, 0.01 for relaxed or known ones.

    Raises:
        ConfigError: if `symprec` is not positive.
    """
    from importlib.metadata import version

    from euhedral.crystal.symmetry import space_group

    if not symprec > 0:
        raise ConfigError(f"symprec must be a positive length in Å, not {symprec}")
    problems = construction_problems(batch)
    sound = [i for i, problem in enumerate(problems) if problem is None]
    failures = {i: problem for i, problem in enumerate(problems) if problem is not None}
    numbers: Counter[int] = Counter()
    for i, group in zip(sound, space_group(batch[sound], symprec=symprec) if sound else [], strict=True):
        if group.error is None:
            numbers[group.number] += 1
        else:
            failures[i] = group.error
    return SymmetrySummary(
        crystals=len(batch),
        numbers=dict(sorted(numbers.items())),
        failures=tuple(sorted(failures.items())),
        symprec=symprec,
        tool=f"moyopy {version('moyopy')}",
    )


def space_group_distance(first: SymmetrySummary, second: SymmetrySummary) -> float:
    """Total variation distance of two distributions of space groups, 0 (equal) to 1 (disjoint); NaN if one is empty.

    Half the sum over space groups of |p - q|, over the crystals that have a space group.

    Raises:
        ConfigError: if the two were found by other tools or tolerances.
    """
    if (first.tool, first.symprec) != (second.tool, second.symprec):
        raise ConfigError(
            f"space groups by {first.tool} at {first.symprec} Å and by {second.tool} at {second.symprec} Å cannot be "
            "compared; use the same tool and tolerance for both"
        )
    totals = [sum(summary.numbers.values()) for summary in (first, second)]
    if 0 in totals:
        return math.nan
    groups = first.numbers.keys() | second.numbers.keys()
    return 0.5 * math.fsum(
        abs(first.numbers.get(g, 0) / totals[0] - second.numbers.get(g, 0) / totals[1]) for g in groups
    )
