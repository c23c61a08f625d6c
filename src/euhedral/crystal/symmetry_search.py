"""moyopy's search for the symmetry of a cell, and what is read of its dataset.

Nothing but moyopy is imported, so that a process that only searches starts in a tenth of a second.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from moyopy import MoyoDataset

SearchRequest = tuple[list[list[float]], list[list[float]], list[int], float]
"""Arguments of `search`."""
Found = tuple[Any, str | None]
"""What was found for one crystal, and the reason where nothing was."""


class Symmetry(NamedTuple):
    """The space group of a cell, in plain numbers.

    Attributes:
        number: 1 to 230.
        rotations: of its operations on fractional coordinates, (operations, 3, 3).
        translations: (operations, 3).
    """

    number: int
    rotations: Sequence[Sequence[Sequence[int]]]
    translations: Sequence[Sequence[float]]


class StandardSetting(NamedTuple):
    """A cell and the same crystal in the standard setting of its space group, in plain numbers.

    Attributes:
        number: of the space group, 1 to 230.
        letters: of the Wyckoff position of each atom of the cell.
        orbits: index of the first atom that the group carries to each atom.
        linear: columns are the vectors of the standard cell in the basis of the given one, (3, 3).
        shift: its origin in fractional coordinates of the given cell, (3,).
        basis: the standard cell, idealised, rows in Å, (3, 3).
        positions: its atoms, idealised, (atoms, 3).
        species: their atomic numbers.
    """

    number: int
    letters: Sequence[str]
    orbits: Sequence[int]
    linear: Sequence[Sequence[float]]
    shift: Sequence[float]
    basis: Sequence[Sequence[float]]
    positions: Sequence[Sequence[float]]
    species: Sequence[int]


def search(
    cell: list[list[float]], frac: list[list[float]], species: list[int], symprec: float, *, standard: bool = False
) -> MoyoDataset:
    """The dataset of a cell that `symmetry.reduced_cells` has found fit to be searched.

    Args:
        cell: rows a, b, c in Å.
        frac: fractional coordinates of each atom.
        species: atomic numbers.
        symprec: tolerance in Å.
        standard: take the standard setting of the International Tables and not that of the smallest Hall number.

    Raises:
        CrystalError: on a search that fails.
    """
    import moyopy

    setting = moyopy.Setting.standard() if standard else None
    # It warns of orbits in large cells, which nothing here reads.
    logging.getLogger("moyo").setLevel(logging.ERROR)
    try:
        return moyopy.MoyoDataset(moyopy.Cell(cell, frac, species), symprec=symprec, setting=setting)
    except ValueError as error:
        raise CrystalError(f"no symmetry found at {symprec:g} Å: {error}") from error
    except BaseException as error:
        # A failure inside moyopy's Rust code derives from BaseException; Ctrl-C and exit must pass.
        if type(error).__name__ != "PanicException":
            raise
        raise CrystalError(f"the symmetry search failed at {symprec:g} Å: {error}") from error


def load_moyopy() -> None:
    """Import what a search needs."""
    import moyopy  # noqa: F401


def symmetry_of(request: SearchRequest) -> Symmetry:
    """The space group of a cell; arguments and errors as `search`."""
    dataset = search(*request)
    operations = dataset.operations
    return Symmetry(number=dataset.number, rotations=operations.rotations, translations=operations.translations)


def standard_setting(request: SearchRequest) -> StandardSetting:
    """The standard setting of a cell; arguments and errors as `search`."""
    dataset = search(*request, standard=True)
    ideal = dataset.std_cell
    return StandardSetting(
        number=dataset.number,
        letters=dataset.wyckoffs,
        orbits=dataset.orbits,
        linear=dataset.std_linear,
        shift=dataset.std_origin_shift,
        basis=ideal.basis,
        positions=ideal.positions,
        species=ideal.numbers,
    )


def space_group_numbers(requests: Sequence[SearchRequest]) -> list[Found]:
    """Number of the space group of each cell, 1 to 230."""
    return [_read(request, lambda dataset: dataset.number) for request in requests]


def wyckoff_orbits(requests: Sequence[SearchRequest]) -> list[Found]:
    """(number of the space group, letters of the orbits of each element) of each cell, as in `evaluate.wyckoff`.

    Of the names that the Euclidean normaliser of the group gives the same orbits, the first in alphabetical order.
    """
    return [_read(request, _orbits) for request in requests]


def _read(request: SearchRequest, read: Callable[[MoyoDataset], Any]) -> Found:
    try:
        return read(search(*request)), None
    except CrystalError as error:
        return None, str(error)
    # Whatever moyopy raises while its dataset is read is the outcome of this crystal, with its reason.
    except Exception as error:
        return None, f"the symmetry found at {request[-1]:g} Å cannot be read: {error}"


def _orbits(dataset: MoyoDataset) -> tuple[int, tuple[str, ...]]:
    species = dataset.std_cell.numbers
    choices = (positions for _, positions in dataset.normalizer_wyckoff_positions().coset_representatives)
    return dataset.number, min(_letters(species, positions) for positions in choices)


def _letters(species: Sequence[int], positions: Sequence[Any]) -> tuple[str, ...]:
    """Letters of each element's orbits, without the elements; an orbit has as many atoms as its multiplicity."""
    atoms = Counter((z, p.letter, p.multiplicity) for z, p in zip(species, positions, strict=True))
    letters: defaultdict[int, list[str]] = defaultdict(list)
    for (z, letter, multiplicity), count in atoms.items():
        letters[z] += [letter] * (count // multiplicity)
    return tuple(sorted("".join(sorted(own)) for own in letters.values()))
