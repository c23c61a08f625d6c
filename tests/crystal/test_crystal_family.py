"""Lattices of a crystal family are those whose metric the rotations of the group keep."""

from __future__ import annotations

import pytest
import torch

from euhedral.crystal.crystal_family import family_subspace, onto_family
from euhedral.crystal.lattice import cell_from_log_symmetric, log_symmetric
from euhedral.crystal.wyckoff import group_operations
from euhedral.errors import CrystalError

GROUPS = torch.arange(1, 231)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_metrics_averaged_over_the_group_lie_in_the_subspace(rng: torch.Generator) -> None:
    cells = torch.randn(230, 3, 3, generator=rng, dtype=torch.float64) + 4 * torch.eye(3)
    metrics = []
    for group, cell in zip(GROUPS.tolist(), cells, strict=True):
        rotations = torch.from_numpy(group_operations(group)[0])
        metrics.append((rotations.mT @ (cell @ cell.T) @ rotations).mean(0))
    symmetric = torch.linalg.cholesky(torch.stack(metrics))
    coordinates = log_symmetric(symmetric, torch.ones(230))
    assert torch.allclose(onto_family(coordinates, GROUPS), coordinates, atol=1e-9)


def test_lattices_of_the_subspace_are_kept_by_the_group_and_it_is_as_large_as_that_allows(rng: torch.Generator) -> None:
    projected = onto_family(torch.randn(230, 6, generator=rng, dtype=torch.float64), GROUPS)
    cells = cell_from_log_symmetric(projected, torch.ones(230))
    free, fixed = family_subspace(GROUPS)
    assert (fixed[free] == 0).all()
    for row, group in enumerate(GROUPS.tolist()):
        rotations = torch.from_numpy(group_operations(group)[0])
        metric = cells[row] @ cells[row].T
        assert torch.allclose(rotations.mT @ metric @ rotations, metric.expand_as(rotations), atol=1e-8)
        # The number of invariant metrics is the mean character of the symmetric square.
        trace = torch.einsum("kii->k", rotations)
        square = torch.einsum("kij,kji->k", rotations, rotations)
        assert int(free[row].sum()) == round(float(((trace**2 + square) / 2).mean()))


def test_projection_is_idempotent(rng: torch.Generator) -> None:
    once = onto_family(torch.randn(230, 6, generator=rng), GROUPS)
    assert torch.equal(onto_family(once, GROUPS), once)


@pytest.mark.parametrize("number", [0, 231])
def test_numbers_that_are_no_space_group(number: int) -> None:
    with pytest.raises(CrystalError, match="1 to 230"):
        family_subspace(torch.tensor([225, number]))
