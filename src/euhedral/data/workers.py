"""Jobs and chunks of work over several worker processes."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from euhedral.data.worker import Host, Unanswered, Worker
from euhedral.errors import ConfigError

Result = TypeVar("Result")


_HOST: ContextVar[Host | None] = ContextVar("host of crews", default=None)


@contextmanager
def crews_on(host: Host) -> Generator[None, None, None]:
    """Within this block new crews have their requests answered by a host, as many at a time as it has places for."""
    before = _HOST.set(host)
    try:
        yield
    finally:
        _HOST.reset(before)


class Member(Protocol):
    """What a crew consists of: a `Worker`, or something that has one."""

    def move(self, host: Host) -> None:
        """Have its requests answered by a host."""
        ...

    def close(self) -> None:
        """End its process."""
        ...


AnyMember = TypeVar("AnyMember", bound=Member)


class Crew(Generic[AnyMember]):
    """Several members that share jobs; each job gets a free one. Leaving its block ends the members' processes, also in
    the midst of a job, and drops the jobs that have not begun.

    Args:
        make: makes a member.
        workers: how many there are, unless a host (`crews_on`) says how many it has places for.

    Raises:
        ConfigError: on no workers.
    """

    def __init__(self, make: Callable[[], AnyMember], workers: int) -> None:
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, not {workers}")
        host = _HOST.get()
        workers = workers if host is None else max(1, host.places)
        self._members = [make() for _ in range(workers)]
        if host is not None:
            for member in self._members:
                member.move(host)
        self._free: queue.SimpleQueue[AnyMember] = queue.SimpleQueue()
        for member in self._members:
            self._free.put(member)
        self._threads = ThreadPoolExecutor(max_workers=workers)

    def __enter__(self) -> Crew[AnyMember]:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_members()
        self._threads.shutdown(cancel_futures=True)
        self._close_members()  # a job that was just starting its process may have done so after the first call

    def submit(self, job: Callable[[AnyMember], Result]) -> Future[Result]:
        """Have a job done when a member is free."""
        return self._threads.submit(self._do, job)

    def run(self, jobs: Sequence[Callable[[AnyMember], Result]]) -> Iterator[tuple[int, Result]]:
        """Have every job done and yield (position, result) as they end."""
        futures = {self.submit(job): i for i, job in enumerate(jobs)}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()

    def _do(self, job: Callable[[AnyMember], Result]) -> Result:
        member = self._free.get()
        try:
            return job(member)
        finally:
            self._free.put(member)

    def _close_members(self) -> None:
        for member in self._members:
            member.close()


def map_chunks(
    function: Callable[..., Result],
    chunks: Iterable[list[Any]],
    arguments: tuple[Any, ...],
    *,
    workers: int,
    seconds: float | None = None,
    on_loss: Callable[[list[Any], Unanswered], Result] | None = None,
) -> Iterator[Result]:
    """`function(chunk, *arguments)` for every chunk, in order, with a bounded number of chunks in memory.

    Args:
        function: of a module, so that workers find it.
        chunks: lists of items.
        arguments: the same for all.
        workers: processes, one thread each; 1 runs here, unless there is a time limit.
        seconds: time limit of a chunk, and of each of its items where these are tried one by one.
        on_loss: as of `results`.

    Raises:
        Unanswered: on a loss without `on_loss`.
        EuhedralError: if processes cannot be started.
    """
    if workers == 1 and seconds is None:
        for chunk in chunks:
            yield function(chunk, *arguments)
        return
    with Crew(partial(Worker, function, *arguments), workers) as crew:
        waiting: deque[Future[list[tuple[list[Any], Any]]]] = deque()
        for chunk in chunks:
            waiting.append(crew.submit(partial(ask_divided, items=chunk, seconds=seconds)))
            if len(waiting) > 2 * workers:
                yield from results(waiting.popleft().result(), on_loss)
        while waiting:
            yield from results(waiting.popleft().result(), on_loss)


def filled_chunks(
    indices: Iterable[int], atoms: Sequence[int], *, crystals_at_once: int, atoms_at_once: int
) -> Iterator[list[int]]:
    """Positions of crystals that go to a process together; one crystal may have more than `atoms_at_once`.

    Args:
        indices: positions, in order.
        atoms: of the crystal at each position.
        crystals_at_once: crystals in a chunk at most.
        atoms_at_once: their atoms at most.
    """
    chunk: list[int] = []
    filled = 0
    for i in indices:
        if chunk and (len(chunk) == crystals_at_once or filled + atoms[i] > atoms_at_once):
            yield chunk
            chunk, filled = [], 0
        chunk.append(i)
        filled += atoms[i]
    if chunk:
        yield chunk


def ask_divided(
    worker: Worker, items: list[Any], seconds: float | None = None
) -> list[tuple[list[Any], Any | Unanswered]]:
    """(items, the answer to them) of all items together or, where these got none, of each alone, which may have none."""
    try:
        return [(items, worker.ask(items, seconds))]
    except Unanswered as failure:
        if len(items) == 1:
            return [(items, failure)]
    return [part for item in items for part in ask_divided(worker, [item], seconds)]


def ask_each(worker: Worker, items: list[Any], seconds: float | None = None) -> list[Any | Unanswered]:
    """The answer to each item from a function that takes several and gives one answer each; failures as they are in
    `ask_divided`: one item does not take its neighbours with it, and has the whole time where it is asked for alone.
    """
    answers: list[Any | Unanswered] = []
    for _, found in ask_divided(worker, items, seconds):
        answers += [found] if isinstance(found, Unanswered) else found
    return answers


def results(
    parts: list[tuple[list[Any], Result | Unanswered]],
    on_loss: Callable[[list[Any], Unanswered], Result] | None = None,
) -> Iterator[Result]:
    """The answers among what `ask_divided` gives.

    Args:
        parts: items and what came of them.
        on_loss: what an item gives whose worker died (killed for its memory, crashed in a library) or whose time was
            over; without it the loss is raised.

    Raises:
        Unanswered: on a loss without `on_loss`.
        Exception: whatever the function raised, but for want of memory.
    """
    for items, found in parts:
        if not isinstance(found, Unanswered):
            yield found
        elif found.error is not None and not isinstance(found.error, MemoryError):
            raise found.error
        elif on_loss is None:
            raise found
        else:
            yield on_loss(items, found)
