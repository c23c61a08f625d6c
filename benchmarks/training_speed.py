"""Training speed: our default model beside a DiffCSP-size graph network, in turn, on the same MP-20 crystals.

    python benchmarks/training_speed.py --rounds 5

Both do forward, backward, clipping and an AdamW step on batches of one atom count; the atom counts follow MP-20. Ours runs in
bf16 where the processor multiplies it, the reference in float32 as published. The allocator keeps memory for both when the
environment raises MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ (recommended; pass --stock to leave it). With
--compile ours is compiled, as `euhedral train --compile` does; the first round then takes minutes and is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--compile", action="store_true", help="compile our network")
    parser.add_argument("--stock", action="store_true", help="leave the allocator as it is")
    arguments = parser.parse_args()
    if not arguments.stock:
        keep_memory()

    store, random = open_store(arguments.train), np.random.default_rng(0)
    counts = store.num_atoms
    sizes = random.choice(counts, size=4, replace=False)
    batches = [
        store.crystals(np.sort(random.permutation(np.nonzero(counts == n)[0])[: arguments.batch])) for n in sizes
    ]
    ours, theirs, rng = JointFlow(JointFlowConfig()), ReferenceCSPNet(), torch.Generator().manual_seed(0)

    def our_step(batch: CrystalBatch) -> torch.Tensor:
        with fast_precision(torch.device("cpu")):
            return ours.loss(batch, Conditions.unknown(len(batch)), rng=rng).total

    def their_step(batch: CrystalBatch) -> torch.Tensor:
        n = int(batch.num_atoms[0])
        return theirs.loss(batch.frac.view(-1, n, 3), batch.cell, batch.species.view(-1, n))

    if arguments.compile:
        compile_networks(ours, on_cpu=True)
    rows = []
    for round_number in range(arguments.rounds + 1):
        pair = timed_steps(our_step, ours, batches), timed_steps(their_step, theirs, batches)
        if round_number:  # the first warms up
            rows.append((*pair, pair[0] / pair[1]))
    print(f"atom counts {sorted(int(n) for n in sizes)}, batch {arguments.batch}, {torch.get_num_threads()} threads")
    for name, values in zip(
        ("ours, crystals/s", "reference, crystals/s", "ratio"), zip(*rows, strict=True), strict=True
    ):
        print(f"{name}: median {statistics.median(values):.1f} (min {min(values):.1f}, max {max(values):.1f})")
    for name, model in (("ours", ours), ("reference", theirs)):
        print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main()
