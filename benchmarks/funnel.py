"""Crystals of a run relaxed with CHGNet, held against the hull of the same energies, and judged for stability and novelty.

    euhedral generate -n 500 --out RUN
    python benchmarks/funnel.py RUN --out FOLDER

Prints how relaxations end, how far atoms move, the shares within 0 and 0.1 eV/atom of the hull of MP-20 train and val, and
the `mattergen` protocol with these energies; crystals of MP-20 train and val count as known. FOLDER gets
relaxed.extxyz (as given where a relaxation did not converge) and energies.csv, so that `euhedral evaluate` repeats it.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import euhedral
from euhedral.crystal.batch import CrystalBatch
from euhedral.data.samples import read_samples
from euhedral.evaluate.discovery import METASTABLE_AT
from euhedral.screen import Hull, Relaxation, chgnet_method, default_reference, relax
from mp20 import DATA, open_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--number", type=int, help="crystals drawn from the samples with seed 0; all where not given")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.out.exists():
        raise SystemExit(f"{arguments.out} exists; choose another folder")

    samples = read_samples(arguments.samples).crystals
    if arguments.number is not None:
        rows = np.random.default_rng(0).permutation(len(samples))[: arguments.number]
        samples = samples[np.sort(rows).tolist()]
    started = time.perf_counter()
    relaxed = relax(samples, workers=arguments.workers)
    seconds = time.perf_counter() - started
    converged = np.array([outcome == "converged" for outcome in relaxed.outcomes])
    print(f"{len(samples)} crystals relaxed in {seconds:.0f} s: {dict(relaxed.counts())}", flush=True)
    moved = relaxed.rmsd.numpy()[converged]
    print(f"displacement, Å: median {np.median(moved):.3f}, mean {moved.mean():.3f}")

    hull = Hull(default_reference())
    energies = np.where(converged, relaxed.energies_per_atom.numpy(), np.nan)
    above = hull.above_hull_of_crystals(relaxed.crystals, energies, method=chgnet_method()).e_above_hull
    for limit in (0.0, METASTABLE_AT):
        print(f"within {limit:g} eV/atom of the hull: {100 * np.mean(above <= limit):.1f} % of all")
    print(f"median distance to the hull: {np.nanmedian(above):.3f} eV/atom")
    write(arguments.out, relaxed, above)

    known = [open_store(DATA / "mp_20" / f"{name}.csv.gz") for name in ("train", "val")]
    train = CrystalBatch.concat([store.crystals(slice(None), dtype=torch.float64) for store in known])
    report = euhedral.evaluate(
        samples,
        train=train,
        protocol="mattergen",
        energies=above,
        relaxed=relaxed.crystals,
        workers=max(arguments.workers, 1),
        cache=None,
    )
    print(report)


def write(folder: Path, relaxed: Relaxation, above: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    relaxed.crystals.write(folder / "relaxed.extxyz")
    with (folder / "energies.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "e_above_hull", "energy_per_atom", "outcome"])
        for i, (value, energy) in enumerate(zip(above, relaxed.energies_per_atom.tolist(), strict=True)):
            writer.writerow([i, "" if np.isnan(value) else f"{value:.6f}", f"{energy:.6f}", relaxed.outcomes[i]])


if __name__ == "__main__":
    main()
