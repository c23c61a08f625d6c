"""Requests that crews of an evaluation have answered by the workers of a cluster."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from euhedral.catalog import dask_host
from euhedral.catalog.dask_host import DaskHost, answer_pickled
from euhedral.data.worker import Unanswered, Worker
from euhedral.data.workers import Crew, ask_each, crews_on, map_chunks
from euhedral.errors import EuhedralError
from euhedral.evaluate.comparison import Tolerances, compare_pairs, plain_crystals

from .funnels import crystals_of_pairs

if TYPE_CHECKING:
    from distributed import Client


def tenfold(chunk: list[int]) -> list[int]:
    """Ends its process at 7, hangs at 8 and raises at 9."""
    if 7 in chunk:
        os.kill(os.getpid(), signal.SIGKILL)
    if 8 in chunk:
        time.sleep(60)
    if 9 in chunk:
        raise MemoryError("no more")
    return [10 * item for item in chunk]


def bad(chunk: list[int]) -> list[int]:
    raise ValueError(f"bad {chunk[0]}")


def counted(chunk: list[int], say: Callable[[int], None]) -> str:
    """Streams items until one that takes its process with it."""
    for item in chunk:
        if item == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        say(item)
    return "all"


def processes(_: int) -> tuple[int, int]:
    return os.getppid(), os.getpid()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    from distributed import Client

    from euhedral.catalog.cluster import local_cluster

    with local_cluster(2) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def host(client: Client) -> Iterator[DaskHost]:
    with crews_on(found := DaskHost(client)):
        yield found


def test_an_item_that_hangs_dies_or_fails_takes_no_other_with_it(host: DaskHost) -> None:
    with Crew(partial(Worker, tenfold), 1) as crew:
        ((_, found),) = crew.run([partial(ask_each, items=[1, 7, 8, 9, 10], seconds=1.0)])
    assert [found[0], found[4]] == [10, 100]
    died, late, failed = found[1:4]
    assert all(isinstance(one, Unanswered) for one in (died, late, failed))
    assert "process ended" in str(died) and late.late and isinstance(failed.error, MemoryError)


def test_what_was_streamed_before_an_end_is_heard(host: DaskHost) -> None:
    heard: list[int] = []
    with Crew(partial(Worker, counted, streams=True), 1) as crew:
        jobs: list[Callable[[Worker], Any]] = [lambda worker: worker.ask([1, 2, 7, 3], 30.0, heard.append)]
        with pytest.raises(Unanswered, match="process ended"):
            list(crew.run(jobs))
        assert heard == [1, 2]
        assert list(crew.run([lambda worker: worker.ask([4], None, heard.append)])) == [(0, "all")]
    assert heard == [1, 2, 4]


def test_processes_stand_beside_workers_of_the_cluster_and_stay(client: Client, host: DaskHost) -> None:
    told: Any = client.run(os.getpid)
    workers = set(told.values())
    with Crew(partial(Worker, processes), 1) as crew:
        found = [pair for _, pair in crew.run([lambda worker: worker.ask(0)] * 40)]
    assert {parent for parent, _ in found} <= workers and os.getpid() not in workers
    assert len(set(found)) <= 4  # a worker of one thread has one, but for one that was ended


def test_outside_the_block_crews_are_of_this_machine(client: Client) -> None:
    with crews_on(DaskHost(client)):
        pass
    with Crew(partial(Worker, processes), 1) as crew:
        ((_, (parent, _)),) = crew.run([lambda worker: worker.ask(0)])
    assert parent == os.getpid()


def test_errors_are_raised_here(host: DaskHost) -> None:
    with pytest.raises(ValueError, match="bad 3"):
        list(map_chunks(bad, [[3]], (), workers=2))


def test_a_crew_that_is_left_waits_for_nobody(host: DaskHost) -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Crew(partial(Worker, tenfold), 1) as crew:
        crew.submit(partial(ask_each, items=[8], seconds=2.0))
        time.sleep(0.5)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 20


def test_comparisons_are_those_of_this_machine(client: Client) -> None:
    crystals = plain_crystals(crystals_of_pairs(6))
    pairs = [(i, j) for i in range(6) for j in range(i, 6)]
    settings: Any = {"tolerances": Tolerances(), "rms": True, "seconds_per_pair": 30.0, "workers": 1}
    here = compare_pairs(crystals, pairs, **settings)
    with crews_on(DaskHost(client)):
        there = compare_pairs(crystals, pairs, **settings)
    assert [(a.matched, a.rms, a.reason) for a in here] == [(b.matched, b.rms, b.reason) for b in there]
    assert sum(a.matched for a in here) == 6


def test_another_release_on_a_worker_is_refused() -> None:
    import pickle

    with pytest.raises(EuhedralError, match="install the same release on both"):
        answer_pickled(pickle.dumps(("0.0.0", b"", b"")))


def test_a_scheduler_that_is_gone_and_one_without_workers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client, LocalCluster

    monkeypatch.setattr(dask_host, "SECONDS_BETWEEN_LOOKS", 0.1)
    monkeypatch.setattr(dask_host, "SECONDS_TO_START", 0.1)
    told: list[str] = []
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        lost = Client(cluster)
        host = DaskHost(lost, tell=told.append)
        pending = host.begin((tenfold, (), False, None), [1], None)
        until = time.monotonic() + 20
        while not told and time.monotonic() < until:
            host.look()
            time.sleep(0.05)
        assert told == ["waiting for workers: the cluster has none"]
        lost.close()
        with pytest.raises(EuhedralError, match="the cluster's scheduler is gone"):
            pending.result()
        with pytest.raises(EuhedralError, match="the cluster's scheduler is gone"):
            host.begin((tenfold, (), False, None), [1], None)


def test_a_report_is_the_same_with_a_cluster(client: Client, tmp_path: Path) -> None:
    from euhedral.evaluate.run import evaluate

    crystals = crystals_of_pairs(6)
    crystals.write(tmp_path / "crystals.extxyz")
    settings: Any = {"protocol": ["cdvae", "csp"], "cache": None, "workers": 1, "potential": False}
    reports = [evaluate(tmp_path / "crystals.extxyz", crystals, **settings)]
    with crews_on(DaskHost(client)):
        reports.append(evaluate(tmp_path / "crystals.extxyz", crystals, **settings))
    here, there = ({**report.to_dict(), "seconds": None, "created": None} for report in reports)
    assert json.dumps(here) == json.dumps(there)
    assert here["results"][1]["figures"]
