"""The periodic table as a grid of boxes, and which atoms of a crystal fill them (Yang et al., UniMat, 2023, Section 2.1).

A crystal is a tensor over boxes, places in a box and three coordinates: the first atom of an element that a crystal lists is
at place 0 of the element's box, the next at place 1, and so on; places without an atom hold a null value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

ROWS, COLUMNS, ELEMENTS = 9, 18, 118
_LAST_OF_ROW = (2, 10, 18, 36, 54, 86, 118)


def box_of(number: int) -> tuple[int, int]:
    """Row and column, from 0, of an element; lanthanides and actinides have the two last rows."""
    for first, row in ((57, 7), (89, 8)):
        if first <= number <= first + 14:
            return row, 2 + number - first
    row = next(i for i, last in enumerate(_LAST_OF_ROW) if number <= last)
    place = number - (_LAST_OF_ROW[row - 1] if row else 0) - 1
    from_right = _LAST_OF_ROW[row] - number
    if row == 0:
        return row, 0 if place == 0 else COLUMNS - 1
    return row, place if place < 2 else COLUMNS - 1 - from_right


def boxes() -> Int[Tensor, "119 2"]:
    """Row and column by atomic number; row 0 and column 0 for index 0, which is no element."""
    return torch.tensor([(0, 0), *(box_of(number) for number in range(1, ELEMENTS + 1))])


def places(species: Int[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """How many atoms of the same element are listed before each atom: its place in the element's box."""
    same = species[:, :, None] == species[:, None]
    return same.tril(-1).sum(-1)


def counts(species: Int[Tensor, "b n"]) -> Int[Tensor, "b 119"]:
    """Atoms of each element by atomic number; those of unknown species, 0, are at index 0."""
    return functional.one_hot(species, ELEMENTS + 1).sum(1)


def occupied(species: Int[Tensor, "b n"], depth: int) -> Bool[Tensor, "b 118 d"]:
    """Which places of each box hold an atom, up to `depth` of them."""
    return torch.arange(depth, device=species.device) < counts(species)[:, 1:, None]
