"""Work in processes of its own that are ended when their time is over, so that no odd crystal can hold up the rest.

Compiled code that hangs cannot be interrupted by an exception, and code that asks for too much memory takes its process
with it. Each process answers one JSON line with one JSON line; a request that does not come back in time, or whose
process dies, gets a reason instead of an answer, and a new process takes the next request. This module imports nothing
heavy, so that processes start quickly.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import IO, Any

from euhedral.errors import ConfigError, EuhedralError

SECONDS_TO_START = 300.0
"""Longest time for a process to import its libraries."""
MEMORY_LIMIT = 8 * 2**30
"""Address space of a process in bytes, where the system can limit it."""

_COMMAND = "import sys; from euhedral.evaluate.processes import serve; serve(*sys.argv[1:])"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back: `answer`, or the `reason` why none did."""

    answer: Any = None
    reason: str | None = None


class TaskProcess:
    """One process that calls a function for each request; started when needed, again after each request that ended it.

    Args:
        function: where the function is, as 'module:name'; it takes and gives values that JSON can hold.
    """

    def __init__(self, function: str) -> None:
        self._function = function
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def ask(self, request: Any, seconds: float) -> Reply:
        """Call the function with `request`, for at most `seconds`.

        Raises:
            EuhedralError: if processes cannot be started.
        """
        process = self._running()
        answer, late = _exchange(process, json.dumps(request), seconds)
        if late or not answer:
            self._end()
        if answer:
            return Reply(**json.loads(answer))
        if self._closed:
            return Reply(reason="cancelled")
        return Reply(reason=f"not decided within {seconds:g} s" if late else "the process ended (memory?)")

    def close(self) -> None:
        """End the process; a request in progress returns as cancelled."""
        self._closed = True
        self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._closed:
            raise EuhedralError("the process was closed")
        process = self._process  # `close` may be called by another thread at any moment
        if process is None or process.poll() is not None:
            self._end()
            process = self._process = _start(self._function)
            if self._closed:
                self._end()
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            discard(process)


def run_tasks(
    function: str, jobs: Sequence[Callable[[TaskProcess], Any]], *, workers: int
) -> Iterator[tuple[int, Any]]:
    """Run every job with a free process and yield (position, result) as they end.

    Leaving early, by an exception or Ctrl-C, ends the processes and drops the jobs that have not begun.

    Args:
        function: of the processes, as 'module:name'.
        jobs: each gets a process to ask.
        workers: processes; each uses one thread.

    Raises:
        ConfigError: on no workers.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    processes = [TaskProcess(function) for _ in range(min(workers, max(1, len(jobs))))]
    free: queue.SimpleQueue[TaskProcess] = queue.SimpleQueue()
    for process in processes:
        free.put(process)

    def work(job: Callable[[TaskProcess], Any]) -> Any:
        process = free.get()
        try:
            return job(process)
        finally:
            free.put(process)

    threads = ThreadPoolExecutor(max_workers=len(processes))
    try:
        futures = {threads.submit(work, job): i for i, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()
    finally:
        _close_all(processes)
        threads.shutdown(cancel_futures=True)
        _close_all(processes)  # a job that was just starting its process may have done so after the first call


def serve(function: str) -> None:
    """Body of a process: says that it is ready, then answers one request a line."""
    import importlib
    import signal
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends this process itself
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # a library that prints must not break the protocol
    limit_memory()
    module, _, name = function.partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = getattr(importlib.import_module(module), name)
        say(answers, {"answer": "ready"})
        for line in sys.stdin:
            try:
                reply = {"answer": body(json.loads(line))}
            # Whatever the function raises is the outcome of this request, with its reason.
            except Exception as error:
                reply = {"reason": f"{type(error).__name__}: {error}"[:300]}
            say(answers, reply)


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
        if request:
            process.stdin.write(request + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
    except (OSError, ValueError):  # the pipe closed under us: the process was ended
        answer = ""
    finally:
        timer.cancel()
    return (answer if answer.endswith("\n") else ""), late.is_set()


def _start(function: str) -> subprocess.Popen[str]:
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            env=worker_environment(),
        )
        answer, _ = _exchange(process, "", SECONDS_TO_START)
        if not answer:
            discard(process)
            log.seek(0)
            raise EuhedralError(f"a worker process for {function} did not start: {log.read()[-500:].strip()}")
    return process


def worker_environment() -> dict[str, str]:
    """The environment of a worker process: one thread, and the modules that are found here."""
    one_thread = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def discard(process: subprocess.Popen[str]) -> None:
    """End a process and close its pipes."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # text that was not yet written cannot reach a process that has ended
                stream.close()


def _close_all(processes: Sequence[TaskProcess]) -> None:
    for process in processes:
        process.close()


def limit_memory() -> None:
    """Bound this process's address space to MEMORY_LIMIT, where the system can."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def say(stream: IO[str], answer: Any) -> None:
    """Write an answer as one JSON line."""
    stream.write(json.dumps(answer) + "\n")
    stream.flush()
