"""Sampling: time and peak memory against atom count and batch, each in a process of its own.

python benchmarks/cost.py --atoms 5 10 20 50 --batches 1 16 64 256
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from euhedral.models.base import SampleRequest
from euhedral.sample.generate import Generator


def measure(model: str, atoms: int, batch: int, steps: int) -> dict[str, float]:
    generator = Generator.load(model)
    elements = torch.tensor(sorted(generator.capabilities.elements))
    species = elements[torch.randint(len(elements), (batch, atoms), generator=torch.Generator().manual_seed(0))]
    request = SampleRequest.of(species, steps=steps)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generator.sample(request, rng=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    generator.sample(request, rng=torch.Generator().manual_seed(0))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mib": peak / 1024, "added_mib": (peak - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--atoms", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.model, *arguments.one, arguments.steps)))
        return
    print("| atoms | batch | s | crystals/s | peak MiB | of that, sampling |")
    print("|---:|---:|---:|---:|---:|---:|")
    for atoms in arguments.atoms:
        for batch in arguments.batches:
            command = [sys.executable, __file__, "--model", arguments.model, "--steps", str(arguments.steps)]
            found = subprocess.run(
                [*command, "--one", str(atoms), str(batch)], capture_output=True, text=True, check=True
            )
            row = json.loads(found.stdout.splitlines()[-1])
            rate = batch / row["seconds"]
            print(
                f"| {atoms} | {batch} | {row['seconds']:.2f} | {rate:.1f} | {row['peak_mib']:.0f} | {row['added_mib']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
