"""Space groups and standard cells, found by moyopy."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from euhedral.crystal.batch import MAX_ATOMIC_NUMBER, CrystalBatch
from euhedral.crystal.geometry import change_cell, minkowski_transform, smallest_distance, wrap
from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from moyopy import MoyoDataset

MAX_SYMMETRY_ATOMS = 2_000
"""Largest cell whose symmetry is searched; the time grows with the square of the atoms."""


@dataclass(frozen=True, kw_only=True)
class SpaceGroup:
    """The space group of one crystal, or the reason why none was found.

    Attributes:
        number: 1 to 230, 0 where none was found.
        symbol: short Hermann-Mauguin symbol such as 'F m -3 m', empty where none was found.
        error: why none was found, else None.
    """

    number: int
    symbol: str
    error: str | None = None


def space_group(batch: CrystalBatch, symprec: float = 0.1) -> list[SpaceGroup]:
    """Space group of each crystal; a crystal without one gives a record with its reason, never an exception.

    Args:
        batch: crystals.
        symprec: tolerance in Å; 0.1 for generated crystals, 0.01 for relaxed or known ones.
    """
    found = []
    for dataset in symmetry_datasets(batch, symprec):
        if isinstance(dataset, CrystalError):
            found.append(SpaceGroup(number=0, symbol="", error=str(dataset)))
        else:
            found.append(SpaceGroup(number=dataset.number, symbol=space_group_symbol(dataset.number)))
    return found


@cache
def space_group_symbol(number: int) -> str:
    """Short Hermann-Mauguin symbol of a space group, e.g. 'F m -3 m' for 225.

    Raises:
        CrystalError: on a number outside 1 to 230.
    """
    import moyopy

    if not 1 <= number <= 230:
        raise CrystalError(f"space groups are numbered 1 to 230, not {number}")
    return moyopy.SpaceGroupType(number).hm_short


def conventional(batch: CrystalBatch, symprec: float = 0.1, *, to_primitive: bool = False) -> CrystalBatch:
    """Standardised cells: cell and atoms idealised to the symmetry found, in the setting of the International Tables.

    Args:
        batch: crystals.
        symprec: tolerance in Å.
        to_primitive: give the primitive standard cell and not the conventional one.

    Raises:
        CrystalError: naming the first crystal whose symmetry cannot be found.
    """
    cells = []
    for index, crystal in enumerate(batch):
        try:
            dataset, _ = symmetry_dataset(crystal, symprec)
        except CrystalError as error:
            raise CrystalError(f"crystal {index} of {len(batch)} has no standard cell: {error}") from error
        cells.append(dataset.prim_std_cell if to_primitive else dataset.std_cell)
    if not cells:
        return batch
    dtype = batch.cell.dtype
    return CrystalBatch(
        frac=wrap(torch.tensor([x for c in cells for x in c.positions], dtype=torch.float64).to(dtype)),
        cell=torch.tensor([c.basis for c in cells], dtype=torch.float64).to(dtype),
        species=torch.tensor([z for c in cells for z in c.numbers], dtype=torch.int64),
        num_atoms=torch.tensor([len(c.numbers) for c in cells], dtype=torch.int64),
    ).to(batch.cell.device)


def symmetry_dataset(crystal: CrystalBatch, symprec: float) -> tuple[MoyoDataset, CrystalBatch]:
    """moyopy's dataset of one crystal, and the crystal in the Minkowski-reduced cell that the dataset is about.

    Overlapping atoms, tiny or very skewed cells make the search take minutes or all memory, so they are refused or
    reduced first.

    Raises:
        CrystalError: on what is no crystal, atoms or images within twice `symprec`, more than MAX_SYMMETRY_ATOMS atoms,
            or a search that fails.
    """
    if not symprec > 0:
        raise CrystalError(f"the symmetry tolerance must be above 0 Å, not {symprec}")
    crystal = crystal.to("cpu").validate()
    if (count := crystal.species.numel()) > MAX_SYMMETRY_ATOMS:
        raise CrystalError(f"the cell has {count} atoms; symmetry is searched up to {MAX_SYMMETRY_ATOMS}")
    closest = float(smallest_distance(crystal))
    if not closest > 2 * symprec:
        raise CrystalError(f"atoms are {closest:.3g} Å apart: too close to tell apart at a tolerance of {symprec:g} Å")
    reduced = change_cell(crystal.to(torch.float64), minkowski_transform(crystal.cell)[0])
    return _searched(reduced, symprec), reduced


def symmetry_datasets(batch: CrystalBatch, symprec: float) -> list[MoyoDataset | CrystalError]:
    """What `symmetry_dataset` gives or raises for each crystal; the cells of all are reduced together, which is faster."""
    batch = batch.to("cpu")
    outcomes: list[MoyoDataset | CrystalError] = []
    ready = _reduced(batch, symprec)
    for index, reduced in enumerate(ready):
        try:
            if reduced is None:
                outcomes.append(symmetry_dataset(batch[index], symprec)[0])  # it knows what is wrong
            else:
                outcomes.append(_searched(reduced, symprec))
        except CrystalError as error:
            outcomes.append(error)
    return outcomes


def _reduced(batch: CrystalBatch, symprec: float) -> list[CrystalBatch | None]:
    """Each crystal in its Minkowski-reduced cell, or None where `symmetry_dataset` may refuse it."""
    count = torch.zeros(len(batch), dtype=torch.int64)
    bad_site = (
        ~((batch.frac >= 0) & (batch.frac < 1)).all(1) | (batch.species < 1) | (batch.species > MAX_ATOMIC_NUMBER)
    )
    usable = (
        (batch.num_atoms >= 1)
        & (batch.num_atoms <= MAX_SYMMETRY_ATOMS)
        & torch.isfinite(batch.cell).flatten(1).all(1)
        & (batch.volume > 0.1)
        & (count.index_add_(0, batch.owner, bad_site.long()) == 0)
    )
    chosen = usable.nonzero().flatten()
    ready: list[CrystalBatch | None] = [None] * len(batch)
    if symprec > 0 and len(chosen):
        chosen = chosen[smallest_distance(batch[chosen]) > 2 * symprec]
        crystals = batch[chosen]
        reduced = change_cell(crystals.to(torch.float64), minkowski_transform(crystals.cell)[0])
        for index, crystal in zip(chosen.tolist(), reduced, strict=True):
            ready[index] = crystal
    return ready


def _searched(reduced: CrystalBatch, symprec: float) -> MoyoDataset:
    import moyopy

    # It warns of orbits in large cells, which nothing here reads.
    logging.getLogger("moyo").setLevel(logging.ERROR)
    cell = moyopy.Cell(reduced.cell[0].tolist(), reduced.frac.tolist(), reduced.species.tolist())
    try:
        return moyopy.MoyoDataset(cell, symprec=symprec)
    except ValueError as error:
        raise CrystalError(f"no symmetry found at {symprec:g} Å: {error}") from error
    except BaseException as error:
        # A failure inside moyopy's Rust code derives from BaseException; Ctrl-C and exit must pass.
        if type(error).__name__ != "PanicException":
            raise
        raise CrystalError(f"the symmetry search failed at {symprec:g} Å: {error}") from error
