"""Where the benchmarks find MP-20, and a seeded subset of it."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.convert import convert
from euhedral.data.store import CrystalStore

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def open_store(source: Path) -> CrystalStore:
    """A store of a benchmark CSV, converted once and kept in the temporary folder."""
    if not source.is_file():
        raise SystemExit(f"{source} is missing: give --val or --train the path of MP-20's CSV file (plain or .gz)")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    kept = Path(tempfile.gettempdir()) / "euhedral-benchmarks" / f"{digest}.arrow"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        report = convert(source, kept, workers=2, overwrite=True)
        if report.kept < report.rows:  # a benchmark of a part of the crystals would be another benchmark
            kept.unlink()
            raise SystemExit(f"{report.rows - report.kept} rows of {source} were not read: see {report.report}")
    return CrystalStore.open(kept)


def subset(store: CrystalStore, number: int, seed: int) -> CrystalBatch:
    """`number` crystals drawn without replacement with a seed, in a fixed order."""
    rows = np.random.default_rng(seed).permutation(len(store))[:number]
    return store.crystals(np.sort(rows))
