"""Paths with an exact network: sampling gives the data back, in distribution; targets and ends are what they should be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from euhedral.crystal.geometry import wrap_centered
from euhedral.noise.base import expand_time
from euhedral.noise.bayesian import GaussianBayesian, GaussianBayesianConfig, TorusBayesian, TorusBayesianConfig
from euhedral.noise.codes import AnalogBits, OneHot
from euhedral.noise.diffusion_paths import (
    VarianceExplodingPath,
    VarianceExplodingPathConfig,
    VariancePreservingPath,
    VariancePreservingPathConfig,
    WrappedNormalPath,
    WrappedNormalPathConfig,
)
from euhedral.noise.edm import EDM, EDMConfig, TorusEDM, TorusEDMConfig
from euhedral.noise.flow_paths import (
    GaussianFlowPath,
    GaussianFlowPathConfig,
    TorusFlowPath,
    TorusFlowPathConfig,
    annealed,
)
from euhedral.noise.gaussian import VarianceExplodingConfig, VariancePreservingConfig
from euhedral.noise.interpolant import Interpolant, InterpolantConfig, TorusInterpolant, TorusInterpolantConfig
from euhedral.noise.kinetic import TURN, KineticConfig, KineticPath
from euhedral.noise.path import Derived, Path
from euhedral.noise.torus import without_mean
from euhedral.noise.wrapped_normal import WrappedNormalConfig, scaled_score

MEAN, STD = 0.7, 0.6


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def posterior(value: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """E[x | a x + b e] for x ~ N(MEAN, STD²)."""
    return MEAN + STD**2 * a * (value - a * MEAN) / (a.square() * STD**2 + b.square())


def of_diffusion(path: VariancePreservingPath, value: Tensor, t: Tensor) -> Tensor:
    signal = expand_time(path.process.signal(t), value)
    a, b = signal.sqrt(), (1 - signal).sqrt()
    clean = posterior(value, a, b)
    return clean if path.config.target == "clean" else (value - a * clean) / b


def of_explosion(path: VarianceExplodingPath, value: Tensor, t: Tensor) -> Tensor:
    sigma = expand_time(path.process.sigma(t), value)
    return (value - posterior(value, torch.ones_like(sigma), sigma)) / sigma


def of_flow(path: GaussianFlowPath, value: Tensor, t: Tensor) -> Tensor:
    time = expand_time(t, value)
    return (posterior(value, time, 1 - time) - value) / (1 - time)


def of_edm(path: EDM, value: Tensor, t: Tensor) -> Tensor:
    sigma = expand_time(path.sigma(t), value)
    total = sigma.square() + path.config.sigma_data**2
    clean = posterior(value, torch.ones_like(sigma), sigma)
    return (clean - path.config.sigma_data**2 / total * value) / (sigma * path.config.sigma_data / total.sqrt())


def of_belief(path: GaussianBayesian, value: Tensor, t: Tensor) -> Tensor:
    left = expand_time(path.variance(t), value)
    clean = posterior(value, 1 - left, (left * (1 - left)).sqrt().clamp_min(1e-9))
    return (clean - value) / left.sqrt()


def of_interpolant(path: Interpolant, value: Tensor, t: Tensor) -> Tensor:
    time = expand_time(t, value)
    (a, b), (da, db) = path.coefficients(time)
    g, slope = path.latent(time)
    total = a.square() + b.square() * STD**2 + g.square()
    apart = (value - b * MEAN) / total
    start, clean, latent = a * apart, MEAN + b * STD**2 * apart, g * apart
    velocity = da * start + db * clean + (slope * latent if path.config.latent else 0)
    return torch.cat([velocity, latent], -1) if path.config.latent else velocity


WIDE = VarianceExplodingConfig(sigma_max=20.0)
LINEAR = VariancePreservingConfig(schedule="linear")
EUCLIDEAN = {
    "ddpm": (VariancePreservingPath(VariancePreservingPathConfig()), of_diffusion),
    "ddim": (VariancePreservingPath(VariancePreservingPathConfig(deterministic=True)), of_diffusion),
    "clean": (VariancePreservingPath(VariancePreservingPathConfig(target="clean", schedule=LINEAR)), of_diffusion),
    "corrected": (VariancePreservingPath(VariancePreservingPathConfig(corrector_ratio=0.1)), of_diffusion),
    "exploding": (VarianceExplodingPath(VarianceExplodingPathConfig(widths=WIDE)), of_explosion),
    "probability flow": (
        VarianceExplodingPath(VarianceExplodingPathConfig(widths=WIDE, deterministic=True)),
        of_explosion,
    ),
    "exploding, corrected": (
        VarianceExplodingPath(VarianceExplodingPathConfig(widths=WIDE, corrector_ratio=0.1)),
        of_explosion,
    ),
    "flow": (GaussianFlowPath(GaussianFlowPathConfig()), of_flow),
    "edm": (EDM(EDMConfig(sigma_max=20.0)), of_edm),
    "bayesian": (GaussianBayesian(GaussianBayesianConfig(sigma=0.01)), of_belief),
    "interpolant": (Interpolant(InterpolantConfig()), of_interpolant),
    "trigonometric": (Interpolant(InterpolantConfig(schedule="trigonometric")), of_interpolant),
    "score based": (Interpolant(InterpolantConfig(schedule="score_based")), of_interpolant),
    "latent": (Interpolant(InterpolantConfig(latent=0.2)), of_interpolant),
    "encoder and decoder": (Interpolant(InterpolantConfig(schedule="encoder_decoder", latent=1.0)), of_interpolant),
    "stochastic": (Interpolant(InterpolantConfig(latent=0.2, noise=2.0)), of_interpolant),
}


def drawn(path: Path, exact: Callable[[Path, Tensor, Tensor], Tensor], shape: tuple[int, ...], steps: int) -> Tensor:
    source, size = rng(5), shape[0]
    value = path.prior(shape, rng=source).double()
    for step in range(steps):
        now = torch.full((size,), step / steps, dtype=torch.float64)
        later = torch.full((size,), (step + 1) / steps, dtype=torch.float64)
        if path.corrected:
            value = path.correct(value, exact(path, value, now), now, rng=source if step + 1 < steps else None)
        value = path.step(value, exact(path, value, now), now, later, rng=source)
    return path.clean(value)


@pytest.mark.parametrize("name", EUCLIDEAN)
def test_a_normal_distribution_is_sampled(name: str) -> None:
    path, exact = EUCLIDEAN[name]
    found = drawn(path, exact, (2000, 4), 200)  # type: ignore[arg-type]
    assert abs(float(found.mean()) - MEAN) < 0.04
    assert abs(float(found.std()) - STD) < 0.04


@pytest.mark.parametrize("name", EUCLIDEAN)
def test_the_exact_network_has_the_least_error(name: str) -> None:
    path, exact = EUCLIDEAN[name]
    clean = MEAN + STD * torch.randn(20000, 1, generator=rng(1), dtype=torch.float64)
    t = torch.full((20000,), 0.4, dtype=torch.float64)
    given = path.corrupt(clean, t, rng=rng(2))
    guess = exact(path, given.noisy, t)  # type: ignore[arg-type]
    # What is left of the target has no mean and knows nothing of the noisy value.
    rest = given.target - guess
    scale = float(given.target.std())
    for part in rest.unbind(-1):
        assert abs(float(part.mean())) < 0.04 * scale
        assert abs(float(torch.corrcoef(torch.stack([part, given.noisy[:, 0]]))[0, 1])) < 0.03


# Crystals of two atoms whose difference is known, anywhere: the difference is what samplers must give.
APART = torch.tensor([0.1, 0.47, 0.8], dtype=torch.float64)
CLEAN = torch.stack([torch.zeros(3, dtype=torch.float64), APART])


def nearest(value: Tensor) -> Tensor:
    """The way of both atoms to the nearest crystal, without its mean."""
    rest = wrap_centered(APART - (value[:, 1] - value[:, 0]))
    return torch.stack([-rest / 2, rest / 2], 1)


def of_kinetic(path: KineticPath, value: Tensor, t: Tensor) -> Tensor:
    s = path.config.horizon * (1 - t)
    spread = expand_time(path.spread(s), value)
    carried = expand_time(path.carried(s), value) * value[..., 3:]
    rest = TURN * (value[:, 1, :3] - value[:, 0, :3] - APART) - (carried[:, 1] - carried[:, 0])
    images = torch.arange(-8, 9, dtype=torch.float64)
    turned = (wrap_centered(rest / TURN)[..., None] + images) * TURN / 2
    weight = torch.softmax(-turned.square() / spread[..., None].squeeze(1).square(), -1)
    width = (spread / TURN).squeeze(1)[..., None].expand_as(turned)
    moment = expand_time(path._moment(s), value).squeeze(1)[..., None]
    one = (weight * -scaled_score(turned / TURN, width) / moment).sum(-1)
    return torch.stack([-one, one], 1)


def of_torus_edm(path: TorusEDM, value: Tensor, t: Tensor) -> Tensor:
    return nearest(value) / path._reach(expand_time(path.sigma(t), value))


def of_torus_belief(path: TorusBayesian, value: Tensor, t: Tensor) -> Tensor:
    return nearest(value[..., :3]) / expand_time(path._reach(t), value)


def of_torus_flow(path: TorusFlowPath, value: Tensor, t: Tensor) -> Tensor:
    return nearest(value) / (1 - expand_time(t, value))


def of_wrapped_normal(path: WrappedNormalPath, value: Tensor, t: Tensor) -> Tensor:
    process = path.process_for(2)
    # The difference of two atoms has twice the variance of each.
    width = 2**0.5 * expand_time(process.sigma(t), value)[:, 0]
    score = scaled_score(value[:, 1] - value[:, 0] - APART, width) / width
    return process.target_from_score(torch.stack([-score, score], 1), t)


PUBLISHED = WrappedNormalPathConfig(
    widths=WrappedNormalConfig(sigma_min=0.01, sigma_max=5.0), corrector_ratio=0.4, narrowed=True
)
TORUS = {
    "wrapped normal": (WrappedNormalPath(WrappedNormalPathConfig()), of_wrapped_normal, 0.01),
    "narrowed wrapped normal": (WrappedNormalPath(PUBLISHED), of_wrapped_normal, 0.02),
    "kinetic": (KineticPath(KineticConfig()), of_kinetic, 0.02),
    "edm": (TorusEDM(TorusEDMConfig()), of_torus_edm, 1e-3),
    "bayesian": (TorusBayesian(TorusBayesianConfig()), of_torus_belief, 0.04),
    "bayesian, end-back": (TorusBayesian(TorusBayesianConfig(end_back=True)), of_torus_belief, 0.01),
    "flow": (TorusFlowPath(TorusFlowPathConfig()), of_torus_flow, 1e-6),
    "annealed flow": (TorusFlowPath(TorusFlowPathConfig(annealing=10.0)), of_torus_flow, 1e-6),
    "interpolant": (TorusInterpolant(TorusInterpolantConfig()), of_torus_flow, 1e-6),
}


@pytest.mark.parametrize("name", TORUS)
def test_a_crystal_of_two_atoms_is_sampled(name: str) -> None:
    path, exact, tolerance = TORUS[name]
    found = drawn(path, exact, (300, 2, 3), 100)  # type: ignore[arg-type]
    rest = wrap_centered(found[:, 1] - found[:, 0] - APART)
    assert float(rest.square().mean().sqrt()) < tolerance
    assert bool(((found >= 0) & (found < 1)).all())


@pytest.mark.parametrize("name", TORUS)
def test_torus_targets_have_no_mean_and_size_one_where_they_are_scaled(name: str) -> None:
    path, _, _ = TORUS[name]
    clean = torch.rand(4000, 5, 3, generator=rng(), dtype=torch.float64)
    for time in (0.05, 0.5, 0.9):
        given = path.corrupt(clean, torch.full((4000,), time, dtype=torch.float64), rng=rng(1))
        torch.testing.assert_close(given.target.mean(1), torch.zeros(4000, 3, dtype=torch.float64), atol=1e-9, rtol=0)
        if name in ("kinetic", "edm", "bayesian"):
            # A mean over five atoms takes a fifth of the variance away.
            assert 0.6 < float(given.target.square().mean()) < 1.1, time


@pytest.mark.parametrize("name", EUCLIDEAN)
def test_a_true_target_aims_at_the_data(name: str) -> None:
    path = EUCLIDEAN[name][0]
    assert path.aims == (path.vectors == 1)
    clean, time = torch.randn(40, 6, generator=rng(), dtype=torch.float64), torch.linspace(0.05, 0.95, 40).double()
    given = path.corrupt(clean, time, rng=rng(1))
    if not path.aims:
        with pytest.raises(NotImplementedError, match="does not tell"):
            super(Interpolant, path).aim(given.noisy, time)
        return
    base, reach = path.aim(given.noisy, time)
    torch.testing.assert_close(base + reach * given.target, clean, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", TORUS)
def test_a_true_target_aims_at_the_crystal(name: str) -> None:
    path = TORUS[name][0]
    if not path.aims:
        assert name == "kinetic"
        return
    clean = torch.rand(40, 5, 3, generator=rng(), dtype=torch.float64)
    time = torch.linspace(0.7, 0.95, 40).double()
    given = path.corrupt(clean, time, rng=rng(1), start=torch.rand(40, 5, 3, generator=rng(2), dtype=torch.float64))
    base, reach = path.aim(given.noisy, time)
    away = wrap_centered(base + reach * given.target - clean)
    apart = wrap_centered(away - away[:, :1])
    # A wide wrapped normal has other images in sight, where Tweedie's formula means their mean.
    near = apart.abs().amax((1, 2)) < 1e-5
    assert float(near.double().mean()) > (0.5 if "wrapped normal" in name else 0.97)


@pytest.mark.parametrize(
    "path",
    [
        VariancePreservingPath(VariancePreservingPathConfig(target="noise")),
        VariancePreservingPath(VariancePreservingPathConfig(target="clean")),
        VarianceExplodingPath(VarianceExplodingPathConfig()),
    ],
)
def test_a_prediction_within_bounds_means_the_bounded_clean_value(path: Path) -> None:
    value, t = torch.randn(50, 6, generator=rng(), dtype=torch.float64), torch.linspace(0, 0.9, 50).double()
    wrong = 20 * torch.randn(50, 6, generator=rng(1), dtype=torch.float64)
    within = path.within(value, wrong, t, lambda clean: clean.clamp(-1, 1))
    base, reach = path.aim(value, t)
    torch.testing.assert_close(base + reach * within, (base + reach * wrong).clamp(-1, 1), atol=1e-9, rtol=1e-9)


def test_end_back_draws_the_belief_of_training_anew_and_ends_at_the_prediction() -> None:
    path = GaussianBayesian(GaussianBayesianConfig(sigma=0.05, end_back=True))
    value, later = torch.full((20000, 1), 9.0), torch.full((20000,), 0.3)
    predicted, before = 0.7, torch.full((20000,), 0.2)
    guess = (predicted - value) / path.variance(before)[:, None].sqrt()
    found = path.step(value, guess, before, later, rng=rng())
    wanted = path.corrupt(torch.full_like(value, predicted), later, rng=rng(1)).noisy
    torch.testing.assert_close(found.mean(), wanted.mean(), atol=0.01, rtol=0)
    torch.testing.assert_close(found.std(), wanted.std(), atol=0.01, rtol=0)
    last = path.step(value, guess, before, torch.ones(20000), rng=rng())
    torch.testing.assert_close(last, torch.full_like(value, predicted), atol=1e-5, rtol=0)


@pytest.mark.parametrize("concentration", [10.0, 1000.0])
def test_evidence_has_the_moments_of_von_mises_measurements(concentration: float) -> None:
    path = TorusBayesian(TorusBayesianConfig(concentration=concentration, levels=200))
    table = path._moments.numpy()
    import numpy as np

    from euhedral.noise.bayesian import _accuracies, _entropy_schedule

    accuracy = _accuracies(np.diff(_entropy_schedule(concentration, 200)))
    draws = np.random.default_rng(0).vonmises(0.0, accuracy, size=(4000, 200))
    along, across = (accuracy * np.cos(draws)).sum(1), (accuracy * np.sin(draws)).sum(1)
    assert abs(along.mean() - table[0, -1]) < 0.02 * table[0, -1]
    assert abs(along.std() - table[1, -1] ** 0.5) < 0.05 * along.std()
    assert abs(across.std() - table[2, -1] ** 0.5) < 0.05 * across.std()
    assert table[0, -1] == pytest.approx(concentration, rel=1e-6)


def test_a_wide_wrapped_normal_has_a_target_of_size_one() -> None:
    widths = WrappedNormalConfig(sigma_max=5.0)
    path = WrappedNormalPath(WrappedNormalPathConfig(widths=widths, narrowed=True))
    clean = torch.rand(4000, 5, 3, generator=rng())
    for time in (0.0, 0.1, 0.5, 0.9):
        given = path.corrupt(clean, torch.full((4000,), time), rng=rng(1))
        assert 0.75 < float(given.target.square().mean()) < 0.85


def test_narrowed_widths_are_those_of_the_cube_root() -> None:
    config = WrappedNormalPathConfig(widths=WrappedNormalConfig(sigma_max=5.0), narrowed=True)
    path, t = WrappedNormalPath(config), torch.tensor([0.0, 0.4, 0.7, 0.95, 0.9995, 1.0], dtype=torch.float64)
    for count in (1, 8, 20):
        clean = torch.zeros(6, count, 3).expand(6, count, 3)
        noisy = path.corrupt(clean.repeat(2000, 1, 1), t.repeat(2000), rng=rng()).noisy.view(2000, 6, -1)
        width = path.process.sigma(t) / count ** (1 / 3)
        narrow = width < 0.1  # wider ones wrap
        spread = wrap_centered(noisy).square().mean((0, 2)).sqrt().double()
        torch.testing.assert_close(spread[narrow], width[narrow], rtol=0.05, atol=1e-9)
        assert int(narrow.sum()) >= 3


@pytest.mark.parametrize("path", [EDM(EDMConfig()), TorusEDM(TorusEDMConfig())])
def test_times_and_widths_are_inverse(path: EDM) -> None:
    t = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    torch.testing.assert_close(path.time(path.sigma(t)), t, atol=1e-9, rtol=0)
    assert float(path.sigma(torch.ones(1))) == 0
    widths = path.sigma(path.draw_time(20000, rng=rng())).log()
    assert abs(float(widths.mean()) + 1.2) < 0.05
    assert abs(float(widths.std()) - 1.2) < 0.05


def test_heun_follows_a_curve_that_euler_leaves() -> None:
    path, exact = EUCLIDEAN["edm"]
    assert isinstance(path, Derived)
    steps, errors = 24, []
    start = path.prior((500, 1), rng=rng()).double()
    # The exact solution of the ordinary differential equation for normal data scales every value alike.
    sigma = path.config.sigma_max  # type: ignore[attr-defined]
    truth = MEAN + (start - MEAN) * STD / (STD**2 + sigma**2) ** 0.5
    for order in (1, 2):
        value = start
        for step in range(steps):
            now, later = (torch.full((500,), k / steps, dtype=torch.float64) for k in (step, step + 1))
            slope = path.derivative(value, exact(path, value, now), now)  # type: ignore[arg-type]
            if order == 2 and step + 1 < steps:
                trial = path.move(value, slope, now, later)
                slope = (slope + path.derivative(trial, exact(path, trial, later), later)) / 2  # type: ignore[arg-type]
            value = path.move(value, slope, now, later)
        errors.append(float((value - truth).abs().mean()))
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize("code", [AnalogBits(), OneHot(2.0)])
def test_a_code_is_nearest_to_its_element(code: AnalogBits | OneHot) -> None:
    species = torch.arange(1, 119)[None]
    values = code.encode(species)
    assert values.shape == (1, 118, code.width)
    noisy = values + 0.3 * torch.randn(values.shape, generator=rng()).clamp(-2, 2)
    assert torch.equal(code.logits(noisy).argmax(-1), species)
    assert len(torch.unique(values[0], dim=0)) == 118


@pytest.mark.parametrize(
    ("now", "then", "annealing", "step"), [(0.0, 0.1, 5, 0.1), (0.5, 0.6, 5, 0.35), (0.9, 1.0, 5, 0.1)]
)
def test_annealed_steps_never_overshoot(now: float, then: float, annealing: float, step: float) -> None:
    here, there = torch.tensor([now, then], dtype=torch.float64)
    assert float(annealed(here, there, annealing)) == pytest.approx(step)


def test_without_mean_is_what_torus_paths_take_out() -> None:
    clean = torch.rand(8, 4, 3, generator=rng())
    shifted = KineticPath(KineticConfig()).corrupt(clean + 0.3, torch.full((8,), 0.5), rng=rng(1))
    given = KineticPath(KineticConfig()).corrupt(clean, torch.full((8,), 0.5), rng=rng(1))
    torch.testing.assert_close(without_mean(shifted.target), given.target, atol=1e-5, rtol=0)
