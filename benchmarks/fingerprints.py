"""Fingerprints of the published evaluation beside matminer's, on the same crystals in one run.

    python benchmarks/fingerprints.py --crystals 100 --seed 0

Three sets: crystals of MP-20 val as they are; the same with normal noise on the positions and a random strain; the same
with every atom at a random place, as a poor model generates them. matminer runs in this process on one thread, one site
at a time, as the published scripts call it; ours runs once in this process on one thread (core against core), and once
through `structure_fingerprints` with its worker processes, their start included.
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
    started = time.perf_counter()
    for request in requests:
        fingerprints._fingerprint_request(request)
    one_core = time.perf_counter() - started
    started = time.perf_counter()
    ours = fingerprints.structure_fingerprints(batch, workers=workers)
    pool = time.perf_counter() - started
    theirs, slow, errors = published_structures(batch)
    missing = np.isnan(ours.values[:, 0])
    both = ~missing & ~np.isnan(theirs[:, 0])
    difference = np.abs(ours.values - theirs)[both].max(1, initial=0.0)
    return {
        "crystals": len(batch),
        "sites": len(batch.species),
        "failed_here": int(missing.sum()),
        "failed_matminer": len(errors),
        "failed_in_one_only": int((missing != np.isnan(theirs[:, 0])).sum()),
        "largest_difference": float(difference.max(initial=0.0)),
        "share_that_differs": float((difference > TOLERANCE).mean()) if both.any() else None,
        "ms_a_crystal": round(1e3 * one_core / len(batch), 3),
        "ms_a_crystal_matminer": round(1e3 * slow / len(batch), 3),
        "ratio_core_to_core": round(slow / one_core, 1),
        "workers": workers,
        "ms_a_crystal_with_workers_and_their_start": round(1e3 * pool / len(batch), 3),
        "ratio_with_workers_and_their_start": round(slow / pool, 1),
    }


def published_structures(batch: CrystalBatch) -> tuple[NDArray[np.float64], float, list[str]]:
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

    featurizer = CrystalNNFingerprint.from_preset("ops")
    structures = batch.to_pymatgen()
    values = np.full((len(batch), fingerprints.STRUCTURE_NUMBERS), np.nan)
    errors = []
    started = time.perf_counter()
    for i, structure in enumerate(structures):
        try:
            values[i] = np.array([featurizer.featurize(structure, j) for j in range(len(structure))]).mean(0)
        # Whatever matminer raises makes the crystal fail in the published scripts too.
        except Exception as error:
            errors.append(f"{i}: {type(error).__name__}: {error}")
    return values, time.perf_counter() - started, errors


def compare_compositions(batch: CrystalBatch) -> dict[str, Any]:
    from matminer.featurizers.composition import ElementProperty
    from pymatgen.core import Composition

    fingerprints.composition_fingerprints(batch[:1])
    started = time.perf_counter()
    ours = fingerprints.composition_fingerprints(batch)
    fast = time.perf_counter() - started
    featurizer = ElementProperty.from_preset("magpie")
    started = time.perf_counter()
    theirs = np.array([featurizer.featurize(Composition(dict(counts))) for counts in composition_counts(batch)])
    slow = time.perf_counter() - started
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
