"""Flow on the simplex: contract, straight paths, and corners drawn as often as they should be."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from euhedral.noise.base import FlowProcess, expand_time
from euhedral.noise.simplex import SimplexFlow
from euhedral.testing import noise as contract

CHANCES = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corners(crystals: int, atoms: int) -> Tensor:
    drawn = torch.multinomial(CHANCES, crystals * atoms, replacement=True, generator=rng(9))
    return functional.one_hot(drawn, 4).double().view(crystals, atoms, 4)


def test_the_contract_of_flows() -> None:
    process, clean = SimplexFlow(), corners(2000, 3)
    assert isinstance(process, FlowProcess)
    contract.check_noise_process(process, clean)
    contract.check_ends(process, clean, contract.euclidean_difference)
    contract.check_flow_process(process, clean, contract.euclidean_difference)
    contract.check_arrives(process, clean, contract.euclidean_difference)


def test_points_stay_on_the_simplex_and_begin_evenly_spread() -> None:
    process, clean = SimplexFlow(), corners(5000, 2)
    for time in (0.0, 0.4, 0.99):
        noisy = process.corrupt(clean, torch.full((5000,), time, dtype=torch.float64), rng=rng()).noisy
        assert float(noisy.min()) >= 0
        torch.testing.assert_close(noisy.sum(-1), torch.ones(5000, 2, dtype=torch.float64), atol=1e-12, rtol=0)
    prior = process.prior((20000, 4), rng=rng())
    # Dirichlet(1, 1, 1, 1): mean 1/4, variance 3/80, covariance -1/80.
    torch.testing.assert_close(prior.mean(0), torch.full((4,), 0.25), atol=5e-3, rtol=0)
    exact = (torch.eye(4) * 4 - 1) / 80
    torch.testing.assert_close(torch.cov(prior.T), exact, atol=1e-3, rtol=0)


def test_exact_probabilities_lead_to_corners_as_often_as_they_occur() -> None:
    """x_t may come from corner c where x_0 = (x_t - t c) / (1 - t) has no negative part, and x_0 is uniform."""
    process, size, steps = SimplexFlow(), 20000, 200
    value = process.prior((size, 1, 4), rng=rng()).double()
    for step in range(steps):
        now = torch.full((size,), step / steps, dtype=torch.float64)
        # An Euler step may end a little outside of every corner's part: the nearest is meant.
        weight = CHANCES * ((value >= expand_time(now, value)) | (value == value.amax(-1, keepdim=True)))
        velocity = process.velocity_from_clean(value, weight / weight.sum(-1, keepdim=True), now)
        value = process.advance(value, velocity, torch.full((size,), 1 / steps, dtype=torch.float64))
    assert float(value.amax(-1).min()) > 0.9
    found = functional.one_hot(value.argmax(-1)[:, 0], 4).double().mean(0)
    torch.testing.assert_close(found, CHANCES, atol=0.015, rtol=0)
