"""CHGNet energies of MP-20's crystals as published, kept part by part so that a killed run goes on."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from euhedral.data.store import CrystalStore
from euhedral.evaluate.embedding import chgnet_predictions

PART = 4096
"""Crystals whose energies are computed, and kept, together."""


@dataclass(frozen=True, kw_only=True)
class StoreEnergies:
    """Energies in eV/atom of the crystals of a store in its order, NaN with a reason where there is none."""

    energies: np.ndarray
    reasons: list[str | None]


def store_energies(store: CrystalStore, kept: Path, *, workers: int) -> StoreEnergies:
    """Energies of a store's crystals, those of finished parts read from the folder `kept`."""
    kept.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    parts = []
    for start in range(0, len(store), PART):
        stop = min(start + PART, len(store))
        path = kept / f"{store.path.stem}-{start}-{stop}.parquet"
        if not path.exists():
            found = chgnet_predictions(store.crystals(np.arange(start, stop)), workers=workers)
            table = pa.table({"energy": found.energies, "reason": pa.array(found.reasons, pa.string())})
            unfinished = path.with_suffix(".part")
            pq.write_table(table, unfinished)
            unfinished.replace(path)
            print(
                f"{stop} of {len(store)} energies, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True
            )
        parts.append(pq.read_table(path))
    table = pa.concat_tables(parts)
    return StoreEnergies(energies=table["energy"].to_numpy(), reasons=table["reason"].to_pylist())
