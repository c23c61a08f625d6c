"""The periodic table as a grid, and the places that atoms fill."""

from __future__ import annotations

import torch
from pymatgen.core import Element

from euhedral.models.periodic_table import COLUMNS, ROWS, box_of, boxes, counts, occupied, places


def test_boxes_are_those_of_the_table() -> None:
    for number in range(1, 119):
        element = Element.from_Z(number)
        row, column = box_of(number)
        if 57 <= number <= 71:
            assert (row, column) == (7, number - 55)
        elif 89 <= number <= 103:
            assert (row, column) == (8, number - 87)
        else:
            assert (row + 1, column + 1) == (element.row, element.group)


def test_every_element_has_a_box_of_its_own() -> None:
    found = boxes()[1:].tolist()
    assert len({tuple(box) for box in found}) == 118
    assert all(0 <= row < ROWS and 0 <= column < COLUMNS for row, column in found)


def test_atoms_fill_the_places_of_their_box_in_order() -> None:
    species = torch.tensor([[8, 3, 8, 8, 25], [3, 3, 3, 118, 1]])
    assert places(species).tolist() == [[0, 0, 1, 2, 0], [0, 1, 2, 0, 0]]
    filled = occupied(species, 4)
    crystal = torch.arange(2)[:, None].expand(2, 5)
    assert bool(filled[crystal, species - 1, places(species)].all())
    assert filled.sum((1, 2)).tolist() == [5, 5]
    assert torch.equal(filled.sum(2), counts(species)[:, 1:])


def test_open_species_fill_no_place() -> None:
    species = torch.tensor([[8, 0, 0, 8]])
    assert occupied(species, 3).sum() == 2
    assert counts(species)[0, 0] == 2
