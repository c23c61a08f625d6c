"""Chunks of work over worker processes, in order, with a bounded number of chunks in memory."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from euhedral.errors import EuhedralError

Result = TypeVar("Result")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def map_chunks(
    function: Callable[..., Result],
    chunks: Iterable[list[Any]],
    arguments: tuple[Any, ...],
    *,
    workers: int,
    on_death: Callable[[list[Any]], Result] | None = None,
) -> Iterator[Result]:
    """`function(chunk, *arguments)` for every chunk, in order.

    Args:
        function: of a module, so that workers find it.
        chunks: lists of items.
        arguments: the same for all.
        workers: processes; 1 runs here. Each worker uses one thread.
        on_death: what a chunk of one item gives when the worker that had it died (killed for its memory, crashed in a
            library); without it the death is raised. A larger chunk is halved and tried again, so that one item cannot
            take its neighbours with it.

    Raises:
        EuhedralError: where workers end before they begin, as they do in a script without a guard.
    """
    if workers == 1:
        for chunk in chunks:
            yield function(chunk, *arguments)
        return
    source = iter(chunks)
    with _one_thread_each():
        pool = _Pool(workers)
        waiting: deque[tuple[list[Any], Future[Result]]] = deque()
        try:
            while True:
                while len(waiting) < 2 * workers + 1 and (chunk := next(source, None)) is not None:
                    waiting.append((chunk, pool.submit(function, chunk, *arguments)))
                if not waiting:
                    return
                chunk, future = waiting.popleft()
                try:
                    result = future.result()
                except BrokenProcessPool:
                    pool.renew()
                    yield from _one_by_one(pool, function, chunk, arguments, on_death)
                    waiting = deque((c, pool.submit(function, c, *arguments)) for c, _ in waiting)
                    continue
                yield result
        finally:
            pool.close()


class _Pool:
    """A process pool that can be replaced after one of its workers died."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.executor, self.begun = self._new()

    def _new(self) -> tuple[ProcessPoolExecutor, Future[None]]:
        # A forked child of a process with threads (torch, Arrow) can hang; spawned ones start clean.
        executor = ProcessPoolExecutor(self.workers, mp_context=multiprocessing.get_context("spawn"))
        return executor, executor.submit(_begin)

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """A future that has failed already where a worker died before the work could be handed over."""
        try:
            return self.executor.submit(function, *arguments)
        except BrokenProcessPool as error:
            failed: Future[Result] = Future()
            failed.set_exception(error)
            return failed

    def renew(self) -> None:
        """New workers in place of those that died at their work; workers that never began would die again.

        Raises:
            EuhedralError: if none had begun.
        """
        self.close()
        if self.begun.cancelled() or self.begun.exception() is not None:
            raise EuhedralError(
                "worker processes ended before they began. Each runs the main script again: put what the script does "
                'under `if __name__ == "__main__":`, or pass workers=1'
            )
        self.executor, self.begun = self._new()

    def close(self) -> None:
        self.executor.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """The first work of a pool: it fails only where no worker comes as far as to do any."""


def _one_by_one(
    pool: _Pool,
    function: Callable[..., Result],
    chunk: list[Any],
    arguments: tuple[Any, ...],
    on_death: Callable[[list[Any]], Result] | None,
) -> Iterator[Result]:
    """A chunk whose worker died, halved until the item at fault is alone."""
    try:
        yield pool.submit(function, chunk, *arguments).result()
    except BrokenProcessPool:
        pool.renew()
        if len(chunk) > 1:
            middle = len(chunk) // 2
            yield from _one_by_one(pool, function, chunk[:middle], arguments, on_death)
            yield from _one_by_one(pool, function, chunk[middle:], arguments, on_death)
        elif on_death is None:
            raise
        else:
            yield on_death(chunk)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes started meanwhile use one thread each; libraries read these variables when they are loaded."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
