"""Screening on a cluster: what a second worker gains, what the scheduler costs a task, and the driver's memory.

    python benchmarks/cluster.py speed --crystals 64
    python benchmarks/cluster.py tasks --tasks 10000
    python benchmarks/cluster.py memory --crystals 200000
    python benchmarks/cluster.py stream --crystals 1000000

`speed` relaxes crystals of the default model with CHGNet on Dask's workers of this machine, one process and then two, and in
two processes without Dask; workers are started and have the potential before the clock runs. `tasks` gives a stage that does
nothing one crystal a task. `memory` walks crystals of two atoms through that stage with a catalogue in SQLite, `stream` makes
them when they are taken and keeps nothing; driver and scheduler are one process here.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import euhedral
from euhedral.catalog.cluster import open_executor
from euhedral.catalog.database import Catalogue
from euhedral.catalog.executors import DaskExecutor, Executor, InProcess
from euhedral.catalog.portions import Portion
from euhedral.catalog.screening import walk
from euhedral.crystal.batch import CrystalBatch
from euhedral.screen import stages as registry
from euhedral.screen.relax_stage import RelaxStage, RelaxStageConfig
from euhedral.screen.stage import PASSED, Column, Stage, StageRecord


@dataclass(frozen=True, kw_only=True)
class NothingConfig:
    """None."""


class Nothing(Stage):
    """Says the number of atoms."""

    name = "nothing"
    version = 1
    columns = {"atoms_seen": Column(meaning="atoms")}  # noqa: RUF012

    def run(self, crystals: CrystalBatch, earlier: Sequence[Any], *, workers: int) -> list[StageRecord]:
        """See `Stage`."""
        return [
            StageRecord(index=i, outcome=PASSED, values={"atoms_seen": n})
            for i, n in enumerate(crystals.num_atoms.tolist())
        ]


class OneByOne(Nothing):
    """The same, one crystal a task."""

    chunk = 1


class Given:
    """Crystals in memory as a source."""

    def __init__(self, crystals: CrystalBatch) -> None:
        self._crystals, self._taken = crystals, 0

    def __len__(self) -> int:
        return len(self._crystals) - self._taken

    def take(self, count: int) -> Portion:
        indices = range(self._taken, min(self._taken + count, len(self._crystals)))
        self._taken = indices.stop
        return Portion(
            indices=indices,
            crystals=self._crystals[indices.start : indices.stop],
            earlier=[{"index": index} for index in indices],
        )


class Made(Given):
    """So many crystals, of which only those that are taken are ever in memory."""

    def __init__(self, number: int) -> None:
        super().__init__(CrystalBatch.empty())
        self._number = number

    def __len__(self) -> int:
        return self._number - self._taken

    def take(self, count: int) -> Portion:
        indices = range(self._taken, min(self._taken + count, self._number))
        self._taken = indices.stop
        return Portion(indices=indices, crystals=pairs(len(indices)), earlier=[{"index": index} for index in indices])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "tasks", "memory", "stream"))
    parser.add_argument("--crystals", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "speed":
        speed(arguments.crystals)
    elif arguments.what == "tasks":
        tasks(arguments.tasks)
    elif arguments.what == "memory":
        memory(arguments.crystals)
    else:
        stream(arguments.crystals)


def speed(number: int) -> None:
    crystals = euhedral.load("default").generate(n=number, seed=0)
    print(f"{number} crystals, {len(crystals.species)} atoms", flush=True)
    one = on_cluster(crystals, 1)
    two = on_cluster(crystals, 2)
    started = time.perf_counter()
    relax(InProcess(2), crystals)
    here = time.perf_counter() - started
    print(f"two processes without Dask, their start included: {here:.1f} s")
    print(f"second worker: {one / two:.2f} times the rate; two without Dask: {one / here:.2f} times")


def on_cluster(crystals: CrystalBatch, workers: int) -> float:
    with open_executor("local", workers=workers) as executor:
        relax(executor, crystals[: 2 * workers])  # imports and weights
        started = time.perf_counter()
        outcomes = relax(executor, crystals)
        seconds = time.perf_counter() - started
    print(f"Dask, {workers} workers: {seconds:.1f} s, {len(crystals) / seconds:.2f} crystals/s, {outcomes}", flush=True)
    return seconds


def relax(executor: Executor, crystals: CrystalBatch) -> dict[str, int]:
    stage = RelaxStage(RelaxStageConfig())
    found = [record.outcome for records in executor.run(stage, Given(crystals)) for record in records]
    return {outcome: found.count(outcome) for outcome in sorted(set(found))}


def pairs(number: int) -> CrystalBatch:
    """Crystals of two atoms, no two of which are the same."""
    edges = 3 + torch.arange(number, dtype=torch.float64) / number
    return CrystalBatch(
        frac=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=torch.float64).repeat(number, 1),
        cell=edges[:, None, None] * torch.eye(3, dtype=torch.float64),
        species=torch.tensor([11, 17]).repeat(number),
        num_atoms=torch.full((number,), 2),
    )


def tasks(number: int) -> None:
    with open_executor("local", workers=2) as executor:
        for _ in executor.run(OneByOne(NothingConfig()), Given(pairs(100))):
            pass
        for stage, each in ((OneByOne, "task of one crystal"), (Nothing, "crystal in portions of 256")):
            started, used = time.perf_counter(), time.process_time()
            found = sum(len(records) for records in executor.run(stage(NothingConfig()), Given(pairs(number))))
            seconds, used = time.perf_counter() - started, time.process_time() - used
            print(
                f"{found:,}: {1e3 * seconds / number:.3f} ms a {each} ({1e3 * used / number:.3f} ms of the processor of "
                "driver and scheduler)",
                flush=True,
            )


def memory(number: int) -> None:
    registry.STAGES = {**registry.STAGES, "nothing": ("cluster:NothingConfig", "cluster:Nothing")}
    with tempfile.TemporaryDirectory() as folder, open_executor("local", workers=2) as executor:
        assert isinstance(executor, DaskExecutor)
        print(f"begun: {resident():.0f} MiB", flush=True)
        with Catalogue(Path(folder) / "catalog.sqlite") as catalogue:
            crystals = pairs(number)
            names = [str(i) for i in range(number)]
            run = catalogue.add_run(kind="screen", request={}, provenance={}, crystals=crystals, names=names)
            del crystals, names
            print(f"crystals taken in: {resident():.0f} MiB", flush=True)
            most, begun = resident(), time.perf_counter()

            def look(stage: str, done: int, total: int) -> None:
                nonlocal most
                most = max(most, resident())
                if done * 4 // total != (done - 256) * 4 // total:
                    print(
                        f"    {done:,} of {total:,} after {time.perf_counter() - begun:.1f} s: {resident():.0f} MiB",
                        flush=True,
                    )

            alive = walk(catalogue, run, [Nothing(NothingConfig())], executor=executor, progress=look)
            seconds = time.perf_counter() - begun
            print(f"{len(alive):,} screened in {seconds:.1f} s, {number / seconds:,.0f} a second; most {most:.0f} MiB")
    print(
        f"largest resident memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


def stream(number: int) -> None:
    with open_executor("local", workers=2) as executor:
        done, shown, begun = 0, 0, time.perf_counter()
        print(f"begun: {resident():.0f} MiB", flush=True)
        for records in executor.run(Nothing(NothingConfig()), Made(number)):
            done += len(records)
            if done * 10 // number > shown:
                shown = done * 10 // number
                print(f"    {done:,} after {time.perf_counter() - begun:.1f} s: {resident():.0f} MiB", flush=True)


def resident() -> float:
    """Resident memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    # Workers know the stages by the name of this module.
    import cluster

    cluster.main()
