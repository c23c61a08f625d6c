"""Comparison of crystals in worker processes, with a time limit for each pair.

An odd cell can keep a matcher busy for hours inside compiled code, which no exception can interrupt, or ask for more
memory than there is. Comparisons therefore run in processes of their own kind. A process gets a whole task at once,
pairs or buckets of crystals with a plan of which pairs to compare, and answers with a line as each pair is decided; when
the time of a pair is over the process is ended, the pair becomes a record with that reason, and a new process goes on
with the next pair. This module imports neither torch nor pymatgen at the top, so that the processes start quickly.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from euhedral.errors import ConfigError, EuhedralError
from euhedral.evaluate.processes import SECONDS_TO_START, discard, worker_environment

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

Progress = Callable[[int, int], None]
"""Called with (done, total) as comparisons end."""

PAIRS_AT_ONCE = 64
"""Most pairs that a process gets in one task of single pairs."""

_COMMAND = "from euhedral.evaluate.serving import serve; serve()"


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
    """A crystal as nested lists, ready for JSON: `cell` rows in Å, `frac`, atomic numbers `species`."""

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
        if not seconds_per_pair > 0:
            raise ConfigError(f"seconds_per_pair must be positive, not {seconds_per_pair}")
        self._tolerances = tolerances
        self._seconds = seconds_per_pair
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

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
        request = {**vars(task), "crystals": [vars(crystal) for crystal in task.crystals]}  # asdict would copy all
        while True:
            process = self._running()
            finished, late = _converse(process, request, outcomes, self._seconds)
            if finished:
                return outcomes
            self._end()
            pair = _pair_under_way(task, outcomes)
            if pair is None:
                return outcomes
            reason = f"not decided within {self._seconds:g} s" if late else "the comparison process ended (memory?)"
            outcomes.by_pair[pair] = Comparison(matched=False, reason=reason, seconds=self._seconds if late else 0.0)
            outcomes.decided += 1

    def close(self) -> None:
        """End the worker process; a task in progress raises."""
        self._closed = True
        self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._closed:
            raise EuhedralError("the comparison was closed")
        process = self._process  # `close` may be called by another thread at any moment
        if process is None or process.poll() is not None:
            self._end()
            process = self._process = _start_worker(self._tolerances)
            if self._closed:
                self._end()
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            discard(process)


class ComparisonPool:
    """Several `StructureComparer`s that share a list of jobs.

    Args:
        tolerances: of the matcher.
        seconds_per_pair: time limit of one comparison.
        workers: processes; each uses one thread.
    """

    def __init__(self, tolerances: Tolerances, *, seconds_per_pair: float, workers: int) -> None:
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, not {workers}")
        self._comparers = [StructureComparer(tolerances, seconds_per_pair) for _ in range(workers)]
        self._free: queue.SimpleQueue[StructureComparer] = queue.SimpleQueue()
        for comparer in self._comparers:
            self._free.put(comparer)

    def run(
        self, jobs: Sequence[Callable[[StructureComparer], Any]], progress: Progress | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Run every job with a free comparer and yield (position, result) as they end.

        Leaving early, by an exception or Ctrl-C, ends the worker processes and drops the jobs that have not begun.
        """
        threads = ThreadPoolExecutor(max_workers=len(self._comparers))
        try:
            futures = {threads.submit(self._with_comparer, job): i for i, job in enumerate(jobs)}
            for done, future in enumerate(as_completed(futures), start=1):
                if progress is not None:
                    progress(done, len(jobs))
                yield futures[future], future.result()
        finally:
            self.close()
            threads.shutdown(cancel_futures=True)
            self.close()  # a job that was just starting its process may have done so after the first call

    def close(self) -> None:
        """End all worker processes."""
        for comparer in self._comparers:
            comparer.close()

    def _with_comparer(self, job: Callable[[StructureComparer], Any]) -> Any:
        comparer = self._free.get()
        try:
            return job(comparer)
        finally:
            self._free.put(comparer)


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


def _converse(
    process: subprocess.Popen[str], request: dict[str, Any], outcomes: Outcomes, seconds: float
) -> tuple[bool, bool]:
    """Send a task and note the outcomes as they come; whether it came to its end, and whether a pair was late."""
    known = [[i, j, asdict(outcome)] for (i, j), outcome in outcomes.by_pair.items()]
    line = json.dumps({**request, "known": known, "decided": outcomes.decided})
    limit = _TimeLimit(process, seconds)
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        for answer in process.stdout:
            limit.renew()
            if not answer.endswith("\n"):
                break
            if answer == "end\n":
                return True, False
            if answer != ".\n":  # a dot stands for no match
                i, j, outcome = json.loads(answer)
                outcomes.by_pair[i, j] = Comparison(**outcome)
            outcomes.decided += 1
    except (OSError, ValueError):  # the pipe closed under us: the process was ended
        pass
    finally:
        limit.stop()
    return False, limit.late


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


class _TimeLimit:
    """Ends a process that gives no sign of life for a time."""

    def __init__(self, process: subprocess.Popen[str], seconds: float) -> None:
        self.late = False
        self._process = process
        self._seconds = seconds
        self._stopped = threading.Event()
        self._end = time.monotonic() + seconds
        threading.Thread(target=self._watch, daemon=True).start()

    def renew(self) -> None:
        self._end = time.monotonic() + self._seconds

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(max(self._end - time.monotonic(), 0)):
            if time.monotonic() >= self._end:
                self.late = True
                self._process.kill()
                return


def _start_worker(tolerances: Tolerances) -> subprocess.Popen[str]:
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env=worker_environment(),
        )
        if not _greeted(process, tolerances):
            discard(process)
            log.seek(0)
            raise EuhedralError(f"a worker process for comparing structures did not start: {log.read()[-500:].strip()}")
    return process


def _greeted(process: subprocess.Popen[str], tolerances: Tolerances) -> bool:
    """Send the tolerances and wait until the process is ready; False if it ended or took too long."""
    assert process.stdin is not None and process.stdout is not None
    limit = _TimeLimit(process, SECONDS_TO_START)
    try:
        process.stdin.write(json.dumps(asdict(tolerances)) + "\n")
        process.stdin.flush()
        return process.stdout.readline().endswith("\n")
    except (OSError, ValueError):  # it ended before it read
        return False
    finally:
        limit.stop()


@contextmanager
def comparison_pool(tolerances: Tolerances, *, seconds_per_pair: float, workers: int) -> Iterator[ComparisonPool]:
    """A `ComparisonPool` whose processes end with the block."""
    pool = ComparisonPool(tolerances, seconds_per_pair=seconds_per_pair, workers=workers)
    try:
        yield pool
    finally:
        pool.close()
