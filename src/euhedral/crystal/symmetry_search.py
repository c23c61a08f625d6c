"""moyopy's search for the symmetry of one cell; without torch, so that a process that only searches starts quickly."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from euhedral.errors import CrystalError

if TYPE_CHECKING:
    from moyopy import MoyoDataset


def search(cell: list[list[float]], frac: list[list[float]], species: list[int], symprec: float) -> MoyoDataset:
    """The dataset of a cell that `symmetry.reduced_cells` has found fit to be searched.

    Args:
        cell: rows a, b, c in Å.
        frac: fractional coordinates of each atom.
        species: atomic numbers.
        symprec: tolerance in Å.

    Raises:
        CrystalError: on a search that fails.
    """
    import moyopy

    # It warns of orbits in large cells, which nothing here reads.
    logging.getLogger("moyo").setLevel(logging.ERROR)
    try:
        return moyopy.MoyoDataset(moyopy.Cell(cell, frac, species), symprec=symprec)
    except ValueError as error:
        raise CrystalError(f"no symmetry found at {symprec:g} Å: {error}") from error
    except BaseException as error:
        # A failure inside moyopy's Rust code derives from BaseException; Ctrl-C and exit must pass.
        if type(error).__name__ != "PanicException":
            raise
        raise CrystalError(f"the symmetry search failed at {symprec:g} Å: {error}") from error
