"""Relaxation of de novo crystals, together in two processes, against CHGNet's StructOptimizer one by one.

    python benchmarks/relaxation.py --number 64
    python benchmarks/relaxation.py --number 64 --mp20

Both have the same crystals, of the default model (seed 0) or of MP-20 val, the same weights, the same criterion (no force,
and no row of the virial per atom, above 0.1 eV/Å) and 500 steps. StructOptimizer runs with its defaults (FIRE) and one
thread, which is its fastest on a CPU. Rates are of wall time, the start of the processes included; on a machine that others
use, trust the processor seconds, which count all processes. Force calls count each crystal. Energies differ where the two
ended in different minima, and by its sign one sees which is lower; `--force-limit` tightens both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

import euhedral
from euhedral.crystal.batch import CrystalBatch
from euhedral.screen import RelaxConfig, relax
from mp20 import DATA, open_store, subset


@dataclass(frozen=True, kw_only=True)
class Run:
    name: str
    wall: float
    processor: float
    calls: int
    energies: list[float]
    outcomes: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mp20", action="store_true", help="crystals of MP-20 val, which begin near a minimum")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--optimizers", nargs="+", default=["lbfgs", "fire"])
    parser.add_argument("--force-limit", type=float, default=0.1)
    parser.add_argument(
        "--published", type=Path, help="file to keep StructOptimizer's results in, or to read them from"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if arguments.mp20:
        crystals = subset(open_store(DATA / "mp_20" / "val.csv.gz"), arguments.number, arguments.seed)
    else:
        crystals = euhedral.load("default").generate(n=arguments.number, seed=arguments.seed)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {len(crystals)} crystals of {int(crystals.num_atoms.min())} "
        f"to {int(crystals.num_atoms.max())} atoms, {crystals.species.numel()} in all"
    )
    show_difference(crystals)
    ours = [
        run_ours(crystals, optimizer, workers, arguments.force_limit)
        for optimizer in arguments.optimizers
        for workers in arguments.workers
    ]
    theirs = published(crystals, arguments.force_limit, arguments.published)
    show(ours, theirs, len(crystals))


def used() -> float:
    """Processor seconds of this process and of those that have ended."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in times)


def run_ours(crystals: CrystalBatch, optimizer: str, workers: int, force_limit: float) -> Run:
    config = RelaxConfig(optimizer=optimizer, force_limit=force_limit)
    wall, processor = time.perf_counter(), used()
    result = relax(crystals, potential="chgnet", config=config, workers=workers)
    return Run(
        name=f"euhedral, {optimizer}, {workers} processes",
        wall=time.perf_counter() - wall,
        processor=used() - processor,
        calls=int((result.steps + 1).sum()),
        energies=result.energies_per_atom.tolist(),
        outcomes={outcome: count for outcome, count in result.counts().items() if count},
    )


def published(crystals: CrystalBatch, force_limit: float, kept: Path | None) -> Run:
    if kept is not None and kept.exists():
        return Run(**json.loads(kept.read_text()))
    from chgnet.model import CHGNet, StructOptimizer

    optimizer = StructOptimizer(model=CHGNet.load(use_device="cpu", verbose=False), use_device="cpu")
    calculator, calls = optimizer.calculator, 0
    calculate = calculator.calculate

    def counted(*given: object, **named: object) -> None:
        nonlocal calls
        calls += 1
        calculate(*given, **named)

    calculator.calculate = counted
    energies = []
    wall, processor = time.perf_counter(), used()
    for structure in crystals.to_pymatgen():
        path = optimizer.relax(structure, fmax=force_limit, verbose=False)["trajectory"]
        energies.append(float(path.energies[-1]) / len(structure))
    run = Run(
        name="chgnet StructOptimizer, one by one",
        wall=time.perf_counter() - wall,
        processor=used() - processor,
        calls=calls,
        energies=energies,
        outcomes={},
    )
    if kept is not None:
        kept.write_text(json.dumps(run.__dict__))
    return run


def show(ours: list[Run], theirs: Run, number: int) -> None:
    print("| route | wall s | processor s | crystals/min | ratio, wall | ratio, processor | force calls | outcomes |")
    print("|---|---|---|---|---|---|---|---|")
    for run in (theirs, *ours):
        print(
            f"| {run.name} | {run.wall:.1f} | {run.processor:.1f} | {60 * number / run.wall:.1f} | "
            f"{theirs.wall / run.wall:.1f} | {theirs.processor / run.processor:.1f} | {run.calls} | {run.outcomes} |"
        )
    for run in ours:
        difference = 1000 * (torch.tensor(run.energies) - torch.tensor(theirs.energies))
        print(
            f"{run.name}: energy against StructOptimizer: within 5 meV/atom {int((difference.abs() <= 5).sum())}, lower "
            f"{int((difference < -5).sum())}, higher {int((difference > 5).sum())}, none "
            f"{int(difference.isnan().sum())}; median {difference.nanmedian():.2f}, mean {difference.nanmean():.2f} meV/atom"
        )


def show_difference(crystals: CrystalBatch) -> None:
    """One call of each on the crystals as they are: time, and the largest differences."""
    from chgnet.model import CHGNet

    from euhedral.screen import ChgnetPotential

    theirs, ours = CHGNet.load(use_device="cpu", verbose=False), ChgnetPotential()
    structures = crystals.to_pymatgen()
    start = time.process_time()
    expected = theirs.predict_structure(structures, task="efs")
    middle = time.process_time()
    said = ours.predict(crystals)
    end = time.process_time()
    forces = torch.cat([torch.as_tensor(one["f"]) for one in expected])
    stresses = torch.stack([torch.as_tensor(one["s"]) for one in expected])
    energies = torch.tensor([float(one["e"]) for one in expected])
    print(
        f"one call of all: chgnet {middle - start:.2f} s, ours {end - middle:.2f} s; largest differences "
        f"{(said.energy_per_atom - energies).abs().max():.1e} eV/atom, {(said.forces - forces).abs().max():.1e} eV/Å of "
        f"{forces.abs().max():.1f}, {(said.stress_gpa - stresses).abs().max():.1e} GPa of {stresses.abs().max():.1f}"
    )


if __name__ == "__main__":
    main()
