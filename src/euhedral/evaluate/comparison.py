"""Comparison of two crystals by pymatgen's StructureMatcher in worker processes, with a time limit for each pair.

An odd cell can keep the matcher busy for hours inside compiled code, which no exception can interrupt, or ask for more
memory than there is. Each comparison therefore runs in a process of its own kind that is ended when its time is over;
the pair becomes a record with that reason and a new process takes the next pair. The processes read and write one JSON
line a pair; this module imports neither torch nor pymatgen at the top, so that they start quickly.
"""

from __future__ import annotations

import json
import os
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
from typing import IO, TYPE_CHECKING, Any

from euhedral.errors import ConfigError, EuhedralError

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch

Progress = Callable[[int, int], None]
"""Called with (done, total) as comparisons end."""

SECONDS_TO_START = 300.0
"""Longest time for a worker process to import its libraries."""
MEMORY_LIMIT = 8 * 2**30
"""Address space of a worker process in bytes, where the system can limit it."""

_COMMAND = "from euhedral.evaluate.comparison import serve; serve()"


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


class StructureComparer:
    """One worker process that compares pairs one after the other; started again after each pair that ended it.

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
            EuhedralError: if worker processes cannot be started.
        """
        request = json.dumps({"first": asdict(first), "second": asdict(second), "rms": rms})
        process = self._running()
        started = time.perf_counter()
        answer, late = _exchange(process, request, self._seconds)
        seconds = time.perf_counter() - started
        if late or not answer:
            self._end()
        if answer:
            return Comparison(**json.loads(answer), seconds=seconds)
        if self._closed:
            return Comparison(matched=False, reason="cancelled", seconds=seconds)
        reason = f"not decided within {self._seconds:g} s" if late else "the comparison process ended (memory?)"
        return Comparison(matched=False, reason=reason, seconds=seconds)

    def close(self) -> None:
        """End the worker process; a comparison in progress returns as cancelled."""
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
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    _close_quietly(stream)


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


def serve() -> None:
    """Body of a worker process: tolerances on the first line of stdin, then one pair a line; answers on stdout."""
    import signal
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends this process itself
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # a library that prints must not break the protocol
    _limit_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pymatgen.analysis.structure_matcher import StructureMatcher

        matcher = StructureMatcher(**json.loads(sys.stdin.readline()))
        _say(answers, {"ready": True})
        for line in sys.stdin:
            _say(answers, _compare_here(matcher, json.loads(line)))


def _compare_here(matcher: Any, request: dict[str, Any]) -> dict[str, Any]:
    from pymatgen.core import Structure

    try:
        first, second = (
            Structure(request[key]["cell"], request[key]["species"], request[key]["frac"])
            for key in ("first", "second")
        )
        if not request["rms"]:
            matched = bool(matcher.fit(first, second))
            return {"matched": matched, "reason": None if matched else "no match"}
        found = matcher.get_rms_dist(first, second)
    # Anything that the matcher raises on an odd cell is the outcome of this pair, with its reason.
    except Exception as error:
        return {"matched": False, "reason": f"{type(error).__name__}: {error}"[:300]}
    if found is None:
        return {"matched": False, "reason": "no match"}
    return {"matched": True, "rms": float(found[0])}


def _exchange(process: subprocess.Popen[str], request: str, seconds: float) -> tuple[str, bool]:
    """Send a request and wait; the answer ('' if the process ended without one), and whether the time was over."""
    late = threading.Event()

    def expire() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(request + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    except (OSError, ValueError):  # the pipe closed under us: the process was ended
        answer = ""
    finally:
        timer.cancel()
    return (answer if answer.endswith("\n") else ""), late.is_set()


def _start_worker(tolerances: Tolerances) -> subprocess.Popen[str]:
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        answer, _ = _exchange(process, json.dumps(asdict(tolerances)), SECONDS_TO_START)
        if not answer:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    _close_quietly(stream)
            log.seek(0)
            raise EuhedralError(f"a worker process for comparing structures did not start: {log.read()[-500:].strip()}")
    return process


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _say(stream: IO[str], answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


@contextmanager
def comparison_pool(tolerances: Tolerances, *, seconds_per_pair: float, workers: int) -> Iterator[ComparisonPool]:
    """A `ComparisonPool` whose processes end with the block."""
    pool = ComparisonPool(tolerances, seconds_per_pair=seconds_per_pair, workers=workers)
    try:
        yield pool
    finally:
        pool.close()


def _close_quietly(stream: IO[str]) -> None:
    try:
        stream.close()
    except OSError:  # text that was not yet written cannot reach a process that has ended
        return
