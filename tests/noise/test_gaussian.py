"""Diffusion of Euclidean values: schedules, conversions, and samplers on a Gaussian target."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from euhedral.noise.base import NoiseProcess
from euhedral.noise.gaussian import (
    VarianceExploding,
    VarianceExplodingConfig,
    VariancePreserving,
    VariancePreservingConfig,
    exploding_step,
)
from euhedral.testing import noise as contract

MEAN = torch.tensor([0.0, 1.5, -2.0, 4.0], dtype=torch.float64)
STD = torch.tensor([1.0, 0.1, 0.5, 2.0], dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expected_noise(process: VariancePreserving, x: Tensor, t: Tensor) -> Tensor:
    """E[e | x_t] for clean values of N(MEAN, STD²)."""
    a = process.signal(t)[:, None]
    return (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * STD.square() + 1 - a)


def sample(process: VariancePreserving, crystals: int, steps: int, *, deterministic: bool, seed: int = 0) -> Tensor:
    draws = rng(seed)
    x = process.prior((crystals, 4), rng=draws).double()
    for k in range(steps):
        now, later = (torch.full((crystals,), i / steps, dtype=torch.float64) for i in (k, k + 1))
        noise = expected_noise(process, x, now)
        advance = process.deterministic if deterministic else partial(process.reverse, rng=draws)
        x = advance(x, noise, now, later)
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_process_contract(dtype: torch.dtype) -> None:
    process = VariancePreserving()
    assert isinstance(process, NoiseProcess)
    contract.check_noise_process(process, (2 + 3 * torch.randn(500, 6, generator=rng())).to(dtype))
    contract.check_noise_process(process, torch.randn(50, 3, 3, generator=rng()).to(dtype))


def test_schedule_is_the_published_one() -> None:
    process = VariancePreserving()
    # Nichol and Dhariwal's cosine with its betas cut, level by level.
    kept = 1.0
    for k in range(1, 1001):
        angles = [math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for i in (k - 1, k)]
        kept *= 1 - min(max(1 - angles[1] / angles[0], 1e-4), 0.9999)
        if k in (1, 2, 10, 500, 999, 1000):
            found = float(process.signal(torch.tensor([1 - k / 1000], dtype=torch.float64)))
            assert found == pytest.approx(kept, rel=1e-9)


def test_ends_and_order() -> None:
    process = VariancePreserving()
    signal = process.signal(torch.linspace(0, 1, 3001, dtype=torch.float64))
    assert signal[0] < 1e-9
    assert signal[-1] == 1
    assert (signal.diff() > 0).all()
    clean = 5 + torch.randn(4000, 2, generator=rng())
    assert torch.equal(process.corrupt(clean, torch.ones(4000), rng=rng()).noisy, clean)
    start = process.corrupt(clean, torch.zeros(4000), rng=rng(1)).noisy
    assert kstest(start.flatten().numpy(), "norm").pvalue > 1e-3


def test_conversions_are_inverse() -> None:
    process = VariancePreserving()
    clean = 2 + 3 * torch.randn(200, 6, generator=rng(), dtype=torch.float64)
    t = torch.linspace(0.02, 0.98, 200, dtype=torch.float64)
    given = process.corrupt(clean, t, rng=rng(1))
    torch.testing.assert_close(process.clean_from_noise(given.noisy, given.target, t), clean, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(process.noise_from_clean(given.noisy, clean, t), given.target, atol=1e-9, rtol=1e-9)
    score = process.score_from_noise(given.target, t)
    torch.testing.assert_close(process.noise_from_score(score, t), given.target, atol=1e-12, rtol=0)


def test_score_is_that_of_the_marginal() -> None:
    process = VariancePreserving()
    x = torch.randn(30, 4, generator=rng(), dtype=torch.float64).requires_grad_()
    t = torch.linspace(0.1, 0.9, 30, dtype=torch.float64)
    a = process.signal(t)[:, None]
    variance = a * STD.square() + 1 - a
    (exact,) = torch.autograd.grad((-0.5 * (x - a.sqrt() * MEAN).square() / variance).sum(), x)
    found = process.score_from_noise(expected_noise(process, x.detach(), t), t)
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=1e-9)


def test_a_step_of_one_level_is_that_of_ddpm() -> None:
    process = VariancePreserving()
    x, noise = torch.randn(2, 5, 3, generator=rng(), dtype=torch.float64)
    for k in (2, 300, 999):
        now, later = (torch.full((5,), 1 - i / 1000, dtype=torch.float64) for i in (k, k - 1))
        a, b = float(process.signal(now)[0]), float(process.signal(later)[0])
        alpha = a / b
        drawn = torch.randn(5, 3, generator=rng(7), dtype=torch.float64)
        expected = (x - (1 - alpha) / (1 - a) ** 0.5 * noise) / alpha**0.5
        expected = expected + ((1 - b) / (1 - a) * (1 - alpha)) ** 0.5 * drawn
        torch.testing.assert_close(process.reverse(x, noise, now, later, rng=rng(7)), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("deterministic", "steps"), [(False, 1000), (True, 300)])
def test_gaussian_target(deterministic: bool, steps: int) -> None:
    end = sample(VariancePreserving(), 6000, steps, deterministic=deterministic)
    error = STD / 6000**0.5
    # Five standard errors, and the bias of finite steps.
    assert ((end.mean(0) - MEAN).abs() < 5 * error + 0.01).all()
    assert ((end.std(0) / STD - 1).abs() < 0.05).all()
    for column in range(4):
        standard = (end[:, column] - end[:, column].mean()) / end[:, column].std()
        assert kstest(standard.numpy(), "norm").pvalue > 1e-3


def test_long_steps_stay_near_the_target() -> None:
    # The first of 50 steps would multiply an error by thousands if its beta were not bounded.
    end = sample(VariancePreserving(VariancePreservingConfig(largest_beta=0.99)), 4000, 50, deterministic=False)
    assert ((end.mean(0) - MEAN).abs() < 0.15).all()
    # Fewer steps draw too narrow, most where the target is narrow.
    assert ((end.std(0) / STD - 1).abs() < 0.3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contract_of_the_exploding_process(dtype: torch.dtype) -> None:
    process = VarianceExploding()
    assert isinstance(process, NoiseProcess)
    contract.check_noise_process(process, (2 + 3 * torch.randn(500, 6, generator=rng())).to(dtype))


def test_exploding_widths_are_geometric_and_end_at_none() -> None:
    process = VarianceExploding(VarianceExplodingConfig(levels=100, sigma_min=0.01, sigma_max=10.0))
    t = torch.tensor([0.0, 0.99, 0.995, 1.0], dtype=torch.float64)
    assert process.sigma(t).tolist() == pytest.approx([10.0, 0.01, 0.005, 0.0], abs=1e-12)
    ratios = process.sigma(torch.linspace(0, 0.99, 100, dtype=torch.float64)).log().diff()
    assert float(ratios.std()) < 1e-9


def test_noise_score_and_clean_value_are_views_of_one_thing() -> None:
    process, clean = VarianceExploding(), torch.randn(200, 6, generator=rng(), dtype=torch.float64)
    t = torch.linspace(0, 0.99, 200, dtype=torch.float64)
    given = process.corrupt(clean, t, rng=rng(1))
    torch.testing.assert_close(process.clean_from_noise(given.noisy, given.target, t), clean, atol=1e-12, rtol=0)
    torch.testing.assert_close(process.noise_from_clean(given.noisy, clean, t), given.target, atol=1e-9, rtol=0)
    score = process.score_from_noise(given.target, t)
    torch.testing.assert_close(score, (clean - given.noisy) / process.sigma(t)[:, None].square(), rtol=1e-9, atol=0)
    torch.testing.assert_close(process.noise_from_score(score, t), given.target, atol=1e-12, rtol=1e-12)


def test_an_exploding_step_draws_from_the_exact_posterior_of_one_clean_value() -> None:
    """q(x_r | x_s, x) is normal about x + (r / s)^2 (x_s - x) with the variance r^2 (s^2 - r^2) / s^2."""
    now, then, clean = torch.full((40000,), 2.0), torch.full((40000,), 0.7), 0.4
    noisy = torch.full((40000, 1), 3.0)
    drawn = exploding_step(noisy, (clean - noisy) / 4.0, now, then, rng=rng())
    assert float(drawn.mean()) == pytest.approx(clean + 0.35**2 * (3.0 - clean), abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.7 * (4 - 0.49) ** 0.5 / 2, rel=0.02)


def test_the_probability_flow_of_a_normal_distribution_is_its_scaling() -> None:
    process, steps = VarianceExploding(), 2000
    start = process.prior((300, 1), rng=rng()).double()
    value = start
    for k in range(steps):
        now, later = (torch.full((300,), i / steps, dtype=torch.float64) for i in (k, k + 1))
        sigma = process.sigma(now)[:, None]
        value = process.deterministic(value, sigma * (value - 1.5) / (sigma.square() + 0.25), now, later)
    exact = 1.5 + (start - 1.5) * 0.5 / (0.25 + 100.0) ** 0.5
    torch.testing.assert_close(value, exact, atol=5e-3, rtol=0)
