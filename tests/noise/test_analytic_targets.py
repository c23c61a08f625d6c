"""Integrating the exact marginal velocity with the processes' own steps gives back the target distribution."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import kstest, norm
from torch import Tensor

from euhedral.crystal.geometry import wrap_centered
from euhedral.noise.base import FlowProcess
from euhedral.noise.gaussian_flow import GaussianFlow
from euhedral.noise.torus import TorusFlow

# Crystals of two atoms: without its mean, the flow acts on the difference r = f_2 - f_1 alone. Both displacements
# are uniform in [-1/2, 1/2), so that the path of r is r_t = r_1 - (1 - t) d, where d has the triangular density
# on (-1, 1) and does not depend on r_1. The velocity of the two atoms is -d/2 and d/2.


def triangle(d: Tensor) -> Tensor:
    return (1 - d.abs()).clamp_min(0)


def velocity_to_point(r: Tensor, t: Tensor, point: Tensor) -> Tensor:
    """E[d | r_t = r] for the target r_1 = point, a sum over the images that d may have come from."""
    images = torch.arange(-2, 3, dtype=r.dtype)
    d = (point - r)[..., None] + images
    d = d / (1 - t)
    weight = triangle(d)
    return (weight * d).sum(-1) / weight.sum(-1).clamp_min(1e-12)


def wrapped_normal(r: Tensor, mean: float, std: float) -> Tensor:
    images = torch.arange(-2, 3, dtype=r.dtype)
    return torch.exp(-0.5 * ((r - mean)[..., None] + images).square() / std**2).sum(-1)


def velocity_to_wrapped_normal(r: Tensor, t: Tensor, mean: float, std: float, points: int = 401) -> Tensor:
    """E[d | r_t = r] for r_1 ~ wrapped N(mean, std²), by quadrature over d; on a grid of r, then interpolated."""
    d = torch.linspace(-1, 1, points, dtype=r.dtype)
    grid = torch.linspace(0, 1, 97, dtype=r.dtype)
    weight = triangle(d) * wrapped_normal(grid[:, None] + (1 - t) * d, mean, std)
    value = (weight * d).sum(-1) / weight.sum(-1)
    place = (r % 1) * 96
    left = place.floor().long().clamp(0, 95)
    return torch.lerp(value[left], value[left + 1], place - left)


def integrate(
    process: FlowProcess, value: Tensor, velocity: Callable[[Tensor, Tensor], Tensor], steps: int, *, power: float = 1.0
) -> Tensor:
    times = 1 - (1 - torch.linspace(0, 1, steps + 1, dtype=torch.float64)) ** power
    for now, then in itertools.pairwise(times):
        value = process.advance(value, velocity(value, now), (then - now).expand(len(value)))
    return value


def pair_velocity(velocity: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Velocity of both atoms from that of their difference."""

    def of_atoms(value: Tensor, t: Tensor) -> Tensor:
        d = velocity(value[:, 1] - value[:, 0], t)
        return torch.stack([-d / 2, d / 2], 1)

    return of_atoms


def start(crystals: int, seed: int) -> Tensor:
    return TorusFlow().prior((crystals, 2, 3), rng=torch.Generator().manual_seed(seed)).double()


def test_point_mass_on_the_torus() -> None:
    point = torch.tensor([0.1, 0.5, 0.93], dtype=torch.float64)
    velocity = pair_velocity(lambda r, t: velocity_to_point(r, t, point))
    end = integrate(TorusFlow(), start(2000, 0), velocity, 50)
    gap = wrap_centered(end[:, 1] - end[:, 0] - point).abs()
    # Straight at the end, so that Euler steps arrive; but for the few that start a hair from the ridge at r + 1/2.
    assert (gap.amax(1) < 1e-9).double().mean() > 0.99
    assert gap.max() < 0.05


def test_point_mass_needs_the_images() -> None:
    # At t = 0 all directions are alike: the exact velocity is zero, which one image alone would not give.
    r = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    zero = velocity_to_point(r, torch.zeros((), dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))
    torch.testing.assert_close(zero, torch.zeros_like(zero), atol=1e-12, rtol=0)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.7, 0.95])
def test_mean_of_the_torus_target_is_the_exact_velocity(t: float) -> None:
    # What a network that minimises the squared error learns: the mean target where the noisy values agree.
    mean, std, crystals = 0.2, 0.08, 60000
    rng = torch.Generator().manual_seed(7)
    first = torch.rand(crystals, 1, 3, generator=rng, dtype=torch.float64)
    apart = mean + std * torch.randn(crystals, 1, 3, generator=rng, dtype=torch.float64)
    given = TorusFlow().corrupt(
        torch.cat([first, first + apart], 1) % 1, torch.full((crystals,), t, dtype=torch.float64), rng=rng
    )
    r = ((given.noisy[:, 1] - given.noisy[:, 0]) % 1).flatten()
    d = (given.target[:, 1] - given.target[:, 0]).flatten()
    exact = velocity_to_wrapped_normal(r, torch.tensor(t, dtype=torch.float64), mean, std)
    bins = (r * 40).long()
    counts = torch.bincount(bins, minlength=40)
    error = torch.zeros(40, dtype=torch.float64).index_add_(0, bins, d - exact) / counts
    spread = torch.zeros(40, dtype=torch.float64).index_add_(0, bins, (d - exact).square()) / counts
    filled = counts > 200
    assert filled.sum() > 10
    assert (error[filled].abs() < 4.5 * (spread / counts).sqrt()[filled] + 2e-3).all()


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.05), (0.97, 0.12)])
def test_wrapped_gaussian_on_the_torus(mean: float, std: float) -> None:
    velocity = pair_velocity(lambda r, t: velocity_to_wrapped_normal(r, t, mean, std))
    end = integrate(TorusFlow(), start(2000, 1), velocity, 120, power=1.5)
    r = (end[:, 1] - end[:, 0]).flatten()
    # Circular moments of the wrapped normal: E[exp(2 pi i k r)] = exp(2 pi i k mean - 2 (pi k std)²).
    for k in (1, 2):
        moment = torch.exp(2j * math.pi * k * (r - mean)).mean()
        assert abs(float(moment.real) - math.exp(-2 * (math.pi * k * std) ** 2)) < 0.02
        assert abs(float(moment.imag)) < 0.03
    assert kstest(wrap_centered(r - mean).numpy(), norm(scale=std).cdf).pvalue > 1e-3
    # The origin is free: the first atom stays uniform.
    assert kstest(end[:, 0].flatten().numpy(), "uniform").pvalue > 1e-3


def gaussian_velocity(x: Tensor, t: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """E[x_1 - x_0 | x_t = x] for x_1 ~ N(mean, std²)."""
    variance = (1 - t) ** 2 + (t * std) ** 2
    return mean + (t * std**2 - (1 - t)) / variance * (x - t * mean)


MEAN = torch.tensor([0.0, 1.5, -2.0, 0.3, 4.0, -1.0], dtype=torch.float64)
STD = torch.tensor([1.0, 0.1, 0.5, 2.0, 0.02, 3.0], dtype=torch.float64)


def test_gaussian_under_gaussian_flow() -> None:
    x = GaussianFlow().prior((1500, 6), rng=torch.Generator().manual_seed(0)).double()
    end = integrate(GaussianFlow(), x, lambda x, t: gaussian_velocity(x, t, MEAN, STD), 800, power=2.0)
    # The flow map is known in closed form: affine, with the moments of the target.
    torch.testing.assert_close(end, MEAN + STD * x, atol=0.05, rtol=0)
    torch.testing.assert_close(end.mean(0), MEAN + STD * x.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(end.std(0), STD * x.std(0), atol=0.01, rtol=0.01)
    for column in range(6):
        standard = ((end[:, column] - MEAN[column]) / STD[column]).numpy()
        assert kstest(standard, "norm").pvalue > 1e-3


def test_gaussian_flow_in_euler_steps_converges_at_first_order() -> None:
    x = GaussianFlow().prior((200, 6), rng=torch.Generator().manual_seed(0)).double()

    def error(steps: int) -> float:
        end = integrate(GaussianFlow(), x, lambda x, t: gaussian_velocity(x, t, MEAN, STD), steps)
        return float((end - MEAN - STD * x).abs().max())

    errors = [error(200), error(400)]
    assert 1.7 < errors[0] / errors[1] < 2.3


@pytest.mark.parametrize("t", [0.0, 0.4, 0.9])
def test_gaussian_score_is_that_of_the_marginal(t: float) -> None:
    time = torch.tensor(t, dtype=torch.float64)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    variance = (1 - time) ** 2 + (time * STD) ** 2
    (exact,) = torch.autograd.grad((-0.5 * (x - time * MEAN).square() / variance).sum(), x)
    velocity = gaussian_velocity(x.detach(), time, MEAN, STD)
    score = GaussianFlow().score_from_velocity(x.detach(), velocity, time.expand(50))
    torch.testing.assert_close(score, exact, atol=1e-9, rtol=1e-9)


def test_mean_of_the_gaussian_target_is_the_exact_velocity() -> None:
    rng = torch.Generator().manual_seed(4)
    clean = MEAN + STD * torch.randn(50000, 6, generator=rng, dtype=torch.float64)
    t = torch.full((50000,), 0.6, dtype=torch.float64)
    given = GaussianFlow().corrupt(clean, t, rng=rng)
    residual = given.target - gaussian_velocity(given.noisy, t[0], MEAN, STD)
    # Residuals of a regression: no mean, and no correlation with the noisy value.
    scale = residual.std(0) / 50000**0.5
    assert (residual.mean(0).abs() < 4.5 * scale).all()
    centred = given.noisy - given.noisy.mean(0)
    slope = (residual * centred).mean(0) / centred.std(0)
    assert (slope.abs() < 4.5 * scale).all()
