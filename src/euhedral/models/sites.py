"""Asymmetric units as tensors: points, species and site symmetries of orbits, for crystals of one number of orbits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from euhedral.crystal.asymmetric_unit import AsymmetricUnit, OrbitTemplate
from euhedral.crystal.site_symmetry import AXES, SYMBOLS, site_symmetries, site_symmetry_of
from euhedral.crystal.wyckoff import GROUPS, primitive_basis
from euhedral.models.site_places import learned_points
from euhedral.nets.site_net import HIDDEN

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """What is given of crystals beside their orbits.

    Attributes:
        group: space group, (b,).
        num_atoms: atoms of the primitive cell, (b,).
        conventional: atoms of the conventional cell, (b,).
    """

    group: Int[Tensor, " b"]
    num_atoms: Int[Tensor, " b"]
    conventional: Float[Tensor, " b"]

    @classmethod
    def of(cls, templates: Sequence[OrbitTemplate], device: torch.device) -> Cells:
        """The cells of templates, whose letters count by their sizes alone."""
        groups = [template.space_group for template in templates]
        whole = np.array([template.num_atoms / template.volume for template in templates]).round()
        primitive = whole * np.array([np.linalg.det(primitive_basis(group)) for group in groups])
        return cls(
            group=torch.tensor(groups, device=device),
            num_atoms=torch.from_numpy(primitive.round().astype(np.int64)).to(device),
            conventional=torch.from_numpy(whole).float().to(device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Sites:
    """Clean asymmetric units of k orbits.

    Attributes:
        rows: position of each crystal in the batch, (b,).
        cells: of the crystals.
        points: one point of each orbit in conventional coordinates, (b, k, 3).
        species: atomic numbers, (b, k).
        kinds: index in `site_symmetries`, (b, k).
        lattice: log-symmetric coordinates of the conventional cell, (b, 6).
    """

    rows: Int[Tensor, " b"]
    cells: Cells
    points: Float[Tensor, "b k 3"]
    species: Int[Tensor, "b k"]
    kinds: Int[Tensor, "b k"]
    lattice: Float[Tensor, "b 6"]


_POINTS: WeakKeyDictionary[AsymmetricUnit, np.ndarray] = WeakKeyDictionary()


def sites_of(units: Sequence[AsymmetricUnit], device: torch.device) -> list[Sites]:
    """The units as tensors, those of one number of orbits together."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row, unit in enumerate(units):
        members[len(unit.species)].append(row)
    return [_stacked(rows, [units[row] for row in rows], device) for _, rows in sorted(members.items())]


def _stacked(rows: list[int], units: list[AsymmetricUnit], device: torch.device) -> Sites:
    for unit in units:
        if unit not in _POINTS:
            _POINTS[unit] = learned_points(unit)
    kinds = [[site_symmetry_of(u.template.space_group)[letter] for letter in u.template.letters] for u in units]
    return Sites(
        rows=torch.tensor(rows, device=device),
        cells=Cells.of([unit.template for unit in units], device),
        points=torch.from_numpy(np.stack([_POINTS[unit] for unit in units])).float().to(device),
        species=torch.from_numpy(np.stack([unit.species for unit in units])).to(device),
        kinds=torch.tensor(kinds, device=device),
        lattice=torch.from_numpy(np.stack([unit.lattice for unit in units])).float().to(device),
    )


def symbols_of(kinds: Int[Tensor, "b k"], group: Int[Tensor, " b"], hidden: Bool[Tensor, "b k"]) -> Tensor:
    """The symbols of site symmetries by axis, `HIDDEN` where they are masked, (b, k, 15)."""
    table = _kind_table()[0].to(group.device)[group]
    symbols = table.gather(1, kinds[..., None].expand(-1, -1, len(AXES)))
    return symbols.masked_fill(hidden[..., None], HIDDEN)


def kind_logits(symbols: Float[Tensor, "b k a s"], group: Int[Tensor, " b"]) -> Float[Tensor, "b k c"]:
    """Logits of the site symmetries that a group has: sums over the axes; -inf beyond them.

    Normalised over these, elements on different axes of one site symmetry count once, and none of other groups at all.
    """
    table, has = (part.to(group.device)[group] for part in _kind_table())
    one_hot = functional.one_hot(table, len(SYMBOLS)).flatten(2).to(symbols.dtype)
    with torch.autocast(symbols.device.type, enabled=False):
        return (symbols.flatten(2) @ one_hot.mT).masked_fill(~has[:, None], float("-inf"))


@cache
def _kind_table() -> tuple[Tensor, Tensor]:
    """Symbols of the site symmetries of every group, (231, kinds, 15), and which places hold one, (231, kinds)."""
    groups = [site_symmetries(number) for number in range(1, GROUPS + 1)]
    widest = max(len(kinds) for kinds in groups)
    symbols = torch.zeros(GROUPS + 1, widest, len(AXES), dtype=torch.int64)
    has = torch.zeros(GROUPS + 1, widest, dtype=torch.bool)
    for number, kinds in enumerate(groups, start=1):
        symbols[number, : len(kinds)] = torch.from_numpy(np.stack([kind.symbols for kind in kinds]))
        has[number, : len(kinds)] = True
    return symbols, has
