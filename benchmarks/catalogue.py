"""A catalogue of 100,000 crystals: how fast they are taken in, found and exported, and how large it is.

    python benchmarks/catalogue.py
    python benchmarks/catalogue.py --database postgresql://user@host/empty_database

The crystals are those of MP-20 val over and over, each time under other small strains, so that no two are the same. Two
stages are recorded for all of them in transactions of 256: one that changes every crystal and one of three values. Seconds
are wall time and, in brackets, this process's own processor time; a server's processor time is not in it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from euhedral.catalog.database import Catalogue
from euhedral.catalog.export import export
from euhedral.crystal.batch import CrystalBatch
from euhedral.screen.stage import StageRecord
from mp20 import DATA, open_store

CHUNK = 256
FORMS = (
    "crystals.parquet",
    "crystals.csv",
    "crystals.cif",
    "crystals.extxyz",
    "crystals.json",
    "crystals.db",
    "folder",
)
QUERIES = {
    "filter on one column, 50 rows": {"where": "e_above_hull < 0.1", "limit": 50},
    "filter on two columns, sorted, 50 rows": {
        "where": "e_above_hull < 0.1 and band_gap > 1",
        "sort": "e_above_hull",
        "limit": 50,
    },
    "filter on the formula": {"where": "formula = 'NaCl'"},
    "all rows, all columns": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--val", type=Path, default=DATA / "mp_20" / "val.csv.gz")
    parser.add_argument("--number", type=int, default=100_000)
    parser.add_argument("--database", help="URL of an empty database; a SQLite file that is removed where not given")
    parser.add_argument("--forms", nargs="*", default=FORMS, help="what to export to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    crystals = strained(open_store(arguments.val).crystals(slice(None), dtype=torch.float64), arguments.number)
    print(f"{len(crystals):,} crystals, {len(crystals.species) / len(crystals):.1f} atoms on average", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        target = arguments.database or str(Path(folder) / "catalog.sqlite")
        with Catalogue(target) as catalogue:
            if catalogue.runs():
                raise SystemExit(f"{target} is not empty")
            fill(catalogue, crystals)
            find(catalogue, crystals)
            for form in arguments.forms:
                out = Path(folder) / form
                timed(f"export to {form}", lambda out=out: export(catalogue, out), len(crystals))
                print(f"    {size(out) / len(crystals):,.0f} bytes a crystal", flush=True)
            if arguments.database:
                with catalogue._database.reading() as connection:
                    count = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
        if not arguments.database:
            count = Path(target).stat().st_size
        print(f"size {count / 1e6:,.0f} MB, {count / len(crystals):,.0f} bytes a crystal in two forms with its results")


def strained(crystals: CrystalBatch, number: int) -> CrystalBatch:
    """`number` crystals: these over and over, the cells of each multiplied by a random symmetric strain."""
    rng = torch.Generator().manual_seed(0)
    batch = CrystalBatch.concat([crystals] * (-(-number // len(crystals))))[:number]
    strain = torch.randn(number, 3, 3, generator=rng, dtype=torch.float64) * 0.01
    cell = batch.cell @ (torch.eye(3, dtype=torch.float64) + (strain + strain.mT) / 2)
    return CrystalBatch(frac=batch.frac, cell=cell, species=batch.species, num_atoms=batch.num_atoms)


def fill(catalogue: Catalogue, crystals: CrystalBatch) -> None:
    """Take the crystals in twice, and record two stages for all of them."""
    number = len(crystals)
    names = [f"crystal-{i:06d}" for i in range(number)]

    def add() -> int:
        return catalogue.add_run(kind="benchmark", request={}, provenance={}, crystals=crystals, names=names)

    run = timed("crystals taken in", add, number)
    if timed("the same crystals again", add, number) != run:
        raise SystemExit("the same crystals made another run")
    relaxed = [
        StageRecord(
            index=i,
            outcome="converged",
            values={"energy_per_atom": -i / number, "steps": i % 90, "largest_force": 0.05},
            crystal=crystal,
            seconds=0.5,
        )
        for i, crystal in enumerate(crystals)
    ]
    rng = np.random.default_rng(0)
    hull = [
        StageRecord(index=i, outcome="passed", values={"e_above_hull": a, "band_gap": b, "stable": bool(a <= 0)})
        for i, (a, b) in enumerate(zip(rng.normal(0.2, 0.15, number), rng.exponential(1.0, number), strict=True))
    ]
    for name, records in (("relax", relaxed), ("hull", hull)):

        def record(name: str = name, records: list[StageRecord] = records) -> None:
            for start in range(0, number, CHUNK):
                catalogue.record(run, name, 1, records[start : start + CHUNK])

        timed(f"results of stage {name}", record, number)
    if timed("what is unfinished", lambda: catalogue.unfinished(run, "hull"), number):
        raise SystemExit("results are missing")


def find(catalogue: Catalogue, crystals: CrystalBatch) -> None:
    """Read the crystals back, and ask for some and for all of them."""
    back = timed("all crystals read back, newest form", lambda: catalogue.crystals(1), len(crystals))
    if not torch.equal(back.cell, crystals.cell) or not torch.equal(back.frac, crystals.frac):
        raise SystemExit("the crystals came back as others")
    chosen = np.random.default_rng(1).integers(0, len(crystals), CHUNK).tolist()
    timed(f"{CHUNK} crystals by index", lambda: catalogue.crystals(1, chosen), CHUNK)
    timed(f"values of {CHUNK} crystals by index", lambda: catalogue.values(1, chosen), CHUNK)
    for name, asked in QUERIES.items():
        table = timed(name, lambda asked=asked: catalogue.table(1, **asked))
        print(f"    {table.num_rows:,} rows", flush=True)


def timed(name: str, call: Callable[[], Any], number: int | None = None) -> Any:
    """The result of a call, whose seconds are printed."""
    wall, processor = time.perf_counter(), time.process_time()
    result = call()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    rate = f", {number / wall:,.0f} crystals/s" if number else ""
    print(f"{name}: {wall:.3f} s ({processor:.3f} s){rate}", flush=True)
    return result


def size(path: Path) -> int:
    """Bytes of a file or of all files in a folder."""
    return sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else path.stat().st_size


if __name__ == "__main__":
    main()
