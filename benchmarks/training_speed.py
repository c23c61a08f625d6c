"""Training speed: our default model beside a DiffCSP-size graph network, in turn, on the same MP-20 crystals.

    python benchmarks/training_speed.py --rounds 5

Both do forward, backward, clipping and an AdamW step on batches of one atom count; the atom counts follow MP-20. Ours runs in
bf16 where the processor multiplies it, the reference in float32 as published. The allocator keeps memory for both when the
environment raises MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ (recommended; pass --stock to leave it). With
--compile ours is compiled, as `euhedral train --compile` does; the first round then takes minutes and is not counted.
--threads gives each thread count its rows: with --processes 2 --threads 1, two workers at once measure the same network,
as `cpu_train.py` trains (which exchanges weights once in 45 s), and their speeds are added.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cspnet_reference import ReferenceCSPNet
from euhedral.crystal.batch import CrystalBatch
from euhedral.models.conditions import Conditions
from euhedral.models.joint_flow import JointFlow, JointFlowConfig
from euhedral.sample.generate import fast_precision
from euhedral.train.run import compile_networks
from mp20 import DATA, open_store

KEPT = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}


def keep_memory() -> None:
    """Start this command again in an environment in which the allocator keeps memory, unless it is in one."""
    if any(os.environ.get(name) != value for name, value in KEPT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEPT})


def timed_steps(
    step: Callable[[CrystalBatch], torch.Tensor], model: torch.nn.Module, batches: list[CrystalBatch]
) -> float:
    """Crystals per second over the batches."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    started = time.perf_counter()
    for batch in batches:
        step(batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return sum(len(b) for b in batches) / (time.perf_counter() - started)


def measure(options: Any, barrier: Barrier, rows: Any) -> None:
    """One worker: puts (ours, reference) in crystals per second of each round into `rows`, in step with the others."""
    torch.set_num_threads(options.threads)
    store, random = open_store(options.train), np.random.default_rng(0)
    counts = store.num_atoms
    sizes = random.choice(counts, size=4, replace=False)
    batches = [store.crystals(np.sort(random.permutation(np.nonzero(counts == n)[0])[: options.batch])) for n in sizes]
    ours, theirs, rng = JointFlow(JointFlowConfig()), ReferenceCSPNet(), torch.Generator().manual_seed(0)

    def our_step(batch: CrystalBatch) -> torch.Tensor:
        with fast_precision(torch.device("cpu")):
            return ours.loss(batch, Conditions.unknown(len(batch)), rng=rng).total

    def their_step(batch: CrystalBatch) -> torch.Tensor:
        n = int(batch.num_atoms[0])
        return theirs.loss(batch.frac.view(-1, n, 3), batch.cell, batch.species.view(-1, n))

    if options.compile:
        compile_networks(ours, on_cpu=True)
    for round_number in range(options.rounds + 1):
        speeds = []
        for step, model in ((our_step, ours), (their_step, theirs)):
            barrier.wait()
            speeds.append(timed_steps(step, model, batches))
        if round_number:  # the first warms up
            rows.put((round_number, *speeds))
    sizes_of = {name: sum(p.numel() for p in m.parameters()) / 1e6 for name, m in (("ours", ours), ("their", theirs))}
    rows.put((0, sizes_of["ours"], sizes_of["their"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--processes", type=int, default=1, help="workers that measure at once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of each worker")
    parser.add_argument("--compile", action="store_true", help="compile our network")
    parser.add_argument("--stock", action="store_true", help="leave the allocator as it is")
    arguments = parser.parse_args()
    if not arguments.stock:
        keep_memory()

    open_store(arguments.train)  # converted once, before the workers ask for it
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(arguments.processes), context.Queue()
    workers = [
        context.Process(target=measure, args=(arguments, barrier, queue), daemon=True)
        for _ in range(arguments.processes)
    ]
    for worker in workers:
        worker.start()
    sums: dict[int, tuple[float, float]] = {}
    for _ in range(arguments.processes * (arguments.rounds + 1)):
        number, first, second = queue.get()
        before = sums.get(number, (0.0, 0.0)) if number else (0.0, 0.0)
        sums[number] = before[0] + first, before[1] + second
    parameters = sums.pop(0)
    print(f"batch {arguments.batch}, {arguments.processes} processes of {arguments.threads} threads")
    columns = [*zip(*sums.values(), strict=True), [ours / theirs for ours, theirs in sums.values()]]
    for name, values in zip(("ours, crystals/s", "reference, crystals/s", "ratio"), columns, strict=True):
        print(f"{name}: median {statistics.median(values):.1f} (min {min(values):.1f}, max {max(values):.1f})")
    print(f"parameters: ours {parameters[0]:.2f} M, reference {parameters[1]:.2f} M")


if __name__ == "__main__":
    main()
