"""Small crystals to test with: textbook prototypes in their primitive cells, and random ones that look like crystals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from euhedral.crystal.batch import CrystalBatch
from euhedral.crystal.geometry import wrap_centered
from euhedral.crystal.lattice import cell_from_parameters

FACE_CENTERED = ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))

SPACE_GROUPS: Mapping[str, int] = {
    "rock_salt": 225,
    "rock_salt_conventional": 225,
    "cesium_chloride": 221,
    "perovskite": 221,
    "diamond": 227,
    "hexagonal_close_packed": 194,
}


def rock_salt(
    cation: int = 11, anion: int = 17, *, length: float = 5.64, dtype: torch.dtype = torch.float32
) -> CrystalBatch:
    """Rock salt in its primitive cell of two atoms; `length` is the edge of the conventional cube in Å."""
    cell = length * torch.tensor(FACE_CENTERED)
    return _crystal(cell, [[0, 0, 0], [0.5, 0.5, 0.5]], [cation, anion], dtype)


def rock_salt_conventional(
    cation: int = 11, anion: int = 17, *, length: float = 5.64, dtype: torch.dtype = torch.float32
) -> CrystalBatch:
    """Rock salt in its cube of eight atoms, edge `length` in Å."""
    corners = [[0.0, 0.0, 0.0], *(list(row) for row in FACE_CENTERED)]
    shifted = [[(x + 0.5) % 1 for x in row] for row in corners]
    return _crystal(length * torch.eye(3), corners + shifted, [cation] * 4 + [anion] * 4, dtype)


def cesium_chloride(
    cation: int = 55, anion: int = 17, *, length: float = 4.12, dtype: torch.dtype = torch.float32
) -> CrystalBatch:
    """Caesium chloride, two atoms in a cube of edge `length` in Å."""
    return _crystal(length * torch.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [cation, anion], dtype)


def perovskite(
    a: int = 38, b: int = 22, x: int = 8, *, length: float = 3.91, dtype: torch.dtype = torch.float32
) -> CrystalBatch:
    """Cubic perovskite ABX3, five atoms in a cube of edge `length` in Å."""
    frac = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return _crystal(length * torch.eye(3), frac, [a, b, x, x, x], dtype)


def diamond(element: int = 6, *, length: float = 3.567, dtype: torch.dtype = torch.float32) -> CrystalBatch:
    """Diamond in its primitive cell of two atoms; `length` is the edge of the conventional cube in Å."""
    cell = length * torch.tensor(FACE_CENTERED)
    return _crystal(cell, [[0, 0, 0], [0.25, 0.25, 0.25]], [element] * 2, dtype)


def hexagonal_close_packed(
    element: int = 12, *, length: float = 3.21, ratio: float = 1.624, dtype: torch.dtype = torch.float32
) -> CrystalBatch:
    """Hexagonal close packing, two atoms; a is `length` in Å and c is `ratio` times it."""
    cell = length * torch.tensor([[1.0, 0.0, 0.0], [-0.5, math.sqrt(3) / 2, 0.0], [0.0, 0.0, ratio]])
    return _crystal(cell, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], [element] * 2, dtype)


def prototypes(dtype: torch.dtype = torch.float32) -> dict[str, CrystalBatch]:
    """All prototypes by name, one crystal each; `SPACE_GROUPS` holds their space groups under the same names."""
    return {
        "rock_salt": rock_salt(dtype=dtype),
        "rock_salt_conventional": rock_salt_conventional(dtype=dtype),
        "cesium_chloride": cesium_chloride(dtype=dtype),
        "perovskite": perovskite(dtype=dtype),
        "diamond": diamond(dtype=dtype),
        "hexagonal_close_packed": hexagonal_close_packed(dtype=dtype),
    }


def known_crystals() -> CrystalBatch:
    """Textbook crystals in their primitive cells, and one of five atoms without symmetry, for families that learn some."""
    return CrystalBatch.concat(
        [
            rock_salt(),
            cesium_chloride(),
            perovskite(),
            diamond(),
            hexagonal_close_packed(),
            random_crystals([5], rng=torch.Generator().manual_seed(5)),
        ]
    )


def random_crystals(
    num_atoms: Sequence[int], *, rng: torch.Generator, volume_per_atom: float = 18.0, dtype: torch.dtype = torch.float32
) -> CrystalBatch:
    """Triclinic crystals without symmetry, one for each atom count, whose atoms keep apart.

    Angles lie in 65 to 115 degrees and edges within 25 % of each other; species are 1 to 94. Each atom is the one of
    many random candidates that is furthest from the atoms before it and their 26 neighbouring images.
    """
    return CrystalBatch.concat(
        [_random_crystal(count, rng=rng, volume_per_atom=volume_per_atom).to(dtype) for count in num_atoms]
    )


def _random_crystal(count: int, *, rng: torch.Generator, volume_per_atom: float, candidates: int = 64) -> CrystalBatch:
    lengths = 1 + 0.25 * torch.rand(3, generator=rng, dtype=torch.float64)
    angles = 65 + 50 * torch.rand(3, generator=rng, dtype=torch.float64)
    cell = cell_from_parameters(lengths, angles)
    cell = cell * (volume_per_atom * count / torch.linalg.det(cell).abs()) ** (1 / 3)
    images = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3)), dtype=torch.float64)
    frac = torch.rand(1, 3, generator=rng, dtype=torch.float64)
    for _ in range(count - 1):
        trial = torch.rand(candidates, 3, generator=rng, dtype=torch.float64)
        gap = wrap_centered(trial[:, None] - frac)[:, :, None] + images
        nearest = (gap @ cell).norm(dim=-1).flatten(1).amin(1)
        frac = torch.cat([frac, trial[nearest.argmax()][None]])
    species = torch.randint(1, 95, (count,), generator=rng)
    return CrystalBatch.from_crystals([(cell, frac, species)])


def _crystal(cell: Tensor, frac: list[list[float]], species: list[int], dtype: torch.dtype) -> CrystalBatch:
    return CrystalBatch.from_crystals(
        [(cell.to(dtype), torch.tensor(frac, dtype=dtype), torch.tensor(species, dtype=torch.int64))]
    )
