"""Batches of a request drawn by the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from euhedral.catalog.executors import SECONDS_TO_START, TICK, Tell
from euhedral.errors import EuhedralError
from euhedral.sample.spread import BATCHES_PER_PROCESS, Work, drawn

if TYPE_CHECKING:
    from distributed import Client

    from euhedral.sample.generate import Chunk
    from euhedral.sample.plan import PlannedBatch


class DaskSpread:
    """The workers of a Dask cluster, each of which loads the weights itself: by the name of shipped ones, or from a path that
    is the same on all machines.

    Args:
        client: connected to its scheduler.
        tell: gets what a user should know meanwhile.
    """

    def __init__(self, client: Client, *, tell: Tell | None = None) -> None:
        self._client = client
        self._tell: Tell = tell or (lambda _: None)
        self._lonely_at: float | None = None

    def draw(
        self, work: Work, batches: Sequence[PlannedBatch], on_halved: Callable[[int], None] | None = None
    ) -> Iterator[Chunk]:
        """See `Spread`. A worker that dies costs nothing: Dask gives its batches to others, a few times each."""
        flight: set[Any] = set()

        def submit(planned: PlannedBatch) -> _Answer:
            # Bytes, so that a worker without the package says so and lives on.
            future = self._client.submit(_draw_pickled, pickle.dumps((work, planned)), pure=False)
            answer = _Answer(future, self._client)
            flight.add(answer)
            return answer

        def first(answers: list[_Answer]) -> list[_Answer]:
            self._look()
            done = [answer for answer in answers if answer.future.done()]
            if not done:
                time.sleep(TICK / 10)
            flight.difference_update(done)
            return done

        try:
            yield from drawn(batches, submit=submit, first=first, most=self._room, on_halved=on_halved)
        finally:
            if flight:
                with contextlib.suppress(Exception):  # the cluster may be gone, and then there is nothing to cancel
                    self._client.cancel([answer.future for answer in flight], force=True)

    def _room(self) -> int:
        try:
            threads: Any = self._client.nthreads()
            return BATCHES_PER_PROCESS * max(1, sum(threads.values()))
        # Each of Dask's layers has its own exceptions for a connection that is gone.
        except Exception as error:
            raise _lost() from error

    def _look(self) -> None:
        """Tell a user once where there are no workers."""
        now = time.monotonic()
        if self._client.scheduler_info(n_workers=1)["workers"]:
            self._lonely_at = None
        elif self._lonely_at is None:
            self._lonely_at = now + SECONDS_TO_START
        elif now > self._lonely_at:
            self._lonely_at = float("inf")
            self._tell("waiting for workers: the cluster has none")


class _Answer:
    """A batch under way, whose result raises what `drawn` knows."""

    def __init__(self, future: Any, client: Client) -> None:
        self.future, self._client = future, client

    def result(self) -> Chunk:
        from distributed import KilledWorker

        try:
            return pickle.loads(self.future.result())
        except (EuhedralError, MemoryError):
            raise
        # Whoever takes up too much is ended, most often for its memory.
        except KilledWorker as error:
            raise MemoryError(f"it killed each worker that took it up ({error.last_worker})") from error
        except Exception as error:
            if self.future.status in ("cancelled", "lost"):
                raise _lost() from error
            raise EuhedralError(
                f"a worker could not draw: {type(error).__name__}: {error}; workers need the same packages as this program"
            ) from error


def _draw_pickled(given: bytes) -> bytes:
    work, planned = pickle.loads(given)
    return pickle.dumps(work(planned))


def _lost() -> EuhedralError:
    return EuhedralError(
        "the cluster's scheduler is gone, or its connection; what came back before is kept: start it and run "
        "the same command again with --resume"
    )
