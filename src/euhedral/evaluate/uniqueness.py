"""How many generated crystals differ from each other, and whose formulas are already known.

Two crystals are the same if the rules of pymatgen's StructureMatcher map one onto the other. Only crystals of the same reduced
composition can be, so each composition is a bucket of its own; within it a crystal is compared with the first of every
kind found so far, as the first of the matcher's two crystals (MatterGen's order). A pair that cannot be decided never
makes a crystal unique.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from euhedral.crystal.formula import reduced_formula
from euhedral.evaluate.comparison import (
    Comparison,
    LocalTask,
    Outcomes,
    Progress,
    Tolerances,
    comparison_pool,
    local_task,
    plain_crystals,
    sift,
)
from euhedral.evaluate.validity import composition_counts, construction_problems

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from euhedral.crystal.batch import CrystalBatch

UNIQUE_TOLERANCES = Tolerances(stol=0.3, ltol=0.2, angle_tol=5.0)
"""pymatgen's default tolerances, tighter than those of the prediction benchmarks."""

CRYSTALS_AT_ONCE = 64
"""Crystals of small buckets that a process gets in one task."""


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
    disordered: bool = False,
    workers: int = 1,
    seconds_per_pair: float = 60.0,
    tolerances: Tolerances = UNIQUE_TOLERANCES,
    progress: Progress | None = None,
) -> list[DuplicateRecord]:
    """Compare each crystal with those before it of the same reduced composition.

    Args:
        batch: generated crystals.
        disordered: whether crystals that differ only by elements which can share a site are the same, as in `novelty`.
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
    compared = [bucket for bucket in buckets.values() if len(bucket) > 1]
    tasks = [local_task("sift", crystals, part, rms=False, disorder=disordered) for part in _parts(compared)]
    done = 0
    with comparison_pool(tolerances, seconds_per_pair=seconds_per_pair, workers=workers) as pool:
        for position, outcomes in pool.run([task.job for task in tasks]):
            for record in _records(tasks[position], outcomes):
                records[record.index] = record
            done += len(tasks[position].task.groups)
            if progress is not None:
                progress(done, len(compared))
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


def _parts(buckets: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Buckets gathered into tasks of about as many crystals; the largest first, so that no worker ends long after."""
    parts: list[list[Sequence[int]]] = []
    gathered = CRYSTALS_AT_ONCE
    for bucket in sorted(buckets, key=len, reverse=True):
        if gathered + len(bucket) > CRYSTALS_AT_ONCE:
            parts.append([])
            gathered = 0
        parts[-1].append(bucket)
        gathered += len(bucket)
    return parts


def _records(local: LocalTask, outcomes: Outcomes) -> list[DuplicateRecord]:
    """Records of the buckets of a task, from the outcomes of its pairs."""
    where = local.positions

    def compare(i: int, j: int) -> Comparison:
        return outcomes[i, j]

    found = []
    for group in local.task.groups:
        for i, partner, undecided in sift(group, compare):
            twin = None if partner is None else where[partner]
            if undecided is None:
                found.append(DuplicateRecord(index=where[i], duplicate_of=twin, reason=None))
            else:
                reason = f"against crystal {twin}: {undecided}"
                found.append(DuplicateRecord(index=where[i], duplicate_of=None, reason=reason))
    return found
