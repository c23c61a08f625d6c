"""Lattice maps: round trips, sizes of the numbers, and cells that close."""

from __future__ import annotations

import pytest
import torch

from euhedral.crystal.lattice import cell_from_parameters, parameters_from_cell
from euhedral.models.lattice_maps import (
    LogSymmetricMap,
    MatrixMap,
    ParameterMap,
    SymmetricMap,
    bounded_cell,
    closable,
)

MEAN, STD = torch.tensor([1.2, 1.3, 1.5]), torch.tensor([0.2, 0.2, 0.3])
MAPS = [
    pytest.param(MatrixMap(torch.stack([MEAN, STD])), id="matrix"),
    pytest.param(LogSymmetricMap(torch.zeros(6), torch.full((6,), 0.2)), id="log_symmetric"),
    pytest.param(SymmetricMap(), id="symmetric"),
    *(pytest.param(ParameterMap(MEAN, STD, angles), id=angles) for angles in ("tangent", "logit", "cosine")),
]


def cells(size: int = 200) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    lengths = 3 + 5 * torch.rand(size, 3, generator=rng, dtype=torch.float64)
    angles = 65 + 50 * torch.rand(size, 3, generator=rng, dtype=torch.float64)
    return cell_from_parameters(lengths, angles)


@pytest.mark.parametrize("lattice_map", MAPS)
@pytest.mark.parametrize("count", [1, 20])
def test_a_cell_comes_back(lattice_map, count: int) -> None:
    cell = cells()
    num_atoms = torch.full((len(cell),), count)
    values = lattice_map.encode(cell, num_atoms)
    assert values.shape == (len(cell), *lattice_map.shape)
    assert values.dtype == torch.float32
    again = lattice_map.decode(values, num_atoms).double()
    exact = cell @ cell.mT
    torch.testing.assert_close(again @ again.mT, exact, atol=2e-4 * float(exact.abs().max()), rtol=0)


@pytest.mark.parametrize("lattice_map", MAPS[1:])
def test_cells_of_all_sizes_have_like_numbers(lattice_map) -> None:
    cell = cells()
    small = lattice_map.encode(cell, torch.full((len(cell),), 2))
    large = lattice_map.encode(2 * cell, torch.full((len(cell),), 16))
    torch.testing.assert_close(small, large, atol=1e-5, rtol=1e-5)


def test_all_entries_of_a_symmetric_matrix_spread_alike() -> None:
    values = torch.randn(20000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cell = SymmetricMap(density=0.05, spread=0.5).decode(values, torch.full((20000,), 8))
    torch.testing.assert_close(cell.std(0), torch.full((3, 3), 2 * 0.5).double(), rtol=0.03, atol=0)
    torch.testing.assert_close(cell.mean(0), (8 / 0.05) ** (1 / 3) * torch.eye(3).double(), rtol=0, atol=0.03)


def test_angles_that_close_are_left_alone_and_others_are_moved() -> None:
    angles = torch.tensor([[90.0, 90.0, 90.0], [60.0, 60.0, 60.0], [119.0, 119.0, 119.0], [20.0, 120.0, 20.0]]).double()
    closed = closable(angles)
    torch.testing.assert_close(closed[:3], angles[:3])
    cell = cell_from_parameters(torch.ones(4, 3, dtype=torch.float64), closed)
    assert bool((torch.linalg.det(cell) > 0.03).all())
    assert bool((closed[3] != angles[3]).all())


@pytest.mark.parametrize("lattice_map", MAPS)
def test_any_numbers_within_the_bounds_give_a_cell(lattice_map) -> None:
    rng = torch.Generator().manual_seed(1)
    values = lattice_map.bound * (2 * torch.rand(500, *lattice_map.shape, generator=rng) - 1)
    cell = bounded_cell(lattice_map.decode(values, torch.full((500,), 7)))
    assert bool(cell.isfinite().all())
    lengths, _ = parameters_from_cell(cell.double())
    assert float(lengths.min()) > 0.49
    assert float(lengths.max()) < 900


def test_an_unusual_angle_of_logits_goes_to_the_border() -> None:
    cell = cell_from_parameters(torch.tensor([[4.0, 4.0, 4.0]]), torch.tensor([[50.0, 60.0, 90.0]]))
    lattice_map = ParameterMap(MEAN, STD, "logit")
    _, angles = parameters_from_cell(lattice_map.decode(lattice_map.encode(cell, torch.tensor([4])), torch.tensor([4])))
    torch.testing.assert_close(angles, torch.tensor([[60.1, 60.1, 90.0]]), atol=0.1, rtol=0)
