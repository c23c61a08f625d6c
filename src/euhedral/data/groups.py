"""What two crystals can share: their reduced formula, chemical system, space group or exact content, as keys to group by."""

from __future__ import annotations

import hashlib
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from euhedral.crystal.elements import SYMBOLS
from euhedral.crystal.formula import reduced_formula
from euhedral.data.symmetry_worker import SECONDS_TO_SEARCH, SymmetryWorker

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from euhedral.crystal.batch import CrystalBatch


def formula_keys(batch: CrystalBatch) -> list[str]:
    """Reduced formula of each crystal, e.g. 'LiMnO2'; the polymorphs of one compound share it."""
    return [_formula(key) for key in _compositions(batch)]


def chemical_system_keys(batch: CrystalBatch) -> list[str]:
    """Chemical system of each crystal, symbols in alphabetical order, e.g. 'Li-Mn-O'."""
    return ["-".join(sorted(SYMBOLS[z] for z, _ in key)) for key in _compositions(batch)]


def space_group_keys(
    batch: CrystalBatch, symprec: float = 0.01, *, seconds_per_crystal: float = SECONDS_TO_SEARCH
) -> list[str]:
    """Space group number of each crystal by moyopy, e.g. '225'; '0' where none is found in time.

    Args:
        batch: crystals.
        symprec: tolerance in Å; 0.01 for relaxed or known crystals, 0.1 for generated ones.
        seconds_per_crystal: time limit of one search.

    Raises:
        EuhedralError: if the process that searches cannot be started.
    """
    from euhedral.crystal.symmetry import space_group

    with closing(SymmetryWorker(seconds_per_crystal)) as symmetry:
        return [str(found.number) for found in space_group(batch, symprec, search=symmetry.search)]


def content_keys(batch: CrystalBatch) -> list[bytes]:
    """Digest of each crystal's cell, species and coordinates as float32, whatever the order of its atoms.

    Equal keys mean equal numbers. A shifted origin or another choice of cell gives another key: those are found by a
    structure matcher only.
    """
    cell = batch.cell.numpy().astype("<f4")
    frac = batch.frac.numpy().astype("<f4") + np.float32(0)  # -0.0 becomes 0.0
    species, owner = batch.species.numpy(), batch.owner.numpy()
    order = np.lexsort((frac[:, 2], frac[:, 1], frac[:, 0], species, owner))
    frac, species = frac[order], species[order].astype(np.uint8)
    ends = np.cumsum(batch.num_atoms.numpy())
    keys = []
    for i, end in enumerate(ends.tolist()):
        start = end - int(batch.num_atoms[i])
        digest = hashlib.blake2b(cell[i].tobytes(), digest_size=16)
        digest.update(species[start:end].tobytes())
        digest.update(frac[start:end].tobytes())
        keys.append(digest.digest())
    return keys


def space_groups_of_rows(rows: list[int], store: Path, symprec: float) -> list[str]:
    """`space_group_keys` of some rows of a store; what a worker process runs, which opens the file itself."""
    from euhedral.data.store import CrystalStore

    with CrystalStore.open(store) as opened:
        return space_group_keys(opened.crystals(rows), symprec)


def _compositions(batch: CrystalBatch) -> list[tuple[tuple[int, int], ...]]:
    """(atomic number, count) pairs of each crystal, counts divided by their greatest common divisor."""
    if not batch.species.numel():
        return [()] * len(batch)
    owner: NDArray[np.int64] = batch.owner.numpy()
    codes, counts = np.unique(owner * 256 + batch.species.numpy(), return_counts=True)
    crystal, numbers = codes // 256, codes % 256
    starts = np.flatnonzero(np.r_[True, np.diff(crystal) > 0])
    lengths = np.diff(np.r_[starts, len(codes)])
    counts //= np.repeat(np.gcd.reduceat(counts, starts), lengths)
    pairs = list(zip(numbers.tolist(), counts.tolist(), strict=True))
    found: list[tuple[tuple[int, int], ...]] = [()] * len(batch)
    for which, start, length in zip(crystal[starts].tolist(), starts.tolist(), lengths.tolist(), strict=True):
        found[which] = tuple(pairs[start : start + length])
    return found


@cache
def _formula(composition: tuple[tuple[int, int], ...]) -> str:
    return reduced_formula([z for z, count in composition for _ in range(count)])
