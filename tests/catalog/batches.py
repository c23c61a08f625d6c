"""Small crystals and records for the tests of the catalogue; importable by processes that a test kills."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

import torch

from euhedral.catalog.database import Catalogue
from euhedral.crystal.batch import CrystalBatch
from euhedral.screen.stage import StageRecord

FORMULAS = ((11, 17), (12, 8), (3, 9), (14,), (26, 8, 8))


def crystals(count: int, *, seed: int = 0) -> CrystalBatch:
    """Different crystals of one to three atoms, float64 with all digits in use."""
    rng = torch.Generator().manual_seed(seed)
    made = []
    for k in range(count):
        species = torch.tensor(FORMULAS[k % len(FORMULAS)])
        cell = torch.eye(3, dtype=torch.float64) * 4 + torch.rand(3, 3, generator=rng, dtype=torch.float64) * 0.3
        frac = torch.rand(len(species), 3, generator=rng, dtype=torch.float64)
        made.append((cell, frac, species))
    return CrystalBatch.from_crystals(made)


def stretched(batch: CrystalBatch, factor: float) -> CrystalBatch:
    return CrystalBatch(frac=batch.frac, cell=batch.cell * factor, species=batch.species, num_atoms=batch.num_atoms)


def add(catalogue: Catalogue, batch: CrystalBatch, **request: object) -> int:
    return catalogue.add_run(
        kind="test",
        request={"model": "none", "seed": 7, **request},
        provenance={"versions": {"python": "3"}},
        crystals=batch,
        names=[f"crystal-{i}" for i in range(len(batch))],
    )


def record(index: int, crystal: CrystalBatch) -> StageRecord:
    """What the stage of `write_until_killed` says of a crystal, which depends on the crystal alone."""
    failed = index % 7 == 3
    return StageRecord(
        index=index,
        outcome="failed" if failed else "passed",
        reason="died" if failed else None,
        values={} if failed else {"energy": -index / 8, "steps": index},
        crystal=None if failed else stretched(crystal, 1.5),
        seconds=0.25,
    )


def write_until_killed(target: str, count: int, at_once: int, begun: Connection) -> None:
    """A writer that does what is left to do, `at_once` crystals in a transaction; says when it opens the catalogue, when
    it begins to record, and after each transaction."""
    torch.set_num_threads(1)
    batch = crystals(count)
    begun.send("open")
    with Catalogue(target) as catalogue:
        run = add(catalogue, batch)
        begun.send("record")
        left = catalogue.unfinished(run, "relax")
        for start in range(0, len(left), at_once):
            part = left[start : start + at_once]
            catalogue.record(run, "relax", 1, [record(index, batch[index]) for index in part])
            begun.send("recorded")
            time.sleep(0.001)
