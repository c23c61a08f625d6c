"""Crystals drawn by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from euhedral.catalog.dask_spread import DaskSpread
from euhedral.errors import EuhedralError
from euhedral.sample.generate import Generator
from euhedral.sample.request import GenerationRequest
from euhedral.sample.spread import stream_spread
from sample.test_spread import BATCHES, broken, mortal, small_memory

if TYPE_CHECKING:
    from distributed import Client

REQUEST = GenerationRequest(n=6, seed=3, steps=2)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two processes on this machine, whose scheduler gives up a task with its second worker."""
    from distributed import Client

    from euhedral.catalog.cluster import local_cluster

    with local_cluster(2) as cluster, Client(cluster) as client:
        client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 1))
        yield client


def test_a_cluster_draws_what_this_process_draws(client: Client, tiny_generator: Generator) -> None:
    found = {c.indices: c.crystals for c in stream_spread(tiny_generator, REQUEST, DaskSpread(client), batch=2)}
    expected = {c.indices: c.crystals for c in tiny_generator.stream(REQUEST, batch=2)}
    assert found.keys() == expected.keys()
    assert all(found[indices].species.equal(expected[indices].species) for indices in found)


@pytest.mark.parametrize("work", [small_memory, mortal])
def test_workers_that_die_or_have_no_room_are_given_less(client: Client, work) -> None:
    chunks = list(DaskSpread(client).draw(work, BATCHES))
    assert sorted(i for chunk in chunks for i in chunk.indices) == list(range(9))


def test_an_error_of_a_worker_is_told(client: Client) -> None:
    with pytest.raises(EuhedralError, match="a worker could not draw: ValueError: not a number"):
        list(DaskSpread(client).draw(broken, BATCHES))


def test_a_scheduler_that_is_gone_is_told() -> None:
    from distributed import Client

    from euhedral.catalog.cluster import local_cluster

    with local_cluster(1) as cluster:
        lost = Client(cluster.scheduler_address)
        lost.close()
        with pytest.raises(EuhedralError, match="the cluster's scheduler is gone"):
            list(DaskSpread(lost).draw(small_memory, BATCHES))
