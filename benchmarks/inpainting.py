"""Inpainting: structures of MP-20 val of which parts are known, and how often the rest is found.

    python benchmarks/inpainting.py --number 500

Each row holds other parts of the same crystals (the lattice, a share of the sites) and draws the rest once. Matches are
those of `benchmarks/csp.py`. Beside the match rate stands the share of the atoms that were drawn which lie within
0.5 Å of a free site of their element, measured in the held lattice from the held sites: what an inpainting is for.

The second table is of decoration: lattice and all positions are held, and the formula is shared out over them, by chance or
by the model. Crystals of one element are left out, since nothing can be wrong with them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional

from euhedral.crystal.batch import CrystalBatch
from euhedral.evaluate.matching import match_pairs, summarize_matches
from euhedral.models.base import SampleRequest
from euhedral.models.held import Held
from euhedral.sample.generate import Generator
from mp20 import DATA, open_store, subset

ROWS = (("nothing", False, 0.0), ("lattice", True, 0.0), ("half of the sites", False, 0.5))
ROWS = (*ROWS, ("lattice, half of the sites", True, 0.5), ("lattice, all but one site", True, 1.0))
NEAR = 0.5


def shuffled(crystals: CrystalBatch, seed: int) -> CrystalBatch:
    """Crystals with their atoms in another order, so that the first ones are any."""
    rng = np.random.default_rng(seed)
    parts = []
    for crystal in crystals:
        order = torch.from_numpy(rng.permutation(len(crystal.species)))
        parts.append(
            CrystalBatch(
                frac=crystal.frac[order], cell=crystal.cell, species=crystal.species[order], num_atoms=crystal.num_atoms
            )
        )
    return CrystalBatch.concat(parts)


def groups(crystals: CrystalBatch, most: int) -> Iterator[torch.Tensor]:
    """Positions of crystals of one atom count, at most `most` at once."""
    for count in crystals.num_atoms.unique().tolist():
        yield from torch.nonzero(crystals.num_atoms == count)[:, 0].split(most)


def by_count(crystals: CrystalBatch, draw: Callable[[CrystalBatch], CrystalBatch]) -> CrystalBatch:
    """What is drawn of crystals of one atom count at a time, in the order of the crystals."""
    places = list(groups(crystals, 64))
    parts = [draw(crystals[place].to(torch.float32)) for place in places]
    return CrystalBatch.concat(parts)[torch.cat(places).argsort()]


def drawn(generator: Generator, crystals: CrystalBatch, lattice: bool, share: float, steps: int) -> CrystalBatch:
    """One structure of each crystal with what is held of it; a share of 1 leaves one site open."""
    rng = torch.Generator().manual_seed(0)

    def draw(batch: CrystalBatch) -> CrystalBatch:
        size, count = len(batch), int(batch.num_atoms[0])
        sites = torch.arange(count) < min(count - 1, int(share * count))
        held = Held(sites=sites, frac=batch.frac.view(size, count, 3)[:, sites], cell=batch.cell if lattice else None)
        request = SampleRequest.of(batch.species.view(size, count), steps=steps, held=held)
        return generator.sample(request, rng=rng)

    return by_count(crystals, draw)


def decorated(generator: Generator | None, crystals: CrystalBatch, steps: int) -> CrystalBatch:
    """Structures with their species shared out anew, by the model or (None) by chance."""
    rng = torch.Generator().manual_seed(0)

    def draw(batch: CrystalBatch) -> CrystalBatch:
        size, count = len(batch), int(batch.num_atoms[0])
        species = batch.species.view(size, count)
        if generator is None:
            order = torch.rand(size, count, generator=rng).argsort(1)
            return replace(batch, species=species.gather(1, order).flatten())
        held = Held(sites=torch.ones(count, dtype=torch.bool), frac=batch.frac.view(size, count, 3), cell=batch.cell)
        owed = functional.one_hot(species, 119).sum(1)
        request = SampleRequest.of(torch.zeros_like(species), steps=steps, held=held, owed=owed)
        return generator.sample(request, rng=rng)

    return by_count(crystals, draw)


def matched(found: CrystalBatch, crystals: CrystalBatch, workers: int) -> str:
    """Match rate in % and RMSE, as two cells of a table."""
    records = match_pairs(found.to(crystals.cell.dtype), crystals, workers=workers)
    figures = summarize_matches(records).figures["unfiltered"]
    return f"{100 * figures.match_rate:.1f} | {figures.rmse or float('nan'):.3f}"


def placed(found: CrystalBatch, crystals: CrystalBatch, share: float) -> float:
    """Share of the free atoms near a free site of their element, each site taken once; only where a lattice is held."""
    near = total = 0
    for one, other in zip(found, crystals, strict=True):
        count = len(one.species)
        free = slice(min(count - 1, int(share * count)), count)
        away = one.frac[free, None].double() - other.frac[None, free].double()
        distance = ((away - away.round()) @ other.cell[0].double()).norm(dim=-1)
        fits = (distance < NEAR) & (one.species[free, None] == other.species[None, free])
        rows, columns = linear_sum_assignment(-fits.numpy().astype(float))
        near, total = near + int(fits.numpy()[rows, columns].sum()), total + len(rows)
    return 100 * near / max(total, 1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    reference = shuffled(subset(open_store(given.val), given.number, 0), 0)
    generator = Generator.load(given.model)
    print("| held | match % | RMSE | atoms in place % | crystals/s |\n|---|---:|---:|---:|---:|")
    for name, lattice, share in ROWS:
        started = time.perf_counter()
        found = drawn(generator, reference, lattice, share, given.steps)
        seconds = time.perf_counter() - started
        there = f"{placed(found, reference, share):.1f}" if lattice and share else ""
        print(
            f"| {name} | {matched(found, reference, given.workers)} | {there} | {len(found) / seconds:.1f} |",
            flush=True,
        )
    several = [len(set(crystal.species.tolist())) > 1 for crystal in reference]
    mixed = reference[torch.nonzero(torch.tensor(several))[:, 0]]
    print("\n| formula shared out | match % | RMSE | atoms right % | crystals/s |\n|---|---:|---:|---:|---:|")
    for name, model in (("by chance", None), ("by the model", generator)):
        started = time.perf_counter()
        found = decorated(model, mixed, given.steps)
        seconds = time.perf_counter() - started
        right = 100 * float((found.species == mixed.species).float().mean())
        print(
            f"| {name} | {matched(found, mixed, given.workers)} | {right:.1f} | {len(found) / seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
