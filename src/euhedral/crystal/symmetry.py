"""Space groups and standard cells, found by moyopy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import change_cell, minkowski_transform, smallest_distance, wrap
from euhedral.crystal.symmetry_search import SearchRequest, Symmetry
from euhedral.crystal.symmetry_search import search as dataset_of
from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from jaxtyping import Float
    from moyopy import MoyoDataset
    from torch import Tensor

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


def space_group(
    batch: CrystalBatch,
    symprec: float = 0.1,
    *,
    search: Callable[[SearchRequest], MoyoDataset | Symmetry] = lambda request: dataset_of(*request),
) -> list[SpaceGroup]:
    """Space group of each crystal; a crystal without one gives a record with its reason, never an exception.

    Args:
        batch: crystals; their cells are reduced together.
        symprec: tolerance in Å; 0.1 for generated crystals, 0.01 for relaxed or known ones.
        search: what searches, as in `idealize.idealized`.
    """
    found = []
    for cell in reduced_cells(batch):
        try:
            if isinstance(cell, CrystalError):
                raise cell
            number = search(cell.request(symprec)).number
            found.append(SpaceGroup(number=number, symbol=space_group_symbol(number)))
        except CrystalError as error:
            found.append(SpaceGroup(number=0, symbol="", error=str(error)))
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


@dataclass(frozen=True, kw_only=True, eq=False)
class ReducedCell:
    """One crystal in the Minkowski-reduced cell in which its symmetry is searched.

    Attributes:
        crystal: in float64, on the CPU.
        inverse: whole numbers as float64; `inverse @ crystal.cell` is the cell as it was given, (3, 3).
        closest: smallest distance in Å between two atoms or images.
    """

    crystal: CrystalBatch
    inverse: Float[Tensor, "3 3"]
    closest: float

    def request(self, symprec: float) -> tuple[list[list[float]], list[list[float]], list[int], float]:
        """The arguments of `symmetry_search.search` as plain numbers.

        Raises:
            CrystalError: on atoms or images within twice `symprec`, or a tolerance that is not above 0.
        """
        if not symprec > 0:
            raise CrystalError(f"the symmetry tolerance must be above 0 Å, not {symprec}")
        if not self.closest > 2 * symprec:
            raise CrystalError(
                f"atoms are {self.closest:.3g} Å apart: too close to tell apart at a tolerance of {symprec:g} Å"
            )
        return self.crystal.cell[0].tolist(), self.crystal.frac.tolist(), self.crystal.species.tolist(), symprec

    def dataset(self, symprec: float) -> MoyoDataset:
        """moyopy's dataset of this cell; errors as of `request` and `symmetry_search.search`."""
        return dataset_of(*self.request(symprec))


def symmetry_dataset(crystal: CrystalBatch, symprec: float) -> tuple[MoyoDataset, CrystalBatch]:
    """moyopy's dataset of one crystal, and the crystal in the Minkowski-reduced cell that the dataset is about.

    Raises:
        CrystalError: on what is no crystal, atoms or images within twice `symprec`, more than MAX_SYMMETRY_ATOMS atoms,
            or a search that fails.
    """
    (cell,) = reduced_cells(crystal)
    if isinstance(cell, CrystalError):
        raise cell
    return cell.dataset(symprec), cell.crystal


def reduced_cells(batch: CrystalBatch) -> list[ReducedCell | CrystalError]:
    """Each crystal in the cell in which its symmetry is searched, or why it cannot be; all cells are reduced together.

    Overlapping atoms, tiny or very skewed cells make the search take minutes or all memory, so they are refused (the
    overlaps once a tolerance is known) or reduced first.
    """
    batch = batch.to("cpu")
    outcomes: list[ReducedCell | CrystalError | None] = list(_problems(batch))
    sound = [i for i, problem in enumerate(outcomes) if problem is None]
    if sound:
        chosen = batch[sound]
        closest = smallest_distance(chosen).tolist()
        transform, inverse = minkowski_transform(chosen.cell)
        reduced = change_cell(chosen.to(torch.float64), transform)
        for index, crystal, back, distance in zip(sound, reduced, inverse, closest, strict=True):
            outcomes[index] = ReducedCell(crystal=crystal, inverse=back, closest=distance)
    return [outcome for outcome in outcomes if outcome is not None]


def _problems(batch: CrystalBatch) -> list[CrystalError | None]:
    """Why each crystal is none, or has too many atoms."""
    problems: list[CrystalError | None] = [None] * len(batch)
    try:
        batch.validate()
    except CrystalError:
        for index, crystal in enumerate(batch):
            try:
                crystal.validate()
            except CrystalError as error:
                problems[index] = error
    for index, count in enumerate(batch.num_atoms.tolist()):
        if count > MAX_SYMMETRY_ATOMS and problems[index] is None:
            problems[index] = CrystalError(
                f"the cell has {count} atoms; symmetry is searched up to {MAX_SYMMETRY_ATOMS}"
            )
    return problems
