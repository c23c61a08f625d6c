"""Diffusion as paths: wrapped normal coordinates (DiffCSP, EquiCSP, MatterGen), and Euclidean values, variance-preserving
(DDPM, DDIM) or -exploding, by random or deterministic steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from euhedral.crystal.geometry import wrap
from euhedral.noise.base import Corrupted, expand_time
from euhedral.noise.gaussian import (
    VarianceExploding,
    VarianceExplodingConfig,
    VariancePreserving,
    VariancePreservingConfig,
    noise_within,
)
from euhedral.noise.path import Path, normal_like
from euhedral.noise.torus import UNIFORM, without_mean
from euhedral.noise.wrapped_normal import WrappedNormal, WrappedNormalConfig


@dataclass(frozen=True, kw_only=True)
class WrappedNormalPathConfig:
    """Wrapped-normal diffusion of coordinates.

    Attributes:
        widths: of the noise.
        corrector: step of the Langevin corrector in units of sigma / sigma_min squared (DiffCSP, Algorithm 2); 0: none.
        corrector_ratio: signal-to-noise ratio of a Langevin corrector whose step follows from the norms of noise and
            score (Song et al., ICLR 2021, Algorithm 4; MatterGen); 0: none. It stands over `corrector`.
        narrowed: widths are divided by the cube root of the atom count, so that they mean the same distance in cells of
            all sizes (MatterGen, Appendix A.4).
    """

    widths: WrappedNormalConfig = field(default_factory=WrappedNormalConfig)
    corrector: float = 1e-5
    corrector_ratio: float = 0.0
    narrowed: bool = False
    kind: Literal["wrapped_normal"] = "wrapped_normal"


class WrappedNormalPath(Path):
    """See `noise.wrapped_normal`; the target is the scaled score without its mean over the atoms.

    The score of crystals whose origin is free has no mean, so that this changes the noise of the gradient and not where
    it leads.
    """

    aims = True

    def __init__(self, config: WrappedNormalPathConfig) -> None:
        self.config = config
        self.process = WrappedNormal(config.widths)
        self._processes: dict[int, WrappedNormal] = {}
        self.corrected = config.corrector > 0 or config.corrector_ratio > 0

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Uniform coordinates."""
        return self.process.prior(shape, rng=rng, device=rng.device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """See the class; `start` is not used."""
        given = self.process_for(clean.shape[1]).corrupt(clean, t, rng=rng)
        return Corrupted(noisy=given.noisy, target=without_mean(given.target))

    def step(self, value: Tensor, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """The ancestral step."""
        process = self.process_for(value.shape[1])
        return process.reverse(value, process.score_from_target(guess, t), t, later, rng=rng)

    def correct(self, value: Tensor, guess: Tensor, t: Tensor, *, rng: torch.Generator | None) -> Tensor:
        """A step of Langevin dynamics."""
        process = self.process_for(value.shape[1])
        score = process.score_from_target(guess, t)
        if not self.config.corrector_ratio:
            return process.correct(value, score, t, step=self.config.corrector, rng=rng)
        return wrap(langevin(value, score, process.sigma(t), self.config.corrector_ratio, rng=rng))

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x = x_t + s² score (Tweedie's formula), which holds for widths well below the cell; never beyond what is uniform."""
        process = self.process_for(value.shape[1])
        reach = process.sigma(t).square() * process.scale(t)
        return value, expand_time(reach.clamp_max(UNIFORM), value)

    def process_for(self, count: int) -> WrappedNormal:
        """The process of crystals of an atom count."""
        if not self.config.narrowed:
            return self.process
        if count not in self._processes:
            widths, size = self.config.widths, count ** (1 / 3)
            narrowed = replace(widths, sigma_min=widths.sigma_min / size, sigma_max=widths.sigma_max / size)
            self._processes[count] = WrappedNormal(narrowed)
        return self._processes[count]


class EuclideanDiffusionPath(Path):
    """Diffusion of Euclidean values by a process of `noise.gaussian`; the network predicts the noise.

    Attributes:
        config: tells whether steps are `deterministic`, and the `corrector_ratio`.
        process: of the noise.
    """

    aims = True
    config: VariancePreservingPathConfig | VarianceExplodingPathConfig
    process: VariancePreserving | VarianceExploding

    @abstractmethod
    def width(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise in a value at time t, (crystals,), float64."""

    def prior(self, shape: tuple[int, ...], *, rng: torch.Generator) -> Tensor:
        """Normal values of the largest width."""
        return self.process.prior(shape, rng=rng, device=rng.device)

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """See the class; `start` is not used."""
        return self.process.corrupt(clean, t, rng=rng)

    def step(self, value: Tensor, guess: Tensor, t: Tensor, later: Tensor, *, rng: torch.Generator) -> Tensor:
        """The ancestral step, or that without randomness."""
        noise = self._noise(value, guess, t)
        if self.config.deterministic:
            return self.process.deterministic(value, noise, t, later)
        return self.process.reverse(value, noise, t, later, rng=rng)

    def correct(self, value: Tensor, guess: Tensor, t: Tensor, *, rng: torch.Generator | None) -> Tensor:
        """A step of Langevin dynamics."""
        if not self.corrected:
            return value
        score = self.process.score_from_noise(self._noise(value, guess, t), t)
        return langevin(value, score, self.width(t), self.config.corrector_ratio, rng=rng)

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The clean value is linear in the noise."""
        nothing, one = torch.zeros_like(value), torch.ones_like(value)
        return self.process.clean_from_noise(value, nothing, t), self.process.clean_from_noise(nothing, one, t)

    def within(self, value: Tensor, guess: Tensor, t: Tensor, bounded: Callable[[Tensor], Tensor]) -> Tensor:
        """See `Path`."""
        return noise_within(self.process, value, guess, t, bounded).to(guess.dtype)

    def _noise(self, value: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        return guess


@dataclass(frozen=True, kw_only=True)
class VariancePreservingPathConfig:
    """DDPM or DDIM of Euclidean values.

    Attributes:
        schedule: of the noise.
        target: what the network predicts, the noise or the clean value.
        deterministic: steps without randomness (DDIM).
        corrector_ratio: see `WrappedNormalPathConfig`; 0: none.
    """

    schedule: VariancePreservingConfig = field(default_factory=VariancePreservingConfig)
    target: Literal["noise", "clean"] = "noise"
    deterministic: bool = False
    corrector_ratio: float = 0.0
    kind: Literal["variance_preserving"] = "variance_preserving"


class VariancePreservingPath(EuclideanDiffusionPath):
    """The network predicts the noise or the clean value."""

    config: VariancePreservingPathConfig
    process: VariancePreserving

    def __init__(self, config: VariancePreservingPathConfig) -> None:
        self.config = config
        self.process = VariancePreserving(config.schedule)
        self.corrected = config.corrector_ratio > 0

    def width(self, t: Tensor) -> Tensor:
        """sqrt(1 - a)."""
        return (1 - self.process.signal(t)).clamp_min(0).sqrt()

    def corrupt(self, clean: Tensor, t: Tensor, *, rng: torch.Generator, start: Tensor | None = None) -> Corrupted:
        """See the class; `start` is not used."""
        given = super().corrupt(clean, t, rng=rng)
        return given if self.config.target == "noise" else Corrupted(noisy=given.noisy, target=clean)

    def aim(self, value: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction itself, or x = (x_t - sqrt(1 - a) e) / sqrt(a)."""
        if self.config.target == "clean":
            return torch.zeros_like(value), torch.ones_like(value)
        return super().aim(value, t)

    def within(self, value: Tensor, guess: Tensor, t: Tensor, bounded: Callable[[Tensor], Tensor]) -> Tensor:
        """See `Path`."""
        return bounded(guess) if self.config.target == "clean" else super().within(value, guess, t, bounded)

    def _noise(self, value: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        return guess if self.config.target == "noise" else self.process.noise_from_clean(value, guess, t)


@dataclass(frozen=True, kw_only=True)
class VarianceExplodingPathConfig:
    """Score matching of Euclidean values under noise of many widths (Song et al., ICLR 2021).

    Attributes:
        widths: of the noise.
        deterministic: steps of the probability-flow equation.
        corrector_ratio: see `WrappedNormalPathConfig`; 0: none.
    """

    widths: VarianceExplodingConfig = field(default_factory=VarianceExplodingConfig)
    deterministic: bool = False
    corrector_ratio: float = 0.0
    kind: Literal["variance_exploding"] = "variance_exploding"


class VarianceExplodingPath(EuclideanDiffusionPath):
    """The network reads values over the root mean square that they have."""

    explodes = True
    config: VarianceExplodingPathConfig
    process: VarianceExploding

    def __init__(self, config: VarianceExplodingPathConfig) -> None:
        self.config = config
        self.process = VarianceExploding(config.widths)
        self.corrected = config.corrector_ratio > 0

    def width(self, t: Tensor) -> Tensor:
        """That of the process."""
        return self.process.sigma(t)

    def shown(self, value: Tensor, t: Tensor) -> Tensor:
        """x_t / sqrt(s^2 + 1), clean values being of order one."""
        return value / expand_time((self.width(t).square() + 1).sqrt(), value)


def langevin(value: Tensor, score: Tensor, width: Tensor, ratio: float, *, rng: torch.Generator | None) -> Tensor:
    """x + e s + sqrt(2 e) z with e = 2 (ratio |z| / |s|)² (Song et al., ICLR 2021, Algorithm 4).

    The norm of the score of a noise of a width is, on average over the noise, that of z over the width. This average is
    taken in place of the norms of single draws, which for six numbers of a lattice are now and then near nothing; without
    a generator, z is left out.

    Args:
        value: x, (crystals, ...).
        score: s, of the same shape.
        width: of the noise in each crystal, (crystals,).
        ratio: signal-to-noise ratio.
        rng: on any device.
    """
    length = expand_time(2 * (ratio * width).square(), value)
    moved = value + length * score
    return moved if rng is None else moved + (2 * length).sqrt() * normal_like(value, rng)
