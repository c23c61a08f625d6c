from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from euhedral.crystal.lattice import (
    SYMMETRIC_BASIS,
    cell_from_log_symmetric,
    cell_from_parameters,
    log_symmetric,
    parameters_from_cell,
)

lengths = st.lists(st.floats(0.5, 50), min_size=3, max_size=3)


@st.composite
def parameters(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Lengths and angles that close a cell which is not nearly flat."""
    one = draw(st.tuples(*[st.floats(35, 140)] * 3).filter(closes))
    return torch.tensor(draw(lengths), dtype=torch.float64), torch.tensor(one, dtype=torch.float64)


def closes(angles: tuple[float, ...]) -> bool:
    cos = torch.cos(torch.deg2rad(torch.tensor(angles, dtype=torch.float64)))
    return float(1 + 2 * cos.prod() - cos.square().sum()) > 0.02


@given(parameters())
def test_parameters_come_back(given_parameters) -> None:
    cell = cell_from_parameters(*given_parameters)
    again = parameters_from_cell(cell)
    for before, after in zip(given_parameters, again, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    assert torch.linalg.det(cell) > 0
    assert cell[0, 1] == cell[0, 2] == cell[1, 2] == 0, "a along x, b in the xy plane"


def test_known_cells() -> None:
    hexagonal = cell_from_parameters(torch.tensor([3.0, 3.0, 5.0]), torch.tensor([90.0, 90.0, 120.0]))
    expected = torch.tensor([[3.0, 0, 0], [-1.5, 1.5 * 3**0.5, 0], [0, 0, 5.0]])
    torch.testing.assert_close(hexagonal, expected, atol=1e-6, rtol=0)
    lengths, angles = parameters_from_cell(torch.tensor([[0.0, 2, 2], [2, 0, 2], [2, 2, 0]]))
    torch.testing.assert_close(lengths, torch.full((3,), 8**0.5))
    torch.testing.assert_close(angles, torch.full((3,), 60.0))


def test_angles_near_180_keep_their_digits() -> None:
    cell = cell_from_parameters(
        torch.tensor([4.0, 5.0, 6.0], dtype=torch.float64), torch.tensor([90.0, 90.0, 179.999], dtype=torch.float64)
    )
    assert float(parameters_from_cell(cell)[1][2]) == pytest.approx(179.999, abs=1e-9)


def test_angles_that_close_no_cell_give_nan() -> None:
    cell = cell_from_parameters(torch.tensor([4.0, 4.0, 4.0]), torch.tensor([30.0, 30.0, 120.0]))
    assert cell.isnan().any()


@given(parameters(), st.integers(1, 100), st.integers(0, 2**31))
@settings(max_examples=60)
def test_log_symmetric_round_trip(given_parameters, count: int, seed: int) -> None:
    cell = cell_from_parameters(*given_parameters)[None]
    num_atoms = torch.tensor([count])
    coordinates = log_symmetric(cell, num_atoms)
    again = cell_from_log_symmetric(coordinates, num_atoms)
    torch.testing.assert_close(again @ again.mT, cell @ cell.mT, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(again, again.mT, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_symmetric(again, num_atoms), coordinates, rtol=1e-8, atol=1e-8)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    torch.testing.assert_close(log_symmetric(cell @ rotation, num_atoms), coordinates, rtol=1e-8, atol=1e-8)


def test_volume_is_the_last_coordinate_alone() -> None:
    coordinates = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    num_atoms = torch.arange(1, 21)
    volume = torch.linalg.det(cell_from_log_symmetric(coordinates, num_atoms))
    torch.testing.assert_close(volume, num_atoms * (3**0.5 * coordinates[:, 5]).exp(), rtol=1e-9, atol=0)


def test_basis_is_orthonormal_and_symmetric() -> None:
    torch.testing.assert_close(
        torch.einsum("kij,lij->kl", SYMMETRIC_BASIS, SYMMETRIC_BASIS), torch.eye(6, dtype=torch.float64)
    )
    assert torch.equal(SYMMETRIC_BASIS, SYMMETRIC_BASIS.mT)
