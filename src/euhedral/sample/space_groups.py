"""A space group that is met by construction: atom counts that its positions can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from euhedral.crystal.symmetry import space_group_symbol
from euhedral.errors import RequestError
from euhedral.models.symmetric import SymmetricModel
from euhedral.sample.request import ResolvedRequest

if TYPE_CHECKING:
    from euhedral.models.base import GenerativeModel


def within_space_group(resolved: ResolvedRequest, model: GenerativeModel) -> ResolvedRequest:
    """The request with those atom counts alone in which its space group holds what is asked for.

    A model that only leans toward a space group gets all atom counts.

    Raises:
        RequestError: where there is no such count.
    """
    group = resolved.request.space_group
    if group is None or not isinstance(model, SymmetricModel):
        return resolved
    elements = max(1, len(resolved.required) + resolved.open_elements)
    kept = {
        count: weight
        for count, weight in resolved.num_atoms.items()
        if model.holds(group, count, composition=_cell_content(resolved, count), elements=elements)
    }
    if not kept:
        counts = ", ".join(map(str, sorted(resolved.num_atoms)))
        raise RequestError(
            f"space group {group} ({space_group_symbol(group)}) has no Wyckoff positions that hold what is asked for in a "
            f"primitive cell of {counts} atoms, or none without the symmetry of a supergroup; ask for other --num-atoms or "
            "--z, or for another space group"
        )
    return replace(resolved, num_atoms=kept)


def _cell_content(resolved: ResolvedRequest, count: int) -> Mapping[int, int] | None:
    if resolved.composition is None:
        return None
    units = count // sum(resolved.composition.values())
    return {z: k * units for z, k in resolved.composition.items()}
