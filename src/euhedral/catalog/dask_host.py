"""Requests of an evaluation answered by the workers of a Dask cluster.

A worker of the cluster keeps a process beside itself for each kind of work, as `data.worker.Worker` does on one machine, so
that limits of time and memory hold there as they do here, and what takes a process with it takes no worker of the cluster.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from euhedral.catalog.executors import SECONDS_TO_START, Tell
from euhedral.data.worker import Unanswered, Work, Worker
from euhedral.data.worker_process import UNDECIDED
from euhedral.errors import EuhedralError

if TYPE_CHECKING:
    from distributed import Client, Future

PLACES_PER_THREAD = 2
"""Requests under way for each thread of the cluster: one that is answered and one that waits."""
LEAST_PLACES = 32
"""Requests under way where there are few workers yet, so that those that come later find some."""
KINDS_KEPT = 2
"""Kinds of work that a worker of the cluster keeps processes of while they have nothing to do."""
SECONDS_BETWEEN_LOOKS = 2.0


class DaskHost:
    """The workers of a Dask cluster, as `data.worker.Host`.

    Args:
        client: connected to its scheduler.
        tell: gets what a user should know meanwhile: that there are no workers.
    """

    def __init__(self, client: Client, *, tell: Tell | None = None) -> None:
        self._client = client
        self._tell: Tell = tell or (lambda _: None)
        self._looking = threading.Lock()
        self._looked = time.monotonic()
        self._lonely_at: float | None = None

    @property
    def threads(self) -> int:
        """Of all workers that are there now."""
        threads: Any = self._asked(self._client.nthreads)
        return sum(threads.values())

    @property
    def places(self) -> int:
        """See `Host`."""
        return max(LEAST_PLACES, PLACES_PER_THREAD * self.threads)

    def begin(self, work: Work, request: Any, seconds: float | None) -> DaskPending:
        """See `Host`."""
        from euhedral import __version__

        # Bytes, so that a worker without the package says so and lives on.
        given = pickle.dumps((__version__, pickle.dumps(work), pickle.dumps((request, seconds))))
        return DaskPending(self._asked(lambda: self._client.submit(answer_pickled, given, pure=False)), self)

    def look(self) -> None:
        """Tell a user once where there are no workers; called by whoever waits."""
        now = time.monotonic()
        with self._looking:
            if now - self._looked < SECONDS_BETWEEN_LOOKS:
                return
            self._looked = now
        if self.threads:
            self._lonely_at = None
        elif self._lonely_at is None:
            self._lonely_at = now + SECONDS_TO_START
        elif now > self._lonely_at:
            self._lonely_at = float("inf")
            self._tell("waiting for workers: the cluster has none")

    def _asked(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        # Each of Dask's layers has its own exceptions for a connection that is gone.
        except Exception as error:
            raise _lost() from error


class DaskPending:
    """A request under way, as `data.worker.Pending`."""

    def __init__(self, future: Future, host: DaskHost) -> None:
        self._future, self._host = future, host
        self._cancelled = False

    def result(self) -> tuple[list[Any], Any | Unanswered]:
        """See `Pending`."""
        from distributed import KilledWorker

        try:
            while not self._future.done():
                with contextlib.suppress(TimeoutError):
                    self._future.result(timeout=SECONDS_BETWEEN_LOOKS)
                self._host.look()
            return pickle.loads(self._future.result())
        except EuhedralError:
            raise
        except KilledWorker as error:
            return [], Unanswered(f"{UNDECIDED}: it killed each worker that took it up ({error.last_worker})")
        except MemoryError as error:
            return [], Unanswered(f"{UNDECIDED} for want of memory: {error}")
        except Exception as error:
            if self._cancelled:
                raise EuhedralError("the request was cancelled") from None
            if self._future.status in ("cancelled", "lost"):
                raise _lost() from error
            raise EuhedralError(
                f"a worker could not answer: {type(error).__name__}: {error}; workers need the same packages as this "
                "program"
            ) from error

    def cancel(self) -> None:
        """See `Pending`. A worker that has begun ends what it does."""
        self._cancelled = True
        with contextlib.suppress(Exception):  # the cluster may be gone, and then there is nothing to cancel
            self._future.cancel(force=True)


def answer_pickled(given: bytes) -> bytes:
    """What a worker of the cluster does: items and the answer, by a process beside it.

    Raises:
        EuhedralError: where this process has another release than the one that asks, or no process can be started.
    """
    from euhedral import __version__

    release, work, request = pickle.loads(given)
    if release != __version__:
        raise EuhedralError(
            f"a worker has euhedral {__version__} and this program is {release}; install the same release on both"
        )
    items: list[Any] = []
    asked, seconds = pickle.loads(request)
    with _STAFF.worker(work) as worker:
        try:
            answer = worker.ask(asked, seconds, items.append)
        except Unanswered as failure:
            answer = failure
    return pickle.dumps((items, answer))


class _Staff:
    """Processes beside this one that have nothing to do, by the kind of work that they can do."""

    def __init__(self) -> None:
        self._free: OrderedDict[bytes, list[Worker]] = OrderedDict()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def worker(self, work: bytes) -> Generator[Worker, None, None]:
        """A worker for pickled `Work`, for one request."""
        with self._lock:
            free = self._free.setdefault(work, [])
            self._free.move_to_end(work)
            worker = free.pop() if free else None
            dismissed = []
            while len(self._free) > KINDS_KEPT:
                dismissed += self._free.popitem(last=False)[1]
        for one in dismissed:
            one.close()
        if worker is None:
            function, arguments, streams, prepare = pickle.loads(work)
            worker = Worker(function, *arguments, streams=streams, prepare=prepare)
        try:
            yield worker
        finally:
            with self._lock:
                kept = self._free.get(work)
                if kept is not None:
                    kept.append(worker)
            if kept is None:
                worker.close()


_STAFF = _Staff()


def _lost() -> EuhedralError:
    return EuhedralError(
        "the cluster's scheduler is gone, or its connection; what was calculated before is in the cache: "
        "start it and run the same command again"
    )
