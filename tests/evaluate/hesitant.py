"""Bodies of worker processes that hang at one element and die at another; light, since each process imports them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

from euhedral.crystal import symmetry_search
from euhedral.crystal.symmetry_search import Found, SearchRequest

HANGS, DIES = 19, 37
_space_group_numbers, _wyckoff_orbits = symmetry_search.space_group_numbers, symmetry_search.wyckoff_orbits


def hesitate(species: Iterable[int]) -> None:
    """Hang at potassium, die at rubidium."""
    for number in species:
        if number == HANGS:
            time.sleep(600)
        if number == DIES:
            os._exit(3)


def space_group_numbers(requests: list[SearchRequest]) -> list[Found]:
    for _, _, species, _ in requests:
        hesitate(species)
    return _space_group_numbers(requests)


def wyckoff_orbits(requests: list[SearchRequest]) -> list[Found]:
    for _, _, species, _ in requests:
        hesitate(species)
    return _wyckoff_orbits(requests)


def prepare() -> None:
    """Nothing to load."""


def predict_crystals(crystals: list[Any]) -> list[Any]:
    """Energies that are the number of atoms."""
    for crystal in crystals:
        hesitate(crystal.species)
    return [(float(len(crystal.species)), [1.0] * 64) for crystal in crystals]


def least_rms(pairs: list[Any]) -> list[float]:
    """Displacements that are nothing."""
    for before, _ in pairs:
        hesitate(before.species)
    return [0.0 for _ in pairs]
