"""Matching, uniqueness and novelty against pymatgen's StructureMatcher, one pair after the other in one process.

    python benchmarks/matching.py --pairs 10000 --published 500 --unique 10000 --new 1000

The same seeded pairs go through both: identical, perturbed, of a generated kind (right formula and cell, noise on the
atoms) and shuffled (two crystals of one formula). pymatgen gets a seeded part of them where `--published` says so, and
its time is extrapolated to all; verdicts and rms are compared on that part. Times of pymatgen cover `get_rms_dist`
only, its structures are made beforehand; wall times of ours cover `match_pairs` whole: start of the worker processes,
reduction and validity checks included. Ratios of wall time need a quiet machine. CPU times are of the comparison alone
(reduction and matching), both in this process and in turns of 50 pairs, so that a busy machine slows both alike; with
`--workers 0` nothing else is timed.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.store import CrystalStore
from euhedral.evaluate.matcher import distance
from euhedral.evaluate.matching import CSP_TOLERANCES, match_pairs
from euhedral.evaluate.novelty import ReferenceIndex, novel_share
from euhedral.evaluate.reduction import reduce_crystal
from euhedral.evaluate.uniqueness import UNIQUE_TOLERANCES, find_duplicates, reduced_formulas, unique_share
from mp20 import DATA, open_store, subset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--train", type=Path, default=DATA / "mp_20" / "train.csv.gz")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--published", type=int, default=500, help="pairs that pymatgen gets of each kind")
    parser.add_argument("--unique", type=int, default=10_000)
    parser.add_argument("--new", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    val, train = open_store(arguments.val), open_store(arguments.train)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; seed {arguments.seed}")
    if arguments.pairs:
        compare_pairs(val, train, arguments)
    if arguments.unique:
        uniqueness(
            CrystalBatch.concat([subset(val, arguments.unique, 1), subset(train, arguments.unique, 1)]), arguments
        )
    if arguments.new:
        novelty(subset(val, arguments.new, 2), train.crystals(np.arange(len(train))), arguments)


def perturbed(batch: CrystalBatch, sigma: float, rng: torch.Generator) -> CrystalBatch:
    """Atoms moved by normal noise of `sigma` Å."""
    moves = sigma * torch.randn(batch.frac.shape, generator=rng, dtype=batch.frac.dtype)
    frac = batch.frac + torch.linalg.solve(batch.cell[batch.owner], moves[:, None], left=False)[:, 0]
    return CrystalBatch(frac=frac % 1, cell=batch.cell, species=batch.species, num_atoms=batch.num_atoms)


def shuffled(batch: CrystalBatch) -> CrystalBatch:
    """Each crystal replaced by the next one of its formula; those alone of their formula stay."""
    groups: dict[str | None, list[int]] = {}
    for i, formula in enumerate(reduced_formulas(batch)):
        groups.setdefault(formula, []).append(i)
    order = list(range(len(batch)))
    for members in groups.values():
        for i, k in zip(members, members[1:] + members[:1], strict=True):
            order[i] = k
    return batch[order]


def compare_pairs(val: CrystalStore, train: CrystalStore, arguments: argparse.Namespace) -> None:
    print(
        "| kind | pairs | matched | published on | verdicts that agree | largest rms difference "
        "| published, CPU ms/pair | ours, CPU ms/pair | ratio | published, all pairs, s |"
        + "".join(f" ours, {n} workers, s | ratio |" for n in arguments.workers if n)
        + "\n|---|"
        + "---:|" * (9 + 2 * sum(n > 0 for n in arguments.workers))
    )
    rng = torch.Generator().manual_seed(arguments.seed)
    reference = chosen(val, train, arguments.pairs, arguments.seed)
    compare_kind("identical", reference, reference, arguments)
    compare_kind("perturbed 0.1 Å", perturbed(reference, 0.1, rng), reference, arguments)
    compare_kind("generated-like 0.5 Å", perturbed(reference, 0.5, rng), reference, arguments)
    everything = train.crystals(np.arange(len(train))).to(torch.float64)
    several = [i for i, others in enumerate(counts_above_one(everything)) if others]
    same_formula = everything[several]
    predicted = shuffled(same_formula)
    part = torch.randperm(len(several), generator=rng)[: arguments.pairs]
    compare_kind("two crystals of one formula", predicted[part], same_formula[part], arguments)


def chosen(val: CrystalStore, train: CrystalStore, number: int, seed: int) -> CrystalBatch:
    """`number` crystals of val, then of train where val has too few."""
    parts = [subset(val, min(number, len(val)), seed)]
    if number > len(val):
        parts.append(subset(train, number - len(val), seed))
    return CrystalBatch.concat([part.to(torch.float64) for part in parts])


def counts_above_one(batch: CrystalBatch) -> list[bool]:
    formulas = reduced_formulas(batch)
    seen: dict[str | None, int] = {}
    for formula in formulas:
        seen[formula] = seen.get(formula, 0) + 1
    return [seen[formula] > 1 for formula in formulas]


def compare_kind(name: str, predicted: CrystalBatch, true: CrystalBatch, arguments: argparse.Namespace) -> None:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    tolerances, pairs = CSP_TOLERANCES, len(true)
    part = np.sort(np.random.default_rng(arguments.seed).permutation(pairs)[: arguments.published]).tolist()
    matcher = StructureMatcher(stol=tolerances.stol, ltol=tolerances.ltol, angle_tol=tolerances.angle_tol)
    structures = list(zip(predicted[part].to_pymatgen(), true[part].to_pymatgen(), strict=True))
    theirs, ours = [], []
    slow = slow_cpu = fast_cpu = 0.0
    for start in range(0, len(part), 50):
        some = structures[start : start + 50]
        triples = [[(s.lattice.matrix, s.frac_coords, s.atomic_numbers) for s in pair] for pair in some]
        started, cpu = time.perf_counter(), time.process_time()
        theirs += [matcher.get_rms_dist(first, second) for first, second in some]
        slow, slow_cpu = slow + time.perf_counter() - started, slow_cpu + time.process_time() - cpu
        cpu = time.process_time()
        ours += [distance(reduce_crystal(*a), reduce_crystal(*b), tolerances, rms=True) for a, b in triples]
        fast_cpu += time.process_time() - cpu
    every, columns = slow * pairs / len(part), []
    for count in filter(None, arguments.workers):
        started = time.perf_counter()
        records = match_pairs(predicted, true, workers=count)
        seconds = time.perf_counter() - started
        columns += [f"{seconds:.1f}", f"{every / seconds:.1f}"]
        ours = [records[i].rms for i in part]
    both = list(zip(theirs, ours, strict=True))
    agree = sum((a is None) == (b is None) for a, b in both)
    # Below 1e-5 the search ends at whatever it found first, and the values are rounding.
    off = [abs(a[0] - b) for a, b in both if a is not None and b is not None and max(a[0], b) >= 1e-5]
    cells = [
        name,
        pairs,
        f"{sum(b is not None for b in ours)}/{len(part)}",
        f"{len(part)}" + (" (extrapolated)" if len(part) < pairs else ""),
        f"{agree}/{len(part)}",
        f"{max(off, default=0):.1e}",
        f"{1e3 * slow_cpu / len(part):.2f}",
        f"{1e3 * fast_cpu / len(part):.2f}",
        f"{slow_cpu / fast_cpu:.1f}",
        f"{every:.0f}",
        *columns,
    ]
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def uniqueness(source: CrystalBatch, arguments: argparse.Namespace) -> None:
    """Half different crystals, half of them again with 0.05 Å of noise."""
    rng = torch.Generator().manual_seed(arguments.seed)
    half = arguments.unique // 2
    base = source[torch.randperm(len(source), generator=rng)[:half]]
    again = base[torch.randint(half, (arguments.unique - half,), generator=rng)]
    batch = CrystalBatch.concat([base, perturbed(again, 0.05, rng)])
    started = time.perf_counter()
    records = find_duplicates(batch, workers=max(arguments.workers), tolerances=UNIQUE_TOLERANCES)
    print(
        f"uniqueness of {len(batch)}: {time.perf_counter() - started:.1f} s with {max(arguments.workers)} workers, "
        f"{100 * unique_share(records):.2f} % unique, {sum(r.reason is not None for r in records)} undecided",
        flush=True,
    )


def novelty(batch: CrystalBatch, references: CrystalBatch, arguments: argparse.Namespace) -> None:
    started = time.perf_counter()
    index = ReferenceIndex.build(references)
    built = time.perf_counter() - started
    for name, asked in (
        ("val", batch),
        ("train with noise", perturbed(references[: len(batch)], 0.05, torch.Generator())),
    ):
        started = time.perf_counter()
        records = index.find(asked, workers=max(arguments.workers))
        print(
            f"novelty of {len(asked)} ({name}) against {len(index)}: built in {built:.1f} s, found in "
            f"{time.perf_counter() - started:.1f} s with {max(arguments.workers)} workers, "
            f"{100 * novel_share(records):.1f} % novel, {sum(r.compared for r in records)} comparisons at most",
            flush=True,
        )


if __name__ == "__main__":
    main()
