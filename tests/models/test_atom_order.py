"""Atoms in the order of a request."""

from __future__ import annotations

from euhedral.models.atom_order import order_as_given


def test_given_species_stand_in_their_places_and_the_rest_as_they_come() -> None:
    species = [8, 38, 8, 22, 8]
    order = order_as_given([0, 8, 0, 38, 8], species)
    assert sorted(order) == list(range(5))
    assert [species[k] for k in order] == [22, 8, 8, 38, 8]
    # What is left over keeps its order.
    assert [order[0], order[2]] == [3, 4]


def test_nothing_given_changes_nothing() -> None:
    assert order_as_given([0, 0, 0], [3, 1, 2]) == [0, 1, 2]
