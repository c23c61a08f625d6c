"""Space groups of a set of crystals: their distribution, the share of P1, and the distance to another set.

Symmetry depends on the tool and its tolerance, so both are part of every figure. A crystal whose space group cannot be
found is a failure with its reason; it stays in the denominator and never counts as P1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal import symmetry_search
from euhedral.errors import ConfigError
from euhedral.evaluate.symmetry_tasks import Progress, search_each

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

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


@dataclass(frozen=True, kw_only=True, eq=False)
class SpaceGroups:
    """Space group of each crystal.

    Attributes:
        numbers: 1 to 230, (crystals,), 0 where none was found.
        reasons: why none was found, or None; one a crystal.
        symprec: tolerance in Å.
        tool: tool and version.
    """

    numbers: NDArray[np.int64]
    reasons: tuple[str | None, ...]
    symprec: float
    tool: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RequestedSymmetry:
    """Which crystals have the space group that was asked for, at one tolerance.

    Attributes:
        requested: the number asked for, (crystals,).
        found: what was found.
        met: exactly the group asked for, (crystals,).
        supergroup: another group, of which the one asked for is a subgroup with the same translations (`is_subgroup`),
            (crystals,); these crystals have the symmetry and more, and are not in `met`.
    """

    requested: NDArray[np.int64]
    found: SpaceGroups
    met: NDArray[np.bool_]
    supergroup: NDArray[np.bool_]

    @property
    def share_met(self) -> float:
        """Share of all crystals with exactly the group asked for; NaN if there are none."""
        return float(self.met.mean()) if len(self.met) else math.nan

    @property
    def share_supergroup(self) -> float:
        """Share of all crystals with a supergroup of the one asked for; NaN if there are none."""
        return float(self.supergroup.mean()) if len(self.supergroup) else math.nan


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


def summarize_symmetry(
    batch: CrystalBatch, *, symprec: float = 0.1, workers: int = 1, seconds_per_crystal: float = 30.0
) -> SymmetrySummary:
    """Space groups of all crystals by moyopy; arguments and errors as in `find_space_groups`."""
    return summarize_space_groups(
        find_space_groups(batch, symprec=symprec, workers=workers, seconds_per_crystal=seconds_per_crystal)
    )


def find_space_groups(
    batch: CrystalBatch,
    *,
    symprec: float = 0.1,
    workers: int = 1,
    seconds_per_crystal: float = 30.0,
    progress: Progress | None = None,
) -> SpaceGroups:
    """Space group of each crystal by moyopy.

    Args:
        batch: crystals.
        symprec: tolerance in Å; 0.1 is for generated crystals, 0.01 for relaxed or known ones.
        workers: processes, one thread each.
        seconds_per_crystal: a crystal that takes longer is ended and gets that reason.
        progress: called with (done, total) in the calling thread.

    Raises:
        ConfigError: if `symprec` or the time is not positive, or on no workers.
        EuhedralError: if worker processes cannot be started.
    """
    from importlib.metadata import version

    found = search_each(
        symmetry_search.space_group_numbers,
        batch,
        symprec=symprec,
        workers=workers,
        seconds_per_crystal=seconds_per_crystal,
        progress=progress,
    )
    return SpaceGroups(
        numbers=np.array([number or 0 for number, _ in found], dtype=np.int64),
        reasons=tuple(reason for _, reason in found),
        symprec=symprec,
        tool=f"moyopy {version('moyopy')}",
    )


def summarize_space_groups(groups: SpaceGroups) -> SymmetrySummary:
    """Distribution of space groups that were found before."""
    counts = Counter(int(number) for number in groups.numbers if number)
    return SymmetrySummary(
        crystals=len(groups.numbers),
        numbers=dict(sorted(counts.items())),
        failures=tuple((i, reason) for i, reason in enumerate(groups.reasons) if reason is not None),
        symprec=groups.symprec,
        tool=groups.tool,
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


def requested_space_groups(
    batch: CrystalBatch,
    requested: ArrayLike,
    *,
    symprecs: Sequence[float] = (0.01, 0.1),
    workers: int = 1,
    seconds_per_crystal: float = 30.0,
) -> dict[float, RequestedSymmetry]:
    """Whether each crystal has the space group asked for, at every tolerance.

    Args:
        batch: crystals.
        requested: number 1 to 230, one for all or one a crystal, (crystals,).
        symprecs: tolerances in Å.
        workers: processes, one thread each.
        seconds_per_crystal: a crystal that takes longer is ended and gets that reason.

    Raises:
        ConfigError: on a number out of range, a count that differs or a tolerance that is not positive.
    """
    numbers = np.asarray(requested)
    if numbers.dtype.kind not in "iu" or numbers.shape not in ((), (len(batch),)):
        raise ConfigError(
            f"expected one space group number or {len(batch)} of them, got {numbers.dtype} of shape {numbers.shape}"
        )
    wanted = np.broadcast_to(numbers.astype(np.int64), (len(batch),))
    if wrong := [int(n) for n in np.unique(numbers) if not 1 <= n <= 230]:
        raise ConfigError(f"space groups have numbers 1 to 230, not {wrong[0]}")
    outcomes = {}
    for symprec in symprecs:
        groups = find_space_groups(batch, symprec=symprec, workers=workers, seconds_per_crystal=seconds_per_crystal)
        above = [0 != g != w and is_subgroup(int(w), int(g)) for w, g in zip(wanted, groups.numbers, strict=True)]
        outcomes[symprec] = RequestedSymmetry(
            requested=wanted,
            found=groups,
            met=wanted == groups.numbers,
            supergroup=np.array(above, dtype=np.bool_),
        )
    return outcomes


def is_subgroup(number: int, supergroup: int) -> bool:
    """Whether a group of type `supergroup` has a subgroup of type `number` with the same translations, itself included.

    Subgroups that lose translations (klassengleiche) are left out: through them nearly every cubic type is a subgroup of
    every other, in a larger cell.

    Raises:
        ConfigError: if a number is not 1 to 230.
    """
    for given in (number, supergroup):
        crystal_system(given)
    return number in _translationengleiche_types(supergroup)


@cache
def _translationengleiche_types(number: int) -> frozenset[int]:
    import moyopy

    group = moyopy.operations_from_number(number, primitive=True)
    classes = moyopy.enumerate_translationengleiche_subgroups(group.rotations, group.translations)
    subgroups = [one.representative.operations for one in classes]
    return frozenset(moyopy.SpaceGroup(found.rotations, found.translations).number for found in subgroups)
