"""One process beside this one, which is ended when its time is over and replaced when it has ended.

Compiled code that hangs cannot be interrupted by an exception, and code that asks for too much memory takes its process
with it. Processes are started afresh, not forked (a forked child of a process with threads, as torch and Arrow have, can
hang), and do not run the main script again, so that scripts need no guard. Nothing heavy is imported here, so that they
start quickly.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from euhedral.data.worker_process import ALARM, UNDECIDED, receive, send
from euhedral.errors import EuhedralError

SECONDS_TO_START = 300.0
"""Longest time for a process to import its libraries."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Without -P the folder in which the program was started would come first, and its random.py before Python's.
_COMMAND = ("-P", "-c", "import sys; from euhedral.data.worker_process import serve; serve(int(sys.argv[1]))")


class Unanswered(EuhedralError):
    """A request that got no answer.

    Attributes:
        late: whether its time was over.
        error: what the function raised, if it did.
    """

    def __init__(self, reason: str, *, late: bool = False, error: Exception | None = None) -> None:
        super().__init__(reason)
        self.late = late
        self.error = error


Work: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], bool, Callable[[], object] | None]
"""Arguments of a `Worker`: function, arguments, whether it streams, preparation."""


class Pending(Protocol):
    """A request that is answered elsewhere."""

    def result(self) -> tuple[list[Any], Any | Unanswered]:
        """Items that the function streamed, and its answer or why there is none, after waiting for it.

        Raises:
            EuhedralError: where nobody can answer, or it was cancelled.
        """
        ...

    def cancel(self) -> None:
        """Let go of it."""
        ...


class Host(Protocol):
    """Answers requests elsewhere, such as on a cluster, as `Worker` would."""

    @property
    def places(self) -> int:
        """How many requests should be under way together; raises EuhedralError where nobody is there any more."""
        ...

    def begin(self, work: Work, request: Any, seconds: float | None) -> Pending:
        """Have a request answered."""
        ...


class Worker:
    """One process, with one thread, that calls `function(request, *arguments)`; started when needed, and again after
    each request that ended it.

    Args:
        function: of a module, so that the process finds it.
        arguments: the same for all requests.
        streams: the function gets one more argument, a function that hands an item to `on_item` of `ask`.
        prepare: called when a process starts, and not counted as a request's time.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        streams: bool = False,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        self._work: Work = (function, arguments, streams, prepare)
        self._process: subprocess.Popen[bytes] | None = None
        self._host: Host | None = None
        self._pending: Pending | None = None
        self._closed = False

    def move(self, host: Host) -> None:
        """Have requests answered by a host; no process is started here."""
        self._host = host

    def ask(self, request: Any, seconds: float | None = None, on_item: Callable[[Any], object] | None = None) -> Any:
        """What the function gives.

        Args:
            request: anything that can be pickled.
            seconds: time limit, which begins anew with each item of a function that streams.
            on_item: called with each of these items.

        Raises:
            Unanswered: if the function raises, its time is over, or its process ends.
            EuhedralError: if processes cannot be started, or the worker was closed.
        """
        if self._host is not None:
            return self._ask_host(self._host, request, seconds, on_item)
        process = self.running()
        try:
            kind, value, late = _exchange(process, request, seconds, on_item)
        except BaseException:  # whoever asks next must not get the answer to this request
            self._end()
            raise
        if late or kind == "lost":
            self._end()
        if kind == "answer":
            return value
        if kind == "error":
            raise Unanswered(value[0], error=value[1])
        self._check_open()
        if late or (ALARM and process.returncode == -ALARM):  # this process was too busy to see that the time was over
            raise Unanswered(f"{UNDECIDED} within {seconds:g} s", late=True)
        raise Unanswered("the worker process ended (memory?)")

    def _ask_host(
        self, host: Host, request: Any, seconds: float | None, on_item: Callable[[Any], object] | None
    ) -> Any:
        self._check_open()
        pending = self._pending = host.begin(self._work, request, seconds)
        if self._closed:  # by another thread, which found nothing to cancel
            pending.cancel()
        try:
            items, answer = pending.result()
        finally:
            self._pending = None
        if on_item is not None:
            for item in items:
                on_item(item)
        if isinstance(answer, Unanswered):
            raise answer
        return answer

    def running(self) -> subprocess.Popen[bytes]:
        """The process, started if there is none; errors as of `ask`."""
        self._check_open()
        process = self._process  # `close` may be called by another thread at any moment
        if process is None or process.poll() is not None:
            self._end()
            process = self._process = _start(self._work)
            if self._closed:
                self._end()
        return process

    def close(self) -> None:
        """End the process; a request in progress raises."""
        self._closed = True
        if (pending := self._pending) is not None:
            pending.cancel()
        self._end()

    def _check_open(self) -> None:
        if self._closed:
            raise EuhedralError("the worker process was closed")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _discard(process)


def _exchange(
    process: subprocess.Popen[bytes], request: Any, seconds: float | None, on_item: Callable[[Any], object] | None
) -> tuple[str, Any, bool]:
    """Send a request and wait: the last frame ('lost' if the process ended before it), and whether the time was over."""
    limit = _TimeLimit(process, seconds)
    try:
        assert process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # the process was ended, which its answer tells
            send(process.stdin, seconds)
            send(process.stdin, request)
        kind, value = _received(process)
        while kind == "item":
            limit.renew()
            if on_item is not None:
                on_item(value)
            kind, value = _received(process)
    finally:
        limit.stop()
    return kind, value, limit.late


def _received(process: subprocess.Popen[bytes]) -> tuple[str, Any]:
    assert process.stdout is not None
    try:
        return receive(process.stdout)
    except (EOFError, OSError, ValueError):  # the pipe closed under us: the process was ended
        return "lost", None


class _TimeLimit:
    """Ends a process that gives no sign of life for a time."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float | None) -> None:
        self.late = False
        self._process = process
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if seconds is not None:
            self._end = time.monotonic() + seconds
            self._thread.start()

    def renew(self) -> None:
        if self._seconds is not None:
            self._end = time.monotonic() + self._seconds

    def stop(self) -> None:
        """No end comes after this, and `late` says whether one came before."""
        self._stopped.set()
        if self._seconds is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(max(self._end - time.monotonic(), 0)):
            if time.monotonic() >= self._end:
                self.late = True
                self._process.kill()
                return


def _start(work: Work) -> subprocess.Popen[bytes]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, *_COMMAND, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(),
        )
        kind, _, _ = _exchange(process, work, SECONDS_TO_START, None)
        if kind != "ready":
            _discard(process)
            log.seek(0)
            told = log.read().decode(errors="replace")[-500:].strip()
            raise EuhedralError(f"a worker process for {getattr(work[0], '__name__', work[0])} did not start: {told}")
    return process


def _environment() -> dict[str, str]:
    """One thread, which libraries read when they are loaded, and the modules that are found here."""
    one_thread = dict.fromkeys(THREAD_VARIABLES, "1")
    return {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _discard(process: subprocess.Popen[bytes]) -> None:
    """End a process and close its pipes."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was not yet written cannot reach a process that has ended
                stream.close()
