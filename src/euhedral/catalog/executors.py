"""Where the stages of a screening work: in this process and its own workers, or on a cluster through Dask.

An executor takes crystals from a source as it has room for them and gives records as they come. It knows no database: the
process that walks the funnel is the only one that writes. On a cluster a stage's crystals travel in portions that are sized
to take about `PORTION_SECONDS` each. A worker that dies costs no crystal: Dask gives its portions to others, up to its
`allowed-failures` times. What has killed more workers than that is given to them crystal by crystal, so few at a time that no
two share a worker, and a crystal that then kills its workers again has failed.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import time
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from euhedral.catalog.portions import Portion, Source, from_plain, pickled, records_of, run_pickled
from euhedral.errors import EuhedralError
from euhedral.screen.stage import FAILED, TIME_LIMIT, Stage, StageRecord

if TYPE_CHECKING:
    from distributed import Client, Future

PORTION_SECONDS = 30.0
"""That a portion should take: long against the scheduler's milliseconds, short against what a kill may cost."""
PORTIONS_PER_THREAD = 2
"""Portions under way for each thread of the cluster: one that works and one that waits."""
PORTIONS_AT_ONCE = 100
"""Portions whose records are fetched in one request at most."""
WORKERS_PER_SUSPECT = 4
"""Of crystals that may kill their workers, one is under way for so many workers, so that none share one."""
SECONDS_TO_START = 5.0
"""For workers that begin or begin again; longer without any is told."""
TICK = 0.5
"""Seconds between looks at the cluster while nothing comes."""
SECONDS_OF_GRACE = 60.0
"""Beyond a stage's own time limit, after which a worker counts as hanging."""

Tell = Callable[[str], None]


class Executor(Protocol):
    """Runs a stage whose crystals are not compared with each other."""

    def run(self, stage: Stage, source: Source) -> Generator[list[StageRecord], None, None]:
        """Records of all crystals of a source, one a crystal, in any order; empty lists where nothing came for a while.

        Raises:
            EuhedralError: what concerns all crystals, or the cluster.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """This process, and `workers` of its own where there are any."""

    workers: int = 0

    def run(self, stage: Stage, source: Source) -> Generator[list[StageRecord], None, None]:
        """See `Executor`."""
        while len(source):
            for record in records_of(stage, source.take(stage.chunk), workers=self.workers):
                yield [record]


class DaskExecutor:
    """The workers of a Dask cluster.

    Args:
        client: connected to its scheduler; an attribute too.
        tell: gets what a user should know meanwhile: that there are no workers, that a worker hangs.
    """

    def __init__(self, client: Client, *, tell: Tell | None = None) -> None:
        self.client = client
        self._tell: Tell = tell or (lambda _: None)

    def run(self, stage: Stage, source: Source) -> Generator[list[StageRecord], None, None]:
        """See `Executor`."""
        flight = _Flight(self.client, stage, source, self._tell)
        flight.check_workers()
        try:
            while flight.send():
                yield flight.receive()
        finally:
            flight.cancel()


@dataclass
class _Sent:
    """A portion under way; `since` is when its worker was first seen to have it."""

    future: Future
    portion: Portion
    alone: bool
    worker: str | None = None
    since: float = 0.0


@dataclass
class _PortionSize:
    """How many crystals a portion should have, learned from those that came back."""

    most: int
    per_crystal: float | None = None
    largest: int = 1

    def next(self, left: int, threads: int) -> int:
        """For `left` crystals and so many threads: never more than twice what went well, and a share for all at the end."""
        wanted = 1 if self.per_crystal is None else int(PORTION_SECONDS / max(self.per_crystal, 1e-9))
        share = math.ceil(left / (PORTIONS_PER_THREAD * max(1, threads)))
        return max(1, min(wanted, 2 * self.largest, share, self.most))

    def learn(self, count: int, seconds: float) -> None:
        """A portion of `count` crystals took so long."""
        each = seconds / count
        self.per_crystal = each if self.per_crystal is None else (self.per_crystal + each) / 2
        self.largest = max(self.largest, count)


@dataclass
class _Flight:
    """The portions of one stage that are under way."""

    client: Client
    stage: Stage
    source: Source
    tell: Tell
    sent: dict[str, _Sent] = field(default_factory=dict)
    suspects: list[Portion] = field(default_factory=list)
    back: queue.SimpleQueue[Future] = field(default_factory=queue.SimpleQueue)
    threads: int = 0
    workers: int = 0
    looked: float = -math.inf
    judged: float = -math.inf
    lonely_at: float | None = None

    def __post_init__(self) -> None:
        self.size = _PortionSize(self.stage.chunk)

    def check_workers(self) -> None:
        """Raise EuhedralError where a worker has no euhedral: it would die of the first portion, and again."""
        found = self._ask(lambda: self.client.run(version, "euhedral", on_error="return"))
        for address, said in found.items():
            if isinstance(said, Exception):
                raise EuhedralError(f"the worker {address} has no euhedral ({said}); install the same release there")

    def send(self) -> bool:
        """Send what there is room for; False when all has come back."""
        self._look()
        while len(self.source) and len(self.sent) < PORTIONS_PER_THREAD * max(1, self.threads):
            self._submit(self.source.take(self.size.next(len(self.source), self.threads)))
        if not len(self.source) and all(sent.alone for sent in self.sent.values()):
            while self.suspects and len(self.sent) < max(1, self.workers // WORKERS_PER_SUSPECT):
                self._submit(self.suspects.pop(), alone=True)
        return bool(self.sent)

    def receive(self) -> list[StageRecord]:
        """What has come back, after waiting for a while."""
        sent = [self.sent.pop(key) for key in self._returned() if key in self.sent]
        finished = [one for one in sent if one.future.status == "finished"]
        answers: dict[str, Any] = {}
        if len(finished) > 1:
            # In one request; where a worker has died with an answer, each is asked for by itself below.
            with contextlib.suppress(Exception):
                found: Any = self.client.gather([one.future for one in finished])
                answers = {str(one.future.key): answer for one, answer in zip(finished, found, strict=True)}
        records = []
        for one in sent:
            records += self._records(one, answers.get(str(one.future.key)))
        return records + self._overdue()

    def _returned(self) -> list[str]:
        """Keys of portions that are back, after waiting for the first."""
        keys: list[str] = []
        with contextlib.suppress(queue.Empty):
            keys.append(str(self.back.get(timeout=TICK).key))
            while len(keys) < PORTIONS_AT_ONCE:
                keys.append(str(self.back.get_nowait().key))
        return keys

    def cancel(self) -> None:
        """Let go of all that is under way."""
        if self.sent:
            with contextlib.suppress(Exception):  # the cluster may be gone, and then there is nothing to cancel
                self.client.cancel([sent.future for sent in self.sent.values()], force=True)
        self.sent.clear()

    def _submit(self, portion: Portion, *, alone: bool = False) -> None:
        # A key of its own for each, since the same crystals may be sent again after a death and must be done again.
        future = self.client.submit(run_pickled, pickled(self.stage, portion), pure=False)
        self.sent[str(future.key)] = _Sent(future, portion, alone)
        future.add_done_callback(self.back.put)

    def _records(self, sent: _Sent, answer: Any) -> list[StageRecord]:
        """Records of a portion that is back, from its answer or, where that is None, whatever its future gives."""
        from distributed import KilledWorker

        try:
            records, seconds = sent.future.result() if answer is None else answer
        except EuhedralError:
            raise
        except KilledWorker as error:
            return self._suspected(sent, FAILED, f"it killed each worker that took it up ({error.last_worker})")
        except MemoryError as error:
            return self._suspected(sent, FAILED, f"memory ran out: {error}")
        except (OSError, TimeoutError) as error:
            raise self._lost() from error
        # Whatever else Dask raises concerns the cluster: the stage's own errors are records already.
        except Exception as error:
            if sent.future.status in ("cancelled", "lost"):
                raise self._lost() from error
            raise EuhedralError(
                f"a worker could not run stage {self.stage.name}: {type(error).__name__}: {error}; workers need the same "
                "packages as this program"
            ) from error
        self.size.learn(len(sent.portion), seconds)
        return [from_plain(record) for record in records]

    def _suspected(self, sent: _Sent, outcome: str, reason: str) -> list[StageRecord]:
        """A portion that did not come back: its crystals wait to be sent alone, or one that was alone is at its end."""
        if not sent.alone:
            self.suspects += sent.portion.alone()
            return []
        (index,) = sent.portion.indices
        return [StageRecord(index=index, outcome=outcome, reason=reason[:300])]

    def _look(self) -> None:
        """How many threads there are; a user is told once where there are none."""
        now = time.monotonic()
        if now - self.looked < TICK:
            return
        self.looked = now
        threads = self._ask(self.client.nthreads)
        self.threads, self.workers = sum(threads.values()), len(threads)
        if self.workers:
            self.lonely_at = None
        elif self.lonely_at is None:
            self.lonely_at = now + SECONDS_TO_START
        elif now > self.lonely_at:
            self.lonely_at = math.inf
            self.tell("waiting for workers: the cluster has none")

    def _overdue(self) -> list[StageRecord]:
        """End workers that are far beyond the stage's own limit of time; their crystals come again alone, or have ended."""
        limit, now = getattr(self.stage.config, "max_seconds", None), time.monotonic()
        if limit is None or not self.sent or now - self.judged < SECONDS_OF_GRACE / 10:
            return []
        self.judged = now
        for address, keys in self._ask(self.client.processing).items():
            for key in map(str, keys):
                sent = self.sent.get(key)
                if sent is not None and sent.worker != address:
                    sent.worker, sent.since = address, now
        records = []
        hanging: set[str] = set()
        # A portion that is ended for nothing comes again crystal by crystal, each with its whole time, so that the limit of
        # one crystal is enough for it; what waits behind another portion has that one's time as well.
        here = Counter(sent.worker for sent in self.sent.values())
        for key, sent in list(self.sent.items()):
            if sent.worker is None or now - sent.since < limit * here[sent.worker] + SECONDS_OF_GRACE:
                continue
            hanging.add(sent.worker)
            del self.sent[key]
            self._ask(lambda sent=sent: self.client.cancel([sent.future], force=True))
            reason = f"no answer from its worker for {now - sent.since:.0f} s"
            records += self._suspected(sent, TIME_LIMIT, reason)
        for address in hanging:
            self.tell(f"the worker {address} hangs and is ended; its nanny starts it again")
            # Dask's own restart would wait a minute for the thread that hangs.
            self._ask(lambda address=address: self.client.run(_end_process, workers=[address], wait=False))
        return records

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        # Each of Dask's layers has its own exceptions for a connection that is gone.
        except Exception as error:
            raise self._lost() from error

    def _lost(self) -> EuhedralError:
        self.sent.clear()  # nobody is there to cancel it
        return EuhedralError(
            "the cluster's scheduler is gone, or its connection; what came back before is kept: start it and "
            "run the same command again"
        )


async def _end_process() -> None:
    """End this worker at once; asynchronous, so that Dask does not wait for an answer."""
    os._exit(1)
