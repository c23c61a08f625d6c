"""Comparison of crystals in worker processes, with a time limit for each pair.

An odd cell can keep a matcher busy for hours inside compiled code, which no exception can interrupt, or ask for more
memory than there is. A worker process gets a whole task at once, pairs or buckets of crystals with a plan of which pairs
to compare, and hands on each outcome as it is decided; when the time of a pair is over the process is ended, the pair
becomes a record with that reason, and a new process goes on with the next pair. This module imports neither torch nor
pymatgen at the top, so that the processes start quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from euhedral.data.worker import Unanswered, Worker
from euhedral.data.workers import Crew
from euhedral.errors import ConfigError

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.data.worker import Host

Progress = Callable[[int, int], None]
"""Called with (done, total) as comparisons end."""

PAIRS_AT_ONCE = 64
"""Most pairs that a process gets in one task of single pairs."""


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """Tolerances of pymatgen's StructureMatcher.

    Attributes:
        stol: largest site distance, in units of (V/N)^(1/3).
        ltol: relative tolerance of lengths.
        angle_tol: tolerance of angles in degrees.
    """

    stol: float = 0.3
    ltol: float = 0.2
    angle_tol: float = 5.0

    def __post_init__(self) -> None:
        if min(self.stol, self.ltol, self.angle_tol) <= 0:
            raise ConfigError(f"tolerances must be positive, not {self}")


@dataclass(frozen=True, kw_only=True)
class PlainCrystal:
    """A crystal as nested lists, which need no torch: `cell` rows in Å, `frac`, atomic numbers `species`."""

    cell: list[list[float]]
    frac: list[list[float]]
    species: list[int]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Outcome of one comparison.

    Attributes:
        matched: whether the matcher found a mapping within the tolerances.
        rms: root mean square displacement over (V/N)^(1/3), or None where nothing matched or no rms was asked for.
        reason: why nothing matched, or None.
        seconds: time that the comparison took.
    """

    matched: bool
    rms: float | None = None
    reason: str | None = None
    seconds: float = 0.0


def plain_crystals(batch: CrystalBatch) -> list[PlainCrystal]:
    """Each crystal of a batch as nested lists of float64."""
    cells, fracs, species = batch.cell.double().tolist(), batch.frac.double().tolist(), batch.species.tolist()
    crystals, start = [], 0
    for cell, atoms in zip(cells, batch.num_atoms.tolist(), strict=True):
        end = start + atoms
        crystals.append(PlainCrystal(cell=cell, frac=fracs[start:end], species=species[start:end]))
        start = end
    return crystals


Compare = Callable[[int, int], Comparison]
"""Outcome of two crystals of a task, by their positions in it."""
Plan = Literal["pairs", "sift", "first"]
"""What is compared of a group of crystals: its two, each with the first of every kind before it, or the first with
the others until one matches."""

NO_MATCH = Comparison(matched=False, reason="no match")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Crystals, groups of their positions, and what to compare in each group.

    Attributes:
        plan: which pairs of a group are compared; the pairs may depend on the outcomes before them.
        crystals: all crystals of the groups.
        groups: positions in `crystals`.
        rms: whether to search for the mapping of least rms, else any mapping within the tolerances.
        disorder: whether to compare by the disordered-aware rule of `novelty`, in place of the ordered one.
        rms_of_match: whether to give the least rms of pairs that some mapping within the tolerances matched.
    """

    plan: Plan
    crystals: Sequence[PlainCrystal]
    groups: Sequence[Sequence[int]]
    rms: bool
    disorder: bool = False
    rms_of_match: bool = False


@dataclass
class Outcomes:
    """What is known of a task: outcomes by pair (no match where none is given), and how many pairs are decided."""

    by_pair: dict[tuple[int, int], Comparison]
    decided: int = 0

    def __getitem__(self, pair: tuple[int, int]) -> Comparison:
        return self.by_pair.get(pair, NO_MATCH)

    def note(self, decided: tuple[int, int, Comparison] | None) -> None:
        """Take in the outcome of the next pair; None stands for no match."""
        if decided is not None:
            self.by_pair[decided[:2]] = decided[2]
        self.decided += 1


def sift(group: Sequence[int], compare: Compare) -> list[tuple[int, int | None, str | None]]:
    """Each crystal against the first of every kind before it; the later one is the matcher's first crystal.

    Returns:
        (position, the crystal that it was decided to equal or that it could not be compared with, why it could not);
        a crystal of a new kind has neither.
    """
    kinds: list[int] = []
    found = []
    for i in group:
        partner, undecided = None, None
        for kind in kinds:
            outcome = compare(i, kind)
            if outcome.matched:
                partner, undecided = kind, None
                break
            if outcome.reason != NO_MATCH.reason:
                partner, undecided = kind, outcome.reason
        found.append((i, partner, undecided))
        if partner is None:
            kinds.append(i)
    return found


def run_plan(plan: Plan, groups: Sequence[Sequence[int]], compare: Compare) -> None:
    """Call `compare` for the pairs of a plan, in order."""
    for group in groups:
        if plan == "pairs":
            compare(group[0], group[1])
        elif plan == "sift":
            sift(group, compare)
        else:
            for other in group[1:]:
                if compare(group[0], other).matched:
                    break


class StructureComparer:
    """One worker process that does one task after the other; started again after each pair that ended it.

    Args:
        tolerances: of the matcher.
        seconds_per_pair: time limit of one comparison.
    """

    def __init__(self, tolerances: Tolerances, seconds_per_pair: float) -> None:
        from euhedral.evaluate.serving import compare_task, prepare

        if not seconds_per_pair > 0:
            raise ConfigError(f"seconds_per_pair must be positive, not {seconds_per_pair}")
        self._seconds = seconds_per_pair
        self._worker = Worker(compare_task, tolerances, streams=True, prepare=prepare)

    def compare(self, first: PlainCrystal, second: PlainCrystal, *, rms: bool) -> Comparison:
        """Match `second` onto `first`; with `rms` search for the mapping of smallest rms, else stop at the first.

        Raises:
            EuhedralError: if worker processes cannot be started, or the comparer was closed.
        """
        return self.run(Task(plan="pairs", crystals=[first, second], groups=[(0, 1)], rms=rms))[0, 1]

    def run(self, task: Task) -> Outcomes:
        """Do a task; every pair that the plan asks for gets an outcome.

        Raises:
            EuhedralError: if worker processes cannot be started, or the comparer was closed.
        """
        outcomes = Outcomes(by_pair={})
        while True:
            try:
                self._worker.ask((task, outcomes), self._seconds, outcomes.note)
                return outcomes
            except Unanswered as failure:
                if failure.error is not None:
                    raise failure.error from None
                pair = _pair_under_way(task, outcomes)
                if pair is None:
                    return outcomes
                seconds = self._seconds if failure.late else 0.0
                outcomes.note((*pair, Comparison(matched=False, reason=str(failure), seconds=seconds)))

    def move(self, host: Host) -> None:
        """Have tasks done by a host."""
        self._worker.move(host)

    def close(self) -> None:
        """End the worker process; a task in progress raises."""
        self._worker.close()


def comparison_pool(tolerances: Tolerances, *, seconds_per_pair: float, workers: int) -> Crew[StructureComparer]:
    """Comparers that share jobs.

    Args:
        tolerances: of the matcher.
        seconds_per_pair: time limit of one comparison.
        workers: processes; each uses one thread.

    Raises:
        ConfigError: on no workers or a time limit that is not positive.
    """
    return Crew(partial(StructureComparer, tolerances, seconds_per_pair), workers)


def compare_pairs(
    crystals: Sequence[PlainCrystal],
    pairs: Sequence[tuple[int, int]],
    *,
    tolerances: Tolerances,
    rms: bool,
    seconds_per_pair: float,
    workers: int,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Outcome of each pair of positions in `crystals`; progress counts pairs.

    Raises:
        ConfigError: on no workers or a time limit that is not positive.
    """
    size = max(1, min(PAIRS_AT_ONCE, -(-len(pairs) // (4 * workers)))) if workers > 0 else 1
    parts = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    tasks = [local_task("pairs", crystals, part, rms=rms) for part in parts]
    outcomes: list[Comparison] = [NO_MATCH] * len(pairs)
    done = 0
    with comparison_pool(tolerances, seconds_per_pair=seconds_per_pair, workers=workers) as pool:
        for position, found in pool.run([task.job for task in tasks]):
            for k, (i, j) in enumerate(tasks[position].task.groups):
                outcomes[position * size + k] = found[i, j]
            done += len(parts[position])
            if progress is not None:
                progress(done, len(pairs))
    return outcomes


@dataclass(frozen=True, kw_only=True)
class LocalTask:
    """A task with the crystals of its groups only; `positions` says which of the whole each one is."""

    task: Task
    positions: Sequence[int]

    def job(self, comparer: StructureComparer) -> Outcomes:
        """Do the task."""
        return comparer.run(self.task)


def local_task(
    plan: Plan,
    crystals: Sequence[PlainCrystal],
    groups: Sequence[Sequence[int]],
    *,
    rms: bool,
    disorder: bool = False,
    rms_of_match: bool = False,
) -> LocalTask:
    """A task on groups of positions in `crystals` that carries no other crystals."""
    positions = sorted({i for group in groups for i in group})
    where = {i: k for k, i in enumerate(positions)}
    task = Task(
        plan=plan,
        crystals=[crystals[i] for i in positions],
        groups=[[where[i] for i in group] for group in groups],
        rms=rms,
        disorder=disorder,
        rms_of_match=rms_of_match,
    )
    return LocalTask(task=task, positions=positions)


def _pair_under_way(task: Task, outcomes: Outcomes) -> tuple[int, int] | None:
    """The pair at which a process ended: the first that is not decided. None if all are."""
    position = 0

    class Reached(Exception):
        pass

    pair: list[tuple[int, int]] = []

    def compare(i: int, j: int) -> Comparison:
        nonlocal position
        if position == outcomes.decided:
            pair.append((i, j))
            raise Reached
        position += 1
        return outcomes[i, j]

    try:
        run_plan(task.plan, task.groups, compare)
    except Reached:
        return pair[0]
    return None
