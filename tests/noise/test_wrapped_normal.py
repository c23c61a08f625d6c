"""The wrapped normal: its score against its density, and predictor and corrector on wrapped-normal targets."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest, norm
from torch import Tensor

from euhedral.crystal.geometry import wrap_centered
from euhedral.noise.base import NoiseProcess
from euhedral.noise.wrapped_normal import (
    WrappedNormal,
    WrappedNormalConfig,
    scaled_score,
    score_moments,
    wrapped_density,
)
from euhedral.testing import noise as contract


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def circular_moments(x: Tensor, mean: float) -> list[complex]:
    return [complex(torch.exp(2j * math.pi * k * (x - mean)).mean()) for k in (1, 2)]


def exact_moments(std: float) -> list[float]:
    return [math.exp(-2 * (math.pi * k * std) ** 2) for k in (1, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_process_contract(dtype: torch.dtype) -> None:
    process = WrappedNormal()
    assert isinstance(process, NoiseProcess)
    clean = torch.rand(300, 5, 3, generator=rng(), dtype=torch.float64).to(dtype)
    contract.check_noise_process(process, clean)


@pytest.mark.parametrize("sigma", [0.005, 0.05, 0.2, 0.5, 1.0])
def test_score_is_the_derivative_of_the_density(sigma: float) -> None:
    d = torch.linspace(-1.3, 1.7, 301, dtype=torch.float64)
    if sigma < 0.02:  # where two images weigh alike, the density is too small to be told from zero
        d = d[(wrap_centered(d).abs() < 0.4)]
    d = d.requires_grad_()
    width = torch.tensor(sigma, dtype=torch.float64)
    if sigma > 0.02:
        (exact,) = torch.autograd.grad(wrapped_density(d, width).log().sum(), d)
    else:  # only the nearest image counts
        exact = -wrap_centered(d.detach()) / sigma**2
    found = scaled_score(d.detach(), width) / sigma
    torch.testing.assert_close(found, exact, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("sigma", [0.03, 0.3, 0.8])
def test_density_has_mass_one(sigma: float) -> None:
    grid = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    mass = wrapped_density(grid, torch.tensor(sigma, dtype=torch.float64)).mean()
    assert float(mass) == pytest.approx(1, abs=1e-9)


def test_scale_makes_targets_of_mean_square_one() -> None:
    process = WrappedNormal()
    clean = torch.rand(4000, 5, 3, generator=rng(), dtype=torch.float64)
    for t in (0.0, 0.1, 0.3, 0.6, 0.999):
        given = process.corrupt(clean, torch.full((4000,), t, dtype=torch.float64), rng=rng(1))
        assert float(given.target.square().mean()) == pytest.approx(1, abs=0.03)


def test_flat_moments_join_the_numerical_ones() -> None:
    below, above = score_moments(torch.tensor([0.5999999, 0.6000001], dtype=torch.float64)).tolist()
    assert below == pytest.approx(above, rel=2e-5)


def test_target_is_the_scaled_score_of_the_noisy_value() -> None:
    process = WrappedNormal()
    clean = torch.rand(60, 4, 3, generator=rng(), dtype=torch.float64)
    t = torch.linspace(0, 0.999, 60, dtype=torch.float64)
    given = process.corrupt(clean, t, rng=rng(2))
    score = process.score(given.noisy, clean, t)
    torch.testing.assert_close(process.target_from_score(score, t), given.target, atol=1e-7, rtol=0)
    torch.testing.assert_close(process.score_from_target(given.target, t), score, atol=0, rtol=1e-6)


def test_widths_and_ends() -> None:
    process = WrappedNormal(WrappedNormalConfig(levels=100, sigma_min=0.01, sigma_max=0.4))
    t = 1 - torch.tensor([100.0, 50.5, 1.0, 0.5, 0.0], dtype=torch.float64) / 100
    expected = torch.tensor([0.4, (0.4 * 0.01) ** 0.5, 0.01, 0.005, 0.0], dtype=torch.float64)
    torch.testing.assert_close(process.sigma(t), expected, atol=1e-9, rtol=0)
    clean = torch.rand(2000, 2, 3, generator=rng()) ** 3
    end = process.corrupt(clean, torch.ones(2000), rng=rng(8))
    torch.testing.assert_close(end.noisy, clean, atol=0, rtol=0)
    torch.testing.assert_close(end.target.std(), torch.tensor(1.0), atol=0.03, rtol=0)
    start = WrappedNormal().corrupt(clean, torch.zeros(2000), rng=rng(9)).noisy
    # All but uniform: the first harmonic of a width of one half is 0.007.
    assert all(abs(m) < 0.007 + 0.02 for m in circular_moments(start.flatten(), 0.0))


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_corrector_alone_draws_from_the_noisy_marginal(sigma: float) -> None:
    process = WrappedNormal()
    level = 1 + 999 * math.log(sigma / 0.005) / math.log(100)
    t = torch.full((800,), 1 - level / 1000, dtype=torch.float64)
    clean = torch.full((800, 2, 3), 0.9, dtype=torch.float64)
    x, draws = clean.clone(), rng(3)
    # In units of sigma_min², so that each step moves by a seventh of the width.
    for _ in range(500):
        x = process.correct(x, process.score(x, clean, t), t, step=0.01 * 0.005**2, rng=draws)
    for found, exact in zip(circular_moments(x.flatten(), 0.9), exact_moments(sigma), strict=True):
        assert abs(found - exact) < 0.04
    moved = process.correct(x, process.score(x, clean, t), t, step=1e-7, rng=None)
    torch.testing.assert_close(
        moved, process.correct(x, process.score(x, clean, t), t, step=1e-7, rng=None), atol=0, rtol=0
    )


@pytest.mark.parametrize(("mean", "std", "corrector"), [(0.3, 0.05, 0.0), (0.97, 0.12, 1e-5), (0.5, 0.02, 1e-5)])
def test_predictor_and_corrector_on_a_wrapped_normal(mean: float, std: float, corrector: float) -> None:
    process, draws, steps = WrappedNormal(), rng(5), 400
    x = process.prior((700, 2, 3), rng=draws).double()

    def score(x: Tensor, t: Tensor) -> Tensor:
        width = (process.sigma(t).square() + std**2).sqrt()[:, None, None]
        return scaled_score(x - mean, width) / width

    for k in range(steps):
        now, later = (torch.full((700,), i / steps, dtype=torch.float64) for i in (k, k + 1))
        if corrector:
            x = process.correct(x, score(x, now), now, step=corrector, rng=None if k + 1 == steps else draws)
        x = process.reverse(x, score(x, now), now, later, rng=draws)
    assert x.min() >= 0
    assert x.max() < 1
    for found, exact in zip(circular_moments(x.flatten(), mean), exact_moments(std), strict=True):
        assert abs(found - exact) < 0.03
    assert kstest(wrap_centered(x - mean).flatten().numpy(), norm(scale=std).cdf).pvalue > 1e-4
