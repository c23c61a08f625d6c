"""Fingerprints of the published evaluation beside matminer's, on the same crystals in one run.

    python benchmarks/fingerprints.py --crystals 100 --seed 0

Three sets: crystals of MP-20 val as they are; the same with normal noise on the positions and a random strain; the same
with every atom at a random place, as a poor model generates them. matminer runs in this process on one thread, one site
at a time, as the published scripts call it; ours runs once in this process on one thread, and once through
`structure_fingerprints` with its worker processes, their start included. Core against core is in seconds of the
processor, which other work on the machine does not change; the worker processes are in seconds of the clock.

Where a crystal differs by more than 1e-6, matminer is asked again for copies of it that are rotated and list their atoms
in another order, whose fingerprint should be the same: `matminer_own_spread` is the largest range of its answers, and
`differs_beyond_own_spread` counts the crystals where ours is farther than that from all of them.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from euhedral.crystal.batch import CrystalBatch
from euhedral.evaluate import fingerprints
from euhedral.evaluate.validity import composition_counts
from mp20 import DATA, open_store, subset

TOLERANCE = 1e-6
COPIES = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--crystals", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation of the positions in Å")
    parser.add_argument("--strain", type=float, default=0.03, help="standard deviation of the strain")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    real = subset(open_store(arguments.val), arguments.crystals, arguments.seed).to(torch.float64)
    generator = torch.Generator().manual_seed(arguments.seed)
    sets = {
        "real": real,
        "perturbed": perturbed(real, arguments.noise, arguments.strain, generator),
        "random": CrystalBatch(
            frac=torch.rand(real.frac.shape, generator=generator, dtype=torch.float64),
            cell=real.cell,
            species=real.species,
            num_atoms=real.num_atoms,
        ),
    }
    for name, batch in sets.items():
        print(json.dumps({"set": name, **compare_structures(batch, arguments.workers)}), flush=True)
    print(json.dumps({"set": "compositions", **compare_compositions(real)}))


def perturbed(batch: CrystalBatch, noise: float, strain: float, rng: torch.Generator) -> CrystalBatch:
    cartesian = noise * torch.randn(batch.frac.shape, generator=rng, dtype=torch.float64)
    moved = batch.frac + torch.einsum("ai,aij->aj", cartesian, torch.linalg.inv(batch.cell)[batch.owner])
    stretch = torch.eye(3, dtype=torch.float64)
    stretch = stretch + strain * torch.randn(batch.cell.shape, generator=rng, dtype=torch.float64)
    return CrystalBatch(
        frac=moved - moved.floor(), cell=batch.cell @ stretch, species=batch.species, num_atoms=batch.num_atoms
    )


def compare_structures(batch: CrystalBatch, workers: int) -> dict[str, Any]:
    prepared = fingerprints._Prepared.of(batch)
    requests = [
        [prepared.request(i) for i in chunk]
        for chunk in fingerprints._chunks(list(range(len(batch))), batch.num_atoms.numpy())
    ]
    fingerprints._fingerprint_request(requests[0])  # imports
    started = time.process_time()
    for request in requests:
        fingerprints._fingerprint_request(request)
    one_core = time.process_time() - started
    started = time.perf_counter()
    ours = fingerprints.structure_fingerprints(batch, workers=workers)
    pool = time.perf_counter() - started
    theirs, slow, slow_clock, errors = published_structures(batch)
    missing = np.isnan(ours.values[:, 0])
    both = ~missing & ~np.isnan(theirs[:, 0])
    difference = np.where(both, np.abs(ours.values - theirs).max(1), 0.0)
    different = np.nonzero(difference > TOLERANCE)[0].tolist()
    own = [own_spread(batch[i], theirs[i], ours.values[i]) for i in different]
    return {
        "crystals": len(batch),
        "sites": len(batch.species),
        "failed_here": int(missing.sum()),
        "failed_matminer": len(errors),
        "failed_in_one_only": int((missing != np.isnan(theirs[:, 0])).sum()),
        "largest_difference": float(difference.max(initial=0.0)),
        "share_that_differs": len(different) / len(batch),
        "columns_that_differ": sorted({name for i in different for name in columns(ours.values[i] - theirs[i])}),
        "matminer_own_spread": max((spread for spread, _ in own), default=None),
        "differs_beyond_own_spread": sum(beyond for _, beyond in own),
        "ms_a_crystal": round(1e3 * one_core / len(batch), 3),
        "ms_a_crystal_matminer": round(1e3 * slow / len(batch), 3),
        "ratio_core_to_core": round(slow / one_core, 1),
        "workers": workers,
        "ms_a_crystal_matminer_by_the_clock": round(1e3 * slow_clock / len(batch), 3),
        "ms_a_crystal_with_workers_and_their_start": round(1e3 * pool / len(batch), 3),
        "ratio_with_workers_and_their_start": round(slow_clock / pool, 1),
    }


def columns(difference: NDArray[np.float64]) -> list[str]:
    labels = fingerprints.fingerprint_labels()
    return [labels[k] for k in np.nonzero(np.abs(difference) > TOLERANCE)[0]]


def own_spread(crystal: CrystalBatch, theirs: NDArray[np.float64], ours: NDArray[np.float64]) -> tuple[float, bool]:
    """Range of matminer's answers for one crystal told in other ways, and whether ours is outside by more than it."""
    generator = torch.Generator().manual_seed(0)
    copies = []
    for _ in range(COPIES):
        order = torch.randperm(len(crystal.species), generator=generator)
        turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        copies.append((crystal.cell[0] @ turn, crystal.frac[order], crystal.species[order]))
    answers = np.concatenate([theirs[None], published_structures(CrystalBatch.from_crystals(copies))[0]])
    spread = np.ptp(answers, axis=0)
    return float(spread.max()), bool((np.abs(answers - ours).min(0) > spread + TOLERANCE).any())


def published_structures(batch: CrystalBatch) -> tuple[NDArray[np.float64], float, float, list[str]]:
    """Fingerprints, seconds of the processor and of the clock, and what failed."""
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

    featurizer = CrystalNNFingerprint.from_preset("ops")
    structures = batch.to_pymatgen()
    values = np.full((len(batch), fingerprints.STRUCTURE_NUMBERS), np.nan)
    errors = []
    started, clock = time.process_time(), time.perf_counter()
    for i, structure in enumerate(structures):
        try:
            values[i] = np.array([featurizer.featurize(structure, j) for j in range(len(structure))]).mean(0)
        # Whatever matminer raises makes the crystal fail in the published scripts too.
        except Exception as error:
            errors.append(f"{i}: {type(error).__name__}: {error}")
    return values, time.process_time() - started, time.perf_counter() - clock, errors


def compare_compositions(batch: CrystalBatch) -> dict[str, Any]:
    from matminer.featurizers.composition import ElementProperty
    from pymatgen.core import Composition

    fingerprints.composition_fingerprints(batch[:1])
    started = time.process_time()
    ours = fingerprints.composition_fingerprints(batch)
    fast = time.process_time() - started
    featurizer = ElementProperty.from_preset("magpie")
    started = time.process_time()
    theirs = np.array([featurizer.featurize(Composition(dict(counts))) for counts in composition_counts(batch)])
    slow = time.process_time() - started
    difference = np.abs(ours.values - theirs).max(1)
    return {
        "crystals": len(batch),
        "largest_difference": float(difference.max()),
        "share_that_differs": float((difference > TOLERANCE).mean()),
        "ms_a_crystal": round(1e3 * fast / len(batch), 3),
        "ms_a_crystal_matminer": round(1e3 * slow / len(batch), 3),
        "ratio_core_to_core": round(slow / fast, 1),
    }


if __name__ == "__main__":
    main()
