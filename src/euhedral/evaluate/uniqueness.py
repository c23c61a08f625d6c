"""How many generated crystals differ from each other, and whose formulas are already known.

Two crystals are the same if pymatgen's StructureMatcher maps one onto the other. Only crystals of the same reduced
composition can be, so each composition is a bucket of its own; within it a crystal is compared with the first of every
kind found so far. A pair that cannot be decided never makes a crystal unique.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from euhedral.crystal.formula import reduced_formula
from euhedral.evaluate.comparison import (
    PlainCrystal,
    Progress,
    StructureComparer,
    Tolerances,
    comparison_pool,
    plain_crystals,
)
from euhedral.evaluate.validity import composition_counts, construction_problems

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from euhedral.crystal.batch import CrystalBatch

UNIQUE_TOLERANCES = Tolerances(stol=0.3, ltol=0.2, angle_tol=5.0)
"""pymatgen's default tolerances, tighter than those of the prediction benchmarks."""


@dataclass(frozen=True, kw_only=True)
class DuplicateRecord:
    """Whether one crystal is new among those before it.

    Attributes:
        index: position of the crystal.
        duplicate_of: position of the first crystal that it equals, or None.
        reason: why it could not be decided, or None.
    """

    index: int
    duplicate_of: int | None
    reason: str | None

    @property
    def unique(self) -> bool:
        """True if the crystal was decided to differ from all before it."""
        return self.duplicate_of is None and self.reason is None


def find_duplicates(
    batch: CrystalBatch,
    *,
    workers: int = 1,
    seconds_per_pair: float = 60.0,
    tolerances: Tolerances = UNIQUE_TOLERANCES,
    progress: Progress | None = None,
) -> list[DuplicateRecord]:
    """Compare each crystal with those before it of the same reduced composition.

    Args:
        batch: generated crystals.
        workers: processes, one thread each.
        seconds_per_pair: a pair that takes longer is undecided, and its later crystal not unique.
        tolerances: of the matcher.
        progress: called with (buckets done, buckets) in the calling thread.

    Returns:
        One record a crystal, in order.

    Raises:
        ConfigError: on no workers or a time limit that is not positive.
    """
    problems = construction_problems(batch)
    records = [DuplicateRecord(index=i, duplicate_of=None, reason=problem) for i, problem in enumerate(problems)]
    buckets: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for i, counts in enumerate(composition_counts(batch)):
        if problems[i] is None:
            buckets.setdefault(counts, []).append(i)
    crystals = plain_crystals(batch)
    jobs = [partial(_sift, bucket, crystals) for bucket in buckets.values() if len(bucket) > 1]
    with comparison_pool(tolerances, seconds_per_pair=seconds_per_pair, workers=workers) as pool:
        for _, found in pool.run(jobs, progress):
            for record in found:
                records[record.index] = record
    return records


def unique_mask(
    batch: CrystalBatch,
    *,
    workers: int = 1,
    seconds_per_pair: float = 60.0,
    tolerances: Tolerances = UNIQUE_TOLERANCES,
    progress: Progress | None = None,
) -> Bool[Tensor, " crystals"]:
    """True for the first crystal of every kind, (crystals,); arguments as in `find_duplicates`."""
    import torch

    records = find_duplicates(
        batch, workers=workers, seconds_per_pair=seconds_per_pair, tolerances=tolerances, progress=progress
    )
    return torch.tensor([record.unique for record in records], dtype=torch.bool)


def unique_share(records: Sequence[DuplicateRecord]) -> float:
    """Unique crystals over all crystals, those that could not be decided included; NaN where there are none."""
    return sum(record.unique for record in records) / len(records) if records else math.nan


def reduced_formulas(batch: CrystalBatch) -> list[str | None]:
    """Reduced formula of each crystal, e.g. 'LiMnO2'; None where there are no atoms or an unknown element."""
    formulas: list[str | None] = []
    for counts in composition_counts(batch):
        known = counts and all(1 <= z <= 118 for z, _ in counts)
        formulas.append(reduced_formula([z for z, n in counts for _ in range(n)]) if known else None)
    return formulas


def known_formula_mask(batch: CrystalBatch, known: Collection[str]) -> Bool[Tensor, " crystals"]:
    """True where the reduced formula is among `known`, (crystals,).

    Args:
        batch: generated crystals.
        known: reduced formulas as `reduced_formulas` writes them, such as those of a training set; best a set.
    """
    import torch

    return torch.tensor([formula in known for formula in reduced_formulas(batch)], dtype=torch.bool)


def _sift(
    bucket: Sequence[int], crystals: Sequence[PlainCrystal], comparer: StructureComparer
) -> list[DuplicateRecord]:
    """Records of one bucket: every crystal against the first of each kind before it."""
    kinds: list[int] = []
    records = []
    for i in bucket:
        twin, undecided = None, None
        for kind in kinds:
            outcome = comparer.compare(crystals[kind], crystals[i], rms=False)
            if outcome.matched:
                twin, undecided = kind, None
                break
            if outcome.reason != "no match":
                undecided = f"against crystal {kind}: {outcome.reason}"
        records.append(DuplicateRecord(index=i, duplicate_of=twin, reason=undecided))
        if twin is None and undecided is None:
            kinds.append(i)
    return records
