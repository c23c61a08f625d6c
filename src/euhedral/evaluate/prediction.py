"""METRe and cRMSE: every reference against every prediction of its composition, so that covering polymorphs counts.

The usual match rate compares prediction i with reference i, and so punishes a model that finds another polymorph of the
same composition. Martirossyan et al. (arXiv 2509.12178) match everyone to each reference instead:

    METRe = (1/R) sum_r [some prediction matches r],        cRMSE = (1/R) sum_r (min_p rms(p, r) if matched, else stol),

over the R references, with stol = 0.5 for the published tolerances. Both have every reference in the denominator. As in
the authors' code (OMatG, `metre_rmsds`), compositions are compared reduced, the prediction is the first crystal of the
matcher, and crystals of invalid structure (atoms within 0.5 Å, no volume, a flat cell) match nothing. Its second pair of
figures, of crystals whose composition and fingerprints are valid too, is not given here, and more predictions than
references, which it refuses, are allowed. The match rate of the best of k predictions for each reference is
`matching.summarize_at`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from euhedral.evaluate.comparison import NO_MATCH, Progress, Tolerances, compare_pairs, plain_crystals
from euhedral.evaluate.matching import CSP_TOLERANCES
from euhedral.evaluate.uniqueness import reduced_formulas
from euhedral.evaluate.validity import composition_counts, structure_problems

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

SMALLEST_POLAR_SINE = 1e-3
"""Cells whose volume over the product of their lengths is below this are flat, and match nothing."""


@dataclass(frozen=True, kw_only=True)
class ReferenceRecord:
    """Whether any prediction matches one reference.

    Attributes:
        index: position of the reference.
        rms: least normalised rms displacement over all predictions, or None where none matches.
        prediction: position of the prediction with that rms, or None.
        candidates: predictions of the same reduced composition and of valid structure.
        reason: why no prediction matches, or None.
    """

    index: int
    rms: float | None
    prediction: int | None
    candidates: int
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class PolymorphGroup:
    """References of one reduced formula: their positions, and how many of them are matched."""

    formula: str | None
    references: tuple[int, ...]
    matched: int

    @property
    def covered(self) -> float:
        """Share of the group's references that are matched."""
        return self.matched / len(self.references)


@dataclass(frozen=True, kw_only=True)
class CoverageSummary:
    """METRe and cRMSE of all references, and of those that have polymorphs among the references.

    Attributes:
        references: the denominator.
        matched: references that some prediction matches.
        metre: matched over references; NaN without references.
        crmse: mean least rms, an unmatched reference counted as `penalty`; NaN without references.
        penalty: rms of an unmatched reference: stol.
        groups: reduced formulas with more than one reference.
        polymorphs: references in these groups.
        polymorph_metre: their METRe; NaN without any.
        fully_covered: groups in which every reference is matched.
        reasons: how often each reason for not matching occurred.
    """

    references: int
    matched: int
    metre: float
    crmse: float
    penalty: float
    groups: int
    polymorphs: int
    polymorph_metre: float
    fully_covered: int
    reasons: dict[str, int]


def match_everyone(
    predicted: CrystalBatch,
    reference: CrystalBatch,
    *,
    workers: int = 1,
    seconds_per_pair: float = 60.0,
    tolerances: Tolerances = CSP_TOLERANCES,
    progress: Progress | None = None,
) -> list[ReferenceRecord]:
    """Compare each reference with all predictions of its reduced composition.

    Args:
        predicted: predictions in any order and number.
        reference: the true crystals.
        workers: processes, one thread each.
        seconds_per_pair: a pair that takes longer is ended and counts as not matched.
        tolerances: of the matcher; the default is the published convention.
        progress: called with (pairs done, pairs).

    Returns:
        One record a reference, in order.

    Raises:
        ConfigError: on no workers or a time limit that is not positive.
    """
    broken = _matching_nothing(reference)
    of_composition: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for i, (counts, problem) in enumerate(
        zip(composition_counts(predicted), _matching_nothing(predicted), strict=True)
    ):
        if problem is None:
            of_composition.setdefault(counts, []).append(i)
    found = [
        [] if problem else of_composition.get(counts, [])
        for counts, problem in zip(composition_counts(reference), broken, strict=True)
    ]
    pairs = [(i, len(predicted) + r) for r, candidates in enumerate(found) for i in candidates]
    outcomes = compare_pairs(
        plain_crystals(predicted) + plain_crystals(reference),
        pairs,
        tolerances=tolerances,
        rms=True,
        seconds_per_pair=seconds_per_pair,
        workers=workers,
        progress=progress,
    )
    records, start = [], 0
    for r, candidates in enumerate(found):
        own = outcomes[start : start + len(candidates)]
        start += len(candidates)
        best = min(((o.rms, i) for i, o in zip(candidates, own, strict=True) if o.rms is not None), default=None)
        reason = None
        if best is None:
            undecided = [o.reason for o in own if o.reason not in (None, NO_MATCH.reason)]
            without = "no match" if candidates else "no prediction of this composition"
            reason = f"reference: {broken[r]}" if broken[r] else (undecided[0] if undecided else without)
        rms, prediction = best if best is not None else (None, None)
        records.append(
            ReferenceRecord(index=r, rms=rms, prediction=prediction, candidates=len(candidates), reason=reason)
        )
    return records


def _matching_nothing(batch: CrystalBatch) -> list[str | None]:
    """Why a crystal is not compared at all, or None."""
    flat = batch.volume < SMALLEST_POLAR_SINE * batch.cell.norm(dim=2).prod(1)
    return [
        problem or ("flat cell" if is_flat else None)
        for problem, is_flat in zip(structure_problems(batch), flat.tolist(), strict=True)
    ]


def polymorph_groups(reference: CrystalBatch, records: Sequence[ReferenceRecord]) -> list[PolymorphGroup]:
    """References by reduced formula, in the order of their first; `records` are those of `match_everyone`."""
    groups: dict[str, list[int]] = {}
    for i, formula in enumerate(reduced_formulas(reference)):
        groups.setdefault(formula if formula is not None else f"#{i}", []).append(i)
    return [
        PolymorphGroup(
            formula=None if formula.startswith("#") else formula,
            references=tuple(members),
            matched=sum(records[i].rms is not None for i in members),
        )
        for formula, members in groups.items()
    ]


def summarize_coverage(
    reference: CrystalBatch, records: Sequence[ReferenceRecord], *, tolerances: Tolerances = CSP_TOLERANCES
) -> CoverageSummary:
    """METRe and cRMSE of the records of `match_everyone`; state the tolerances that it was given."""
    count = len(records)
    several = [group for group in polymorph_groups(reference, records) if len(group.references) > 1]
    polymorphs = sum(len(group.references) for group in several)
    matched = sum(record.rms is not None for record in records)
    return CoverageSummary(
        references=count,
        matched=matched,
        metre=matched / count if count else math.nan,
        crmse=math.fsum(counted_rms(records, tolerances)) / count if count else math.nan,
        penalty=tolerances.stol,
        groups=len(several),
        polymorphs=polymorphs,
        polymorph_metre=sum(group.matched for group in several) / polymorphs if polymorphs else math.nan,
        fully_covered=sum(group.matched == len(group.references) for group in several),
        reasons=dict(Counter(record.reason for record in records if record.reason is not None).most_common()),
    )


def counted_rms(records: Sequence[ReferenceRecord], tolerances: Tolerances = CSP_TOLERANCES) -> list[float]:
    """The term of cRMSE of each reference: its least rms, or stol where nothing matches."""
    return [tolerances.stol if record.rms is None else record.rms for record in records]
