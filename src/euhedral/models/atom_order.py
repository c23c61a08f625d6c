"""Atoms in the order in which a request names their species."""

from __future__ import annotations

from collections.abc import Sequence

from euhedral.noise.masked import MASKED


def order_as_given(given: Sequence[int], species: Sequence[int]) -> list[int]:
    """Which atom stands in each place: one of the species given there, and the rest as they come.

    Args:
        given: atomic numbers, `MASKED` where any atom may stand.
        species: of the atoms, as many, with those that are given among them.
    """
    waiting: dict[int, list[int]] = {}
    for atom, z in enumerate(species):
        waiting.setdefault(z, []).append(atom)
    order = [waiting[z].pop(0) if z != MASKED else -1 for z in given]
    rest = iter(sorted(atom for atoms in waiting.values() for atom in atoms))
    return [atom if atom >= 0 else next(rest) for atom in order]
