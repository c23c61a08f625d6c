"""The lattice of joint models along its path."""

from __future__ import annotations

import pytest
import torch

from euhedral.config import parse_config
from euhedral.models.lattice_field import LatticeField, LatticeFieldConfig
from euhedral.models.lattice_maps import WIDEST

LENGTHS = torch.tensor([[0.85, 0.95, 1.25], [0.2, 0.2, 0.3]])


def field_of(target: str) -> LatticeField:
    values = {"representation": "matrix", "path": {"kind": "variance_preserving", "target": target}}
    return LatticeField(parse_config(LatticeFieldConfig, values), lattice=torch.zeros(2, 6), lengths=LENGTHS)


@pytest.mark.parametrize("target", ["noise", "clean"])
def test_a_wrong_prediction_of_the_first_of_few_steps_makes_no_giant_cell(target: str) -> None:
    field, size = field_of(target), 500
    num_atoms = torch.full((size,), 8)
    value = field.prior(num_atoms, rng=torch.Generator().manual_seed(0))
    wrong = 30 * torch.randn(size, 3, 3, generator=torch.Generator().manual_seed(1))
    now, later = torch.zeros(size), torch.full((size,), 0.01)
    found = field.step(value, wrong, now, later, num_atoms, rng=torch.Generator().manual_seed(2))
    longest = 2 * (LENGTHS[0] + WIDEST * LENGTHS[1]).exp()
    # Next to the noise, of which the step leaves and adds at most that of one standard deviation.
    assert bool((found.norm(dim=-1) < longest + 6).all())
    if target == "noise":
        free = field.path.step(value, wrong, now, later, rng=torch.Generator().manual_seed(2))
        assert float(free.norm(dim=-1).median()) > 10 * float(longest.max())


@pytest.mark.parametrize("representation", ["log_symmetric", "tangent", "logit", "cosine"])
def test_standardised_numbers_stay_within_five_standard_deviations(representation: str) -> None:
    values = {"representation": representation, "path": {"kind": "variance_preserving", "deterministic": True}}
    statistics = torch.tensor([[0.0] * 5 + [1.65], [0.1] * 6])
    field = LatticeField(parse_config(LatticeFieldConfig, values), lattice=statistics, lengths=LENGTHS)
    num_atoms, now, last = torch.full((500,), 8), torch.zeros(500), torch.ones(500)
    value = field.prior(num_atoms, rng=torch.Generator().manual_seed(0))
    wrong = 30 * torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    found = field.step(value, wrong, now, last, num_atoms, rng=torch.Generator().manual_seed(2))
    assert float(found.abs().max()) == pytest.approx(WIDEST, abs=0.01)


def test_predictions_of_cells_like_those_of_the_data_are_followed_as_they_are() -> None:
    field, size = field_of("noise"), 50
    num_atoms = torch.full((size,), 8)
    cell = 5 * torch.eye(3).expand(size, 3, 3)
    now, later = torch.full((size,), 0.5), torch.full((size,), 0.6)
    given = field.path.corrupt(cell, now, rng=torch.Generator().manual_seed(0))
    one = field.step(given.noisy, given.target, now, later, num_atoms, rng=torch.Generator().manual_seed(1))
    other = field.path.step(given.noisy, given.target, now, later, rng=torch.Generator().manual_seed(1))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
