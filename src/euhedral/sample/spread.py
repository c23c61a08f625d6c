"""Batches of a request drawn in several processes, on this machine or on others.

A batch's crystals are fixed by the request and its seed, so that it does not matter where or in which order batches are drawn,
but for what rounding differs between processors and numbers of threads. The largest cells come first: they take the longest,
and none is left for one process at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Protocol

from euhedral.data.worker import Unanswered, Worker
from euhedral.data.workers import Crew
from euhedral.errors import CheckpointError, EuhedralError
from euhedral.sample.generate import Chunk, Generator, out_of_memory
from euhedral.sample.plan import PlannedBatch, halves, plan
from euhedral.sample.predictor import load_predictor
from euhedral.sample.request import GenerationRequest
from euhedral.sample.weights import portable_name

BATCHES_PER_PROCESS = 2
"""Batches under way for each process: one that it draws and one that waits."""

WORTH_PROCESSES = 48
"""Crystals from which on processes gain more than they take to start, on a CPU."""

Work = Callable[[PlannedBatch], Chunk]


class Spread(Protocol):
    """Processes that draw batches."""

    def draw(
        self, work: Work, batches: Sequence[PlannedBatch], on_halved: Callable[[int], None] | None = None
    ) -> Iterator[Chunk]:
        """Every batch, in any order; one for which memory is too small in two halves, and so on.

        Raises:
            EuhedralError: where a process cannot be started, or a crystal alone is too much for it.
        """
        ...


def stream_spread(
    generator: Generator,
    request: GenerationRequest,
    spread: Spread,
    *,
    batch: int,
    skip: frozenset[int] = frozenset(),
    on_halved: Callable[[int], None] | None = None,
) -> Iterator[Chunk]:
    """As `Generator.stream`, by processes that load the generator's weights themselves.

    Raises:
        CheckpointError: for a generator that was not loaded from a name or a folder.
    """
    if generator.source is None:
        raise CheckpointError(
            "only a model that was loaded from a name or a folder can be loaded by other processes too"
        )
    resolved = generator.resolve(request)
    batches = [one for one in plan(resolved, crystals_per_batch=batch) if not skip.issuperset(one.indices)]
    digests = {generator.source: generator.digest}
    if request.steer is not None:
        steer = portable_name(request.steer)
        # By the name under which the request was checked, so that it is there already.
        digests[steer] = load_predictor(request.steer, generator.device).digest
        request = replace(request, steer=steer)
    work = partial(draw_batch, request=request, source=generator.source, digests=digests, device=str(generator.device))
    yield from spread.draw(work, batches[::-1], on_halved)


def draw_batch(
    planned: PlannedBatch, *, request: GenerationRequest, source: str, digests: Mapping[str, str], device: str
) -> Chunk:
    """One batch, by the generator of this process.

    Args:
        planned: the batch.
        request: what it is a part of.
        source: name or folder of the generator.
        digests: of the weights at `source` and at `request.steer`, where they were asked for.
        device: where to draw.

    Raises:
        CheckpointError: where weights are missing here, or others.
        MemoryError: where memory is too small, whatever the library calls it.
    """
    generator = _loaded(source, device)
    here = {source: generator.digest}
    if request.steer is not None:
        here[request.steer] = load_predictor(request.steer, device).digest
    for name, digest in here.items():
        if digest != digests[name]:
            raise CheckpointError(f"the weights of {name!r} are others here ({digest[:12]}, not {digests[name][:12]})")
    try:
        return generator.draw(generator.resolve(request), planned)
    except RuntimeError as error:
        if out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise


class Processes:
    """Processes of this machine, of one thread each.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def draw(
        self, work: Work, batches: Sequence[PlannedBatch], on_halved: Callable[[int], None] | None = None
    ) -> Iterator[Chunk]:
        """See `Spread`."""
        if not batches:
            return
        count = min(self._workers, len(batches))
        with Crew(partial(Worker, work), count) as crew:
            yield from drawn(
                batches,
                submit=lambda planned: crew.submit(partial(_asked, planned=planned)),
                first=lambda futures: wait(futures, return_when=FIRST_COMPLETED).done,
                most=lambda: BATCHES_PER_PROCESS * count,
                on_halved=on_halved,
            )


def processes_for(generator: Generator, crystals: int, asked: int | None) -> int:
    """How many processes should draw: as many as asked, or one a core where they gain; 0 for this process.

    Two processes of one thread draw 1.5 times as fast as one of two threads, since layers are small; on an accelerator
    they would only share it.
    """
    if asked is not None:
        return 0 if asked == 1 else asked
    cores = os.cpu_count() or 1
    spread = generator.device.type == "cpu" and generator.source is not None and cores > 1
    return cores if spread and crystals >= WORTH_PROCESSES else 0


def drawn(
    batches: Sequence[PlannedBatch],
    *,
    submit: Callable[[PlannedBatch], Any],
    first: Callable[[list[Any]], Any],
    most: Callable[[], int],
    on_halved: Callable[[int], None] | None,
) -> Iterator[Chunk]:
    """Batches as they come back from wherever they are sent.

    Args:
        batches: to draw, in the order in which they are sent.
        submit: sends one and gives its future.
        first: waits for the first of some futures, and gives those that are done; none after a while.
        most: how many may be under way.
        on_halved: told the new size when memory ran out.
    """
    waiting, flight = list(reversed(batches)), {}
    while waiting or flight:
        while waiting and len(flight) < most():
            planned = waiting.pop()
            flight[submit(planned)] = planned
        for future in first(list(flight)):
            planned = flight.pop(future)
            try:
                yield future.result()
            except MemoryError as error:
                if planned.size == 1:
                    raise EuhedralError(
                        f"one crystal of {planned.num_atoms} atoms is too much for the memory: {error}"
                    ) from error
                parts = list(halves(planned))
                waiting += parts[::-1]
                if on_halved is not None:
                    on_halved(parts[0].size)


def _asked(worker: Worker, *, planned: PlannedBatch) -> Chunk:
    try:
        return worker.ask(planned)
    except Unanswered as lost:
        if lost.error is not None:
            raise lost.error from None
        # A process that is gone was most likely ended for its memory.
        raise MemoryError(str(lost)) from lost


@lru_cache(maxsize=1)
def _loaded(source: str, device: str) -> Generator:
    return Generator.load(source, device=device)
