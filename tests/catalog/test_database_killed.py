"""Writers that are killed at random moments go on where they were: nothing is lost and nothing is there twice."""

from __future__ import annotations

import multiprocessing
import random
import signal
import sqlite3
import time

import torch

from catalog.batches import crystals, record, write_until_killed
from euhedral.catalog.database import Catalogue
from euhedral.errors import DataError

COUNT, KILLS = 1_000, 20
LONGEST = 0.05
"""Seconds that a writer lives at most after it began; twenty of them cannot write all crystals, at over 1 ms each."""


def work(target: str) -> int:
    """Crystals that the stage has no result of; all of them while there is no catalogue yet."""
    try:
        with Catalogue(target, create=False) as catalogue:
            return len(catalogue.unfinished(1, "relax")) if catalogue.runs() else COUNT
    except DataError:
        return COUNT


def test_a_writer_killed_twenty_times(target: str) -> None:
    chance = random.Random(5)
    # Processes of a server that has loaded everything start at once, and have none of this one's threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "euhedral.catalog.database"])
    left = [COUNT]
    for kill in range(KILLS):
        hear, begun = context.Pipe(duplex=False)
        writer = context.Process(target=write_until_killed, args=(target, COUNT, 1, begun))
        writer.start()
        # One in four dies while it makes the catalogue or takes in the crystals, or soon after.
        while hear.recv() != ("open" if kill % 4 == 0 else "record"):
            pass
        # The others after some transactions, however long these take here.
        for _ in range(0 if kill % 4 == 0 else chance.randrange(8)):
            hear.recv()
        time.sleep(LONGEST * chance.random())
        writer.kill()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        left.append(work(target))
        assert 0 < left[-1] <= left[-2]
    assert len(set(left)) > 5  # they did write something
    _, begun = context.Pipe(duplex=False)
    writer = context.Process(target=write_until_killed, args=(target, COUNT, 100, begun))
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    batch = crystals(COUNT)
    with Catalogue(target, create=False) as catalogue:
        assert [run.crystals for run in catalogue.runs()] == [COUNT]
        assert catalogue.table(columns=["index"]).column("index").to_pylist() == list(range(COUNT))
        assert catalogue.unfinished(1, "relax") == []
        expected = [record(i, batch[i]) for i in range(COUNT)]
        assert catalogue.values(1) == [one.values for one in expected]
        assert catalogue.outcomes(1, "relax") == {one.index: one.outcome for one in expected}
        assert [index for index, *_ in catalogue.failures(1)] == [r.index for r in expected if r.outcome == "failed"]
        newest = catalogue.crystals(1)
        cells = torch.stack([(one.crystal or batch[i]).cell[0] for i, one in enumerate(expected)])
        assert torch.equal(newest.cell, cells) and torch.equal(newest.frac, batch.frac)
    if "://" not in target:
        assert sqlite3.connect(target).execute("PRAGMA integrity_check").fetchone() == ("ok",)
